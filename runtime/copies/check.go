package copies

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/runtime/journal"
	"github.com/drrun/drrun/runtime/store"
)

// Mark says that this state has to be recovered before it may act.
type Mark struct {
	Why string    `json:"why"`
	At  time.Time `json:"at"`
}

// SetMark marks a state: no real run starts or goes on before it is recovered.
func SetMark(ctx context.Context, s store.Store, m Mark) error { return putJSON(ctx, s, keyMark, m) }

// Marked returns the mark; false: there is none.
func Marked(ctx context.Context, s store.Store) (Mark, bool, error) {
	var m Mark
	err := getJSON(ctx, s, keyMark, &m)
	return m, m.Why != "", err
}

// local is what this state has, for a comparison with what an agent holds.
type local struct {
	ctx   context.Context
	store store.Store

	fence  ident.Fence
	estate serials
}

func readLocal(ctx context.Context, s store.Store) (*local, error) {
	l := &local{ctx: ctx, store: s}
	var err error
	if l.fence, err = fenceOf(ctx, s); err != nil {
		return nil, err
	}
	if err := getJSON(ctx, s, keySerial, &l.estate); err != nil {
		return nil, err
	}
	return l, nil
}

// behind says in what this state is older than an agent's item, or of another
// history; "": in nothing. at names the agent.
func (l *local) behind(it command.CatalogueItem, at string) string {
	if it.Fault != "" {
		return ""
	}
	if at != "" {
		at = " at " + at
	}
	switch id, isRun := strings.CutPrefix(it.Name, itemRun); {
	case it.Name == itemEstate:
		hash := l.estate.hashOf(it.Version)
		switch {
		case it.Version > l.estate.Serial:
			return fmt.Sprintf("the estate has state %d%s, here it has %d", it.Version, at, l.estate.Serial)
		case hash != "" && hash != it.Mark:
			return fmt.Sprintf("state %d of the estate is another one%s", it.Version, at)
		}
	case isRun:
		return l.runBehind(id, it, at)
	}
	return ""
}

func (l *local) runBehind(id string, it command.CatalogueItem, at string) string {
	e, err := l.store.Get(l.ctx, journal.Key(id, it.Version))
	if err == nil {
		if markOf(e.Value) != it.Mark {
			return fmt.Sprintf("run %s went another way%s", id, at)
		}
		return ""
	}
	if !fault.Is(err, fault.NotFound) {
		return fmt.Sprintf("run %s cannot be read here: %v", id, err)
	}
	seq, _, err := lastRecord(l.ctx, l.store, id)
	switch {
	case err != nil:
		return fmt.Sprintf("run %s cannot be read here: %v", id, err)
	case seq == 0:
		if _, err := l.store.Get(l.ctx, journal.DroppedPrefix+id); err == nil {
			return "" // it was here, and was dropped as the oldest
		}
		return fmt.Sprintf("run %s is%s and not here", id, at)
	}
	return fmt.Sprintf("run %s has %d records%s, here it has %d", id, it.Version, at, seq)
}

// compare lists in what this state is older than an agent's catalogue.
func (l *local) compare(host string, res command.CatalogueListResult) []string {
	var out []string
	if res.Fence > l.fence {
		out = append(out, fmt.Sprintf("fencing number %d was seen at %s, here the highest is %d", res.Fence, host, l.fence))
	}
	for _, it := range res.Items {
		if why := l.behind(it, host); why != "" {
			out = append(out, why)
		}
	}
	return out
}

func errBehind(why []string) error {
	more := ""
	if len(why) > 3 {
		why, more = why[:3], fmt.Sprintf(" and %d more", len(why)-3)
	}
	return fault.Errorf(fault.Refused, "this state is older than what agents hold: %s%s", strings.Join(why, "; "), more).
		WithHint("drrun recover takes the newer one; nothing was changed")
}

// checkWithin is how long an agent is waited for: one that does not answer
// cannot say no.
const checkWithin = 4 * time.Second

// Check refuses where an agent that answers holds something newer than this
// state, or where the state was restored and not recovered since. It is the
// engine's guard.
func (k *Keeper) Check(ctx context.Context) error {
	m, marked, err := Marked(ctx, k.o.Store)
	if err != nil {
		return err
	}
	if marked {
		return fault.Errorf(fault.Refused, "%s, and what happened since is only at the agents", m.Why).
			WithHint("drrun recover takes it from there; nothing was changed")
	}
	names, err := k.o.Hosts(ctx)
	if err != nil {
		return err
	}
	lists := make([]*command.CatalogueListResult, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, checkWithin)
			defer cancel()
			if l, err := command.CatalogueList.Call(ctx, k.o.Caller, name, command.CatalogueListRequest{}); err == nil {
				lists[i] = &l
			}
		})
	}
	wg.Wait()
	here, err := readLocal(ctx, k.o.Store) // after the lists: it only grows
	if err != nil {
		return err
	}
	var why []string
	for i, name := range names {
		if lists[i] != nil {
			why = append(why, here.compare(name, *lists[i])...)
		}
	}
	if len(why) > 0 {
		return errBehind(why)
	}
	return nil
}

// Behind says how a host's catalogue differs from this state; "": not at all,
// or nobody can say.
func (k *Keeper) Behind(ctx context.Context, host string) string {
	ctx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	want, err := k.wanted(ctx)
	if err != nil {
		return ""
	}
	res, err := command.CatalogueList.Call(ctx, k.o.Caller, host, command.CatalogueListRequest{})
	if err != nil {
		if fault.Is(err, fault.Unreachable) {
			return ""
		}
		return "keeps no copy of this state: " + err.Error()
	}
	here, err := readLocal(ctx, k.o.Store)
	if err != nil {
		return ""
	}
	if newer := here.compare(host, res); len(newer) > 0 {
		return "holds something newer than this state: drrun recover (" + strings.Join(newer, "; ") + ")"
	}
	var lacks []string
	for i := range want {
		w := &want[i]
		j := slices.IndexFunc(res.Items, func(it command.CatalogueItem) bool { return it.Name == w.Name })
		if w.busy || strings.HasPrefix(w.Name, itemBlob) || j >= 0 && w.has(res.Items[j]) {
			continue
		}
		lacks = append(lacks, w.Name)
	}
	switch {
	case len(lacks) == 0:
		return ""
	case len(lacks) > 3:
		return fmt.Sprintf("its copy of this state is behind: %s and %d more", strings.Join(lacks[:3], ", "), len(lacks)-3)
	}
	return "its copy of this state is behind: " + strings.Join(lacks, ", ")
}
