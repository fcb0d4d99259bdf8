package hrl_test

import (
	"bytes"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/agent/hrl"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func id(b byte) (x ident.ID) {
	for i := range x {
		x[i] = b
	}
	return x
}

// header is a header with a value in every field.
func header(kind hrl.Kind, size int64) hrl.Header {
	return hrl.Header{Kind: kind, File: id(1), Log: ident.LogID{ID: id(2)}, Disk: ident.DiskID{ID: id(3)},
		From: ident.PointID{ID: id(4)}, To: ident.PointID{ID: id(5)}, Epoch: 6, SizeBefore: size, SizeAfter: size,
		LogicalSector: 512, PhysicalSector: 4096, Segment: 7}
}

func footer() hrl.Footer {
	return hrl.Footer{Instant: time.Unix(1700000000, 123456789).UTC(), Consistency: recovery.App, Sum: 0x1122334455667788}
}

// op is one call of a writer.
type op struct {
	kind hrl.ExtentKind
	off  int64
	n    int64
	p    []byte // of Data
}

// randomOps makes non-overlapping extents of a disk of size bytes, in random
// order: a mix of noise, text that compresses, zeros and discards.
func randomOps(rnd *rand.Rand, size int64) []op {
	var ops []op
	for off := int64(0); off < size; {
		blocks := 1 + rnd.Int64N(6)
		if rnd.IntN(12) == 0 {
			blocks = rnd.Int64N(100) + 1
		}
		n := min(blocks*hrl.BlockSize, size-off)
		o := op{off: off, n: n}
		switch rnd.IntN(8) {
		case 0:
			o.kind = hrl.Zero
		case 1:
			o.kind = hrl.Discarded
		case 2, 3:
			o.kind, o.p = hrl.Data, noise(rnd, int(n))
		case 4:
			o.kind, o.p = hrl.Data, bytes.Repeat([]byte("recovery"), int(n)/8+1)[:n]
			rnd.Shuffle(min(len(o.p), 4000), func(i, j int) { o.p[i], o.p[j] = o.p[j], o.p[i] })
		default:
			off += n
			continue
		}
		ops = append(ops, o)
		off += n
	}
	rnd.Shuffle(len(ops), func(i, j int) { ops[i], ops[j] = ops[j], ops[i] })
	return ops
}

func noise(rnd *rand.Rand, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(rnd.Uint32())
	}
	for off := 0; off+2*hrl.BlockSize <= n; off += 7 * hrl.BlockSize { // some zero blocks
		clear(p[off : off+hrl.BlockSize])
	}
	return p
}

func apply(t testing.TB, w *hrl.Writer, ops []op) {
	t.Helper()
	for _, o := range ops {
		switch o.kind {
		case hrl.Data:
			ok(t, w.Data(o.off, o.p))
		case hrl.Zero:
			ok(t, w.Zero(o.off, o.n))
		case hrl.Discarded:
			ok(t, w.Discard(o.off, o.n))
		}
	}
}

// image is a disk with what a log does not hold marked.
type image struct {
	disk []byte
	held []hrl.ExtentKind // by block; 0: not held
}

func newImage(size int64) *image {
	return &image{bytes.Repeat([]byte{0xee}, int(size)), make([]hrl.ExtentKind, (size+hrl.BlockSize-1)/hrl.BlockSize)}
}

func (m *image) put(kind hrl.ExtentKind, off, n int64, p []byte) {
	clear(m.disk[off : off+n])
	copy(m.disk[off:off+n], p)
	m.mark(kind, off, n)
}

// mark notes what is held; zero blocks given as data become zero extents.
func (m *image) mark(kind hrl.ExtentKind, off, n int64) {
	for ; n > 0; off, n = off+hrl.BlockSize, n-hrl.BlockSize {
		b := off / hrl.BlockSize
		m.held[b] = kind
		if kind == hrl.Data && blocksum.IsZero(m.disk[off:off+min(n, hrl.BlockSize)]) {
			m.held[b] = hrl.Zero
		}
	}
}

func model(ops []op, size int64) *image {
	m := newImage(size)
	for _, o := range ops {
		m.put(o.kind, o.off, o.n, o.p)
	}
	return m
}

func write(t testing.TB, h hrl.Header, o hrl.Options, ops []op) (string, hrl.Info) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log.hrl")
	w := must(hrl.Create(vfs.OS{}, path, h, o))
	apply(t, w, ops)
	info, err := w.Close(footer())
	ok(t, err)
	return path, info
}

// same compares a log with a model through Walk, Overlay and Lookup.
func same(t testing.TB, r *hrl.Reader, m *image) {
	t.Helper()
	size := int64(len(m.disk))
	got := newImage(size)
	ok(t, r.Walk(func(e hrl.Extent, p []byte) error {
		if (p == nil) != (e.Kind != hrl.Data) || p != nil && int64(len(p)) != e.Len {
			t.Fatalf("extent %+v with %d bytes", e, len(p))
		}
		got.put(e.Kind, e.Off, e.Len, p)
		return nil
	}))
	compare(t, "Walk", got, m)
	got = newImage(size)
	const step = 7*hrl.BlockSize + 100
	for off := int64(0); off < size; off += step {
		p := got.disk[off:min(off+step, size)]
		_, err := r.Overlay(off, p)
		ok(t, err)
	}
	last := int64(-1)
	for e, err := range r.Extents() {
		ok(t, err)
		if e.Off < last {
			t.Fatalf("extent at %d after %d", e.Off, last)
		}
		last = e.End()
		got.mark(e.Kind, e.Off, e.Len)
	}
	compare(t, "Overlay", got, m)
}

func compare(t testing.TB, what string, got, want *image) {
	t.Helper()
	for b := range want.held {
		if got.held[b] != want.held[b] {
			t.Fatalf("%s: block %d held is %v, want %v", what, b, got.held[b], want.held[b])
		}
	}
	if !bytes.Equal(got.disk, want.disk) {
		for i := range want.disk {
			if got.disk[i] != want.disk[i] {
				t.Fatalf("%s: byte %d is %x, want %x", what, i, got.disk[i], want.disk[i])
			}
		}
	}
}
