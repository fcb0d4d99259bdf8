package blocksum_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/internal/vfs"
)

var errDisk = errors.New("disk on fire")

// badFS fails every change from the nth on, for as long as it burns.
type badFS struct {
	vfs.OS
	left *int
}

type badFile struct {
	vfs.File
	left *int
}

func burn(left *int) error {
	if *left--; *left < 0 {
		return errDisk
	}
	return nil
}

func (b badFS) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	f, err := b.OS.OpenFile(name, flag, perm)
	return badFile{f, b.left}, err
}

func (b badFS) Rename(from, to string) error {
	if err := burn(b.left); err != nil {
		return err
	}
	return b.OS.Rename(from, to)
}

func (b badFile) WriteAt(p []byte, off int64) (int, error) {
	if err := burn(b.left); err != nil {
		return 0, err
	}
	return b.File.WriteAt(p, off)
}

func (b badFile) Truncate(n int64) error {
	if err := burn(b.left); err != nil {
		return err
	}
	return b.File.Truncate(n)
}

func (b badFile) Sync() error {
	if err := burn(b.left); err != nil {
		return err
	}
	return b.File.Sync()
}

// Create and CopyTo leave nothing behind when they cannot finish.
func TestFailedFilesAreRemoved(t *testing.T) {
	t.Parallel()
	for n := range 100 {
		left, dir := n, t.TempDir()
		fsys, path := badFS{left: &left}, filepath.Join(dir, "t")
		tab, err := blocksum.Create(fsys, path, key, 100*blocksum.BlockSize)
		want := 0
		if err == nil {
			want = 1
			left = n
			if err = tab.CopyTo(path + "2"); err == nil {
				return
			}
			ok(t, tab.Close())
		}
		if !errors.Is(err, errDisk) {
			t.Fatalf("operation %d: %v", n, err)
		}
		if got := must(os.ReadDir(dir)); len(got) != want {
			t.Fatalf("operation %d leaves %v", n, got)
		}
	}
	t.Fatal("never came to the end")
}

// Wherever a Resize breaks off, the table opens again at the old or the new
// size, without a hash changed, and grows with zeros.
func TestResizeBreaksOff(t *testing.T) {
	t.Parallel()
	const was = 1000
	for _, size := range []int64{400, 3000} {
		for n := range 5 {
			left := 1 << 30
			path := filepath.Join(t.TempDir(), "t")
			tab := must(blocksum.Create(badFS{left: &left}, path, key, was*blocksum.BlockSize))
			for b := range int64(was) {
				ok(t, tab.Set(b, uint64(b+1)))
			}
			left = n
			err := tab.Resize(size * blocksum.BlockSize)
			if (err == nil) != (n >= 3) {
				t.Fatalf("resize with %d operations: %v", n, err)
			}
			ok(t, tab.Close())
			tab = must(blocksum.Open(vfs.OS{}, path, key))
			got := tab.Blocks()
			if got != was && got != size || err == nil && got != size {
				t.Fatalf("%d blocks after %d operations of a resize to %d", got, n, size)
			}
			ok(t, tab.Resize(5000*blocksum.BlockSize))
			m := make(model, 5000)
			for b := range min(got, was) {
				m[b] = uint64(b + 1)
			}
			check(t, tab, m)
			ok(t, tab.Close())
		}
	}
}
