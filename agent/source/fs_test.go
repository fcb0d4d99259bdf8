package source

import (
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
)

var errKilled = errors.New("killed")

// mortalFS is the machine's file system until the process that uses it dies:
// from the killAt-th change of a file under root on, everything fails. A kill
// leaves what was written; a power cut may lose what was not synced. It does
// not really sync, which no kill could show.
type mortalFS struct {
	vfs.OS
	root   string
	killAt int        // 0: never
	power  *rand.Rand // nil: a kill

	mu     sync.Mutex
	ops    int
	dead   bool
	synced map[string][]byte // content of files with writes not yet synced, as of the last sync
}

func newMortalFS(root string, killAt int) *mortalFS {
	return &mortalFS{root: root, killAt: killAt, synced: map[string][]byte{}}
}

// op counts one change; last says that the process dies in the middle of it.
func (m *mortalFS) op(name string) (last bool, err error) {
	if !strings.HasPrefix(name, m.root) {
		return false, nil
	}
	if m.dead {
		return false, errKilled
	}
	m.ops++
	if m.ops == m.killAt {
		m.dead = true
		return true, nil
	}
	return false, nil
}

func (m *mortalFS) isDead() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dead
}

// kill ends the process at the next change.
func (m *mortalFS) kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dead = true
}

// cutPower makes files lose, or not, what was written and not synced.
func (m *mortalFS) cutPower() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.power == nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(m.synced)) {
		old := m.synced[name]
		if m.power.IntN(2) == 0 {
			continue
		}
		if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.WriteFile(name, old, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// dirty keeps the synced content of a file before its first write since.
func (m *mortalFS) dirty(name string) error {
	if m.power == nil || !strings.HasPrefix(name, m.root) {
		return nil
	}
	if _, ok := m.synced[name]; ok {
		return nil
	}
	b, err := os.ReadFile(name)
	m.synced[name] = b
	return err
}

func (m *mortalFS) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if flag&os.O_CREATE != 0 {
		if last, err := m.op(name); last || err != nil {
			return nil, errKilled
		}
		if flag&os.O_TRUNC != 0 {
			m.synced[name] = nil
		}
	}
	f, err := m.OS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &mortalFile{File: f, fs: m}, nil
}

func (m *mortalFS) Rename(oldName, newName string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	last, err := m.op(newName)
	if err != nil {
		return err
	}
	if last && m.ops%2 == 0 {
		return errKilled
	}
	if old, ok := m.synced[oldName]; ok {
		m.synced[newName] = old
		delete(m.synced, oldName)
	} else {
		delete(m.synced, newName)
	}
	if err := os.Rename(oldName, newName); err != nil {
		return err
	}
	return map[bool]error{true: errKilled}[last]
}

func (m *mortalFS) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if last, err := m.op(name); last || err != nil {
		return errKilled
	}
	delete(m.synced, name)
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (m *mortalFS) MkdirAll(name string, perm fs.FileMode) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if last, err := m.op(name); last || err != nil {
		return errKilled
	}
	return os.MkdirAll(name, perm)
}

func (m *mortalFS) SyncDir(string) error { return nil }

type mortalFile struct {
	vfs.File
	fs *mortalFS
}

func (f *mortalFile) change(do func(last bool) error) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	last, err := f.fs.op(f.Name())
	if err != nil {
		return err
	}
	if err := f.fs.dirty(f.Name()); err != nil {
		return err
	}
	if err := do(last); err != nil {
		return err
	}
	return map[bool]error{true: errKilled}[last]
}

func (f *mortalFile) Write(p []byte) (n int, err error) {
	err = f.change(func(last bool) (err error) {
		if last {
			p = p[:len(p)/2]
		}
		n, err = f.File.Write(p)
		return err
	})
	return n, err
}

func (f *mortalFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.change(func(last bool) (err error) {
		if last {
			p = p[:len(p)/2]
		}
		n, err = f.File.WriteAt(p, off)
		return err
	})
	return n, err
}

func (f *mortalFile) Truncate(size int64) error {
	return f.change(func(bool) error { return f.File.Truncate(size) })
}

func (f *mortalFile) PunchHole(off, n int64) error {
	return f.change(func(bool) error { return f.File.PunchHole(off, n) })
}

func (f *mortalFile) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	last, err := f.fs.op(f.Name())
	if last || err != nil {
		return errKilled
	}
	delete(f.fs.synced, f.Name())
	return nil
}

// dying makes a target's connection die with the process, and with it whatever
// it would have answered.
func dying(m *mortalFS) func(string, bool) error {
	return func(string, bool) error {
		if m.isDead() {
			return fault.Errorf(fault.Unreachable, "the connection is gone")
		}
		return nil
	}
}
