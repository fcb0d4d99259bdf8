package faultfs

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/drrun/drrun/internal/vfs"
)

// Disk is a file system in memory that can lose its power. It has a root and
// nothing else at first; relative names start there too. The root, and what
// New returns, is durable.
type Disk struct {
	mu       sync.Mutex
	root     *node
	pending  []change // of folders, and not durable yet; in their order
	gen      uint64   // of the newest owner of pages
	inodes   uint64
	capacity int64 // bytes; 0: no limit
	used     int64 // bytes; valid with counted
	counted  bool
	reflink  bool
	dead     bool
	locks    map[string]bool
}

var _ vfs.FS = (*Disk)(nil)

// ErrNoPower is what each operation on a Disk gives after its Cut.
var ErrNoPower = errors.New("the machine lost its power")

// node is a file or a folder.
type node struct {
	inode uint64
	mode  fs.FileMode
	mtime time.Time

	// Of a folder: what is seen now, and what is durable.
	entries, durable map[string]*node

	// Of a file: what is read now, what is durable, and the pages in which a
	// sync that works makes the second like the first.
	content, stable content
	dirty           map[int64]struct{}
	gen             uint64 // pages of this generation are this file's and this state's alone
	reflinked       bool   // another file may have its pages
}

// change is an atomic change of folders.
type change []entry

// entry is what a name in a folder stands for after a change; nil: nothing.
type entry struct {
	dir  *node
	name string
	to   *node
}

// New returns an empty disk without a limit, with reflinks.
func New() *Disk {
	d := &Disk{reflink: true, locks: map[string]bool{}}
	d.root = d.newNode(fs.ModeDir | 0o755)
	return d
}

// SetCapacity limits the disk to n bytes: writes beyond fail with ENOSPC after
// what fits, and Free tells the rest. 0 is no limit. Space is counted in pages
// of 4 KiB; what files share by reflink counts once.
func (d *Disk) SetCapacity(n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.capacity, d.counted = n, false
}

// SetReflink says whether CloneFrom works.
func (d *Disk) SetReflink(on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reflink = on
}

func (d *Disk) newNode(mode fs.FileMode) *node {
	d.inodes++
	n := &node{inode: d.inodes, mode: mode, mtime: time.Now()}
	if mode.IsDir() {
		n.entries, n.durable = map[string]*node{}, map[string]*node{}
	} else {
		n.content, n.stable, n.dirty = newContent(), newContent(), map[int64]struct{}{}
		n.gen = d.nextGen()
	}
	return n
}

func (d *Disk) nextGen() uint64 {
	d.gen++
	return d.gen
}

func split(name string) []string {
	name = strings.Trim(filepath.ToSlash(filepath.Clean(name)), "/")
	if name == "" {
		return nil
	}
	return strings.Split(name, "/")
}

// find returns what stands at a path; d.mu is held.
func (d *Disk) find(name string) (*node, error) {
	if d.dead {
		return nil, ErrNoPower
	}
	n := d.root
	for _, part := range split(name) {
		if part == "." {
			continue
		}
		if !n.mode.IsDir() {
			return nil, syscall.ENOTDIR
		}
		next, ok := n.entries[part]
		if !ok {
			return nil, syscall.ENOENT
		}
		n = next
	}
	return n, nil
}

// parent returns the folder in which a path stands or may stand, and the name
// there.
func (d *Disk) parent(name string) (*node, string, error) {
	name = filepath.Clean(name)
	dir, err := d.find(filepath.Dir(name))
	if err != nil {
		return nil, "", err
	}
	if !dir.mode.IsDir() {
		return nil, "", syscall.ENOTDIR
	}
	return dir, filepath.Base(name), nil
}

// apply makes a change that is not durable yet.
func (d *Disk) apply(c change) {
	for _, e := range c {
		e.set(e.dir.entries)
		e.dir.mtime = time.Now()
	}
	d.pending = append(d.pending, c)
}

func (e entry) set(entries map[string]*node) {
	if e.to == nil {
		delete(entries, e.name)
		return
	}
	entries[e.name] = e.to
}

// settle makes the changes of folders durable, and those of other folders that
// they stand on: a file that was renamed from one to the other is in one of
// them at any time.
func (d *Disk) settle(dirs ...*node) {
	var now []change
	for i, c := range slices.Backward(d.pending) {
		if !slices.ContainsFunc(c, func(e entry) bool { return slices.Contains(dirs, e.dir) }) {
			continue
		}
		for _, e := range c {
			dirs = append(dirs, e.dir)
		}
		now = append(now, c)
		d.pending = slices.Delete(d.pending, i, i+1)
	}
	for _, c := range slices.Backward(now) {
		for _, e := range c {
			e.set(e.dir.durable)
		}
	}
}

func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// OpenFile implements vfs.FS. A new file is durable when its folder is synced.
func (d *Disk) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, base, err := d.parent(name)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	n := dir.entries[base]
	if len(split(name)) == 0 {
		n = d.root
	}
	switch write := flag&(os.O_WRONLY|os.O_RDWR) != 0; {
	case n == nil && flag&os.O_CREATE == 0:
		return nil, pathError("open", name, syscall.ENOENT)
	case n == nil:
		n = d.newNode(perm.Perm())
		d.apply(change{{dir, base, n}})
	case flag&(os.O_CREATE|os.O_EXCL) == os.O_CREATE|os.O_EXCL:
		return nil, pathError("open", name, syscall.EEXIST)
	case n.mode.IsDir() && write:
		return nil, pathError("open", name, syscall.EISDIR)
	case flag&os.O_TRUNC != 0:
		d.truncate(n, 0)
	}
	return &file{disk: d, node: n, name: name, flag: flag}, nil
}

// Rename implements vfs.FS.
func (d *Disk) Rename(oldName, newName string) error { return d.rename(oldName, newName, true) }

func (d *Disk) rename(oldName, newName string, sync bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	fail := func(err error) error {
		return &os.LinkError{Op: "rename", Old: oldName, New: newName, Err: err}
	}
	from, a, err := d.parent(oldName)
	if err != nil {
		return fail(err)
	}
	to, b, err := d.parent(newName)
	if err != nil {
		return fail(err)
	}
	n, over := from.entries[a], to.entries[b]
	switch {
	case n == nil:
		return fail(syscall.ENOENT)
	case over != nil && over.mode.IsDir():
		return fail(syscall.EEXIST) // os.Rename never replaces a folder
	case n.mode.IsDir() && n.holds(to):
		return fail(syscall.EINVAL)
	case n == over:
	case over != nil && n.mode.IsDir():
		return fail(syscall.ENOTDIR)
	default:
		d.apply(change{{from, a, nil}, {to, b, n}})
		d.counted = d.counted && over == nil
	}
	if sync {
		d.settle(from, to)
	}
	return nil
}

// holds reports whether a folder is other or lies above it.
func (n *node) holds(other *node) bool {
	if n == other {
		return true
	}
	for _, e := range n.entries {
		if e.holds(other) {
			return true
		}
	}
	return false
}

// Remove implements vfs.FS.
func (d *Disk) Remove(name string) error { return d.remove(name, true) }

func (d *Disk) remove(name string, sync bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, base, err := d.parent(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return pathError("remove", name, err)
	}
	n := dir.entries[base]
	if n == nil {
		return nil
	}
	if len(n.entries) > 0 {
		return pathError("remove", name, syscall.ENOTEMPTY)
	}
	d.apply(change{{dir, base, nil}})
	d.counted = false
	if sync {
		d.settle(dir)
	}
	return nil
}

// RemoveAll implements vfs.FS.
func (d *Disk) RemoveAll(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, base, err := d.parent(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return pathError("removeall", name, err)
	}
	if n := dir.entries[base]; n != nil {
		d.empty(n)
		d.apply(change{{dir, base, nil}})
		d.counted = false
	}
	return nil
}

// empty removes what is in a folder, the deepest first.
func (d *Disk) empty(n *node) {
	for _, name := range slices.Sorted(maps.Keys(n.entries)) {
		d.empty(n.entries[name])
		d.apply(change{{n, name, nil}})
	}
}

// MkdirAll implements vfs.FS.
func (d *Disk) MkdirAll(name string, perm fs.FileMode) error { return d.mkdir(name, perm, true) }

func (d *Disk) mkdir(name string, perm fs.FileMode, sync bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return pathError("mkdir", name, ErrNoPower)
	}
	n := d.root
	for _, part := range split(name) {
		if part == "." {
			continue
		}
		next := n.entries[part]
		if next == nil {
			next = d.newNode(fs.ModeDir | perm.Perm())
			d.apply(change{{n, part, next}})
			if sync {
				d.settle(n)
			}
		}
		if !next.mode.IsDir() {
			return pathError("mkdir", name, fs.ErrExist)
		}
		n = next
	}
	return nil
}

// ReadDir implements vfs.FS.
func (d *Disk) ReadDir(name string) ([]fs.DirEntry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.find(name)
	if err == nil && !n.mode.IsDir() {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return nil, pathError("readdir", name, err)
	}
	var all []fs.DirEntry
	for _, base := range slices.Sorted(maps.Keys(n.entries)) {
		all = append(all, fs.FileInfoToDirEntry(infoOf(base, n.entries[base])))
	}
	return all, nil
}

// Stat implements vfs.FS. Sys is a *syscall.Stat_t with the inode, the blocks
// and device 0.
func (d *Disk) Stat(name string) (fs.FileInfo, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.find(name)
	if err != nil {
		return nil, pathError("stat", name, err)
	}
	return infoOf(filepath.Base(name), n), nil
}

// SyncDir implements vfs.FS.
func (d *Disk) SyncDir(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.find(name)
	if err == nil && !n.mode.IsDir() {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return pathError("syncdir", name, err)
	}
	d.settle(n)
	return nil
}

// Free implements vfs.FS; without a limit it is a petabyte.
func (d *Disk) Free(name string) (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.find(name); err != nil {
		return 0, pathError("statfs", name, err)
	}
	if d.capacity == 0 {
		return 1 << 50, nil
	}
	return max(0, d.capacity-d.usage()), nil
}

// usage counts the bytes of all pages of files that have a name.
func (d *Disk) usage() int64 {
	if !d.counted {
		seen := map[*page]struct{}{}
		d.root.walk(func(n *node) {
			for _, p := range n.content.pages {
				seen[p] = struct{}{}
			}
		})
		d.used, d.counted = int64(len(seen))*pageSize, true
	}
	return d.used
}

// walk visits the files of a tree.
func (n *node) walk(visit func(*node)) {
	if !n.mode.IsDir() {
		visit(n)
		return
	}
	for _, e := range n.entries {
		e.walk(visit)
	}
}

// Lock implements vfs.FS: until release, or the end of an FS over it that took
// the lock.
func (d *Disk) Lock(name string) (release func() error, err error) {
	f, err := d.OpenFile(name, vfs.Create, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	key := filepath.Clean(name)
	if d.locks[key] {
		return nil, fmt.Errorf("%w by another process: %s", vfs.ErrLocked, name)
	}
	d.locks[key] = true
	return func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.locks, key)
		return nil
	}, nil
}

// info describes a file.
type info struct {
	name string
	size int64
	mode fs.FileMode
	time time.Time
	sys  *syscall.Stat_t
}

func infoOf(name string, n *node) fs.FileInfo {
	sys := &syscall.Stat_t{Ino: n.inode}
	sys.Blocks = int64(len(n.content.pages)) * (pageSize / 512)
	return info{name, n.content.size, n.mode, n.mtime, sys}
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return i.time }
func (i info) IsDir() bool        { return i.mode.IsDir() }
func (i info) Sys() any           { return i.sys }
