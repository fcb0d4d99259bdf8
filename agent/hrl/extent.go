package hrl

import (
	"encoding/binary"
	"fmt"
)

// ExtentKind says what an extent holds.
type ExtentKind uint8

// The kinds of extents.
const (
	Data      ExtentKind = 1
	Zero      ExtentKind = 2 // reads as zero
	Discarded ExtentKind = 3 // reads as zero, and its owner said it is unused
)

// String returns the kind's word.
func (k ExtentKind) String() string {
	switch k {
	case Data:
		return "data"
	case Zero:
		return "zero"
	case Discarded:
		return "discarded"
	}
	return fmt.Sprintf("kind-%d", uint8(k))
}

// Extent is a range of the disk that a log holds. Off is a multiple of
// BlockSize, and Len too unless the extent ends at the header's SizeAfter (or
// was clipped by Lookup).
type Extent struct {
	Off  int64 // bytes
	Len  int64 // bytes
	Kind ExtentKind
}

// End returns the offset after the extent.
func (e Extent) End() int64 { return e.Off + e.Len }

// checkExtent returns what is wrong with the range of an extent of a disk of
// size bytes.
func checkExtent(off, n, size int64) error {
	switch {
	case off < 0 || n <= 0 || off > size || n > size-off:
		return fmt.Errorf("extent of %d bytes at %d is outside a disk of %d bytes", n, off, size)
	case off%BlockSize != 0:
		return fmt.Errorf("extent at %d does not begin on a block", off)
	case n%BlockSize != 0 && off+n != size:
		return fmt.Errorf("extent of %d bytes at %d does not end on a block", n, off)
	}
	return nil
}

// span is an extent inside a frame.
type span struct{ off, n int64 }

// appendSpans appends the extent list of a frame.
func appendSpans(b []byte, spans []span) []byte {
	var end int64 // in blocks
	for _, s := range spans {
		start, blocks, short := s.off/BlockSize, (s.n+BlockSize-1)/BlockSize, s.n%BlockSize
		b = binary.AppendVarint(b, start-end)
		if short == 0 {
			b = binary.AppendUvarint(b, uint64(blocks)<<1)
		} else {
			b = binary.AppendUvarint(b, uint64(blocks)<<1|1)
			b = binary.AppendUvarint(b, uint64(short))
		}
		end = start + blocks
	}
	return b
}

// parseSpans reads a frame's extent list of count extents into dst; size is
// that of the disk. It returns the sum of the lengths, and on an error the
// offset inside the list.
func parseSpans(dst []span, list []byte, count int, size int64) (_ []span, total int64, at int, _ error) {
	const maxBlocks = MaxDisk / BlockSize
	rest := list
	pos := func() int { return len(list) - len(rest) }
	uvarint := func() (uint64, bool) {
		v, n := binary.Uvarint(rest)
		rest = rest[max(n, 0):]
		return v, n > 0
	}
	var end int64
	dst = dst[:0]
	for range count {
		at := pos()
		gap, n := binary.Varint(rest)
		rest = rest[max(n, 0):]
		v, ok := uvarint()
		var short uint64
		if ok && v&1 == 1 {
			short, ok = uvarint()
			ok = ok && short > 0 && short < BlockSize
		}
		blocks := int64(v >> 1)
		if n <= 0 || !ok || gap > maxBlocks || gap < -maxBlocks || blocks < 1 || blocks > maxBlocks {
			return nil, 0, at, fmt.Errorf("the extent list is damaged")
		}
		s := span{off: (end + gap) * BlockSize, n: blocks * BlockSize}
		if short > 0 {
			s.n += int64(short) - BlockSize
		}
		if err := checkExtent(s.off, s.n, size); err != nil {
			return nil, 0, at, err
		}
		end += gap + blocks
		total += s.n
		dst = append(dst, s)
	}
	if len(rest) != 0 {
		return nil, 0, pos(), fmt.Errorf("%d bytes follow the extent list", len(rest))
	}
	return dst, total, 0, nil
}
