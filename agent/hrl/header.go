package hrl

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
)

// FormatVersion is the version of the files this package writes.
const FormatVersion = 1

// BlockSize is the unit of extents in bytes.
const BlockSize = 4096

// The limits of the format.
const (
	MaxDisk         = 1 << 50 // bytes of a disk
	MaxPlain        = 1 << 20 // bytes of plain content in a frame
	MaxFrameExtents = 4096    // extents in a frame
	MaxExtents      = 1 << 22 // extents, and frames, in a file
	MaxSegment      = 1 << 31 // segment numbers are below

	// SegmentBytes is the size at which a log's segment is cut.
	SegmentBytes = 64 << 20

	maxExtentList = 128 << 10
)

const (
	headerMagic = "DRRUNHRL"
	headerSize  = 256
	knownMust   = 0 // the must flags this version understands

	offKind, offCipher = 20, 21 // in the header
)

const (
	versionHint = "use the drrun version that wrote it, or a newer one; the file was left as it is"
	damagedHint = "the file is damaged: fetch it again from the other site, or let the next cycle compare and send what differs"
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	le         = binary.LittleEndian
)

func crcOf(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

// Kind is the kind of a log.
type Kind uint8

// The kinds of logs. Journal is reserved: this version neither writes nor
// reads such files.
const (
	Full    Kind = 1 // the whole disk: from nothing to a point
	Delta   Kind = 2 // from a point to the next
	Undo    Kind = 3 // from a point back to an older one
	Journal Kind = 4 // every write in order, with its time
)

var kindNames = [...]string{Full: "full", Delta: "delta", Undo: "undo", Journal: "journal"}

// String returns the kind's word.
func (k Kind) String() string {
	if int(k) < len(kindNames) && kindNames[k] != "" {
		return kindNames[k]
	}
	return fmt.Sprintf("kind-%d", uint8(k))
}

// MarshalText implements encoding.TextMarshaler.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Header says what a log is. Version, Must and May are set by reading and
// ignored by writing.
type Header struct {
	Version        uint32        `json:"version"`
	Must           uint32        `json:"must_flags"`
	May            uint32        `json:"may_flags"`
	Kind           Kind          `json:"kind"`
	Cipher         uint8         `json:"cipher"` // 0 until used
	File           ident.ID      `json:"file"`   // zero: Create makes one
	Log            ident.LogID   `json:"log"`
	Disk           ident.DiskID  `json:"disk"`
	From           ident.PointID `json:"from"` // zero: from nothing
	To             ident.PointID `json:"to"`
	Epoch          ident.Epoch   `json:"epoch"`
	SizeBefore     int64         `json:"size_before"`     // bytes
	SizeAfter      int64         `json:"size_after"`      // bytes; no extent reaches past it
	LogicalSector  int           `json:"logical_sector"`  // bytes; 0: unknown
	PhysicalSector int           `json:"physical_sector"` // bytes; 0: unknown
	Segment        int           `json:"segment"`
	Tenant         ident.ID      `json:"tenant"` // zero until used
	KeyID          ident.ID      `json:"key_id"` // zero until used
}

// check returns what is wrong with h's values, and the offset of that field.
func (h *Header) check() (int64, error) {
	switch {
	case h.Kind < Full || h.Kind > Undo:
		return offKind, fmt.Errorf("kind %s cannot be read by this version", h.Kind)
	case h.Cipher != 0:
		return offCipher, fmt.Errorf("cipher %d is not known", h.Cipher)
	case h.SizeBefore < 0 || h.SizeBefore > MaxDisk:
		return 112, fmt.Errorf("disk size %d is out of range", h.SizeBefore)
	case h.SizeAfter < 0 || h.SizeAfter > MaxDisk:
		return 120, fmt.Errorf("disk size %d is out of range", h.SizeAfter)
	case h.LogicalSector < 0 || h.LogicalSector > 1<<20:
		return 128, fmt.Errorf("logical sector size %d is out of range", h.LogicalSector)
	case h.PhysicalSector < 0 || h.PhysicalSector > 1<<20:
		return 132, fmt.Errorf("physical sector size %d is out of range", h.PhysicalSector)
	case h.Segment < 0 || h.Segment >= MaxSegment:
		return 136, fmt.Errorf("segment number %d is out of range", h.Segment)
	}
	return 0, nil
}

func (h *Header) encode() []byte {
	b := make([]byte, headerSize)
	copy(b, headerMagic)
	le.PutUint32(b[8:], FormatVersion)
	b[20], b[21] = byte(h.Kind), h.Cipher
	copy(b[24:], h.File[:])
	copy(b[40:], h.Log.ID[:])
	copy(b[56:], h.Disk.ID[:])
	copy(b[72:], h.From.ID[:])
	copy(b[88:], h.To.ID[:])
	le.PutUint64(b[104:], uint64(h.Epoch))
	le.PutUint64(b[112:], uint64(h.SizeBefore))
	le.PutUint64(b[120:], uint64(h.SizeAfter))
	le.PutUint32(b[128:], uint32(h.LogicalSector))
	le.PutUint32(b[132:], uint32(h.PhysicalSector))
	le.PutUint32(b[136:], uint32(h.Segment))
	le.PutUint32(b[140:], BlockSize)
	copy(b[144:], h.Tenant[:])
	copy(b[160:], h.KeyID[:])
	le.PutUint32(b[252:], crcOf(b[:252]))
	return b
}

// decodeHeader reads and checks the header of the file at path.
func decodeHeader(path string, b []byte) (Header, error) {
	if string(b[:8]) != headerMagic {
		return Header{}, corrupt(path, 0, "not a replication log")
	}
	h := Header{Version: le.Uint32(b[8:]), Must: le.Uint32(b[12:]), May: le.Uint32(b[16:])}
	if got, want := crcOf(b[:252]), le.Uint32(b[252:]); got != want { // damage is not a newer version
		return h, corrupt(path, 252, "header checksum is %08x, want %08x", got, want)
	}
	if h.Version != FormatVersion {
		return h, refused(path, 8, "format version %d is not known (this program knows %d)", h.Version, FormatVersion)
	}
	if unknown := h.Must &^ knownMust; unknown != 0 {
		return h, refused(path, 12, "unknown must flag %#x", unknown)
	}
	h.Kind, h.Cipher = Kind(b[20]), b[21]
	copy(h.File[:], b[24:])
	copy(h.Log.ID[:], b[40:])
	copy(h.Disk.ID[:], b[56:])
	copy(h.From.ID[:], b[72:])
	copy(h.To.ID[:], b[88:])
	h.Epoch = ident.Epoch(le.Uint64(b[104:]))
	h.SizeBefore, h.SizeAfter = int64(le.Uint64(b[112:])), int64(le.Uint64(b[120:]))
	h.LogicalSector, h.PhysicalSector = int(le.Uint32(b[128:])), int(le.Uint32(b[132:]))
	h.Segment = int(le.Uint32(b[136:]))
	copy(h.Tenant[:], b[144:])
	copy(h.KeyID[:], b[160:])
	if n := le.Uint32(b[140:]); n != BlockSize {
		return h, refused(path, 140, "block size %d is not known", n)
	}
	switch off, err := h.check(); {
	case err == nil:
		return h, nil
	case off == offKind || off == offCipher: // of a later version
		return h, refused(path, off, "%w", err)
	default:
		return h, corrupt(path, off, "%w", err)
	}
}

// corrupt makes the error for damage at byte off of the file at path.
func corrupt(path string, off int64, format string, args ...any) *fault.Error {
	return fault.Errorf(fault.Corrupt, "cannot read log %s: at byte %d: %w", path, off, fmt.Errorf(format, args...)).
		WithHint(damagedHint)
}

// refused makes the error for a file that a newer program wrote.
func refused(path string, off int64, format string, args ...any) *fault.Error {
	return fault.Errorf(fault.Refused, "cannot read log %s: at byte %d: %w", path, off, fmt.Errorf(format, args...)).
		WithHint(versionHint)
}
