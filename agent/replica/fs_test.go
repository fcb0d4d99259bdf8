package replica_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/drrun/drrun/internal/vfs"
)

// fastFS is the real file system without waiting for the disk.
type fastFS struct{ vfs.OS }

func (fastFS) Rename(a, b string) error { return os.Rename(a, b) }
func (fastFS) Remove(a string) error {
	if err := os.Remove(a); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
func (fastFS) MkdirAll(a string, perm fs.FileMode) error { return os.MkdirAll(a, perm) }
func (fastFS) SyncDir(string) error                      { return nil }
func (f fastFS) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	file, err := f.OS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return fastFile{file}, nil
}

type fastFile struct{ vfs.File }

func (fastFile) Sync() error { return nil }

// faultFS counts the operations that change something and dies at one of them:
// that one is done in part or not at all, and all later ones fail. With power
// set, what was written and not synced is lost as well, and files that were made
// in a folder that was not synced since.
type faultFS struct {
	fastFS
	power bool

	mu     sync.Mutex
	left   int // operations until it dies; < 0: never
	done   int
	dead   bool
	synced map[string][]byte // content at the last sync of files written since
	fresh  map[string]bool   // files made since the last sync of their folder
	free   func(string) (int64, error)
	filter func(op, path string) error // nil: no rule
	late   func(op, path string) error // the same, when the operation is done
	look   func(path string) error     // of Stat; nil: no rule
}

var errDead = errors.New("the machine lost its power")

// op counts one operation; it returns errDead when this is the last one.
func (f *faultFS) op(kind, path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return errDead
	}
	if f.filter != nil {
		if err := f.filter(kind, path); err != nil {
			return err
		}
	}
	f.done++
	if f.left == 0 {
		f.dead = true
		return errDead
	}
	f.left--
	return nil
}

// after gives the result of an operation that is done.
func (f *faultFS) after(kind, path string, err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && f.late != nil {
		err = f.late(kind, path)
	}
	return err
}

func (f *faultFS) alive() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return errDead
	}
	return nil
}

// crash puts the files as a power cut leaves them.
func (f *faultFS) crash() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead = true
	if !f.power {
		return nil
	}
	for path := range f.fresh {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	for path, content := range f.synced {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// folderSynced makes the entries of a folder durable; f.mu is held.
func (f *faultFS) folderSynced(dir string) {
	for path := range f.fresh {
		if filepath.Dir(path) == dir {
			delete(f.fresh, path)
		}
	}
}

func (f *faultFS) SyncDir(dir string) error {
	if err := f.op("syncdir", dir); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.folderSynced(dir)
	return nil
}

// touch remembers the content of a file before its first write since a sync.
func (f *faultFS) touch(path string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.power {
		return
	}
	if _, ok := f.synced[path]; ok {
		return
	}
	content, _ := os.ReadFile(path)
	f.synced[path] = content
}

func (f *faultFS) Rename(a, b string) error {
	if err := f.op("rename", b); err != nil {
		return err
	}
	f.mu.Lock()
	delete(f.synced, b)
	if c, ok := f.synced[a]; ok {
		f.synced[b] = c
		delete(f.synced, a)
	}
	f.folderSynced(filepath.Dir(a))
	f.folderSynced(filepath.Dir(b))
	f.mu.Unlock()
	return f.after("rename", b, f.fastFS.Rename(a, b))
}

func (f *faultFS) Remove(a string) error {
	if err := f.op("remove", a); err != nil {
		return err
	}
	f.mu.Lock()
	delete(f.synced, a)
	f.folderSynced(filepath.Dir(a))
	f.mu.Unlock()
	return f.after("remove", a, f.fastFS.Remove(a))
}

func (f *faultFS) RemoveAll(a string) error {
	if err := f.op("removeall", a); err != nil {
		return err
	}
	f.mu.Lock()
	for p := range f.synced {
		if strings.HasPrefix(p, a) {
			delete(f.synced, p)
		}
	}
	f.mu.Unlock()
	return f.after("removeall", a, f.fastFS.RemoveAll(a))
}

func (f *faultFS) MkdirAll(a string, perm fs.FileMode) error {
	if err := f.op("mkdir", a); err != nil {
		return err
	}
	return f.after("mkdir", a, f.fastFS.MkdirAll(a, perm))
}

func (f *faultFS) Stat(a string) (fs.FileInfo, error) {
	if err := f.alive(); err != nil {
		return nil, err
	}
	if f.look != nil {
		if err := f.look(a); err != nil {
			return nil, err
		}
	}
	return f.fastFS.Stat(a)
}

func (f *faultFS) ReadDir(a string) ([]fs.DirEntry, error) {
	if err := f.alive(); err != nil {
		return nil, err
	}
	return f.fastFS.ReadDir(a)
}

func (f *faultFS) Free(a string) (int64, error) {
	if f.free != nil {
		return f.free(a)
	}
	return f.fastFS.Free(a)
}

func (f *faultFS) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	if err := f.alive(); err != nil {
		return nil, err
	}
	if flag&(os.O_CREATE|os.O_TRUNC) != 0 {
		if err := f.op("create", name); err != nil {
			return nil, err
		}
		if flag&os.O_TRUNC != 0 {
			f.touch(name)
		}
		if _, err := os.Stat(name); f.power && errors.Is(err, fs.ErrNotExist) {
			f.mu.Lock()
			if f.fresh == nil {
				f.fresh = map[string]bool{}
			}
			f.fresh[name] = true
			f.mu.Unlock()
		}
	}
	file, err := f.fastFS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &faultFile{File: file, fs: f}, nil
}

type faultFile struct {
	vfs.File
	fs *faultFS
}

func (f *faultFile) Write(p []byte) (int, error) {
	f.fs.touch(f.Name())
	if err := f.fs.op("write", f.Name()); err != nil {
		_, _ = f.File.Write(p[:len(p)/2])
		return 0, err
	}
	return f.File.Write(p)
}

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	f.fs.touch(f.Name())
	if err := f.fs.op("write", f.Name()); err != nil {
		_, _ = f.File.WriteAt(p[:len(p)/2], off)
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *faultFile) Truncate(n int64) error {
	f.fs.touch(f.Name())
	if err := f.fs.op("truncate", f.Name()); err != nil {
		return err
	}
	return f.fs.after("truncate", f.Name(), f.File.Truncate(n))
}

func (f *faultFile) PunchHole(off, n int64) error {
	f.fs.touch(f.Name())
	if err := f.fs.op("punch", f.Name()); err != nil {
		return err
	}
	return f.fs.after("punch", f.Name(), f.File.PunchHole(off, n))
}

func (f *faultFile) CloneFrom(src vfs.File) error { return errors.ErrUnsupported }

func (f *faultFile) Sync() error {
	if err := f.fs.op("sync", f.Name()); err != nil {
		return err
	}
	f.fs.mu.Lock()
	delete(f.fs.synced, f.Name())
	f.fs.mu.Unlock()
	return f.fs.after("sync", f.Name(), nil)
}

// tempDir is a folder in memory where there is one: the tests write much.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "replica")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
