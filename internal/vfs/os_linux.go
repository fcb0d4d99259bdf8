package vfs

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// again repeats a system call that a signal interrupted: the runtime of Go
// sends some to every thread.
func again(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Free implements FS.
func (OS) Free(name string) (int64, error) {
	var st unix.Statfs_t
	if err := again(func() error { return unix.Statfs(name, &st) }); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: name, Err: err}
	}
	return int64(st.Bavail) * st.Bsize, nil //nolint:gosec // block counts fit
}

// PunchHole implements File.
func (f osFile) PunchHole(off, n int64) error {
	err := again(func() error {
		return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return f.writeZeros(off, n)
	}
	if err != nil {
		return &os.PathError{Op: "fallocate", Path: f.Name(), Err: err}
	}
	return nil
}

// NextData implements File.
func (f osFile) NextData(off int64) (start, end int64, err error) {
	size, err := f.Size()
	if err != nil {
		return 0, 0, err
	}
	if off >= size {
		return 0, 0, io.EOF
	}
	fd := int(f.Fd())
	start, err = unix.Seek(fd, off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return 0, 0, io.EOF
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return off, size, nil // block devices and old file systems: all may be data
	case err != nil:
		return 0, 0, &os.PathError{Op: "seek data", Path: f.Name(), Err: err}
	}
	end, err = unix.Seek(fd, start, unix.SEEK_HOLE)
	if err != nil {
		return start, size, nil //nolint:nilerr // without SEEK_HOLE the rest counts as data
	}
	return start, end, nil
}

// CloneFrom implements File.
func (f osFile) CloneFrom(src File) error {
	s, ok := src.(osFile)
	if !ok {
		return errors.ErrUnsupported
	}
	if err := unix.IoctlFileClone(int(f.Fd()), int(s.Fd())); err != nil {
		return fmt.Errorf("%w: reflink: %w", errors.ErrUnsupported, err)
	}
	return nil
}

// Lock implements FS.
func (OS) Lock(name string) (release func() error, err error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := again(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }); err != nil {
		holder, _ := io.ReadAll(io.LimitReader(f, 32)) // best effort: only for the message
		_ = f.Close()
		return nil, fmt.Errorf("%w by process %s: %s", ErrLocked, holder, name)
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(fmt.Sprint(os.Getpid())), 0)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() error {
		// A child between fork and exec may have the descriptor still.
		return errors.Join(again(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_UN) }), f.Close())
	}, nil
}
