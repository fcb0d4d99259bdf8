package wire_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/transport/wire"
)

var types = []wire.Type{
	wire.TypeHello, wire.TypeRequest, wire.TypeUpload, wire.TypeOffset, wire.TypeResult, wire.TypeFault,
	wire.TypeJoinProof, wire.TypeJoinGrant, wire.TypeJoinDone,
}

// header returns a frame header as it stands on the wire.
func header(t wire.Type, flags byte, n uint32) []byte {
	return binary.LittleEndian.AppendUint32([]byte{byte(t), flags}, n)
}

func TestFrameAtTheLimitAndOnePast(t *testing.T) {
	t.Parallel()
	for _, ft := range types {
		max, ok := wire.Limit(ft)
		if !ok {
			t.Fatalf("%s has no limit", ft)
		}
		at := bytes.Repeat([]byte{'x'}, max)
		var buf bytes.Buffer
		if err := wire.WriteFrame(&buf, ft, at); err != nil {
			t.Errorf("%s of %d bytes: %v", ft, max, err)
		}
		got, p, err := wire.ReadFrame(iotest.HalfReader(&buf), ft)
		if err != nil || got != ft || !bytes.Equal(p, at) {
			t.Errorf("%s of %d bytes read back: %s, %d bytes, %v", ft, max, got, len(p), err)
		}
		if err := wire.WriteFrame(io.Discard, ft, append(at, 'x')); !fault.Is(err, fault.Invalid) {
			t.Errorf("wrote %s of %d bytes: %v", ft, max+1, err)
		}
		_, _, err = wire.ReadFrame(bytes.NewReader(header(ft, 0, uint32(max)+1)))
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "the limit is") {
			t.Errorf("read the header of %s of %d bytes: %v", ft, max+1, err)
		}
	}
}

func TestFrameGolden(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	if err := wire.WriteFrame(&buf, wire.TypeResult, []byte("ok")); err != nil {
		t.Fatal(err)
	}
	if want := "\x05\x00\x02\x00\x00\x00ok"; buf.String() != want {
		t.Errorf("frame %q, want %q", buf.String(), want)
	}
	h, err := wire.Hello{Protocol: wire.Range{Min: 1, Max: 2}, Program: "drrun", Version: "0.1.0", Codecs: []string{"s2"}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if want := "drrn\x01\x00" + `{"protocol":{"min":1,"max":2},"program":"drrun","version":"0.1.0","codecs":["s2"]}`; string(h) != want {
		t.Errorf("hello %q, want %q", h, want)
	}
	u, err := wire.EncodeUpload("segment", 0x0102, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "\x02\x01\x00\x00\x00\x00\x00\x00\x07segment{}"; string(u) != want {
		t.Errorf("upload %q, want %q", u, want)
	}
	f := wire.EncodeFault(fault.Errorf(fault.NoSpace, "full").WithHint("add a disk"))
	if want := `{"kind":13,"message":"full","hint":"add a disk"}`; string(f) != want {
		t.Errorf("fault %s, want %s", f, want)
	}
}

func TestReadFrameRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		in   []byte
		text string
	}{
		{"unknown type", header(99, 0, 0), "unknown frame type 99"},
		{"other type", header(wire.TypeOffset, 0, 8), "offset frame where hello is due"},
		{"must flag", header(wire.TypeHello, 0x01, 0), "unknown flags 0x1"},
	} {
		_, _, err := wire.ReadFrame(bytes.NewReader(tc.in), wire.TypeHello)
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.text)
		}
	}
	if _, _, err := wire.ReadFrame(bytes.NewReader(header(wire.TypeHello, 0x80, 0))); err != nil {
		t.Errorf("a flag that may be ignored: %v", err)
	}
	if _, _, err := wire.ReadFrame(strings.NewReader("")); err != io.EOF {
		t.Errorf("no frame: %v, want io.EOF", err)
	}
	for _, cut := range []int{1, 5, 6, 9} {
		b := append(header(wire.TypeHello, 0, 4), "drrn"...)[:cut]
		if _, _, err := wire.ReadFrame(bytes.NewReader(b)); err != io.ErrUnexpectedEOF {
			t.Errorf("a frame cut at byte %d: %v", cut, err)
		}
	}
	gone := errors.New("gone")
	r := io.MultiReader(bytes.NewReader(header(wire.TypeHello, 0, 4)), iotest.ErrReader(gone))
	if _, _, err := wire.ReadFrame(r); !errors.Is(err, gone) {
		t.Errorf("a broken stream: %v", err)
	}
}

// TestReadFrameAllocates reads headers that claim 4 MiB and bring nothing.
func TestReadFrameAllocates(t *testing.T) { //nolint:paralleltest // it measures the heap
	claim := header(wire.TypeRequest, 0, wire.MaxMessage)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 100 {
		if _, _, err := wire.ReadFrame(bytes.NewReader(claim)); err != io.ErrUnexpectedEOF {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 4<<20 {
		t.Errorf("100 empty claims of 4 MiB allocated %d bytes", got)
	}
}

func TestRangePick(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		a, b wire.Range
		want uint16
		ok   bool
	}{
		{wire.Range{Min: 1, Max: 1}, wire.Range{Min: 1, Max: 1}, 1, true},
		{wire.Range{Min: 1, Max: 3}, wire.Range{Min: 2, Max: 5}, 3, true},
		{wire.Range{Min: 3, Max: 5}, wire.Range{Min: 1, Max: 3}, 3, true},
		{wire.Range{Min: 1, Max: 2}, wire.Range{Min: 3, Max: 4}, 2, false},
		{wire.Range{Min: 3, Max: 4}, wire.Range{Min: 1, Max: 2}, 2, false},
		{wire.Range{}, wire.Range{}, 0, false},
	} {
		if got, ok := tc.a.Pick(tc.b); got != tc.want || ok != tc.ok {
			t.Errorf("%v and %v: %d, %v; want %d, %v", tc.a, tc.b, got, ok, tc.want, tc.ok)
		}
	}
}

func TestMessagesRoundTrip(t *testing.T) {
	t.Parallel()
	h := wire.Hello{Protocol: wire.Range{Min: 1, Max: 2}, Program: "drrun", Version: "1", Features: []string{"a"}, Codecs: []string{"b"}}
	b, err := h.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := wire.DecodeHello(b); err != nil || !reflect.DeepEqual(got, h) {
		t.Errorf("hello %+v, %v", got, err)
	}
	verb := strings.Repeat("v", wire.MaxVerb)
	if b, err = wire.EncodeUpload(verb, 1<<62, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	v, size, body, err := wire.DecodeUpload(b)
	if err != nil || v != verb || size != 1<<62 || string(body) != "{}" {
		t.Errorf("upload %q, %d, %q, %v", v, size, body, err)
	}
	for _, verb := range []string{"", strings.Repeat("v", wire.MaxVerb+1)} {
		if _, err := wire.EncodeRequest(verb, nil); !fault.Is(err, fault.Invalid) {
			t.Errorf("verb of %d bytes: %v", len(verb), err)
		}
	}
}

func TestDecodersRefuse(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"", "drrn", "GET / HTTP/1.1", "drrn\x02\x00{}", "drrn\x01\x00{", `drrn` + "\x01\x00" + `{"protocol":{"min":0,"max":1}}`, "drrn\x01\x00" + `{"protocol":{"min":3,"max":2}}`} {
		if _, err := wire.DecodeHello([]byte(in)); !fault.Is(err, fault.Refused) {
			t.Errorf("hello %q: %v", in, err)
		}
	}
	for _, in := range []string{"", "\x00", "\x05ping", "\x41" + strings.Repeat("x", 0x41)} {
		if _, _, err := wire.DecodeRequest([]byte(in)); !fault.Is(err, fault.Invalid) {
			t.Errorf("request %q: %v", in, err)
		}
	}
	for _, in := range []string{"", "1234567", "\x00\x00\x00\x00\x00\x00\x00\x80\x01x", "12345678"} {
		if _, _, _, err := wire.DecodeUpload([]byte(in)); !fault.Is(err, fault.Invalid) {
			t.Errorf("upload %q: %v", in, err)
		}
	}
	for _, in := range []string{"", "1234567", "123456789", "\x00\x00\x00\x00\x00\x00\x00\xff"} {
		if _, err := wire.DecodeOffset([]byte(in)); !fault.Is(err, fault.Invalid) {
			t.Errorf("offset %q: %v", in, err)
		}
	}
}

func TestFaultText(t *testing.T) {
	t.Parallel()
	for _, s := range []string{strings.Repeat("x", 1<<20), strings.Repeat("é", 1<<20), strings.Repeat("\x00", 1<<20), strings.Repeat("\xff", 1<<20)} {
		b := wire.EncodeFault(fault.Errorf(fault.Corrupt, "%s", s).WithHint("%s", s))
		if len(b) > wire.MaxFault {
			t.Errorf("fault of %d bytes", len(b))
		}
		if f := wire.DecodeFault(b); f.Kind != fault.Corrupt || len(f.Message) < 1000 {
			t.Errorf("read back: %s, %d bytes", f.Kind, len(f.Message))
		}
	}
	if f := wire.DecodeFault(wire.EncodeFault(errors.New("plain"))); f.Kind != fault.Internal || f.Message != "plain" {
		t.Errorf("an error without a kind: %+v", f)
	}
	if f := wire.DecodeFault([]byte(`{"kind":200,"message":"from the future"}`)); f.Kind != 200 {
		t.Errorf("an unknown kind became %s", f.Kind)
	}
	for _, in := range []string{"", "{}", "[]", `{"kind":-1}`} {
		if f := wire.DecodeFault([]byte(in)); f.Kind != fault.Internal || f.Message == "" {
			t.Errorf("fault %q: %+v", in, f)
		}
	}
}
