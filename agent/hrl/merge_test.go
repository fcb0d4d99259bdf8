package hrl_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/drrun/drrun/agent/hrl"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/vfs"
)

// step is one log of a chain: it takes a disk of before bytes to after bytes.
type step struct {
	before, after int64
	ops           []op
}

// do applies a log to a disk as FORMAT.md says.
func (s step) do(disk []byte) []byte {
	disk = resize(disk, s.after)
	for _, o := range s.ops {
		if o.kind == hrl.Data {
			copy(disk[o.off:], o.p)
		} else {
			clear(disk[o.off : o.off+o.n])
		}
	}
	return disk
}

func resize(disk []byte, n int64) []byte {
	out := make([]byte, n)
	copy(out, disk)
	return out
}

// chain makes a random series of logs; sizes change on the way, also inside a
// block, and then the log holds that block.
func chain(rnd *rand.Rand, n int, base int64) []step {
	var steps []step
	size := base
	for range n {
		s := step{before: size, after: size}
		if rnd.IntN(3) == 0 {
			s.after = rnd.Int64N(1<<20) + 1
		}
		s.ops = randomOps(rnd, s.after)
		if cut := s.after &^ (hrl.BlockSize - 1); cut != s.after && s.after < s.before {
			s.ops = slices.DeleteFunc(s.ops, func(o op) bool { return o.off+o.n > cut })
			s.ops = append(s.ops, op{kind: hrl.Data, off: cut, n: s.after - cut, p: noise(rnd, int(s.after-cut))})
		}
		size = s.after
		steps = append(steps, s)
	}
	return steps
}

func (s step) write(t *testing.T, o hrl.Options) *hrl.Reader {
	t.Helper()
	h := header(hrl.Delta, s.after)
	h.SizeBefore = s.before
	path, _ := write(t, h, o, s.ops)
	r := must(hrl.Open(vfs.OS{}, path))
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// A merge of neighbours (newest wins) takes a disk from the first point to the
// last one, as the logs do one by one. Undo logs are the same with the roles
// of time turned round: what is applied last is the oldest, and it wins.
func TestMergeAgainstModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 2))
			base := noise(rnd, rnd.IntN(1<<20)+1)
			steps := chain(rnd, 1+rnd.IntN(5), int64(len(base)))
			got, want, _ := mergeChain(t, base, steps)
			if !bytes.Equal(got, want) {
				t.Fatal("the merged log does not lead where its parts lead")
			}
		})
	}
}

// With equal sizes a merge holds exactly the blocks that one of its parts
// holds, each with the content of the preferred one.
func TestMergeHoldsTheUnion(t *testing.T) {
	t.Parallel()
	for seed := range uint64(10) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		size := rnd.Int64N(1<<20) + 1
		want := newImage(size)
		var logs []*hrl.Reader
		for range 4 {
			s := step{size, size, randomOps(rnd, size)}
			for _, o := range s.ops {
				want.put(o.kind, o.off, o.n, o.p)
			}
			logs = append(logs, s.write(t, hrl.Options{}))
		}
		slices.Reverse(logs)
		path := filepath.Join(t.TempDir(), "merged")
		_, err := hrl.Merge(t.Context(), vfs.OS{}, path, header(hrl.Undo, size), footer(), hrl.Options{}, logs...)
		ok(t, err)
		r := must(hrl.Open(vfs.OS{}, path))
		same(t, r, want)
		ok(t, r.Close())
	}
}

func TestMergeRefuses(t *testing.T) {
	t.Parallel()
	s := step{8 * hrl.BlockSize, 8 * hrl.BlockSize, []op{{hrl.Data, 0, hrl.BlockSize, bytes.Repeat([]byte("x"), hrl.BlockSize)}}}
	r := s.write(t, hrl.Options{})
	path := filepath.Join(t.TempDir(), "merged")
	h := header(hrl.Delta, s.after)
	h.Disk = ident.NewDiskID()
	if _, err := hrl.Merge(t.Context(), vfs.OS{}, path, h, footer(), hrl.Options{}, r); err == nil {
		t.Error("a log of another disk was merged")
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("shutting down")
	cancel(why)
	if _, err := hrl.Merge(ctx, vfs.OS{}, path, header(hrl.Delta, s.after), footer(), hrl.Options{}, r); !errors.Is(err, why) {
		t.Errorf("cancelled merge: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a merge that ended early left its file")
	}
}

// The edges that random chains seldom meet: a short last block that the disk
// grew over, and the last block before the old end, cut off and grown back.
func TestMergeAcrossSizes(t *testing.T) {
	t.Parallel()
	const b = hrl.BlockSize
	full := func(c byte, n int) []byte { return bytes.Repeat([]byte{c}, n) }
	for name, c := range map[string]struct {
		base  int64
		steps []step
	}{
		"grow over a short block": {5*b + 100, []step{
			{5*b + 100, 5*b + 100, []op{{hrl.Data, 4 * b, b + 100, full(2, b+100)}}},
			{5*b + 100, 9 * b, nil},
		}},
		"grow to another short block": {5*b + 100, []step{
			{5*b + 100, 5*b + 100, []op{{hrl.Data, 5 * b, 100, full(2, 100)}}},
			{5*b + 100, 5*b + 200, nil},
		}},
		"cut inside a block": {5 * b, []step{
			{5 * b, 5 * b, []op{{hrl.Data, 2 * b, 2 * b, full(2, 2*b)}}},
			{5 * b, 3*b + 7, []op{{hrl.Data, 3 * b, 7, full(3, 7)}}},
		}},
		"cut and grow back": {5 * b, []step{
			{5 * b, 2 * b, nil},
			{2 * b, 5 * b, nil},
		}},
		"cut, grow past the old end": {5*b + 9, []step{
			{5*b + 9, 2 * b, nil},
			{2 * b, 8*b + 1, nil},
		}},
		"cut hides what an older log wrote": {5 * b, []step{
			{5 * b, 5 * b, []op{{hrl.Data, 3 * b, 2 * b, full(2, 2*b)}}},
			{5 * b, b, nil},
			{b, 5 * b, []op{{hrl.Data, 4 * b, b, full(3, b)}}},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := full(1, int(c.base))
			got, want, info := mergeChain(t, base, c.steps)
			if !bytes.Equal(got, want) {
				t.Error("the merged log does not lead where its parts lead")
			}
			if info.ZeroBytes > c.base {
				t.Errorf("%d zero bytes for a disk of %d", info.ZeroBytes, c.base)
			}
		})
	}
}

// mergeChain merges a chain and returns where the result leads and where its
// parts lead.
func mergeChain(t *testing.T, base []byte, steps []step) (got, want []byte, info hrl.Info) {
	t.Helper()
	want = base
	var logs []*hrl.Reader
	for _, s := range steps {
		want = s.do(want)
		logs = append(logs, s.write(t, hrl.Options{Codec: hrl.Auto, Frame: 32 << 10}))
	}
	slices.Reverse(logs) // applied last first
	h := header(hrl.Delta, int64(len(want)))
	h.SizeBefore = int64(len(base))
	path := filepath.Join(t.TempDir(), "merged")
	info, err := hrl.Merge(t.Context(), vfs.OS{}, path, h, footer(), hrl.Options{Codec: hrl.Zstd}, logs...)
	ok(t, err)
	r := must(hrl.Open(vfs.OS{}, path))
	defer r.Close()
	if r.Size() != info.Size {
		t.Errorf("size %d, want %d", info.Size, r.Size())
	}
	got = resize(base, r.Header().SizeAfter)
	ok(t, r.Walk(func(e hrl.Extent, p []byte) error {
		clear(got[e.Off:e.End()])
		copy(got[e.Off:], p)
		return nil
	}))
	return got, want, info
}
