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

// Uncached is what FromMedium does where no direct reads are possible.
func Uncached(f File) (Source, error) {
	o, ok := f.(osFile)
	if !ok {
		return "", errors.ErrUnsupported
	}
	err := o.syncForReading()
	return o.dropCache(), err
}
