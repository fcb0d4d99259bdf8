package source

import (
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/fault"
)

// killable is a rig whose source dies at the n-th change of a file.
func killable(t *testing.T, killAt int) (*rig, *mortalFS) {
	r := newRig(t)
	m := newMortalFS(r.cfg.Dir, killAt)
	r.cfg.FS = m
	r.target.fail = dying(m)
	return r, m
}

// life runs the source for as long as it lives: it makes two points, with
// writes to the disks, a growth and a shrink in between. It reports how many
// points it saw acknowledged.
func (r *rig) life() (points int) {
	m, err := open(r.cfg, r.limits)
	if err != nil {
		return 0
	}
	defer func() { _ = m.Close() }() // the process is dead or ends
	for {
		if _, err := m.Cycle(r.t.Context(), CycleOptions{Authority: auth(1)}); err != nil {
			return points
		}
		if points++; points == 2 {
			return points
		}
		r.change()
	}
}

// change is what the machine does between the two points of a life.
func (r *rig) change() {
	r.write(0, 100<<10, noise(5, 100<<10+100))
	r.write(1, 200<<10, noise(6, 200<<10)) // grows
	if err := os.Truncate(r.cfg.Disks[0].Path, 230<<10+77); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) disksOfLife() {
	r.limits.segment, r.limits.full, r.limits.spool, r.limits.much = 128<<10, 64<<10, 384<<10, 64<<10
	r.image(0, 256<<10+1234, 1, [2]int64{0, 5000}, [2]int64{64 << 10, 150 << 10}, [2]int64{256 << 10, 256<<10 + 1234})
	r.image(1, 256<<10, 2, [2]int64{0, 128 << 10})
}

// operations is the number of changes in a whole life.
func operations(t *testing.T) int {
	r, fs := killable(t, 0)
	r.disksOfLife()
	if n := r.life(); n != 2 {
		t.Fatalf("an undisturbed life made %d points", n)
	}
	return fs.ops
}

// TestKilledAnywhere kills the source at every change it makes to its files,
// and lets another process go on: no acknowledged point is lost, and the end
// is what it would have been. Most deaths are power cuts, which take what was
// not synced.
func TestKilledAnywhere(t *testing.T) {
	t.Parallel()
	last := operations(t)
	if last < 50 {
		t.Fatalf("a life has only %d changes", last)
	}
	const step = 4 // each run takes a quarter of them, DRRUN_SEED=N another one
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("DRRUN_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("DRRUN_SEED=%d", seed)
	for n := 1 + int(seed%step); n <= last; n += step {
		power := n%3 != 0
		killedAt(t, n, power)
		if t.Failed() {
			t.Fatalf("killed at change %d of %d (power cut %v)", n, last, power)
		}
	}
}

func killedAt(t *testing.T, n int, power bool) {
	r, fs := killable(t, n)
	if power {
		fs.power = rand.New(rand.NewPCG(uint64(n), 1))
	}
	r.disksOfLife()
	points := r.life()
	fs.kill()
	if err := fs.cutPower(); err != nil {
		t.Fatal(err)
	}
	if got := len(r.target.points); got < points {
		t.Fatalf("killed at change %d: %d points acknowledged, the target has %d", n, points, got)
	}
	r.cfg.FS = newMortalFS(r.cfg.Dir, 0)
	r.target.fail = nil
	r.open()
	if points == 0 {
		r.cycle()
		r.change()
	}
	r.cycle()
}

// TestConnectionLostAnywhere ends the connection before or after every
// operation at the target, in the same process.
func TestConnectionLostAnywhere(t *testing.T) {
	t.Parallel()
	lose := func(n int64) int64 {
		r := newRig(t)
		r.disksOfLife()
		var asked atomic.Int64
		r.target.fail = func(op string, after bool) error {
			if asked.Add(1) == n {
				return fault.Errorf(fault.Unreachable, "lost at %s (after: %v)", op, after)
			}
			return nil
		}
		r.open()
		lost := 0
		for range 2 {
			_, err := r.m.Cycle(t.Context(), CycleOptions{Authority: auth(1)})
			if err != nil {
				if !fault.Is(err, fault.Unreachable) {
					t.Fatalf("lost at operation %d: %v", n, err)
				}
				lost++
			}
			r.change()
		}
		if n > 0 && lost != 1 {
			t.Fatalf("lost at operation %d: %d cycles failed", n, lost)
		}
		r.cycle()
		return asked.Load()
	}
	last := lose(0)
	step := int64(1)
	for n := int64(1); n < last/2; n += step {
		lose(n)
		step = 1 + n/15
	}
}

// TestLostAcknowledgementCounts loses the answer to a manifest: the point is
// counted, not made again.
func TestLostAcknowledgementCounts(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		r := newRig(t)
		r.disksOfLife()
		r.target.fail = func(op string, after bool) error {
			if op == "accept" && after {
				return fault.Errorf(fault.Unreachable, "the answer is lost")
			}
			return nil
		}
		r.open()
		if _, err := r.m.Cycle(t.Context(), CycleOptions{Authority: auth(1)}); !fault.Is(err, fault.Unreachable) {
			t.Fatalf("cycle without an answer: %v", err)
		}
		if _, ok := r.m.Tip(); ok {
			t.Fatal("a point counts before its acknowledgement")
		}
		r.target.fail = nil
		wire := r.target.wire.Load()
		if restart {
			if err := r.m.Close(); err != nil {
				t.Fatal(err)
			}
			r.open()
		}
		if res := r.cycle(); res.Point.Seq != 2 || res.Wire != 0 || r.target.wire.Load() != wire || r.target.blocks != 0 {
			t.Fatalf("after the lost answer: point %d, %d bytes sent, %d ranges compared", res.Point.Seq, res.Wire, r.target.blocks)
		}
	}
}

// TestKilledAtNinetyPercent kills the source when 90 % of a first copy is at
// the target: all that is sent in the end is less than 1.15 of the disk.
func TestKilledAtNinetyPercent(t *testing.T) {
	t.Parallel()
	r, fs := killable(t, 0)
	r.image(0, 24*mib, 1, [2]int64{0, 24 * mib})
	r.image(1, mib, 2, [2]int64{0, mib})
	r.target.fail = func(op string, after bool) error {
		if r.target.wire.Load() > 25*mib*9/10 {
			fs.kill()
			return fault.Errorf(fault.Unreachable, "killed")
		}
		return nil
	}
	if n := r.life(); n != 0 {
		t.Fatalf("%d points of a source that was killed", n)
	}
	if wire := r.target.wire.Load(); wire < 20*mib {
		t.Fatalf("killed after %d bytes", wire)
	}
	r.cfg.FS = newMortalFS(r.cfg.Dir, 0)
	r.target.fail = nil
	r.open()
	r.cycle()
	if wire := r.target.wire.Load(); wire > 25*mib*115/100 {
		t.Fatalf("%d bytes sent for disks of %d", wire, 25*mib)
	}
	if r.target.blocks != 0 {
		t.Fatalf("%d ranges compared after a kill", r.target.blocks)
	}
}

// TestCancelledCycle ends a cycle by its context; the next one goes on.
func TestCancelledCycle(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.disksOfLife()
	r.open()
	ctx, cancel := context.WithCancel(t.Context())
	r.target.fail = func(op string, _ bool) error {
		if op == "bytes" {
			cancel()
			return context.Cause(ctx)
		}
		return nil
	}
	if _, err := r.m.Cycle(ctx, CycleOptions{Authority: auth(1)}); !fault.Is(err, fault.Interrupted) {
		t.Fatalf("cancelled cycle: %v", err)
	}
	r.target.fail = nil
	r.cycle()
}
