package wire_test

import (
	"bytes"
	"testing"

	"github.com/drrun/drrun/transport/wire"
)

// FuzzReadFrame: what is read can be written again, byte for byte.
func FuzzReadFrame(f *testing.F) {
	f.Add([]byte("\x05\x00\x02\x00\x00\x00ok"))
	f.Add([]byte("\x01\x80\x00\x00\x00\x00"))
	f.Add([]byte("\x02\x00\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		ft, p, err := wire.ReadFrame(bytes.NewReader(b))
		if err != nil {
			return
		}
		out, err := wire.AppendFrame(nil, ft, p)
		if err != nil {
			t.Fatalf("read %s of %d bytes, cannot write it: %v", ft, len(p), err)
		}
		out[1] = b[1] // flags that may be ignored
		if !bytes.Equal(out, b[:len(out)]) {
			t.Fatalf("read %q, wrote %q", b, out)
		}
	})
}

// FuzzMessages: no payload makes a decoder panic, and what decodes survives a
// round trip.
func FuzzMessages(f *testing.F) {
	hello, err := wire.Hello{Protocol: wire.Range{Min: 1, Max: 1}, Program: "drrun", Version: "1"}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(hello)
	f.Add([]byte("\x04ping{}"))
	f.Add([]byte("\x02\x01\x00\x00\x00\x00\x00\x00\x07segment{}"))
	f.Add([]byte(`{"kind":13,"message":"full","hint":"add a disk"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := wire.DecodeHello(b); err == nil {
			again, err := h.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if h2, err := wire.DecodeHello(again); err != nil || h2.Protocol != h.Protocol || h2.Program != h.Program {
				t.Fatalf("%+v became %+v, %v", h, h2, err)
			}
		}
		if verb, body, err := wire.DecodeRequest(b); err == nil {
			if again, err := wire.EncodeRequest(verb, body); err != nil || !bytes.Equal(again, b) {
				t.Fatalf("request %q became %q, %v", b, again, err)
			}
		}
		if verb, size, body, err := wire.DecodeUpload(b); err == nil {
			if again, err := wire.EncodeUpload(verb, size, body); err != nil || !bytes.Equal(again, b) {
				t.Fatalf("upload %q became %q, %v", b, again, err)
			}
		}
		fa := wire.DecodeFault(b)
		if fa.Kind == 0 || fa.Message == "" {
			t.Fatalf("fault %q decodes to %+v", b, fa)
		}
		if again := wire.DecodeFault(wire.EncodeFault(fa)); len(fa.Message) < 1000 && len(fa.Hint) < 1000 &&
			(again.Kind != fa.Kind || again.Message != fa.Message || again.Hint != fa.Hint) {
			t.Fatalf("fault %+v became %+v", fa, again)
		}
	})
}
