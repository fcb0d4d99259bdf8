package source

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/agent/hrl"
	"github.com/drrun/drrun/agent/tracker"
	"github.com/drrun/drrun/internal/crash"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// errOverflow ends a scan of a machine held still whose changes do not fit
// into the spool: it is let go on, what was found is sent, and it is cut again.
var errOverflow = errors.New("the changes do not fit into the spool")

// How a spooler behaves when the spool is full.
type fullMode int

const (
	waitWhenFull fullMode = iota // until the target has taken something: the machine runs
	failWhenFull                 // with errOverflow: the machine is held still
	neverFull                    // take what room there is: the last try
)

// spooler writes what a pass finds on one disk as segments of its log. It is
// the pass's Visitor; finish or abort follows.
type spooler struct {
	m    *Machine
	ctx  context.Context // of the pass it belongs to
	d    *disk
	h    hrl.Header
	mode fullMode
	// full takes each segment but those that finish returns; nil: keep all.
	full func(segment) error

	mu       sync.Mutex
	w        *hrl.Writer
	reserved int64 // of the budget for the open segment
	next     int   // number of the next segment
	kept     []segment
	changed  int64
}

// newSpooler starts at the next segment of d's log. size is the disk's at the cut.
func (m *Machine) newSpooler(ctx context.Context, d *disk, size int64, epoch ident.Epoch, mode fullMode) *spooler {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := hrl.Header{
		Kind: hrl.Full, Log: d.state.Log, Disk: d.ID, To: m.j.Next, Epoch: epoch, SizeAfter: size,
	}
	if m.j.Tip != nil {
		h.Kind, h.From = hrl.Delta, m.j.Tip.ID
		if pd, ok := m.j.Tip.Disk(d.Name); ok {
			h.SizeBefore = pd.Size
		}
	}
	return &spooler{m: m, ctx: ctx, d: d, h: h, mode: mode, next: d.state.segments()}
}

// Seen implements tracker.Visitor.
func (s *spooler) Seen(n int64) { s.m.view.advance(phaseScan, n) }

// Run implements tracker.Visitor.
func (s *spooler) Run(r tracker.Run) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.w == nil {
		if err := s.open(); err != nil {
			return err
		}
	}
	var err error
	if r.Data == nil {
		err = s.w.Zero(r.Offset, r.Length)
	} else {
		err = s.w.Data(r.Offset, r.Data)
	}
	if err != nil {
		return s.fault(err)
	}
	s.changed += r.Length
	stored := s.w.Stored()
	if s.mode != waitWhenFull && stored > s.reserved {
		fits := s.m.budget.add(stored - s.reserved)
		s.reserved = stored
		if !fits && s.mode == failWhenFull {
			return errOverflow
		}
	}
	if stored < s.m.limits.full && !s.w.Full() {
		return nil
	}
	return s.roll()
}

// open begins the next segment; s.mu is held.
func (s *spooler) open() error {
	if s.mode == waitWhenFull {
		if err := s.m.budget.wait(s.ctx, s.m.limits.segment); err != nil {
			return err
		}
		s.reserved = s.m.limits.segment
	}
	codec, err := hrl.ParseCodec(s.m.cfg.Policy.Codec)
	if err != nil {
		s.settle(0)
		return s.fault(err)
	}
	h := s.h
	h.Segment = s.next
	path := s.m.segmentPath(s.d.state.Log, s.next)
	w, err := hrl.Create(s.m.cfg.FS, path+vfs.TempSuffix, h, hrl.Options{Codec: codec.For(s.m.cfg.Peer.Codecs())})
	if err != nil {
		s.settle(0)
		return s.fault(err)
	}
	s.w = w
	return nil
}

// settle sets what the open segment takes of the budget to n.
func (s *spooler) settle(n int64) {
	s.m.budget.add(n - s.reserved)
	s.reserved = 0
}

// roll closes the open segment and hands it over.
func (s *spooler) roll() error {
	seg, err := s.close(hrl.Footer{})
	if err != nil {
		return err
	}
	if s.full == nil {
		s.kept = append(s.kept, seg)
		return nil
	}
	return s.full(seg)
}

// close makes the open segment durable in the spool.
func (s *spooler) close(f hrl.Footer) (segment, error) {
	w, number := s.w, s.next
	s.w = nil
	info, err := w.Close(f)
	if err != nil {
		s.settle(0)
		return segment{}, s.fault(err)
	}
	path := s.m.segmentPath(s.d.state.Log, number)
	if err := s.m.cfg.FS.Rename(path+vfs.TempSuffix, path); err != nil {
		s.settle(0)
		return segment{}, s.fault(err)
	}
	s.settle(info.Size)
	s.next++
	crash.At("source.segment.spooled")
	return segment{Number: number, Size: info.Size, SHA256: info.SHA256[:]}, nil
}

// finish closes the last segment and returns what was kept.
func (s *spooler) finish(f hrl.Footer) ([]segment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.w != nil {
		seg, err := s.close(f)
		if err != nil {
			return nil, err
		}
		s.kept = append(s.kept, seg)
	}
	return s.kept, nil
}

// listed says that the kept segments are in the journal: abort leaves them.
func (s *spooler) listed() { s.kept = nil }

// abort drops the open segment and those kept.
func (s *spooler) abort() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	if s.w != nil {
		errs = append(errs, s.w.Abort())
		s.w = nil
		s.settle(0)
	}
	for _, seg := range s.kept {
		errs = append(errs, s.m.cfg.FS.Remove(s.m.segmentPath(s.d.state.Log, seg.Number)))
		s.m.budget.add(-seg.Size)
	}
	s.kept = nil
	if err := errors.Join(errs...); err != nil {
		s.m.cfg.Log.Warn("cannot drop spooled segments", "disk", s.d.Name, "err", err)
		s.m.stale.Store(true) // a load sweeps the spool
	}
}

func (s *spooler) fault(err error) error {
	return fmt.Errorf("cannot spool disk %s: %w", s.d.Name, err)
}

// fold puts the hashes of the first spooled segment of d into its table, notes
// that, and deletes the segment. It may be done again after a crash at any
// instant. torn says that it may have been begun before: then the table's sum
// is taken from the table. m.mu is held.
func (m *Machine) fold(d *disk, torn bool) error {
	seg := d.state.Spool[0]
	path := m.segmentPath(d.state.Log, seg.Number)
	grown, err := m.foldFile(d, path)
	sum := d.state.Sum + grown
	if err == nil && torn {
		sum, err = d.table.Sum()
	}
	if err != nil {
		return fmt.Errorf("cannot fold segment %d of disk %s: %w", seg.Number, d.Name, err)
	}
	crash.At("source.table.folded")
	d.state.Sum = sum
	d.state.Folded++
	d.state.Spool = d.state.Spool[1:]
	if err := m.save(); err != nil {
		return err
	}
	if err := m.cfg.FS.Remove(path); err != nil {
		m.stale.Store(true) // a load sweeps the spool
		return fmt.Errorf("cannot clear spool: %w", err)
	}
	m.budget.add(-seg.Size)
	return nil
}

// foldFile writes the hashes of a segment's blocks into d's table, durably, and
// returns what the table's sum grew by.
func (m *Machine) foldFile(d *disk, path string) (grown uint64, err error) {
	r, err := hrl.Open(m.cfg.FS, path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	h := r.Header()
	if size := h.SizeAfter; size > d.table.Size() {
		if err := d.table.Resize(size); err != nil {
			return 0, err
		}
	}
	w := tableWriter{table: d.table, r: -1}
	err = r.Walk(func(e hrl.Extent, p []byte) error {
		for off := int64(0); off < e.Len; off += blocksum.BlockSize {
			var sum uint64
			block := (e.Off + off) / blocksum.BlockSize
			if e.Kind == hrl.Data {
				sum = blocksum.Hash(d.Key, block, p[off:min(off+blocksum.BlockSize, e.Len)])
			}
			if err := w.set(block, sum); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = w.flush()
	}
	if err == nil {
		err = d.table.Sync()
	}
	return w.grown, err
}

// tableWriter changes a table a range at a time.
type tableWriter struct {
	table *blocksum.Table
	r     int64 // the range held; -1: none
	n     int
	held  [blocksum.RangeBlocks]uint64
	dirty bool
	grown uint64
}

func (w *tableWriter) set(block int64, sum uint64) (err error) {
	r, i := block/blocksum.RangeBlocks, block%blocksum.RangeBlocks
	if r != w.r {
		if err := w.flush(); err != nil {
			return err
		}
		if w.n, err = w.table.ReadRange(r, w.held[:]); err != nil {
			return err
		}
		w.r = r
	}
	if i >= int64(w.n) {
		return fmt.Errorf("block %d is outside of the disk", block)
	}
	if old := w.held[i]; old != sum {
		w.grown += sum - old
		w.held[i], w.dirty = sum, true
	}
	return nil
}

func (w *tableWriter) flush() error {
	if !w.dirty {
		return nil
	}
	w.dirty = false
	return w.table.WriteRange(w.r, w.held[:w.n])
}

// footer describes a cut in the last segment of a log.
func footer(p *recovery.Point, sum uint64) hrl.Footer {
	return hrl.Footer{Instant: p.Instant, Consistency: p.Kind, Sum: sum}
}
