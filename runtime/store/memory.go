package store

import (
	"context"
	"iter"
	"slices"
	"strings"
	"sync"
)

// Memory is the engine that keeps nothing: for tests and dry runs.
type Memory struct {
	mu     sync.Mutex
	rev    int64
	kvs    []*KV // in order of their keys
	hist   *history
	closed bool
}

var _ Store = (*Memory)(nil)

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{hist: newHistory(0)}
}

// Get implements Store.
func (m *Memory) Get(ctx context.Context, key string) (KV, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return KV{}, err
	}
	at, ok := m.find(key)
	if !ok {
		return KV{}, notFound(key)
	}
	return cloneKV(*m.kvs[at]), nil
}

// List implements Store.
func (m *Memory) List(ctx context.Context, prefix string) iter.Seq2[KV, error] {
	return func(yield func(KV, error) bool) {
		m.mu.Lock()
		err := m.usable(ctx)
		var kvs []KV
		from, _ := m.find(prefix)
		for _, kv := range m.kvs[from:] {
			if !strings.HasPrefix(kv.Key, prefix) {
				break
			}
			kvs = append(kvs, cloneKV(*kv))
		}
		m.mu.Unlock()
		if err != nil {
			yield(KV{}, err)
			return
		}
		for _, kv := range kvs {
			if !yield(kv, nil) {
				return
			}
		}
	}
}

// Txn implements Store.
func (m *Memory) Txn(ctx context.Context, t Txn) (int64, bool, error) {
	if err := checkTxn(t); err != nil {
		return 0, false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return 0, false, err
	}
	for _, c := range t.If {
		var rev int64
		if at, ok := m.find(c.Key); ok {
			rev = m.kvs[at].ModRev
		}
		if rev != c.ModRev {
			return m.rev, false, nil
		}
	}
	if len(t.Then) == 0 {
		return m.rev, true, nil
	}
	m.rev++
	ops := make([]Op, len(t.Then))
	for i, op := range t.Then {
		op.Value = append([]byte{}, op.Value...)
		ops[i] = op
		at, had := m.find(op.Key)
		switch {
		case op.Delete && had:
			m.kvs = slices.Delete(m.kvs, at, at+1)
		case op.Delete:
		case had:
			m.kvs[at] = &KV{Key: op.Key, Value: op.Value, CreateRev: m.kvs[at].CreateRev, ModRev: m.rev}
		default:
			m.kvs = slices.Insert(m.kvs, at, &KV{Key: op.Key, Value: op.Value, CreateRev: m.rev, ModRev: m.rev})
		}
	}
	m.hist.publish(m.rev, ops)
	return m.rev, true, nil
}

// Watch implements Store.
func (m *Memory) Watch(ctx context.Context, prefix string, fromRev int64) iter.Seq2[Event, error] {
	return m.hist.watch(ctx, prefix, fromRev)
}

// Rev implements Store.
func (m *Memory) Rev(ctx context.Context) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rev, m.usable(ctx)
}

// Close implements Store.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	m.hist.close()
	return nil
}

// find is where a key stands, or would.
func (m *Memory) find(key string) (at int, ok bool) {
	return slices.BinarySearchFunc(m.kvs, key, func(kv *KV, key string) int { return strings.Compare(kv.Key, key) })
}

func (m *Memory) usable(ctx context.Context) error {
	if m.closed {
		return ErrClosed
	}
	return context.Cause(ctx)
}

func cloneKV(kv KV) KV {
	kv.Value = append([]byte{}, kv.Value...)
	return kv
}
