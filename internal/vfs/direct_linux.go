package vfs

import (
	"errors"
	"io"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// directAlign is what offsets, lengths and memory of direct reads are multiples
// of: no medium in use asks for more.
const directAlign = 4096

// directBytes is the most that is read at once.
const directBytes = 1 << 20

// FromMedium implements File: by direct reads, else by dropping what the page
// cache has of the file.
func (f osFile) FromMedium() (File, Source, error) {
	if err := f.syncForReading(); err != nil {
		return nil, "", err
	}
	if d, err := f.direct(); err == nil {
		return d, Medium, nil
	}
	return f, f.dropCache(), nil
}

// dropCache lets the page cache forget a file that is synced; pages that another
// program has mapped stay.
func (f osFile) dropCache() Source {
	if err := again(func() error { return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) }); err != nil {
		return Cache // it can be read all the same
	}
	return Dropped
}

// direct sets the file to direct reads, and tries one: some file systems take
// the flag and refuse the reads.
func (f osFile) direct() (*directFile, error) {
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return nil, err
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFL, flags|unix.O_DIRECT); err != nil {
		return nil, err
	}
	d := &directFile{osFile: f, buf: aligned(directBytes)}
	if _, err := d.pread(d.buf[:directAlign], 0); err != nil {
		_, back := unix.FcntlInt(f.Fd(), unix.F_SETFL, flags)
		return nil, errors.Join(err, back)
	}
	return d, nil
}

// aligned returns n bytes at an address that suits direct reads.
func aligned(n int) []byte {
	b := make([]byte, n+directAlign)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (directAlign - 1) //nolint:gosec // only for its last bits
	return b[skip : skip+n : skip+n]
}

// directFile is a file whose reads pass the page cache by.
type directFile struct {
	osFile
	mu  sync.Mutex
	buf []byte // aligned
}

// ReadAt implements File for any offset and length.
func (f *directFile) ReadAt(p []byte, off int64) (n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for n < len(p) {
		skip := int((off + int64(n)) & (directAlign - 1))
		want := min(len(f.buf), (skip+len(p)-n+directAlign-1)&^(directAlign-1))
		k, err := f.pread(f.buf[:want], off+int64(n)-int64(skip))
		if err != nil {
			return n, err
		}
		if k <= skip { // only at the end is less read than was asked for
			return n, io.EOF
		}
		got := copy(p[n:], f.buf[skip:k])
		n += got
		if k < want && n < len(p) {
			return n, io.EOF
		}
	}
	return n, nil
}

func (f *directFile) pread(p []byte, off int64) (n int, err error) {
	err = again(func() (err error) { n, err = unix.Pread(int(f.Fd()), p, off); return err })
	if err != nil {
		return 0, &os.PathError{Op: "read", Path: f.Name(), Err: err}
	}
	return n, nil
}
