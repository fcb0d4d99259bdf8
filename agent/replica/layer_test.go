package replica_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/drrun/drrun/agent/hrl"
	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/vfs"
)

// modelLog is a log as a plain list of writes.
type modelLog struct {
	size int64 // of the disk when it was written
	ops  []modelOp
}

type modelOp struct {
	off  int64
	p    []byte
	kind hrl.ExtentKind
}

// randomLog makes extents of every kind, in random order, of a disk that may
// end inside a block.
func randomLog(rng *rand.Rand, size int64) modelLog {
	l := modelLog{size: size}
	for off := int64(0); off < size; {
		n := min(int64(1+rng.IntN(5))*block, size-off)
		if rng.IntN(10) == 0 {
			n = min(int64(40+rng.IntN(60))*block, size-off)
		}
		if kind := hrl.ExtentKind(rng.IntN(5)); kind >= hrl.Data && kind <= hrl.Discarded {
			p := make([]byte, n)
			for i := 0; kind == hrl.Data && i < len(p); i += 64 {
				p[i] = byte(1 + rng.IntN(255))
			}
			l.ops = append(l.ops, modelOp{off, p, kind})
		}
		off += n
	}
	rng.Shuffle(len(l.ops), func(i, j int) { l.ops[i], l.ops[j] = l.ops[j], l.ops[i] })
	return l
}

func (l modelLog) write(t *testing.T, path string, rng *rand.Rand) {
	t.Helper()
	w, err := hrl.Create(fastFS{}, path, hrl.Header{Kind: hrl.Undo, Log: ident.NewLogID(), SizeAfter: l.size},
		hrl.Options{Codec: hrl.Codec(rng.IntN(3)), Frame: (1 + rng.IntN(8)) * block})
	must(t, err)
	for _, o := range l.ops {
		switch o.kind {
		case hrl.Data:
			err = w.Data(o.off, o.p)
		case hrl.Zero:
			err = w.Zero(o.off, int64(len(o.p)))
		default:
			err = w.Discard(o.off, int64(len(o.p)))
		}
		must(t, err)
	}
	_, err = w.Close(hrl.Footer{})
	must(t, err)
}

// lay puts the log over a disk, block by block: a block is the whole of what
// the log says of it.
func (l modelLog) lay(disk []byte, held []bool) {
	for _, o := range l.ops {
		for i := 0; i < len(o.p); i += block {
			at := int(o.off) + i
			if at >= len(disk) {
				break
			}
			b := disk[at:min(at+block, len(disk))]
			clear(b)
			copy(b, o.p[i:min(i+block, len(o.p))])
			held[at/block] = true
		}
	}
}

// TestLayersAgainstModel lays random logs over each other, of disks that grow
// and shrink between them, and compares with doing it block by block.
func TestLayersAgainstModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 9))
			dir := tempDir(t)
			size := 1 + rng.Int64N(150*block)
			if rng.IntN(3) == 0 {
				size = alignUp(size)
			}
			want, held := make([]byte, size), make([]bool, alignUp(size)/block)
			for i := range want {
				want[i] = 0xee // what lies below
			}
			below := slices.Clone(want)
			n := 1 + rng.IntN(5)
			if seed == 0 {
				n = 70 // more than are open at once
			}
			var paths []string
			for i := range n {
				l := randomLog(rng, 1+rng.Int64N(size+20*block))
				if rng.IntN(2) == 0 {
					l = randomLog(rng, size)
				}
				path := filepath.Join(dir, fmt.Sprint(i))
				l.write(t, path, rng)
				l.lay(want, held)
				paths = append(paths, path)
			}
			if n <= 64 {
				checkChunks(t, paths, want, held, 1+rng.IntN(40))
			}
			checkLaid(t, dir, paths, below, want)
		})
	}
}

// checkChunks reads the batch and wants each held block once, in order.
func checkChunks(t *testing.T, paths []string, want []byte, held []bool, blocks int) {
	t.Helper()
	seen := make([]bool, len(held))
	last := int64(0)
	err := replica.EachChunk(fastFS{}, paths, int64(len(want)), blocks, func(off int64, p []byte) error {
		if off < last || off%block != 0 || len(p) == 0 || len(p) > blocks*block || len(p)%block != 0 && off+int64(len(p)) != int64(len(want)) {
			t.Fatalf("chunk of %d bytes at %d after %d", len(p), off, last)
		}
		last = off + int64(len(p))
		if !bytes.Equal(p, want[off:last]) {
			t.Fatalf("chunk at %d: %s", off, difference(p, want[off:last]))
		}
		for i := off / block; i*block < last; i++ {
			seen[i] = true
		}
		return nil
	})
	must(t, err)
	if !slices.Equal(seen, held) {
		t.Fatal("other blocks than the logs hold")
	}
}

func checkLaid(t *testing.T, dir string, paths []string, below, want []byte) {
	t.Helper()
	for _, punch := range []bool{false, true} {
		path := filepath.Join(dir, "disk")
		must(t, vfs.WriteFile(fastFS{}, path, below, 0o600))
		f, err := fastFS{}.OpenFile(path, vfs.ReadWrite, 0)
		must(t, err)
		must(t, replica.WriteLayers(context.Background(), fastFS{}, f, paths, int64(len(want)), punch))
		must(t, f.Close())
		got, err := vfs.ReadFile(fastFS{}, path)
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Fatalf("punch %v: %s", punch, difference(got, want))
		}
	}
}

func alignUp(n int64) int64 { return (n + block - 1) / block * block }
