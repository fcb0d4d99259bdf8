package faultfs

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/drrun/drrun/internal/vfs"
)

// Op is a kind of operation.
type Op string

// The operations. Those from Create to Lock change something.
const (
	Open     Op = "open"
	Read     Op = "read"
	NextData Op = "nextdata"
	Size     Op = "size"
	Stat     Op = "stat"
	ReadDir  Op = "readdir"
	Free     Op = "free"
	Close    Op = "close"
	Medium   Op = "medium" // FromMedium

	Create    Op = "create" // an open that may make or empty a file
	Write     Op = "write"
	Truncate  Op = "truncate"
	Punch     Op = "punch"
	Clone     Op = "clone"
	Owner     Op = "owner" // OwnedLike
	Sync      Op = "sync"
	Rename    Op = "rename" // its path is the new name
	Remove    Op = "remove"
	RemoveAll Op = "removeall"
	Mkdir     Op = "mkdir"
	SyncDir   Op = "syncdir"
	Lock      Op = "lock"
)

// Changes reports whether an operation changes something: such ones are
// counted.
func (o Op) Changes() bool {
	switch o {
	case Open, Read, NextData, Size, Stat, ReadDir, Free, Close, Medium:
		return false
	}
	return true
}

// ErrKilled is what each operation gives once the process that uses the file
// system is dead. A hook that returns it kills in the middle of the operation:
// a write is done in half, all else not at all.
var ErrKilled = errors.New("killed")

// Rule makes operations fail.
type Rule struct {
	Op    Op     // "": each that changes something
	Path  string // a part of the path; "": any
	Nth   int    // the first of the matching ones that fails, from 1; 0 is 1
	Times int    // how many fail; 0 is one, negative all
	Err   error  // nil: EIO
	// Short makes a write write half before it fails.
	Short bool
	// Late lets the effect happen and its report fail. Over a Disk the change
	// of a folder is then not durable: its sync is what failed.
	Late bool
}

// rule counts what matched.
type rule struct {
	Rule
	seen int
}

// match counts an operation and reports whether it fails.
func (r *rule) match(op Op, path string) bool {
	if r.Op != op && (r.Op != "" || !op.Changes()) || !strings.Contains(path, r.Path) {
		return false
	}
	r.seen++
	first, times := max(1, r.Nth), r.Times
	if times == 0 {
		times = 1
	}
	return r.seen >= first && (times < 0 || r.seen < first+times)
}

// FS is a file system as one process sees it, with faults. Make it with Over;
// after a kill the next process gets another one over the same.
type FS struct {
	below vfs.FS

	mu      sync.Mutex
	hook    func(Op, string) error
	rules   []*rule
	changes int
	killAt  int
	dead    bool
	locks   map[string]func() error
	last    string // the operation that failed last by rule, hook or kill
}

var _ vfs.FS = (*FS)(nil)

// Over returns a file system that does what below does, until it is told
// otherwise.
func Over(below vfs.FS) *FS { return &FS{below: below, locks: map[string]func() error{}} }

// SetHook has a function called before each operation, with its path; an error
// is the operation's. It may call everything here and of a Disk, and is called
// from all goroutines that use the file system.
func (f *FS) SetHook(hook func(op Op, path string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
}

// Fail adds a rule; of several that match the first one counts.
func (f *FS) Fail(r Rule) {
	if r.Err == nil {
		r.Err = syscall.EIO
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = append(f.rules, &rule{Rule: r})
}

// Mend drops all rules.
func (f *FS) Mend() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = nil
}

// KillAt kills in the middle of the n-th change from the beginning, counted
// from 1; 0: never.
func (f *FS) KillAt(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.killAt = n
}

// Kill makes all operations fail from now on.
func (f *FS) Kill() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.die()
}

// die ends the process and what locks it has; f.mu is held.
func (f *FS) die() {
	f.dead = true
	for name, release := range f.locks {
		_ = release() // they end with the process
		delete(f.locks, name)
	}
}

// Killed reports whether the process is dead.
func (f *FS) Killed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dead
}

// Changes returns how many changing operations there were, failed ones too.
func (f *FS) Changes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changes
}

// Failed names the last operation that a rule, a hook or a kill made fail, for
// messages.
func (f *FS) Failed() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// before counts an operation. With an error it is not done; short: a write is
// done in half nevertheless. late: it is done, and its report is this.
func (f *FS) before(op Op, path string) (short bool, late, err error) {
	f.mu.Lock()
	hook := f.hook
	if f.dead {
		f.mu.Unlock()
		return false, nil, pathError(string(op), path, ErrKilled)
	}
	f.mu.Unlock()
	if hook != nil {
		err = hook(op, path)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if op.Changes() {
		f.changes++
		if err == nil && f.changes == f.killAt {
			err = ErrKilled
		}
	}
	if err == nil && f.dead { // by the hook
		err = ErrKilled
	}
	if errors.Is(err, ErrKilled) {
		f.die()
		short = true
	}
	for _, r := range f.rules {
		if r.match(op, path) && err == nil && late == nil {
			if r.Late {
				late = r.Err
			} else {
				short, err = r.Short, r.Err
			}
		}
	}
	if err != nil || late != nil {
		f.last = string(op) + " " + path
	}
	return short, pathError(string(op), path, late), pathError(string(op), path, err)
}

// do does an operation that happens or not.
func (f *FS) do(op Op, path string, effect func() error) error {
	_, late, err := f.before(op, path)
	if err != nil {
		return err
	}
	return either(effect(), late)
}

// either is the error of an operation: its own as it is, or the one that is
// reported of it.
func either(err, late error) error {
	if err != nil {
		return err
	}
	return late
}

// OpenFile implements vfs.FS.
func (f *FS) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	op := Open
	if flag&(os.O_CREATE|os.O_TRUNC) != 0 {
		op = Create
	}
	_, late, err := f.before(op, name)
	if err != nil {
		return nil, err
	}
	file, err := f.below.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	if late != nil {
		return nil, errors.Join(late, file.Close())
	}
	return &faultFile{file, f}, nil
}

// Rename implements vfs.FS.
func (f *FS) Rename(oldName, newName string) error {
	return f.folder(Rename, newName, f.below.Rename, (*Disk).rename, oldName)
}

// folder does a change of a folder: late, it is done and not durable.
func (f *FS) folder(op Op, name string, real func(a, b string) error, lazy func(d *Disk, a, b string, sync bool) error, oldName string) error {
	_, late, err := f.before(op, name)
	if err != nil {
		return err
	}
	if d, ok := f.below.(*Disk); ok && late != nil {
		return errors.Join(lazy(d, oldName, name, false), late)
	}
	return either(real(oldName, name), late)
}

// Remove implements vfs.FS.
func (f *FS) Remove(name string) error {
	return f.folder(Remove, name, func(_, b string) error { return f.below.Remove(b) },
		func(d *Disk, _, b string, sync bool) error { return d.remove(b, sync) }, "")
}

// RemoveAll implements vfs.FS.
func (f *FS) RemoveAll(name string) error {
	return f.do(RemoveAll, name, func() error { return f.below.RemoveAll(name) })
}

// MkdirAll implements vfs.FS.
func (f *FS) MkdirAll(name string, perm fs.FileMode) error {
	return f.folder(Mkdir, name, func(_, b string) error { return f.below.MkdirAll(b, perm) },
		func(d *Disk, _, b string, sync bool) error { return d.mkdir(b, perm, sync) }, "")
}

// ReadDir implements vfs.FS.
func (f *FS) ReadDir(name string) (all []fs.DirEntry, err error) {
	err = f.do(ReadDir, name, func() (err error) { all, err = f.below.ReadDir(name); return err })
	return all, err
}

// Stat implements vfs.FS.
func (f *FS) Stat(name string) (fi fs.FileInfo, err error) {
	err = f.do(Stat, name, func() (err error) { fi, err = f.below.Stat(name); return err })
	return fi, err
}

// SyncDir implements vfs.FS.
func (f *FS) SyncDir(name string) error {
	return f.do(SyncDir, name, func() error { return f.below.SyncDir(name) })
}

// Free implements vfs.FS.
func (f *FS) Free(name string) (n int64, err error) {
	err = f.do(Free, name, func() (err error) { n, err = f.below.Free(name); return err })
	return n, err
}

// Lock implements vfs.FS. A kill ends the lock.
func (f *FS) Lock(name string) (release func() error, err error) {
	var unlock func() error
	if err := f.do(Lock, name, func() (err error) { unlock, err = f.below.Lock(name); return err }); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.locks[name] = unlock
	return func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.locks[name] == nil {
			return nil
		}
		delete(f.locks, name)
		return unlock()
	}, nil
}

// faultFile is an open file of an FS.
type faultFile struct {
	vfs.File
	fs *FS
}

func (f *faultFile) do(op Op, effect func() error) error { return f.fs.do(op, f.Name(), effect) }

func (f *faultFile) read(effect func() (int, error)) (n int, err error) {
	if err := f.do(Read, func() error { return nil }); err != nil {
		return 0, err
	}
	return effect() // its error is io.EOF itself
}

func (f *faultFile) Read(p []byte) (int, error) {
	return f.read(func() (int, error) { return f.File.Read(p) })
}

func (f *faultFile) ReadAt(p []byte, off int64) (int, error) {
	return f.read(func() (int, error) { return f.File.ReadAt(p, off) })
}

func (f *faultFile) write(p []byte, effect func(p []byte) (int, error)) (n int, err error) {
	short, late, err := f.fs.before(Write, f.Name())
	if short {
		n, werr := effect(p[:len(p)/2])
		return n, errors.Join(err, werr)
	}
	if err != nil {
		return 0, err
	}
	n, err = effect(p)
	return n, either(err, late)
}

func (f *faultFile) Write(p []byte) (int, error) { return f.write(p, f.File.Write) }

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	return f.write(p, func(p []byte) (int, error) { return f.File.WriteAt(p, off) })
}

func (f *faultFile) Size() (n int64, err error) {
	err = f.do(Size, func() (err error) { n, err = f.File.Size(); return err })
	return n, err
}

func (f *faultFile) Truncate(size int64) error {
	return f.do(Truncate, func() error { return f.File.Truncate(size) })
}

func (f *faultFile) Sync() error {
	dead := f.fs.Killed()
	_, late, err := f.fs.before(Sync, f.Name())
	if below, ok := f.File.(*file); ok && err != nil && !dead && !errors.Is(err, ErrKilled) {
		below.failSync()
	}
	if err != nil {
		return err
	}
	return either(f.File.Sync(), late)
}

func (f *faultFile) OwnedLike(fi fs.FileInfo) error {
	return f.do(Owner, func() error { return f.File.OwnedLike(fi) })
}

func (f *faultFile) PunchHole(off, n int64) error {
	return f.do(Punch, func() error { return f.File.PunchHole(off, n) })
}

func (f *faultFile) NextData(off int64) (start, end int64, err error) {
	if err := f.do(NextData, func() error { return nil }); err != nil {
		return 0, 0, err
	}
	return f.File.NextData(off)
}

func (f *faultFile) FromMedium() (_ vfs.File, how vfs.Source, err error) {
	err = f.do(Medium, func() error {
		below, from, err := f.File.FromMedium()
		if err == nil {
			f.File, how = below, from
		}
		return err
	})
	return f, how, err
}

func (f *faultFile) CloneFrom(src vfs.File) error {
	if s, ok := src.(*faultFile); ok {
		src = s.File
	}
	return f.do(Clone, func() error { return f.File.CloneFrom(src) })
}

// Close closes the file below in any case: a process that ends has none open.
func (f *faultFile) Close() error {
	_, late, err := f.fs.before(Close, f.Name())
	return errors.Join(err, f.File.Close(), late)
}
