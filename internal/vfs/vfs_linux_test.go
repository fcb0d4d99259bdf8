package vfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/internal/vfs/faultfs"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var errDisk = errors.New("injected")

// TestWriteFileIsAllOrNothing: wherever it breaks off, the old content stays and
// nothing is left beside it.
func TestWriteFileIsAllOrNothing(t *testing.T) {
	t.Parallel()
	for n := 0; ; n++ {
		path := filepath.Join(t.TempDir(), "state.json")
		must(t, vfs.WriteFile(vfs.OS{}, path, []byte("old"), 0o600))
		f, left := faultfs.Over(vfs.OS{}), n
		f.SetHook(func(op faultfs.Op, _ string) error {
			if left--; left < 0 && op != faultfs.Rename && op != faultfs.Remove {
				return errDisk
			}
			return nil
		})
		err := vfs.WriteFile(f, path, []byte("new content"), 0o600)
		want := "old"
		if err == nil {
			want = "new content"
		} else if !errors.Is(err, errDisk) {
			t.Fatal(err)
		}
		got, rerr := vfs.ReadFile(vfs.OS{}, path)
		must(t, rerr)
		entries, rerr := vfs.OS{}.ReadDir(filepath.Dir(path))
		must(t, rerr)
		if string(got) != want || len(entries) != 1 {
			t.Fatalf("after %d operations: %q, %d files", n, got, len(entries))
		}
		if err == nil {
			return
		}
	}
}

func TestFolders(t *testing.T) {
	t.Parallel()
	o := vfs.OS{}
	dir := filepath.Join(t.TempDir(), "a", "b", "c")
	must(t, o.MkdirAll(dir, 0o700))
	must(t, o.MkdirAll(dir, 0o700))
	file := filepath.Join(dir, "file")
	must(t, vfs.WriteFile(o, file, []byte("x"), 0o600))
	if err := o.MkdirAll(file, 0o700); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a folder over a file: %v", err)
	}
	if err := o.MkdirAll(filepath.Join(file, "below"), 0o700); err == nil {
		t.Error("a folder below a file")
	}
	moved := filepath.Join(filepath.Dir(dir), "moved")
	must(t, o.Rename(file, moved))
	if _, err := o.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is at both places: %v", err)
	}
	if err := o.Rename(file, moved); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file was renamed: %v", err)
	}
	must(t, o.Remove(moved))
	must(t, o.Remove(moved))
	if err := o.Remove(filepath.Dir(filepath.Dir(dir))); err == nil {
		t.Error("a folder with something in it was removed")
	}
	must(t, o.RemoveAll(filepath.Dir(dir)))
	if _, err := vfs.ReadFile(o, moved); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if n, err := o.Free(t.TempDir()); err != nil || n <= 0 {
		t.Errorf("free %d, %v", n, err)
	}
	if _, err := o.Free(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("the error does not name the path: %v", err)
	}
}

const mib = 1 << 20

// TestHoles: a hole reads as zero, the size stays, and NextData passes over it.
func TestHoles(t *testing.T) {
	t.Parallel()
	for name, punch := range map[string]func(vfs.File, int64, int64) error{
		"holes": func(f vfs.File, off, n int64) error { return f.PunchHole(off, n) },
		"zeros": vfs.WriteZeros,
	} {
		f, err := vfs.OS{}.OpenFile(filepath.Join(t.TempDir(), "disk"), vfs.CreateNew, 0o600)
		must(t, err)
		want := bytes.Repeat([]byte{7}, 4*mib)
		_, err = f.WriteAt(want, 0)
		must(t, err)
		must(t, punch(f, mib, 2*mib+100))
		clear(want[mib : 3*mib+100])
		got := make([]byte, len(want))
		_, err = f.ReadAt(got, 0)
		must(t, err)
		if size, err := f.Size(); err != nil || size != 4*mib || !bytes.Equal(got, want) {
			t.Errorf("%s: size %d, %v; the content is right: %v", name, size, err, bytes.Equal(got, want))
		}
		must(t, f.Close())
	}
}

func TestNextData(t *testing.T) {
	t.Parallel()
	f, err := vfs.OS{}.OpenFile(filepath.Join(t.TempDir(), "disk"), vfs.Create, 0o600)
	must(t, err)
	if _, _, err := f.NextData(0); !errors.Is(err, io.EOF) {
		t.Errorf("an empty file: %v", err)
	}
	must(t, f.Truncate(16*mib))
	_, err = f.WriteAt([]byte("data"), 4*mib)
	must(t, err)
	held := int64(0)
	for off := int64(0); ; {
		start, end, err := f.NextData(off)
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		if start < off || end <= start || end > 16*mib {
			t.Fatalf("from %d: data from %d to %d", off, start, end)
		}
		if start <= 4*mib && end >= 4*mib+4 {
			held++
		}
		off = end
	}
	if held != 1 {
		t.Errorf("the data was found %d times", held)
	}
	if _, _, err := f.NextData(16 * mib); !errors.Is(err, io.EOF) {
		t.Errorf("past the end: %v", err)
	}
	must(t, f.Close())
	if _, _, err := f.NextData(0); err == nil {
		t.Error("a closed file has data")
	}
}

// TestClone: the copy is the whole file, or the file system says that it cannot.
func TestClone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, vfs.WriteFile(vfs.OS{}, dir+"/a", bytes.Repeat([]byte("x"), mib), 0o600))
	a, err := vfs.OS{}.OpenFile(dir+"/a", vfs.ReadOnly, 0)
	must(t, err)
	b, err := vfs.OS{}.OpenFile(dir+"/b", vfs.CreateTrunc, 0o600)
	must(t, err)
	if err := b.CloneFrom(struct{ vfs.File }{a}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a file of another kind: %v", err)
	}
	switch err := b.CloneFrom(a); {
	case err == nil:
		if got, err := vfs.ReadFile(vfs.OS{}, dir+"/b"); err != nil || len(got) != mib || got[mib-1] != 'x' {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	case !errors.Is(err, errors.ErrUnsupported):
		t.Errorf("got %v", err)
	}
	must(t, errors.Join(a.Close(), b.Close()))
}

// TestLock: one holder at a time, named to the other.
func TestLock(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	must(t, os.WriteFile(path, []byte("123456789012"), 0o600)) // of a process that died
	release, err := vfs.OS{}.Lock(path)
	must(t, err)
	_, err = vfs.OS{}.Lock(path)
	if !errors.Is(err, vfs.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d:", os.Getpid())) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
	must(t, release())
	release, err = vfs.OS{}.Lock(path)
	must(t, err)
	must(t, release())
	if _, err := (vfs.OS{}).Lock(filepath.Join(path, "below")); err == nil {
		t.Error("a lock below a file")
	}
}
