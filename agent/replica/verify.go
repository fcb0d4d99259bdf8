package replica

import (
	"context"
	"errors"
	"fmt"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/agent/hrl"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

func corruptPoint(p recovery.Point, d recovery.PointDisk, sum uint64) *fault.Error {
	return fault.Errorf(fault.Corrupt, "point %s: disk %s has sum %016x, the manifest says %016x", p.ID, d.Name, sum, d.Sum)
}

// Verify reads the content of one point, or with a zero id of every point, and
// compares each disk's whole sum with the manifest; what it reads on the way
// (heads, undo logs, received logs) is checked against its checksums. The heads
// are read once and each undo log once, however many points there are. Faults
// that it finds are in the result; an error says that it could not go on. A real
// Prepare ends it.
func (m *Machine) Verify(ctx context.Context, point ident.PointID, progress func(done int64)) (_ command.VerifyResult, err error) {
	defer m.fullDisk(&err)
	ctx, done, err := m.work.take(ctx, yielding)
	if err != nil {
		return command.VerifyResult{}, err
	}
	defer done()
	if err := m.settle(ctx); err != nil {
		return command.VerifyResult{}, err
	}
	v := &verification{m: m, ctx: ctx, progress: counter(progress)}
	for _, p := range m.Points() {
		if !point.IsZero() && p.ID != point {
			continue
		}
		v.wanted = append(v.wanted, p)
	}
	if len(v.wanted) == 0 && !point.IsZero() {
		_, err := m.point(point)
		return command.VerifyResult{}, err
	}
	if len(v.wanted) == 0 {
		return v.result, nil
	}
	v.result.Points = len(v.wanted)
	v.manifests()
	for _, d := range m.names {
		if err := v.disk(d); err != nil {
			return command.VerifyResult{}, fmt.Errorf("cannot verify disk %s: %w", d, err)
		}
	}
	return v.result, nil
}

// verification is one run of Verify.
type verification struct {
	m        *Machine
	ctx      context.Context //nolint:containedctx // of this one call
	progress func(int64)
	wanted   []recovery.Point
	result   command.VerifyResult
}

func (v *verification) fault(format string, args ...any) {
	v.result.Faults = append(v.result.Faults, fmt.Sprintf(format, args...))
}

func (v *verification) read(n int64) {
	v.result.Bytes += n
	v.progress(n)
}

func (v *verification) wants(id ident.PointID) bool {
	for _, p := range v.wanted {
		if p.ID == id {
			return true
		}
	}
	return false
}

// manifests reads the manifests again, and names points that cannot be read.
func (v *verification) manifests() {
	for _, p := range v.wanted {
		path := v.m.pointPath(markOf(p))
		data, err := vfs.ReadFile(v.m.fs, path)
		if err == nil {
			_, err = decodePoint(path, data)
		}
		if err == nil {
			err = v.m.readable(p)
		}
		if err != nil {
			v.fault("point %s: %v", p.ID, err)
		}
	}
}

// disk checks one disk at every point that is wanted.
func (v *verification) disk(disk string) error {
	m := v.m
	st := m.snapshot()
	if st.Applied.Seq == 0 {
		return v.up(disk, nil)
	}
	base, d, ok := m.newestWith(disk, st.Applied.Seq)
	if !ok {
		return v.up(disk, nil)
	}
	path := m.dir(disk, "verify"+vfs.TempSuffix)
	t, err := blocksum.Create(m.fs, path, m.disks[disk].Key, d.Size)
	if err != nil {
		return m.storeError(err, "cannot verify")
	}
	defer func() { _ = t.Close(); _ = m.fs.Remove(path) }() // a temporary file; a start removes it too
	if err := m.scan(v.ctx, disk, m.image(disk), d.Size, t, v.read); err != nil {
		return err
	}
	sum, err := t.Sum()
	if err != nil {
		return err
	}
	w := &walkingTable{v: v, t: t, disk: disk, sum: sum, bad: map[int64]error{}}
	w.compare(base)
	if len(m.stepsUp(^ident.Seq(0))) > 0 {
		if err := v.up(disk, w); err != nil {
			return err
		}
	}
	return v.down(disk, w)
}

// newestWith returns the newest point up to seq that has a disk: what its image
// holds.
func (m *Machine) newestWith(disk string, seq ident.Seq) (p recovery.Point, d recovery.PointDisk, ok bool) {
	for _, q := range m.Points() {
		if have, has := q.Disk(disk); has && q.Seq <= seq {
			p, d, ok = q, have, true
		}
	}
	return p, d, ok
}

// down goes from the head to the older points, undo log by undo log.
func (v *verification) down(disk string, w *walkingTable) error {
	oldest := v.wanted[0].Seq
	for _, s := range v.m.stepsDown(oldest) {
		if _, ok := s.newer.Disk(disk); !ok {
			continue // the disk had ended
		}
		older, _ := s.older.Disk(disk)
		size := older.Size
		if v.m.readable(s.older) != nil { // its undo log knows as well
			size = v.m.undoSize(disk, s, w.t.Size())
		}
		if err := w.resize(size); err != nil {
			return err
		}
		files, err := v.m.undoFiles(disk, s.newer.Seq, s.older.Seq)
		if err != nil {
			if !fault.Is(err, fault.Corrupt) {
				return err
			}
			w.lost = err
		}
		if err := w.lay(files, size); err != nil {
			return err
		}
		w.compare(s.older)
	}
	return nil
}

// undoSize returns the size of a disk that an undo log leads to; have where it
// cannot be read.
func (m *Machine) undoSize(disk string, s step, have int64) int64 {
	r, err := hrl.Open(m.fs, m.undoPath(disk, s.newer.Seq, s.older.Seq))
	if err != nil {
		return have // the fault is found when the log is read
	}
	defer r.Close()
	return r.Header().SizeAfter
}

// up goes from the head to the points that are accepted and not applied, on a
// table of its own.
func (v *verification) up(disk string, head *walkingTable) error {
	m := v.m
	path := m.dir(disk, "verify-up"+vfs.TempSuffix)
	var (
		t   *blocksum.Table
		err error
	)
	w := &walkingTable{v: v, disk: disk, bad: map[int64]error{}}
	if head == nil {
		if err := m.fs.MkdirAll(m.dir(disk), 0o700); err != nil {
			return err
		}
		t, err = blocksum.Create(m.fs, path, m.disks[disk].Key, 0)
	} else {
		if err := head.t.CopyTo(path); err != nil {
			return err
		}
		w.sum = head.sum
		t, err = blocksum.Open(m.fs, path, m.disks[disk].Key)
	}
	if err != nil {
		return err
	}
	w.t = t
	defer func() { _ = t.Close(); _ = m.fs.Remove(path) }() // a temporary file
	newest := v.wanted[len(v.wanted)-1].Seq
	for _, p := range m.stepsUp(newest) {
		d, ok := p.Disk(disk)
		if !ok {
			continue
		}
		if err := w.resize(d.Size); err != nil {
			return err
		}
		if err := w.lay(m.segmentPaths(d), d.Size); err != nil {
			return err
		}
		w.compare(p)
	}
	return nil
}

// walkingTable is the block table of a disk while it is taken from point to
// point by reading what lies between.
type walkingTable struct {
	v    *verification
	t    *blocksum.Table
	disk string
	sum  uint64
	bad  map[int64]error // blocks whose content could not be read
	lost error           // nothing is known any more
}

// maxBad is the most unreadable blocks that are remembered one by one.
const maxBad = 1 << 18

func (w *walkingTable) resize(size int64) error {
	blocks := blocksum.BlockCount(size)
	cut, err := sumFrom(w.t, blocks)
	if err != nil {
		return err
	}
	w.sum -= cut
	for b := range w.bad {
		if b >= blocks {
			delete(w.bad, b)
		}
	}
	if w.t.Size() == size {
		return nil
	}
	return w.t.Resize(size)
}

// lay reads the logs, which lie over each other in the order of paths.
func (w *walkingTable) lay(paths []string, size int64) error {
	for _, path := range paths {
		r, err := openLog(w.v.m.fs, path, hrl.NewCache(cacheBytes))
		if err == nil {
			err = errors.Join(w.layLog(r, size), r.Close())
		}
		if err == nil {
			continue
		}
		if !fault.Is(err, fault.Corrupt) {
			return err
		}
		w.lost = err
	}
	return nil
}

func (w *walkingTable) layLog(r *hrl.Reader, size int64) error {
	buf := make([]byte, min(chunkBytes, alignUp(size)))
	for e, err := range r.Extents() {
		if err != nil {
			return err
		}
		for off := e.Off; off < min(e.End(), size); off += chunkBytes {
			if w.v.ctx.Err() != nil {
				return context.Cause(w.v.ctx)
			}
			p := buf[:min(chunkBytes, min(e.End(), size)-off)]
			err := r.ReadExtent(hrl.Extent{Off: off, Len: int64(len(p)), Kind: e.Kind}, p)
			if err != nil && !fault.Is(err, fault.Corrupt) {
				return err
			}
			if err := w.put(off, p, err); err != nil {
				return err
			}
			w.v.read(int64(len(p)))
		}
	}
	return nil
}

// put takes the disk's content from off on; with bad it is not known.
func (w *walkingTable) put(off int64, p []byte, bad error) error {
	var hashes [blocksum.RangeBlocks]uint64
	key := w.v.m.disks[w.disk].Key
	for len(p) > 0 {
		block := off / blocksum.BlockSize
		r := block / blocksum.RangeBlocks
		n, err := w.t.ReadRange(r, hashes[:])
		if err != nil {
			return err
		}
		for i := block - r*blocksum.RangeBlocks; i < int64(n) && len(p) > 0; i++ {
			k := min(len(p), blocksum.BlockSize)
			h := uint64(0)
			if bad == nil {
				h = blocksum.Hash(key, off/blocksum.BlockSize, p[:k])
				delete(w.bad, off/blocksum.BlockSize)
			} else if w.bad[off/blocksum.BlockSize] = bad; len(w.bad) > maxBad {
				w.lost = bad
			}
			w.sum += h - hashes[i]
			hashes[i] = h
			off, p = off+int64(k), p[k:]
		}
		if err := w.t.WriteRange(r, hashes[:n]); err != nil {
			return err
		}
	}
	return nil
}

// compare compares the table with a point, if that is wanted.
func (w *walkingTable) compare(p recovery.Point) {
	d, ok := p.Disk(w.disk)
	if !ok || !w.v.wants(p.ID) {
		return
	}
	switch {
	case w.v.m.readable(p) != nil: // its manifest is named already
	case w.lost != nil:
		w.v.fault("point %s: disk %s cannot be read: %v", p.ID, w.disk, w.lost)
	case len(w.bad) > 0:
		for block, err := range w.bad {
			w.v.fault("point %s: disk %s: %d blocks cannot be read, among them %d: %v", p.ID, w.disk, len(w.bad), block, err)
			break
		}
	case w.sum != d.Sum:
		w.v.fault("%v", corruptPoint(p, d, w.sum))
	}
}
