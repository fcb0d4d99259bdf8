package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/drrun/drrun/agent/replica/retention"
	"github.com/drrun/drrun/internal/crash"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

// maxThinRun is the most neighbouring points that are merged at once.
const maxThinRun = 16

// Thin drops the points that the policy no longer keeps at now and gives their
// space back. It never drops the newest point, the last good one, one that is
// labelled, held, locked, tested or run on, or one that is not applied yet.
// ErrClockJumped: the wall clock is in doubt, nothing was dropped. A real Prepare ends it between two steps.
func (m *Machine) Thin(ctx context.Context, keep []recovery.Keep, now time.Time) (dropped int, err error) {
	defer m.fullDisk(&err)
	if doubt := m.ClockDoubt(now); doubt != nil {
		return 0, fault.Errorf(fault.Refused, "cannot thin the points of %s: %w", m.cfg.Machine, doubt).WithHint("%s", fault.Hint(doubt))
	}
	ctx, done, err := m.work.take(ctx, yielding)
	if err != nil {
		return 0, err
	}
	defer done()
	if err := m.settle(ctx); err != nil {
		return 0, err
	}
	drop := m.toDrop(keep, now)
	for {
		if ctx.Err() != nil {
			return dropped, context.Cause(ctx)
		}
		r, ok := m.nextRun(drop)
		if !ok {
			return dropped, nil
		}
		if err := m.thinRun(ctx, r, now); err != nil {
			return dropped, fmt.Errorf("cannot thin the points of %s: %w", m.cfg.Machine, err)
		}
		dropped += len(r.drop)
	}
}

// toDrop asks retention, and leaves out what is not below the head.
func (m *Machine) toDrop(keep []recovery.Keep, now time.Time) map[ident.PointID]bool {
	st := m.snapshot()
	pinned := func(id ident.PointID) bool {
		if st.Live != nil && st.Live.Point.ID == id {
			return true
		}
		for _, v := range st.Tests {
			if v.Point == id {
				return true
			}
		}
		return false
	}
	points := m.Points()
	drop := map[ident.PointID]bool{}
	for _, id := range retention.Drop(retention.Of(points, now, pinned), keep, now) {
		drop[id] = true
	}
	for i, p := range points {
		switch {
		case p.Seq >= st.Applied.Seq, m.readable(p) != nil, !covers(points[i+1], p):
			delete(drop, p.ID)
		case i > 0 && m.readable(points[i-1]) != nil: // what it was like is in this undo log alone
			delete(drop, p.ID)
		}
	}
	return drop
}

// covers reports whether a point has all disks of the one before it. Where a
// disk ends, the points on both sides stay until they are the oldest.
func covers(newer, older recovery.Point) bool {
	for _, d := range older.Disks {
		if _, ok := newer.Disk(d.Name); !ok {
			return false
		}
	}
	return true
}

// thinning is a run of neighbouring points to drop, newest first, between two
// that stay; older is zero where none stays.
type thinning struct {
	newer, older recovery.Point
	drop         []recovery.Point
}

// nextRun returns the oldest run of points to drop: dropping from the old end
// gives back space without taking any.
func (m *Machine) nextRun(drop map[ident.PointID]bool) (t thinning, ok bool) {
	points := m.Points()
	first := slices.IndexFunc(points, func(p recovery.Point) bool { return drop[p.ID] })
	if first < 0 {
		return t, false
	}
	if first > 0 {
		t.older = points[first-1]
	}
	i := first
	for drop[points[i].ID] && (first == 0 || len(t.drop) < maxThinRun) { // the newest point is never in drop
		t.drop = append(t.drop, points[i])
		i++
	}
	t.newer = points[i]
	slices.Reverse(t.drop)
	return t, true
}

// thinRun drops a run: one undo log over it for every disk, then the record of
// what goes, then the files.
func (m *Machine) thinRun(ctx context.Context, t thinning, now time.Time) error {
	if !t.older.ID.IsZero() {
		for _, d := range t.newer.Disks {
			if err := m.mergeUndo(ctx, t, d); err != nil {
				return fmt.Errorf("disk %s: %w", d.Name, err)
			}
		}
	}
	crash.At("replica.thin.merged")
	var marks []mark
	for _, p := range t.drop {
		marks = append(marks, markOf(p))
	}
	if err := m.record(func(s *state) { s.Thinning, s.Clock = marks, now.UTC() }); err != nil {
		return err
	}
	crash.At("replica.thin.recorded")
	return m.finishThinning()
}

// mergeUndo writes the undo log of a disk over a run: where several hold the
// same block, the oldest content wins.
func (m *Machine) mergeUndo(ctx context.Context, t thinning, d recovery.PointDisk) error {
	if there, err := m.exists(m.undoPath(d.Name, t.newer.Seq, t.older.Seq)); err != nil || there {
		return err // there: of an attempt that failed; it holds the same
	}
	var paths []string // newest first: the older ones lie over them
	above := t.newer
	for _, p := range append(slices.Clone(t.drop), t.older) {
		if _, ok := above.Disk(d.Name); ok {
			files, err := m.undoFiles(d.Name, above.Seq, p.Seq)
			if err != nil {
				return err
			}
			paths = append(paths, files...)
		}
		above = p
	}
	od, _ := t.older.Disk(d.Name)
	b, err := openBatch(m.fs, paths)
	if err != nil {
		return err
	}
	u, err := m.newUndo(d.Name, t.newer, t.older, d.Size, od.Size, od.Sum)
	if err != nil {
		return errors.Join(err, b.close())
	}
	err = b.eachChunk(od.Size, make([]byte, min(chunkBytes, alignUp(od.Size))), func(off int64, p []byte) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return u.data(off, p)
	})
	if err = errors.Join(err, b.close()); err != nil {
		return errors.Join(err, u.abort())
	}
	return u.close()
}

// finishThinning removes what the record of a thinning names: manifests, then
// undo logs that no pair of points needs.
func (m *Machine) finishThinning() error {
	gone := m.snapshot().Thinning
	if len(gone) == 0 {
		return nil
	}
	m.mu.Lock()
	m.points = slices.DeleteFunc(slices.Clone(m.points), func(p recovery.Point) bool { return slices.Contains(gone, markOf(p)) })
	m.mu.Unlock()
	for _, k := range gone {
		if err := m.fs.Remove(m.pointPath(k)); err != nil {
			return fmt.Errorf("cannot remove manifest: %w", err)
		}
	}
	if err := m.removeUndos(); err != nil {
		return err
	}
	crash.At("replica.thin.removed")
	return m.record(func(s *state) { s.Thinning = nil })
}
