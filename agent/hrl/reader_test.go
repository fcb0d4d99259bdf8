package hrl_test

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/drrun/drrun/agent/hrl"
	"github.com/drrun/drrun/internal/vfs"
)

// scattered writes a log of n single blocks, every third block of the disk, in
// random order; each is marked with its number.
func scattered(t testing.TB, n int64, o hrl.Options, shuffle bool) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log")
	w := must(hrl.Create(vfs.OS{}, path, header(hrl.Delta, 3*n*b4k), o))
	order := make([]int64, n)
	for i := range order {
		order[i] = int64(i)
	}
	if shuffle {
		rand.New(rand.NewPCG(1, 6)).Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	}
	p := make([]byte, b4k)
	for _, i := range order {
		ok(t, w.Data(3*i*b4k, marked(p, i)))
	}
	_, err := w.Close(footer())
	ok(t, err)
	return path
}

func marked(p []byte, i int64) []byte {
	for at := 0; at < len(p); at += 8 {
		p[at], p[at+1], p[at+2], p[at+3] = byte(i), byte(i>>8), byte(at>>3), 1
	}
	return p
}

func TestLookupInALongIndex(t *testing.T) {
	t.Parallel()
	const n = 1000 // eight pages of the index
	r := must(hrl.Open(vfs.OS{}, scattered(t, n, hrl.Options{Codec: hrl.S2}, true)))
	defer r.Close()
	ok(t, r.Verify())
	rnd := rand.New(rand.NewPCG(1, 7))
	for range 2000 {
		off := rnd.Int64N(3*n*b4k + 10000)
		length := rnd.Int64N(20 * b4k)
		if rnd.IntN(10) == 0 {
			length = rnd.Int64N(4 * n * b4k)
		}
		var want, got []hrl.Extent
		for i := range int64(n) {
			start, end := max(3*i*b4k, off), min((3*i+1)*b4k, off+length)
			if start < end {
				want = append(want, hrl.Extent{Off: start, Len: end - start, Kind: hrl.Data})
			}
		}
		for e, err := range r.Lookup(off, length) {
			ok(t, err)
			got = append(got, e)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("Lookup(%d, %d) gives %v, want %v", off, length, got, want)
		}
	}
	p, block := make([]byte, b4k), make([]byte, b4k)
	for e, err := range r.Extents() {
		ok(t, err)
		ok(t, r.ReadExtent(e, p))
		if !bytes.Equal(p, marked(block, e.Off/b4k/3)) {
			t.Fatalf("content at %d", e.Off)
		}
	}
	if r.ReadExtent(hrl.Extent{Off: b4k, Len: b4k}, p) == nil {
		t.Error("an extent that is not held was read")
	}
	if r.ReadExtent(hrl.Extent{Off: 0, Len: b4k}, p[:9]) == nil {
		t.Error("an extent was read into 9 bytes")
	}
}

// countFS counts the reads of files.
type countFS struct {
	vfs.OS
	reads *atomic.Int64
}

type countFile struct {
	vfs.File
	reads *atomic.Int64
}

func (c countFS) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	f, err := c.OS.OpenFile(name, flag, perm)
	return countFile{f, c.reads}, err
}

func (c countFile) ReadAt(p []byte, off int64) (int, error) {
	if len(p) > 4*b4k { // of what this test reads only frames are that long
		c.reads.Add(1)
	}
	return c.File.ReadAt(p, off)
}

// Two logs with one cache, read side by side as a view does: each frame is
// unpacked once.
func TestSharedCacheUnpacksOnce(t *testing.T) {
	t.Parallel()
	var reads atomic.Int64
	fsys := countFS{reads: &reads}
	cache := hrl.NewCache(1 << 20)
	path := scattered(t, 512, hrl.Options{Frame: 64 << 10}, false)
	a := must(hrl.OpenCached(fsys, path, cache))
	b := must(hrl.OpenCached(fsys, path, cache))
	frames := a.Footer().Frames
	p := make([]byte, 5*b4k)
	for off := int64(0); off < a.Header().SizeAfter; off += int64(len(p)) {
		must(a.Overlay(off, p))
		must(b.Overlay(off, p))
	}
	if n := reads.Load(); n != 2*frames || frames != 32 {
		t.Errorf("%d frames were read %d times by two readers", frames, n)
	}
	ok(t, b.Close())
	must(a.Overlay(0, p))
	ok(t, a.Close())
}

// What was read last stays: a frame in steady use is read once.
func TestCacheKeepsWhatIsUsed(t *testing.T) {
	t.Parallel()
	var reads atomic.Int64
	r := must(hrl.OpenCached(countFS{reads: &reads}, scattered(t, 64, hrl.Options{Frame: 32 << 10}, false), hrl.NewCache(80<<10)))
	defer r.Close()
	p := make([]byte, b4k)
	for frame := int64(1); frame < 8; frame++ {
		must(r.Overlay(0, p))
		must(r.Overlay(3*8*frame*b4k, p))
	}
	if n := reads.Load(); n != 8 {
		t.Errorf("8 frames were read %d times", n)
	}
}

// A merge of logs in order unpacks each frame once and keeps within its bound.
func TestMergeUnpacksOnce(t *testing.T) {
	t.Parallel()
	var reads atomic.Int64
	fsys := countFS{reads: &reads}
	var logs []*hrl.Reader
	frames := int64(0)
	for range 3 {
		r := must(hrl.Open(fsys, scattered(t, 512, hrl.Options{Frame: 64 << 10}, false)))
		defer r.Close()
		logs = append(logs, r)
		frames = r.Footer().Frames
	}
	h := header(hrl.Delta, 3*512*b4k)
	_, err := hrl.Merge(t.Context(), fsys, filepath.Join(t.TempDir(), "m"), h, footer(), hrl.Options{}, logs...)
	ok(t, err)
	if n := reads.Load(); n != frames {
		t.Errorf("%d reads, want those of the %d frames of the log that wins", n, frames)
	}
}

func TestConcurrentReaders(t *testing.T) {
	t.Parallel()
	r := must(hrl.OpenCached(vfs.OS{}, scattered(t, 256, hrl.Options{Codec: hrl.Zstd, Frame: 32 << 10}, true), hrl.NewCache(64<<10)))
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			p, block := make([]byte, b4k), make([]byte, b4k)
			for i := range int64(256) {
				n := (i*7 + int64(w)*31) % 256
				if held, err := r.Overlay(3*n*b4k, p); err != nil || held != b4k || !bytes.Equal(p, marked(block, n)) {
					t.Errorf("block %d: held %d, %v", n, held, err)
					return
				}
			}
			if err := r.Verify(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	ok(t, r.Close())
}

func TestWalkStops(t *testing.T) {
	t.Parallel()
	r := must(hrl.Open(vfs.OS{}, scattered(t, 8, hrl.Options{}, false)))
	defer r.Close()
	stop, n := errors.New("enough"), 0
	err := r.Walk(func(hrl.Extent, []byte) error {
		if n++; n == 3 {
			return stop
		}
		return nil
	})
	if err != stop || n != 3 {
		t.Errorf("%v after %d extents", err, n)
	}
}

// Memory is bounded whatever the log's size: not parallel, it reads the
// process's counters.
func TestReadingIsBounded(t *testing.T) {
	path := scattered(t, 16<<10, hrl.Options{Codec: hrl.S2}, false) // 64 MiB of content
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	r := must(hrl.Open(vfs.OS{}, path))
	ok(t, r.Verify())
	p := make([]byte, 64<<10)
	for off := int64(0); off < r.Header().SizeAfter; off += 50 * b4k {
		must(r.Overlay(off, p))
	}
	runtime.ReadMemStats(&after)
	ok(t, r.Close())
	if n := after.TotalAlloc - before.TotalAlloc; n > 24<<20 {
		t.Errorf("%d KiB were allocated in all", n>>10)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if n := int64(after.HeapAlloc) - int64(before.HeapAlloc); n > 4<<20 {
		t.Errorf("%d KiB are held", n>>10)
	}
}

// fastFS does not wait for the disk.
type fastFS struct{ vfs.OS }

type fastFile struct{ vfs.File }

func (f fastFS) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	file, err := f.OS.OpenFile(name, flag, perm)
	return fastFile{file}, err
}

func (fastFile) Sync() error { return nil }

func BenchmarkWrite(b *testing.B) {
	for _, c := range []hrl.Codec{hrl.Raw, hrl.S2, hrl.Zstd} {
		b.Run(c.String(), func(b *testing.B) {
			p := mixed(16 << 20)
			path := filepath.Join(b.TempDir(), "x")
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			for b.Loop() {
				w := must(hrl.Create(fastFS{}, path, header(hrl.Full, int64(len(p))), hrl.Options{Codec: c}))
				for off := 0; off < len(p); off += 1 << 20 {
					ok(b, w.Data(int64(off), p[off:off+1<<20]))
				}
				info, err := w.Close(footer())
				ok(b, err)
				b.ReportMetric(float64(info.Size)/float64(len(p)), "ratio")
			}
		})
	}
}

func BenchmarkRead(b *testing.B) {
	for _, c := range []hrl.Codec{hrl.Raw, hrl.S2, hrl.Zstd} {
		p := mixed(16 << 20)
		path, _ := write(b, header(hrl.Full, int64(len(p))), hrl.Options{Codec: c}, []op{{hrl.Data, 0, int64(len(p)), p}})
		b.Run("walk-"+c.String(), func(b *testing.B) {
			r := must(hrl.Open(vfs.OS{}, path))
			defer r.Close()
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			for b.Loop() {
				ok(b, r.Verify())
			}
		})
		b.Run("overlay-"+c.String(), func(b *testing.B) {
			r := must(hrl.Open(vfs.OS{}, path))
			defer r.Close()
			b.SetBytes(int64(len(p)))
			buf := make([]byte, 64<<10)
			for b.Loop() {
				for off := 0; off < len(p); off += len(buf) {
					must(r.Overlay(int64(off), buf))
				}
			}
		})
	}
}

func BenchmarkMerge(b *testing.B) {
	var logs []*hrl.Reader
	const n = 4096 // blocks: 16 MiB of content each
	for range 2 {
		logs = append(logs, must(hrl.Open(vfs.OS{}, scattered(b, n, hrl.Options{Codec: hrl.S2}, false))))
	}
	path := filepath.Join(b.TempDir(), "m")
	b.SetBytes(n * b4k)
	b.ReportAllocs()
	for b.Loop() {
		must(hrl.Merge(b.Context(), fastFS{}, path, header(hrl.Undo, 3*n*b4k), footer(), hrl.Options{Codec: hrl.S2}, logs...))
	}
}

// mixed is content that packs to about a half: pages of text-like records and
// pages of noise.
func mixed(n int) []byte {
	rnd := rand.New(rand.NewPCG(1, 8))
	p := make([]byte, n)
	for off := 0; off < n; off += b4k {
		page := p[off : off+b4k]
		for i := 0; i < len(page); i += 8 {
			v := rnd.Uint64()
			if off/b4k%3 != 0 && i%32 != 0 {
				v = uint64(i) * 0x0101010101
			}
			for k := range 8 {
				page[i+k] = byte(v >> (8 * k))
			}
		}
	}
	return p
}
