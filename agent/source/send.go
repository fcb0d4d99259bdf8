package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"golang.org/x/time/rate"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/planted"
	"github.com/drrun/drrun/internal/vfs"
)

// uploads is the number of segments of a machine sent at a time.
const uploads = 2

// sender uploads spooled segments and folds them as they are acknowledged. It
// belongs to one pass.
type sender struct {
	m      *Machine
	epoch  ident.Epoch
	ctx    context.Context // of the pass it belongs to
	cancel context.CancelCauseFunc
	queue  chan sending
	wg     sync.WaitGroup
	wire   *atomic.Int64 // bytes sent

	mu    sync.Mutex
	ahead map[sending]bool // acknowledged before one that comes before it
}

// sending is one segment to upload.
type sending struct {
	disk   *disk
	number int
}

// newSender starts uploading what is pushed. wait follows.
func (m *Machine) newSender(ctx context.Context, epoch ident.Epoch, wire *atomic.Int64) *sender {
	s := &sender{m: m, epoch: epoch, wire: wire, queue: make(chan sending, 16), ahead: map[sending]bool{}}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	for range uploads {
		s.wg.Go(func() {
			for it := range s.queue {
				if s.ctx.Err() != nil {
					continue
				}
				if err := s.send(it); err != nil {
					s.cancel(err)
				}
			}
		})
	}
	return s
}

// push hands a spooled segment over; it waits while many are queued.
func (s *sender) push(d *disk, number int) error {
	select {
	case s.queue <- sending{d, number}:
		return nil
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

// wait returns when everything pushed is acknowledged and folded, or the first
// error. err, if any, ends the uploads under way.
func (s *sender) wait(err error) error {
	if err != nil {
		s.cancel(err)
	}
	close(s.queue)
	s.wg.Wait()
	err = context.Cause(s.ctx)
	s.cancel(nil)
	return err
}

// send uploads one segment until it is durable at the target.
func (s *sender) send(it sending) error {
	m, d := s.m, it.disk
	m.mu.Lock()
	h := command.SegmentHeader{
		Machine: m.cfg.Machine, Epoch: s.epoch, Disk: d.Name, Log: d.state.Log, Segment: it.number,
	}
	seg := d.state.Spool[it.number-d.state.Folded]
	if m.j.Tip != nil {
		h.From = m.j.Tip.ID
	}
	m.mu.Unlock()
	h.Size, h.SHA256 = seg.Size, seg.SHA256
	f, err := m.cfg.FS.OpenFile(m.segmentPath(h.Log, it.number), vfs.ReadOnly, 0)
	if err != nil {
		return fmt.Errorf("cannot send segment %d of disk %s: %w", it.number, d.Name, err)
	}
	if planted.Is(planted.EarlyRelease) {
		if err := s.acknowledged(it); err != nil {
			return err
		}
	}
	src := &limited{ctx: s.ctx, src: f, limiter: m.limiter, wire: s.wire, seen: func(n int64) { m.view.advance(phaseSend, n) }}
	err = errors.Join(m.cfg.Peer.Put(s.ctx, h, src, func(int64) {}), f.Close())
	if err != nil {
		return fmt.Errorf("cannot send segment %d of disk %s: %w", it.number, d.Name, err)
	}
	if planted.Is(planted.EarlyRelease) {
		return nil
	}
	return s.acknowledged(it)
}

// acknowledged folds what is acknowledged without a gap.
func (s *sender) acknowledged(it sending) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ahead[it] = true
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	d := it.disk
	n := d.state.Acked
	for s.ahead[sending{d, n}] {
		delete(s.ahead, sending{d, n})
		n++
	}
	ok, err := s.m.acknowledged(d, n)
	if err == nil && !ok {
		err = fault.Errorf(fault.Corrupt, "a spooled segment of disk %s cannot be read again", d.Name)
	}
	return err
}

// drain sends and folds everything that is spooled.
func (m *Machine) drain(ctx context.Context, epoch ident.Epoch, wire *atomic.Int64) error {
	var all []sending
	var total int64
	m.mu.Lock()
	for _, d := range m.disks {
		for i := d.state.Acked; i < d.state.segments(); i++ {
			all = append(all, sending{d, i})
			total += d.state.Spool[i-d.state.Folded].Size
		}
	}
	m.mu.Unlock()
	if len(all) == 0 {
		return nil
	}
	m.view.phase(phaseSend, total)
	s := m.newSender(ctx, epoch, wire)
	for _, it := range all {
		if err := s.push(it.disk, it.number); err != nil {
			break // wait returns why
		}
	}
	return s.wait(nil)
}

// limited reads a segment no faster than the policy's rate and counts what it
// read: that is what goes over the wire.
type limited struct {
	ctx     context.Context // of the upload it belongs to
	src     io.ReaderAt
	limiter *rate.Limiter
	wire    *atomic.Int64
	seen    func(int64)
}

// ReadAt implements io.ReaderAt.
func (l *limited) ReadAt(p []byte, off int64) (int, error) {
	total := 0
	for {
		q := p[total:]
		if l.limiter != nil {
			q = q[:min(len(q), l.limiter.Burst())]
			if err := l.limiter.WaitN(l.ctx, len(q)); err != nil {
				return total, err
			}
		}
		n, err := l.src.ReadAt(q, off+int64(total))
		total += n
		l.wire.Add(int64(n))
		l.seen(int64(n))
		if err != nil || total == len(p) {
			return total, err
		}
	}
}

// newLimiter limits to perSecond bytes; 0: not at all.
func newLimiter(perSecond int64) *rate.Limiter {
	if perSecond <= 0 {
		return nil
	}
	burst := min(max(perSecond/20, 16<<10), 1<<20)
	return rate.NewLimiter(rate.Limit(perSecond), int(burst))
}
