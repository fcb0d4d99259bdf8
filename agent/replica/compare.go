package replica

import (
	"encoding/binary"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
)

// maxBlockRanges is the most ranges that one call of Blocks answers: 8 MiB of
// hashes.
const maxBlockRanges = 1024

// Ranges returns the sums of count ranges of a disk's table from start, at the
// tip, for a comparison; fewer where the table ends. A disk that was never
// received has size 0.
func (m *Machine) Ranges(disk string, start int64, count int) (_ command.RangesResult, err error) {
	defer m.fullDisk(&err)
	m.in.Lock()
	defer m.in.Unlock()
	t, err := m.compareTable(disk)
	if err != nil || t == nil {
		return command.RangesResult{}, err
	}
	if start < 0 || count < 0 || count > blocksum.MaxRangeSums {
		return command.RangesResult{}, fault.Errorf(fault.Invalid, "%d ranges from %d: at most %d may be asked", count, start, blocksum.MaxRangeSums)
	}
	if start == 0 { // once in a comparison
		if err := m.checkTableSum(disk); err != nil {
			return command.RangesResult{}, err
		}
	}
	res := command.RangesResult{Size: t.Size()}
	if res.Sum, err = m.tableSum(disk, t); err != nil {
		return command.RangesResult{}, err
	}
	sums, err := t.RangeSums(min(start, t.Ranges()), count)
	if err != nil {
		return command.RangesResult{}, err
	}
	for _, s := range sums {
		res.Sums = binary.LittleEndian.AppendUint64(res.Sums, s)
	}
	return res, nil
}

// Blocks returns the block hashes of some ranges of a disk's table, at the tip.
// A range past the end has none.
func (m *Machine) Blocks(disk string, ranges []int64) (command.BlocksResult, error) {
	m.in.Lock()
	defer m.in.Unlock()
	if len(ranges) > maxBlockRanges {
		return command.BlocksResult{}, fault.Errorf(fault.Invalid, "%d ranges: at most %d may be asked", len(ranges), maxBlockRanges)
	}
	t, err := m.compareTable(disk)
	if err != nil {
		return command.BlocksResult{}, err
	}
	res := command.BlocksResult{Hashes: make([][]byte, 0, len(ranges))}
	var buf [blocksum.RangeBlocks]uint64
	for _, r := range ranges {
		if r < 0 {
			return command.BlocksResult{}, fault.Errorf(fault.Invalid, "range %d does not exist", r)
		}
		n, err := readRange(t, r, buf[:])
		if err != nil {
			return command.BlocksResult{}, err
		}
		b := make([]byte, 0, 8*n)
		for _, h := range buf[:n] {
			b = binary.LittleEndian.AppendUint64(b, h)
		}
		res.Hashes = append(res.Hashes, b)
	}
	return res, nil
}

// compareTable returns the table of a disk at the tip; nil: there is none.
func (m *Machine) compareTable(disk string) (*blocksum.Table, error) {
	if _, ok := m.disks[disk]; !ok {
		return nil, fault.Errorf(fault.NotFound, "machine %s has no disk %q here", m.cfg.Machine, disk)
	}
	if err := m.checkReceiving(); err != nil {
		return nil, err
	}
	if err := m.checkTables(disk); err != nil {
		return nil, err
	}
	if err := m.foldTables(); err != nil {
		return nil, err
	}
	if _, ok := m.tip(); !ok {
		return nil, nil
	}
	return m.table(disk)
}
