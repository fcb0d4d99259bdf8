package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/drrun/drrun/internal/fault"
)

// Range is the range of protocol versions that a program speaks.
type Range struct {
	Min uint16 `json:"min"`
	Max uint16 `json:"max"`
}

// String is "3" or "2 to 3".
func (r Range) String() string {
	if r.Min == r.Max {
		return fmt.Sprint(r.Max)
	}
	return fmt.Sprintf("%d to %d", r.Min, r.Max)
}

// Pick returns the newest version in both ranges.
func (r Range) Pick(o Range) (uint16, bool) {
	v := min(r.Max, o.Max)
	return v, v >= max(r.Min, o.Min) && v > 0
}

// Hello is what each end of a connection says first.
type Hello struct {
	Protocol Range    `json:"protocol"`
	Program  string   `json:"program"`
	Version  string   `json:"version"`
	Features []string `json:"features,omitempty"`
	Codecs   []string `json:"codecs,omitempty"`
}

// helloMagic and helloVersion open a hello: what follows is JSON in version 1.
const (
	helloMagic   = "drrn"
	helloVersion = 1
	helloHead    = len(helloMagic) + 2
)

// Encode returns the payload of a hello frame.
func (h Hello) Encode() ([]byte, error) {
	body, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("cannot encode hello: %w", err)
	}
	b := append(make([]byte, 0, helloHead+len(body)), helloMagic...)
	b = binary.LittleEndian.AppendUint16(b, helloVersion)
	return append(b, body...), nil
}

// DecodeHello reads the payload of a hello frame. Errors are fault.Refused:
// the other end is not drrun, or of another generation.
func DecodeHello(b []byte) (Hello, error) {
	if len(b) < helloHead || !bytes.HasPrefix(b, []byte(helloMagic)) {
		return Hello{}, fault.Errorf(fault.Refused, "the other end does not speak drrun's protocol")
	}
	if v := binary.LittleEndian.Uint16(b[len(helloMagic):]); v != helloVersion {
		return Hello{}, fault.Errorf(fault.Refused, "the other end opens with hello version %d, this program knows %d", v, helloVersion).
			WithHint("update the older of the two programs")
	}
	var h Hello
	if err := json.Unmarshal(b[helloHead:], &h); err != nil {
		return Hello{}, fault.Errorf(fault.Refused, "cannot read the hello of the other end: %w", err)
	}
	if h.Protocol.Min == 0 || h.Protocol.Max < h.Protocol.Min {
		return Hello{}, fault.Errorf(fault.Refused, "hello with the impossible protocol range %d to %d", h.Protocol.Min, h.Protocol.Max)
	}
	return h, nil
}

// MaxVerb is the longest verb in bytes.
const MaxVerb = 64

// EncodeRequest returns the payload of a request frame: u8 length of the verb,
// verb, JSON body.
func EncodeRequest(verb string, body []byte) ([]byte, error) {
	if len(verb) == 0 || len(verb) > MaxVerb {
		return nil, fault.Errorf(fault.Invalid, "verb of %d bytes, allowed are 1 to %d", len(verb), MaxVerb)
	}
	b := make([]byte, 0, 1+len(verb)+len(body))
	b = append(append(b, byte(len(verb))), verb...)
	return append(b, body...), nil
}

// DecodeRequest splits the payload of a request frame; body shares its memory.
func DecodeRequest(b []byte) (verb string, body []byte, err error) {
	if len(b) == 0 || b[0] == 0 || b[0] > MaxVerb || len(b) < 1+int(b[0]) {
		return "", nil, fault.Errorf(fault.Invalid, "cannot read request: no verb in %d bytes", len(b))
	}
	n := 1 + int(b[0])
	return string(b[1:n]), b[n:], nil
}

// EncodeUpload returns the payload of an upload frame: the size of the content
// in bytes (i64), then as in a request.
func EncodeUpload(verb string, size int64, body []byte) ([]byte, error) {
	if size < 0 {
		return nil, fault.Errorf(fault.Invalid, "upload %s of %d bytes", verb, size)
	}
	req, err := EncodeRequest(verb, body)
	if err != nil {
		return nil, err
	}
	return append(EncodeOffset(size), req...), nil
}

// DecodeUpload splits the payload of an upload frame.
func DecodeUpload(b []byte) (verb string, size int64, body []byte, err error) {
	if len(b) < sizeOffset {
		return "", 0, nil, fault.Errorf(fault.Invalid, "cannot read upload: %d bytes", len(b))
	}
	if size, err = DecodeOffset(b[:sizeOffset]); err != nil {
		return "", 0, nil, err
	}
	verb, body, err = DecodeRequest(b[sizeOffset:])
	return verb, size, body, err
}

// EncodeOffset returns the payload of an offset frame.
func EncodeOffset(off int64) []byte {
	return binary.LittleEndian.AppendUint64(make([]byte, 0, sizeOffset), uint64(off))
}

// DecodeOffset reads a payload of an offset frame; negative ones are refused.
func DecodeOffset(b []byte) (int64, error) {
	if len(b) != sizeOffset {
		return 0, fault.Errorf(fault.Invalid, "offset of %d bytes", len(b))
	}
	off := int64(binary.LittleEndian.Uint64(b))
	if off < 0 {
		return 0, fault.Errorf(fault.Invalid, "negative offset %d", off)
	}
	return off, nil
}

// EncodeFault returns the payload of a fault frame. An error without a kind
// goes as fault.Internal. Text over the limit is cut, at a rune.
func EncodeFault(err error) []byte {
	const share = MaxFault / 16 // of message and of hint: JSON may make 6 bytes of one
	f := fault.Wrap(fault.Internal, err)
	out := &fault.Error{Kind: f.Kind, Message: cut(f.Message, 8*share), Hint: cut(fault.Hint(err), share)}
	b, merr := json.Marshal(out)
	if merr == nil && len(b) > MaxFault {
		out.Message, out.Hint = cut(f.Message, share), ""
		b, merr = json.Marshal(out)
	}
	if merr != nil { // cannot happen: three plain fields
		return []byte(`{"kind":1,"message":"error text lost"}`)
	}
	return b
}

// DecodeFault reads the payload of a fault frame. Kinds this program does not
// know are kept; 0 and what cannot be read become fault.Internal.
func DecodeFault(b []byte) *fault.Error {
	var f fault.Error
	if err := json.Unmarshal(b, &f); err != nil {
		return fault.Errorf(fault.Internal, "cannot read the error of the other end: %w", err)
	}
	if f.Kind == 0 {
		f.Kind = fault.Internal
	}
	if f.Message == "" {
		f.Message = "the other end gave no reason"
	}
	return &f
}

// cut shortens s to at most n bytes, not inside a rune.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	const mark = "…"
	n -= len(mark)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + mark
}
