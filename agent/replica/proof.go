package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// ReadDisk reads a disk whole, size bytes of it (0: all), and writes its block
// table to the file table, durably. No table that is there already is believed,
// nor the page cache, as far as the file system can read past it: that a block
// was once written rightly says nothing of what the disk gives back. progress is
// called with the bytes of each piece.
func ReadDisk(ctx context.Context, fsys vfs.FS, path string, key uint64, size int64, table string, progress func(n int64)) (_ command.ProofDisk, err error) {
	f, err := fsys.OpenFile(path, vfs.ReadOnly, 0)
	if err != nil {
		return command.ProofDisk{}, fmt.Errorf("cannot open disk: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	disk, from, err := f.FromMedium()
	if err != nil {
		return command.ProofDisk{}, fmt.Errorf("cannot read %s: %w", path, err)
	}
	have, err := disk.Size()
	if err != nil {
		return command.ProofDisk{}, fmt.Errorf("cannot read %s: %w", path, err)
	}
	fi, err := fsys.Stat(path)
	if err != nil {
		return command.ProofDisk{}, fmt.Errorf("cannot look at %s: %w", path, err)
	}
	if size == 0 || fi.Mode().IsRegular() { // a device may be larger than the disk
		size = have
	}
	t, err := blocksum.Create(fsys, table, key, size)
	if err != nil {
		return command.ProofDisk{}, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	if err := hashImage(ctx, disk, key, size, t.WriteRange, progress); err != nil {
		return command.ProofDisk{}, err
	}
	if err := t.Sync(); err != nil {
		return command.ProofDisk{}, err
	}
	sum, err := t.Sum()
	return command.ProofDisk{Size: size, Sum: sum, From: string(from)}, err
}

// Prove reads all disks of a point whole, from the images and undo logs and not
// by any table that is kept, and returns their sums: of the heads if they hold
// that point, or, where a machine runs on an overlay of it, of the point under
// it. tables names for each disk the file that its fresh block table is written
// to. Nothing is applied meanwhile; what is received is stored as ever. An urgent
// operation ends it (ErrPreempted). fault.Refused: what is here is not that
// point any more.
func (m *Machine) Prove(ctx context.Context, point ident.PointID, tables map[string]string, progress func(done int64)) (_ command.ProofResult, err error) {
	defer m.fullDisk(&err)
	began := time.Now()
	ctx, done, err := m.work.take(ctx, yielding)
	if err != nil {
		return command.ProofResult{}, err
	}
	defer done()
	if err := m.settle(ctx); err != nil {
		return command.ProofResult{}, err
	}
	p, err := m.provable(point)
	if err != nil {
		return command.ProofResult{}, err
	}
	var res command.ProofResult
	count := counter(progress)
	for _, d := range p.Disks {
		pd, err := m.proveDisk(ctx, p, d, tables[d.Name], func(n int64) { res.Bytes += n; count(n) })
		if err != nil {
			return command.ProofResult{}, fmt.Errorf("cannot read disk %s of point %s: %w", d.Name, p.ID.Short(), err)
		}
		res.Disks = append(res.Disks, pd)
		if ctx.Err() != nil {
			return command.ProofResult{}, context.Cause(ctx)
		}
	}
	res.Took = time.Since(began)
	return res, nil
}

// provable returns the point to read if the disks here are at it still.
func (m *Machine) provable(id ident.PointID) (recovery.Point, error) {
	st := m.snapshot()
	if st.Live != nil {
		if st.Live.Point.ID != id {
			return recovery.Point{}, fault.Errorf(fault.Refused, "machine %s runs here on point %s (run %s), not on point %s", m.cfg.Machine, st.Live.Point.ID.Short(), st.Live.Run, id.Short()).
				WithHint("read the point that it runs on")
		}
		p, err := m.point(id)
		if err == nil {
			err = m.readable(p)
		}
		return p, err
	}
	p, err := m.point(st.Applied.Point)
	if err != nil {
		return recovery.Point{}, fault.Errorf(fault.Refused, "the disks of machine %s hold no complete point here", m.cfg.Machine)
	}
	if p.ID == id {
		return p, nil
	}
	// The disks were taken over under an id of their own: the machine had not
	// written since the point that it was prepared from.
	if q, err := m.point(id); err == nil && p.From == id && sameDisks(p, q) {
		return p, nil
	}
	return recovery.Point{}, fault.Errorf(fault.Refused, "the disks of machine %s hold point %s (number %d) here, not point %s any more", m.cfg.Machine, p.ID.Short(), p.Seq, id.Short()).
		WithHint("what was received since is applied: the proof can only be read before the commit")
}

// sameDisks reports whether two points have the same content, as their sums say.
func sameDisks(a, b recovery.Point) bool {
	for _, d := range a.Disks {
		if o, ok := b.Disk(d.Name); !ok || o.Size != d.Size || o.Sum != d.Sum {
			return false
		}
	}
	return len(a.Disks) == len(b.Disks)
}

// proveDisk reads a disk of a point: its image, and what lies over that.
func (m *Machine) proveDisk(ctx context.Context, p recovery.Point, d recovery.PointDisk, table string, progress func(int64)) (_ command.ProofDisk, err error) {
	if err := m.checkImage(d.Name); err != nil {
		return command.ProofDisk{}, err
	}
	l, err := m.layersOf(p, d.Name)
	if err != nil {
		return command.ProofDisk{}, err
	}
	key := m.disks[d.Name].Key
	_, applied, _ := m.newestWith(d.Name, m.Applied())
	pd, err := ReadDisk(ctx, m.fs, m.image(d.Name), key, applied.Size, table, progress)
	if err != nil {
		return command.ProofDisk{}, err
	}
	pd.Name = d.Name
	if len(l.steps) == 0 {
		return pd, nil
	}
	t, err := blocksum.Open(m.fs, table, key)
	if err != nil {
		return command.ProofDisk{}, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	for _, st := range append(l.steps, layerStep{size: l.size}) {
		if err := t.Resize(st.size); err != nil {
			return command.ProofDisk{}, err
		}
		if err := m.hashLayers(ctx, st, d.Name, t); err != nil {
			return command.ProofDisk{}, err
		}
	}
	if err := t.Sync(); err != nil {
		return command.ProofDisk{}, err
	}
	pd.Size = l.size
	pd.Sum, err = t.Sum()
	return pd, err
}

// Written reads the live disks, on which the machine may run meanwhile, and
// counts what differs from the point under the overlay. fault.Refused: no
// overlay stands here.
func (m *Machine) Written(ctx context.Context, progress func(done int64)) (_ command.WrittenResult, err error) {
	ctx, done, err := m.work.take(ctx, yielding)
	if err != nil {
		return command.WrittenResult{}, err
	}
	defer done()
	if err := m.settle(ctx); err != nil {
		return command.WrittenResult{}, err
	}
	l := m.snapshot().Live
	if l == nil {
		return command.WrittenResult{}, fault.Errorf(fault.Refused, "machine %s runs on no overlay here, so nothing was written to one", m.cfg.Machine)
	}
	res := command.WrittenResult{Since: l.At}
	count := counter(progress)
	for _, d := range m.assigned(l.Point) {
		n, err := m.writtenDisk(ctx, d, count)
		if err != nil {
			return command.WrittenResult{}, fmt.Errorf("cannot count what was written to disk %s: %w", d, err)
		}
		res.Blocks += n
	}
	res.Bytes = res.Blocks * blocksum.BlockSize
	return res, nil
}

// writtenDisk counts the blocks in which a live disk differs from the table of
// the point under it.
func (m *Machine) writtenDisk(ctx context.Context, disk string, progress func(int64)) (n int64, err error) {
	key := m.disks[disk].Key
	was, err := blocksum.Open(m.fs, m.dir(disk, liveTable), key)
	if err != nil {
		return 0, err
	}
	defer was.Close()
	head, err := m.fs.OpenFile(m.disks[disk].Head, vfs.ReadOnly, 0)
	if err != nil {
		return 0, fmt.Errorf("cannot open disk: %w", err)
	}
	defer head.Close()
	size, err := head.Size()
	if err != nil {
		return 0, fmt.Errorf("cannot read %s: %w", head.Name(), err)
	}
	next := int64(0) // the range that is compared next
	var old, zero [blocksum.RangeBlocks]uint64
	compare := func(r int64, hashes []uint64) error {
		if _, err := readRange(was, r, old[:]); err != nil {
			return err
		}
		for i := range old {
			now := uint64(0)
			if i < len(hashes) {
				now = hashes[i]
			}
			if old[i] != now {
				n++
			}
		}
		return nil
	}
	upTo := func(r int64) error { // what was left out is a hole
		for ; next < r; next++ {
			if err := compare(next, zero[:]); err != nil {
				return err
			}
		}
		return nil
	}
	err = hashImage(ctx, head, key, size, func(r int64, hashes []uint64) error {
		if err := upTo(r); err != nil {
			return err
		}
		next = r + 1
		return compare(r, hashes)
	}, progress)
	if err == nil {
		err = upTo(was.Ranges())
	}
	return n, err
}
