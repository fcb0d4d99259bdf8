package hrl

import (
	"time"

	"github.com/drrun/drrun/internal/recovery"
)

const (
	footerMagic = "HRLFOOTR"
	endMagic    = "DRRUNEND"
	footerSize  = 128
)

// Footer closes a log. The caller of Writer.Close gives Instant, Consistency
// and Sum; the counts are the writer's.
type Footer struct {
	Instant     time.Time            `json:"instant,omitzero"`      // of the cut, UTC
	Consistency recovery.Consistency `json:"consistency,omitempty"` // empty: not stated
	Sum         uint64               `json:"sum"`                   // whole-disk sum after this log

	Frames       int64 `json:"frames"`
	Extents      int64 `json:"extents"`
	DataBytes    int64 `json:"data_bytes"` // plain
	ZeroBytes    int64 `json:"zero_bytes"`
	DiscardBytes int64 `json:"discard_bytes"`

	indexPos, indexLen  int64
	indexCRC, headerCRC uint32
	fileSize            int64
}

var consistencies = [...]recovery.Consistency{"", recovery.Crash, recovery.App, recovery.Fuzzy}

func consistencyCode(c recovery.Consistency) (byte, bool) {
	for i, k := range consistencies {
		if k == c {
			return byte(i), true
		}
	}
	return 0, false
}

func (f *Footer) encode() []byte {
	b := make([]byte, footerSize)
	copy(b, footerMagic)
	if !f.Instant.IsZero() {
		le.PutUint64(b[8:], uint64(f.Instant.UnixNano()))
	}
	b[16], _ = consistencyCode(f.Consistency)
	le.PutUint64(b[24:], f.Sum)
	for i, n := range []int64{f.Frames, f.Extents, f.DataBytes, f.ZeroBytes, f.DiscardBytes, f.indexPos, f.indexLen} {
		le.PutUint64(b[32+8*i:], uint64(n))
	}
	le.PutUint32(b[88:], f.indexCRC)
	le.PutUint32(b[92:], f.headerCRC)
	le.PutUint64(b[96:], uint64(f.fileSize))
	le.PutUint32(b[116:], crcOf(b[:116]))
	copy(b[120:], endMagic)
	return b
}

// decodeFooter reads and checks the footer of the file at path of size bytes;
// the index lies in the file and has the length that the counts say.
func decodeFooter(path string, b []byte, size int64, headerCRC uint32) (Footer, error) {
	at := size - footerSize
	if string(b[120:]) != endMagic {
		return Footer{}, corrupt(path, at+120, "the end mark is missing: the log was not closed, or is cut off")
	}
	if string(b[:8]) != footerMagic {
		return Footer{}, corrupt(path, at, "the footer is missing")
	}
	if got, want := crcOf(b[:116]), le.Uint32(b[116:]); got != want {
		return Footer{}, corrupt(path, at+116, "footer checksum is %08x, want %08x", got, want)
	}
	var f Footer
	if n := int64(le.Uint64(b[8:])); n != 0 {
		f.Instant = time.Unix(0, n).UTC()
	}
	if int(b[16]) >= len(consistencies) {
		return f, refused(path, at+16, "consistency %d is not known", b[16])
	}
	f.Consistency = consistencies[b[16]]
	f.Sum = le.Uint64(b[24:])
	for i, p := range []*int64{&f.Frames, &f.Extents, &f.DataBytes, &f.ZeroBytes, &f.DiscardBytes, &f.indexPos, &f.indexLen} {
		*p = int64(le.Uint64(b[32+8*i:]))
		if *p < 0 {
			return f, corrupt(path, at+32+int64(8*i), "a count is out of range")
		}
	}
	f.indexCRC, f.headerCRC, f.fileSize = le.Uint32(b[88:]), le.Uint32(b[92:]), int64(le.Uint64(b[96:]))
	switch {
	case f.Frames > MaxExtents:
		return f, corrupt(path, at+32, "%d frames are more than %d", f.Frames, MaxExtents)
	case f.Extents > MaxExtents:
		return f, corrupt(path, at+40, "%d extents are more than %d", f.Extents, MaxExtents)
	case f.indexLen != f.Frames*frameEntrySize+f.Extents*extentEntrySize:
		return f, corrupt(path, at+80, "an index of %d bytes does not fit %d frames and %d extents", f.indexLen, f.Frames, f.Extents)
	case f.indexPos < headerSize || f.indexPos+f.indexLen != at:
		return f, corrupt(path, at+72, "an index of %d bytes at %d does not end at the footer", f.indexLen, f.indexPos)
	case f.headerCRC != headerCRC:
		return f, corrupt(path, at+92, "the footer belongs to another header")
	case f.fileSize != size:
		return f, corrupt(path, at+96, "the file has %d bytes, want %d", size, f.fileSize)
	}
	return f, nil
}
