package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// The ways to make a disk of a point.
const (
	ModeReflink = "reflink" // shares the head's blocks until they are written
	ModeCopy    = "copy"
)

// materialise makes the disk of a point as the file path, durably. The head is
// finished and does not change meanwhile (the work lock is held); the file gets
// its permissions and owner, for the machine is to open it.
func (m *Machine) materialise(ctx context.Context, p recovery.Point, disk, path string, progress func(int64)) (mode string, written int64, err error) {
	l, err := m.layersOf(p, disk)
	if err != nil {
		return "", 0, err
	}
	if err := m.fs.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", 0, fmt.Errorf("cannot make the folder of %s: %w", path, err)
	}
	f, err := m.fs.OpenFile(path, vfs.CreateTrunc, 0o600)
	if err != nil {
		return "", 0, fmt.Errorf("cannot make disk %s: %w", disk, err)
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			err = m.storeError(err, "cannot make disk "+disk)
		}
	}()
	if head, err := m.fs.Stat(m.image(disk)); err == nil { // it is looked at again where it is needed
		if err := f.OwnedLike(head); err != nil {
			return "", 0, fmt.Errorf("cannot set the permissions of %s: %w", path, err)
		}
	}
	if mode, written, err = m.copyImage(ctx, f, disk, l, progress); err != nil {
		return "", 0, err
	}
	for _, st := range append(l.steps, layerStep{size: l.size}) {
		if err := f.Truncate(st.size); err != nil {
			return "", 0, fmt.Errorf("cannot size %s: %w", path, err)
		}
		n, err := st.writeOver(ctx, m.fs, f, m.punch(disk), progress)
		if err != nil {
			return "", 0, err
		}
		written += n
	}
	if err := f.Sync(); err != nil {
		return "", 0, fmt.Errorf("cannot sync %s: %w", path, err)
	}
	return mode, written, m.fs.SyncDir(filepath.Dir(path))
}

// copyImage makes the empty file f hold what the image of a disk does, as far as
// the layers over it need.
func (m *Machine) copyImage(ctx context.Context, f vfs.File, disk string, l layers, progress func(int64)) (mode string, written int64, err error) {
	img, err := m.fs.OpenFile(m.image(disk), vfs.ReadOnly, 0)
	if errors.Is(err, fs.ErrNotExist) && !m.hasImage(disk) {
		return ModeCopy, 0, nil // nothing of the disk is applied yet
	}
	if err != nil {
		return "", 0, fmt.Errorf("cannot open disk image: %w", err)
	}
	defer img.Close()
	if err := f.CloneFrom(img); !errors.Is(err, errors.ErrUnsupported) {
		return ModeReflink, 0, err
	}
	limit := l.size
	if len(l.steps) > 0 {
		limit = l.steps[0].size
	}
	if _, d, ok := m.newestWith(disk, m.Applied()); ok {
		limit = min(limit, d.Size) // a device may be larger
	}
	written, err = copySparse(ctx, f, img, limit, progress)
	return ModeCopy, written, err
}

// copySparse copies what src holds below size into the empty file dst; holes
// stay holes.
func copySparse(ctx context.Context, dst, src vfs.File, size int64, progress func(int64)) (written int64, err error) {
	buf := make([]byte, min(chunkBytes, size))
	for off := int64(0); off < size; {
		if ctx.Err() != nil {
			return written, context.Cause(ctx)
		}
		start, end, err := src.NextData(off)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return written, fmt.Errorf("cannot read %s: %w", src.Name(), err)
		}
		end = min(end, size)
		for start < end {
			if ctx.Err() != nil {
				return written, context.Cause(ctx)
			}
			p := buf[:min(chunkBytes, end-start)]
			n, err := src.ReadAt(p, start)
			if err != nil && !(errors.Is(err, io.EOF) && n == len(p)) {
				return written, fmt.Errorf("cannot read %s: %w", src.Name(), err)
			}
			if err := writeSparse(dst, start, p, true); err != nil {
				return written, err
			}
			start += int64(n)
			written += int64(n)
			progress(int64(n))
		}
		off = end
	}
	return written, nil
}

// rangeBytes is the disk's content of one range of its table.
const rangeBytes = blocksum.RangeBlocks * blocksum.BlockSize

// scan reads a disk image of size bytes whole and puts its hashes into t, which
// is empty.
func (m *Machine) scan(ctx context.Context, disk, path string, size int64, t *blocksum.Table, progress func(int64)) error {
	f, err := m.fs.OpenFile(path, vfs.ReadOnly, 0)
	if err != nil {
		return fmt.Errorf("cannot open disk image: %w", err)
	}
	defer f.Close()
	return hashImage(ctx, f, m.disks[disk].Key, size, t.WriteRange, progress)
}

// hashImage reads size bytes of an open disk image and calls fn with the hashes
// of its ranges, in order; a range that is all hole is left out.
func hashImage(ctx context.Context, f vfs.File, key uint64, size int64, fn func(r int64, hashes []uint64) error, progress func(int64)) (err error) {
	img := &image{f: f}
	if img.size, err = f.Size(); err != nil {
		return fmt.Errorf("cannot read %s: %w", f.Name(), err)
	}
	buf := make([]byte, min(rangeBytes, size))
	var hashes [blocksum.RangeBlocks]uint64
	for off := int64(0); off < size; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		data, err := img.hole(off)
		if err != nil {
			return err
		}
		if skip := (min(data, size) - off) / rangeBytes * rangeBytes; skip > 0 {
			off += skip
			continue
		}
		if data >= size {
			return nil
		}
		p := buf[:min(int64(len(buf)), size-off)]
		if err := img.read(off, p); err != nil {
			return err
		}
		n := int(blocksum.BlockCount(int64(len(p))))
		first := off / blocksum.BlockSize
		for i := range n {
			b := p[i*blocksum.BlockSize : min((i+1)*blocksum.BlockSize, len(p))]
			hashes[i] = blocksum.Hash(key, first+int64(i), b)
		}
		if err := fn(first/blocksum.RangeBlocks, hashes[:n]); err != nil {
			return err
		}
		off += int64(len(p))
		progress(int64(len(p)))
	}
	return nil
}

// tableOf writes the table of a point's disk to path: the tip's, with the
// blocks in which the point differs hashed again. The result is compared with
// the manifest's sum.
func (m *Machine) tableOf(ctx context.Context, p recovery.Point, disk, path string) (err error) {
	m.in.Lock()
	t, err := m.tableForCopy(disk)
	if err == nil {
		err = t.CopyTo(path)
	}
	m.in.Unlock()
	if err != nil {
		return err
	}
	c, err := blocksum.Open(m.fs, path, m.disks[disk].Key)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := m.revertHeld(ctx, p, disk, c); err != nil {
		return err
	}
	l, err := m.layersOf(p, disk)
	if err != nil {
		return err
	}
	for _, st := range append(l.steps, layerStep{size: l.size}) {
		if err := c.Resize(st.size); err != nil {
			return err
		}
		if err := m.hashLayers(ctx, st, disk, c); err != nil {
			return err
		}
	}
	d, _ := p.Disk(disk)
	if err := m.compareSum(c, d, p); err != nil {
		return err
	}
	return c.Sync()
}

// tableForCopy folds what is not folded and returns the table; m.in is held.
func (m *Machine) tableForCopy(disk string) (*blocksum.Table, error) {
	if m.lostTable(disk) {
		return nil, fault.Errorf(fault.Corrupt, "the block table of disk %s is damaged", disk)
	}
	if err := m.foldTables(); err != nil {
		return nil, err
	}
	t, err := m.table(disk)
	if err == nil && t == nil {
		err = fault.Errorf(fault.Corrupt, "disk %s has no block table", disk)
	}
	return t, err
}

// revertHeld takes a copy of the tip's table back to the applied point: the
// blocks that the logs not applied yet cover are hashed again from the head.
func (m *Machine) revertHeld(ctx context.Context, p recovery.Point, disk string, c *blocksum.Table) error {
	tip, _ := m.tip()
	up := m.stepsUp(tip.Seq)
	if len(up) == 0 {
		return nil
	}
	img, err := m.openImage(disk)
	if err != nil {
		return err
	}
	defer img.close()
	applied, err := m.point(m.snapshot().Applied.Point)
	if err != nil {
		return err
	}
	d, _ := applied.Disk(disk)
	if err := c.Resize(d.Size); err != nil {
		return err
	}
	key := m.disks[disk].Key
	var hashes [blocksum.RangeBlocks]uint64
	buf := make([]byte, blocksum.BlockSize)
	for _, q := range up {
		qd, ok := q.Disk(disk)
		if !ok {
			continue
		}
		err := eachRange(m.fs, m.sumsFiles(qd), func(r *blockRange) error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			n, err := readRange(c, r.number, hashes[:])
			if err != nil || n == 0 {
				return err
			}
			for i := range n {
				if !r.set[i] {
					continue
				}
				block := r.number*blocksum.RangeBlocks + int64(i)
				if err := img.read(block*blocksum.BlockSize, buf); err != nil {
					return err
				}
				hashes[i] = blocksum.Hash(key, block, buf)
			}
			return c.WriteRange(r.number, hashes[:n])
		})
		if err != nil {
			return err
		}
		if qd.Size < d.Size { // what it cuts off, the table has forgotten
			if err := m.rehash(ctx, img, disk, c, qd.Size, d.Size); err != nil {
				return err
			}
		}
	}
	return nil
}

// rehash hashes the blocks of an image in [from, to) into a table.
func (m *Machine) rehash(ctx context.Context, img *image, disk string, c *blocksum.Table, from, to int64) error {
	buf := make([]byte, blocksum.BlockSize)
	for block := from / blocksum.BlockSize; block < blocksum.BlockCount(to); block++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := img.read(block*blocksum.BlockSize, buf); err != nil {
			return err
		}
		if err := c.Set(block, blocksum.Hash(m.disks[disk].Key, block, buf)); err != nil {
			return err
		}
	}
	return nil
}

// hashLayers puts the hashes of all that the layers hold into a table of the
// image they lie over.
func (m *Machine) hashLayers(ctx context.Context, l layerStep, disk string, c *blocksum.Table) error {
	key := m.disks[disk].Key
	buf := make([]byte, min(chunkBytes, alignUp(l.size)))
	var hashes [blocksum.RangeBlocks]uint64
	return l.each(ctx, m.fs, func(b *batch) error {
		return b.eachChunk(l.size, buf, func(off int64, p []byte) error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return putHashes(c, key, off, p, hashes[:])
		})
	})
}

// putHashes hashes p, the disk's content from off, into a table.
func putHashes(c *blocksum.Table, key uint64, off int64, p []byte, hashes []uint64) error {
	for len(p) > 0 {
		block := off / blocksum.BlockSize
		r := block / blocksum.RangeBlocks
		n, err := c.ReadRange(r, hashes)
		if err != nil {
			return err
		}
		for i := block - r*blocksum.RangeBlocks; i < int64(n) && len(p) > 0; i++ {
			k := min(len(p), blocksum.BlockSize)
			hashes[i] = blocksum.Hash(key, off/blocksum.BlockSize, p[:k])
			off, p = off+int64(k), p[k:]
		}
		if err := c.WriteRange(r, hashes[:n]); err != nil {
			return err
		}
	}
	return nil
}

// compareSum compares a table with what the manifest says of a disk.
func (m *Machine) compareSum(t *blocksum.Table, d recovery.PointDisk, p recovery.Point) error {
	sum, err := t.Sum()
	if err != nil {
		return err
	}
	if sum != d.Sum || t.Size() != d.Size {
		return corruptPoint(p, d, sum)
	}
	return nil
}
