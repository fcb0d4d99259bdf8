package source

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/crash"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

// ConflictError says that the peer has a newer authority record, or another
// one of the same epoch. Nothing is sent until the daemon has dealt with it.
type ConflictError struct {
	Peer recovery.Authority
	err  error
}

// Error implements error.
func (e *ConflictError) Error() string { return e.err.Error() }

// Unwrap returns the fault, of kind Conflict.
func (e *ConflictError) Unwrap() error { return e.err }

// conflict makes a ConflictError of both records.
func conflict(ours, theirs recovery.Authority) error {
	err := fault.Errorf(fault.Conflict, "the peer has epoch %d with active site %s (run %q), this host has epoch %d with active site %s (run %q)",
		theirs.Epoch, theirs.Active, theirs.Run, ours.Epoch, ours.Active, ours.Run)
	return &ConflictError{Peer: theirs, err: err}
}

// connect opens a session: the receiver names what it has, and journal and
// tables are brought to it. It returns the number of the next point, and
// whether tables had to be compared.
func (m *Machine) connect(ctx context.Context, auth recovery.Authority) (seq ident.Seq, compared bool, err error) {
	tip, err := m.cfg.Peer.Tip(ctx, command.TipRequest{Machine: m.cfg.Machine, Authority: auth})
	theirs := tip.Authority
	newer := theirs.Epoch > auth.Epoch || theirs.Epoch == auth.Epoch && theirs.Epoch != 0 && !theirs.Same(auth)
	switch {
	case newer && (err == nil || fault.Is(err, fault.Conflict)):
		return 0, false, conflict(auth, theirs)
	case err != nil:
		return 0, false, fmt.Errorf("cannot ask the target for its tip: %w", err)
	case !theirs.Same(auth):
		return 0, false, fault.Errorf(fault.Unreachable, "the target did not take over epoch %d, it has %d", auth.Epoch, theirs.Epoch)
	}
	known, err := m.reconcile(auth, tip)
	m.view.learnAge(tip.Tip, tip.Age, m.cfg.Clock)
	if err != nil || known {
		return tip.NextSeq, false, err
	}
	return tip.NextSeq, true, m.compare(ctx, auth, tip.Tip)
}

// reconcile settles what the receiver has against the journal. It reports
// false where only a compare can.
func (m *Machine) reconcile(auth recovery.Authority, tip command.TipResult) (known bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.j.Compare {
		return false, nil
	}
	if cut := m.j.Cut; cut != nil && tip.Tip != nil && tip.Tip.ID == cut.ID {
		m.cfg.Log.Info("the target has the last point, its acknowledgement was lost", "point", cut.ID.Short())
		lost := *cut
		lost.Received = tip.Tip.Received
		return m.countLost(&lost)
	}
	if !samePoint(m.j.Tip, tip.Tip) {
		return false, nil
	}
	for _, d := range m.disks {
		if ok, err := m.reconcileDisk(d, tip.Staged); !ok || err != nil {
			return false, err
		}
	}
	if m.j.Cut != nil && m.j.Cut.Epoch != auth.Epoch {
		// A cut of another epoch is not finished: its segments stay staged and
		// the next cut goes on from them, under an id of its own.
		m.j.Cut, m.j.Next = nil, ident.NewPointID()
		return true, m.save()
	}
	return true, nil
}

// samePoint reports whether both sides mean the same point with the same
// content.
func samePoint(a, b *recovery.Point) bool {
	if a == nil || b == nil {
		return a == b
	}
	same := func(x, y recovery.PointDisk) bool { return x.Name == y.Name && x.Size == y.Size && x.Sum == y.Sum }
	return a.ID == b.ID && slices.EqualFunc(a.Disks, b.Disks, same)
}

// countLost counts a point whose acknowledgement was lost: all its segments
// are at the target.
func (m *Machine) countLost(p *recovery.Point) (bool, error) {
	for _, d := range m.disks {
		if ok, err := m.acknowledged(d, d.state.segments()); !ok || err != nil {
			return false, err
		}
	}
	return true, m.count(p)
}

// reconcileDisk counts the segments of d that the receiver has and we had not
// heard of. It reports false where the receiver has fewer than it said before.
func (m *Machine) reconcileDisk(d *disk, staged []command.StagedLog) (bool, error) {
	have := 0
	for _, s := range staged {
		if s.Disk == d.Name && s.Log == d.state.Log {
			have = s.Segments
		}
	}
	if have < d.state.Acked || have > d.state.segments() {
		return false, nil
	}
	return m.acknowledged(d, have)
}

// acknowledged notes the first n segments of d as acknowledged and folds them.
// It reports false where the spool lacks one or it is damaged.
func (m *Machine) acknowledged(d *disk, n int) (bool, error) {
	if n > d.state.Acked {
		d.state.Acked = n
		if err := m.save(); err != nil {
			return false, err
		}
		crash.At("source.segment.acknowledged")
	}
	for d.state.Folded < d.state.Acked {
		err := m.fold(d, false)
		if fault.Is(err, fault.Corrupt) || errors.Is(err, fs.ErrNotExist) {
			m.cfg.Log.Warn("a spooled segment cannot be used, the tables are compared", "disk", d.Name, "err", err)
			return false, nil
		}
		if err != nil {
			m.stale.Store(true)
			return false, err
		}
	}
	return true, nil
}

// count makes an acknowledged point the tip: tables get its sizes, logs start
// anew. m.mu is held.
func (m *Machine) count(p *recovery.Point) error {
	for _, d := range m.disks {
		pd, _ := p.Disk(d.Name)
		if d.table.Size() != pd.Size {
			if err := d.table.Resize(pd.Size); err != nil {
				return err
			}
		}
		d.state.Sum = pd.Sum
	}
	m.j.Tip = p
	m.j.restart()
	if err := m.save(); err != nil {
		return err
	}
	crash.At("source.tip.journaled")
	m.view.setTip(p, m.cfg.Clock)
	return nil
}

const (
	compareRanges = 4096 // range sums asked for at a time: 16 GiB of disk
	compareBlocks = 32   // ranges whose hashes are asked for at a time: 256 KiB
)

// compare makes our tables the receiver's: first by the sums of ranges, then
// by the hashes of the ranges that differ. No content moves; what the disks
// have more is found by the next scan.
func (m *Machine) compare(ctx context.Context, auth recovery.Authority, tip *recovery.Point) error {
	m.mu.Lock()
	err := m.distrust()
	m.mu.Unlock()
	if err != nil {
		return err
	}
	m.cfg.Log.Info("comparing block tables with the target")
	for _, d := range m.disks {
		if err := m.compareDisk(ctx, auth.Epoch, d, tip); err != nil {
			return fmt.Errorf("cannot compare disk %s with the target: %w", d.Name, err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.j.Tip, m.j.Compare = tip, false
	if err := m.save(); err != nil {
		return err
	}
	m.view.setTip(tip, m.cfg.Clock)
	return nil
}

func (m *Machine) compareDisk(ctx context.Context, epoch ident.Epoch, d *disk, tip *recovery.Point) error {
	defer m.view.phase("", 0)
	var all command.RangesResult
	for start := int64(0); ; {
		in := command.RangesRequest{Machine: m.cfg.Machine, Epoch: epoch, Disk: d.Name, Start: start, Count: compareRanges}
		part, err := m.cfg.Peer.Ranges(ctx, in)
		if fault.Is(err, fault.NotFound) && start == 0 {
			part, err = command.RangesResult{}, nil // it has nothing of this disk
		}
		if err != nil {
			return err
		}
		if start == 0 {
			if part.Size < 0 || part.Size > blocksum.MaxSize {
				return fault.Errorf(fault.Corrupt, "the target names a size of %d bytes", part.Size)
			}
			all = part
			m.view.phase("compare", part.Size)
			if err := d.table.Resize(part.Size); err != nil {
				return err
			}
		} else if part.Size != all.Size || part.Sum != all.Sum {
			return fault.Errorf(fault.Unreachable, "the target's table changed meanwhile")
		}
		n := len(part.Sums) / 8
		if err := m.compareRanges(ctx, epoch, d, start, part.Sums); err != nil {
			return err
		}
		start += int64(n)
		if start >= d.table.Ranges() {
			break
		}
		if n == 0 {
			return fault.Errorf(fault.Corrupt, "the target names sums of %d of %d ranges", start, d.table.Ranges())
		}
	}
	return m.compared(d, all.Sum, tip)
}

// compared checks that a table now has the sum that the receiver names.
func (m *Machine) compared(d *disk, sum uint64, tip *recovery.Point) error {
	if err := d.table.Sync(); err != nil {
		return err
	}
	got, err := d.table.Sum()
	if err != nil {
		return err
	}
	if got != sum {
		return fault.Errorf(fault.Unreachable, "the sums differ after the compare: the target's table changed meanwhile")
	}
	if tip != nil {
		if pd, ok := tip.Disk(d.Name); ok && (pd.Sum != got || pd.Size != d.table.Size()) {
			return fault.Errorf(fault.Corrupt, "the target's table is not that of its newest point %s", tip.ID.Short())
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	d.state.Sum = got
	return nil
}

// compareRanges fetches the hashes of those ranges from start whose sums are
// not the receiver's.
func (m *Machine) compareRanges(ctx context.Context, epoch ident.Epoch, d *disk, start int64, sums []byte) error {
	n := len(sums) / 8
	ours, err := d.table.RangeSums(start, n)
	if err != nil {
		return err
	}
	if len(ours) != n {
		return fault.Errorf(fault.Corrupt, "the target names sums of %d ranges more than its disk has", n-len(ours))
	}
	var differ []int64
	for i, sum := range ours {
		if sum != binary.LittleEndian.Uint64(sums[8*i:]) {
			differ = append(differ, start+int64(i))
		}
	}
	for some := range slices.Chunk(differ, compareBlocks) {
		in := command.BlocksRequest{Machine: m.cfg.Machine, Epoch: epoch, Disk: d.Name, Ranges: some}
		res, err := m.cfg.Peer.Blocks(ctx, in)
		if err != nil {
			return err
		}
		if len(res.Hashes) != len(some) {
			return fault.Errorf(fault.Corrupt, "the target gives hashes of %d of %d ranges", len(res.Hashes), len(some))
		}
		for i, r := range some {
			if err := setRange(d.table, r, res.Hashes[i]); err != nil {
				return err
			}
		}
	}
	m.view.advance("compare", int64(n)*blocksum.RangeBlocks*blocksum.BlockSize)
	return nil
}

func setRange(t *blocksum.Table, r int64, b []byte) error {
	hashes := make([]uint64, len(b)/8)
	for i := range hashes {
		hashes[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	if err := t.WriteRange(r, hashes); err != nil {
		return fault.Wrap(fault.Corrupt, err)
	}
	return nil
}
