package tracker

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/vfs"
)

const (
	block = blocksum.BlockSize
	key   = 42
)

// bench is a disk, a table of an older state of it, and what scans find.
type bench struct {
	t     *testing.T
	disk  Disk
	table *blocksum.Table
}

func newBench(t *testing.T, content []byte) *bench {
	t.Helper()
	dir := t.TempDir()
	b := &bench{t: t, disk: Disk{Name: "data", Path: filepath.Join(dir, "disk.img"), Key: key}}
	b.replace(content)
	table, err := blocksum.Create(vfs.OS{}, filepath.Join(dir, "table"), key, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = table.Close() })
	b.table = table
	return b
}

func (b *bench) replace(content []byte) {
	b.t.Helper()
	if err := os.WriteFile(b.disk.Path, content, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// visitor collects runs.
type visitor struct {
	mu   sync.Mutex
	runs []Run
	seen int64
	fail error
}

func (v *visitor) Run(r Run) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	r.Data = bytes.Clone(r.Data)
	v.runs = append(v.runs, r)
	return v.fail
}

func (v *visitor) Seen(n int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.seen += n
}

func (v *visitor) sorted() []Run {
	slices.SortFunc(v.runs, func(a, b Run) int { return int(a.Offset - b.Offset) })
	return v.runs
}

// scan finds the changes and folds them into the table; it checks size, sum
// and progress.
func (b *bench) scan() ([]Run, Stats) {
	b.t.Helper()
	cut, err := NewScan(vfs.OS{}, 3).Begin(b.t.Context(), "db1", []Disk{b.disk}, ident.PointID{})
	if err != nil {
		b.t.Fatal(err)
	}
	var v visitor
	st, err := cut.Changed(b.t.Context(), 0, b.table, &v)
	if err = errors.Join(err, cut.End(true)); err != nil {
		b.t.Fatal(err)
	}
	content, err := os.ReadFile(b.disk.Path)
	if err != nil {
		b.t.Fatal(err)
	}
	if cut.(*scanCut).disks != nil || v.seen != int64(len(content)) {
		b.t.Fatalf("%d of %d bytes seen", v.seen, len(content))
	}
	before, err := b.table.Sum()
	if err != nil {
		b.t.Fatal(err)
	}
	b.fold(v.sorted(), content)
	after, err := b.table.Sum()
	if err != nil {
		b.t.Fatal(err)
	}
	if want := diskSum(content); after != want || before+st.Sum != want {
		b.t.Fatalf("sum %x + %x, table after it %x, want %x", before, st.Sum, after, want)
	}
	return v.runs, st
}

func (b *bench) fold(runs []Run, content []byte) {
	b.t.Helper()
	if err := b.table.Resize(int64(len(content))); err != nil {
		b.t.Fatal(err)
	}
	for _, r := range runs {
		part := content[r.Offset : r.Offset+r.Length]
		if r.Data == nil {
			if !blocksum.IsZero(part) {
				b.t.Fatalf("run of zeros at %d over %d bytes, the disk holds others", r.Offset, r.Length)
			}
		} else if !bytes.Equal(r.Data, part) {
			b.t.Fatalf("run at %d over %d bytes differs from the disk", r.Offset, r.Length)
		}
		for off := int64(0); off < r.Length; off += block {
			n := (r.Offset + off) / block
			if err := b.table.Set(n, blocksum.Hash(key, n, part[off:min(off+block, r.Length)])); err != nil {
				b.t.Fatal(err)
			}
		}
	}
}

func diskSum(content []byte) (sum uint64) {
	for n := 0; n*block < len(content); n++ {
		sum += blocksum.Hash(key, int64(n), content[n*block:min((n+1)*block, len(content))])
	}
	return sum
}

func pattern(n int, c byte) []byte { return bytes.Repeat([]byte{c}, n) }

func TestScanFindsChangedRuns(t *testing.T) {
	t.Parallel()
	content := pattern(3*rangeBytes+5*block+100, 'a')
	b := newBench(t, content)
	runs, st := b.scan()
	if len(runs) != 4 || st.Read != int64(len(content)) || st.Changed != int64(len(content)) {
		t.Fatalf("first scan: %d runs, %+v", len(runs), st)
	}
	if runs, st = b.scan(); len(runs) != 0 || st.Changed != 0 || st.Sum != 0 {
		t.Fatalf("unchanged disk: %d runs, %+v", len(runs), st)
	}
	content[5*block+7] = 'b'
	content[6*block] = 'b'
	copy(content[rangeBytes-block:], pattern(2*block, 'c')) // over the border of two ranges
	clear(content[2*rangeBytes : 2*rangeBytes+3*block])
	content[len(content)-1] = 'd'
	b.replace(content)
	runs, st = b.scan()
	want := []Run{
		{Offset: 5 * block, Length: 2 * block},
		{Offset: rangeBytes - block, Length: block},
		{Offset: rangeBytes, Length: block},
		{Offset: 2 * rangeBytes, Length: 3 * block},
		{Offset: 3*rangeBytes + 5*block, Length: 100},
	}
	same := func(a, b Run) bool { return a.Offset == b.Offset && a.Length == b.Length }
	if !slices.EqualFunc(runs, want, same) || runs[3].Data != nil || st.Zero != 3*block {
		t.Fatalf("runs %v, zeros %d", runs, st.Zero)
	}
}

func TestScanSkipsHoles(t *testing.T) {
	t.Parallel()
	const size = 40 * rangeBytes
	b := newBench(t, nil)
	sparse := func(writes ...int64) {
		t.Helper()
		b.replace(nil)
		f, err := os.OpenFile(b.disk.Path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		for _, off := range writes {
			if _, err := f.WriteAt(pattern(block, 'x'), off); err != nil {
				t.Fatal(err)
			}
		}
	}
	sparse(3*block, 17*rangeBytes, 39*rangeBytes+block)
	if _, st := b.scan(); st.Changed != 3*block || st.Read > rangeBytes {
		t.Fatalf("sparse disk: %+v", st)
	}
	sparse(3 * block) // the others became holes
	runs, st := b.scan()
	if len(runs) != 2 || runs[0].Data != nil || runs[1].Data != nil || st.Zero != 2*block {
		t.Fatalf("new holes: %v, %+v", runs, st)
	}
	if _, st := b.scan(); st.Changed != 0 {
		t.Fatalf("holes again: %+v", st)
	}
}

// TestScanAnyChange writes, grows and cuts a disk at random.
func TestScanAnyChange(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	content := pattern(rangeBytes+block, 'a')
	b := newBench(t, content)
	for range 40 {
		switch rnd.IntN(4) {
		case 0:
			content = append(content, pattern(rnd.IntN(3*block), byte(rnd.IntN(2)))...)
		case 1:
			content = content[:len(content)-rnd.IntN(min(len(content), 3*block))]
		case 2:
			content = content[:rnd.IntN(len(content)+1)]
			content = append(content, make([]byte, rnd.IntN(2*rangeBytes))...)
		}
		for range rnd.IntN(4) {
			if len(content) > 0 {
				off := rnd.IntN(len(content))
				copy(content[off:], pattern(1+rnd.IntN(4*block), byte(rnd.IntN(3))))
			}
		}
		b.replace(content)
		b.scan()
		if runs, _ := b.scan(); len(runs) != 0 {
			t.Fatalf("a second scan finds %d runs", len(runs))
		}
	}
}

func TestScanNamesAMissingDisk(t *testing.T) {
	t.Parallel()
	b := newBench(t, pattern(block, 'a'))
	other := Disk{Name: "log", Path: b.disk.Path + ".gone", Key: key}
	_, err := NewScan(vfs.OS{}, 1).Begin(t.Context(), "db1", []Disk{b.disk, other}, ident.PointID{})
	if !fault.Is(err, fault.Failed) || !errors.Is(err, fs.ErrNotExist) || fault.Hint(err) == "" {
		t.Fatalf("a missing disk: %v", err)
	}
	for _, word := range []string{"db1", "log", other.Path} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not name %s", err, word)
		}
	}
}

// A pipe in place of a disk would hold the scan, and with it the machine, for
// ever.
func TestScanRefusesWhatIsNoDisk(t *testing.T) {
	t.Parallel()
	b := newBench(t, pattern(block, 'a'))
	pipe := Disk{Name: "log", Path: b.disk.Path + ".pipe", Key: key}
	if err := syscall.Mkfifo(pipe.Path, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, d := range []Disk{pipe, {Name: "log", Path: t.TempDir()}, {Name: "log", Path: "/dev/zero"}} {
		_, err := NewScan(vfs.OS{}, 1).Begin(t.Context(), "db1", []Disk{b.disk, d}, ident.PointID{})
		if !fault.Is(err, fault.Failed) || !strings.Contains(err.Error(), d.Path) {
			t.Errorf("%s: %v", d.Path, err)
		}
	}
}

// TestScanSeesItsFileReplaced deletes and replaces the image under a scan.
func TestScanSeesItsFileReplaced(t *testing.T) {
	t.Parallel()
	for _, replace := range []bool{false, true} {
		b := newBench(t, pattern(block, 'a'))
		cut, err := NewScan(vfs.OS{}, 1).Begin(t.Context(), "db1", []Disk{b.disk}, ident.PointID{})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(b.disk.Path, b.disk.Path+".old"); err != nil {
			t.Fatal(err)
		}
		if replace {
			b.replace(pattern(block, 'b'))
		}
		_, err = cut.Changed(t.Context(), 0, b.table, &visitor{})
		if !fault.Is(err, fault.Failed) || !strings.Contains(err.Error(), b.disk.Path) {
			t.Errorf("replaced %v: %v", replace, err)
		}
		if err := cut.End(false); err != nil {
			t.Error(err)
		}
	}
}

// TestScanOfADiskCutShort reads a disk that became shorter after the cut: what
// is missing counts as zero, and the next cut has the new size.
func TestScanOfADiskCutShort(t *testing.T) {
	t.Parallel()
	b := newBench(t, pattern(3*block, 'a'))
	cut, err := NewScan(vfs.OS{}, 1).Begin(t.Context(), "db1", []Disk{b.disk}, ident.PointID{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cut.End(false) }()
	if err := os.Truncate(b.disk.Path, block); err != nil {
		t.Fatal(err)
	}
	var v visitor
	st, err := cut.Changed(t.Context(), 0, b.table, &v)
	if err != nil || st.Changed != block || cut.Size(0) != 3*block || st.Sum != diskSum(pattern(block, 'a')) {
		t.Fatalf("cut short: %+v, size %d, %v", st, cut.Size(0), err)
	}
}

func TestScanEndsWithItsVisitorAndContext(t *testing.T) {
	t.Parallel()
	b := newBench(t, pattern(8*rangeBytes, 'a'))
	s := NewScan(vfs.OS{}, 2)
	full := errors.New("full")
	for name, c := range map[string]struct {
		ctx  func() context.Context
		want error
	}{
		"visitor": {t.Context, full},
		"context": {func() context.Context {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return ctx
		}, context.Canceled},
	} {
		cut, err := s.Begin(t.Context(), "db1", []Disk{b.disk}, ident.PointID{})
		if err != nil {
			t.Fatal(err)
		}
		v := &visitor{fail: full}
		if _, err := cut.Changed(c.ctx(), 0, b.table, v); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if len(v.runs) > 2 {
			t.Errorf("%s: the scan went on for %d runs", name, len(v.runs))
		}
		if err := cut.End(false); err != nil {
			t.Error(err)
		}
	}
	if len(s.buffers) != 2 {
		t.Errorf("%d of 2 buffers came back", len(s.buffers))
	}
}

func BenchmarkScanUnchanged(b *testing.B) {
	dir := b.TempDir()
	path := filepath.Join(dir, "disk")
	content := make([]byte, 64<<20)
	rnd := rand.NewChaCha8([32]byte{1})
	_, _ = rnd.Read(content)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		b.Fatal(err)
	}
	table, err := blocksum.Create(vfs.OS{}, filepath.Join(dir, "table"), key, int64(len(content)))
	if err != nil {
		b.Fatal(err)
	}
	defer table.Close()
	for n := range int64(len(content) / block) {
		if err := table.Set(n, blocksum.Hash(key, n, content[n*block:(n+1)*block])); err != nil {
			b.Fatal(err)
		}
	}
	s := NewScan(vfs.OS{}, 0)
	b.SetBytes(int64(len(content)))
	b.ReportAllocs()
	for b.Loop() {
		cut, err := s.Begin(b.Context(), "db1", []Disk{{Name: "d", Path: path, Key: key}}, ident.PointID{})
		if err != nil {
			b.Fatal(err)
		}
		var v visitor
		if _, err := cut.Changed(b.Context(), 0, table, &v); err != nil || len(v.runs) > 0 {
			b.Fatal(err, len(v.runs))
		}
		if err := cut.End(true); err != nil {
			b.Fatal(err)
		}
	}
}
