package copies

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime/estate"
	"github.com/drrun/drrun/runtime/journal"
	"github.com/drrun/drrun/runtime/store"
)

// RecoverOptions are what a recovery works with.
type RecoverOptions struct {
	Store  store.Store
	Caller command.Caller
	Clock  clock.Clock
	Log    *slog.Logger
	// Hosts are asked first; those of the estate that is found come after them.
	Hosts []string
	// Learn is told where the hosts of the estate that was found listen.
	Learn func(addrs map[string]string)
	// NewCA: hosts that have not joined under it do not count as joined.
	NewCA  bool
	Estate string // wanted; "": any
	DryRun bool
	// Before is called once, before anything is changed.
	Before func(ctx context.Context) error
	// Note adds a remark to the journal of a run; see runtime.NoteRun.
	Note func(ctx context.Context, s store.Store, id, text string, lost bool, now time.Time) error
}

// Report is what a recovery found where, and what it took.
type Report struct {
	Estate  string `json:"estate"`
	DryRun  bool   `json:"dry_run,omitempty"`
	Changed bool   `json:"changed"` // this state was, or in a dry run would be
	// Hosts are those that were asked.
	Hosts []HostRow `json:"hosts"`
	Rows  []Row     `json:"rows"`
	// Missing says what nobody has, and what could not be done.
	Missing []string `json:"missing"`
}

// HostRow is one host that was asked.
type HostRow struct {
	Host  string      `json:"host"`
	Site  string      `json:"site,omitempty"`
	Items int         `json:"items"`
	Fence ident.Fence `json:"fence"`
	Error string      `json:"error,omitempty"` // why nothing is known of it
}

// Row is one thing: where it was found, and what became of it.
type Row struct {
	What   string            `json:"what"`
	Found  map[string]string `json:"found"` // by host
	Here   string            `json:"here"`  // before
	Taken  string            `json:"taken"`
	Remark string            `json:"remark,omitempty"`
}

// answer is what one host said.
type answer struct {
	list   command.CatalogueListResult
	status command.AgentStatus
	err    error
}

// recovering is a recovery under way.
type recovering struct {
	RecoverOptions
	here    *local
	answers map[string]*answer
	rep     *Report

	estate []kv // to be written; nil: what is here stays
	serial serials
	runs   map[string][]kv
	heads  map[string]head   // of runs
	blobs  map[string][]byte // by hash
	fence  ident.Fence
	known  map[string]bool // runs that agents know
	marks  []string        // runs that only this state has
}

// Recover takes the newest that the agents hold into this state: the estate,
// runs, and the fencing number. One agent that answers is enough. It changes
// nothing that is as new here, and run again it has nothing to do.
func Recover(ctx context.Context, o RecoverOptions) (*Report, error) {
	here, err := readLocal(ctx, o.Store)
	if err != nil {
		return nil, err
	}
	r := &recovering{RecoverOptions: o, here: here, answers: map[string]*answer{}, runs: map[string][]kv{}, heads: map[string]head{},
		blobs: map[string][]byte{}, known: map[string]bool{}, rep: &Report{DryRun: o.DryRun, Hosts: []HostRow{}, Rows: []Row{}, Missing: []string{}}}
	if err := r.plan(ctx); err != nil {
		return r.rep, err
	}
	_, marked, err := Marked(ctx, o.Store)
	if err != nil {
		return r.rep, err
	}
	r.rep.Changed = r.estate != nil || len(r.runs) > 0 || r.fence > 0 || marked
	if !r.rep.Changed || o.DryRun {
		return r.rep, nil
	}
	return r.rep, r.apply(ctx)
}

// plan asks the agents and finds out what is to be taken.
func (r *recovering) plan(ctx context.Context) error {
	r.ask(ctx, r.Hosts)
	if err := r.planEstate(ctx); err != nil {
		return err
	}
	if more := r.otherHosts(ctx); len(more) > 0 {
		r.ask(ctx, more)
		r.rep.Rows, r.estate = nil, nil
		if err := r.planEstate(ctx); err != nil {
			return err
		}
	}
	r.listHosts()
	if len(r.answering()) == 0 {
		return fault.Errorf(fault.Unreachable, "no agent answers: %s", r.whyNot()).
			WithHint("start drrun-agent on a host that was in the estate; one is enough")
	}
	if raw, err := r.current(ctx); err != nil {
		return err
	} else if raw == nil {
		return fault.Errorf(fault.Refused, "no agent that answers has a copy of the estate").
			WithHint("ask a host of the other site, or drrun state restore FILE, or apply the estate's file anew")
	}
	if err := r.planRuns(ctx); err != nil {
		return err
	}
	r.planFence()
	r.listMachines(ctx)
	return nil
}

// ask asks hosts that were not asked before, all at once.
func (r *recovering) ask(ctx context.Context, hosts []string) {
	var wg sync.WaitGroup
	for _, h := range hosts {
		if r.answers[h] != nil {
			continue
		}
		a := &answer{}
		r.answers[h] = a
		wg.Go(func() {
			a.err = within(ctx, func(ctx context.Context) (err error) {
				if a.list, err = command.CatalogueList.Call(ctx, r.Caller, h, command.CatalogueListRequest{}); err != nil {
					return err
				}
				a.status, err = command.Status.Call(ctx, r.Caller, h, command.StatusRequest{})
				return err
			})
		})
	}
	wg.Wait()
}

func (r *recovering) answering() []string {
	var out []string
	for _, h := range slices.Sorted(maps.Keys(r.answers)) {
		if r.answers[h].err == nil {
			out = append(out, h)
		}
	}
	return out
}

func (r *recovering) whyNot() string {
	var out []string
	for _, h := range slices.Sorted(maps.Keys(r.answers)) {
		out = append(out, h+": "+r.answers[h].err.Error())
	}
	return cmp.Or(strings.Join(out, "; "), "no host is known")
}

// listHosts writes down who was asked.
func (r *recovering) listHosts() {
	for _, h := range slices.Sorted(maps.Keys(r.answers)) {
		a := r.answers[h]
		row := HostRow{Host: h, Site: a.status.Site, Items: len(a.list.Items), Fence: a.list.Fence}
		if a.err != nil {
			row.Error = a.err.Error()
			r.rep.Missing = append(r.rep.Missing, "host "+h+" was not asked: "+row.Error)
		}
		for _, it := range a.list.Items {
			if it.Fault != "" {
				r.rep.Missing = append(r.rep.Missing, fmt.Sprintf("item %s at %s: %s", it.Name, h, it.Fault))
			}
		}
		r.rep.Hosts = append(r.rep.Hosts, row)
	}
}

// candidate is an item at a host.
type candidate struct {
	host string
	item command.CatalogueItem
}

// candidates are the items of one name, the newest first; of one version that
// of the higher fencing number.
func (r *recovering) candidates(name string) []candidate {
	var out []candidate
	for _, h := range r.answering() {
		for _, it := range r.answers[h].list.Items {
			if it.Name == name && it.Fault == "" {
				out = append(out, candidate{h, it})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.item.Version, a.item.Version), cmp.Compare(b.item.Fence, a.item.Fence))
	})
	return out
}

// fetch reads an item whole.
func (r *recovering) fetch(ctx context.Context, c candidate) ([]byte, error) {
	var out []byte
	for {
		var res command.CatalogueGetResult
		err := within(ctx, func(ctx context.Context) (err error) {
			res, err = command.CatalogueGet.Call(ctx, r.Caller, c.host, command.CatalogueGetRequest{Name: c.item.Name, Offset: int64(len(out))})
			return err
		})
		if err != nil {
			return nil, err
		}
		out = append(out, res.Data...)
		switch {
		case !bytes.Equal(res.Item.SHA256, c.item.SHA256):
			return nil, fault.Errorf(fault.Conflict, "item %s at %s changed while it was read: another runtime is at work", c.item.Name, c.host)
		case int64(len(out)) >= c.item.Size:
			if sum := sha256.Sum256(out); !bytes.Equal(sum[:], c.item.SHA256) {
				return nil, fault.Errorf(fault.Corrupt, "item %s of %s arrived damaged", c.item.Name, c.host)
			}
			return out, nil
		case len(res.Data) == 0:
			return nil, fault.Errorf(fault.Corrupt, "item %s at %s ends early", c.item.Name, c.host)
		}
	}
}

// pick reads the newest of an item's candidates that can be read, and says what
// is wrong with newer ones.
func (r *recovering) pick(ctx context.Context, all []candidate, decode func(candidate, []byte) error) (candidate, string, error) {
	var bad []string
	var last error
	for _, c := range all {
		raw, err := r.fetch(ctx, c)
		if err == nil {
			err = decode(c, raw)
		}
		if err == nil {
			return c, strings.Join(bad, "; "), nil
		}
		if fault.Is(err, fault.Refused) { // of a newer drrun: an older copy would be a step back
			return candidate{}, "", err
		}
		last = err
		bad = append(bad, fmt.Sprintf("that of %s cannot be used: %v", c.host, err))
	}
	return candidate{}, strings.Join(bad, "; "), last
}

// planEstate decides on the estate.
func (r *recovering) planEstate(ctx context.Context) error {
	all := r.candidates(itemEstate)
	row := Row{What: "estate", Found: map[string]string{}, Here: "-"}
	if r.here.estate.Serial > 0 {
		row.Here = fmt.Sprintf("state %d", r.here.estate.Serial)
	}
	for _, c := range all {
		row.Found[c.host] = fmt.Sprintf("state %d", c.item.Version)
	}
	defer func() { r.rep.Rows = append([]Row{row}, r.rep.Rows...) }()
	if len(all) == 0 || r.here.behind(all[0].item, "") == "" {
		row.Taken = "as it is here"
		return r.nameEstate(ctx, nil)
	}
	var kvs []kv
	got, bad, err := r.pick(ctx, all, func(_ candidate, raw []byte) (err error) {
		kvs, err = decodeEstate(raw)
		return err
	})
	if err != nil {
		row.Taken, row.Remark = "-", err.Error()
		return err
	}
	row.Remark = bad
	if r.here.behind(got.item, "") == "" {
		row.Taken = "as it is here"
		return r.nameEstate(ctx, nil)
	}
	if r.here.estate.Serial >= got.item.Version {
		row.Remark = strings.TrimPrefix(row.Remark+"; what was applied here was never at the agents", "; ")
	}
	row.Taken = fmt.Sprintf("state %d of %s", got.item.Version, got.host)
	r.estate, r.serial = kvs, serials{Serial: got.item.Version, Log: []string{got.item.Mark}}
	return r.nameEstate(ctx, &row)
}

// nameEstate reads the name of the estate that will be in force.
func (r *recovering) nameEstate(ctx context.Context, row *Row) error {
	raw, err := r.current(ctx)
	if err != nil || raw == nil {
		return err
	}
	e, rev, _, err := estate.AppliedIn(raw)
	if err != nil {
		return err
	}
	r.rep.Estate = e.Name
	if row != nil {
		row.Taken += fmt.Sprintf(" (revision %d)", rev)
	}
	if r.Estate != "" && e.Name != r.Estate {
		return fault.Errorf(fault.Refused, "the agents hold estate %q, not %q", e.Name, r.Estate)
	}
	return nil
}

// current is the value of estate.CurrentKey that will be in force; nil: none.
func (r *recovering) current(ctx context.Context) ([]byte, error) {
	for _, e := range r.estate {
		if e.Key == estate.CurrentKey {
			return e.Value, nil
		}
	}
	e, err := r.Store.Get(ctx, estate.CurrentKey)
	if fault.Is(err, fault.NotFound) {
		return nil, nil
	}
	return e.Value, err
}

// otherHosts are hosts of the estate that was found which were not asked yet.
func (r *recovering) otherHosts(ctx context.Context) []string {
	raw, err := r.current(ctx)
	if err != nil || raw == nil {
		return nil
	}
	e, _, _, err := estate.AppliedIn(raw)
	if err != nil {
		return nil
	}
	addrs := map[string]string{}
	var more []string
	for _, h := range e.Hosts() {
		addrs[h.Name] = h.AddrPort()
		if r.answers[h.Name] == nil {
			more = append(more, h.Name)
		}
	}
	if r.Learn != nil {
		r.Learn(addrs)
	}
	return more
}

// planRuns decides on every run.
func (r *recovering) planRuns(ctx context.Context) error {
	for _, h := range r.answering() {
		for _, it := range r.answers[h].list.Items {
			if id, isRun := strings.CutPrefix(it.Name, itemRun); isRun && it.Fault == "" {
				r.known[id] = true
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(r.known)) {
		if err := r.planRun(ctx, id); err != nil {
			return err
		}
	}
	kept, err := heads(ctx, r.Store)
	if err != nil {
		return err
	}
	for _, h := range kept {
		if r.known[h.ID] {
			continue
		}
		row := Row{What: "run " + h.ID, Found: map[string]string{}, Here: string(h.Status), Taken: "as it is here", Remark: "no agent that answers knows it"}
		if !h.ended() {
			r.marks = append(r.marks, h.ID)
		}
		r.rep.Rows = append(r.rep.Rows, row)
	}
	return nil
}

func (r *recovering) planRun(ctx context.Context, id string) error {
	all := r.candidates(itemRun + id)
	row := Row{What: "run " + id, Found: map[string]string{}, Here: "-"}
	for _, c := range all {
		row.Found[c.host] = quantity.Count(c.item.Version, "record")
	}
	seq, _, err := lastRecord(ctx, r.Store, id)
	if err != nil {
		return err
	}
	hasHead, err := r.Store.Get(ctx, journal.HeadPrefix+id)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	if err == nil {
		row.Here = quantity.Count(seq, "record")
	}
	whole := hasHead.Key != "" && seq > 0
	if whole && r.here.behind(all[0].item, "") == "" {
		row.Taken = "as it is here"
		r.rep.Rows = append(r.rep.Rows, row)
		return nil
	}
	var kvs []kv
	var h head
	var records []journal.Record
	got, bad, err := r.pick(ctx, all, func(c candidate, raw []byte) (err error) {
		h, kvs, records, err = decodeRun(c.item, raw)
		return err
	})
	if err != nil {
		if fault.Is(err, fault.Refused) {
			return err
		}
		row.Taken, row.Remark = "-", bad
		r.rep.Missing = append(r.rep.Missing, "run "+id+": "+bad)
		r.rep.Rows = append(r.rep.Rows, row)
		return nil
	}
	row.Remark = bad
	if whole && r.here.behind(got.item, "") == "" {
		row.Taken = "as it is here"
		r.rep.Rows = append(r.rep.Rows, row)
		return nil
	}
	row.Taken = quantity.Count(got.item.Version, "record") + " of " + got.host
	remarks := []string{string(h.Status)}
	if h.busy() {
		remarks = append(remarks, "it was under way: its last records are lost")
	}
	if seq >= got.item.Version {
		remarks = append(remarks, "what it did here was never at the agents")
	}
	row.Remark = strings.TrimPrefix(row.Remark+"; "+strings.Join(remarks, "; "), "; ")
	r.runs[id], r.heads[id] = kvs, h
	r.rep.Rows = append(r.rep.Rows, row)
	return r.planBlobs(ctx, id, records[0])
}

// planBlobs fetches what a run was started with.
func (r *recovering) planBlobs(ctx context.Context, id string, first journal.Record) error {
	hashes, err := sourcesOf(first)
	if err != nil {
		return err
	}
	for _, hash := range hashes {
		if r.blobs[hash] != nil {
			continue
		}
		if _, err := r.Store.Get(ctx, journal.BlobPrefix+hash); err == nil {
			continue
		}
		var data []byte
		_, bad, err := r.pick(ctx, r.candidates(itemBlob+hash), func(_ candidate, raw []byte) error {
			if sum := sha256.Sum256(raw); fmt.Sprintf("%x", sum) != hash {
				return fault.Errorf(fault.Corrupt, "its content is not the one it names")
			}
			data = raw
			return nil
		})
		if data == nil {
			if err == nil {
				bad = "no agent that answers has it"
			}
			r.rep.Missing = append(r.rep.Missing, fmt.Sprintf("run %s: a source it was started with: %s", id, bad))
			continue
		}
		r.blobs[hash] = data
	}
	return nil
}

// planFence decides on the fencing number: whatever is taken gets one above all
// that were seen, so that a runtime which still works with it is refused.
func (r *recovering) planFence() {
	row := Row{What: "fencing number", Found: map[string]string{}, Here: fmt.Sprint(r.here.fence), Taken: "as it is here"}
	seen := r.here.fence
	for _, h := range r.answering() {
		f := r.answers[h].list.Fence
		row.Found[h] = fmt.Sprint(f)
		seen = max(seen, f)
	}
	if seen > r.here.fence || r.estate != nil || len(r.runs) > 0 {
		r.fence = seen + 1
		row.Taken, row.Remark = fmt.Sprint(r.fence), "above all that were seen"
	}
	r.rep.Rows = append(r.rep.Rows, row)
}

// listMachines shows what the agents say of machines: their records are in
// force, whatever a state says.
func (r *recovering) listMachines(ctx context.Context) {
	type seen struct {
		a     recovery.Authority
		found map[string]string
		live  string
	}
	all := map[string]*seen{}
	for _, h := range r.answering() {
		for _, m := range r.answers[h].status.Machines {
			s := all[m.Machine]
			if s == nil {
				s = &seen{found: map[string]string{}}
				all[m.Machine] = s
			}
			s.found[h] = fmt.Sprintf("epoch %d, %s", m.Authority.Epoch, m.Authority.Active)
			if m.Authority.Epoch > s.a.Epoch {
				s.a = m.Authority
			}
			s.live = cmp.Or(s.live, m.LiveRun)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		s := all[name]
		row := Row{What: "machine " + name, Found: s.found, Here: "-", Taken: fmt.Sprintf("epoch %d, active at %s", s.a.Epoch, s.a.Active)}
		if run := cmp.Or(s.live, s.a.Run); run != "" && !r.known[run] {
			if seq, _, err := lastRecord(ctx, r.Store, run); err == nil && seq == 0 {
				row.Remark = "run " + run + " moved it, and nobody has its journal"
				r.rep.Missing = append(r.rep.Missing, "machine "+name+": "+row.Remark)
			}
		}
		r.rep.Rows = append(r.rep.Rows, row)
	}
}
