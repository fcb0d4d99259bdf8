package hrl

import (
	"fmt"
	"hash/crc32"

	"github.com/zeebo/xxh3"
)

const (
	frameMagic      = 0x464c5248 // "HRLF"
	frameHeaderSize = 36
	maxFrame        = frameHeaderSize + maxExtentList + MaxPlain
)

// frame is the fixed part of a stored frame.
type frame struct {
	kind      ExtentKind
	codec     Codec
	extents   int
	listLen   int
	plainLen  int
	storedLen int
	plainHash uint64
	crc       uint32
}

func (f *frame) size() int64 { return int64(frameHeaderSize + f.listLen + f.storedLen) }

// encodeFrame appends header and extent list of a frame to b; stored follows
// it in the file. It returns the frame's CRC as well.
func encodeFrame(b []byte, kind ExtentKind, codec Codec, spans []span, plain, stored []byte) ([]byte, uint32) {
	start := len(b)
	b = append(b, make([]byte, frameHeaderSize)...)
	b = appendSpans(b, spans)
	h := b[start:]
	le.PutUint32(h, frameMagic)
	h[4], h[5] = byte(kind), byte(codec)
	le.PutUint32(h[8:], uint32(len(spans)))
	le.PutUint32(h[12:], uint32(len(h)-frameHeaderSize))
	le.PutUint32(h[16:], uint32(len(plain)))
	le.PutUint32(h[20:], uint32(len(stored)))
	if kind == Data {
		le.PutUint64(h[24:], xxh3.Hash(plain))
	}
	crc := frameCRC(h, stored)
	le.PutUint32(h[32:], crc)
	return b, crc
}

// frameCRC covers a frame without its CRC field; head is header and list.
func frameCRC(head, stored []byte) uint32 {
	crc := crc32.Update(0, castagnoli, head[:32])
	crc = crc32.Update(crc, castagnoli, head[frameHeaderSize:])
	return crc32.Update(crc, castagnoli, stored)
}

// decodeFrameHeader checks the limits of the frame that fills b, so that what
// follows allocates nothing by a wrong length; at is the offset of a fault.
func decodeFrameHeader(b []byte) (f frame, at int, err error) {
	if len(b) < frameHeaderSize {
		return f, len(b), fmt.Errorf("the frame ends in its header")
	}
	if le.Uint32(b) != frameMagic {
		return f, 0, fmt.Errorf("a frame does not begin here")
	}
	f = frame{kind: ExtentKind(b[4]), codec: Codec(b[5]), plainHash: le.Uint64(b[24:]), crc: le.Uint32(b[32:])}
	count, list, plain, stored := le.Uint32(b[8:]), le.Uint32(b[12:]), le.Uint32(b[16:]), le.Uint32(b[20:])
	switch {
	case f.kind < Data || f.kind > Discarded:
		return f, 4, fmt.Errorf("extent kind %d is not known", b[4])
	case f.codec > Zstd:
		return f, 5, fmt.Errorf("codec %d is not known", b[5])
	case count < 1 || count > MaxFrameExtents:
		return f, 8, fmt.Errorf("%d extents in a frame", count)
	case list > maxExtentList:
		return f, 12, fmt.Errorf("an extent list of %d bytes", list)
	case plain > MaxPlain || (f.kind == Data) != (plain > 0):
		return f, 16, fmt.Errorf("a frame of %d plain bytes", plain)
	case stored > plain || f.kind != Data && f.codec != Raw:
		return f, 20, fmt.Errorf("a frame of %d stored bytes", stored)
	}
	f.extents, f.listLen, f.plainLen, f.storedLen = int(count), int(list), int(plain), int(stored)
	if f.size() != int64(len(b)) {
		return f, 12, fmt.Errorf("a frame of %d bytes in the place of one of %d", f.size(), len(b))
	}
	return f, 0, nil
}

// decodedFrame is a frame's content; spans and plain are reused.
type decodedFrame struct {
	kind  ExtentKind
	codec Codec
	spans []span
	plain []byte
}

// decode checks the frame that fills b (of a disk of size bytes) and unpacks
// it into d, growing d's buffers where needed.
func (d *decodedFrame) decode(b []byte, crc uint32, size int64) (at int, err error) {
	f, at, err := decodeFrameHeader(b)
	if err != nil {
		return at, err
	}
	head, stored := b[:frameHeaderSize+f.listLen], b[frameHeaderSize+f.listLen:]
	if got := frameCRC(head, stored); got != f.crc || f.crc != crc {
		return 32, fmt.Errorf("frame checksum is %08x, the frame says %08x and the index %08x", got, f.crc, crc)
	}
	spans, total, at, err := parseSpans(d.spans, head[frameHeaderSize:], f.extents, size)
	if err != nil {
		return frameHeaderSize + at, err
	}
	d.kind, d.codec, d.spans = f.kind, f.codec, spans
	if cap(d.plain) < f.plainLen {
		d.plain = make([]byte, max(f.plainLen, min(2*cap(d.plain), MaxPlain)))
	}
	d.plain = d.plain[:f.plainLen]
	if f.kind != Data {
		return 0, nil
	}
	if total != int64(f.plainLen) {
		return 16, fmt.Errorf("extents of %d bytes with %d bytes of content", total, f.plainLen)
	}
	if err := decompress(f.codec, d.plain, stored); err != nil {
		return len(head), err
	}
	if got := xxh3.Hash(d.plain); got != f.plainHash {
		return 24, fmt.Errorf("content checksum is %016x, want %016x", got, f.plainHash)
	}
	return 0, nil
}
