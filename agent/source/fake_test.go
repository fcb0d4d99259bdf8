package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/agent/hrl"
	"github.com/drrun/drrun/agent/tracker"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// target is a receiving agent in memory: it checks what it gets as a real one
// does, and keeps content and hashes of its newest point. It outlives the
// source it serves.
type target struct {
	t   *testing.T
	dir string
	// fail is asked before and after each operation; an error it gives is
	// that of the connection. Nil: never. It takes no lock of the target.
	fail func(op string, after bool) error
	// codecs are those it reads; nil: all.
	codecs []string

	mu        sync.Mutex
	authority recovery.Authority
	disks     map[string]*targetDisk
	points    []recovery.Point
	wire      atomic.Int64 // bytes of segments that came in
	accepts   int
	blocks    int // ranges whose hashes were asked for
}

type targetDisk struct {
	key    uint64
	data   []byte
	log    ident.LogID
	segs   map[int][]byte
	parts  map[int][]byte
	staged bool
}

func newTarget(t *testing.T, disks []Disk) *target {
	tg := &target{t: t, dir: t.TempDir(), authority: auth(1), disks: map[string]*targetDisk{}}
	for _, d := range disks {
		tg.disks[d.Name] = &targetDisk{key: d.Key}
	}
	return tg
}

func auth(epoch ident.Epoch) recovery.Authority {
	return recovery.Authority{Epoch: epoch, Active: "paris", Direction: []recovery.Pair{{From: "a", To: "b"}}}
}

func (tg *target) asked(op string, after bool) error {
	if tg.fail == nil {
		return nil
	}
	return tg.fail(op, after)
}

func (tg *target) tip() *recovery.Point {
	if len(tg.points) == 0 {
		return nil
	}
	p := tg.points[len(tg.points)-1]
	return &p
}

func (tg *target) Codecs() []string {
	if tg.codecs != nil {
		return tg.codecs
	}
	return hrl.Codecs()
}

func (tg *target) Tip(_ context.Context, in command.TipRequest) (command.TipResult, error) {
	if err := tg.asked("tip", false); err != nil {
		return command.TipResult{}, err
	}
	tg.mu.Lock()
	defer tg.mu.Unlock()
	if in.Authority.Epoch > tg.authority.Epoch {
		tg.authority = in.Authority
	}
	res := command.TipResult{Authority: tg.authority, Tip: tg.tip(), NextSeq: ident.Seq(len(tg.points) + 1)}
	if tip := tg.tip(); tip != nil {
		res.NextSeq = tip.Seq + 1
	}
	for name, d := range tg.disks {
		if !d.staged {
			continue
		}
		s := command.StagedLog{Disk: name, Log: d.log}
		for d.segs[s.Segments] != nil {
			s.Segments++
		}
		s.Part = int64(len(d.parts[s.Segments]))
		res.Staged = append(res.Staged, s)
	}
	return res, tg.asked("tip", true)
}

func (tg *target) Put(_ context.Context, h command.SegmentHeader, src io.ReaderAt, progress func(int64)) error {
	if err := tg.asked("put", false); err != nil {
		return err
	}
	part, err := tg.begin(h)
	if err != nil || part == nil {
		return err
	}
	for int64(len(part)) < h.Size {
		if err := tg.asked("bytes", false); err != nil {
			return err
		}
		b := make([]byte, min(8<<10, h.Size-int64(len(part))))
		if _, err := src.ReadAt(b, int64(len(part))); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		part = append(part, b...)
		progress(int64(len(part)))
		tg.mu.Lock()
		tg.wire.Add(int64(len(b)))
		if d := tg.disks[h.Disk]; d.log == h.Log {
			d.parts[h.Segment] = part
		}
		tg.mu.Unlock()
	}
	if sum := sha256.Sum256(part); !bytes.Equal(sum[:], h.SHA256) {
		return fault.Errorf(fault.Corrupt, "segment %d differs from its SHA-256", h.Segment)
	}
	tg.mu.Lock()
	if d := tg.disks[h.Disk]; d.log == h.Log {
		d.segs[h.Segment] = part
		delete(d.parts, h.Segment)
	}
	tg.mu.Unlock()
	return tg.asked("put", true)
}

// begin returns what is here of a segment; nil: all of it.
func (tg *target) begin(h command.SegmentHeader) ([]byte, error) {
	tg.mu.Lock()
	defer tg.mu.Unlock()
	d := tg.disks[h.Disk]
	if d == nil {
		return nil, fault.Errorf(fault.NotFound, "no disk %s", h.Disk)
	}
	if h.Epoch < tg.authority.Epoch {
		return nil, fault.Errorf(fault.Conflict, "epoch %d is old", h.Epoch)
	}
	var from ident.PointID
	if tip := tg.tip(); tip != nil {
		from = tip.ID
	}
	if h.From != from {
		return nil, fault.Errorf(fault.Conflict, "the log leads from %s, the tip is %s", h.From.Short(), from.Short())
	}
	if d.log != h.Log || !d.staged {
		d.log, d.staged, d.segs, d.parts = h.Log, true, map[int][]byte{}, map[int][]byte{}
	}
	if d.segs[h.Segment] != nil {
		return nil, nil
	}
	return append([]byte{}, d.parts[h.Segment]...), nil
}

func (tg *target) Accept(_ context.Context, in command.AcceptRequest) (command.AcceptResult, error) {
	if err := tg.asked("accept", false); err != nil {
		return command.AcceptResult{}, err
	}
	tg.mu.Lock()
	defer tg.mu.Unlock()
	for _, p := range tg.points {
		if p.ID == in.Point.ID {
			return command.AcceptResult{Point: p}, tg.asked("accept", true)
		}
	}
	p := in.Point
	tip := tg.tip()
	if tip == nil && !p.From.IsZero() || tip != nil && (p.From != tip.ID || p.Seq <= tip.Seq) {
		return command.AcceptResult{}, fault.Errorf(fault.Conflict, "the point does not follow the tip")
	}
	next := map[string][]byte{}
	for _, pd := range p.Disks {
		data, err := tg.apply(pd)
		if err != nil {
			for _, d := range tg.disks {
				d.staged = false
			}
			return command.AcceptResult{}, err
		}
		next[pd.Name] = data
	}
	for name, data := range next {
		tg.disks[name].data, tg.disks[name].staged = data, false
	}
	p.Received = time.Now().UTC()
	tg.points = append(tg.points, p)
	tg.accepts++
	return command.AcceptResult{Point: p}, tg.asked("accept", true)
}

// apply returns the content of a disk at a point, checked against its sum.
func (tg *target) apply(pd recovery.PointDisk) ([]byte, error) {
	d := tg.disks[pd.Name]
	size := max(pd.Size, int64(len(d.data)))
	data := append(make([]byte, 0, size), d.data...)
	grow := func(n int64) {
		if n > int64(len(data)) {
			data = append(data, make([]byte, n-int64(len(data)))...)
		}
	}
	grow(pd.Size)
	var bytesStored int64
	for n := range pd.Segments {
		seg := d.segs[n]
		if d.log != pd.Log || seg == nil {
			return nil, fault.Errorf(fault.Conflict, "segment %d of disk %s is missing", n, pd.Name)
		}
		bytesStored += int64(len(seg))
		path := filepath.Join(tg.dir, "seg")
		if err := os.WriteFile(path, seg, 0o600); err != nil {
			return nil, err
		}
		r, err := hrl.Open(vfs.OS{}, path)
		if err != nil {
			return nil, err
		}
		err = r.Walk(func(e hrl.Extent, p []byte) error {
			grow(e.End())
			clear(data[e.Off:e.End()])
			copy(data[e.Off:e.End()], p)
			return nil
		})
		if err := errors.Join(err, r.Close()); err != nil {
			return nil, err
		}
	}
	data = data[:pd.Size]
	if sum := diskSum(d.key, data); sum != pd.Sum {
		return nil, fault.Errorf(fault.Corrupt, "disk %s has sum %x, the manifest says %x", pd.Name, sum, pd.Sum)
	}
	if bytesStored != pd.Bytes {
		tg.t.Errorf("manifest says %d stored bytes of disk %s, came %d", pd.Bytes, pd.Name, bytesStored)
	}
	return data, nil
}

func hashes(key uint64, data []byte) []uint64 {
	out := make([]uint64, blocksum.BlockCount(int64(len(data))))
	for i := range out {
		out[i] = blocksum.Hash(key, int64(i), data[i*blocksum.BlockSize:min((i+1)*blocksum.BlockSize, len(data))])
	}
	return out
}

func diskSum(key uint64, data []byte) (sum uint64) {
	for _, h := range hashes(key, data) {
		sum += h
	}
	return sum
}

func (tg *target) Ranges(_ context.Context, in command.RangesRequest) (command.RangesResult, error) {
	if err := tg.asked("ranges", false); err != nil {
		return command.RangesResult{}, err
	}
	tg.mu.Lock()
	defer tg.mu.Unlock()
	d := tg.disks[in.Disk]
	all := hashes(d.key, d.data)
	res := command.RangesResult{Size: int64(len(d.data)), Sum: diskSum(d.key, d.data)}
	for r := in.Start; r < in.Start+int64(min(in.Count, 2)) && r*blocksum.RangeBlocks < int64(len(all)); r++ {
		var sum uint64
		for _, h := range all[r*blocksum.RangeBlocks : min((r+1)*blocksum.RangeBlocks, int64(len(all)))] {
			sum += h
		}
		res.Sums = binary.LittleEndian.AppendUint64(res.Sums, sum)
	}
	return res, tg.asked("ranges", true)
}

func (tg *target) Blocks(_ context.Context, in command.BlocksRequest) (command.BlocksResult, error) {
	if err := tg.asked("blocks", false); err != nil {
		return command.BlocksResult{}, err
	}
	tg.mu.Lock()
	defer tg.mu.Unlock()
	d := tg.disks[in.Disk]
	all := hashes(d.key, d.data)
	var res command.BlocksResult
	for _, r := range in.Ranges {
		tg.blocks++
		var b []byte
		for _, h := range all[r*blocksum.RangeBlocks : min((r+1)*blocksum.RangeBlocks, int64(len(all)))] {
			b = binary.LittleEndian.AppendUint64(b, h)
		}
		res.Hashes = append(res.Hashes, b)
	}
	return res, tg.asked("blocks", true)
}

// sharedScan spares each source of its own buffers.
var sharedScan = tracker.NewScan(vfs.OS{}, 2)

// guest is a machine that can be held still.
type guest struct {
	kind    recovery.Consistency
	letGo   bool // freeze_max ended every freeze
	onThaw  func()
	frozen  bool
	freezes int
	err     error
}

func (g *guest) Freeze(context.Context, bool) (Frozen, error) {
	if g.err != nil {
		return Frozen{}, g.err
	}
	if g.frozen {
		return Frozen{}, errors.New("frozen twice")
	}
	g.frozen = true
	g.freezes++
	return Frozen{Kind: g.kind, Thaw: func(context.Context) (bool, error) {
		g.frozen = false
		if g.onThaw != nil {
			g.onThaw()
		}
		return !g.letGo, nil
	}}, nil
}

// rig is a source with its disks and its target.
type rig struct {
	t      *testing.T
	target *target
	guest  *guest
	cfg    Config
	limits limits
	m      *Machine
}

var smallLimits = limits{segment: 1 << 20, full: 256 << 10, spool: 3 << 20, much: 1 << 20, long: time.Hour}

// newRig makes a machine with disks "log" and "ledger" that do not exist yet.
func newRig(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{t: t, guest: &guest{kind: recovery.Crash}, limits: smallLimits}
	var disks []Disk
	for i, name := range []string{"log", "ledger"} {
		disks = append(disks, Disk{Name: name, ID: ident.NewDiskID(), Key: uint64(7 + i), Path: filepath.Join(dir, name+".img")})
	}
	r.target = newTarget(t, disks)
	r.cfg = Config{
		FS: newMortalFS(filepath.Join(dir, "source"), 0), Dir: filepath.Join(dir, "source"), Machine: "db1", Disks: disks, Policy: recovery.Policy{Codec: "raw"},
		Clock: clock.Real{}, Log: slog.New(slog.DiscardHandler), Guest: r.guest, Peer: r.target, Tracker: sharedScan,
	}
	return r
}

func (r *rig) open() {
	r.t.Helper()
	m, err := open(r.cfg, r.limits)
	if err != nil {
		r.t.Fatal(err)
	}
	r.m = m
	r.t.Cleanup(func() {
		if err := m.Close(); err != nil {
			r.t.Error(err)
		}
	})
}

func (r *rig) cycle() Result {
	r.t.Helper()
	res, err := r.m.Cycle(r.t.Context(), CycleOptions{Authority: auth(1)})
	if err != nil {
		r.t.Fatal(err)
	}
	r.verify()
	return res
}

// verify compares the target's newest point with the disks, and the tables
// with both.
func (r *rig) verify() {
	r.t.Helper()
	tip, ok := r.m.Tip()
	if !ok || tip.ID != r.target.tip().ID {
		r.t.Fatalf("tip is %v, the target has %v", tip.ID, r.target.tip().ID)
	}
	for _, d := range r.cfg.Disks {
		data, err := os.ReadFile(d.Path)
		if err != nil {
			r.t.Fatal(err)
		}
		got := r.target.disks[d.Name].data
		if !bytes.Equal(got, data) {
			r.t.Fatalf("disk %s differs at the target: %s", d.Name, firstDifference(got, data))
		}
		path, err := r.m.Table(d.Name)
		if err != nil {
			r.t.Fatal(err)
		}
		checkTable(r.t, path, d.Key, data)
		if pd, _ := tip.Disk(d.Name); pd.Sum != diskSum(d.Key, data) || pd.Size != int64(len(data)) {
			r.t.Fatalf("manifest of disk %s: %+v", d.Name, pd)
		}
	}
	names, err := os.ReadDir(filepath.Join(r.cfg.Dir, "spool"))
	if err != nil || len(names) != 0 {
		r.t.Fatalf("spool after a cycle: %v, %v", names, err)
	}
	if r.m.budget.used != 0 {
		r.t.Fatalf("%d bytes of the spool are counted after a cycle", r.m.budget.used)
	}
}

func checkTable(t *testing.T, path string, key uint64, data []byte) {
	t.Helper()
	tab, err := blocksum.Open(vfs.OS{}, path, key)
	if err != nil {
		t.Fatal(err)
	}
	defer tab.Close()
	if tab.Size() != int64(len(data)) {
		t.Fatalf("table %s is of a disk of %d bytes, want %d", path, tab.Size(), len(data))
	}
	for i, want := range hashes(key, data) {
		if got, err := tab.Get(int64(i)); err != nil || got != want {
			t.Fatalf("table %s: block %d is %x, want %x (%v)", path, i, got, want, err)
		}
	}
}

func firstDifference(a, b []byte) string {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("at byte %d of %d and %d", i, len(a), len(b))
		}
	}
	return fmt.Sprintf("%d and %d bytes", len(a), len(b))
}

// image writes a disk of size bytes with random content in the given byte
// ranges and holes elsewhere.
func (r *rig) image(disk int, size int64, seed uint64, ranges ...[2]int64) {
	r.t.Helper()
	f, err := os.Create(r.cfg.Disks[disk].Path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		r.t.Fatal(err)
	}
	for _, x := range ranges {
		if _, err := f.WriteAt(noise(seed, int(x[1]-x[0])), x[0]); err != nil {
			r.t.Fatal(err)
		}
	}
}

// write overwrites a part of a disk.
func (r *rig) write(disk int, off int64, p []byte) {
	r.t.Helper()
	f, err := os.OpenFile(r.cfg.Disks[disk].Path, os.O_RDWR, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(p, off); err != nil {
		r.t.Fatal(err)
	}
}

func noise(seed uint64, n int) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b) // never fails
	return b
}

// clone copies what a target has, as if time had branched.
func (tg *target) clone() *target {
	c := &target{t: tg.t, dir: tg.t.TempDir(), authority: tg.authority, disks: map[string]*targetDisk{}, points: append([]recovery.Point{}, tg.points...)}
	for name, d := range tg.disks {
		e := *d
		e.segs, e.parts = maps.Clone(d.segs), maps.Clone(d.parts)
		c.disks[name] = &e
	}
	return c
}
