package copies

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/runtime/estate"
	"github.com/drrun/drrun/runtime/journal"
	"github.com/drrun/drrun/runtime/store"
)

// apply writes what was planned. A state that a crash leaves half written is
// marked: nothing of it acts, and the next recovery begins anew.
func (r *recovering) apply(ctx context.Context) error {
	if r.Before != nil {
		if err := r.Before(ctx); err != nil {
			return err
		}
	}
	now := r.Clock.Now().UTC()
	if _, marked, err := Marked(ctx, r.Store); err != nil {
		return err
	} else if !marked {
		if err := SetMark(ctx, r.Store, Mark{Why: "a recovery of this state did not come to its end", At: now}); err != nil {
			return err
		}
	}
	for _, hash := range slices.Sorted(maps.Keys(r.blobs)) {
		key := journal.BlobPrefix + hash
		if _, _, err := r.Store.Txn(ctx, store.Txn{If: []store.Cmp{{Key: key}}, Then: []store.Op{{Key: key, Value: r.blobs[hash]}}}); err != nil {
			return err
		}
	}
	for _, id := range slices.Sorted(maps.Keys(r.runs)) {
		if err := r.writeRun(ctx, id); err != nil {
			return fmt.Errorf("cannot take run %s: %w", id, err)
		}
	}
	if r.estate != nil {
		if err := r.writeEstate(ctx); err != nil {
			return fmt.Errorf("cannot take the estate: %w", err)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(r.heads)) {
		if h := r.heads[id]; h.busy() {
			text := "recovered from a copy that was made while the run was under way: what it did after this record is not known here. Look at its steps and its machines before you resume it"
			if err := r.Note(ctx, r.Store, id, text, true, now); err != nil {
				return fmt.Errorf("cannot mark run %s: %w", id, err)
			}
		}
	}
	for _, id := range r.marks {
		text := "the state was recovered, and no agent that answered knew this run: it may be over, or have gone another way"
		if err := r.Note(ctx, r.Store, id, text, true, now); err != nil {
			return fmt.Errorf("cannot mark run %s: %w", id, err)
		}
	}
	return r.finish(ctx)
}

// finish writes what counts only when all the rest is there.
func (r *recovering) finish(ctx context.Context) error {
	claims, err := r.claims(ctx)
	if err != nil {
		return err
	}
	op, err := jsonOp(journal.ClaimsKey, claims)
	if err != nil {
		return err
	}
	ops := []store.Op{op, {Key: keyMark, Delete: true}}
	if r.fence > 0 {
		if op, err = jsonOp(journal.FenceKey, r.fence); err != nil {
			return err
		}
		ops = append(ops, op)
	}
	_, _, err = r.Store.Txn(ctx, store.Txn{Then: ops})
	return err
}

// claims gives every machine to the newest real run that has not ended; runs
// that only this state has come last.
func (r *recovering) claims(ctx context.Context) (map[string]string, error) {
	kept, err := heads(ctx, r.Store) // the newest first
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, atAgents := range []bool{true, false} {
		for _, h := range kept {
			if !h.claims() || r.known[h.ID] != atAgents {
				continue
			}
			for _, m := range h.Machines {
				if out[m] == "" {
					out[m] = h.ID
				}
			}
		}
	}
	return out, nil
}

// chunk is how many values one transaction writes.
const chunk = store.MaxOps - 8

// writeRun replaces a run. Its head goes first and comes last: a run without one
// is none.
func (r *recovering) writeRun(ctx context.Context, id string) error {
	kvs := r.runs[id]
	ops := []store.Op{{Key: journal.HeadPrefix + id, Delete: true}}
	flush := func() error {
		_, _, err := r.Store.Txn(ctx, store.Txn{Then: ops})
		ops = ops[:0]
		return err
	}
	add := func(op store.Op) error {
		if ops = append(ops, op); len(ops) < chunk {
			return nil
		}
		return flush()
	}
	for e, err := range r.Store.List(ctx, journal.Prefix(id)) {
		if err != nil {
			return err
		}
		if err := add(store.Op{Key: e.Key, Delete: true}); err != nil {
			return err
		}
	}
	if err := flush(); err != nil {
		return err
	}
	for _, e := range slices.Backward(kvs) { // a journal whose first record is missing is none either
		if err := add(store.Op{Key: e.Key, Value: e.Value}); err != nil {
			return err
		}
	}
	return flush()
}

// writeEstate replaces the estate. The records of hosts keep what only this
// state can know: their tokens, and that they have joined.
func (r *recovering) writeEstate(ctx context.Context) error {
	next := map[string][]byte{}
	for _, e := range r.estate {
		next[e.Key] = e.Value
	}
	var ops []store.Op
	for e, err := range r.Store.List(ctx, estate.Prefix) {
		if err != nil {
			return err
		}
		if strings.HasPrefix(e.Key, estate.HostPrefix) {
			v, err := estate.RecoveredHost(next[e.Key], e.Value)
			if err != nil {
				return err
			}
			next[e.Key] = v
		} else if next[e.Key] == nil {
			ops = append(ops, store.Op{Key: e.Key, Delete: true})
		}
	}
	if err := r.joined(ctx, next); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(next)) {
		ops = append(ops, store.Op{Key: key, Value: next[key]})
	}
	op, err := jsonOp(keySerial, r.serial)
	if err != nil {
		return err
	}
	ops = append(ops, op)
	for len(ops) > 0 {
		n := min(len(ops), chunk)
		if _, _, err := r.Store.Txn(ctx, store.Txn{Then: ops[:n]}); err != nil {
			return err
		}
		ops = ops[n:]
	}
	return nil
}

// joined notes which hosts are under this state's CA: those that answered; with
// the CA of before, all of the estate.
func (r *recovering) joined(ctx context.Context, next map[string][]byte) error {
	raw, err := r.current(ctx)
	if err != nil {
		return err
	}
	e, _, _, err := estate.AppliedIn(raw)
	if err != nil {
		return err
	}
	for _, h := range e.Hosts() {
		a := r.answers[h.Name]
		if r.NewCA && (a == nil || a.err != nil) {
			continue
		}
		key := estate.HostPrefix + h.Name
		if next[key], err = estate.JoinedHost(next[key], r.Clock.Now().UTC()); err != nil {
			return err
		}
	}
	return nil
}

// Settle gives hosts the copies of a state that was recovered, over whatever
// else they hold. It returns the hosts that could not be given theirs, and why.
func (k *Keeper) Settle(ctx context.Context, hosts []string) map[string]error {
	failed := map[string]error{}
	want, err := k.wanted(ctx)
	for _, name := range hosts {
		h := k.host(name)
		h.mu.Lock()
		if err == nil {
			h.known = false
			if _, berr := k.bring(ctx, name, h, want, false, true); berr != nil {
				failed[name] = berr
				k.o.Log.Warn("cannot copy the recovered state to a host", logkit.KeyHost, name, logkit.KeyError, berr)
			}
		} else {
			failed[name] = err
		}
		h.mu.Unlock()
	}
	return failed
}

// Places are where a recovery finds hosts that no estate names yet.
type Places struct {
	Estate string            `json:"estate"`
	NewCA  bool              `json:"new_ca,omitempty"` // this state began with a new CA
	Addrs  map[string]string `json:"addrs,omitempty"`  // by host
}

// ReadPlaces returns what an earlier recovery of this state was told.
func ReadPlaces(ctx context.Context, s store.Store) (Places, error) {
	p := Places{}
	err := getJSON(ctx, s, keyPlaces, &p)
	if p.Addrs == nil {
		p.Addrs = map[string]string{}
	}
	return p, err
}

// WritePlaces keeps them.
func WritePlaces(ctx context.Context, s store.Store, p Places) error {
	if len(p.Addrs) > 64 {
		return fault.Errorf(fault.Invalid, "a recovery is told of %d hosts, one of each site is enough", len(p.Addrs))
	}
	return putJSON(ctx, s, keyPlaces, p)
}
