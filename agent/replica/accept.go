package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/crash"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// Accept closes a point whose segments are all here: it checks that the logs
// give the manifest's sums and writes the manifest, durably, before it returns.
// age is the time since the cut on the sender's monotonic clock. The result is
// the point as stored. Idempotent. fault.Corrupt: the sums differ; the staged
// logs were dropped and the sender compares; fault.NoSpace: no room for what
// shrinking disks cut off, or for the manifest; the staged logs stay.
func (m *Machine) Accept(ctx context.Context, p recovery.Point, age time.Duration) (_ recovery.Point, err error) {
	defer m.fullDisk(&err)
	began := clock.Mono(m.cfg.Clock)
	m.in.Lock()
	defer m.in.Unlock()
	if have, err := m.point(p.ID); err == nil {
		return have, nil // its acknowledgement was lost
	}
	if err := m.checkAccept(p); err != nil {
		return recovery.Point{}, err
	}
	if err := m.foldTables(); err != nil {
		return recovery.Point{}, err
	}
	if err := m.checkSums(ctx, p); err != nil {
		return recovery.Point{}, err
	}
	if err := m.checkCuts(p); err != nil {
		return recovery.Point{}, err
	}
	now := m.cfg.Clock.Now()
	p.Received = now.UTC()
	m.ClockAgrees("the sender of point "+p.ID.Short(), p.Instant.Add(age))
	crash.At("replica.manifest.before")
	if err := m.writePoint(p); err != nil {
		// It may be there all the same; the sender may go on with another point
		// of that number.
		err = errors.Join(err, m.fs.Remove(m.pointPath(markOf(p))))
		return recovery.Point{}, m.storeError(err, "cannot store the manifest")
	}
	crash.At("replica.manifest.durable")
	m.mu.Lock()
	m.points = append(m.points, p)
	m.tipAge, m.tipAt = max(0, age), began
	for _, d := range p.Disks {
		if m.staged[d.Name] == d.Log {
			delete(m.staged, d.Name)
		}
	}
	m.mu.Unlock()
	// From here the point exists. What follows is done again by the next caller
	// or by Open if it fails.
	if err := m.foldTables(); err != nil {
		m.log.Warn("tables not folded yet", "point", p.ID, "err", err)
	}
	return p, nil
}

// writePoint writes a manifest, or writes it again with other labels.
func (m *Machine) writePoint(p recovery.Point) error {
	var k kept
	path := m.pointPath(markOf(p))
	if data, err := vfs.ReadFile(m.fs, path); err == nil {
		var old recovery.Point
		if k, err = decodeRecord(formatPoint, path, data, &old); fault.Is(err, fault.Refused) {
			return err
		}
	}
	return writeRecord(m.fs, path, formatPoint, p, k)
}

// checkAccept refuses a manifest that cannot be the next point.
func (m *Machine) checkAccept(p recovery.Point) error {
	if err := m.checkReceiving(); err != nil {
		return err
	}
	if err := checkPoint(p); err != nil {
		return fault.Errorf(fault.Invalid, "cannot accept point: %w", err)
	}
	if p.Machine != m.cfg.Machine {
		return fault.Errorf(fault.Invalid, "cannot accept point %s: it is of machine %q, not %s", p.ID, p.Machine, m.cfg.Machine)
	}
	if err := m.checkFrom(p.From); err != nil {
		return err
	}
	if tip, _ := m.tip(); p.Seq <= tip.Seq {
		return fault.Errorf(fault.Conflict, "cannot accept point %s: its sequence number %d is not above %d", p.ID, p.Seq, tip.Seq)
	}
	for _, d := range p.Disks {
		have, ok := m.disks[d.Name]
		if !ok || have.ID != d.ID {
			return fault.Errorf(fault.Conflict, "cannot accept point %s: disk %s (%s) is not assigned here", p.ID, d.Name, d.ID)
		}
		if d.Size > blocksum.MaxSize {
			return fault.Errorf(fault.Invalid, "cannot accept point %s: disk %s has %d bytes", p.ID, d.Name, d.Size)
		}
		for n := range d.Segments {
			if !m.hasSegment(d.Log, n) {
				return fault.Errorf(fault.Conflict, "cannot accept point %s: segment %d of disk %s is not here", p.ID, n, d.Name).
					WithHint("the sender asks for the tip and sends what is missing")
			}
		}
	}
	return nil
}

// sumsFiles lists the sums of a point's log of one disk, in segment order.
func (m *Machine) sumsFiles(d recovery.PointDisk) []sumsFile {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]sumsFile, 0, d.Segments)
	for n := range d.Segments {
		out = append(out, sumsFile{path: m.segmentPath(d.Name, d.Log, n) + sumsSuffix, seg: m.segs[d.Log][n]})
	}
	return out
}

// checkSums compares the manifest's sums with those that the logs give.
func (m *Machine) checkSums(ctx context.Context, p recovery.Point) error {
	for _, d := range p.Disks {
		if err := m.checkTables(d.Name); err != nil {
			return err
		}
		err := m.checkSum(ctx, d)
		if fault.Is(err, fault.Corrupt) {
			if lost := m.checkTableSum(d.Name); fault.Is(lost, fault.Unreachable) {
				return lost // the table is at fault, not the logs
			}
			err = errors.Join(err, m.dropAllStaged())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkSum compares the manifest's sum of a disk with the table's sum after
// the log. The table is not changed. Its sum is the tip's; only where that does
// not fit the table is read, as the log may mend what is damaged in it.
func (m *Machine) checkSum(ctx context.Context, d recovery.PointDisk) error {
	t, err := m.table(d.Name)
	if err != nil {
		return err
	}
	before, err := m.tableSum(d.Name, t)
	if err != nil {
		return err
	}
	sum := before
	blocks := blocksum.BlockCount(d.Size)
	var old [blocksum.RangeBlocks]uint64
	err = eachRange(m.fs, m.sumsFiles(d), func(r *blockRange) error {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n, err := readRange(t, r.number, old[:])
		if err != nil {
			return err
		}
		for i := range min(blocksum.RangeBlocks, max(0, blocks-r.number*blocksum.RangeBlocks)) {
			if !r.set[i] {
				continue
			}
			sum += r.hashes[i]
			if i < int64(n) {
				sum -= old[i]
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	cut, err := sumFrom(t, blocks)
	if err != nil {
		return err
	}
	if sum -= cut; sum == d.Sum {
		return nil
	}
	if t != nil {
		if actual, err := t.Sum(); err != nil || sum-before+actual == d.Sum {
			return err
		}
	}
	return fault.Errorf(fault.Corrupt, "disk %s: the logs give sum %016x, the manifest says %016x", d.Name, sum, d.Sum).
		WithHint("nothing was changed here; the sender compares the tables and sends what differs")
}

// foldTables brings the tables to the tip. It can be done again at any time,
// as long as the logs are there, and they are until the tables are folded.
// m.in is held.
func (m *Machine) foldTables() error {
	m.mu.RLock()
	at := m.st.Table.Seq
	points := m.points
	m.mu.RUnlock()
	for _, p := range points {
		if p.Seq <= at {
			continue
		}
		if m.isBroken(p) != nil {
			return nil // its hashes are not known, and nothing is received on top of it
		}
		for _, d := range p.Disks {
			if m.lostTable(d.Name) {
				continue // it is made again, and this folded then
			}
			if err := m.fold(d); err != nil {
				return fmt.Errorf("cannot fold point %s into the table of disk %s: %w", p.ID, d.Name, err)
			}
		}
		crash.At("replica.table.folded")
		m.mu.RLock()
		age := m.tipAge
		m.mu.RUnlock()
		if err := m.record(func(s *state) { s.Table, s.TipAge = markOf(p), age }); err != nil {
			return err
		}
	}
	return nil
}

func (m *Machine) fold(d recovery.PointDisk) error {
	t, err := m.table(d.Name)
	if err != nil {
		return err
	}
	if t == nil {
		if err := m.fs.MkdirAll(m.dir(d.Name), 0o700); err != nil {
			return err
		}
		if t, err = blocksum.Create(m.fs, m.tablePath(d.Name), m.disks[d.Name].Key, d.Size); err != nil {
			return err
		}
		m.mu.Lock()
		m.tables[d.Name] = t
		m.mu.Unlock()
	}
	if t.Size() != d.Size {
		if err := t.Resize(d.Size); err != nil {
			return err
		}
	}
	if d.Segments == 0 {
		return nil
	}
	var buf [blocksum.RangeBlocks]uint64
	err = eachRange(m.fs, m.sumsFiles(d), func(r *blockRange) error {
		if r.number >= t.Ranges() {
			return nil // the disk has shrunk since that segment
		}
		n, err := t.ReadRange(r.number, buf[:])
		if err != nil {
			return err
		}
		for i := range n {
			if r.set[i] {
				buf[i] = r.hashes[i]
			}
		}
		return t.WriteRange(r.number, buf[:n])
	})
	if err != nil {
		return err
	}
	return t.Sync()
}

// dropAllStaged removes the staged logs of all disks; m.in is held.
func (m *Machine) dropAllStaged() error {
	var errs []error
	for _, d := range m.names {
		errs = append(errs, m.dropStaged(d))
	}
	return errors.Join(errs...)
}

// logsOf returns the ids of the logs that points past the given one need.
func (m *Machine) logsOf(after ident.Seq) map[ident.LogID]bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	need := map[ident.LogID]bool{}
	for _, p := range m.points {
		if p.Seq > after {
			for _, d := range p.Disks {
				need[d.Log] = true
			}
		}
	}
	return need
}
