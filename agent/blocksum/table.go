package blocksum

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
)

// Table is the block table of one disk, kept in a file.
type Table struct {
	fsys vfs.FS
	path string

	mu sync.RWMutex // held for writing while size or file as a whole change
	f  vfs.File
	h  header
}

// Create makes the table of a disk of size bytes that holds only zeros,
// durably; a file at path is replaced.
func Create(fsys vfs.FS, path string, key uint64, size int64) (_ *Table, err error) {
	if size < 0 || size > MaxSize {
		return nil, fmt.Errorf("cannot create block table %s: disk size %d is out of range", path, size)
	}
	tmp := path + vfs.TempSuffix
	f, err := fsys.OpenFile(tmp, vfs.CreateTrunc, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot create block table: %w", err)
	}
	t := &Table{fsys: fsys, path: path, f: f, h: header{keyCheck: keyCheck(key), size: size}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("cannot create block table %s: %w", path, err), f.Close(), fsys.Remove(tmp))
		}
	}()
	if err = f.Truncate(fileSize(size)); err != nil {
		return nil, err
	}
	if err = t.writeHeader(t.h); err != nil {
		return nil, err
	}
	if err = fsys.Rename(tmp, path); err != nil {
		return nil, err
	}
	return t, nil
}

// Open opens an existing table. fault.Corrupt: the file is no table of this
// format, is damaged, or belongs to a disk with another key; fault.Refused: a
// newer program wrote it. Both leave it as it was. A missing file satisfies errors.Is(err, fs.ErrNotExist).
func Open(fsys vfs.FS, path string, key uint64) (_ *Table, err error) {
	f, err := fsys.OpenFile(path, vfs.ReadWrite, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open block table: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	have, err := f.Size()
	if err != nil {
		return nil, fmt.Errorf("cannot open block table %s: %w", path, err)
	}
	if have < headerSize {
		return nil, fault.Errorf(fault.Corrupt, "cannot open block table %s: at byte %d: the file ends in its header",
			path, have).WithHint(compareHint)
	}
	b := make([]byte, fieldsSize)
	if _, err = f.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("cannot open block table %s: %w", path, err)
	}
	h, err := decodeHeader(path, b)
	if err != nil {
		return nil, err
	}
	if h.keyCheck != keyCheck(key) {
		return nil, fault.Errorf(fault.Corrupt, "cannot open block table %s: at byte 24: it belongs to a disk with another key",
			path).WithHint(compareHint)
	}
	want := fileSize(h.size)
	if have < want {
		return nil, fault.Errorf(fault.Corrupt, "cannot open block table %s: at byte %d: the file is %d bytes short",
			path, have, want-have).WithHint(compareHint)
	}
	if have > want { // a crash in Resize
		if err = f.Truncate(want); err != nil {
			return nil, fmt.Errorf("cannot open block table %s: %w", path, err)
		}
	}
	return &Table{fsys: fsys, path: path, f: f, h: h}, nil
}

func fileSize(size int64) int64 { return headerSize + entrySize*BlockCount(size) }

func (t *Table) writeHeader(h header) error {
	if _, err := t.f.WriteAt(h.encode(), 0); err != nil {
		return err
	}
	return t.f.Sync()
}

// Size returns the size of the disk in bytes.
func (t *Table) Size() int64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.h.size
}

// Blocks returns the number of blocks.
func (t *Table) Blocks() int64 { return BlockCount(t.Size()) }

// Ranges returns the number of ranges; the last may have fewer than
// RangeBlocks blocks.
func (t *Table) Ranges() int64 { return ranges(t.Blocks()) }

func ranges(blocks int64) int64 { return (blocks + RangeBlocks - 1) / RangeBlocks }

// Resize sets the size of the disk in bytes, durably. Blocks past the old end
// start as zero, hashes past the new end are forgotten. If the old or the new
// size is no multiple of BlockSize, the hash of that short last block is left
// as it was: the caller hashes that block again (on growth the old last block,
// on a cut the new last one).
func (t *Table) Resize(size int64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if size < 0 || size > MaxSize {
		return fmt.Errorf("cannot resize block table %s: disk size %d is out of range", t.path, size)
	}
	h, old := t.h, t.h.size
	h.size = size
	steps := []func() error{
		func() error { return t.f.Truncate(fileSize(size)) },
		func() error { return t.writeHeader(h) },
	}
	if size < old { // the file is never shorter than its header says
		steps[0], steps[1] = steps[1], steps[0]
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("cannot resize block table %s: %w", t.path, err)
		}
	}
	t.h = h
	return nil
}

// rangeLen returns the number of blocks of range r; t.mu is held.
func (t *Table) rangeLen(r int64) (int, error) {
	blocks := BlockCount(t.h.size)
	if r < 0 || r >= ranges(blocks) {
		return 0, fmt.Errorf("range %d is outside the table %s of %d blocks", r, t.path, blocks)
	}
	return int(min(RangeBlocks, blocks-r*RangeBlocks)), nil
}

var rangeBufs = sync.Pool{New: func() any { return new([RangeBlocks * entrySize]byte) }}

// ReadRange fills dst with the hashes of range r and returns their number;
// dst needs room for that many (RangeBlocks always suffices).
func (t *Table) ReadRange(r int64, dst []uint64) (n int, err error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	n, err = t.rangeLen(r)
	if err != nil {
		return 0, fmt.Errorf("cannot read block table: %w", err)
	}
	if len(dst) < n {
		return 0, fmt.Errorf("cannot read block table %s: room for %d of %d hashes", t.path, len(dst), n)
	}
	buf := rangeBufs.Get().(*[RangeBlocks * entrySize]byte)
	defer rangeBufs.Put(buf)
	b := buf[:n*entrySize]
	if _, err := t.f.ReadAt(b, headerSize+r*RangeBlocks*entrySize); err != nil {
		return 0, fmt.Errorf("cannot read block table %s: %w", t.path, err)
	}
	for i := range dst[:n] {
		dst[i] = binary.LittleEndian.Uint64(b[i*entrySize:])
	}
	return n, nil
}

// WriteRange replaces the hashes of range r; src has exactly as many as the
// range has blocks. A range of zeros becomes a hole.
func (t *Table) WriteRange(r int64, src []uint64) error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	n, err := t.rangeLen(r)
	if err != nil {
		return fmt.Errorf("cannot write block table: %w", err)
	}
	if len(src) != n {
		return fmt.Errorf("cannot write block table %s: %d hashes for a range of %d blocks", t.path, len(src), n)
	}
	buf := rangeBufs.Get().(*[RangeBlocks * entrySize]byte)
	defer rangeBufs.Put(buf)
	b := buf[:n*entrySize]
	var all uint64
	for i, h := range src {
		all |= h
		binary.LittleEndian.PutUint64(b[i*entrySize:], h)
	}
	off := headerSize + r*RangeBlocks*entrySize
	if all == 0 {
		err = t.f.PunchHole(off, int64(len(b)))
	} else {
		_, err = t.f.WriteAt(b, off)
	}
	if err != nil {
		return fmt.Errorf("cannot write block table %s: %w", t.path, err)
	}
	return nil
}

// Get returns the hash of one block.
func (t *Table) Get(block int64) (uint64, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.get(block)
}

func (t *Table) get(block int64) (uint64, error) {
	if block < 0 || block >= BlockCount(t.h.size) {
		return 0, fmt.Errorf("cannot read block table %s: block %d is outside of %d", t.path, block, BlockCount(t.h.size))
	}
	var b [entrySize]byte
	if _, err := t.f.ReadAt(b[:], headerSize+block*entrySize); err != nil {
		return 0, fmt.Errorf("cannot read block table %s: %w", t.path, err)
	}
	return binary.LittleEndian.Uint64(b[:]), nil
}

// Set replaces the hash of one block. For many neighbours use WriteRange.
func (t *Table) Set(block int64, h uint64) error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if h == 0 { // keep holes
		if old, err := t.get(block); err != nil || old == 0 {
			return err
		}
	}
	if block < 0 || block >= BlockCount(t.h.size) {
		return fmt.Errorf("cannot write block table %s: block %d is outside of %d", t.path, block, BlockCount(t.h.size))
	}
	var b [entrySize]byte
	binary.LittleEndian.PutUint64(b[:], h)
	if _, err := t.f.WriteAt(b[:], headerSize+block*entrySize); err != nil {
		return fmt.Errorf("cannot write block table %s: %w", t.path, err)
	}
	return nil
}

// Sync makes all changes durable.
func (t *Table) Sync() error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if err := t.f.Sync(); err != nil {
		return fmt.Errorf("cannot sync block table %s: %w", t.path, err)
	}
	return nil
}

// Close closes the file; what was not synced may be lost in a crash.
func (t *Table) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.f.Close()
}

// eachData calls fn with the table's bytes that are no hole, in order, in
// pieces whose offset (from the start of the file) and length are multiples of
// entrySize; t.mu is held. The piece is valid until fn returns.
func (t *Table) eachData(from, to int64, fn func(off int64, p []byte) error) error {
	buf := make([]byte, 64<<10)
	for from < to {
		start, end, err := t.f.NextData(from)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		start = max(start&^(entrySize-1), from)
		end = min((end+entrySize-1)&^(entrySize-1), to)
		for ; start < end; start += int64(len(buf)) {
			p := buf[:min(int64(len(buf)), end-start)]
			if _, err := t.f.ReadAt(p, start); err != nil {
				return err
			}
			if err := fn(start, p); err != nil {
				return err
			}
		}
		from = end
	}
	return nil
}
