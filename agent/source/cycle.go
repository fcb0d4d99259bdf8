package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/drrun/drrun/agent/hrl"
	"github.com/drrun/drrun/agent/tracker"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/crash"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

// The phases of a cycle, as in command.Progress.
const (
	phaseScan = "scan"
	phaseSend = "send"
)

const (
	maxAhead   = 4 // passes ahead in one cycle
	maxCuts    = 3 // cuts given up because the spool was full; then any room is taken
	thawWithin = 30 * time.Second
)

// CycleOptions says what a cycle is for.
type CycleOptions struct {
	Authority recovery.Authority // this host's record; its epoch goes with all that is sent
	App       bool               // ask the guest for an app point
	Labels    []string
	Final     bool // the machine is stopped: the point holds everything, never fuzzy
}

// Result is what a cycle did.
type Result struct {
	Point   recovery.Point // as the target stored it
	Changed int64          // bytes of the disks
	Wire    int64          // bytes sent
	Took    time.Duration
	Frozen  time.Duration // how long the machine was held still
	// Expect is how long the next cycle would take if as much changed until
	// then as this one found. What a first copy or a compare sent ahead of the
	// cut does not count.
	Expect time.Duration
	Scan   bool  // more was read to find what changed than had changed
	Read   int64 // bytes of the disks that the cut read
}

// Cycle makes one recovery point at the target and returns when it is durable
// there. It waits for a cycle under way. A cycle that ends with an error lost
// nothing: the next one goes on from what the target has. Kinds of errors:
// Unreachable (later), Conflict (a *ConflictError names the peer's record; else
// the target changed meanwhile: later), Corrupt (the next cycle compares),
// NoSpace (here or at the target, as its text says), Refused (the point would
// be fuzzy), Interrupted (ctx ended), Failed (a disk or a file here).
func (m *Machine) Cycle(ctx context.Context, o CycleOptions) (Result, error) {
	select {
	case <-m.cycling:
	case <-ctx.Done():
		return Result{}, m.cycleError(ctx, context.Cause(ctx))
	}
	defer m.release()
	begin := time.Now()
	c := &cycle{m: m, o: o}
	err := c.run(ctx)
	c.res.Took, c.res.Wire = time.Since(begin), c.wire.Load()
	if err != nil {
		err = m.cycleError(ctx, err)
	}
	st := command.CycleStatus{At: m.cfg.Clock.Now().UTC(), Took: c.res.Took, Frozen: c.res.Frozen, Changed: c.res.Changed, Wire: c.res.Wire}
	if err != nil {
		st.Error = err.Error()
	}
	m.view.finished(st)
	if err != nil {
		return c.res, err
	}
	m.lastChanged = c.res.Changed
	m.cfg.Log.Debug("point acknowledged", "point", c.res.Point.ID.Short(), "seq", uint64(c.res.Point.Seq),
		"kind", string(c.res.Point.Kind), slog.Int64("changed", c.res.Changed), slog.Int64("wire", c.res.Wire))
	return c.res, nil
}

// cycleError gives an error its kind and says which machine it is about.
func (m *Machine) cycleError(ctx context.Context, err error) error {
	kind := fault.Failed
	switch {
	case ctx.Err() != nil:
		kind = fault.Interrupted
	case errors.Is(err, syscall.ENOSPC):
		kind = fault.NoSpace
	}
	e := fault.Wrap(kind, fmt.Errorf("cannot replicate machine %s: %w", m.cfg.Machine, err))
	if kind == fault.NoSpace && e.Hint == "" {
		return e.WithHint("free space where %s lies", m.cfg.Dir)
	}
	return e
}

// cycle is one run of Cycle.
type cycle struct {
	m   *Machine
	o   CycleOptions
	seq ident.Seq
	// first says that it sends more than what changed since the last point.
	first bool
	wire  atomic.Int64
	res   Result
}

func (c *cycle) run(ctx context.Context) error {
	m := c.m
	if err := m.settle(); err != nil {
		return err
	}
	seq, compared, err := m.connect(ctx, c.o.Authority)
	if err != nil {
		return c.distrustIfCorrupt(err)
	}
	c.seq = seq
	m.mu.Lock()
	c.first = compared || m.j.Tip == nil || m.j.staged() && m.j.Cut == nil
	m.mu.Unlock()
	return c.distrustIfCorrupt(c.replicate(ctx, c.first || m.lastChanged > m.limits.much))
}

// replicate finishes what was under way and makes a new point.
func (c *cycle) replicate(ctx context.Context, ahead bool) error {
	if err := c.finishCut(ctx); err != nil {
		return err
	}
	began := time.Now()
	for cuts := 0; ; cuts++ {
		if ahead {
			if err := c.sendAhead(ctx); err != nil {
				return err
			}
		}
		mode := failWhenFull
		if cuts >= maxCuts {
			mode = neverFull
		}
		held := time.Now()
		if c.first {
			began = held
		}
		err := c.cut(ctx, mode)
		if err == nil {
			return c.finishMine(ctx, began, time.Since(held), ahead)
		}
		if !errors.Is(err, errOverflow) {
			return err
		}
		c.m.cfg.Log.Info("more changed than the spool holds, sending ahead before the next cut")
		ahead = true
		if err := c.m.drain(ctx, c.o.Authority.Epoch, &c.wire); err != nil {
			return err
		}
	}
}

// finishMine finishes the cut of this cycle, which took so long, and says how
// long the next cycle would take: where much changed, it sends ahead and looks
// twice.
func (c *cycle) finishMine(ctx context.Context, began time.Time, cut time.Duration, ahead bool) error {
	if err := c.finishCut(ctx); err != nil {
		return err
	}
	c.res.Expect = time.Since(began)
	if c.res.Changed > c.m.limits.much && (c.first || !ahead) {
		c.res.Expect += cut
	}
	return nil
}

// settle loads the machine again after an error that may have left memory and
// disk different.
func (m *Machine) settle() error {
	if m.closed {
		return fault.Errorf(fault.Stopped, "the source is closed")
	}
	if !m.stale.Load() {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reload()
}

// reload is load after a failure; m.mu is held.
func (m *Machine) reload() error {
	if err := m.load(); err != nil {
		return err
	}
	m.stale.Store(false)
	return nil
}

// distrustIfCorrupt makes the next cycle compare after an error that shows
// that the two sides do not have the same.
func (c *cycle) distrustIfCorrupt(err error) error {
	if !fault.Is(err, fault.Corrupt) {
		return err
	}
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	if c.m.stale.Load() {
		if e := c.m.reload(); e != nil {
			return errors.Join(err, e)
		}
	}
	return errors.Join(err, c.m.distrust())
}

// finishCut sends all that is spooled; where a cut is journaled, its manifest
// follows and it becomes the tip.
func (c *cycle) finishCut(ctx context.Context) error {
	m := c.m
	if err := m.drain(ctx, c.o.Authority.Epoch, &c.wire); err != nil {
		return err
	}
	m.mu.Lock()
	if m.j.Cut == nil {
		m.mu.Unlock()
		return nil
	}
	if m.j.Cut.Seq != c.seq {
		m.j.Cut.Seq = c.seq
		if err := m.save(); err != nil {
			m.mu.Unlock()
			return err
		}
	}
	p := *m.j.Cut
	m.mu.Unlock()
	age, _ := m.view.age(&p, m.cfg.Clock)
	in := command.AcceptRequest{Epoch: c.o.Authority.Epoch, Point: p, Age: age}
	out, err := m.cfg.Peer.Accept(ctx, in)
	if err != nil {
		return fmt.Errorf("cannot close point %s: %w", p.ID.Short(), err)
	}
	if out.Point.ID != p.ID {
		return fault.Errorf(fault.Corrupt, "the target closed point %s instead of %s", out.Point.ID.Short(), p.ID.Short())
	}
	crash.At("source.tip.answered")
	p.Received, p.Labels = out.Point.Received, out.Point.Labels
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.count(&p); err != nil {
		return err
	}
	c.seq++
	c.res.Point = p
	return nil
}

// sendAhead stages what changed while the machine runs, so that the cut is
// short: once, and again while a pass is long and finds much.
func (c *cycle) sendAhead(ctx context.Context) error {
	for range maxAhead {
		began := time.Now()
		changed, err := c.passAhead(ctx)
		c.res.Changed += changed
		if err != nil {
			return err
		}
		if changed <= c.m.limits.much || time.Since(began) < c.m.limits.long || c.o.Final {
			return nil
		}
	}
	return nil
}

// passAhead scans all disks and sends what it finds while it scans.
func (c *cycle) passAhead(ctx context.Context) (changed int64, err error) {
	m := c.m
	cut, err := m.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, cut.End(false)) }()
	m.view.phase(phaseScan, totalSize(cut, len(m.disks)))
	s := m.newSender(ctx, c.o.Authority.Epoch, &c.wire)
	for i, d := range m.disks {
		sp := m.newSpooler(s.ctx, d, cut.Size(i), c.o.Authority.Epoch, waitWhenFull)
		sp.full = func(seg segment) error {
			if err := m.stage(d, []segment{seg}); err != nil {
				return err
			}
			return s.push(d, seg.Number)
		}
		if _, err = cut.Changed(s.ctx, i, d.table, sp); err == nil {
			err = sp.finishStaged()
		}
		changed += sp.changed
		if err != nil {
			sp.abort()
			break
		}
	}
	return changed, s.wait(err)
}

// finishStaged hands the last segment over like those before it.
func (s *spooler) finishStaged() error {
	kept, err := s.finish(hrl.Footer{})
	if err != nil {
		return err
	}
	s.listed()
	for _, seg := range kept {
		if err := s.full(seg); err != nil {
			return err
		}
	}
	return nil
}

// begin makes a cut of all disks.
func (m *Machine) begin(ctx context.Context) (tracker.Cut, error) {
	disks := make([]tracker.Disk, len(m.disks))
	for i, d := range m.disks {
		disks[i] = tracker.Disk{Name: d.Name, Path: d.Path, Key: d.Key}
	}
	var since ident.PointID
	m.mu.Lock()
	if m.j.Tip != nil {
		since = m.j.Tip.ID
	}
	m.mu.Unlock()
	return m.tracker.Begin(ctx, m.cfg.Machine, disks, since)
}

func totalSize(cut tracker.Cut, disks int) (n int64) {
	for i := range disks {
		n += cut.Size(i)
	}
	return n
}

// stage lists spooled segments of d in the journal.
func (m *Machine) stage(d *disk, segs []segment) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d.list(segs)
	return m.save()
}

// list adds segments to the journal's list.
func (d *disk) list(segs []segment) {
	for _, s := range segs {
		d.state.Spool = append(d.state.Spool, s)
		d.state.Stored += s.Size
	}
}

// still is a machine held still for a cut.
type still struct {
	frozen Frozen
	at     time.Time     // when it was held
	began  time.Time     // before it was: the instant of the cut
	mono   time.Duration // the same on the monotonic clock
	done   bool
}

// freeze holds the machine still.
func (c *cycle) freeze(ctx context.Context) (*still, error) {
	m := c.m
	began, mono := m.cfg.Clock.Now(), clock.Mono(m.cfg.Clock)
	f, err := m.cfg.Guest.Freeze(ctx, c.o.App)
	if err != nil {
		return nil, fmt.Errorf("cannot hold the machine still: %w", err)
	}
	s := &still{frozen: f, began: began, mono: mono, at: time.Now()}
	if f.Kind == recovery.Fuzzy {
		if err := c.allowFuzzy("the machine cannot be held still"); err != nil {
			return nil, errors.Join(err, c.thaw(ctx, s))
		}
	}
	return s, nil
}

// thaw lets the machine go on; a machine that was let go before makes the
// point fuzzy. A second call does nothing.
func (c *cycle) thaw(ctx context.Context, s *still) error {
	if s.done {
		return nil
	}
	s.done = true
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawWithin)
	defer cancel()
	held, err := true, error(nil)
	if s.frozen.Thaw != nil {
		held, err = s.frozen.Thaw(ctx)
	}
	c.res.Frozen += time.Since(s.at)
	if err != nil {
		return fmt.Errorf("cannot let the machine go on: %w", err)
	}
	if !held {
		s.frozen.Kind = recovery.Fuzzy
	}
	return nil
}

// allowFuzzy refuses a fuzzy point unless the policy takes it.
func (c *cycle) allowFuzzy(why string) error {
	if c.m.cfg.Policy.Consistency == recovery.Fuzzy && !c.o.Final {
		return nil
	}
	e := fault.Errorf(fault.Refused, "the point would be fuzzy: %s", why)
	return e.WithHint("give the machine a longer freeze_max, or its policy consistency = \"fuzzy\"")
}

// cut holds the machine still, spools what changed on all disks, lets it go on
// and journals the cut. Nothing is sent.
func (c *cycle) cut(ctx context.Context, mode fullMode) (err error) {
	m := c.m
	s, err := c.freeze(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.thaw(ctx, s)) }()
	cut, err := m.begin(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cut.End(err == nil)) }()
	m.view.phase(phaseScan, totalSize(cut, len(m.disks)))
	spoolers := make([]*spooler, 0, len(m.disks))
	defer func() {
		for _, sp := range spoolers {
			sp.abort()
		}
	}()
	p := c.point(s.began, s.mono)
	var scanned error
	var found int64 // bytes that changed
	c.res.Read = 0
	for i, d := range m.disks {
		sp := m.newSpooler(ctx, d, cut.Size(i), c.o.Authority.Epoch, mode)
		spoolers = append(spoolers, sp)
		var st tracker.Stats
		if st, scanned = cut.Changed(ctx, i, d.table, sp); scanned != nil {
			break
		}
		p.Disks = append(p.Disks, recovery.PointDisk{
			Name: d.Name, ID: d.ID, Size: cut.Size(i), Sum: d.state.Sum + st.Sum, Log: d.state.Log,
		})
		c.res.Changed += sp.changed
		c.res.Read, found = c.res.Read+st.Read, found+st.Changed-st.Zero
	}
	c.res.Scan = c.res.Read > found
	if scanned != nil && !errors.Is(scanned, errOverflow) {
		return scanned
	}
	if err := c.thaw(ctx, s); err != nil {
		return err
	}
	p.Kind = s.frozen.Kind
	if scanned == nil && p.Kind == recovery.Fuzzy {
		scanned = c.allowFuzzy("the machine was let go on before its disks were read (freeze_max)")
	}
	return c.journal(p, spoolers, scanned)
}

// point begins the manifest of a cut.
func (c *cycle) point(at time.Time, mono time.Duration) *recovery.Point {
	m := c.m
	p := &recovery.Point{
		Version: recovery.FormatVersion, Seq: c.seq, Machine: m.cfg.Machine, Epoch: c.o.Authority.Epoch,
		Instant: at.UTC(), Labels: slices.Clone(c.o.Labels),
	}
	m.mu.Lock()
	p.ID = m.j.Next
	if m.j.Tip != nil {
		p.From = m.j.Tip.ID
	}
	m.mu.Unlock()
	m.view.cutBegan(p.ID, mono)
	if m.cfg.Offset != nil {
		o := m.cfg.Offset(at, mono)
		p.ClockOffset, p.ClockError, p.ClockAge, p.ClockOf = o.Ahead, o.Error, o.Age, o.Of
	}
	if m.cfg.Configuration != nil {
		p.Config = m.cfg.Configuration()
	}
	return p
}

// journal closes the segments of a cut and lists them, and unless the cut
// came to nothing (scanned), the cut with them. It returns scanned.
func (c *cycle) journal(p *recovery.Point, spoolers []*spooler, scanned error) error {
	m := c.m
	lists := make([][]segment, len(spoolers))
	for i, sp := range spoolers {
		f := hrl.Footer{}
		if scanned == nil {
			f = footer(p, p.Disks[i].Sum)
		}
		var err error
		if lists[i], err = sp.finish(f); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, segs := range lists {
		d := m.disks[i]
		d.list(segs)
		spoolers[i].listed()
		if scanned == nil {
			p.Disks[i].Segments, p.Disks[i].Bytes = d.state.segments(), d.state.Stored
		}
	}
	crash.At("source.cut.scanned")
	if scanned == nil {
		m.j.Cut = p
	}
	if err := m.save(); err != nil {
		return err
	}
	crash.At("source.cut.journaled")
	return scanned
}
