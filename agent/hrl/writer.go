package hrl

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"slices"
	"sync"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/vfs"
)

// DefaultFrame is the plain content of a frame, in bytes, if Options does not say.
const DefaultFrame = 256 << 10

// Options say how a log is written; the zero value stores frames of
// DefaultFrame bytes raw.
type Options struct {
	Codec Codec
	// Frame is the plain content of a frame in bytes: a multiple of BlockSize,
	// at most MaxPlain. 0: DefaultFrame. More compresses better, and a
	// scattered read unpacks more.
	Frame int
}

// Info describes a closed log.
type Info struct {
	File         ident.ID // file id
	Size         int64    // bytes of the file
	SHA256       [32]byte // of the whole file
	Frames       int64
	Extents      int64
	DataBytes    int64 // plain
	ZeroBytes    int64
	DiscardBytes int64
}

// Writer writes one log file, front to back. It holds one frame of content,
// one packed frame, and 24 bytes for each extent. After a failed write only
// Abort is of use; a refused extent changes nothing.
type Writer struct {
	fsys   vfs.FS
	f      vfs.File
	path   string
	h      Header
	o      Options
	sum    hash.Hash
	pos    int64 // bytes written
	crc    uint32
	buf    *writeBuf
	empty  [2]runs // pending zero and discarded extents
	frames []frameEntry
	index  []indexLine
	limit  int // of index
	err    error
}

// writeBuf is what a Writer borrows from a pool.
type writeBuf struct {
	spans []span
	plain []byte
	pack  []byte
	head  []byte
}

var writeBufs = sync.Pool{New: func() any { return new(writeBuf) }}

// runs are pending extents without content.
type runs struct {
	kind  ExtentKind
	spans []span
}

// Create begins a log in a new file at path; a file there is replaced. The
// file is complete and durable only when Close has returned, so the caller
// writes under a temporary name and renames.
func Create(fsys vfs.FS, path string, h Header, o Options) (*Writer, error) {
	if o.Frame == 0 {
		o.Frame = DefaultFrame
	}
	if o.Frame < BlockSize || o.Frame > MaxPlain || o.Frame%BlockSize != 0 {
		return nil, fmt.Errorf("cannot create log %s: frames of %d bytes", path, o.Frame)
	}
	if o.Codec > Zstd && o.Codec != Auto {
		return nil, fmt.Errorf("cannot create log %s: %s is not known", path, o.Codec)
	}
	if _, err := h.check(); err != nil {
		return nil, fmt.Errorf("cannot create log %s: %w", path, err)
	}
	if h.File.IsZero() {
		h.File = ident.NewID()
	}
	f, err := fsys.OpenFile(path, vfs.CreateTrunc, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot create log: %w", err)
	}
	w := &Writer{fsys: fsys, f: f, path: path, h: h, o: o, sum: sha256.New(), limit: MaxExtents, buf: writeBufs.Get().(*writeBuf)}
	w.buf.plain = slices.Grow(w.buf.plain[:0], o.Frame)
	w.buf.pack = slices.Grow(w.buf.pack[:0], maxStored(o.Frame))
	w.empty[0].kind, w.empty[1].kind = Zero, Discarded
	b := h.encode()
	w.crc = le.Uint32(b[252:])
	if err := w.write(b); err != nil {
		return nil, errors.Join(err, w.Abort())
	}
	return w, nil
}

// Header returns what is written as the header, with the file id in it.
func (w *Writer) Header() Header { return w.h }

// Data adds the content of the disk at off. The range is as in Extent and
// overlaps no other of this log (which Close checks). Blocks of zeros are
// stored as zero extents. p is not kept.
func (w *Writer) Data(off int64, p []byte) error {
	if err := w.begin(off, int64(len(p))); err != nil {
		return err
	}
	for len(p) > 0 {
		n := min(len(p), BlockSize)
		zero := blocksum.IsZero(p[:n])
		for n < len(p) && blocksum.IsZero(p[n:min(len(p), n+BlockSize)]) == zero {
			n = min(len(p), n+BlockSize)
		}
		if zero {
			if err := w.addEmpty(0, off, int64(n)); err != nil {
				return err
			}
		} else if err := w.addData(off, p[:n]); err != nil {
			return err
		}
		off, p = off+int64(n), p[n:]
	}
	return nil
}

// Zero adds a range that reads as zero; the range is as for Data.
func (w *Writer) Zero(off, n int64) error {
	if err := w.begin(off, n); err != nil {
		return err
	}
	return w.addEmpty(0, off, n)
}

// Discard adds a range that is unused and reads as zero; the range is as for
// Data.
func (w *Writer) Discard(off, n int64) error {
	if err := w.begin(off, n); err != nil {
		return err
	}
	return w.addEmpty(1, off, n)
}

// begin checks an extent before it is taken.
func (w *Writer) begin(off, n int64) error {
	if w.err != nil {
		return w.err
	}
	if err := checkExtent(off, n, w.h.SizeAfter); err != nil {
		return fmt.Errorf("cannot write log %s: %w", w.path, err)
	}
	return nil
}

func (w *Writer) addData(off int64, p []byte) error {
	for len(p) > 0 {
		free := w.o.Frame - len(w.buf.plain)
		if free < min(len(p), BlockSize) {
			if err := w.flushData(); err != nil {
				return err
			}
			continue
		}
		n := len(p)
		if n > free {
			n = free &^ (BlockSize - 1)
		}
		w.buf.spans = addSpan(w.buf.spans, off, int64(n))
		w.buf.plain = append(w.buf.plain, p[:n]...)
		off, p = off+int64(n), p[n:]
	}
	return nil
}

func (w *Writer) addEmpty(i int, off, n int64) error {
	r := &w.empty[i]
	r.spans = addSpan(r.spans, off, n)
	if len(r.spans) == MaxFrameExtents {
		return w.flushEmpty(r)
	}
	return nil
}

// addSpan appends a span, or grows the last one when it goes on there.
func addSpan(spans []span, off, n int64) []span {
	if k := len(spans); k > 0 && spans[k-1].off+spans[k-1].n == off {
		spans[k-1].n += n
		return spans
	}
	return append(spans, span{off, n})
}

func (w *Writer) flushData() error {
	b := w.buf
	if len(b.spans) == 0 {
		return nil
	}
	stored, codec, err := compress(w.o.Codec, b.plain, b.pack)
	if err != nil {
		w.err = fmt.Errorf("cannot write log %s: %w", w.path, err)
		return w.err
	}
	if err := w.writeFrame(Data, codec, b.spans, b.plain, stored); err != nil {
		return err
	}
	b.spans, b.plain = b.spans[:0], b.plain[:0]
	return nil
}

func (w *Writer) flushEmpty(r *runs) error {
	if len(r.spans) == 0 {
		return nil
	}
	if err := w.writeFrame(r.kind, Raw, r.spans, nil, nil); err != nil {
		return err
	}
	r.spans = r.spans[:0]
	return nil
}

func (w *Writer) writeFrame(kind ExtentKind, codec Codec, spans []span, plain, stored []byte) error {
	if len(w.index)+len(spans) > w.limit {
		w.err = fmt.Errorf("cannot write log %s: more than %d extents; cut the segment when Full says so", w.path, w.limit)
		return w.err
	}
	head, crc := encodeFrame(w.buf.head[:0], kind, codec, spans, plain, stored)
	w.buf.head = head
	no, at := uint32(len(w.frames)), uint32(0)
	w.frames = append(w.frames, frameEntry{pos: w.pos, crc: crc})
	for _, s := range spans {
		w.index = append(w.index, indexLine{off: s.off, n: s.n, frame: no, place: at | uint32(kind)<<24})
		if kind == Data {
			at += uint32(s.n)
		}
	}
	if err := w.write(head); err != nil {
		return err
	}
	return w.write(stored)
}

func (w *Writer) write(p []byte) error {
	if w.err != nil || len(p) == 0 {
		return w.err
	}
	if _, err := w.f.WriteAt(p, w.pos); err != nil {
		w.err = fmt.Errorf("cannot write log %s: %w", w.path, err)
		return w.err
	}
	w.sum.Write(p)
	w.pos += int64(len(p))
	return nil
}

// pending counts the extents not yet in a frame.
func (w *Writer) pending() int {
	return len(w.buf.spans) + len(w.empty[0].spans) + len(w.empty[1].spans)
}

// Stored returns how many bytes the file would have at most if it were closed
// now.
func (w *Writer) Stored() int64 {
	const perExtent = 3*10 + extentEntrySize // three varints
	n := w.pos + int64(len(w.frames))*frameEntrySize + int64(len(w.index))*extentEntrySize + footerSize
	return n + 3*(frameHeaderSize+frameEntrySize) + int64(len(w.buf.plain)) + int64(w.pending())*perExtent
}

// Full reports whether the segment should be closed and a new one begun:
// SegmentBytes are stored, or the extents come near their limit.
func (w *Writer) Full() bool {
	return w.Stored() >= SegmentBytes || len(w.index)+w.pending() >= w.limit/2
}

// Close writes what is pending, index and footer, and makes the file durable.
// Of f, Instant, Consistency and Sum are used. On an error the file is removed.
func (w *Writer) Close(f Footer) (Info, error) {
	if w.err == nil {
		w.err = w.finish(&f)
	}
	if w.err != nil {
		return Info{}, errors.Join(w.err, w.Abort())
	}
	info := Info{File: w.h.File, Size: w.pos, Frames: f.Frames, Extents: f.Extents,
		DataBytes: f.DataBytes, ZeroBytes: f.ZeroBytes, DiscardBytes: f.DiscardBytes}
	w.sum.Sum(info.SHA256[:0])
	w.release()
	if err := w.f.Close(); err != nil {
		return Info{}, errors.Join(fmt.Errorf("cannot close log %s: %w", w.path, err), w.fsys.Remove(w.path))
	}
	return info, nil
}

func (w *Writer) finish(f *Footer) error {
	if _, ok := consistencyCode(f.Consistency); !ok {
		return fmt.Errorf("cannot close log %s: consistency %q is not known", w.path, f.Consistency)
	}
	if err := errors.Join(w.flushData(), w.flushEmpty(&w.empty[0]), w.flushEmpty(&w.empty[1])); err != nil {
		return err
	}
	slices.SortFunc(w.index, func(a, b indexLine) int { return cmp.Compare(a.off, b.off) })
	f.Frames, f.Extents = int64(len(w.frames)), int64(len(w.index))
	f.DataBytes, f.ZeroBytes, f.DiscardBytes = 0, 0, 0
	var end int64
	for _, e := range w.index {
		if e.off < end {
			return fmt.Errorf("cannot close log %s: two extents overlap at offset %d", w.path, e.off)
		}
		end = e.off + e.n
		*f.bytesOf(e.kind()) += e.n
	}
	f.indexPos, f.headerCRC = w.pos, w.crc
	if err := w.writeIndex(f); err != nil {
		return err
	}
	f.indexLen = w.pos - f.indexPos
	f.fileSize = w.pos + footerSize
	if err := w.write(f.encode()); err != nil {
		return err
	}
	if err := w.f.Sync(); err != nil {
		return fmt.Errorf("cannot sync log %s: %w", w.path, err)
	}
	return nil
}

// bytesOf returns the footer's count of bytes of a kind.
func (f *Footer) bytesOf(k ExtentKind) *int64 {
	switch k {
	case Zero:
		return &f.ZeroBytes
	case Discarded:
		return &f.DiscardBytes
	}
	return &f.DataBytes
}

// Abort gives up: the file is removed.
func (w *Writer) Abort() error {
	if w.buf == nil {
		return nil // closed already
	}
	w.release()
	return errors.Join(w.f.Close(), w.fsys.Remove(w.path))
}

func (w *Writer) release() {
	w.buf.spans, w.buf.plain = w.buf.spans[:0], w.buf.plain[:0]
	writeBufs.Put(w.buf)
	w.buf = nil
	if w.err == nil {
		w.err = fmt.Errorf("cannot write log %s: it is closed", w.path)
	}
}
