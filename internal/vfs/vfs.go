// Package vfs is the file system as agents and the runtime use it: every
// durable write goes through here, so that "temp file, fsync, rename, fsync of
// the directory" is written once, and so that tests can put a file system that
// forgets, tears or refuses writes in its place.
//
// It is not for reading plans or printing; only for state. All implementations
// are safe for concurrent use; a File's ReadAt and WriteAt too.
package vfs

import (
	"errors"
	"io"
	"io/fs"
	"syscall"
)

// FS is a file system. Names are slash-separated OS paths.
type FS interface {
	// OpenFile opens a file; flag and perm as in os.OpenFile.
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	// Rename moves a file over another atomically and makes that durable
	// (fsync of both directories) before it returns.
	Rename(oldName, newName string) error
	// Remove deletes a file or an empty directory, durably. A missing one is
	// no error.
	Remove(name string) error
	// RemoveAll deletes a tree. Not durable: callers treat leftovers as garbage.
	RemoveAll(name string) error
	// MkdirAll makes a directory and its parents, durably.
	MkdirAll(name string, perm fs.FileMode) error
	// ReadDir lists a directory in name order.
	ReadDir(name string) ([]fs.DirEntry, error)
	// Stat describes a file; errors satisfy errors.Is(err, fs.ErrNotExist).
	Stat(name string) (fs.FileInfo, error)
	// SyncDir makes the entries of a directory durable.
	SyncDir(name string) error
	// Free returns the bytes available to this process where name lies.
	Free(name string) (int64, error)
	// Lock takes the exclusive lock file name, writes this process's id into
	// it, and holds it until release or the end of the process. When another
	// one has it, the error is ErrLocked and names it.
	Lock(name string) (release func() error, err error)
}

// ErrLocked says that another process holds the lock.
var ErrLocked = errors.New("locked")

// SameFile reports whether two descriptions, both of one FS's Stat, are of the
// same file: a file that was replaced is another one.
func SameFile(a, b fs.FileInfo) bool {
	x, okX := a.Sys().(*syscall.Stat_t)
	y, okY := b.Sys().(*syscall.Stat_t)
	return okX && okY && x.Dev == y.Dev && x.Ino == y.Ino
}

// File is an open file or block device.
type File interface {
	io.Reader
	io.Writer
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Name returns the path it was opened with.
	Name() string
	// Size returns the size in bytes; it works for block devices too.
	Size() (int64, error)
	// Truncate changes the size.
	Truncate(size int64) error
	// Sync makes content and size durable.
	Sync() error
	// OwnedLike gives the file the permissions of another, and its owner and
	// group where this process may.
	OwnedLike(fi fs.FileInfo) error
	// PunchHole makes a range read as zero and frees its space; where the
	// file system cannot, it writes zeros.
	PunchHole(off, n int64) error
	// NextData returns the first range at or after off that may hold data;
	// what lies between off and start is a hole. io.EOF: only a hole follows.
	NextData(off int64) (start, end int64, err error)
	// FromMedium returns the file for reading what the medium holds, not what
	// the page cache keeps of it, and says how that is done. What was written
	// is synced before. The two are one open file: closing one closes both.
	FromMedium() (File, Source, error)
	// CloneFrom makes this (empty) file share the content of src by reflink;
	// errors.ErrUnsupported where the file system cannot.
	CloneFrom(src File) error
}

// Source says where what is read of a file comes from.
type Source string

// The sources, from the surest to the least sure.
const (
	Medium  Source = "medium"  // past the page cache
	Dropped Source = "dropped" // the cache was dropped before; pages that are in use stay in it
	Cache   Source = "cache"   // nothing could be done
)

// ReadFile returns the content of a file.
func ReadFile(fsys FS, name string) ([]byte, error) {
	f, err := fsys.OpenFile(name, ReadOnly, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// WriteFile replaces a file's content durably: after a crash it holds the old
// content or the new one, never a mixture. The temporary file stands beside
// it, under the name with TempSuffix.
func WriteFile(fsys FS, name string, data []byte, perm fs.FileMode) (err error) {
	tmp := name + TempSuffix
	f, err := fsys.OpenFile(tmp, CreateTrunc, perm)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, fsys.Remove(tmp))
		}
	}()
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return fsys.Rename(tmp, name)
}

// TempSuffix marks files that a crash may leave behind and a start removes.
const TempSuffix = ".tmp"
