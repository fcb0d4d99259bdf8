package faultfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/drrun/drrun/internal/vfs"
)

// pageSize is what a file is kept in, and a hole at least.
const pageSize = 4096

// page is a part of a file; one that two files or states share is not written.
type page struct {
	gen uint64
	b   [pageSize]byte
}

// content is what a file holds. A page that is missing is a hole; what of the
// last page lies behind size is zero.
type content struct {
	size  int64
	pages map[int64]*page
}

func newContent() content { return content{pages: map[int64]*page{}} }

// put sets a page, or makes it a hole.
func (c *content) put(i int64, p *page) {
	if p == nil {
		delete(c.pages, i)
		return
	}
	c.pages[i] = p
}

// writable returns a page that a file may change; d.mu is held.
func (d *Disk) writable(n *node, i int64) (*page, error) {
	n.dirty[i] = struct{}{}
	p := n.content.pages[i]
	if p != nil && p.gen == n.gen {
		return p, nil
	}
	// A page of this file alone is written in its place.
	more := p == nil || n.reflinked
	if more && d.capacity > 0 && d.usage()+pageSize > d.capacity {
		return nil, syscall.ENOSPC
	}
	own := &page{gen: n.gen}
	if p != nil {
		own.b = p.b
	}
	n.content.pages[i] = own
	if more {
		d.used += pageSize
		d.counted = d.counted && !n.reflinked // the page may have been its last
	}
	return own, nil
}

// truncate changes the size of a file.
func (d *Disk) truncate(n *node, size int64) {
	if size < n.content.size {
		d.zero(n, size, n.content.size-size)
	}
	n.content.size, n.mtime = size, time.Now()
}

// zero makes a range read as zero: whole pages become holes.
func (d *Disk) zero(n *node, off, length int64) {
	for end := off + length; off < end; {
		i, in := off/pageSize, off%pageSize
		k := min(pageSize-in, end-off)
		if p := n.content.pages[i]; p != nil {
			n.dirty[i] = struct{}{}
			if k == pageSize || in == 0 && end >= n.content.size {
				delete(n.content.pages, i)
				d.counted = false
			} else {
				own := p
				if p.gen != n.gen {
					own = &page{gen: n.gen, b: p.b}
					n.content.pages[i], d.counted = own, false
				}
				clear(own.b[in : in+k])
			}
		}
		off += k
	}
}

// file is an open file of a Disk.
type file struct {
	disk   *Disk
	node   *node
	name   string
	flag   int
	pos    int64
	closed bool
}

var _ vfs.File = (*file)(nil)

// use reports why an open file cannot be used; the disk's mutex is held.
func (f *file) use(op string, write bool) error {
	switch {
	case f.disk.dead:
		return pathError(op, f.name, ErrNoPower)
	case f.closed:
		return pathError(op, f.name, fs.ErrClosed)
	case f.node.mode.IsDir():
		return pathError(op, f.name, syscall.EISDIR)
	case write && f.flag&(os.O_WRONLY|os.O_RDWR) == 0:
		return pathError(op, f.name, syscall.EBADF)
	}
	return nil
}

// Name implements vfs.File.
func (f *file) Name() string { return f.name }

// Read implements vfs.File.
func (f *file) Read(p []byte) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	n, err := f.readAt(p, f.pos)
	f.pos += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// ReadAt implements vfs.File.
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	return f.readAt(p, off)
}

func (f *file) readAt(p []byte, off int64) (int, error) {
	if err := f.use("read", false); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, pathError("read", f.name, syscall.EINVAL)
	}
	c := &f.node.content
	n := 0
	for n < len(p) && off < c.size {
		in := off % pageSize
		k := int(min(pageSize-in, c.size-off, int64(len(p)-n)))
		if pg := c.pages[off/pageSize]; pg != nil {
			copy(p[n:n+k], pg.b[in:])
		} else {
			clear(p[n : n+k])
		}
		n, off = n+k, off+int64(k)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Write implements vfs.File.
func (f *file) Write(p []byte) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	n, err := f.writeAt(p, f.pos)
	f.pos += int64(n)
	return n, err
}

// WriteAt implements vfs.File.
func (f *file) WriteAt(p []byte, off int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	return f.writeAt(p, off)
}

func (f *file) writeAt(p []byte, off int64) (n int, err error) {
	if err := f.use("write", true); err != nil {
		return 0, err
	}
	for n < len(p) {
		in := off % pageSize
		pg, err := f.disk.writable(f.node, off/pageSize)
		if err != nil {
			return n, pathError("write", f.name, err)
		}
		k := copy(pg.b[in:], p[n:])
		n, off = n+k, off+int64(k)
		f.node.content.size = max(f.node.content.size, off)
	}
	f.node.mtime = time.Now()
	return n, nil
}

// Size implements vfs.File.
func (f *file) Size() (int64, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	return f.node.content.size, f.use("stat", false)
}

// Truncate implements vfs.File.
func (f *file) Truncate(size int64) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.use("truncate", true); err != nil {
		return err
	}
	if size < 0 {
		return pathError("truncate", f.name, syscall.EINVAL)
	}
	f.disk.truncate(f.node, size)
	return nil
}

// Sync implements vfs.File. The file's name is durable when its folder is
// synced.
func (f *file) Sync() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.use("sync", false); err != nil {
		return err
	}
	n := f.node
	for i := range n.dirty {
		n.stable.put(i, n.content.pages[i])
	}
	n.stable.size = n.content.size
	clear(n.dirty)
	n.gen = f.disk.nextGen()
	return nil
}

// failSync is a sync that fails: what was not synced is read as before, and no
// later sync makes it durable, until it is written again.
func (f *file) failSync() {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	clear(f.node.dirty)
}

// OwnedLike implements vfs.File.
func (f *file) OwnedLike(fi fs.FileInfo) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.use("chmod", false); err != nil {
		return err
	}
	f.node.mode = f.node.mode&^fs.ModePerm | fi.Mode().Perm()
	return nil
}

// PunchHole implements vfs.File.
func (f *file) PunchHole(off, n int64) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.use("fallocate", true); err != nil {
		return err
	}
	if off < 0 || n <= 0 {
		return pathError("fallocate", f.name, syscall.EINVAL)
	}
	if end := min(off+n, f.node.content.size); off < end {
		f.disk.zero(f.node, off, end-off)
	}
	return nil
}

// NextData implements vfs.File.
func (f *file) NextData(off int64) (start, end int64, err error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.use("seek data", false); err != nil {
		return 0, 0, err
	}
	c := &f.node.content
	first := int64(-1)
	if last := (c.size + pageSize - 1) / pageSize; last-off/pageSize <= int64(len(c.pages)) {
		for i := off / pageSize; i < last && first < 0; i++ {
			if c.pages[i] != nil {
				first = i
			}
		}
	} else {
		for i := range c.pages {
			if i >= off/pageSize && (first < 0 || i < first) {
				first = i
			}
		}
	}
	if first < 0 || off >= c.size {
		return 0, 0, io.EOF
	}
	i := first
	for c.pages[i] != nil {
		i++
	}
	return max(off, first*pageSize), min(i*pageSize, c.size), nil
}

// FromMedium implements vfs.File: over a Disk lies no cache.
func (f *file) FromMedium() (vfs.File, vfs.Source, error) { return f, vfs.Medium, f.Sync() }

// CloneFrom implements vfs.File.
func (f *file) CloneFrom(src vfs.File) error {
	s, ok := src.(*file)
	if !ok || s.disk != f.disk {
		return errors.ErrUnsupported
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if !f.disk.reflink {
		return pathError("clone", f.name, errors.ErrUnsupported)
	}
	if err := errors.Join(f.use("clone", true), s.use("clone", false)); err != nil {
		return err
	}
	f.disk.truncate(f.node, 0)
	for i, p := range s.node.content.pages {
		f.node.content.pages[i] = p
		f.node.dirty[i] = struct{}{}
	}
	f.node.content.size = s.node.content.size
	f.node.gen, s.node.gen = f.disk.nextGen(), f.disk.nextGen()
	f.node.reflinked, s.node.reflinked = true, true
	f.disk.counted = false
	return nil
}

// Close implements vfs.File.
func (f *file) Close() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.closed {
		return pathError("close", f.name, fs.ErrClosed)
	}
	f.closed = true
	return nil
}
