package agent_test

import (
	"bytes"
	"context"
	"os"
	"sync/atomic"
	"testing"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/agent/tracker"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// forgetful is a tracker that does not report one block, and believes of it that
// it did not change.
type forgetful struct {
	tracker.Tracker
	block atomic.Int64 // that is forgotten; 0: none
}

func (f *forgetful) Begin(ctx context.Context, machine string, disks []tracker.Disk, since ident.PointID) (tracker.Cut, error) {
	c, err := f.Tracker.Begin(ctx, machine, disks, since)
	if err != nil {
		return nil, err
	}
	return forgetfulCut{c, f, disks}, nil
}

type forgetfulCut struct {
	tracker.Cut
	f     *forgetful
	disks []tracker.Disk
}

func (c forgetfulCut) Changed(ctx context.Context, disk int, base tracker.Base, v tracker.Visitor) (tracker.Stats, error) {
	w := &forgetfulVisitor{Visitor: v, block: &c.f.block, key: c.disks[disk].Key, base: base}
	st, err := c.Cut.Changed(ctx, disk, base, w)
	st.Changed -= w.bytes.Load()
	st.Sum -= w.sum.Load()
	return st, err
}

type forgetfulVisitor struct {
	tracker.Visitor
	block *atomic.Int64
	key   uint64
	base  tracker.Base
	bytes atomic.Int64
	sum   atomic.Uint64
}

func (v *forgetfulVisitor) Run(r tracker.Run) error {
	at := v.block.Load()
	off := at * blockSize
	if at == 0 || off < r.Offset || off >= r.Offset+r.Length {
		return v.Visitor.Run(r)
	}
	var old [blocksum.RangeBlocks]uint64
	if at < v.base.Blocks() {
		if _, err := v.base.ReadRange(at/blocksum.RangeBlocks, old[:]); err != nil {
			return err
		}
	}
	cut := func(from, to int64) tracker.Run {
		p := tracker.Run{Offset: from, Length: to - from}
		if r.Data != nil {
			p.Data = r.Data[from-r.Offset : to-r.Offset]
		}
		return p
	}
	gone := cut(off, off+blockSize)
	v.bytes.Add(gone.Length)
	v.sum.Add(blocksum.Hash(v.key, at, gone.Data) - old[at%blocksum.RangeBlocks])
	for _, p := range []tracker.Run{cut(r.Offset, off), cut(off+blockSize, r.Offset+r.Length)} {
		if p.Length > 0 {
			if err := v.Visitor.Run(p); err != nil {
				return err
			}
		}
	}
	return nil
}

// fakes makes both hosts run the machine without processes, its disk with so
// many blocks.
func (p *pair) fakes(blocks int) {
	p.t.Helper()
	for _, n := range []*node{p.a, p.b} {
		n.end()
		n.fake = &fakeProvider{}
		n.start()
	}
	must(p.t, os.WriteFile(p.disk, make([]byte, blocks*blockSize), 0o600))
}

// put writes a block of a disk.
func put(t *testing.T, disk string, block int64, b byte) {
	t.Helper()
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte{b}, blockSize), block*blockSize)
	must(t, err)
	must(t, f.Close())
}

// TestProofFindsWhatATrackerForgot: the sums of both tables are equal, the disks
// are not, and the ranges say where.
func TestProofFindsWhatATrackerForgot(t *testing.T) {
	t.Parallel()
	const forgot = 1500
	for _, planted := range []bool{false, true} {
		p := newPair(t)
		lost := &forgetful{Tracker: tracker.NewScan(vfs.OS{}, 0)}
		p.a.tracker = lost
		p.fakes(3*blocksum.RangeBlocks + 7)
		p.protect()
		put(t, p.disk, 10, 1)
		put(t, p.disk, forgot, 1)
		call(p, command.Drain, "par-1", command.DrainRequest{Meta: p.meta("erp-1")})
		if planted {
			lost.block.Store(forgot)
		}
		put(t, p.disk, 10, 2)
		put(t, p.disk, forgot, 2)
		put(t, p.disk, 3*blocksum.RangeBlocks, 2)
		if _, err := try(p, command.Proof, "par-1", command.ProofRequest{Meta: p.meta("erp-1"), Point: ident.NewPointID()}); !fault.Is(err, fault.Refused) {
			t.Errorf("proof of a machine that runs: %v", err)
		}
		call(p, command.Stop, "par-1", command.StopRequest{Meta: p.meta("erp-1"), Lock: true})
		final := call(p, command.Drain, "par-1", command.DrainRequest{Meta: p.meta("erp-1"), Final: true}).Point
		own := call(p, command.Proof, "par-1", command.ProofRequest{Meta: p.meta("erp-1"), Point: final.ID})
		p.grant("erp-1", "lyon", true, back)
		call(p, command.Prepare, "lyo-1", command.PrepareRequest{Meta: p.meta("erp-1"), Point: final.ID})
		call(p, command.Start, "lyo-1", command.StartRequest{Meta: p.meta("erp-1")})
		newDisk := p.as.Hosts[1].Store + "/erp/data/head.img"
		put(t, newDisk, 20, 3) // what the machine writes now is not what is proved
		p.points("par-1", 1)

		at := map[string]command.ProofResult{}
		for _, h := range []string{"par-1", "lyo-1"} {
			req := command.ProofRequest{Meta: p.meta("erp-1"), Point: final.ID}
			at[h] = call(p, command.Proof, h, req)
			if again := call(p, command.Proof, h, req); again.Took != at[h].Took || again.Disks[0] != at[h].Disks[0] {
				t.Errorf("asked again at %s: %+v, was %+v", h, again, at[h])
			}
		}
		old, now := at["par-1"].Disks[0], at["lyo-1"].Disks[0]
		if own.Disks[0] != old {
			t.Errorf("before the epoch %+v was read, after it %+v", own.Disks[0], old)
		}
		if now.Sum != final.Disks[0].Sum || now.Size != old.Size {
			t.Errorf("the new site has %+v, the final point %+v", now, final.Disks[0])
		}
		if (now.Sum != old.Sum) != planted {
			t.Errorf("planted %v: old site %x, new site %x", planted, old.Sum, now.Sum)
		}
		var differ []int64
		for start := int64(0); start < 4; start += 2 {
			req := command.RangesRequest{Machine: "erp", Epoch: p.auth.Epoch, Disk: "data", Start: start, Count: 2}
			a, b := call(p, command.ProofRanges, "par-1", req), call(p, command.ProofRanges, "lyo-1", req)
			if len(a.Sums) != 16 || len(b.Sums) != 16 || a.Sum != old.Sum || b.Size != now.Size {
				t.Fatalf("ranges %+v and %+v", a, b)
			}
			for i := range int64(2) {
				if !bytes.Equal(a.Sums[8*i:8*i+8], b.Sums[8*i:8*i+8]) {
					differ = append(differ, start+i)
				}
			}
		}
		if planted && (len(differ) != 1 || differ[0] != forgot/blocksum.RangeBlocks) || !planted && differ != nil {
			t.Errorf("planted %v: ranges %d differ", planted, differ)
		}
		p.proofIsRefusedLater(final.ID)
	}
}

// proofIsRefusedLater commits: from then on the old disks move.
func (p *pair) proofIsRefusedLater(final ident.PointID) {
	p.t.Helper()
	if w := call(p, command.Written, "lyo-1", p.meta("erp-1")); w.Blocks != 1 || w.Bytes != blockSize || w.Since.IsZero() {
		p.t.Errorf("written at the new site: %+v", w)
	}
	for _, h := range []string{"lyo-1", "par-1"} {
		call(p, command.Commit, h, p.meta("erp-1"))
	}
	p.until("par-1", "reverse logs applied", func(st command.MachineStatus) bool { return st.Tip != nil && st.Applied == st.Tip.Seq })
	_, err := try(p, command.Proof, "par-1", command.ProofRequest{Meta: p.meta("erp-1"), Point: final})
	if !fault.Is(err, fault.Refused) {
		p.t.Errorf("proof after the reverse logs were applied: %v", err)
	}
	if _, err := try(p, command.ProofRanges, "par-1", command.RangesRequest{Machine: "erp", Disk: "data", Count: 1}); !fault.Is(err, fault.Refused) {
		p.t.Errorf("ranges of a proof that is over: %v", err)
	}
	if st := p.status("par-1"); st.Power != recovery.PowerStopped {
		p.t.Errorf("old site is %s", st.Power)
	}
}
