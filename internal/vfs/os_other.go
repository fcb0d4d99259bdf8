//go:build !linux

package vfs

import (
	"errors"
	"io"
	"os"
)

// Lock is only implemented on Linux, the platform drrun runs on.
func (OS) Lock(string) (func() error, error) { return nil, errors.ErrUnsupported }

// Free implements FS.
func (OS) Free(string) (int64, error) { return 0, errors.ErrUnsupported }

// PunchHole implements File.
func (f osFile) PunchHole(off, n int64) error { return f.writeZeros(off, n) }

// NextData implements File.
func (f osFile) NextData(off int64) (start, end int64, err error) {
	size, err := f.Size()
	if err != nil {
		return 0, 0, err
	}
	if off >= size {
		return 0, 0, io.EOF
	}
	return off, size, nil
}

// FromMedium implements File.
func (f osFile) FromMedium() (File, Source, error) { return f, Cache, f.syncForReading() }

// CloneFrom implements File.
func (f osFile) CloneFrom(File) error {
	return &os.PathError{Op: "clone", Path: f.Name(), Err: errors.ErrUnsupported}
}
