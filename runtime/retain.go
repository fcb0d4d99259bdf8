package runtime

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/runtime/journal"
	"github.com/drrun/drrun/runtime/state"
	"github.com/drrun/drrun/runtime/store"
)

// KeepRuns is how many ended runs an engine keeps unless told otherwise. Runs
// that have not ended stay, however old.
const KeepRuns = 1000

// KeepDropped is how many names of dropped runs are kept: an agent that was away
// may still have a copy of one, which says of a state without that name that it
// missed the run.
const KeepDropped = 20 * KeepRuns

// keyDropping + run names a run that is being dropped: it is in no list any
// more, and what is left of it goes also when a crash came between.
const keyDropping = "dropped/"

// dropped are the sources that a dropped run was started with.
type dropped struct {
	Blobs []string `json:"blobs"`
}

// gone is what stays of a dropped run, under journal.DroppedPrefix and its name.
type gone struct {
	At time.Time `json:"at"` // when it was dropped
}

// retain drops the oldest ended runs beyond the number that is kept, some at a
// time. Callers hold e.births: no other run gets its sources meanwhile.
func (e *Engine) retain(ctx context.Context) error {
	heads, err := e.heads(ctx)
	if err != nil {
		return err
	}
	var ended []string
	for _, h := range heads {
		if h.Status.Ended() {
			ended = append(ended, h.ID)
		}
	}
	if over := len(ended) - e.keepRuns; over > e.keepRuns/10 {
		for _, id := range ended[:over] {
			if err := e.hide(ctx, id); err != nil {
				return fmt.Errorf("cannot drop run %s: %w", id, err)
			}
		}
	}
	return e.sweep(ctx)
}

// hide takes a run out of the list and notes that it is to be dropped.
func (e *Engine) hide(ctx context.Context, id string) error {
	blobs, err := e.blobsOf(ctx, id)
	if err != nil {
		return err
	}
	op, err := jsonOp(keyDropping+id, dropped{Blobs: blobs})
	if err != nil {
		return err
	}
	name, err := jsonOp(journal.DroppedPrefix+id, gone{At: e.now().UTC()})
	if err != nil {
		return err
	}
	_, _, err = e.store.Txn(ctx, store.Txn{Then: []store.Op{op, name, {Key: keyHead + id, Delete: true}}})
	return err
}

// blobsOf reads which sources a run was started with.
func (e *Engine) blobsOf(ctx context.Context, id string) ([]string, error) {
	kv, err := e.store.Get(ctx, journal.Key(id, 1))
	if err != nil {
		return nil, err
	}
	rec, err := journal.Decode(kv.Value)
	if err != nil {
		return nil, err
	}
	var first struct {
		Run state.Run `json:"run"`
	}
	if err := json.Unmarshal(rec.Body, &first); err != nil {
		return nil, fault.Errorf(fault.Corrupt, "cannot read the first record of run %s: %w", id, err)
	}
	return []string{first.Run.Bundle, first.Run.Estate, first.Run.Plan}, nil
}

// sweep deletes what is left of dropped runs: their journals, then the sources
// that no other run was started with.
func (e *Engine) sweep(ctx context.Context) error {
	all := map[string]dropped{}
	for kv, err := range e.store.List(ctx, keyDropping) {
		if err != nil {
			return err
		}
		var d dropped
		if err := json.Unmarshal(kv.Value, &d); err != nil {
			return fault.Errorf(fault.Corrupt, "cannot read %q in the state: %w", kv.Key, err)
		}
		all[strings.TrimPrefix(kv.Key, keyDropping)] = d
	}
	if len(all) == 0 {
		return nil
	}
	used := map[string]bool{"": true}
	for kv, err := range e.store.List(ctx, keyHead) {
		if err != nil {
			return err
		}
		blobs, err := e.blobsOf(ctx, strings.TrimPrefix(kv.Key, keyHead))
		if err != nil {
			return err
		}
		for _, b := range blobs {
			used[b] = true
		}
	}
	for id, d := range all {
		if err := e.erase(ctx, id, d, used); err != nil {
			return fmt.Errorf("cannot drop run %s: %w", id, err)
		}
	}
	e.log.Info("old runs dropped", "runs", len(all), "kept", e.keepRuns)
	return e.forget(ctx, KeepDropped)
}

// erase deletes the journal of a dropped run in parts, and last the note.
func (e *Engine) erase(ctx context.Context, id string, d dropped, used map[string]bool) error {
	var ops []store.Op
	flush := func() error {
		_, _, err := e.store.Txn(ctx, store.Txn{Then: ops})
		ops = nil
		return err
	}
	for kv, err := range e.store.List(ctx, journal.Prefix(id)) {
		if err != nil {
			return err
		}
		if ops = append(ops, store.Op{Key: kv.Key, Delete: true}); len(ops) == store.MaxOps-8 {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	for _, b := range d.Blobs {
		if !used[b] {
			used[b] = true // deleted once
			ops = append(ops, store.Op{Key: keyBlob + b, Delete: true})
		}
	}
	ops = append(ops, store.Op{Key: keyDropping + id, Delete: true})
	return flush()
}

// forget lets the oldest names of dropped runs go, some at a time.
func (e *Engine) forget(ctx context.Context, keep int) error {
	at := map[string]time.Time{}
	for kv, err := range e.store.List(ctx, journal.DroppedPrefix) {
		if err != nil {
			return err
		}
		var g gone
		if err := json.Unmarshal(kv.Value, &g); err != nil {
			return fault.Errorf(fault.Corrupt, "cannot read %q in the state: %w", kv.Key, err)
		}
		at[kv.Key] = g.At
	}
	if len(at) <= keep+keep/10 {
		return nil
	}
	keys := slices.SortedFunc(maps.Keys(at), func(a, b string) int { return cmp.Or(at[a].Compare(at[b]), cmp.Compare(a, b)) })
	for part := range slices.Chunk(keys[:len(keys)-keep], store.MaxOps) {
		var ops []store.Op
		for _, k := range part {
			ops = append(ops, store.Op{Key: k, Delete: true})
		}
		if _, _, err := e.store.Txn(ctx, store.Txn{Then: ops}); err != nil {
			return err
		}
	}
	return nil
}
