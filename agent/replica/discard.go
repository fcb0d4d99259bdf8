package replica

import (
	"context"
	"time"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
)

// Discarded is the label of the state of an old primary that a person gave up.
const Discarded = "discarded"

// discarded remembers what was given up when the writes of an old primary were
// not kept, until a point of the other site has taken their place.
type discarded struct {
	Tip mark `json:"tip"` // the newest point since then
	// Point says that Tip is the state of those disks itself, under which no
	// base lies: only what differs is sent over it. The first point that is
	// applied takes its place, without an undo log.
	Point bool `json:"point,omitempty"`
	// Begun: the disks may hold bytes of the point that takes its place.
	Begun  bool      `json:"begun,omitempty"`
	Blocks int64     `json:"blocks"` // that the other site did not have
	Since  time.Time `json:"since,omitzero"`
}

func (d *discarded) result() command.FoundResult {
	return command.FoundResult{Discarded: true, Blocks: d.Blocks, Bytes: d.Blocks * blocksum.BlockSize, Since: d.Since}
}

// givenUp returns the mark of the point that goes with the first one applied
// over it. One on which a test stands stays like any other.
func (s *state) givenUp() (mark, bool) {
	d := s.Discarded
	if d == nil || !d.Point || d.Tip != s.Applied {
		return mark{}, false
	}
	if !d.Begun {
		for _, v := range s.Tests {
			if v.Point == d.Tip.Point {
				return mark{}, false
			}
		}
	}
	return d.Tip, true
}

// overGivenUp reports whether what is received now lies on a point that was
// given up: it costs no undo log.
func (m *Machine) overGivenUp() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	k, ok := m.st.givenUp()
	tip, _ := m.tipLocked()
	return ok && markOf(tip) == k
}

// discard gives up what the machine wrote here alone. Where a base lies under
// its disks it takes their place, with all its points; else the disks stay as
// they are, as the state that the other site sends its differences over.
func (m *Machine) discard(ctx context.Context, p recovery.Point, tables map[string]string, res command.FoundResult) error {
	d := discarded{Blocks: res.Blocks, Since: res.Since}
	m.log.Warn("what the machine wrote here alone is discarded", "blocks", d.Blocks, "bytes", res.Bytes)
	if m.snapshot().Live == nil {
		p.Held, p.Labels = false, append([]string{Discarded}, p.Labels[1:]...)
		d.Point = true
		return m.adopt(ctx, p, tables, &d)
	}
	for _, path := range m.strays(m.snapshot().Live) {
		if fi, err := m.fs.Stat(path); err == nil && !fi.Mode().IsRegular() {
			return fault.Errorf(fault.Refused, "machine %s: what only the device %s has cannot be discarded: no recovery point here has that disk", m.cfg.Machine, path).
				WithHint("reverse without --discard-diverged")
		}
	}
	tip, _ := m.tip()
	d.Tip = markOf(tip)
	err := m.record(func(s *state) { s.Live.Phase, s.Hold, s.Discarded = phaseBack, false, &d })
	if err != nil {
		return err
	}
	return m.finishLive()
}

// strays are the paths of disks that the machine got on its overlay: no point
// here has them.
func (m *Machine) strays(l *live) (paths []string) {
	for _, d := range m.names {
		if _, ok := l.Point.Disk(d); !ok && !m.hasImage(d) {
			paths = append(paths, m.disks[d].Head)
		}
	}
	return paths
}

// placeBase puts the kept heads back in the places of an overlay that goes. The
// disks that no point here has go too: what is received begins with empty ones.
func (m *Machine) placeBase(l *live) error {
	gone := m.strays(l)
	for _, d := range m.assigned(l.Point) {
		head := m.disks[d].Head
		gone = append(gone, m.dir(d, liveTable))
		kept, err := m.exists(head + baseSuffix)
		if err != nil {
			return err
		}
		if !kept {
			continue // in its place already
		}
		if err := m.fs.Rename(head+baseSuffix, head); err != nil {
			return err
		}
	}
	return m.record(func(s *state) { s.Live, s.Dropping = nil, append(s.Dropping, gone...) })
}

// checkFoundRoom refuses (fault.NoSpace) to keep disks as found where the blocks
// that differ, in the undo logs, and the block tables have no room here. tables
// are those of the disks by name, differ counts the blocks that only they have.
func (m *Machine) checkFoundRoom(ctx context.Context, tables map[string]string, differ int64) error {
	stored := int64(0)
	for _, path := range tables {
		fi, err := m.fs.Stat(path)
		if err != nil {
			return err
		}
		stored += fi.Size()
	}
	if m.snapshot().Live != nil { // what differs from the base is written now
		differ = 0
		if err := m.remakeTables(ctx); err != nil {
			return err
		}
		for _, n := range m.names {
			if !m.hasImage(n) {
				continue
			}
			m.in.Lock()
			_, err := m.tableForCopy(n)
			m.in.Unlock()
			if err != nil {
				return err
			}
			blocks, err := m.countDifferent(ctx, n, tables[n], m.tablePath(n))
			if err != nil {
				return err
			}
			differ += blocks
		}
	}
	err := m.checkRoom(m.names[0], stored, differ*undoBlock, 0)
	if !fault.Is(err, fault.NoSpace) {
		return err
	}
	return fault.Errorf(fault.NoSpace, "machine %s: what only its disks here have cannot be kept: %w", m.cfg.Machine, err).
		WithHint("free space in %s", m.cfg.Dir)
}
