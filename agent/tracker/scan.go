package tracker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/vfs"
)

// rangeBytes is what a worker reads and compares at a time.
const rangeBytes = blocksum.RangeBlocks * blocksum.BlockSize

// maxWorkers bounds the readers of one agent, and with them its buffers.
const maxWorkers = 4

// Scan is the tracker that reads: it compares every block with the table,
// skipping holes. It keeps no position, so it can lose none. All machines of
// an agent share one Scan: its buffers (4 MiB per worker) are the bound on
// what scanning costs in memory.
type Scan struct {
	fs      vfs.FS
	workers int
	buffers chan *buffer
}

var _ Tracker = (*Scan)(nil)

type buffer struct {
	data [rangeBytes]byte
	old  [blocksum.RangeBlocks]uint64
}

// NewScan returns a scan tracker. workers is the number of ranges read at a
// time over all machines; 0: one per core, at most 4.
func NewScan(fsys vfs.FS, workers int) *Scan {
	if workers <= 0 {
		workers = min(maxWorkers, runtime.GOMAXPROCS(0))
	}
	s := &Scan{fs: fsys, workers: workers, buffers: make(chan *buffer, workers)}
	for range workers {
		s.buffers <- nil // made when first taken
	}
	return s
}

func (s *Scan) take(ctx context.Context) (*buffer, error) {
	select {
	case b := <-s.buffers:
		if b == nil {
			b = new(buffer)
		}
		return b, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (s *Scan) give(b *buffer) { s.buffers <- b }

// Begin implements Tracker: it opens the disks and takes their sizes.
func (s *Scan) Begin(_ context.Context, machine string, disks []Disk, _ ident.PointID) (Cut, error) {
	c := &scanCut{scan: s, machine: machine}
	for _, d := range disks {
		o, err := s.open(d)
		if err != nil {
			return nil, errors.Join(c.fault(d, "open", err), c.End(false))
		}
		c.disks = append(c.disks, o)
	}
	return c, nil
}

func (s *Scan) open(d Disk) (*openDisk, error) {
	info, err := s.fs.Stat(d.Path)
	if err != nil {
		return nil, err
	}
	// Opening a pipe would wait for a writer, with the machine held still.
	if block := info.Mode()&(fs.ModeDevice|fs.ModeCharDevice) == fs.ModeDevice; !info.Mode().IsRegular() && !block {
		return nil, errors.New("it is neither a file nor a block device")
	}
	f, err := s.fs.OpenFile(d.Path, vfs.ReadOnly, 0)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &openDisk{Disk: d, file: f, size: size, info: info}, nil
}

type openDisk struct {
	Disk
	file vfs.File
	size int64
	info fs.FileInfo
}

type scanCut struct {
	scan    *Scan
	machine string
	disks   []*openDisk
}

// fault names machine, disk and path, and says what to do.
func (c *scanCut) fault(d Disk, verb string, err error) error {
	if kind := fault.KindOf(err); kind != fault.Internal {
		return err // it has its own kind: cancelled sinks, full disks
	}
	e := fault.Errorf(fault.Failed, "cannot %s disk %s of machine %s at %s: %w", verb, d.Name, c.machine, d.Path, err)
	if errors.Is(err, fs.ErrNotExist) {
		return e.WithHint("bring %s back; the next cycle goes on from what the target has", d.Path)
	}
	return e.WithHint("see that the agent can read %s; the next cycle goes on from what the target has", d.Path)
}

// Size implements Cut.
func (c *scanCut) Size(disk int) int64 { return c.disks[disk].size }

// End implements Cut.
func (c *scanCut) End(bool) error {
	var err error
	for _, d := range c.disks {
		err = errors.Join(err, d.file.Close())
	}
	c.disks = nil
	return err
}

// Changed implements Cut: the ranges of the disk go to the workers.
func (c *scanCut) Changed(ctx context.Context, disk int, base Base, v Visitor) (Stats, error) {
	d := c.disks[disk]
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := &pass{cut: c, disk: d, base: base, visitor: v, blocks: blocksum.BlockCount(d.size)}
	var workers sync.WaitGroup
	for range c.scan.workers {
		workers.Go(func() {
			if err := p.work(ctx); err != nil {
				cancel(err)
			}
		})
	}
	workers.Wait()
	if err := context.Cause(ctx); err != nil {
		return Stats{}, err
	}
	if err := p.forget(); err != nil {
		return Stats{}, err
	}
	if err := c.still(d); err != nil {
		return Stats{}, err
	}
	return p.stats, nil
}

// still checks that the path still names the file that was read: an image
// that was deleted or replaced under the scan is not the machine's disk.
func (c *scanCut) still(d *openDisk) error {
	info, err := c.scan.fs.Stat(d.Path)
	if err == nil && !vfs.SameFile(info, d.info) {
		err = errors.New("another file took its place while it was read")
	}
	if err != nil {
		return c.fault(d.Disk, "read", err)
	}
	return nil
}

// pass is one disk being scanned.
type pass struct {
	cut     *scanCut
	disk    *openDisk
	base    Base
	visitor Visitor
	blocks  int64 // of the disk now
	next    atomic.Int64

	mu    sync.Mutex
	stats Stats
}

func (p *pass) work(ctx context.Context) error {
	buf, err := p.cut.scan.take(ctx)
	if err != nil {
		return err
	}
	defer p.cut.scan.give(buf)
	for {
		r := p.next.Add(1) - 1
		if r*blocksum.RangeBlocks >= p.blocks {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		st, err := p.scanRange(r, buf)
		if err != nil {
			return err
		}
		p.add(st)
	}
}

func (p *pass) add(st Stats) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.Read += st.Read
	p.stats.Changed += st.Changed
	p.stats.Zero += st.Zero
	p.stats.Sum += st.Sum
}

// scanRange compares one range and visits its changed runs.
func (p *pass) scanRange(r int64, buf *buffer) (Stats, error) {
	off := r * rangeBytes
	length := min(rangeBytes, p.disk.size-off)
	n, err := p.oldHashes(r, buf)
	if err != nil {
		return Stats{}, err
	}
	read, err := p.read(buf.data[:length], off)
	if err != nil {
		return Stats{}, p.cut.fault(p.disk.Disk, "read", err)
	}
	st := Stats{Read: read}
	if read == 0 && allZero(buf.old[:n]) {
		p.visitor.Seen(length)
		return st, nil
	}
	err = p.compare(off, length, read == 0, buf, &st)
	p.visitor.Seen(length)
	return st, err
}

// oldHashes fills buf.old for range r, zeros where the table has ended.
func (p *pass) oldHashes(r int64, buf *buffer) (int, error) {
	n := int(min(blocksum.RangeBlocks, p.blocks-r*blocksum.RangeBlocks))
	have := 0
	if r*blocksum.RangeBlocks < p.base.Blocks() {
		var err error
		if have, err = p.base.ReadRange(r, buf.old[:]); err != nil {
			return 0, err
		}
	}
	clear(buf.old[min(have, n):n])
	return n, nil
}

// read fills dst with the disk's content at off and returns how many bytes
// came from the disk; holes, and what lies past the end of a disk that became
// shorter since the cut, are zeros. 0: dst was not touched and is all zero.
func (p *pass) read(dst []byte, off int64) (int64, error) {
	var total int64
	end, at := off+int64(len(dst)), off
	for at < end {
		from, to, err := p.disk.file.NextData(at)
		if errors.Is(err, io.EOF) || err == nil && from >= end {
			break
		}
		if err != nil {
			return 0, err
		}
		from, to = max(from, at), min(to, end)
		clear(dst[at-off : from-off])
		n, err := p.disk.file.ReadAt(dst[from-off:to-off], from)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		clear(dst[from-off+int64(n) : to-off])
		total += to - from
		at = to
	}
	if total > 0 {
		clear(dst[at-off:])
	}
	return total, nil
}

// compare hashes the blocks of a range and visits runs of changed ones,
// content and zeros apart.
func (p *pass) compare(off, length int64, hole bool, buf *buffer, st *Stats) error {
	const none, data, zero = 0, 1, 2
	start, kind := int64(0), none
	flush := func(end int64) error {
		if kind == none {
			return nil
		}
		run := Run{Offset: off + start, Length: end - start}
		st.Changed += run.Length
		if kind == data {
			run.Data = buf.data[start:end:end]
		} else {
			st.Zero += run.Length
		}
		return p.visitor.Run(run)
	}
	for i, at := 0, int64(0); at < length; i, at = i+1, at+blocksum.BlockSize {
		var sum uint64
		if !hole {
			sum = blocksum.Hash(p.disk.Key, off/blocksum.BlockSize+int64(i), buf.data[at:min(at+blocksum.BlockSize, length)])
		}
		k := none
		if old := buf.old[i]; sum != old && !misses(p.disk, off/blocksum.BlockSize+int64(i)) {
			st.Sum += sum - old
			if k = data; sum == 0 {
				k = zero
			}
		}
		if k != kind {
			if err := flush(at); err != nil {
				return err
			}
			start, kind = at, k
		}
	}
	return flush(length)
}

// forget takes the hashes of blocks that a shrunk disk lost out of the sum.
func (p *pass) forget() error {
	var old [blocksum.RangeBlocks]uint64
	had := p.base.Blocks()
	for r := p.blocks / blocksum.RangeBlocks; r*blocksum.RangeBlocks < had; r++ {
		n, err := p.base.ReadRange(r, old[:])
		if err != nil {
			return fmt.Errorf("cannot compare disk %s of machine %s: %w", p.disk.Name, p.cut.machine, err)
		}
		for i := max(0, p.blocks-r*blocksum.RangeBlocks); i < int64(n); i++ {
			p.stats.Sum -= old[i]
		}
	}
	return nil
}

func allZero(sums []uint64) bool {
	for _, s := range sums {
		if s != 0 {
			return false
		}
	}
	return true
}
