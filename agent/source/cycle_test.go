package source

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drrun/drrun/agent/tracker"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

const mib = 1 << 20

func TestCycleFullThenDelta(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.image(0, 9*mib+1234, 1, [2]int64{0, 5000}, [2]int64{4 * mib, 6 * mib}, [2]int64{9 * mib, 9*mib + 1234})
	r.image(1, 5*mib, 2, [2]int64{0, 5 * mib})
	r.open()
	first := r.cycle()
	if first.Point.Seq != 1 || !first.Point.From.IsZero() || len(first.Point.Disks) != 2 || first.Point.Disks[0].Name != "log" {
		t.Fatalf("first point: %+v", first.Point)
	}
	if first.Changed < 7*mib || first.Wire < 7*mib {
		t.Fatalf("first cycle changed %d, wire %d", first.Changed, first.Wire)
	}
	idle := r.cycle()
	if idle.Point.Seq != 2 || idle.Point.From != first.Point.ID || idle.Changed != 0 || idle.Wire != 0 {
		t.Fatalf("idle cycle: %+v", idle)
	}
	for _, d := range idle.Point.Disks {
		if d.Segments != 0 {
			t.Fatalf("idle cycle sent %d segments of disk %s", d.Segments, d.Name)
		}
	}
	r.write(0, 123, []byte("x"))
	r.write(1, 4*mib, noise(9, 10000))
	delta := r.cycle()
	if delta.Changed != 4096*(1+3) {
		t.Fatalf("delta changed %d bytes", delta.Changed)
	}
}

// TestAnyWritesAnyCycles is the property: whatever is written, grown, cut or
// punched between cycles, the target has the disks after each.
func TestAnyWritesAnyCycles(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(3, 4))
	r := newRig(t)
	r.cfg.Policy.Codec = "auto"
	r.image(0, mib, 1, [2]int64{0, 100000})
	r.image(1, 5*mib+77, 2, [2]int64{mib, 2 * mib})
	r.open()
	for cycle := range 25 {
		for range rnd.IntN(8) {
			r.anyChange(rnd)
		}
		if cycle%7 == 6 { // another process
			if err := r.m.Close(); err != nil {
				t.Fatal(err)
			}
			r.open()
		}
		r.cycle()
	}
}

func (r *rig) anyChange(rnd *rand.Rand) {
	r.t.Helper()
	disk := rnd.IntN(2)
	path := r.cfg.Disks[disk].Path
	info, err := os.Stat(path)
	if err != nil {
		r.t.Fatal(err)
	}
	size := info.Size()
	off := rnd.Int64N(size + 1)
	switch rnd.IntN(6) {
	case 0:
		err = os.Truncate(path, max(1, size-rnd.Int64N(mib)))
	case 1:
		err = os.Truncate(path, size+rnd.Int64N(mib))
	case 2:
		r.write(disk, off, make([]byte, rnd.IntN(200000)))
	default:
		r.write(disk, off, noise(rnd.Uint64(), rnd.IntN(200000)))
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// TestSizeAloneMakesAPoint grows and cuts a disk without content.
func TestSizeAloneMakesAPoint(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.image(0, mib, 1, [2]int64{0, mib})
	r.image(1, mib, 1)
	r.open()
	r.cycle()
	for _, size := range []int64{2*mib + 5, mib + 4097, mib, 100, 5000} {
		for _, d := range r.cfg.Disks {
			if err := os.Truncate(d.Path, size); err != nil {
				t.Fatal(err)
			}
		}
		res := r.cycle()
		if pd, _ := res.Point.Disk("ledger"); pd.Size != size || pd.Segments != 0 {
			t.Fatalf("ledger of %d bytes: %+v", size, pd)
		}
	}
}

// vanishing is a tracker under which something happens between the cut and the
// first read.
type vanishing struct {
	tracker.Tracker
	now func()
}

func (v *vanishing) Begin(ctx context.Context, machine string, disks []tracker.Disk, since ident.PointID) (tracker.Cut, error) {
	cut, err := v.Tracker.Begin(ctx, machine, disks, since)
	if v.now != nil {
		v.now()
		v.now = nil
	}
	return cut, err
}

// TestFileVanishes takes a disk away before and in the middle of a cycle; the
// points stay, and the next cycle heals.
func TestFileVanishes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	track := &vanishing{Tracker: sharedScan}
	r.cfg.Tracker = track
	r.image(0, mib, 1, [2]int64{0, mib})
	r.image(1, mib, 2, [2]int64{0, mib})
	r.open()
	r.cycle()
	path := r.cfg.Disks[1].Path
	away := func() {
		if err := os.Rename(path, path+".away"); err != nil {
			t.Error(err)
		}
	}
	for _, meanwhile := range []bool{false, true} {
		r.write(0, 5000, noise(3, 900000))
		r.write(1, 5000, noise(4, 100000))
		if meanwhile {
			track.now = away
		} else {
			away()
		}
		_, err := r.m.Cycle(t.Context(), CycleOptions{Authority: auth(1)})
		if !fault.Is(err, fault.Failed) || fault.Hint(err) == "" {
			t.Fatalf("meanwhile %v: %v", meanwhile, err)
		}
		for _, word := range []string{"db1", "ledger", path} {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%q does not name %s", err, word)
			}
		}
		if r.guest.frozen {
			t.Fatal("the machine is still held")
		}
		if err := os.Rename(path+".away", path); err != nil {
			t.Fatal(err)
		}
		r.cycle()
	}
}

// TestFuzzy lets freeze_max end the freeze before the scan does.
func TestFuzzy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		policy recovery.Consistency
		kind   recovery.Consistency
		letGo  bool
		final  bool
		want   recovery.Consistency // empty: refused
	}{
		{"held", "", recovery.App, false, false, recovery.App},
		{"let go", "", recovery.Crash, true, false, ""},
		{"let go, fuzzy allowed", recovery.Fuzzy, recovery.Crash, true, false, recovery.Fuzzy},
		{"cannot be held", recovery.Crash, recovery.Fuzzy, false, false, ""},
		{"cannot be held, fuzzy allowed", recovery.Fuzzy, recovery.Fuzzy, false, false, recovery.Fuzzy},
		{"final is never fuzzy", recovery.Fuzzy, recovery.Crash, true, true, ""},
	} {
		r := newRig(t)
		r.cfg.Policy.Consistency = c.policy
		r.image(0, 3*mib, 1, [2]int64{0, 3 * mib})
		r.image(1, mib, 2, [2]int64{0, mib})
		r.guest.kind, r.guest.letGo = c.kind, c.letGo
		r.open()
		res, err := r.m.Cycle(t.Context(), CycleOptions{Authority: auth(1), Final: c.final})
		if r.guest.frozen {
			t.Fatalf("%s: the machine is still held", c.name)
		}
		if c.want != "" {
			if err != nil || res.Point.Kind != c.want {
				t.Errorf("%s: %s, %v", c.name, res.Point.Kind, err)
			}
			continue
		}
		if !fault.Is(err, fault.Refused) || len(r.target.points) != 0 {
			t.Errorf("%s: %v, %d points", c.name, err, len(r.target.points))
		}
		r.guest.letGo, r.guest.kind = false, recovery.Crash
		r.cycle()
		if wire := r.target.wire.Load(); wire > 5*mib {
			t.Errorf("%s: %d bytes sent for 4 MiB: what was found was thrown away", c.name, wire)
		}
	}
}

// TestSpoolIsBounded changes more than the spool holds while the machine is
// held still: it is let go on and cut again.
func TestSpoolIsBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.image(0, 8*mib, 1, [2]int64{0, 8 * mib})
	r.image(1, 8*mib, 2)
	r.limits.much = 100 * mib // so that nothing is sent ahead for the amount
	var peak int64
	r.target.fail = func(string, bool) error {
		r.m.budget.mu.Lock()
		defer r.m.budget.mu.Unlock()
		peak = max(peak, r.m.budget.used) // under the budget's lock
		return nil
	}
	r.open()
	r.cycle()
	freezes := r.guest.freezes
	r.write(0, 0, noise(5, 7*mib))
	r.cycle()
	if got := r.guest.freezes - freezes; got != 2 {
		t.Errorf("held %d times, want 2: the first cut does not fit", got)
	}
	if peak > r.limits.spool+4*mib+64<<10 { // one run is the overshoot
		t.Errorf("%d bytes spooled, the limit is %d", peak, r.limits.spool)
	}
	// A machine that changes more than that all the time is cut in the end.
	r.guest.onThaw = func() { r.write(0, 0, noise(uint64(r.guest.freezes), 7*mib)) }
	if _, err := r.m.Cycle(t.Context(), CycleOptions{Authority: auth(1)}); err != nil {
		t.Fatal(err)
	}
}

// TestNoPointBetweenTwoLogs ends a cycle after the log of the first disk: the
// target has no point of it.
func TestNoPointBetweenTwoLogs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.image(0, mib, 1, [2]int64{0, 4096})
	r.image(1, mib, 2, [2]int64{0, 4096})
	r.open()
	r.cycle()
	r.write(0, 0, noise(3, 4096))
	r.write(1, 0, noise(4, 4096))
	var puts atomic.Int64
	r.target.fail = func(op string, after bool) error {
		if op == "put" && after && puts.Add(1) > 0 || op == "accept" {
			return fault.Errorf(fault.Unreachable, "the agent was killed")
		}
		return nil
	}
	if _, err := r.m.Cycle(t.Context(), CycleOptions{Authority: auth(1)}); !fault.Is(err, fault.Unreachable) {
		t.Fatalf("%v", err)
	}
	tip, _ := r.m.Tip()
	if len(r.target.points) != 1 || tip.ID != r.target.points[0].ID {
		t.Fatalf("%d points, tip %s", len(r.target.points), tip.ID)
	}
	r.target.fail = nil
	wire := r.target.wire.Load()
	if res := r.cycle(); res.Point.Seq != 3 || r.target.wire.Load() > wire+8192 {
		t.Fatalf("after it: point %d, %d bytes more", res.Point.Seq, r.target.wire.Load()-wire)
	}
}

// TestLabelsAndConfiguration checks what goes into the manifest beside disks.
func TestLabelsAndConfiguration(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.image(0, 4096, 1)
	r.image(1, 4096, 1)
	r.cfg.Configuration = func() json.RawMessage { return json.RawMessage(`{"cpus":2}`) }
	r.guest.kind = recovery.App
	r.open()
	res, err := r.m.Cycle(t.Context(), CycleOptions{Authority: auth(4), App: true, Labels: []string{"before upgrade"}})
	if err != nil {
		t.Fatal(err)
	}
	p := res.Point
	if p.Kind != recovery.App || p.Epoch != 4 || p.Machine != "db1" || string(p.Config) != `{"cpus":2}` ||
		!slices.Equal(p.Labels, []string{"before upgrade"}) || p.Received.IsZero() || p.Instant.IsZero() {
		t.Fatalf("manifest: %+v", p)
	}
	var st command.MachineStatus
	r.m.Report(&st)
	if st.Tip == nil || st.Tip.ID != p.ID || st.Cycle == nil || st.Cycle.Error != "" || st.Progress != nil || st.TipAge <= 0 {
		t.Fatalf("status: %+v", st)
	}
}

// TestRate sends no faster than the policy says, in virtual time.
func TestRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		wire := atomic.Int64{}
		l := &limited{ctx: t.Context(), src: bytes.NewReader(make([]byte, 10*mib)), limiter: newLimiter(mib), wire: &wire, seen: func(int64) {}}
		began := time.Now()
		if n, err := l.ReadAt(make([]byte, 10*mib), 0); n != 10*mib || err != nil {
			t.Fatal(n, err)
		}
		if took := time.Since(began); took < 9*time.Second || took > 11*time.Second || wire.Load() != 10*mib {
			t.Fatalf("10 MiB at 1 MiB/s took %s, %d bytes counted", took, wire.Load())
		}
	})
}
