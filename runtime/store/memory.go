package store

import (
	"bytes"
	"context"
	"iter"
	"slices"
	"sort"
	"sync"
)

// Memory is the engine that keeps nothing: for tests and dry runs. What is stored
// stands in blocks of bytes, which the garbage collector does not look into: the
// journal of a simulated run has some hundred thousand records.
type Memory struct {
	mu     sync.Mutex
	rev    int64
	rows   []row    // in order of their keys
	last   int      // where a key was added last
	blocks [][]byte // the last one is being filled
	live   int      // bytes of blocks that a row has
	dead   int      // and that none has any more
	hist   *history
	closed bool
}

// row is a key with its value, which stands right behind it.
type row struct {
	create, mod int64
	block, at   int32 // where the key begins
	value       int32 // its length
	key         int16 // its length
}

// blockSize is how much is taken at once, in bytes; a value that is larger has a
// block of its own.
const blockSize = 256 << 10

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
	return m.read(&m.rows[at]), nil
}

// List implements Store.
func (m *Memory) List(ctx context.Context, prefix string) iter.Seq2[KV, error] {
	return func(yield func(KV, error) bool) {
		m.mu.Lock()
		err := m.usable(ctx)
		var kvs []KV
		from, _ := m.find(prefix)
		for i := from; i < len(m.rows) && bytes.HasPrefix(m.keyOf(&m.rows[i]), []byte(prefix)); i++ {
			kvs = append(kvs, m.read(&m.rows[i]))
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
			rev = m.rows[at].mod
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
		at, had := m.find(op.Key)
		var r row
		if had {
			r = m.rows[at]
			m.drop(&r)
		}
		if !op.Delete {
			if !had {
				r.create, m.last = m.rev, at
				m.rows = slices.Insert(m.rows, at, r)
			}
			r = m.write(op, r.create)
			m.rows[at] = r
			op.Value = m.valueOf(&r) // written once, never changed: watches may have it
		} else if had {
			m.rows = slices.Delete(m.rows, at, at+1)
		}
		ops[i] = op
	}
	m.compact()
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
	below := func(i int) bool { return string(m.keyOf(&m.rows[i])) < key }
	if at = m.last + 1; at < len(m.rows) && below(at-1) && !below(at) { // right behind the one before, as in a journal
		return at, string(m.keyOf(&m.rows[at])) == key
	}
	at = sort.Search(len(m.rows), func(i int) bool { return !below(i) })
	return at, at < len(m.rows) && string(m.keyOf(&m.rows[at])) == key
}

func (m *Memory) keyOf(r *row) []byte { return m.blocks[r.block][r.at:][:r.key] }

func (m *Memory) valueOf(r *row) []byte {
	return m.blocks[r.block][int(r.at)+int(r.key):][:r.value:r.value]
}

func (m *Memory) read(r *row) KV {
	return KV{Key: string(m.keyOf(r)), Value: append([]byte{}, m.valueOf(r)...), CreateRev: r.create, ModRev: r.mod}
}

// write puts a key and its value at the end of the blocks.
func (m *Memory) write(op Op, create int64) row {
	r := row{key: int16(len(op.Key)), value: int32(len(op.Value)), create: create, mod: m.rev} //nolint:gosec // MaxKey and MaxValue
	r.block, r.at = m.room(r.size())
	b := append(m.blocks[r.block], op.Key...)
	m.blocks[r.block] = append(b, op.Value...)
	return r
}

// room finds the place for so many bytes.
func (m *Memory) room(size int) (block, at int32) {
	m.live += size
	last := len(m.blocks) - 1
	if last < 0 || len(m.blocks[last])+size > cap(m.blocks[last]) {
		m.blocks = append(m.blocks, make([]byte, 0, max(size, blockSize)))
		last++
	}
	return int32(last), int32(len(m.blocks[last])) //nolint:gosec // of 256 KiB or one value
}

func (r *row) size() int { return int(r.key) + int(r.value) }

func (m *Memory) drop(r *row) {
	m.live -= r.size()
	m.dead += r.size()
}

// compact writes all blocks anew when most of what they hold has no row any more.
func (m *Memory) compact() {
	if m.dead < 4*blockSize || m.dead < m.live {
		return
	}
	old := m.blocks
	m.blocks, m.live, m.dead = nil, 0, 0
	for i := range m.rows {
		r := &m.rows[i]
		was := old[r.block][r.at:][:r.size()]
		r.block, r.at = m.room(r.size())
		m.blocks[r.block] = append(m.blocks[r.block], was...)
	}
}

func (m *Memory) usable(ctx context.Context) error {
	if m.closed {
		return ErrClosed
	}
	return context.Cause(ctx)
}
