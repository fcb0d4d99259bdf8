package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/crash"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

// Labels of the points that keep what a machine wrote at one site alone.
const (
	AsFound      = "as found"      // the disks of an old primary
	RolledBack   = "rolled back"   // the overlay of a failover that was rolled back
	PointChanged = "point changed" // the overlay that made way for another point
)

// runLabel is the further label that names the run of a kept point.
func runLabel(run string) string { return "run " + run }

// Kept says what the disks are that Keep makes a point of.
type Kept struct {
	Label string      // AsFound, RolledBack or PointChanged
	Run   string      // that the machine ran for on them; empty: none
	Epoch ident.Epoch // of the machine
	// Common is the newest point that both sites have and Tables its block
	// tables here, by disk; nil: all that the disks hold was never sent.
	Common *recovery.Point
	Tables map[string]string
	// Discard: a person gave up what only these disks have. It is counted, and
	// no point of it is kept.
	Discard bool
}

const (
	adoptTable = "table.adopt" // of the point adopted, until it is the table
	foundTable = "table.found" // made by Keep
)

// Adopt makes this site the target of a machine that ran here: its stopped
// disks, at the head paths, are exactly tip, and tables are their block tables
// by disk (the source role's; they are copied). Receiving goes on on top of it.
// A base kept under the disks is turned into undo logs, which costs the blocks
// that differ, so all its points stay. Idempotent. fault.Refused: the store has
// points that its heads no longer lead to.
func (m *Machine) Adopt(ctx context.Context, tip recovery.Point, tables map[string]string) (err error) {
	defer m.fullDisk(&err)
	ctx, done, err := m.work.take(ctx, urgent)
	if err != nil {
		return err
	}
	defer done()
	if err := m.settle(ctx); err != nil {
		return err
	}
	return m.adopt(ctx, tip, tables, nil)
}

// adopt is Adopt with the work lock held; with gone the tip is not kept.
func (m *Machine) adopt(ctx context.Context, tip recovery.Point, tables map[string]string, gone *discarded) error {
	st := m.snapshot()
	if newest, ok := m.tip(); ok && st.Live == nil {
		if have, err := m.point(st.Applied.Point); err == nil && (have.ID == tip.ID || have.From == tip.ID && sameDisks(have, tip)) {
			return nil // perhaps under an id of its own: see checkAdopt
		}
		return fault.Errorf(fault.Refused, "machine %s: the store has points up to %s, and the disks here are not on an overlay of them", m.cfg.Machine, newest.ID).
			WithHint("remove the replica here to begin a new one; its points are lost then")
	}
	if err := m.checkAdopt(&tip, tables); err != nil {
		return err
	}
	if st.Live != nil {
		if err := m.remakeTables(ctx); err != nil {
			return err
		}
		if err := m.applyBase(ctx); err != nil {
			return err
		}
	}
	for _, d := range tip.Disks {
		if err := m.copyTable(d, tip, tables[d.Name]); err != nil {
			return err
		}
		if st.Live != nil {
			if err := m.foldBase(ctx, tip, d); err != nil {
				return fmt.Errorf("cannot fold the base of disk %s: %w", d.Name, err)
			}
		}
	}
	tip.Received = m.cfg.Clock.Now().UTC()
	if gone != nil {
		gone.Tip = markOf(tip)
	}
	if err := m.record(func(s *state) { s.Adopting, s.Discarded = &tip, gone }); err != nil {
		return err
	}
	crash.At("replica.adopt.recorded")
	return m.finishAdopt()
}

// applyBase brings the base to the newest point that was accepted here, held or
// not: its points become the chain under the new tip.
func (m *Machine) applyBase(ctx context.Context) error {
	if m.Held() {
		if err := m.record(func(s *state) { s.Hold = false }); err != nil {
			return err
		}
	}
	return m.applyAll(ctx)
}

// checkAdopt refuses a manifest that does not fit, and gives it a sequence
// number above all points here: order is the number, and the store goes on.
func (m *Machine) checkAdopt(tip *recovery.Point, tables map[string]string) error {
	if newest, ok := m.tip(); ok && tip.Seq <= newest.Seq {
		tip.Seq = newest.Seq + 1
	}
	if _, err := m.point(tip.ID); err == nil {
		// The machine has not written since that point was prepared. A point is
		// in the chain once: the same content gets an id of its own, and the
		// sender compares.
		tip.From, tip.ID = tip.ID, ident.NewPointID()
	}
	if err := checkPoint(*tip); err != nil {
		return fault.Errorf(fault.Invalid, "cannot adopt point: %w", err)
	}
	for _, d := range tip.Disks {
		have, ok := m.disks[d.Name]
		if !ok || have.ID != d.ID {
			return fault.Errorf(fault.Conflict, "cannot adopt point %s: disk %s (%s) is not assigned here", tip.ID, d.Name, d.ID)
		}
		if tables[d.Name] == "" {
			return fault.Errorf(fault.Invalid, "cannot adopt point %s: disk %s comes without its block table", tip.ID, d.Name)
		}
		fi, err := m.fs.Stat(have.Head)
		if err != nil {
			return fault.Errorf(fault.Refused, "cannot adopt point %s: disk %s is not at %s: %w", tip.ID, d.Name, have.Head, err)
		}
		if fi.Mode().IsRegular() && fi.Size() != d.Size {
			return fault.Errorf(fault.Conflict, "cannot adopt point %s: %s has %d bytes, the manifest says %d", tip.ID, have.Head, fi.Size(), d.Size).
				WithHint("the disk was written after its last point: it has to be kept as found")
		}
	}
	return nil
}

// copyTable copies the table of a disk and compares it with the manifest.
func (m *Machine) copyTable(d recovery.PointDisk, tip recovery.Point, from string) (err error) {
	if err := m.fs.MkdirAll(m.dir(d.Name), 0o700); err != nil {
		return err
	}
	t, err := blocksum.Open(m.fs, from, m.disks[d.Name].Key)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	if err := m.compareSum(t, d, tip); err != nil {
		return err
	}
	return t.CopyTo(m.dir(d.Name, adoptTable))
}

// foldBase writes the undo log from the live disk's point to the base's: where
// the two tables differ, the base's content. One of an attempt that failed is
// replaced: the machine may have run since, and the base is as it was.
func (m *Machine) foldBase(ctx context.Context, tip recovery.Point, d recovery.PointDisk) (err error) {
	base, err := m.point(m.snapshot().Applied.Point)
	if err != nil {
		return err
	}
	key := m.disks[d.Name].Key
	now, err := blocksum.Open(m.fs, m.dir(d.Name, adoptTable), key)
	if err != nil {
		return err
	}
	defer now.Close()
	m.in.Lock()
	old, err := m.tableForCopy(d.Name)
	m.in.Unlock()
	if err != nil {
		return err
	}
	img, err := m.openImage(d.Name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, img.close()) }()
	bd, _ := base.Disk(d.Name)
	u, err := m.newUndo(d.Name, tip, base, d.Size, bd.Size, bd.Sum)
	if err != nil {
		return err
	}
	cut := bd.Size
	if d.Size < bd.Size {
		cut = d.Size &^ (blocksum.BlockSize - 1)
	}
	if err = keepDifferent(ctx, u, img, now, old, cut); err == nil {
		err = img.keep(u, cut, bd.Size)
	}
	if err != nil {
		return errors.Join(err, u.abort())
	}
	return u.close()
}

// keepDifferent keeps the image's blocks below cut in which two tables differ.
func keepDifferent(ctx context.Context, u *undoLog, img *image, a, b *blocksum.Table, cut int64) error {
	var ha, hb [blocksum.RangeBlocks]uint64
	for r := range (blocksum.BlockCount(cut) + blocksum.RangeBlocks - 1) / blocksum.RangeBlocks {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, err := readRange(a, r, ha[:]); err != nil {
			return err
		}
		if _, err := readRange(b, r, hb[:]); err != nil {
			return err
		}
		if ha == hb {
			continue
		}
		for i := range ha {
			if ha[i] == hb[i] {
				continue
			}
			off := (r*blocksum.RangeBlocks + int64(i)) * blocksum.BlockSize
			if err := img.keep(u, off, min(off+blocksum.BlockSize, cut)); err != nil {
				return err
			}
		}
	}
	return nil
}

// finishAdopt goes on with a take-over whose files are whole: manifest, tables,
// marks, then the base goes.
func (m *Machine) finishAdopt() error {
	a := m.snapshot().Adopting
	if a == nil {
		for _, d := range m.names {
			if err := m.removeFile(m.dir(d, adoptTable)); err != nil {
				return err
			}
		}
		return nil
	}
	tip := *a
	if have, ok := m.tip(); !ok || have.ID != tip.ID {
		if err := m.writePoint(tip); err != nil {
			return err
		}
		m.mu.Lock()
		m.points = append(m.points, tip)
		m.mu.Unlock()
	}
	crash.At("replica.adopt.manifest")
	m.in.Lock()
	defer m.in.Unlock()
	for _, d := range tip.Disks {
		if err := m.closeTable(d.Name); err != nil {
			return err
		}
		from := m.dir(d.Name, adoptTable)
		there, err := m.exists(from)
		if err != nil {
			return err
		}
		if there { // else it is in its place already
			if err := m.fs.Rename(from, m.tablePath(d.Name)); err != nil {
				return err
			}
		}
	}
	now := m.cfg.Clock.Now()
	age := max(0, now.UTC().Sub(tip.Instant))
	err := m.record(func(s *state) {
		if s.Live != nil {
			for _, d := range m.assigned(s.Live.Point) {
				s.Dropping = append(s.Dropping, m.disks[d].Head+baseSuffix, m.dir(d, liveTable))
			}
		}
		s.Owned, s.Applied, s.Table, s.TipAge = true, markOf(tip), markOf(tip), age
		s.Live, s.Adopting, s.Rescan = nil, nil, nil
	})
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.tipAge, m.tipAt = age, clock.Mono(m.cfg.Clock)
	clear(m.rotten)
	m.mu.Unlock()
	crash.At("replica.adopt.marked")
	return m.finishDropping()
}

// finishDropping removes files that nothing names any more.
func (m *Machine) finishDropping() error {
	st := m.snapshot()
	if len(st.Dropping) == 0 {
		return nil
	}
	for _, f := range st.Dropping {
		if err := m.removeFile(f); err != nil {
			return err
		}
	}
	return m.record(func(s *state) { s.Dropping = nil })
}

// Keep keeps what a machine wrote here alone: it reads its stopped disks (at the
// head paths) whole and makes their state a labelled point, held until a person
// releases it, as the tip: what the other site sends lies on top of it.
// Idempotent until something was received on top. fault.NoSpace: an old primary's
// state has no room here, nothing was changed.
func (m *Machine) Keep(ctx context.Context, k Kept, progress func(done int64)) (_ command.FoundResult, err error) {
	defer m.fullDisk(&err)
	ctx, done, err := m.work.take(ctx, urgent)
	if err != nil {
		return command.FoundResult{}, err
	}
	defer done()
	if err := m.settle(ctx); err != nil {
		return command.FoundResult{}, err
	}
	p := recovery.Point{
		Version: recovery.FormatVersion, ID: ident.NewPointID(), Machine: m.cfg.Machine, Epoch: k.Epoch,
		Instant: m.cfg.Clock.Now().UTC(), Kind: recovery.Crash, Labels: []string{k.Label}, Held: true, Diverged: true,
	}
	if k.Run != "" {
		p.Labels = append(p.Labels, runLabel(k.Run))
	}
	if tip, ok := m.tip(); ok {
		if m.snapshot().Live == nil {
			if tip.Held && slices.Contains(tip.Labels, k.Label) {
				return keptAgain(tip, k.Common), nil
			}
			if d := m.snapshot().Discarded; d != nil && d.Tip == markOf(tip) && k.Label == AsFound {
				return d.result(), nil
			}
			return command.FoundResult{}, fault.Errorf(fault.Refused, "machine %s: the disks here are a replica, not a primary", m.cfg.Machine)
		}
		p.Seq = tip.Seq
	}
	res := command.FoundResult{}
	if c := k.Common; c != nil {
		p.Seq, p.From, p.Config, p.Group = max(p.Seq, c.Seq), c.ID, c.Config, c.Group
		res.Since = c.Instant
	}
	p.Seq++
	found := map[string]string{}
	count := counter(progress)
	for _, n := range m.names {
		path := m.dir(n, foundTable)
		pd, err := m.findDisk(ctx, n, path, count)
		if err != nil {
			return command.FoundResult{}, err
		}
		blocks, err := m.countDifferent(ctx, n, path, k.Tables[n])
		if err != nil {
			return command.FoundResult{}, err
		}
		res.Blocks += blocks
		p.Disks = append(p.Disks, pd)
		found[n] = path
	}
	res.Bytes = res.Blocks * blocksum.BlockSize
	crash.At("replica.found.read")
	err = m.keep(ctx, k, p, found, &res)
	for _, path := range found {
		err = errors.Join(err, m.removeFile(path))
	}
	if err != nil {
		return command.FoundResult{}, err
	}
	return res, nil
}

// keep makes disks that were read the point p, or gives up what only they have.
func (m *Machine) keep(ctx context.Context, k Kept, p recovery.Point, found map[string]string, res *command.FoundResult) error {
	if k.Discard {
		res.Discarded = true
		return m.discard(ctx, p, found, *res)
	}
	if k.Label == AsFound {
		if err := m.checkFoundRoom(ctx, found, res.Blocks); err != nil {
			return err
		}
	}
	if err := m.adopt(ctx, p, found, nil); err != nil {
		return err
	}
	res.Point, _ = m.tip()
	return nil
}

// keptAgain answers a repeated Keep; what was counted then is not known.
func keptAgain(tip recovery.Point, common *recovery.Point) command.FoundResult {
	res := command.FoundResult{Point: tip}
	if common != nil {
		res.Since = common.Instant
	}
	return res
}

// findDisk reads a disk whole into a table and returns its part of a manifest.
func (m *Machine) findDisk(ctx context.Context, disk, path string, progress func(int64)) (_ recovery.PointDisk, err error) {
	img, err := m.openHead(disk)
	if err != nil {
		return recovery.PointDisk{}, err
	}
	size := img.size
	if err := img.close(); err != nil {
		return recovery.PointDisk{}, err
	}
	if err := m.fs.MkdirAll(m.dir(disk), 0o700); err != nil {
		return recovery.PointDisk{}, err
	}
	t, err := blocksum.Create(m.fs, path, m.disks[disk].Key, size)
	if err != nil {
		return recovery.PointDisk{}, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	if err := m.scan(ctx, disk, m.disks[disk].Head, size, t, progress); err != nil {
		return recovery.PointDisk{}, err
	}
	if err := t.Sync(); err != nil {
		return recovery.PointDisk{}, err
	}
	sum, err := t.Sum()
	return recovery.PointDisk{Name: disk, ID: m.disks[disk].ID, Size: size, Sum: sum}, err
}

// countDifferent counts the blocks in which a scanned disk differs from the
// table of the common point; an empty path is the empty disk.
func (m *Machine) countDifferent(ctx context.Context, disk, scanned, common string) (n int64, err error) {
	a, err := blocksum.Open(m.fs, scanned, m.disks[disk].Key)
	if err != nil {
		return 0, err
	}
	defer a.Close()
	var b *blocksum.Table
	if common != "" {
		if b, err = blocksum.Open(m.fs, common, m.disks[disk].Key); err != nil {
			return 0, err
		}
		defer b.Close()
	}
	ranges := a.Ranges()
	if b != nil {
		ranges = max(ranges, b.Ranges())
	}
	var ha, hb [blocksum.RangeBlocks]uint64
	for r := range ranges {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		if _, err := readRange(a, r, ha[:]); err != nil {
			return 0, err
		}
		if _, err := readRange(b, r, hb[:]); err != nil {
			return 0, err
		}
		for i := range ha {
			if ha[i] != hb[i] {
				n++
			}
		}
	}
	return n, nil
}
