package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/drrun/drrun/agent/hrl"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
)

// A point that was accepted and whose logs cannot be read any more is broken, and
// so is all that was received on top of it. It must cost no older point: heads
// stay, or go back, to the point before it.

// recheckAfter is how long the frames of a stored log are trusted after they
// were read.
const recheckAfter = 10 * time.Minute

// noteBroken notes that a point, and with it the later ones, cannot be read.
func (m *Machine) noteBroken(p recovery.Point, why error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken[p.ID] != nil {
		return
	}
	err := fault.Errorf(fault.Corrupt, "point %s was received and cannot be read any more: %w", p.ID, why).
		WithHint("older points are whole and can be failed over to. To go on, stop the agent, move the manifests from %s on away and start it: the sender then sends what differs",
			m.pointPath(markOf(p)))
	m.log.Error("a recovery point is broken", "point", p.ID, "err", err)
	for _, q := range m.points {
		if q.Seq >= p.Seq && m.broken[q.ID] == nil {
			m.broken[q.ID] = err
		}
	}
}

func (m *Machine) isBroken(p recovery.Point) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.broken[p.ID]
}

// checkFrames reads the logs of a point, before they touch a head, except those
// that were read less than age ago.
func (m *Machine) checkFrames(ctx context.Context, p recovery.Point, age time.Duration) error {
	for _, d := range p.Disks {
		for n := range d.Segments {
			m.mu.RLock()
			checked := m.segs[d.Log][n].checked
			m.mu.RUnlock()
			if !checked.IsZero() && m.cfg.Clock.Now().Sub(checked) < age {
				continue
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			err := m.verifyLog(m.segmentPath(d.Name, d.Log, n))
			if fault.Is(err, fault.Corrupt) {
				m.noteBroken(p, err)
				return m.isBroken(p)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *Machine) verifyLog(path string) error {
	r, err := openLog(m.fs, path, hrl.NewCache(cacheBytes))
	if err != nil {
		return err
	}
	return errors.Join(r.Verify(), r.Close())
}

// takeBack takes the heads from the middle of a point back to the applied one: its
// undo logs are whole. Then they go, so that it counts as not begun. Without an
// applied point there is nothing to go back to.
func (m *Machine) takeBack(ctx context.Context, p recovery.Point) error {
	st := m.snapshot()
	if _, ok := st.givenUp(); ok || st.Applied.Seq == 0 {
		return nil
	}
	prev, err := m.point(m.snapshot().Applied.Point)
	if err != nil {
		return err
	}
	for _, d := range p.Disks {
		if err := m.checkImage(d.Name); err != nil {
			return err
		}
		if err := m.takeBackDisk(ctx, p, prev, d.Name); err != nil {
			return fmt.Errorf("cannot take disk %s back to point %s: %w", d.Name, prev.ID, err)
		}
	}
	for _, d := range p.Disks {
		if err := m.fs.Remove(m.undoPath(d.Name, p.Seq, prev.Seq)); err != nil {
			return err
		}
	}
	return m.removeUndos()
}

func (m *Machine) takeBackDisk(ctx context.Context, p, prev recovery.Point, disk string) (err error) {
	files, err := m.undoFiles(disk, p.Seq, prev.Seq)
	if err != nil {
		return err
	}
	f, err := m.openForWriting(disk)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	old, _ := prev.Disk(disk)
	if err := m.resize(f, old.Size, old.Size); err != nil {
		return err
	}
	if _, err := (layerStep{paths: files, size: old.Size}).writeOver(ctx, m.fs, f, m.punch(disk), func(int64) {}); err != nil {
		return err
	}
	return f.Sync()
}
