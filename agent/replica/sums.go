package replica

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"slices"
	"time"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
)

// A sums file stands beside each received segment: the hashes of the blocks
// that the segment covers, so that accepting a point and folding it into the
// table need not decompress the log again. It can always be made anew from the
// segment. All numbers are little endian:
//
//	offset size
//	0      8    magic "DRRSIDE\x00"
//	8      4    format version, 1
//	12     4    CRC32C of the body
//	16     8    first block covered
//	24     8    block after the last one covered
//	32     8    bytes an undo log may need
//	40     8    bytes the head may grow by
//	48     8    length of the body
//	56     4    zero
//	60     4    CRC32C of bytes 0 to 59
//	64     …    body: runs, ascending: block (8), count (4), kind (4: 0 zeros,
//	            1 hashes), then for kind 1 count hashes of 8 bytes
const (
	sumsMagic   = "DRRSIDE\x00"
	sumsVersion = 1
	sumsHeader  = 64
	runHeader   = 16
	runZeros    = 0
	runHashes   = 1
	maxRun      = blocksum.RangeBlocks // hashes in one run
	maxBlock    = blocksum.MaxSize / blocksum.BlockSize
	sumsSuffix  = ".sums"
)

// segment is what memory keeps of a received segment: the header of its sums.
type segment struct {
	disk        string
	first, last int64 // blocks [first, last)
	undo, grow  int64 // bytes that applying it may need

	checked time.Time // when all its frames were read; zero: not by this process
}

func (s segment) encode(crc uint32, length int64) []byte {
	b := make([]byte, sumsHeader)
	le := binary.LittleEndian
	copy(b, sumsMagic)
	le.PutUint32(b[8:], sumsVersion)
	le.PutUint32(b[12:], crc)
	for i, v := range []int64{s.first, s.last, s.undo, s.grow, length} {
		le.PutUint64(b[16+8*i:], uint64(v))
	}
	le.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
	return b
}

func decodeSums(b []byte) (s segment, crc uint32, length int64, err error) {
	le := binary.LittleEndian
	switch {
	case len(b) < sumsHeader || string(b[:8]) != sumsMagic:
		return s, 0, 0, errors.New("not a sums file")
	case le.Uint32(b[8:]) != sumsVersion:
		return s, 0, 0, fmt.Errorf("sums version %d is not known", le.Uint32(b[8:]))
	case le.Uint32(b[60:]) != crc32.Checksum(b[:60], castagnoli):
		return s, 0, 0, errors.New("the header's checksum is wrong")
	}
	at := func(i int) int64 { return int64(le.Uint64(b[16+8*i:])) }
	s, length = segment{first: at(0), last: at(1), undo: at(2), grow: at(3)}, at(4)
	if s.first < 0 || s.last < s.first || s.undo < 0 || s.grow < 0 || length < 0 {
		return s, 0, 0, errors.New("the header's numbers are out of range")
	}
	return s, le.Uint32(b[12:]), length, nil
}

// sumsWriter writes a sums file. Blocks come in ascending order.
type sumsWriter struct {
	f       vfs.File
	w       *bufio.Writer
	crc     hash.Hash32
	length  int64
	seg     segment
	covered int64 // blocks
	any     bool
	start   int64 // of the pending run
	kind    uint32
	zeros   int64
	pending []uint64
}

func newSumsWriter(fsys vfs.FS, path string) (*sumsWriter, error) {
	f, err := fsys.OpenFile(path, vfs.CreateTrunc, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err := f.Write(make([]byte, sumsHeader)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &sumsWriter{f: f, w: bufio.NewWriterSize(f, 64<<10), crc: crc32.New(castagnoli)}, nil
}

func (w *sumsWriter) cover(block, n int64) error {
	if w.any && block < w.seg.last {
		return fmt.Errorf("block %d comes twice or out of order", block)
	}
	if !w.any {
		w.seg.first, w.any = block, true
	}
	w.seg.last = block + n
	w.covered += n
	return nil
}

// data adds the hash of one block.
func (w *sumsWriter) data(block int64, h uint64) error {
	next := w.start + int64(len(w.pending))
	if err := w.cover(block, 1); err != nil {
		return err
	}
	if w.kind != runHashes || next != block || len(w.pending) == maxRun {
		if err := w.flush(); err != nil {
			return err
		}
		w.kind, w.start = runHashes, block
	}
	w.pending = append(w.pending, h)
	return nil
}

// zero adds n zero blocks.
func (w *sumsWriter) zero(block, n int64) error {
	next := w.start + w.zeros
	if err := w.cover(block, n); err != nil {
		return err
	}
	if w.kind != runZeros || next != block {
		if err := w.flush(); err != nil {
			return err
		}
		w.kind, w.start = runZeros, block
	}
	w.zeros += n
	return nil
}

func (w *sumsWriter) flush() error {
	emit := func(count int64) error {
		b := make([]byte, runHeader, runHeader+8*len(w.pending))
		binary.LittleEndian.PutUint64(b, uint64(w.start))
		binary.LittleEndian.PutUint32(b[8:], uint32(count)) //nolint:gosec // at most 1<<30, see below
		binary.LittleEndian.PutUint32(b[12:], w.kind)
		for _, h := range w.pending {
			b = binary.LittleEndian.AppendUint64(b, h)
		}
		_, _ = w.crc.Write(b)
		w.length += int64(len(b))
		_, err := w.w.Write(b)
		return err
	}
	if w.kind == runHashes && len(w.pending) > 0 {
		err := emit(int64(len(w.pending)))
		w.pending = w.pending[:0]
		return err
	}
	for w.zeros > 0 {
		n := min(w.zeros, 1<<30)
		if err := emit(n); err != nil {
			return err
		}
		w.start, w.zeros = w.start+n, w.zeros-n
	}
	return nil
}

// finish writes the last run, asks need for the bytes the segment may take,
// and makes the file durable.
func (w *sumsWriter) finish(need func(path string, s segment) (undo, grow int64, err error)) (segment, error) {
	err := w.flush()
	if err == nil {
		err = w.w.Flush()
	}
	put := func() error {
		_, err := w.f.WriteAt(w.seg.encode(w.crc.Sum32(), w.length), 0)
		return err
	}
	if err == nil {
		err = put()
	}
	if err == nil {
		w.seg.undo, w.seg.grow, err = need(w.f.Name(), w.seg)
	}
	if err == nil {
		err = put()
	}
	if err == nil {
		err = w.f.Sync()
	}
	return w.seg, errors.Join(err, w.f.Close())
}

func (w *sumsWriter) abort() { _ = w.f.Close() } // the file is a temporary one

// readSumsHeader returns what a sums file says of its segment.
func readSumsHeader(fsys vfs.FS, path string) (segment, error) {
	f, err := fsys.OpenFile(path, vfs.ReadOnly, 0)
	if err != nil {
		return segment{}, err
	}
	defer f.Close()
	b := make([]byte, sumsHeader)
	if _, err := io.ReadFull(f, b); err != nil {
		return segment{}, fmt.Errorf("cannot read %s: %w", path, err)
	}
	s, _, _, err := decodeSums(b)
	if err != nil {
		return segment{}, fault.Errorf(fault.Corrupt, "cannot read %s: %w", path, err)
	}
	return s, nil
}

// readSums is readSumsHeader that checks the whole file.
func readSums(fsys vfs.FS, path string) (segment, error) {
	s, err := readSumsHeader(fsys, path)
	if err != nil {
		return segment{}, err
	}
	c, err := openSums(fsys, path)
	if err != nil {
		return segment{}, err
	}
	return s, c.close()
}

// sumsCursor reads the runs of one sums file.
type sumsCursor struct {
	f      vfs.File
	r      *bufio.Reader
	left   int64  // bytes of the body not yet read
	least  int64  // block at which the next run may begin
	start  int64  // of the current run
	count  int64  // blocks of the current run; 0: at the end
	kind   uint32 // of the current run
	hashes []uint64
}

// openSums checks a whole sums file and stands at its first run.
func openSums(fsys vfs.FS, path string) (_ *sumsCursor, err error) {
	f, err := fsys.OpenFile(path, vfs.ReadOnly, 0)
	if err != nil {
		return nil, err
	}
	c := &sumsCursor{f: f}
	defer func() {
		if err != nil {
			err = errors.Join(fault.Errorf(fault.Corrupt, "cannot read %s: %w", path, err), f.Close())
		}
	}()
	b := make([]byte, sumsHeader)
	if _, err = io.ReadFull(f, b); err != nil {
		return nil, err
	}
	_, want, length, err := decodeSums(b)
	if err != nil {
		return nil, err
	}
	crc := crc32.New(castagnoli)
	n, err := io.Copy(crc, io.NewSectionReader(f, sumsHeader, length))
	if err != nil {
		return nil, err
	}
	if n != length || crc.Sum32() != want {
		return nil, errors.New("the checksum of the hashes is wrong")
	}
	c.left = length
	c.r = bufio.NewReaderSize(io.NewSectionReader(f, sumsHeader, length), 64<<10)
	return c, c.next()
}

func (c *sumsCursor) next() error {
	if c.left == 0 {
		c.count = 0
		return nil
	}
	var b [runHeader]byte
	if _, err := io.ReadFull(c.r, b[:]); err != nil {
		return err
	}
	c.start = int64(binary.LittleEndian.Uint64(b[:]))
	c.count = int64(binary.LittleEndian.Uint32(b[8:]))
	c.kind = binary.LittleEndian.Uint32(b[12:])
	c.left -= runHeader
	c.hashes = c.hashes[:0]
	if c.count == 0 || c.start < c.least || c.start > maxBlock || c.kind > runHashes || c.kind == runHashes && c.count > maxRun {
		return errors.New("a run is out of range")
	}
	c.least = c.start + c.count
	if c.kind == runHashes {
		p := make([]byte, 8*c.count)
		if _, err := io.ReadFull(c.r, p); err != nil {
			return err
		}
		c.left -= int64(len(p))
		for ; len(p) > 0; p = p[8:] {
			c.hashes = append(c.hashes, binary.LittleEndian.Uint64(p))
		}
	}
	return nil
}

func (c *sumsCursor) close() error { return c.f.Close() }

// blockRange is one table range of a log: the blocks that it covers and their
// hashes.
type blockRange struct {
	number int64
	set    [blocksum.RangeBlocks]bool
	hashes [blocksum.RangeBlocks]uint64
}

// fill takes the cursor's blocks of range r, and moves the cursor past them.
func (c *sumsCursor) fill(r *blockRange) error {
	lo := r.number * blocksum.RangeBlocks
	hi := lo + blocksum.RangeBlocks
	if c.count > 0 && c.start < lo {
		return fmt.Errorf("it holds block %d, and its header says that it begins later", c.start)
	}
	for c.count > 0 && c.start < hi {
		n := min(c.start+c.count, hi) - c.start
		for i := range n {
			at := c.start - lo + i
			r.set[at], r.hashes[at] = true, 0
			if c.kind == runHashes {
				r.hashes[at] = c.hashes[i]
			}
		}
		c.start, c.count = c.start+n, c.count-n
		if c.kind == runHashes {
			c.hashes = c.hashes[n:]
		}
		if c.count == 0 {
			if err := c.next(); err != nil {
				return err
			}
		}
	}
	return nil
}

// sumsFile names a sums file and the blocks it covers.
type sumsFile struct {
	path string
	seg  segment
}

// eachRange calls fn for every range that the files cover, ascending; where two
// files hold the same block the later file wins. Files are open only while
// their blocks are passed.
func eachRange(fsys vfs.FS, files []sumsFile, fn func(*blockRange) error) (err error) {
	type entry struct {
		order int
		sumsFile
		cursor *sumsCursor
	}
	var waiting, open []*entry
	for i, f := range files {
		if f.seg.last > f.seg.first {
			waiting = append(waiting, &entry{order: i, sumsFile: f})
		}
	}
	slices.SortStableFunc(waiting, func(a, b *entry) int { return int(min(1, max(-1, a.seg.first-b.seg.first))) })
	defer func() {
		for _, e := range open {
			err = errors.Join(err, e.cursor.close())
		}
	}()
	var r blockRange
	for len(waiting) > 0 || len(open) > 0 {
		first := int64(-1)
		for _, e := range open {
			if first < 0 || e.cursor.start < first {
				first = e.cursor.start
			}
		}
		if len(waiting) > 0 && (first < 0 || waiting[0].seg.first < first) {
			first = waiting[0].seg.first
		}
		r = blockRange{number: first / blocksum.RangeBlocks}
		hi := (r.number + 1) * blocksum.RangeBlocks
		for len(waiting) > 0 && waiting[0].seg.first < hi {
			e := waiting[0]
			if e.cursor, err = openSums(fsys, e.path); err != nil {
				return err
			}
			waiting, open = waiting[1:], append(open, e)
		}
		slices.SortFunc(open, func(a, b *entry) int { return a.order - b.order })
		still := open[:0]
		for i, e := range open {
			if err = e.cursor.fill(&r); err != nil {
				open = append(still, open[i:]...)
				return fault.Errorf(fault.Corrupt, "cannot read %s: %w", e.path, err)
			}
			if e.cursor.count > 0 {
				still = append(still, e)
			} else if err = e.cursor.close(); err != nil {
				open = append(still, open[i+1:]...)
				return err
			}
		}
		open = still
		if err = fn(&r); err != nil {
			return err
		}
	}
	return nil
}
