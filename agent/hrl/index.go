package hrl

import (
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"sort"
)

const (
	frameEntrySize  = 12
	extentEntrySize = 24
	pageEntries     = 128 // extents of the index read at once
)

// frameEntry is a frame's line in the index.
type frameEntry struct {
	pos int64
	crc uint32
}

// extentEntry is an extent's line in the index.
type extentEntry struct {
	off, n    int64
	frame, at uint32
	kind      ExtentKind
}

func (e extentEntry) end() int64 { return e.off + e.n }

// indexLine is an extentEntry as the file and a Writer keep it, in 24 bytes:
// place has the kind above 24 bits of at.
type indexLine struct {
	off, n       int64
	frame, place uint32
}

func (l indexLine) kind() ExtentKind { return ExtentKind(l.place >> 24) }

func decodeExtentEntry(b []byte) extentEntry {
	place := le.Uint32(b[20:])
	return extentEntry{off: int64(le.Uint64(b)), n: int64(le.Uint64(b[8:])), frame: le.Uint32(b[16:]),
		at: place & (1<<24 - 1), kind: ExtentKind(place >> 24)}
}

// writeIndex writes frame table and extents and sets the index's CRC.
func (w *Writer) writeIndex(f *Footer) error {
	b := w.buf.plain[:0]
	crc := uint32(0)
	flush := func() error {
		crc = crc32.Update(crc, castagnoli, b)
		err := w.write(b)
		b = b[:0]
		return err
	}
	room := cap(b) - extentEntrySize
	for _, e := range w.frames {
		b = le.AppendUint64(b, uint64(e.pos))
		b = le.AppendUint32(b, e.crc)
		if len(b) > room {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	for _, e := range w.index {
		b = le.AppendUint64(b, uint64(e.off))
		b = le.AppendUint64(b, uint64(e.n))
		b = le.AppendUint32(b, e.frame)
		b = le.AppendUint32(b, e.place)
		if len(b) > room {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	err := flush()
	f.indexCRC = crc
	return err
}

// indexCheck goes through the index once; it keeps the first fault, which is
// only told if the index's CRC fits.
type indexCheck struct {
	r      *Reader
	crc    uint32
	fault  error
	totals Footer
	frame  frameEntry  // the last one
	extent extentEntry // the last one
}

func (c *indexCheck) note(at int64, format string, args ...any) {
	if c.fault == nil {
		c.fault = corrupt(c.r.path, at, format, args...)
	}
}

// checkIndex reads the whole index, checks it, and keeps the first offset of
// each page.
func (r *Reader) checkIndex() error {
	c := indexCheck{r: r, frame: frameEntry{pos: headerSize - frameHeaderSize}}
	if err := r.eachIndexEntry(r.f.indexPos, r.f.Frames, frameEntrySize, &c.crc, c.checkFrame); err != nil {
		return err
	}
	if r.f.Frames == 0 && r.f.indexPos != headerSize || r.f.Frames > 0 && r.f.indexPos > c.frame.pos+maxFrame {
		c.note(r.f.indexPos, "the frames do not fill the file")
	}
	r.pages = make([]int64, 0, (r.f.Extents+pageEntries-1)/pageEntries)
	if err := r.eachIndexEntry(r.extentsPos(), r.f.Extents, extentEntrySize, &c.crc, c.checkExtent); err != nil {
		return err
	}
	if c.crc != r.f.indexCRC {
		return corrupt(r.path, r.f.indexPos, "index checksum is %08x, want %08x", c.crc, r.f.indexCRC)
	}
	t := &c.totals
	if t.DataBytes != r.f.DataBytes || t.ZeroBytes != r.f.ZeroBytes || t.DiscardBytes != r.f.DiscardBytes {
		c.note(r.f.indexPos+r.f.indexLen+48, "the footer's counts are not those of the index")
	}
	return c.fault
}

func (c *indexCheck) checkFrame(i, at int64, b []byte) {
	pos := int64(le.Uint64(b))
	if i == 0 && pos != headerSize || pos < c.frame.pos+frameHeaderSize || pos > c.r.f.indexPos-frameHeaderSize ||
		i > 0 && pos > c.frame.pos+maxFrame {
		c.note(at, "frame %d cannot lie at %d", i, pos)
	}
	c.frame.pos = pos
}

func (c *indexCheck) checkExtent(i, at int64, b []byte) {
	e := decodeExtentEntry(b)
	if i%pageEntries == 0 {
		c.r.pages = append(c.r.pages, e.off)
	}
	if err := checkExtent(e.off, e.n, c.r.h.SizeAfter); err != nil {
		c.note(at, "%w", err)
	} else if i > 0 && e.off < c.extent.end() {
		c.note(at, "two extents overlap or are out of order at offset %d", e.off)
	}
	if int64(e.frame) >= c.r.f.Frames || e.kind < Data || e.kind > Discarded ||
		e.kind == Data && e.n > MaxPlain-int64(e.at) || e.kind != Data && e.at != 0 {
		c.note(at, "extent %d points to a wrong place", i)
	}
	*c.totals.bytesOf(e.kind) += e.n
	c.extent = e
}

// eachIndexEntry calls fn with count entries of size bytes from position pos
// and carries their CRC on.
func (r *Reader) eachIndexEntry(pos, count, size int64, crc *uint32, fn func(i, at int64, b []byte)) error {
	const batch = 2048
	buf := make([]byte, min(count, batch)*size)
	for i := int64(0); i < count; {
		b := buf[:min(count-i, batch)*size]
		if err := r.readAt(b, pos+i*size); err != nil {
			return err
		}
		*crc = crc32.Update(*crc, castagnoli, b)
		for ; len(b) > 0; b, i = b[size:], i+1 {
			fn(i, pos+i*size, b[:size])
		}
	}
	return nil
}

func (r *Reader) extentsPos() int64 { return r.f.indexPos + r.f.Frames*frameEntrySize }

// readAt fills p; the file ending there is damage, not an I/O error.
func (r *Reader) readAt(p []byte, pos int64) error {
	n, err := r.file.ReadAt(p, pos)
	if n == len(p) {
		return nil
	}
	if err == io.EOF {
		return corrupt(r.path, pos+int64(n), "the file ends here, %d bytes early", len(p)-n)
	}
	return fmt.Errorf("cannot read log %s: at byte %d: %w", r.path, pos+int64(n), err)
}

// cursor reads the index's extents page by page.
type cursor struct {
	r    *Reader
	page int64 // in buf; -1: none
	n    int   // extents in buf
	buf  [pageEntries * extentEntrySize]byte
}

func (r *Reader) cursor() *cursor { return &cursor{r: r, page: -1} }

func (c *cursor) load(page int64) error {
	if page == c.page {
		return nil
	}
	c.page = -1
	i := page * pageEntries
	n := min(c.r.f.Extents-i, pageEntries)
	if err := c.r.readAt(c.buf[:n*extentEntrySize], c.r.extentsPos()+i*extentEntrySize); err != nil {
		return err
	}
	c.page, c.n = page, int(n)
	return nil
}

func (c *cursor) entry(i int) extentEntry { return decodeExtentEntry(c.buf[i*extentEntrySize:]) }

// pageOf returns the page in which an extent at off would lie.
func (r *Reader) pageOf(off int64) int64 {
	return int64(max(sort.Search(len(r.pages), func(i int) bool { return r.pages[i] > off })-1, 0))
}

// find returns the extent that begins at off.
func (c *cursor) find(off int64) (extentEntry, bool, error) {
	if c.r.f.Extents == 0 {
		return extentEntry{}, false, nil
	}
	if err := c.load(c.r.pageOf(off)); err != nil {
		return extentEntry{}, false, err
	}
	i := sort.Search(c.n, func(i int) bool { return c.entry(i).off >= off })
	if i == c.n || c.entry(i).off != off {
		return extentEntry{}, false, nil
	}
	return c.entry(i), true, nil
}

// entries yields the index's extents that end after off, in order.
func (r *Reader) entries(off int64) iter.Seq2[extentEntry, error] {
	return func(yield func(extentEntry, error) bool) {
		c := r.cursor()
		for page := r.pageOf(off); page*pageEntries < r.f.Extents; page++ {
			if err := c.load(page); err != nil {
				yield(extentEntry{}, err)
				return
			}
			i := sort.Search(c.n, func(i int) bool { return c.entry(i).end() > off })
			for ; i < c.n; i++ {
				if !yield(c.entry(i), nil) {
					return
				}
			}
		}
	}
}

// frameAt returns where frame no lies and its CRC.
func (r *Reader) frameAt(no uint32) (start, end int64, crc uint32, err error) {
	var b [2 * frameEntrySize]byte
	n := min(r.f.Frames-int64(no), 2) * frameEntrySize
	if err := r.readAt(b[:n], r.f.indexPos+int64(no)*frameEntrySize); err != nil {
		return 0, 0, 0, err
	}
	start, end = int64(le.Uint64(b[:])), r.f.indexPos
	if n > frameEntrySize {
		end = int64(le.Uint64(b[frameEntrySize:]))
	}
	if start < headerSize || end > r.f.indexPos || end-start < frameHeaderSize || end-start > maxFrame {
		return 0, 0, 0, corrupt(r.path, r.f.indexPos+int64(no)*frameEntrySize, "the index changed under the reader")
	}
	return start, end, le.Uint32(b[8:]), nil
}
