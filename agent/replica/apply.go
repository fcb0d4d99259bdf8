package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/internal/crash"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/planted"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// Apply brings the heads to the tip, point by point; it does nothing while the
// hold is set, and while the machine runs here on an overlay it works on the
// kept base. What is not done when it fails is done by the next call or by Open.
// A block table that is missing or damaged is made again first; ErrPreempted:
// something more urgent ended that.
func (m *Machine) Apply(ctx context.Context) (err error) {
	defer m.fullDisk(&err)
	if err := m.mendTables(ctx); err != nil {
		return err
	}
	ctx, done, err := m.work.take(ctx, normal)
	if err != nil {
		return err
	}
	defer done()
	if err := m.settle(ctx); err != nil {
		return err
	}
	return m.applyAll(ctx)
}

// applyAll is Apply with the work lock held.
func (m *Machine) applyAll(ctx context.Context) error {
	for {
		if err := m.finishHead(ctx); err != nil {
			return err
		}
		next, ok := m.nextUnapplied()
		if !ok || m.Held() && m.Applied() != 0 && !planted.Is(planted.HoldIgnored) { // a first point overwrites nothing
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := m.isBroken(next)
		if err == nil && m.Applied() != 0 { // a first point could cost no older one
			err = m.checkFrames(ctx, next, recheckAfter)
		}
		if err == nil {
			err = m.applyPoint(ctx, next)
		}
		if err != nil {
			return fmt.Errorf("cannot apply point %s: %w", next.ID, err)
		}
	}
}

func (m *Machine) nextUnapplied() (recovery.Point, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, p := range m.points {
		if p.Seq > m.st.Applied.Seq {
			return p, true
		}
	}
	return recovery.Point{}, false
}

// finishHead finishes a point whose application has begun: all its undo logs
// are whole, so the heads may be between two points. It is asked for before
// anything reads a head, held or not.
func (m *Machine) finishHead(ctx context.Context) error {
	next, ok := m.nextUnapplied()
	if !ok {
		return nil
	}
	begun, err := m.begun(next)
	if err != nil || !begun {
		return err
	}
	err = m.isBroken(next)
	if err == nil {
		err = m.applyPoint(ctx, next)
	}
	if fault.Is(err, fault.Corrupt) {
		if e := m.checkFrames(ctx, next, 0); m.isBroken(next) == nil {
			return errors.Join(err, e) // the logs are whole
		}
		err = m.takeBack(ctx, next)
	}
	if err != nil {
		return fmt.Errorf("cannot finish point %s: %w", next.ID, err)
	}
	return nil
}

// begun reports whether bytes of a point may be in the heads.
func (m *Machine) begun(p recovery.Point) (bool, error) {
	st := m.snapshot()
	if st.Applied.Seq == 0 {
		return st.Owned, nil
	}
	if _, ok := st.givenUp(); ok {
		return st.Discarded.Begun, nil
	}
	for _, d := range p.Disks {
		_, err := m.fs.Stat(m.undoPath(d.Name, p.Seq, st.Applied.Seq))
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// applyPoint takes the heads from the applied point to the next one.
func (m *Machine) applyPoint(ctx context.Context, p recovery.Point) error {
	m.in.Lock()
	err := m.foldTables() // the logs go at the end of this
	m.in.Unlock()
	if err != nil {
		return err
	}
	for _, d := range p.Disks {
		if err := m.checkImage(d.Name); err != nil {
			return err
		}
	}
	st := m.snapshot()
	if st.Applied.Seq == 0 && !st.Owned {
		if err := m.checkHeads(); err != nil {
			return err
		}
		if err := m.record(func(s *state) { s.Owned = true }); err != nil {
			return err
		}
	}
	if planted.Is(planted.HeadFirst) {
		for _, d := range p.Disks {
			if err := m.writeHead(ctx, p, d); err != nil {
				return err
			}
		}
	}
	gone, over := st.givenUp()
	switch {
	case over:
		if err := m.beginOver(); err != nil {
			return err
		}
	case st.Applied.Seq != 0:
		prev, err := m.point(st.Applied.Point)
		if err != nil {
			return err
		}
		for _, d := range p.Disks {
			if err := m.makeUndo(ctx, p, prev, d); err != nil {
				return fmt.Errorf("disk %s: %w", d.Name, err)
			}
		}
		crash.At("replica.undo.durable")
	}
	for _, d := range p.Disks {
		if err := m.writeHead(ctx, p, d); err != nil {
			return fmt.Errorf("disk %s: %w", d.Name, err)
		}
		crash.At("replica.head.written")
	}
	err = m.record(func(s *state) {
		s.Applied = markOf(p)
		if over {
			s.Thinning, s.Discarded = []mark{gone}, nil
		}
	})
	if err != nil {
		return err
	}
	crash.At("replica.mark.stored")
	if err := m.finishThinning(); err != nil {
		return err
	}
	return m.removeLogs(p)
}

// beginOver records that the state which was given up is overwritten from here:
// it has no undo log, so a start goes on with the point that takes its place.
func (m *Machine) beginOver() error {
	d := *m.snapshot().Discarded
	if d.Begun {
		return nil
	}
	d.Begun = true
	return m.record(func(s *state) { s.Discarded = &d })
}

// removeLogs deletes the received logs of an applied point.
func (m *Machine) removeLogs(p recovery.Point) error {
	for _, d := range p.Disks {
		for n := range d.Segments {
			path := m.segmentPath(d.Name, d.Log, n)
			for _, f := range []string{path, path + sumsSuffix} {
				if err := m.fs.Remove(f); err != nil {
					return fmt.Errorf("cannot remove applied log: %w", err)
				}
			}
		}
		m.mu.Lock()
		delete(m.segs, d.Log)
		m.mu.Unlock()
	}
	return nil
}

// checkHeads refuses to begin a replica over files that are not its own.
func (m *Machine) checkHeads() error {
	if st := m.snapshot(); st.Owned || st.Applied.Seq != 0 {
		return nil
	}
	for _, d := range m.names {
		path := m.disks[d].Head
		f, err := m.fs.OpenFile(path, vfs.ReadOnly, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot look at %s: %w", path, err)
		}
		_, _, err = f.NextData(0)
		if err = errors.Join(ignoreEOF(err), f.Close(), isData(err)); err != nil {
			return fault.Errorf(fault.Refused, "disk %s: something stands at %s already: %w", d, path, err).
				WithHint("move it away, or give the disk another path at this site")
		}
	}
	return nil
}

var errHasData = errors.New("it holds data")

// isData turns the error of NextData(0) into the finding that there is data.
func isData(err error) error {
	if err == nil {
		return errHasData
	}
	return nil
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// makeUndo keeps the old content of all that applying p to a disk overwrites.
// An undo log that is whole is left as it is: the head may have changed since.
func (m *Machine) makeUndo(ctx context.Context, p, prev recovery.Point, d recovery.PointDisk) (err error) {
	if _, err := m.fs.Stat(m.undoPath(d.Name, p.Seq, prev.Seq)); !errors.Is(err, fs.ErrNotExist) && !planted.Is(planted.UndoAgain) {
		return err
	}
	img, err := m.openImage(d.Name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, img.close()) }()
	size := int64(0)
	sum := uint64(0)
	if pd, ok := prev.Disk(d.Name); ok {
		size, sum = pd.Size, pd.Sum
	}
	u, err := m.newUndo(d.Name, p, prev, d.Size, size, sum)
	if err != nil {
		return err
	}
	if err = m.fillUndo(ctx, u, img, d, size); err != nil {
		return errors.Join(err, u.abort())
	}
	return u.close()
}

// fillUndo copies the blocks that the log of d covers, and what a shrinking
// disk cuts off; size is the disk's now.
func (m *Machine) fillUndo(ctx context.Context, u *undoLog, img *image, d recovery.PointDisk, size int64) error {
	cut := size // from here on everything is kept
	if d.Size < size {
		cut = d.Size &^ (blocksum.BlockSize - 1)
	}
	err := eachRange(m.fs, m.sumsFiles(d), func(r *blockRange) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		base := r.number * blocksum.RangeBlocks
		for i := 0; i < blocksum.RangeBlocks; {
			j := i
			for j < blocksum.RangeBlocks && r.set[j] {
				j++
			}
			if j > i {
				from, to := (base+int64(i))*blocksum.BlockSize, min((base+int64(j))*blocksum.BlockSize, cut)
				if err := img.keep(u, from, to); err != nil {
					return err
				}
			}
			i = max(j, i+1)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return img.keep(u, cut, size)
}

// image is an open disk image that is read for an undo log.
type image struct {
	f           vfs.File
	size        int64
	start, data int64 // [start, data) is a hole
	buf         []byte
}

// openImage opens the image of a disk for reading; of a disk that no applied
// point has it is empty.
func (m *Machine) openImage(disk string) (*image, error) {
	if err := m.checkImage(disk); err != nil {
		return nil, err
	}
	return m.openFile(m.image(disk))
}

// hasImage reports whether the applied point has a disk.
func (m *Machine) hasImage(disk string) bool {
	st := m.snapshot()
	if st.Applied.Seq == 0 {
		return false
	}
	p, err := m.point(st.Applied.Point)
	if err != nil {
		return true
	}
	_, ok := p.Disk(disk)
	return ok
}

// checkImage refuses to go on where the image of a disk is gone that has points:
// a new file in its place would be taken for the disk.
func (m *Machine) checkImage(disk string) error {
	path := m.image(disk)
	there, err := m.exists(path)
	if err != nil || there || !m.hasImage(disk) {
		return err
	}
	return fault.Errorf(fault.Corrupt, "disk %s of machine %s: its image %s is missing", disk, m.cfg.Machine, path).
		WithHint("restore the file; without it no recovery point of the disk can be read here. What is received meanwhile is kept")
}

// openHead opens the file at a disk's head path for reading.
func (m *Machine) openHead(disk string) (*image, error) { return m.openFile(m.disks[disk].Head) }

func (m *Machine) openFile(path string) (*image, error) {
	f, err := m.fs.OpenFile(path, vfs.ReadOnly, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return &image{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open disk image: %w", err)
	}
	size, err := f.Size()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open disk image: %w", err), f.Close())
	}
	return &image{f: f, size: size, buf: make([]byte, min(chunkBytes, alignUp(size)))}, nil
}

func (i *image) close() error {
	if i.f == nil {
		return nil
	}
	return i.f.Close()
}

// hole returns where the hole ends in which off lies; off itself: in none.
func (i *image) hole(off int64) (int64, error) {
	if off >= i.start && off < i.data {
		return i.data, nil
	}
	if i.f == nil || off >= i.size {
		return 1 << 62, nil
	}
	start, _, err := i.f.NextData(off)
	if errors.Is(err, io.EOF) {
		start = 1 << 62
	} else if err != nil {
		return 0, fmt.Errorf("cannot read %s: %w", i.f.Name(), err)
	}
	i.start, i.data = off, start&^(blocksum.BlockSize-1)
	return max(off, i.data), nil
}

// read fills p from off; what lies past the end is zero.
func (i *image) read(off int64, p []byte) error {
	n := 0
	if i.f != nil && off < i.size {
		var err error
		n, err = i.f.ReadAt(p[:min(int64(len(p)), i.size-off)], off)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("cannot read %s: %w", i.f.Name(), err)
		}
	}
	clear(p[n:])
	return nil
}

// keep puts [from, to) into an undo log.
func (i *image) keep(u *undoLog, from, to int64) error {
	for from < to {
		end, err := i.hole(from)
		if err != nil {
			return err
		}
		if end > from {
			n := min(end, to) - from
			if err := u.zero(from, n); err != nil {
				return err
			}
			from += n
			continue
		}
		p := i.buf[:min(int64(len(i.buf)), to-from)]
		if err := i.read(from, p); err != nil {
			return err
		}
		if err := u.data(from, p); err != nil {
			return err
		}
		from += int64(len(p))
	}
	return nil
}

// writeHead writes the new content of a disk into its image and makes it
// durable. It can be done again.
func (m *Machine) writeHead(ctx context.Context, p recovery.Point, d recovery.PointDisk) (err error) {
	path := m.image(d.Name)
	f, err := m.openForWriting(d.Name)
	if err != nil {
		return err
	}
	defer func() { err = m.storeError(errors.Join(err, f.Close()), "cannot write head") }()
	l := layerStep{paths: m.segmentPaths(d), size: d.Size}
	_, was, _ := m.newestWith(d.Name, m.Applied())
	if err := m.resize(f, was.Size, d.Size); err != nil {
		return err
	}
	if _, err := l.writeOver(ctx, m.fs, f, m.punch(d.Name), func(int64) {}); err != nil {
		return err
	}
	if planted.Is(planted.HeadSync) {
		return nil
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("cannot sync %s: %w", path, err)
	}
	return m.fs.SyncDir(filepath.Dir(path))
}

// openForWriting opens the image of a disk, or makes it.
func (m *Machine) openForWriting(disk string) (vfs.File, error) {
	path := m.image(disk)
	if err := m.fs.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the folder of %s: %w", path, err)
	}
	f, err := m.fs.OpenFile(path, vfs.Create, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open disk image: %w", err)
	}
	return f, nil
}

// resize takes an image from the size that the disk had to the one it has now;
// what grows reads as zero. A device has its own size and must be large enough.
func (m *Machine) resize(f vfs.File, was, size int64) error {
	fi, err := m.fs.Stat(f.Name())
	if err != nil {
		return err
	}
	have, err := f.Size()
	if err != nil {
		return err
	}
	switch {
	case fi.Mode().IsRegular() && have == size:
		return nil
	case fi.Mode().IsRegular():
		return f.Truncate(size)
	case have < size:
		return fault.Errorf(fault.Refused, "device %s has %d bytes, the disk has %d", f.Name(), have, size).
			WithHint("give the machine a device of at least that size at this site")
	}
	for zeros := make([]byte, min(chunkBytes, max(0, size-was))); was < size; {
		n, err := f.WriteAt(zeros[:min(chunkBytes, size-was)], was)
		if err != nil {
			return err
		}
		was += int64(n)
	}
	return nil
}

func (m *Machine) punch(disk string) bool { return m.disks[disk].Allocation != AllocationFull }
