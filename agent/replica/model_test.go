package replica_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/agent/hrl"
	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

const block = blocksum.BlockSize

var began = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

// world is a sending machine as the model knows it, and the replica under test.
type world struct {
	dir   string
	fs    vfs.FS
	names []string
	ids   map[string]ident.DiskID
	heads map[string]string // "" = the store's own
	alloc string
	mu    sync.Mutex // now, where others look at the clock meanwhile
	now   time.Time
	skew  *clock.Skewed // the replica's clock; its wall clock shows now until it is set
	rng   *rand.Rand

	disks map[string][]byte          // the machine's disks now
	sent  map[string][]byte          // as of the tip
	kept  map[ident.PointID]snapshot // what each point must contain
	order []ident.PointID            // points by age
	tip   recovery.Point
	segs  int // segments a log is cut into

	pending *recovery.Point // sent, and not known to be acknowledged
	ran     bool            // the machine has written to its live disks
	gone    []byte          // what a person gave up
}

type snapshot struct {
	point recovery.Point
	disks map[string][]byte
}

func newWorld(dir string, seed uint64, names ...string) *world {
	w := &world{
		dir: dir, fs: fastFS{}, names: names, ids: map[string]ident.DiskID{}, heads: map[string]string{}, now: began,
		rng: rand.New(rand.NewPCG(seed, 1)), disks: map[string][]byte{}, sent: map[string][]byte{}, kept: map[ident.PointID]snapshot{}, segs: 2,
	}
	w.skew = clock.NewSkewed(clock.Func(func() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now }))
	for _, n := range names {
		w.ids[n] = ident.NewDiskID()
		w.disks[n] = w.random(40 * block)
	}
	return w
}

func (w *world) random(n int) []byte {
	p := make([]byte, n)
	for i := 0; i < n; i += block {
		if w.rng.IntN(3) > 0 {
			b := p[i:min(n, i+block)]
			for j := range b {
				b[j] = byte(w.rng.Uint32())
			}
		}
	}
	return p
}

func (w *world) key(disk string) uint64 { return uint64(len(disk)) + 7 }

func (w *world) config() replica.Config {
	c := replica.Config{
		FS: w.fs, Dir: filepath.Join(w.dir, "store", "erp"), Machine: "erp",
		Clock: w.skew,
	}
	for _, n := range w.names {
		c.Disks = append(c.Disks, replica.Disk{Name: n, ID: w.ids[n], Key: w.key(n), Head: w.heads[n], Allocation: w.alloc})
	}
	return c
}

func (w *world) head(disk string) string {
	if w.heads[disk] != "" {
		return w.heads[disk]
	}
	return filepath.Join(w.dir, "store", "erp", disk, "head.img")
}

func sum(key uint64, p []byte) (s uint64) {
	for i := 0; i < len(p); i += block {
		s += blocksum.Hash(key, int64(i/block), p[i:min(len(p), i+block)])
	}
	return s
}

func at(p []byte, i int) []byte {
	if i >= len(p) {
		return nil
	}
	return p[i:min(len(p), i+block)]
}

func same(a, b []byte) bool {
	var x, y [block]byte
	copy(x[:], a)
	copy(y[:], b)
	return x == y
}

// change writes here and there, and now and then grows or cuts a disk.
func (w *world) change() {
	for _, n := range w.names {
		d := w.disks[n]
		switch w.rng.IntN(6) {
		case 0:
			d = append(d, w.random(1+w.rng.IntN(9*block))...)
		case 1:
			d = slices.Clone(d[:1+w.rng.IntN(len(d))])
		}
		for range w.rng.IntN(8) {
			off := w.rng.IntN(len(d)) &^ 511
			end := min(len(d), off+w.rng.IntN(3*block))
			if w.rng.IntN(4) == 0 {
				clear(d[off:end])
			} else {
				for i := off; i < end; i++ {
					d[i] = byte(w.rng.Uint32())
				}
			}
		}
		w.disks[n] = d
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(5 * time.Minute)
}

// segment is one file of a log, in memory.
type segment struct {
	header command.SegmentHeader
	data   []byte
}

// cut makes the next point from the machine's disks and its log files. Where a
// log has several segments, the first holds old content that a later one mends.
func (w *world) cut(m *replica.Machine) (recovery.Point, []segment, error) {
	p := recovery.Point{
		Version: recovery.FormatVersion, ID: ident.NewPointID(), Seq: m.NextSeq(), Machine: "erp", Epoch: 1,
		From: w.tip.ID, Instant: w.now, Kind: recovery.Crash,
	}
	var out []segment
	for _, n := range w.names {
		d := w.disks[n]
		pd := recovery.PointDisk{Name: n, ID: w.ids[n], Size: int64(len(d)), Sum: sum(w.key(n), d), Log: ident.NewLogID()}
		var changed []int
		for i := 0; i < len(d); i += block {
			if !same(at(d, i), at(w.sent[n], i)) {
				changed = append(changed, i)
			}
		}
		segs := min(w.segs, len(changed))
		stale := segs > 1 && w.rng.IntN(2) == 0 // the first segment holds what a later one mends
		for k := range segs {
			blocks := changed[len(changed)*k/segs : len(changed)*(k+1)/segs]
			if stale && k == segs-1 {
				blocks = append(slices.Clone(blocks), changed[0])
			}
			data, err := w.writeLog(n, p, pd, k, blocks, stale && k == 0)
			if err != nil {
				return p, nil, err
			}
			h := sha256.Sum256(data)
			out = append(out, segment{command.SegmentHeader{
				Machine: "erp", Epoch: 1, Disk: n, From: p.From, Log: pd.Log, Segment: k, Size: int64(len(data)), SHA256: h[:],
			}, data})
			pd.Bytes += int64(len(data))
		}
		pd.Segments = segs
		p.Disks = append(p.Disks, pd)
	}
	return p, out, nil
}

func (w *world) writeLog(disk string, p recovery.Point, pd recovery.PointDisk, k int, blocks []int, stale bool) ([]byte, error) {
	path := filepath.Join(w.dir, "wire.hrl")
	lw, err := hrl.Create(fastFS{}, path, hrl.Header{
		Kind: hrl.Delta, Log: pd.Log, Disk: pd.ID, From: p.From, To: p.ID, SizeAfter: pd.Size, Segment: k,
	}, hrl.Options{Codec: hrl.S2, Frame: 4 * block})
	if err != nil {
		return nil, err
	}
	for i, b := range blocks {
		c := slices.Clone(at(w.disks[disk], b))
		if i == 0 && stale {
			c[0]++
		}
		if err := lw.Data(int64(b), c); err != nil {
			return nil, err
		}
	}
	if _, err := lw.Close(hrl.Footer{Instant: p.Instant, Consistency: p.Kind}); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

// send gives one segment to the replica.
func send(m *replica.Machine, s segment) error {
	r, err := m.Receive(s.header)
	if err != nil || r == nil {
		return err
	}
	if _, err := io.Copy(r, bytes.NewReader(s.data[r.Offset():])); err != nil {
		r.Abort()
		return err
	}
	return r.Commit(context.Background())
}

// cycle sends what changed as a point. It is known to the model once it may
// have been acknowledged.
func (w *world) cycle(m *replica.Machine) error {
	p, segs, err := w.cut(m)
	if err != nil {
		return err
	}
	w.pending = &p
	for _, s := range segs {
		if err := send(m, s); err != nil {
			return err
		}
	}
	got, err := m.Accept(context.Background(), p, time.Second)
	if err != nil {
		return err
	}
	w.keep(got)
	return nil
}

func (w *world) keep(p recovery.Point) {
	s := snapshot{p, map[string][]byte{}}
	for _, n := range w.names {
		s.disks[n] = slices.Clone(w.disks[n])
		w.sent[n] = s.disks[n]
	}
	w.kept[p.ID] = s
	w.order = append(w.order, p.ID)
	w.tip = p
}

// check compares every point of the replica with the model: through a view, and
// by Verify.
func (w *world) check(m *replica.Machine) error {
	ctx := context.Background()
	points := m.Points()
	for _, p := range points {
		want, ok := w.kept[p.ID]
		if !ok {
			return fmt.Errorf("point %d was never sent", p.Seq)
		}
		res, err := m.PrepareTest(ctx, "check", p.ID, nil)
		if err != nil {
			return fmt.Errorf("point %d: %w", p.Seq, err)
		}
		for n, path := range res.Paths {
			got, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if !bytes.Equal(got, want.disks[n]) {
				return fmt.Errorf("point %d: disk %s is not what was sent: %s", p.Seq, n, difference(got, want.disks[n]))
			}
		}
		if err := m.CleanupTest("check"); err != nil {
			return err
		}
	}
	res, err := m.Verify(ctx, ident.PointID{}, nil)
	if err != nil {
		return err
	}
	if len(res.Faults) > 0 || res.Points != len(points) {
		return fmt.Errorf("verify: %d of %d points, faults %q", res.Points, len(points), res.Faults)
	}
	return nil
}

func difference(got, want []byte) string {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Sprintf("from byte %d (block %d); sizes %d, %d", i, i/block, len(got), len(want))
		}
	}
	return fmt.Sprintf("sizes %d, want %d", len(got), len(want))
}

func open(t *testing.T, w *world) *replica.Machine {
	t.Helper()
	m, err := replica.Open(w.config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v (hint: %s)", err, fault.Hint(err))
	}
}

func wantKind(t *testing.T, err error, k fault.Kind) {
	t.Helper()
	if !fault.Is(err, k) {
		t.Fatalf("got %v (%s), want a fault of kind %s", err, fault.KindOf(err), k)
	}
}

var errTest = errors.New("injected")
