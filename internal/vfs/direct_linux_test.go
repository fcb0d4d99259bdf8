package vfs_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/drrun/drrun/internal/needs"
	"github.com/drrun/drrun/internal/vfs"
)

// cached counts the bytes of a file that are in the page cache.
func cached(t *testing.T, path string) (n int) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	fi, err := f.Stat()
	must(t, err)
	p, err := unix.Mmap(int(f.Fd()), 0, int(fi.Size()), unix.PROT_READ, unix.MAP_SHARED)
	must(t, err)
	in := make([]byte, (len(p)+os.Getpagesize()-1)/os.Getpagesize())
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), uintptr(unsafe.Pointer(&in[0]))) //nolint:gosec // there is no wrapper
	must(t, unix.Munmap(p))
	if errno != 0 {
		t.Fatal(errno)
	}
	for _, b := range in {
		n += int(b&1) * os.Getpagesize()
	}
	return n
}

// TestFromMedium: any range is read as it is, at the end too, and where the
// medium is read nothing gets into the page cache.
func TestFromMedium(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 511, 4096, 3*mib + 777} {
		path := filepath.Join(t.TempDir(), "disk")
		want := make([]byte, size)
		_, err := rand.NewChaCha8([32]byte{1}).Read(want)
		must(t, err)
		must(t, os.WriteFile(path, want, 0o600)) // not synced
		plain, err := vfs.OS{}.OpenFile(path, vfs.ReadOnly, 0)
		must(t, err)
		f, from, err := plain.FromMedium()
		must(t, err)
		_, err = vfs.Uncached(plain) // what was written is cached
		must(t, err)
		rnd := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test
		for range 50 {
			off, n := rnd.IntN(size+1), rnd.IntN(2*mib)
			p := make([]byte, n)
			got, err := f.ReadAt(p, int64(off))
			whole := want[off:min(off+n, size)]
			if !bytes.Equal(p[:got], whole) || (err != nil) != (got < n) || err != nil && !errors.Is(err, io.EOF) {
				t.Fatalf("%d bytes: read %d from %d: got %d, %v; want %d", size, n, off, got, err, len(whole))
			}
		}
		if n, err := f.Size(); err != nil || n != int64(size) {
			t.Errorf("size %d, %v, want %d", n, err, size)
		}
		if size > 0 && from == vfs.Medium && !memory(t, path) {
			if n := cached(t, path); n > 0 {
				t.Errorf("%d bytes: after reading %d are cached", size, n)
			}
		}
		must(t, f.Close())
		if err := plain.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("the file is open still: %v", err)
		}
	}
}

// TestFromMediumEmptiesTheCache: what another program reads puts nothing in
// the way.
func TestFromMediumEmptiesTheCache(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "disk")
	if memory(t, t.TempDir()) {
		needs.Missing(t, "a file system on a disk", "set TMPDIR to a folder on one")
	}
	must(t, os.WriteFile(path, make([]byte, mib), 0o600))
	f, err := vfs.OS{}.OpenFile(path, vfs.ReadOnly, 0)
	must(t, err)
	if n := cached(t, path); n == 0 {
		t.Fatal("nothing is cached: the test shows nothing")
	}
	from, err := vfs.Uncached(f)
	must(t, err)
	if n := cached(t, path); from != vfs.Dropped || n != 0 {
		t.Errorf("%s, and %d bytes are cached", from, n)
	}
	must(t, f.Close())
}

// memory reports whether a path lies in memory, where the cache is the medium.
func memory(t *testing.T, path string) bool {
	t.Helper()
	var st unix.Statfs_t
	must(t, unix.Statfs(path, &st))
	return st.Type == unix.TMPFS_MAGIC
}
