package replica

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/crash"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// Label replaces the labels of a point and sets or releases its hold, durably.
// A point with a label or a hold is never thinned.
func (m *Machine) Label(ctx context.Context, point ident.PointID, labels []string, held bool) (_ recovery.Point, err error) {
	defer m.fullDisk(&err)
	ctx, done, err := m.work.take(ctx, normal)
	if err != nil {
		return recovery.Point{}, err
	}
	defer done()
	if err := m.settle(ctx); err != nil {
		return recovery.Point{}, err
	}
	m.in.Lock()
	defer m.in.Unlock()
	p, err := m.point(point)
	if err != nil {
		return recovery.Point{}, err
	}
	if err := m.readable(p); err != nil {
		return recovery.Point{}, err
	}
	st := m.snapshot()
	if k, ok := st.givenUp(); ok && k == markOf(p) {
		return recovery.Point{}, fault.Errorf(fault.Refused, "point %s was discarded: it goes with the first point that is applied over it", p.ID)
	}
	p.Labels, p.Held = slices.Clone(labels), held
	if err := m.writePoint(p); err != nil {
		return recovery.Point{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.points = slices.Clone(m.points)
	i := slices.IndexFunc(m.points, func(q recovery.Point) bool { return q.ID == point })
	m.points[i] = p
	return p, nil
}

// DropHeld drops the points that are stored and not applied, with their logs: a
// rollback gave the machine its disks back, which run as an overlay of the
// applied point. Idempotent. fault.Refused: no such overlay stands here.
func (m *Machine) DropHeld(ctx context.Context) (err error) {
	defer m.fullDisk(&err)
	ctx, done, err := m.work.take(ctx, urgent)
	if err != nil {
		return err
	}
	defer done()
	if err := m.settle(ctx); err != nil {
		return err
	}
	st := m.snapshot()
	if st.Live == nil || st.Live.Point.ID != st.Applied.Point {
		return fault.Errorf(fault.Refused, "machine %s: its disks here are no overlay of the point that is applied: what is stored stays", m.cfg.Machine)
	}
	m.in.Lock()
	defer m.in.Unlock()
	held := m.stepsUp(maxSeq)
	if len(held) == 0 {
		return m.dropLogs()
	}
	marks := make([]mark, 0, len(held))
	for _, p := range held {
		marks = append(marks, markOf(p))
	}
	// The tables hold what is dropped: until they are put back they count as lost.
	err = m.record(func(s *state) { s.Thinning, s.Table, s.Rescan = marks, s.Applied, m.assigned(st.Live.Point) })
	if err != nil {
		return err
	}
	crash.At("replica.rollback.recorded")
	m.log.Info("points that were stored and not applied are dropped", "points", len(held))
	if err := m.finishThinning(); err != nil {
		return err
	}
	for _, d := range m.assigned(st.Live.Point) {
		if err := m.tableOfLive(d); err != nil {
			return err
		}
	}
	if err := m.record(func(s *state) { s.Rescan = nil }); err != nil {
		return err
	}
	tip, _ := m.tip()
	m.mu.Lock()
	for _, p := range held {
		delete(m.broken, p.ID)
	}
	m.tipAge, m.tipAt = max(0, m.cfg.Clock.Now().UTC().Sub(tip.Instant)), clock.Mono(m.cfg.Clock)
	m.mu.Unlock()
	return m.dropLogs()
}

// tableOfLive makes the table of the point under the overlay the table of a
// disk; m.in is held.
func (m *Machine) tableOfLive(disk string) (err error) {
	if err := m.closeTable(disk); err != nil {
		m.log.Warn("block table not closed", "disk", disk, "err", err)
	}
	t, err := blocksum.Open(m.fs, m.dir(disk, liveTable), m.disks[disk].Key)
	if err != nil {
		return err
	}
	return errors.Join(t.CopyTo(m.tablePath(disk)), t.Close())
}

// dropLogs removes the received logs that no point needs any more; m.in is held.
func (m *Machine) dropLogs() error {
	need := m.logsOf(m.Applied())
	for _, d := range m.names {
		err := m.removeMatching(m.dir(d, "logs"), func(n string) bool {
			log, _, _ := parseSegment(n)
			return !need[log]
		})
		if err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for log := range m.segs {
		if !need[log] {
			delete(m.segs, log)
		}
	}
	return nil
}

// Forget removes a store that is not open, with all its recovery points, and
// leaves the heads where they are: they are the machine's own disks. Idempotent;
// what a crash left of it is finished by the next call, before anybody opens the
// store.
func Forget(fsys vfs.FS, dir string, disks []Disk) error {
	heads := map[string]string{} // by folder of the store: the one file that stays
	for _, d := range disks {
		if filepath.Dir(d.Head) == filepath.Join(dir, d.Name) {
			heads[d.Name] = filepath.Base(d.Head)
		}
	}
	trash := trashOf(dir)
	if err := fsys.RemoveAll(trash); err != nil { // of a call that a crash cut short
		return fmt.Errorf("cannot remove %s: %w", trash, err)
	}
	var gone []string // renamed away, which is durable; removing a tree is not
	if len(heads) == 0 {
		gone = []string{dir}
	} else if err := fsys.MkdirAll(trash, 0o700); err != nil {
		return fmt.Errorf("cannot make %s: %w", trash, err)
	}
	list := func(dir string, keep func(string) bool) error {
		entries, err := fsys.ReadDir(dir)
		for _, e := range entries {
			if !keep(e.Name()) {
				gone = append(gone, filepath.Join(dir, e.Name()))
			}
		}
		return ignoreMissing(err)
	}
	for d, head := range heads {
		if err := list(filepath.Join(dir, d), func(n string) bool { return n == head }); err != nil {
			return err
		}
	}
	if len(heads) > 0 {
		if err := list(dir, func(n string) bool { return heads[n] != "" }); err != nil {
			return err
		}
	}
	for i, path := range gone {
		to := trash
		if len(heads) > 0 {
			to = filepath.Join(trash, strconv.Itoa(i))
		}
		if err := fsys.Rename(path, to); ignoreMissing(err) != nil {
			return fmt.Errorf("cannot remove %s: %w", path, err)
		}
	}
	if err := fsys.RemoveAll(trash); err != nil {
		return fmt.Errorf("cannot remove %s: %w", trash, err)
	}
	return nil
}
