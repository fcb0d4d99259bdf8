package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// A block table can always be made again, from the image of the disk and the
// logs that are not applied. That reads the whole disk, so it waits for Apply
// and gives way to a failover; until then nothing of the disk is accepted or
// compared.

// tableSum returns the sum of the table of a disk: the tip's, if it has one,
// so that no table is read for it.
func (m *Machine) tableSum(disk string, t *blocksum.Table) (uint64, error) {
	if t == nil {
		return 0, nil
	}
	if tip, ok := m.tip(); ok {
		if d, ok := tip.Disk(disk); ok {
			return d.Sum, nil
		}
	}
	return t.Sum()
}

// sumFrom adds the hashes of the blocks of t from block on.
func sumFrom(t *blocksum.Table, block int64) (sum uint64, err error) {
	if t == nil || block >= t.Blocks() {
		return 0, nil
	}
	first := block / blocksum.RangeBlocks
	var buf [blocksum.RangeBlocks]uint64
	n, err := t.ReadRange(first, buf[:])
	if err != nil {
		return 0, err
	}
	for i := block - first*blocksum.RangeBlocks; i < int64(n); i++ {
		sum += buf[i]
	}
	for r := first + 1; r < t.Ranges(); r += blocksum.MaxRangeSums {
		sums, err := t.RangeSums(r, blocksum.MaxRangeSums)
		if err != nil {
			return 0, err
		}
		for _, s := range sums {
			sum += s
		}
	}
	return sum, nil
}

// readRange reads a range of a table; what lies past its end, or in no table,
// is zero. n is the number of blocks that the table has.
func readRange(t *blocksum.Table, r int64, dst []uint64) (n int, err error) {
	clear(dst)
	if t == nil || r >= t.Ranges() {
		return 0, nil
	}
	return t.ReadRange(r, dst)
}

// table returns the open table of a disk; nil: there is none yet.
func (m *Machine) table(disk string) (*blocksum.Table, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.tables[disk]; t != nil {
		return t, nil
	}
	t, err := blocksum.Open(m.fs, m.tablePath(disk), m.disks[disk].Key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m.tables[disk] = t
	return t, nil
}

// closeTable closes the table of a disk, whose file is about to be replaced.
func (m *Machine) closeTable(disk string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.tables[disk]
	delete(m.tables, disk)
	if t == nil {
		return nil
	}
	return t.Close()
}

// openTables opens the tables, notes those that are missing or damaged, and
// folds what is not folded into the others.
func (m *Machine) openTables() error {
	m.in.Lock()
	defer m.in.Unlock()
	for _, d := range m.names {
		t, err := m.table(d)
		switch {
		case fault.Is(err, fault.Refused): // of a newer program
			return err
		case fault.Is(err, fault.Corrupt), err == nil && t == nil && m.hasTable(d):
			if err := m.noteTable(d, err); err != nil {
				return err
			}
		case err != nil:
			m.log.Warn("block table not opened yet", "disk", d, "err", err)
		}
	}
	if err := m.foldTables(); err != nil { // asked for again before anything needs it
		m.log.Warn("tables not folded yet", "err", err)
	}
	return nil
}

// hasTable reports whether a disk must have a table: a point that is folded
// has it.
func (m *Machine) hasTable(disk string) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.ContainsFunc(m.points, func(p recovery.Point) bool {
		_, ok := p.Disk(disk)
		return ok && p.Seq <= m.st.Table.Seq
	})
}

// noteTable notes, durably, that the table of a disk has to be made again.
func (m *Machine) noteTable(disk string, why error) error {
	if m.lostTable(disk) {
		return nil
	}
	m.log.Warn("block table is missing or damaged: it is made again from the disk", "disk", disk, "err", why)
	return m.record(func(s *state) { s.Rescan = append(s.Rescan, disk) })
}

// lostTable reports whether the table of a disk has to be made again.
func (m *Machine) lostTable(disk string) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Contains(m.st.Rescan, disk)
}

// checkTables refuses what needs the tables of disks while one has to be made
// again.
func (m *Machine) checkTables(disks ...string) error {
	for _, d := range disks {
		if m.lostTable(d) {
			return fault.Errorf(fault.Unreachable, "machine %s: the block table of disk %s is being made again from the disk", m.cfg.Machine, d).
				WithHint("nothing was lost; the sender asks again by itself")
		}
	}
	return nil
}

// checkTableSum compares the table of a disk with the newest point's sum, which
// reads it whole. One that differs is noted, to be made again. The tables are at
// the tip; m.in is held.
func (m *Machine) checkTableSum(disk string) error {
	tip, _ := m.tip()
	d, ok := tip.Disk(disk)
	t, err := m.table(disk)
	if err != nil || !ok || t == nil {
		return err
	}
	sum, err := t.Sum()
	if err != nil {
		return err
	}
	if sum == d.Sum && t.Size() == d.Size {
		return nil
	}
	m.mu.RLock()
	scanned := m.rotten[disk]
	m.mu.RUnlock()
	if scanned {
		return fault.Errorf(fault.Corrupt, "disk %s of machine %s: its image here is not what the newest point %s says", disk, m.cfg.Machine, tip.ID).
			WithHint("verify the points; remove the replica of the machine to begin a new one")
	}
	if err := m.noteTable(disk, corruptPoint(tip, d, sum)); err != nil {
		return err
	}
	return m.checkTables(disk)
}

// mendTables makes those tables again that are missing or damaged. An urgent
// operation ends it (ErrPreempted).
func (m *Machine) mendTables(ctx context.Context) error {
	if len(m.snapshot().Rescan) == 0 {
		return nil
	}
	ctx, done, err := m.work.take(ctx, yielding)
	if err != nil {
		return err
	}
	defer done()
	if err := m.settle(ctx); err != nil {
		return err
	}
	return m.remakeTables(ctx)
}

// remakeTables is mendTables with the work lock held and the heads finished.
func (m *Machine) remakeTables(ctx context.Context) error {
	for _, d := range m.snapshot().Rescan {
		if err := m.remakeTable(ctx, d); err != nil {
			return fmt.Errorf("cannot make the block table of disk %s again: %w", d, err)
		}
	}
	return nil
}

func (m *Machine) remakeTable(ctx context.Context, disk string) error {
	path := m.tablePath(disk)
	made := m.dir(disk, "table.scan"+vfs.TempSuffix) // a start removes it
	scan := m.hasImage(disk)
	if scan {
		applied, err := m.point(m.snapshot().Applied.Point)
		if err != nil {
			return err
		}
		d, _ := applied.Disk(disk)
		sum, err := m.scanTable(ctx, disk, m.image(disk), made, d.Size)
		if err != nil {
			return err
		}
		m.mu.Lock()
		m.rotten[disk] = sum != d.Sum
		m.mu.Unlock()
		if sum != d.Sum {
			m.log.Error("the image of a disk is not what its point says", "disk", disk, "err", corruptPoint(applied, d, sum))
		}
	}
	m.in.Lock()
	defer m.in.Unlock()
	if err := m.closeTable(disk); err != nil {
		m.log.Warn("block table not closed", "disk", disk, "err", err)
	}
	if scan {
		if err := m.fs.Rename(made, path); err != nil {
			return err
		}
	} else if err := m.fs.Remove(path); err != nil {
		return err
	}
	// The logs that are not applied are folded again, into all tables: what they
	// give does not depend on how much of them a table holds already.
	err := m.record(func(s *state) {
		s.Table = s.Applied
		s.Rescan = slices.DeleteFunc(s.Rescan, func(d string) bool { return d == disk })
	})
	if err != nil {
		return err
	}
	return m.foldTables()
}

// scanTable reads a disk image whole, writes its table to path, durably, and
// returns its sum.
func (m *Machine) scanTable(ctx context.Context, disk, img, path string, size int64) (sum uint64, err error) {
	t, err := blocksum.Create(m.fs, path, m.disks[disk].Key, size)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	if err := m.scan(ctx, disk, img, size, t, func(int64) {}); err != nil {
		return 0, err
	}
	if err := t.Sync(); err != nil {
		return 0, err
	}
	return t.Sum()
}
