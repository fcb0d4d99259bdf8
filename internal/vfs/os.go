package vfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Flags for OpenFile.
const (
	ReadOnly    = os.O_RDONLY
	ReadWrite   = os.O_RDWR
	Create      = os.O_RDWR | os.O_CREATE
	CreateTrunc = os.O_RDWR | os.O_CREATE | os.O_TRUNC
	CreateNew   = os.O_RDWR | os.O_CREATE | os.O_EXCL
)

// OS is the machine's file system.
type OS struct{}

var _ FS = OS{}

// OpenFile implements FS.
func (OS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Rename implements FS.
func (o OS) Rename(oldName, newName string) error {
	if err := os.Rename(oldName, newName); err != nil {
		return err
	}
	from, to := filepath.Dir(oldName), filepath.Dir(newName)
	if err := o.SyncDir(to); err != nil || from == to {
		return err
	}
	return o.SyncDir(from)
}

// Remove implements FS.
func (o OS) Remove(name string) error {
	if err := os.Remove(name); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return o.SyncDir(filepath.Dir(name))
}

// RemoveAll implements FS.
func (OS) RemoveAll(name string) error { return os.RemoveAll(name) }

// MkdirAll implements FS.
func (o OS) MkdirAll(name string, perm fs.FileMode) error {
	name = filepath.Clean(name)
	if fi, err := os.Stat(name); err == nil {
		if !fi.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: name, Err: fs.ErrExist}
		}
		return nil
	}
	parent := filepath.Dir(name)
	if parent != name {
		if err := o.MkdirAll(parent, perm); err != nil {
			return err
		}
	}
	if err := os.Mkdir(name, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return o.SyncDir(parent)
}

// ReadDir implements FS.
func (OS) ReadDir(name string) ([]fs.DirEntry, error) { return os.ReadDir(name) }

// Stat implements FS.
func (OS) Stat(name string) (fs.FileInfo, error) { return os.Stat(name) }

// SyncDir implements FS.
func (OS) SyncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// osFile adds what *os.File lacks; the parts that need system calls are in
// os_linux.go and os_other.go.
type osFile struct{ *os.File }

// OwnedLike implements File.
func (f osFile) OwnedLike(fi fs.FileInfo) error {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	return f.Chmod(fi.Mode().Perm()) // after the owner, whose change may take permissions away
}

// Size implements File. Seeking to the end works for block devices as well.
func (f osFile) Size() (int64, error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if fi.Mode().IsRegular() {
		return fi.Size(), nil
	}
	pos, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	_, err = f.Seek(pos, io.SeekStart)
	return end, err
}

// syncForReading makes durable what was written to a file that is open for
// reading, so that the medium has it. On a file system that is mounted to be
// read there is nothing to sync.
func (f osFile) syncForReading() error {
	if err := f.Sync(); err != nil && !errors.Is(err, syscall.EROFS) && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}

func (f osFile) writeZeros(off, n int64) error {
	zeros := make([]byte, min(n, 1<<20))
	for n > 0 {
		k := min(n, int64(len(zeros)))
		if _, err := f.WriteAt(zeros[:k], off); err != nil {
			return err
		}
		off, n = off+k, n-k
	}
	return nil
}
