package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/drrun/drrun/internal/crash"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

// PrepareResult says where the disks of a point are.
type PrepareResult struct {
	Paths map[string]string // by disk name
	Mode  string            // ModeReflink or ModeCopy
	Bytes int64             // written
	Took  time.Duration
}

// liveTable is the table of the point under a live overlay.
const liveTable = "live.table"

// Prepare makes the disks of a point for a real failover and puts them at the
// head paths; the head stays beside them as the base, with every point. The
// record of it is durable before the first file changes its place. Idempotent
// for a run: again for the same run and point it returns the first result. A
// running test preparation or verification is ended for it. progress (may be
// nil) is called with bytes done so far. fault.Conflict: another run's overlay
// stands here; fault.NoSpace: no room, nothing was changed.
func (m *Machine) Prepare(ctx context.Context, run string, point ident.PointID, progress func(done int64)) (_ PrepareResult, err error) {
	defer m.fullDisk(&err)
	began := m.cfg.Clock.Now()
	ctx, done, err := m.work.take(ctx, urgent)
	if err != nil {
		return PrepareResult{}, err
	}
	defer done()
	if err := m.settle(ctx); err != nil {
		return PrepareResult{}, err
	}
	if l := m.snapshot().Live; l != nil {
		if l.Run == run && l.Point.ID == point {
			return m.liveResult(*l), nil
		}
		return PrepareResult{}, fault.Errorf(fault.Conflict, "machine %s: its disks here are those of run %s, point %s", m.cfg.Machine, l.Run, l.Point.ID).
			WithHint("end that run first")
	}
	p, err := m.point(point)
	if err != nil {
		return PrepareResult{}, err
	}
	if err := m.readable(p); err != nil {
		return PrepareResult{}, err
	}
	if err := m.applyAll(ctx); err != nil {
		if !fault.Is(err, fault.Corrupt) || m.readable(p) != nil || p.Seq > m.Applied() {
			return PrepareResult{}, err
		}
		m.log.Warn("a newer point cannot be applied, the one asked for can be read", "point", p.ID, "err", err)
	}
	if _, err := m.point(point); err != nil { // it was given up, and a newer one was here
		return PrepareResult{}, err
	}
	if err := m.checkOverlay(p); err != nil {
		return PrepareResult{}, err
	}
	if err := m.dropForLive(); err != nil {
		return PrepareResult{}, err
	}
	l := live{Run: run, Point: p, Phase: phaseCopy}
	if err := m.recordLive(l); err != nil {
		return PrepareResult{}, err
	}
	crash.At("replica.overlay.recorded")
	if err := m.makeLive(ctx, &l, counter(progress)); err != nil {
		return PrepareResult{}, errors.Join(fmt.Errorf("cannot prepare point %s: %w", p.ID, err), m.finishLive())
	}
	crash.At("replica.overlay.copied")
	now := m.cfg.Clock.Now()
	l.Phase, l.Took, l.At = phaseSwitch, now.Sub(began), now.UTC()
	if err := m.recordLive(l); err != nil {
		return PrepareResult{}, err
	}
	crash.At("replica.overlay.switch")
	if err := m.finishLive(); err != nil {
		return PrepareResult{}, err
	}
	crash.At("replica.overlay.ready")
	return m.liveResult(l), nil
}

func (m *Machine) recordLive(l live) error {
	return m.record(func(s *state) { s.Live = &l })
}

// counter turns pieces into a running total.
func counter(progress func(int64)) func(int64) {
	if progress == nil {
		return func(int64) {}
	}
	total := int64(0)
	return func(n int64) { total += n; progress(total) }
}

func (m *Machine) liveResult(l live) PrepareResult {
	r := PrepareResult{Paths: map[string]string{}, Mode: l.Mode, Bytes: l.Bytes, Took: l.Took}
	for _, d := range l.Point.Disks {
		r.Paths[d.Name] = m.disks[d.Name].Head
	}
	return r
}

// TakesOverlay refuses (fault.Refused) a point whose disks cannot take the
// overlay of a failover here, before anything is done.
func (m *Machine) TakesOverlay(point ident.PointID) error {
	if m.snapshot().Live != nil { // they have taken one
		return nil
	}
	p, err := m.point(point)
	if err != nil {
		return err
	}
	return m.takesOverlay(p)
}

func (m *Machine) takesOverlay(p recovery.Point) error {
	for _, d := range p.Disks {
		disk := m.disks[d.Name]
		fi, err := m.fs.Stat(disk.Head)
		if errors.Is(err, fs.ErrNotExist) {
			continue // nothing of it is applied yet
		}
		if err != nil {
			return fmt.Errorf("cannot look at the head of disk %s: %w", d.Name, err)
		}
		if !fi.Mode().IsRegular() {
			return fault.Errorf(fault.Refused, "disk %s is the device %s here: it can take no overlay", d.Name, disk.Head).
				WithHint("give the disk a file as its path at this site")
		}
		for _, suffix := range []string{newSuffix, baseSuffix} { // no overlay stands here: not ours
			if there, err := m.exists(disk.Head + suffix); err != nil {
				return err
			} else if there {
				return fault.Errorf(fault.Refused, "disk %s: the file %s is in the way of the overlay", d.Name, disk.Head+suffix).
					WithHint("move it away; drrun needs that name while the machine runs here")
			}
		}
	}
	return nil
}

// checkOverlay refuses what cannot take an overlay, or has no room for it.
func (m *Machine) checkOverlay(p recovery.Point) error {
	for _, d := range p.Disks {
		if _, err := m.fs.Stat(m.disks[d.Name].Head); err != nil {
			return fmt.Errorf("cannot look at the head of disk %s: %w", d.Name, err)
		}
	}
	if err := m.takesOverlay(p); err != nil {
		return err
	}
	return m.checkPrepareRoom(p, false)
}

// dropForLive removes what is staged: this host stops to receive.
func (m *Machine) dropForLive() error {
	m.in.Lock()
	defer m.in.Unlock()
	return m.dropAllStaged()
}

// makeLive makes the files of an overlay beside the heads.
func (m *Machine) makeLive(ctx context.Context, l *live, progress func(int64)) error {
	for _, d := range l.Point.Disks {
		mode, n, err := m.materialise(ctx, l.Point, d.Name, m.disks[d.Name].Head+newSuffix, progress)
		if err != nil {
			return err
		}
		l.Mode = mode
		l.Bytes += n
		if err := m.makeLiveTable(ctx, l.Point, d); err != nil {
			return err
		}
	}
	return nil
}

// makeLiveTable makes the table of an overlay. Where the block table here is
// damaged the disk that was made is read instead: it must not cost a failover.
func (m *Machine) makeLiveTable(ctx context.Context, p recovery.Point, d recovery.PointDisk) error {
	path := m.dir(d.Name, liveTable)
	err := m.tableOf(ctx, p, d.Name, path)
	if !fault.Is(err, fault.Corrupt) {
		return err
	}
	m.log.Warn("block table cannot be used: the disk that was made is read", "disk", d.Name, "err", err)
	sum, err := m.scanTable(ctx, d.Name, m.disks[d.Name].Head+newSuffix, path, d.Size)
	if err == nil && sum != d.Sum {
		err = corruptPoint(p, d, sum).WithHint("choose another recovery point")
	}
	return err
}

// finishLive goes on with an overlay from where its record says: files that
// are not whole are thrown away, whole ones take their places.
func (m *Machine) finishLive() error {
	l := m.snapshot().Live
	if l == nil || l.Phase == phaseReady {
		return nil
	}
	if l.Phase == phaseCopy {
		for _, d := range m.assigned(l.Point) {
			for _, path := range []string{m.disks[d].Head + newSuffix, m.dir(d, liveTable)} {
				if err := m.removeFile(path); err != nil {
					return err
				}
			}
		}
		return m.record(func(s *state) { s.Live = nil })
	}
	if l.Phase == phaseBack {
		return m.placeBase(l)
	}
	for _, d := range m.assigned(l.Point) {
		if err := m.placeOverlay(d); err != nil {
			return fmt.Errorf("cannot place disk %s: %w", d, err)
		}
	}
	return m.record(func(s *state) { s.Live.Phase = phaseReady })
}

// assigned lists the disks of a point that the machine still has here.
func (m *Machine) assigned(p recovery.Point) []string {
	return slices.DeleteFunc(slices.Clone(m.names), func(d string) bool { _, ok := p.Disk(d); return !ok })
}

// placeOverlay puts the whole overlay of a disk at the head's path and keeps
// the head as the base.
func (m *Machine) placeOverlay(disk string) error {
	head := m.disks[disk].Head
	made, err := m.exists(head + newSuffix)
	if err != nil {
		return err
	}
	kept, err := m.exists(head + baseSuffix)
	switch {
	case err != nil:
		return err
	case !made && kept:
		return nil // in its place already
	case !made:
		return fault.Errorf(fault.Corrupt, "%s is missing", head+newSuffix).
			WithHint("restore the file; it is the disk of the point that was prepared")
	case !kept:
		if err := m.fs.Rename(head, head+baseSuffix); err != nil {
			return err
		}
	}
	crash.At("replica.overlay.kept")
	return m.fs.Rename(head+newSuffix, head)
}

// removeFile removes a file if it is there; a missing folder is no error.
func (m *Machine) removeFile(path string) error {
	there, err := m.exists(path)
	if err != nil || !there {
		return err
	}
	return m.fs.Remove(path)
}

// Live returns the run and the point of the overlay that the machine runs on.
func (m *Machine) Live() (run string, point recovery.Point, ok bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if l := m.st.Live; l != nil && l.Phase == phaseReady {
		return l.Run, l.Point, true
	}
	return "", recovery.Point{}, false
}

// Committed reports whether the overlay is the machine's disk for good.
func (m *Machine) Committed() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.st.Live != nil && m.st.Live.Committed
}

// LiveTables returns the block tables of the point under the live overlay, by
// disk: what this host's source role begins with. They are not changed here;
// the caller copies them.
func (m *Machine) LiveTables() map[string]string {
	_, p, ok := m.Live()
	if !ok {
		return nil
	}
	tables := map[string]string{}
	for _, d := range p.Disks {
		tables[d.Name] = m.dir(d.Name, liveTable)
	}
	return tables
}

// Commit makes the overlay of a run the machine's disk for good; the base and
// all points stay. Idempotent. At the other site commit is SetHold(false) and
// Apply.
func (m *Machine) Commit(run string) (err error) {
	defer m.fullDisk(&err)
	ctx, done, err := m.work.take(context.Background(), urgent)
	if err != nil {
		return err
	}
	defer done()
	if err := m.settle(ctx); err != nil {
		return err
	}
	l := m.snapshot().Live
	switch {
	case l == nil || l.Phase != phaseReady:
		return fault.Errorf(fault.Refused, "machine %s: no overlay stands here, nothing to commit", m.cfg.Machine)
	case l.Run != run:
		return fault.Errorf(fault.Conflict, "machine %s: the overlay here is of run %s, not %s", m.cfg.Machine, l.Run, run)
	case l.Committed:
		return nil
	}
	err = m.record(func(s *state) { s.Live.Committed = true })
	crash.At("replica.commit.stored")
	return err
}
