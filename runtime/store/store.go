// Package store is the small key-value interface that all control state lives
// in: ordered keys, revisions, transactions by compare-and-set, and watch. It
// has two engines, bbolt in one file (Bolt, the embedded default) and memory
// (tests and dry runs); the suite in storetest holds both to one behaviour.
//
// It is not a database: it knows no runs, plans or machines, and keeps no old
// values. All methods of all engines are safe for concurrent use.
package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/drrun/drrun/internal/fault"
)

// Limits of every engine; a transaction that exceeds one fails with
// fault.Invalid and changes nothing.
const (
	MaxKey   = 512      // bytes of a key
	MaxValue = 16 << 20 // bytes of a value
	MaxOps   = 128      // comparisons and operations of one transaction
	// HistoryEvents and HistoryBytes (of values) are how far a watch can go back.
	HistoryEvents = 8192
	HistoryBytes  = 32 << 20
)

// KV is a key with its value. The value is a copy: callers may keep it.
type KV struct {
	Key       string
	Value     []byte
	CreateRev int64 // revision that made the key
	ModRev    int64 // revision that wrote it last
}

// Cmp holds when the key was last written at ModRev; ModRev 0: when the key is
// absent.
type Cmp struct {
	Key    string
	ModRev int64
}

// Op writes a key, or deletes it (deleting an absent key is no error).
type Op struct {
	Key    string
	Value  []byte
	Delete bool
}

// Txn is all or nothing: if every comparison holds, every operation is done.
// A key appears in Then once.
type Txn struct {
	If   []Cmp
	Then []Op
}

// Event is one change of one key.
type Event struct {
	Rev     int64
	Key     string
	Value   []byte // nil when Deleted
	Deleted bool
}

// Store is the interface of the engines.
type Store interface {
	// Get returns a key; fault.NotFound when it is absent.
	Get(ctx context.Context, key string) (KV, error)
	// List yields the keys with a prefix in key order, as they were at one
	// revision. The loop may call the store.
	List(ctx context.Context, prefix string) iter.Seq2[KV, error]
	// Txn commits t durably and returns the new revision; ok is false, and
	// nothing is changed, when a comparison does not hold. When err is not nil
	// the caller must not assume either outcome.
	Txn(ctx context.Context, t Txn) (rev int64, ok bool, err error)
	// Watch yields the changes under a prefix with revision fromRev or later,
	// in order, until ctx ends (its error is yielded last) or the loop stops.
	// fromRev 0: from now. ErrCompacted: fromRev is too old, List again.
	Watch(ctx context.Context, prefix string, fromRev int64) iter.Seq2[Event, error]
	// Rev returns the newest revision: Rev, List, then Watch from it + 1 misses
	// nothing (and may show again what List showed).
	Rev(ctx context.Context) (int64, error)
	// Close ends the engine and its watches. Idempotent.
	Close() error
}

// ErrCompacted says that a watch asked for a revision that is no longer kept.
var ErrCompacted = errors.New("revision is no longer kept: list again")

// ErrClosed says that the store was closed.
var ErrClosed = errors.New("store is closed")

// Put writes one key unconditionally.
func Put(ctx context.Context, s Store, key string, value []byte) (rev int64, err error) {
	rev, _, err = s.Txn(ctx, Txn{Then: []Op{{Key: key, Value: value}}})
	return rev, err
}

// Delete removes one key unconditionally.
func Delete(ctx context.Context, s Store, key string) error {
	_, _, err := s.Txn(ctx, Txn{Then: []Op{{Key: key, Delete: true}}})
	return err
}

func notFound(key string) error {
	return fault.Errorf(fault.NotFound, "cannot find key %q in the state", key)
}

func checkTxn(t Txn) error {
	if n := len(t.If) + len(t.Then); n > MaxOps {
		return fault.Errorf(fault.Invalid, "cannot commit %d operations at once: the limit is %d", n, MaxOps)
	}
	for i, op := range t.Then {
		if slices.ContainsFunc(t.Then[:i], func(o Op) bool { return o.Key == op.Key }) {
			return fault.Errorf(fault.Invalid, "cannot commit: key %q is written twice", op.Key)
		}
		if len(op.Value) > MaxValue {
			return fault.Errorf(fault.Invalid, "cannot store %q: %d bytes, the limit is %d", op.Key, len(op.Value), MaxValue)
		}
		if err := checkKey(op.Key); err != nil {
			return err
		}
	}
	for _, c := range t.If {
		if err := checkKey(c.Key); err != nil {
			return err
		}
	}
	return nil
}

func checkKey(key string) error {
	if key == "" || len(key) > MaxKey {
		return fault.Wrap(fault.Invalid, fmt.Errorf("a key has 1 to %d bytes, this one has %d", MaxKey, len(key)))
	}
	return nil
}
