package blocksum

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/drrun/drrun/internal/fault"
	"github.com/zeebo/xxh3"
)

// FormatVersion is the version of table files this package writes.
const FormatVersion = 1

const (
	magic      = "DRRBSUM\x00"
	headerSize = 4096 // so that the entries start aligned
	fieldsSize = 52   // the fields and their CRC
	entrySize  = 8
	knownMust  = 0 // the must flags this version understands

	// MaxSize is the largest disk a table can describe, 1 PiB.
	MaxSize = 1 << 50
)

const compareHint = "delete it: the next cycle builds it again by comparing with the other side"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type header struct {
	must, may uint32
	keyCheck  uint64
	size      int64
}

func keyCheck(key uint64) uint64 { return xxh3.HashStringSeed(magic, key) }

func (h header) encode() []byte {
	b := make([]byte, fieldsSize)
	copy(b, magic)
	le := binary.LittleEndian
	le.PutUint32(b[8:], FormatVersion)
	le.PutUint32(b[12:], h.must)
	le.PutUint32(b[16:], h.may)
	le.PutUint32(b[20:], BlockSize)
	le.PutUint64(b[24:], h.keyCheck)
	le.PutUint64(b[32:], uint64(h.size))
	le.PutUint64(b[40:], uint64(BlockCount(h.size)))
	le.PutUint32(b[48:], crc32.Checksum(b[:48], castagnoli))
	return b
}

// decodeHeader checks the header of the table at path; b holds fieldsSize bytes.
func decodeHeader(path string, b []byte) (header, error) {
	le := binary.LittleEndian
	bad := func(off int, format string, args ...any) (header, error) {
		return header{}, fault.Errorf(fault.Corrupt, "cannot open block table %s: at byte %d: %s", path, off,
			fmt.Sprintf(format, args...)).WithHint(compareHint)
	}
	if string(b[:8]) != magic {
		return bad(0, "not a block table")
	}
	newer := func(off int, format string, args ...any) (header, error) {
		return header{}, fault.Errorf(fault.Refused, "cannot open block table %s: at byte %d: %s", path, off,
			fmt.Sprintf(format, args...)).WithHint("use the drrun-agent that wrote it, or a newer one; the file was left as it is")
	}
	if got, want := crc32.Checksum(b[:48], castagnoli), le.Uint32(b[48:]); got != want { // damage is not a newer version
		return bad(48, "header checksum is %08x, want %08x", got, want)
	}
	if v := le.Uint32(b[8:]); v != FormatVersion {
		return newer(8, "format version %d is not known (this program knows %d)", v, FormatVersion)
	}
	h := header{must: le.Uint32(b[12:]), may: le.Uint32(b[16:]), keyCheck: le.Uint64(b[24:]), size: int64(le.Uint64(b[32:]))}
	if unknown := h.must &^ knownMust; unknown != 0 {
		return newer(12, "unknown must flag %#x", unknown)
	}
	if n := le.Uint32(b[20:]); n != BlockSize {
		return newer(20, "block size %d, want %d", n, BlockSize)
	}
	if h.size < 0 || h.size > MaxSize {
		return bad(32, "disk size %d is out of range", h.size)
	}
	if n := le.Uint64(b[40:]); n != uint64(BlockCount(h.size)) {
		return bad(40, "%d blocks for a disk of %d bytes", n, h.size)
	}
	return h, nil
}
