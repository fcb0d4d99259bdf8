package replica

import (
	"errors"
	"fmt"
	"path/filepath"
	"syscall"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/internal/recovery"
)

// undoBlock is what keeping a block may take in an undo log: its content, its
// place in the index, and its part of a frame.
const undoBlock = blocksum.BlockSize + 64

// applyCost returns how many bytes applying a segment may add to the undo logs
// and to the head: a block that holds something goes into the undo log, a
// block that held nothing makes the head grow. m.in is held, and the table is
// at the point that the segment leads from.
func (m *Machine) applyCost(disk, sums string, seg segment) (undo, grow int64, err error) {
	t, err := m.table(disk)
	if err != nil {
		return 0, 0, err
	}
	_, hasTip := m.tip()
	hasTip = hasTip && !m.overGivenUp()
	full := m.disks[disk].Allocation == AllocationFull
	var old [blocksum.RangeBlocks]uint64
	err = eachRange(m.fs, []sumsFile{{path: sums, seg: seg}}, func(r *blockRange) error {
		if _, err := readRange(t, r.number, old[:]); err != nil {
			return err
		}
		for i := range r.set {
			switch {
			case !r.set[i]:
			case old[i] != 0 && hasTip:
				undo += undoBlock
			case old[i] == 0 && (r.hashes[i] != 0 || full):
				grow += blocksum.BlockSize
			}
		}
		return nil
	})
	return undo, grow, err
}

// checkCuts refuses a point that cuts disks where the undo logs have no room
// for what is cut off.
func (m *Machine) checkCuts(p recovery.Point) error {
	if m.overGivenUp() {
		return nil
	}
	for _, d := range p.Disks {
		t, err := m.table(d.Name)
		if err != nil {
			return err
		}
		n, err := dataBlocks(t, blocksum.BlockCount(d.Size))
		if err == nil && n > 0 {
			err = m.checkRoom(d.Name, 0, n*undoBlock, 0)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// dataBlocks counts the blocks of t from block on that hold something.
func dataBlocks(t *blocksum.Table, block int64) (n int64, err error) {
	if t == nil || block >= t.Blocks() {
		return 0, nil
	}
	var buf [blocksum.RangeBlocks]uint64
	for r := block / blocksum.RangeBlocks; r < t.Ranges(); r++ {
		have, err := t.ReadRange(r, buf[:])
		if err != nil {
			return 0, err
		}
		for i := range have {
			if buf[i] != 0 && r*blocksum.RangeBlocks+int64(i) >= block {
				n++
			}
		}
	}
	return n, nil
}

// promised returns, of the logs that are here and not applied yet, the bytes
// that they may take in the store's undo logs, and in the head of each disk.
func (m *Machine) promised() (undo int64, grow map[string]int64) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	grow = map[string]int64{}
	for _, log := range m.segs {
		for _, s := range log {
			undo += s.undo
			grow[s.disk] += s.grow
		}
	}
	return undo, grow
}

// checkRoom refuses (fault.NoSpace) what would not leave room for the logs that
// are here and not applied yet, and for the reserve: stored bytes in the store,
// undo bytes in the store, grow bytes where the disk's head is.
func (m *Machine) checkRoom(disk string, stored, undo, grow int64) error {
	needStore, growth := m.promised()
	needStore += stored + undo
	growth[disk] += grow
	head := filepath.Dir(m.disks[disk].Head)
	needHead := int64(0) // where the head is, if that is apart from the store
	for d, n := range growth {
		switch dir := filepath.Dir(m.disks[d].Head); {
		case m.sameFS(dir, m.cfg.Dir):
			needStore += n
		case m.sameFS(dir, head):
			needHead += n
		}
	}
	if needHead > 0 {
		if free, err := m.fs.Free(head); err == nil && free < needHead {
			return noSpace(head, needHead, free)
		}
	}
	free, err := m.fs.Free(m.cfg.Dir)
	if err != nil {
		return fmt.Errorf("cannot ask for the free space of %s: %w", m.cfg.Dir, err)
	}
	if free-m.cfg.Reserve < needStore {
		return noSpace(m.cfg.Dir, needStore, max(0, free-m.cfg.Reserve))
	}
	return nil
}

func noSpace(where string, need, free int64) error {
	return fault.Errorf(fault.NoSpace, "no room in %s: %s are needed (%d bytes), %s are free (%d bytes)",
		where, quantity.FormatSize(need), need, quantity.FormatSize(free), free).
		WithHint("free space there, or keep fewer recovery points; nothing was lost, and it goes on by itself when there is room")
}

// sameFS reports whether two folders lie on one file system; unknown counts as
// one, which asks for more room, never for less.
func (m *Machine) sameFS(a, b string) bool {
	devA, okA := m.device(a)
	devB, okB := m.device(b)
	return !okA || !okB || devA == devB
}

func (m *Machine) device(path string) (uint64, bool) {
	fi, err := m.fs.Stat(path)
	if err != nil {
		return 0, false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return uint64(st.Dev), true //nolint:unconvert,gosec // int32 on other systems
}

// storeError says what could not be written.
func (m *Machine) storeError(err error, what string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// fullDisk gives the error of an operation its kind where a disk is full: one
// that the operator can act on. Every operation that writes defers it.
func (m *Machine) fullDisk(err *error) {
	if !errors.Is(*err, syscall.ENOSPC) && !errors.Is(*err, syscall.EDQUOT) || fault.Is(*err, fault.NoSpace) {
		return
	}
	*err = fault.Errorf(fault.NoSpace, "machine %s: %w", m.cfg.Machine, *err).
		WithHint("free space in %s, or keep fewer recovery points; nothing was lost, and it goes on by itself when there is room", m.cfg.Dir)
}
