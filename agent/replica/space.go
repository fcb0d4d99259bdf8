package replica

import (
	"errors"
	"fmt"
	"path/filepath"
	"syscall"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/quantity"
)

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
	var old [blocksum.RangeBlocks]uint64
	err = eachRange(m.fs, []sumsFile{{path: sums, seg: seg}}, func(r *blockRange) error {
		if _, err := readRange(t, r.number, old[:]); err != nil {
			return err
		}
		for i := range r.set {
			switch {
			case !r.set[i]:
			case old[i] != 0 && hasTip:
				undo += blocksum.BlockSize
			case old[i] == 0 && r.hashes[i] != 0:
				grow += blocksum.BlockSize
			}
		}
		return nil
	})
	if m.disks[disk].Allocation == AllocationFull {
		grow = (seg.last - seg.first) * blocksum.BlockSize
	}
	return undo, grow, err
}

// checkRoom refuses (fault.NoSpace) what would not leave room for the logs that
// are here and not applied yet, and for the reserve: stored bytes in the store,
// undo bytes in the store, grow bytes where the disk's head is.
func (m *Machine) checkRoom(disk string, stored, undo, grow int64) error {
	head := filepath.Dir(m.disks[disk].Head)
	apart := !m.sameFS(head, m.cfg.Dir)
	needStore, needHead := stored+undo, grow
	m.mu.RLock()
	for _, log := range m.segs {
		for _, s := range log {
			needStore += s.undo
			if s.disk == disk {
				needHead += s.grow
			} else if !apart {
				needStore += s.grow
			}
		}
	}
	m.mu.RUnlock()
	if !apart {
		needStore += needHead
	} else if needHead > 0 {
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

// storeError gives an error of a write its kind: a full disk is one the
// operator can act on.
func (m *Machine) storeError(err error, what string) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fault.Errorf(fault.NoSpace, "%s: %w", what, err).
			WithHint("free space in %s, or keep fewer recovery points; nothing was lost, and it goes on by itself when there is room", m.cfg.Dir)
	}
	return fmt.Errorf("%s: %w", what, err)
}
