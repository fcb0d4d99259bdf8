package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/agent/hrl"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

const (
	// chunkBytes is the most that is read, laid over and written at once.
	chunkBytes = 1 << 20
	// batchLogs is the most logs that are open at once; more are laid over one
	// batch after the other.
	batchLogs = 64
	// cacheBytes bounds the unpacked frames of a batch.
	cacheBytes = 8 << 20
	// undoFrame is the plain content of a frame of an undo log: small, as views
	// read here and there.
	undoFrame = 64 << 10
)

// batch is a number of logs laid over each other: where two hold the same
// bytes, the later one in the list wins.
type batch struct {
	logs  []*hrl.Reader
	cache *hrl.Cache
}

// openBatch opens logs that lie over each other in the order of paths.
func openBatch(fsys vfs.FS, paths []string) (*batch, error) {
	b := &batch{cache: hrl.NewCache(cacheBytes)}
	for _, p := range paths {
		r, err := openLog(fsys, p, b.cache)
		if err != nil {
			return nil, errors.Join(err, b.close())
		}
		b.logs = append(b.logs, r)
	}
	return b, nil
}

// openLog opens a log that a point needs: a missing one is fault.Corrupt.
func openLog(fsys vfs.FS, path string, c *hrl.Cache) (*hrl.Reader, error) {
	r, err := hrl.OpenCached(fsys, path, c)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Wrap(fault.Corrupt, err)
	}
	return r, err
}

func (b *batch) close() error {
	var errs []error
	for _, r := range b.logs {
		errs = append(errs, r.Close())
	}
	return errors.Join(errs...)
}

func alignUp(n int64) int64 { return (n + blocksum.BlockSize - 1) &^ (blocksum.BlockSize - 1) }

// logHead is where a log stands while a batch is read.
type logHead struct {
	r    *hrl.Reader
	e    hrl.Extent // the next one, or what is left of it
	next func() (hrl.Extent, error, bool)
	ok   bool
}

func (h *logHead) advance() (err error) {
	h.e, err, h.ok = h.next()
	return err
}

// part is a piece of an extent inside the window that is read.
type part struct {
	r *hrl.Reader
	e hrl.Extent
}

// eachChunk calls fn with all blocks below size that the batch holds, in order,
// in pieces that fit buf, whose length is a multiple of the block size. A block
// is the whole of what the last log says of it: behind the end of a disk that
// was shorter then it is zero. Only the disk's last block may be short.
func (b *batch) eachChunk(size int64, buf []byte, fn func(off int64, p []byte) error) error {
	heads := make([]*logHead, 0, len(b.logs))
	for _, r := range b.logs {
		next, stop := iter.Pull2(r.Extents())
		defer stop()
		h := &logHead{r: r, next: next}
		if err := h.advance(); err != nil {
			return err
		}
		heads = append(heads, h)
	}
	var parts []part
	covered := make([]bool, len(buf)/blocksum.BlockSize)
	for {
		pos := size
		for _, h := range heads {
			if h.ok {
				pos = min(pos, h.e.Off)
			}
		}
		if pos >= size {
			return nil
		}
		end := min(pos+int64(len(buf)), size)
		var err error
		if parts, err = takeParts(heads, end, parts[:0]); err != nil {
			return err
		}
		clear(covered)
		if err := readParts(parts, pos, buf[:end-pos], covered); err != nil {
			return err
		}
		if err := eachRun(pos, buf[:end-pos], covered, fn); err != nil {
			return err
		}
	}
}

// takeParts moves all heads to end and returns what they passed, log by log.
func takeParts(heads []*logHead, end int64, parts []part) ([]part, error) {
	for _, h := range heads {
		for h.ok && h.e.Off < end {
			e := h.e
			if e.End() > end {
				e.Len = end - e.Off
				h.e.Len -= e.Len
				h.e.Off = end
			} else if err := h.advance(); err != nil {
				return nil, err
			}
			parts = append(parts, part{h.r, e})
		}
	}
	return parts, nil
}

// readParts fills p, the disk from pos on, and marks the blocks that are
// covered. Extents of which nothing would stay are not read.
func readParts(parts []part, pos int64, p []byte, covered []bool) error {
	for i := len(parts) - 1; i >= 0; i-- {
		seen := true
		e := parts[i].e
		for k := (e.Off - pos) / blocksum.BlockSize; k < (e.End()-pos+blocksum.BlockSize-1)/blocksum.BlockSize; k++ {
			seen = seen && covered[k]
			covered[k] = true
		}
		if seen {
			parts[i].r = nil
		}
	}
	for _, q := range parts {
		if q.r == nil {
			continue
		}
		from, to := q.e.Off-pos, q.e.End()-pos
		if q.e.Kind != hrl.Data {
			clear(p[from:to])
		} else if err := q.r.ReadExtent(q.e, p[from:to]); err != nil {
			return err
		}
		clear(p[to:min(alignUp(to), int64(len(p)))])
	}
	return nil
}

// eachRun calls fn with the runs of covered blocks of p.
func eachRun(pos int64, p []byte, covered []bool, fn func(off int64, p []byte) error) error {
	for i := 0; i < len(covered); {
		j := i
		for j < len(covered) && covered[j] {
			j++
		}
		if j > i {
			from, to := i*blocksum.BlockSize, min(j*blocksum.BlockSize, len(p))
			if err := fn(pos+int64(from), p[from:to]); err != nil {
				return err
			}
		}
		i = max(j, i+1)
	}
	return nil
}

// layers are all logs between a disk's image and a point of it.
type layers struct {
	steps []layerStep // in the order in which they are laid over the image
	size  int64       // of the disk at the point
}

// layerStep is a number of logs that can be laid over each other at once. Undo
// logs always can: what a disk lost when it was cut, the undo log holds whole.
// Of the logs that lead forward each point is a step of its own: what a cut
// takes away must not come back when the disk grows again.
type layerStep struct {
	paths []string // in the order in which they are laid over the image
	size  int64    // of the disk, before they are laid over it
}

// each opens the logs of a step batch by batch, in order.
func (l layerStep) each(ctx context.Context, fsys vfs.FS, fn func(*batch) error) error {
	for paths := l.paths; len(paths) > 0; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n := min(batchLogs, len(paths))
		b, err := openBatch(fsys, paths[:n])
		if err != nil {
			return err
		}
		if err := errors.Join(fn(b), b.close()); err != nil {
			return err
		}
		paths = paths[n:]
	}
	return nil
}

// writeOver lays a step over f, in place. punch says that zeros become holes.
// It returns the number of bytes written.
func (l layerStep) writeOver(ctx context.Context, fsys vfs.FS, f vfs.File, punch bool, progress func(int64)) (written int64, err error) {
	buf := make([]byte, min(chunkBytes, alignUp(l.size)))
	err = l.each(ctx, fsys, func(b *batch) error {
		return b.eachChunk(l.size, buf, func(off int64, p []byte) error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := writeSparse(f, off, p, punch); err != nil {
				return err
			}
			written += int64(len(p))
			progress(int64(len(p)))
			return nil
		})
	})
	return written, err
}

// writeSparse writes p at off; runs of zero blocks become holes if punch is set.
func writeSparse(f vfs.File, off int64, p []byte, punch bool) error {
	for len(p) > 0 {
		n := min(len(p), blocksum.BlockSize)
		zero := punch && blocksum.IsZero(p[:n])
		for n < len(p) && (punch && blocksum.IsZero(p[n:min(len(p), n+blocksum.BlockSize)])) == zero {
			n = min(len(p), n+blocksum.BlockSize)
		}
		var err error
		if zero {
			err = f.PunchHole(off, int64(n))
		} else {
			_, err = f.WriteAt(p[:n], off)
		}
		if err != nil {
			return fmt.Errorf("cannot write %s: %w", f.Name(), err)
		}
		off, p = off+int64(n), p[n:]
	}
	return nil
}

// walkSums reads a whole part file, which checks every frame, and writes the
// hashes of its blocks to path; the caller finishes the writer.
func (m *Machine) walkSums(ctx context.Context, h command.SegmentHeader, part, path string) (*sumsWriter, error) {
	r, err := hrl.OpenCached(m.fs, part, hrl.NewCache(cacheBytes))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if err := m.checkLog(h, r.Header()); err != nil {
		return nil, err
	}
	w, err := newSumsWriter(m.fs, path)
	if err != nil {
		return nil, m.storeError(err, "cannot store segment")
	}
	if err := writeSums(ctx, r, w, m.disks[h.Disk].Key); err != nil {
		w.abort()
		return nil, err
	}
	return w, nil
}

// writeSums adds the hashes of all blocks that a log holds.
func writeSums(ctx context.Context, r *hrl.Reader, w *sumsWriter, key uint64) error {
	var buf []byte
	for e, err := range r.Extents() {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		block := e.Off / blocksum.BlockSize
		if e.Kind != hrl.Data {
			if err := w.zero(block, blocksum.BlockCount(e.Len)); err != nil {
				return fault.Wrap(fault.Corrupt, err)
			}
			continue
		}
		if int64(cap(buf)) < e.Len { // a data extent lies in one frame
			buf = make([]byte, e.Len)
		}
		p := buf[:e.Len]
		if err := r.ReadExtent(e, p); err != nil {
			return err
		}
		for ; len(p) > 0; block++ {
			n := min(len(p), blocksum.BlockSize)
			if err := w.data(block, blocksum.Hash(key, block, p[:n])); err != nil {
				return fault.Wrap(fault.Corrupt, err)
			}
			p = p[n:]
		}
	}
	return nil
}

// checkLog compares a log's own header with the one it was announced by.
func (m *Machine) checkLog(h command.SegmentHeader, l hrl.Header) error {
	switch {
	case l.Kind != hrl.Full && l.Kind != hrl.Delta:
		return fault.Errorf(fault.Invalid, "segment %d of log %s is of kind %s", h.Segment, h.Log, l.Kind)
	case l.Log != h.Log || l.Segment != h.Segment:
		return fault.Errorf(fault.Invalid, "segment %d of log %s says that it is segment %d of log %s", h.Segment, h.Log, l.Segment, l.Log)
	case l.Disk != m.disks[h.Disk].ID:
		return fault.Errorf(fault.Invalid, "segment %d of log %s is of another disk (%s)", h.Segment, h.Log, l.Disk)
	case l.From != h.From:
		return fault.Errorf(fault.Invalid, "segment %d of log %s leads from point %s, announced was %s", h.Segment, h.Log, name(l.From), name(h.From))
	}
	return nil
}

// undoLog writes what leads from a newer point of a disk back to an older one:
// NEWER-OLDER.hrl, and where it grows large further parts NEWER-OLDER.NNNN.hrl
// before it; the number of parts is the segment number in the header of the
// first name, which comes last and makes the log whole.
type undoLog struct {
	m      *Machine
	path   string // of the last part
	header hrl.Header
	footer hrl.Footer
	w      *hrl.Writer
	blocks int64 // in the current part
}

// maxUndoBlocks are the blocks in a part: a writer keeps 24 bytes for each
// extent in memory.
var maxUndoBlocks int64 = 1 << 19

// newUndo begins the undo log of a disk between two points. size is the disk's
// before the newer point, sum its whole-disk sum then.
func (m *Machine) newUndo(disk string, newer, older recovery.Point, sizeAfter, size int64, sum uint64) (*undoLog, error) {
	u := &undoLog{m: m, path: m.undoPath(disk, newer.Seq, older.Seq)}
	u.header = hrl.Header{
		Kind: hrl.Undo, Log: ident.NewLogID(), Disk: m.disks[disk].ID, From: newer.ID, To: older.ID, Epoch: older.Epoch,
		SizeBefore: sizeAfter, SizeAfter: size,
	}
	u.footer = hrl.Footer{Instant: older.Instant, Consistency: older.Kind, Sum: sum}
	if err := m.fs.MkdirAll(m.dir(disk, "undo"), 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the undo folder of disk %s: %w", disk, err)
	}
	return u, u.begin()
}

func (u *undoLog) begin() (err error) {
	u.blocks = 0
	u.w, err = hrl.Create(u.m.fs, u.path+vfs.TempSuffix, u.header, hrl.Options{Codec: hrl.S2, Frame: undoFrame})
	return err
}

// data keeps the old content of the disk at off; at least one block of it.
func (u *undoLog) data(off int64, p []byte) error {
	if err := u.roll(); err != nil {
		return err
	}
	u.blocks += blocksum.BlockCount(int64(len(p)))
	return u.w.Data(off, p)
}

func (u *undoLog) zero(off, n int64) error {
	if err := u.roll(); err != nil {
		return err
	}
	u.blocks++
	return u.w.Zero(off, n)
}

// roll closes a part that is large enough.
func (u *undoLog) roll() error {
	if u.blocks < maxUndoBlocks {
		return nil
	}
	if err := u.put(undoPart(u.path, u.header.Segment)); err != nil {
		return err
	}
	u.header.Segment++
	return u.begin()
}

func (u *undoLog) put(path string) error {
	if _, err := u.w.Close(u.footer); err != nil {
		return u.m.storeError(err, "cannot write undo log")
	}
	return u.m.storeError(u.m.fs.Rename(u.path+vfs.TempSuffix, path), "cannot write undo log")
}

// close makes the log whole.
func (u *undoLog) close() error { return u.put(u.path) }

// abort gives up; parts that are left are garbage, which Open removes.
func (u *undoLog) abort() error { return u.w.Abort() }
