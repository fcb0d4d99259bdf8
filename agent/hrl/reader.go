package hrl

import (
	"errors"
	"fmt"
	"iter"

	"github.com/drrun/drrun/internal/vfs"
)

// Reader reads one closed log. It holds no content but what its cache keeps,
// and 8 bytes for each 128 extents.
type Reader struct {
	file  vfs.File
	path  string
	size  int64
	h     Header
	f     Footer
	pages []int64 // offset of the first extent of each page of the index
	cache *Cache
}

// Open opens a log with a cache of its own (DefaultCache bytes, taken as used).
// Header, footer and index are checked, frames when they are read. Errors are
// fault.Corrupt with the file and the offset of the fault, fault.Refused where a
// newer program wrote it, or those of fsys.
func Open(fsys vfs.FS, path string) (*Reader, error) {
	return OpenCached(fsys, path, NewCache(DefaultCache))
}

// OpenCached is Open with a cache that other readers share.
func OpenCached(fsys vfs.FS, path string, c *Cache) (_ *Reader, err error) {
	f, err := fsys.OpenFile(path, vfs.ReadOnly, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open log: %w", err)
	}
	r := &Reader{file: f, path: path, cache: c}
	if err := r.open(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return r, nil
}

func (r *Reader) open() (err error) {
	if r.size, err = r.file.Size(); err != nil {
		return fmt.Errorf("cannot read log %s: %w", r.path, err)
	}
	if r.size < headerSize+footerSize {
		return corrupt(r.path, r.size, "the file ends here: too short for a log")
	}
	b := make([]byte, headerSize)
	if err := r.readAt(b, 0); err != nil {
		return err
	}
	if r.h, err = decodeHeader(r.path, b); err != nil {
		return err
	}
	crc := le.Uint32(b[252:])
	if err := r.readAt(b[:footerSize], r.size-footerSize); err != nil {
		return err
	}
	if r.f, err = decodeFooter(r.path, b[:footerSize], r.size, crc); err != nil {
		return err
	}
	return r.checkIndex()
}

// Path returns the path the log was opened with.
func (r *Reader) Path() string { return r.path }

// Size returns the size of the file in bytes.
func (r *Reader) Size() int64 { return r.size }

// Header returns the log's header.
func (r *Reader) Header() Header { return r.h }

// Footer returns the log's footer.
func (r *Reader) Footer() Footer { return r.f }

// Close closes the file and drops its frames from the cache.
func (r *Reader) Close() error {
	r.cache.forget(r)
	return r.file.Close()
}

// Extents yields all extents of the log in order of their offsets. An error is
// yielded last, with a zero Extent.
func (r *Reader) Extents() iter.Seq2[Extent, error] { return r.Lookup(0, MaxDisk) }

// Lookup yields the parts of the log's extents that lie in the n bytes from
// off, clipped to them, in order. An error is yielded last, with a zero Extent.
func (r *Reader) Lookup(off, n int64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		for e, err := range r.entries(off) {
			if err != nil {
				yield(Extent{}, err)
				return
			}
			if e.off >= off+n {
				return
			}
			start := max(e.off, off)
			if !yield(Extent{Off: start, Len: min(e.end(), off+n) - start, Kind: e.kind}, nil) {
				return
			}
		}
	}
}

// Overlay writes over p, which stands for the disk's bytes from off, all that
// the log holds of them: content, or zeros for zero and discarded extents. What
// the log does not hold is left as it is. It returns the number of bytes held.
// An older point is the head with the undo logs laid over it from the newest
// to the oldest.
//
// Overlay does not cut or grow: where this log's SizeAfter is less than that of
// one laid over p later, it is the caller who clears what was cut off, unless
// the later one holds it. Frames without content are not read (Walk does).
func (r *Reader) Overlay(off int64, p []byte) (held int64, err error) {
	end := off + int64(len(p))
	for e, err := range r.entries(off) {
		if err != nil {
			return held, err
		}
		if e.off >= end {
			break
		}
		start := max(e.off, off)
		part := p[start-off : min(e.end(), end)-off]
		held += int64(len(part))
		if e.kind != Data {
			clear(part)
			continue
		}
		err := r.cache.use(r, e.frame, func(d *decodedFrame) error {
			if !d.holds(e) {
				return r.indexMismatch(e.frame, e.off)
			}
			copy(part, d.plain[int64(e.at)+start-e.off:])
			return nil
		})
		if err != nil {
			return held, err
		}
	}
	return held, nil
}

// ReadExtent fills p[:e.Len] with the content of an extent (or a part of one)
// that Extents or Lookup gave.
func (r *Reader) ReadExtent(e Extent, p []byte) error {
	if int64(len(p)) < e.Len {
		return fmt.Errorf("cannot read log %s: room for %d of %d bytes", r.path, len(p), e.Len)
	}
	held, err := r.Overlay(e.Off, p[:e.Len])
	if err == nil && held != e.Len {
		err = fmt.Errorf("cannot read log %s: it holds %d of %d bytes at offset %d", r.path, held, e.Len, e.Off)
	}
	return err
}

// Walk reads the whole log front to back, checks every frame against its
// checksums and the index, and calls fn once for each extent, in the order of
// the file. plain is the content of a data extent, nil for others; it is
// valid until fn returns. An error of fn ends the walk and is returned as it is.
func (r *Reader) Walk(fn func(e Extent, plain []byte) error) error {
	return r.walk(func(*decodedFrame, int64) {}, fn)
}

// Verify reads the whole log as Walk does.
func (r *Reader) Verify() error {
	return r.Walk(func(Extent, []byte) error { return nil })
}

// walk is Walk that reports each frame and its stored size first.
func (r *Reader) walk(frame func(d *decodedFrame, stored int64), fn func(Extent, []byte) error) error {
	var (
		in    []byte
		d     decodedFrame
		err   error
		count int64
		c     = r.cursor()
	)
	for no := range uint32(r.f.Frames) {
		if in, err = r.readFrame(no, in, &d); err != nil {
			return err
		}
		frame(&d, int64(len(in)))
		at := int64(0)
		for _, s := range d.spans {
			e, ok, err := c.find(s.off)
			if err != nil {
				return err
			}
			n := at
			if d.kind != Data {
				n = 0
			}
			if !ok || e.n != s.n || e.frame != no || e.kind != d.kind || int64(e.at) != n {
				return r.indexMismatch(no, s.off)
			}
			var plain []byte
			if d.kind == Data {
				plain = d.plain[at : at+s.n : at+s.n]
			}
			if err := fn(Extent{s.off, s.n, d.kind}, plain); err != nil {
				return err
			}
			at += s.n
		}
		count += int64(len(d.spans))
	}
	if count != r.f.Extents {
		return corrupt(r.path, r.extentsPos(), "the index has %d extents, the frames %d", r.f.Extents, count)
	}
	return nil
}

func (r *Reader) indexMismatch(no uint32, off int64) error {
	start, _, _, err := r.frameAt(no)
	if err != nil {
		return err
	}
	return corrupt(r.path, start, "frame %d and the index disagree about offset %d of the disk", no, off)
}

// holds reports whether the frame has extent e where e says.
func (d *decodedFrame) holds(e extentEntry) bool {
	at := int64(0)
	for _, s := range d.spans {
		if at == int64(e.at) {
			return d.kind == e.kind && s.off == e.off && s.n == e.n
		}
		at += s.n
	}
	return false
}

// readFrame reads frame no through the buffer in, which it returns grown if
// need be, and unpacks it into d.
func (r *Reader) readFrame(no uint32, in []byte, d *decodedFrame) ([]byte, error) {
	start, end, crc, err := r.frameAt(no)
	if err != nil {
		return in, err
	}
	n := int(end - start)
	if cap(in) < n {
		in = make([]byte, max(n, min(2*cap(in), maxFrame)))
	}
	in = in[:n]
	if err := r.readAt(in, start); err != nil {
		return in, err
	}
	if at, err := d.decode(in, crc, r.h.SizeAfter); err != nil {
		return in, corrupt(r.path, start+int64(at), "frame %d: %w", no, err)
	}
	return in, nil
}
