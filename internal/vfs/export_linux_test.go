package vfs

import "errors"

// WriteZeros is what PunchHole does where the file system has no holes.
func WriteZeros(f File, off, n int64) error {
	o, ok := f.(osFile)
	if !ok {
		return errors.ErrUnsupported
	}
	return o.writeZeros(off, n)
}
