package runtime

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/runtime/journal"
	"github.com/drrun/drrun/runtime/state"
	"github.com/drrun/drrun/runtime/store"
)

// KeepRuns is how many ended runs an engine keeps unless told otherwise. Runs
// that have not ended stay, however old.
const KeepRuns = 1000

// keyDropped + run names a run that is being dropped: it is in no list any
// more, and what is left of it goes also when a crash came between.
const keyDropped = "dropped/"

// dropped are the sources that a dropped run was started with.
type dropped struct {
	Blobs []string `json:"blobs"`
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
	op, err := jsonOp(keyDropped+id, dropped{Blobs: blobs})
	if err != nil {
		return err
	}
	_, _, err = e.store.Txn(ctx, store.Txn{Then: []store.Op{op, {Key: keyHead + id, Delete: true}}})
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
	gone := map[string]dropped{}
	for kv, err := range e.store.List(ctx, keyDropped) {
		if err != nil {
			return err
		}
		var d dropped
		if err := json.Unmarshal(kv.Value, &d); err != nil {
			return fault.Errorf(fault.Corrupt, "cannot read %q in the state: %w", kv.Key, err)
		}
		gone[strings.TrimPrefix(kv.Key, keyDropped)] = d
	}
	if len(gone) == 0 {
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
	for id, d := range gone {
		if err := e.erase(ctx, id, d, used); err != nil {
			return fmt.Errorf("cannot drop run %s: %w", id, err)
		}
	}
	e.log.Info("old runs dropped", "runs", len(gone), "kept", e.keepRuns)
	return nil
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
	ops = append(ops, store.Op{Key: keyDropped + id, Delete: true})
	return flush()
}
