package source

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/drrun/drrun/agent/hrl"
	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
)

// store is a real replica as a peer: what the agent's daemon puts between the
// two, without the wire.
type store struct {
	*replica.Machine
	lose func() error // asked before each 32 KiB of a segment
}

func (s *store) Codecs() []string { return hrl.Codecs() }

func (s *store) Tip(_ context.Context, in command.TipRequest) (command.TipResult, error) {
	res := command.TipResult{Authority: in.Authority, NextSeq: s.NextSeq(), Staged: s.Staged()}
	if tip, _, ok := s.Machine.Tip(); ok {
		res.Tip = &tip
	}
	return res, nil
}

func (s *store) Put(ctx context.Context, h command.SegmentHeader, src io.ReaderAt, _ func(int64)) error {
	rc, err := s.Receive(h)
	if err != nil || rc == nil {
		return err
	}
	b := make([]byte, 32<<10)
	for off := rc.Offset(); off < h.Size; {
		if err := s.lose(); err != nil {
			rc.Abort()
			return err
		}
		n, err := src.ReadAt(b[:min(int64(len(b)), h.Size-off)], off)
		if err != nil && !errors.Is(err, io.EOF) {
			rc.Abort()
			return err
		}
		if _, err := rc.Write(b[:n]); err != nil {
			rc.Abort()
			return err
		}
		off += int64(n)
	}
	return rc.Commit(ctx)
}

func (s *store) Accept(ctx context.Context, in command.AcceptRequest) (command.AcceptResult, error) {
	p, err := s.Machine.Accept(ctx, in.Point, in.Age)
	return command.AcceptResult{Point: p}, err
}

func (s *store) Ranges(_ context.Context, in command.RangesRequest) (command.RangesResult, error) {
	return s.Machine.Ranges(in.Disk, in.Start, in.Count)
}

func (s *store) Blocks(_ context.Context, in command.BlocksRequest) (command.BlocksResult, error) {
	return s.Machine.Blocks(in.Disk, in.Ranges)
}

// TestIntoARealReplica runs random writes, growth, shrink, lost connections and
// restarts of both ends into agent/replica, and compares its heads after each
// cycle and every point at the end.
func TestIntoARealReplica(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(5, 6))
	r := newRig(t)
	dir := t.TempDir()
	cfg := replica.Config{FS: newMortalFS(dir, 0), Dir: filepath.Join(dir, "db1"), Machine: "db1", Clock: clock.Real{}}
	for _, d := range r.cfg.Disks {
		cfg.Disks = append(cfg.Disks, replica.Disk{Name: d.Name, ID: d.ID, Key: d.Key})
	}
	var left atomic.Int64
	st := &store{lose: func() error {
		if left.Add(-1) == 0 {
			return fault.Errorf(fault.Unreachable, "lost")
		}
		return nil
	}}
	openStore := func() {
		t.Helper()
		m, err := replica.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		st.Machine = m
	}
	openStore()
	t.Cleanup(func() { _ = st.Close() })
	r.cfg.Peer, r.cfg.Policy.Codec = st, "auto"
	r.limits.segment, r.limits.full, r.limits.spool, r.limits.much = 256<<10, 128<<10, 768<<10, 256<<10
	r.image(0, mib, 1, [2]int64{0, 500000})
	r.image(1, 3*mib+77, 2, [2]int64{mib, 2 * mib})
	r.open()
	for cycle := range 20 {
		left.Store(rnd.Int64N(20))
		for {
			_, err := r.m.Cycle(t.Context(), CycleOptions{Authority: auth(1)})
			if err == nil {
				break
			}
			if !fault.Is(err, fault.Unreachable) {
				t.Fatalf("cycle %d: %v", cycle, err)
			}
			if rnd.IntN(3) == 0 {
				r.anyChange(rnd)
			}
			if rnd.IntN(2) == 0 {
				if err := r.m.Close(); err != nil {
					t.Fatal(err)
				}
				r.open()
			}
			if rnd.IntN(2) == 0 {
				if err := st.Close(); err != nil {
					t.Fatal(err)
				}
				openStore()
			}
		}
		if err := st.Apply(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.compareHeads(filepath.Join(dir, "db1"))
		for range 1 + rnd.IntN(5) {
			r.anyChange(rnd)
		}
	}
	for _, p := range st.Points() {
		res, err := st.Verify(t.Context(), p.ID, func(int64) {})
		if err != nil || len(res.Faults) > 0 {
			t.Fatalf("point %d: %v %v", p.Seq, res.Faults, err)
		}
	}
}

func (r *rig) compareHeads(dir string) {
	r.t.Helper()
	for _, d := range r.cfg.Disks {
		want, err := os.ReadFile(d.Path)
		if err != nil {
			r.t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(dir, d.Name, "head.img"))
		if err != nil {
			r.t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			r.t.Fatalf("head of disk %s: %s", d.Name, firstDifference(got, want))
		}
	}
}
