package blocksum

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/drrun/drrun/internal/vfs"
)

// Sum returns the whole-disk sum: that of all hashes, modulo 2^64. It reads
// the table once and skips its holes.
func (t *Table) Sum() (uint64, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var sum uint64
	err := t.eachData(headerSize, fileSize(t.h.size), func(_ int64, p []byte) error {
		for ; len(p) > 0; p = p[entrySize:] {
			sum += binary.LittleEndian.Uint64(p)
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("cannot sum block table %s: %w", t.path, err)
	}
	return sum, nil
}

// MaxRangeSums is the most sums one call of RangeSums gives, 4 GiB of disk
// each thousand.
const MaxRangeSums = 1 << 16

// RangeSums returns the sums of count ranges from range start; fewer where the
// table ends. count is at most MaxRangeSums.
func (t *Table) RangeSums(start int64, count int) ([]uint64, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	all := ranges(BlockCount(t.h.size))
	if start < 0 || start > all || count < 0 || count > MaxRangeSums {
		return nil, fmt.Errorf("cannot sum block table %s: %d ranges from %d are outside of %d", t.path, count, start, all)
	}
	sums := make([]uint64, min(int64(count), all-start))
	const rangeBytes = RangeBlocks * entrySize
	from := headerSize + start*rangeBytes
	to := min(from+int64(len(sums))*rangeBytes, fileSize(t.h.size))
	err := t.eachData(from, to, func(off int64, p []byte) error {
		for ; len(p) > 0; p, off = p[entrySize:], off+entrySize {
			sums[(off-from)/rangeBytes] += binary.LittleEndian.Uint64(p)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot sum block table %s: %w", t.path, err)
	}
	return sums, nil
}

// CopyTo makes a copy of the table at path, durably: by reflink where the file
// system can, else sparse. A file at path is replaced once the copy is whole.
func (t *Table) CopyTo(path string) (err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	tmp := path + vfs.TempSuffix
	dst, err := t.fsys.OpenFile(tmp, vfs.CreateTrunc, 0o600)
	if err != nil {
		return fmt.Errorf("cannot copy block table %s: %w", t.path, err)
	}
	err = dst.CloneFrom(t.f)
	if errors.Is(err, errors.ErrUnsupported) {
		err = t.copySparse(dst)
	}
	if err == nil {
		err = dst.Sync()
	}
	if err = errors.Join(err, dst.Close()); err == nil {
		err = t.fsys.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cannot copy block table %s to %s: %w", t.path, path, err), t.fsys.Remove(tmp))
	}
	return nil
}

func (t *Table) copySparse(dst vfs.File) error {
	size := fileSize(t.h.size)
	if err := dst.Truncate(size); err != nil {
		return err
	}
	return t.eachData(0, size, func(off int64, p []byte) error {
		_, err := dst.WriteAt(p, off)
		return err
	})
}
