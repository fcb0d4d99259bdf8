package hrl

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/drrun/drrun/internal/vfs"
)

// mergeCache bounds the unpacked frames of a merge. Logs written in order of
// offsets need one frame each, so each frame is unpacked once.
const mergeCache = 8 << 20

// Merge makes one log of several and writes it, closed and durable, to path
// (see Create). The logs are those of one disk, in the order of preference:
// where two hold the same block, the earlier in the list wins. That is the one
// applied later: to join neighbours, give the newest first; to join undo logs,
// the oldest. Segments of one log count as logs, the later one first.
//
// h and f are those of the result: From of the log applied first with its
// SizeBefore, To of the one applied last with its SizeAfter. Where a log in
// between cut the disk, what grew again is zero in the result. The result is
// sorted by offset; cost and memory follow the content and not the disk.
func Merge(ctx context.Context, fsys vfs.FS, path string, h Header, f Footer, o Options, logs ...*Reader) (Info, error) {
	m := merge{h: h, cache: NewCache(mergeCache)}
	defer m.stop()
	for _, r := range logs {
		if r.h.Disk != h.Disk {
			return Info{}, fmt.Errorf("cannot merge log %s: it is of disk %s, not %s", r.path, r.h.Disk, h.Disk)
		}
		if err := m.add(r); err != nil {
			return Info{}, err
		}
	}
	w, err := Create(fsys, path, h, o)
	if err != nil {
		return Info{}, err
	}
	m.w = w
	if err := m.run(ctx); err != nil {
		return Info{}, errors.Join(fmt.Errorf("cannot merge into log %s: %w", path, err), w.Abort())
	}
	return w.Close(f)
}

// merge is a sweep over the sorted extents of all inputs at once.
type merge struct {
	h      Header
	w      *Writer
	cache  *Cache
	inputs []*mergeInput
}

// mergeInput is one log, at its first extent that the sweep has not passed.
type mergeInput struct {
	r    *Reader // with the merge's cache
	next func() (extentEntry, error, bool)
	stop func()
	cur  extentEntry
	tail bool // cur is what the log cut off: zero where the disk grows again
	done bool
}

func (m *merge) add(r *Reader) error {
	shared := *r
	shared.cache = m.cache
	in := &mergeInput{r: &shared}
	in.next, in.stop = iter.Pull2(shared.entries(0))
	m.inputs = append(m.inputs, in)
	return in.advance(m.h.SizeAfter)
}

func (m *merge) stop() {
	for _, in := range m.inputs {
		in.stop()
	}
}

func roundUp(n int64) int64 { return (n + BlockSize - 1) &^ (BlockSize - 1) }

// end is where cur ends, in whole blocks.
func (in *mergeInput) end() int64 { return roundUp(in.cur.end()) }

// advance goes to the next extent; size is that of the disk in the result.
func (in *mergeInput) advance(size int64) error {
	e, err, ok := in.next()
	if err != nil {
		return err
	}
	if ok {
		in.cur = e
		return nil
	}
	cut := roundUp(in.r.h.SizeAfter)
	if in.tail || cut >= size {
		in.done = true
		return nil
	}
	in.tail, in.cur = true, extentEntry{off: cut, n: size - cut, kind: Zero}
	return nil
}

func (m *merge) run(ctx context.Context) error {
	for pos := int64(0); pos < m.h.SizeAfter; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		in, end, err := m.pick(pos)
		if err != nil {
			return err
		}
		if in != nil {
			if err := m.emit(in, pos, end); err != nil {
				return err
			}
		}
		pos = end
	}
	return nil
}

// pick returns the input that wins at pos, and up to where; a nil input when
// no log holds that range.
func (m *merge) pick(pos int64) (won *mergeInput, end int64, err error) {
	end = m.h.SizeAfter
	for _, in := range m.inputs {
		for !in.done && in.end() <= pos {
			if err := in.advance(m.h.SizeAfter); err != nil {
				return nil, 0, err
			}
		}
		switch {
		case in.done:
		case in.cur.off > pos:
			end = min(end, in.cur.off)
		default:
			return in, min(end, in.end()), nil
		}
	}
	return nil, end, nil
}

// emit writes the range [pos, end) of in's extent.
func (m *merge) emit(in *mergeInput, pos, end int64) error {
	e := in.cur
	switch {
	case in.tail:
		// Beyond the size before, growing makes the zeros.
		if end = min(end, roundUp(m.h.SizeBefore)); end <= pos {
			return nil
		}
		return m.w.Zero(pos, end-pos)
	case e.kind == Zero:
		return m.w.Zero(pos, end-pos)
	case e.kind == Discarded:
		return m.w.Discard(pos, end-pos)
	}
	return m.cache.use(in.r, e.frame, func(d *decodedFrame) error {
		if !d.holds(e) {
			return in.r.indexMismatch(e.frame, e.off)
		}
		p := d.plain[e.at:][:e.n][pos-e.off : min(end, e.end())-e.off]
		if pad := end - pos - int64(len(p)); pad == 0 {
			return m.w.Data(pos, p)
		}
		// The disk went on growing behind this log's short last block.
		whole := len(p) &^ (BlockSize - 1)
		if whole > 0 {
			if err := m.w.Data(pos, p[:whole]); err != nil {
				return err
			}
		}
		last := make([]byte, end-pos-int64(whole))
		copy(last, p[whole:])
		return m.w.Data(pos+int64(whole), last)
	})
}
