package hrl

import (
	"fmt"
	"slices"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// Codec says how content is stored. Content that would not shrink by at least
// 1/16 is stored raw whatever was asked for.
type Codec uint8

// The codecs. The numbers are those of the format; Auto is never stored.
const (
	Raw  Codec = 0
	S2   Codec = 1
	Zstd Codec = 2
	Auto Codec = 255 // s2: faster than any disk or link it will meet
)

// ParseCodec reads a policy's word: auto (also empty), raw, s2 or zstd.
func ParseCodec(s string) (Codec, error) {
	switch s {
	case "", "auto":
		return Auto, nil
	case "raw":
		return Raw, nil
	case "s2":
		return S2, nil
	case "zstd":
		return Zstd, nil
	}
	return 0, fmt.Errorf("cannot parse codec %q: want auto, raw, s2 or zstd", s)
}

// Codecs returns the words of all codecs that this package reads, as a program
// offers them to its peer.
func Codecs() []string { return []string{Raw.String(), S2.String(), Zstd.String()} }

// For returns the codec to write with for a reader that knows these codecs: c
// itself, or another that it knows, or Raw, which everybody reads.
func (c Codec) For(known []string) Codec {
	if c == Auto {
		c = S2
	}
	for _, try := range []Codec{c, S2, Zstd} {
		if c != Raw && slices.Contains(known, try.String()) {
			return try
		}
	}
	return Raw
}

// String returns the codec's word.
func (c Codec) String() string {
	switch c {
	case Raw:
		return "raw"
	case S2:
		return "s2"
	case Zstd:
		return "zstd"
	case Auto:
		return "auto"
	}
	return fmt.Sprintf("codec-%d", uint8(c))
}

// Encoder and decoder are shared by all writers and readers of the process and
// used only through EncodeAll and DecodeAll; two may run at a time.
var (
	zstdEncoder = sync.OnceValues(func() (*zstd.Encoder, error) {
		return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2),
			zstd.WithEncoderCRC(false), zstd.WithWindowSize(MaxPlain), zstd.WithLowerEncoderMem(true))
	})
	zstdDecoder = sync.OnceValues(func() (*zstd.Decoder, error) {
		return zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxMemory(MaxPlain), zstd.WithDecodeAllCapLimit(true))
	})
)

// compress stores plain in buf, if it has the room, and returns what to store
// and under which codec: plain itself as Raw when too little would be saved.
func compress(c Codec, plain, buf []byte) ([]byte, Codec, error) {
	var out []byte
	switch c {
	case Raw:
		return plain, Raw, nil
	case S2, Auto:
		c = S2
		out = s2.Encode(buf[:cap(buf)], plain)
	case Zstd:
		enc, err := zstdEncoder()
		if err != nil {
			return nil, 0, fmt.Errorf("cannot start the zstd encoder: %w", err)
		}
		out = enc.EncodeAll(plain, buf[:0])
	default:
		return nil, 0, fmt.Errorf("cannot encode with %s", c)
	}
	if len(out) > len(plain)-len(plain)/16 {
		return plain, Raw, nil
	}
	return out, c, nil
}

// decompress fills dst, which has exactly the plain length, from stored; more
// or less content is an error, found before it takes memory.
func decompress(c Codec, dst, stored []byte) error {
	switch c {
	case Raw:
		if len(stored) != len(dst) {
			return fmt.Errorf("%d raw bytes stored, want %d", len(stored), len(dst))
		}
		copy(dst, stored)
		return nil
	case S2:
		n, err := s2.DecodedLen(stored)
		if err != nil {
			return err
		}
		if n != len(dst) {
			return fmt.Errorf("s2 content of %d bytes, want %d", n, len(dst))
		}
		_, err = s2.Decode(dst, stored)
		return err
	case Zstd:
		dec, err := zstdDecoder()
		if err != nil {
			return err
		}
		out, err := dec.DecodeAll(stored, dst[:0:len(dst)])
		if err != nil {
			return err
		}
		if len(out) != len(dst) {
			return fmt.Errorf("zstd content of %d bytes, want %d", len(out), len(dst))
		}
		return nil
	}
	return fmt.Errorf("codec %d is not known", uint8(c))
}

// maxStored is the room that compress wants for n plain bytes.
func maxStored(n int) int { return s2.MaxEncodedLen(n) }
