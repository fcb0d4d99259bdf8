// Package wire is the framing of drrun's streams: typed frames with a limit on
// each, and the binary forms of hello, request, upload and fault.
//
//	offset 0  u8   type
//	       1  u8   flags: low four bits must be understood, high four may be ignored
//	       2  u32  length of the payload, little-endian
//	       6  payload
//
// The first frame of a stream says what the stream is. The bytes of an upload
// follow its offset frame unframed. It knows no connections and no verbs.
//
// Everything here is a pure function or works on one reader or writer; the
// caller serialises access to a stream.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/drrun/drrun/internal/fault"
)

// Type is the type of a frame. The numbers are the wire format: append only.
type Type uint8

// The frame types.
const (
	TypeHello     Type = 1  // first stream of a connection, both directions
	TypeRequest   Type = 2  // opens a stream: one request
	TypeUpload    Type = 3  // opens a stream: an upload
	TypeOffset    Type = 4  // answers TypeUpload: from which byte to go on
	TypeResult    Type = 5  // ends a request or an upload
	TypeFault     Type = 6  // ends anything
	TypeJoinProof Type = 16 // host to runtime: token proof and signing request
	TypeJoinGrant Type = 17 // runtime to host: certificates
	TypeJoinDone  Type = 18 // host to runtime: stored
)

var typeNames = map[Type]string{
	TypeHello: "hello", TypeRequest: "request", TypeUpload: "upload", TypeOffset: "offset", TypeResult: "result",
	TypeFault: "fault", TypeJoinProof: "join proof", TypeJoinGrant: "join grant", TypeJoinDone: "join done",
}

// String names the type.
func (t Type) String() string {
	if s, ok := typeNames[t]; ok {
		return s
	}
	return fmt.Sprintf("frame type %d", uint8(t))
}

// Limits of the payload in bytes, by frame type.
const (
	MaxHello   = 16 << 10 // hello
	MaxMessage = 4 << 20  // request, result, and the header of an upload
	MaxFault   = 64 << 10 // error text with its hint
	MaxJoin    = 64 << 10 // certificates and signing requests
	sizeOffset = 8
)

// HeaderSize is the size of a frame header in bytes.
const HeaderSize = 6

// mustFlags are the flag bits a reader has to understand; none is defined yet.
const mustFlags = 0x0f

// firstRead bounds what is allocated on the word of a header alone.
const firstRead = 4 << 10

// Limit returns the largest payload of a frame type; false for an unknown one.
func Limit(t Type) (int, bool) {
	switch t {
	case TypeHello:
		return MaxHello, true
	case TypeRequest, TypeUpload, TypeResult:
		return MaxMessage, true
	case TypeOffset:
		return sizeOffset, true
	case TypeFault:
		return MaxFault, true
	case TypeJoinProof, TypeJoinGrant, TypeJoinDone:
		return MaxJoin, true
	}
	return 0, false
}

// AppendFrame appends a frame to b. A payload over the limit of its type is
// fault.Invalid.
func AppendFrame(b []byte, t Type, payload []byte) ([]byte, error) {
	limit, ok := Limit(t)
	if !ok {
		return nil, fault.Errorf(fault.Internal, "cannot write %s", t)
	}
	if len(payload) > limit {
		return nil, fault.Errorf(fault.Invalid, "%s frame of %d bytes, the limit is %d", t, len(payload), limit)
	}
	b = append(b, byte(t), 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...), nil
}

// WriteFrame writes a frame by one Write.
func WriteFrame(w io.Writer, t Type, payload []byte) error {
	b, err := AppendFrame(make([]byte, 0, HeaderSize+len(payload)), t, payload)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// ReadFrame reads one frame, of one of the wanted types (none: any known one).
// It returns io.EOF if the stream ended before the frame, and
// io.ErrUnexpectedEOF if it ended inside. A frame that is not allowed here is
// fault.Invalid; the stream is then of no further use. Memory grows with the
// bytes that arrive, never by a length that only a header claims.
func ReadFrame(r io.Reader, want ...Type) (Type, []byte, error) {
	var h [HeaderSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, err
	}
	t, flags, n := Type(h[0]), h[1], binary.LittleEndian.Uint32(h[2:])
	limit, ok := Limit(t)
	if !ok {
		return 0, nil, fault.Errorf(fault.Invalid, "unknown %s", t)
	}
	if len(want) > 0 && !slices.Contains(want, t) {
		return 0, nil, fault.Errorf(fault.Invalid, "%s frame where %s is due", t, want[0])
	}
	if flags&mustFlags != 0 {
		return 0, nil, fault.Errorf(fault.Invalid, "%s frame with unknown flags %#x", t, flags&mustFlags).
			WithHint("the other end is newer: update the older one")
	}
	if uint64(n) > uint64(limit) {
		return 0, nil, fault.Errorf(fault.Invalid, "%s frame of %d bytes, the limit is %d", t, n, limit)
	}
	payload, err := readPayload(r, int(n))
	return t, payload, err
}

func readPayload(r io.Reader, n int) ([]byte, error) {
	b := make([]byte, 0, min(n, firstRead))
	for len(b) < n {
		if len(b) == cap(b) {
			next := make([]byte, len(b), min(n, 2*cap(b)))
			copy(next, b)
			b = next
		}
		m, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+m]
		if len(b) == n {
			return b, nil // an error that came with the last bytes shows at the next read
		}
		if errors.Is(err, io.EOF) {
			return nil, io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
	}
	return b, nil
}
