package source

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/agent/hrl"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// pair is a rig with 12 MiB and 1 MiB of disks and two points.
func pair(t *testing.T) *rig {
	r := newRig(t)
	r.image(0, 12*mib, 1, [2]int64{0, 12 * mib})
	r.image(1, mib, 2, [2]int64{0, mib})
	r.open()
	r.cycle()
	r.write(0, 5*mib, noise(3, 4096))
	r.cycle()
	return r
}

// TestCompareSendsWhatDiffers loses or changes one side's past in every way: a
// compare finds what differs, and no more than that is sent.
func TestCompareSendsWhatDiffers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change  func(r *rig)
		maxWire int64
	}{
		"source forgot everything": {func(r *rig) {
			if err := r.m.Remove(); err != nil {
				t.Fatal(err)
			}
			r.open()
		}, 8 << 10},
		"target went back a point": {func(r *rig) {
			older := r.target.clone()
			older.points = older.points[:1]
			d := older.disks["log"]
			d.data = append([]byte{}, d.data...)
			copy(d.data[5*mib:], noise(1, 12*mib)[5*mib:5*mib+4096])
			r.adoptTarget(older)
		}, 16 << 10},
		"target has a point of its own": {func(r *rig) {
			fork := r.target.clone()
			p := *fork.tip()
			p.ID, p.From, p.Seq = ident.NewPointID(), p.ID, p.Seq+1
			d := fork.disks["log"]
			d.data = append([]byte{}, d.data...)
			copy(d.data[9*mib:], noise(8, 8192))
			p.Disks = append([]recovery.PointDisk{}, p.Disks...)
			p.Disks[0].Sum = diskSum(d.key, d.data)
			fork.points = append(fork.points, p)
			r.adoptTarget(fork)
		}, 24 << 10},
		"target lost all": {func(r *rig) { r.adoptTarget(newTarget(t, r.cfg.Disks)) }, 14 * mib},
		"target has the content and no point": {func(r *rig) {
			copied := r.target.clone()
			copied.points = nil
			r.adoptTarget(copied)
		}, 8 << 10},
		"table damaged": {func(r *rig) {
			path, err := r.m.Table("log")
			if err != nil {
				t.Fatal(err)
			}
			if err := r.m.Close(); err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt([]byte("damaged!"), 4096+8*700); err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			r.open()
		}, 8 << 10},
		"table gone": {func(r *rig) {
			if err := r.m.Close(); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(r.m.tablePath("ledger")); err != nil {
				t.Fatal(err)
			}
			r.open()
		}, 8 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := pair(t)
			r.t = t
			c.change(r)
			before := r.target.wire.Load()
			r.write(1, 100, []byte("a change beside it"))
			res := r.cycle()
			if wire := r.target.wire.Load() - before; wire > c.maxWire || wire == 0 {
				t.Errorf("%d bytes sent, want at most %d", wire, c.maxWire)
			}
			if tip := r.target.tip(); res.Point.ID != tip.ID {
				t.Errorf("point %s, tip %s", res.Point.ID, tip.ID)
			}
		})
	}
}

// adoptTarget puts another target in the place of the one there was.
func (r *rig) adoptTarget(tg *target) {
	r.t.Helper()
	if err := r.m.Close(); err != nil {
		r.t.Fatal(err)
	}
	tg.t = r.t
	r.target, r.cfg.Peer = tg, tg
	r.open()
}

// TestAdoptTables starts a source with a point that both sites have: nothing is
// compared, and only what was written since is sent.
func TestAdoptTables(t *testing.T) {
	t.Parallel()
	r := pair(t)
	tip, _ := r.m.Tip()
	tables := map[string]string{}
	for _, d := range r.cfg.Disks {
		path, err := r.m.Table(d.Name)
		if err != nil {
			t.Fatal(err)
		}
		tables[d.Name] = path
	}
	r.cfg.Dir = filepath.Join(t.TempDir(), "source")
	r.open()
	wrong := tip
	wrong.Disks = append([]recovery.PointDisk{}, tip.Disks...)
	wrong.Disks[0].Sum++
	if err := r.m.AdoptTables(wrong, tables); !fault.Is(err, fault.Corrupt) {
		t.Fatalf("tables of another point: %v", err)
	}
	if err := r.m.AdoptTables(tip, nil); !fault.Is(err, fault.Invalid) {
		t.Fatalf("no tables: %v", err)
	}
	if err := r.m.AdoptTables(tip, tables); err != nil {
		t.Fatal(err)
	}
	r.write(0, 0, noise(7, 4096))
	wire := r.target.wire.Load()
	res := r.cycle()
	if res.Point.From != tip.ID || r.target.wire.Load()-wire > 8<<10 || r.target.blocks != 0 {
		t.Fatalf("from %s, %d bytes sent, %d ranges compared", res.Point.From, r.target.wire.Load()-wire, r.target.blocks)
	}
	r.cycle()
}

// TestConflict returns the peer's newer record and sends nothing.
func TestConflict(t *testing.T) {
	t.Parallel()
	r := pair(t)
	other := auth(2)
	other.Active = "lyon"
	for name, theirs := range map[string]recovery.Authority{
		"newer": other,
		"same epoch, another record": func() recovery.Authority {
			a := auth(1)
			a.Run = "another run"
			return a
		}(),
	} {
		r.target.authority = theirs
		wire, points := r.target.wire.Load(), len(r.target.points)
		_, err := r.m.Cycle(t.Context(), CycleOptions{Authority: auth(1)})
		var c *ConflictError
		if !fault.Is(err, fault.Conflict) || !errors.As(err, &c) || !c.Peer.Same(theirs) {
			t.Errorf("%s: %v", name, err)
		}
		if r.target.wire.Load() != wire || len(r.target.points) != points {
			t.Errorf("%s: something was sent", name)
		}
	}
}

// TestNewEpochGoesOn lets the epoch grow between a cut and its manifest: the
// cut is not closed under the old one, and its segments are not sent again.
func TestNewEpochGoesOn(t *testing.T) {
	t.Parallel()
	r := pair(t)
	r.write(0, 0, noise(5, 4*mib))
	r.target.fail = func(op string, after bool) error {
		if op == "accept" {
			return fault.Errorf(fault.Unreachable, "lost")
		}
		return nil
	}
	if _, err := r.m.Cycle(t.Context(), CycleOptions{Authority: auth(1)}); !fault.Is(err, fault.Unreachable) {
		t.Fatal(err)
	}
	r.target.fail = nil
	wire := r.target.wire.Load()
	res, err := r.m.Cycle(t.Context(), CycleOptions{Authority: auth(2)})
	if err != nil {
		t.Fatal(err)
	}
	r.verify()
	if res.Point.Epoch != 2 || r.target.wire.Load() != wire || res.Point.Seq != 3 {
		t.Fatalf("epoch %d, %d bytes sent again, point %d", res.Point.Epoch, r.target.wire.Load()-wire, res.Point.Seq)
	}
}

// TestTargetFull fails the cycle with what the target says; points stay, and
// with room the next cycle goes on.
func TestTargetFull(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"put", "accept"} {
		r := pair(t)
		r.write(0, 0, noise(5, 100000))
		r.target.fail = func(o string, _ bool) error {
			if o == op {
				return fault.Errorf(fault.NoSpace, "store full: 3 GiB needed").WithHint("make room")
			}
			return nil
		}
		_, err := r.m.Cycle(t.Context(), CycleOptions{Authority: auth(1)})
		if !fault.Is(err, fault.NoSpace) || fault.Hint(err) != "make room" || len(r.target.points) != 2 {
			t.Fatalf("%s: %v, %d points", op, err, len(r.target.points))
		}
		r.target.fail = nil
		r.cycle()
		if r.target.blocks != 0 {
			t.Errorf("%s: %d ranges compared", op, r.target.blocks)
		}
	}
}

// TestCorruptHeals has the target refuse the sums of a point: the next cycle
// compares and ends well.
func TestCorruptHeals(t *testing.T) {
	t.Parallel()
	r := pair(t)
	r.write(0, 0, noise(5, 100000))
	// What the target holds rotted below its own table's knowledge.
	rotten := append([]byte{}, r.target.disks["log"].data...)
	rotten[8*mib] ^= 1
	r.target.disks["log"].data = rotten
	if _, err := r.m.Cycle(t.Context(), CycleOptions{Authority: auth(1)}); !fault.Is(err, fault.Corrupt) {
		t.Fatalf("a rotten block: %v", err)
	}
	r.target.points = nil // its owner gave the points up
	r.cycle()
	if r.target.blocks == 0 {
		t.Error("nothing was compared")
	}
}

// TestSpoolDamaged finds a segment that rotted or vanished in the spool.
func TestSpoolDamaged(t *testing.T) {
	t.Parallel()
	for _, gone := range []bool{false, true} {
		r := pair(t)
		r.write(0, 0, noise(5, mib))
		r.target.fail = func(op string, after bool) error {
			if op == "put" && after {
				return fault.Errorf(fault.Unreachable, "the answer is lost")
			}
			return nil
		}
		if _, err := r.m.Cycle(t.Context(), CycleOptions{Authority: auth(1)}); !fault.Is(err, fault.Unreachable) {
			t.Fatal(err)
		}
		if err := r.m.Close(); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(r.cfg.Dir, "spool", "*.hrl"))
		if err != nil || len(files) != 1 {
			t.Fatal(files, err)
		}
		if gone {
			err = os.Remove(files[0])
		} else {
			err = os.Truncate(files[0], 1000)
		}
		if err != nil {
			t.Fatal(err)
		}
		r.open()
		r.target.fail = nil
		r.cycle()
	}
}

// TestPartIsResumedAtTheByte ends an upload in the middle of a segment: its
// beginning is not sent again.
func TestPartIsResumedAtTheByte(t *testing.T) {
	t.Parallel()
	r := pair(t)
	r.write(0, 0, noise(5, 3*mib))
	before := r.target.wire.Load()
	r.target.fail = func(op string, _ bool) error {
		if op == "bytes" && r.target.wire.Load()-before > 2*mib {
			return fault.Errorf(fault.Unreachable, "cut")
		}
		return nil
	}
	if _, err := r.m.Cycle(t.Context(), CycleOptions{Authority: auth(1)}); !fault.Is(err, fault.Unreachable) {
		t.Fatal(err)
	}
	if err := r.m.Close(); err != nil {
		t.Fatal(err)
	}
	r.open()
	r.target.fail = nil
	r.cycle()
	if wire := r.target.wire.Load() - before; wire > 3*mib+64<<10 {
		t.Fatalf("%d bytes sent for 3 MiB", wire)
	}
}

// TestDisksOfTheMachineChange adds and removes a disk.
func TestDisksOfTheMachineChange(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	both := r.cfg.Disks
	r.image(0, mib, 1, [2]int64{0, mib})
	r.image(1, mib, 2, [2]int64{0, mib})
	for i, disks := range [][]Disk{both[:1], both, both[1:], both} {
		r.cfg.Disks = disks
		r.open()
		if res := r.cycle(); len(res.Point.Disks) != len(disks) || res.Point.Seq != ident.Seq(i+1) {
			t.Fatalf("point %+v of %d disks", res.Point, len(disks))
		}
		if err := r.m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if wire := r.target.wire.Load(); wire > 2*mib+64<<10 {
		t.Errorf("%d bytes sent for 2 MiB", wire)
	}
}

func TestTableIsHandedOverAtAPointOnly(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.image(0, 4096, 1)
	r.image(1, 4096, 1)
	r.open()
	if _, err := r.m.Table("log"); !fault.Is(err, fault.Refused) {
		t.Errorf("a table before the first point: %v", err)
	}
	r.cycle()
	if _, err := r.m.Table("nvram"); !fault.Is(err, fault.NotFound) {
		t.Errorf("an unknown disk: %v", err)
	}
	r.write(0, 0, noise(1, 4096))
	r.target.fail = func(op string, _ bool) error {
		if op == "accept" {
			return fault.Errorf(fault.Unreachable, "lost")
		}
		return nil
	}
	if _, err := r.m.Cycle(t.Context(), CycleOptions{Authority: auth(1)}); err == nil {
		t.Fatal("no error")
	}
	if _, err := r.m.Table("log"); !fault.Is(err, fault.Refused) {
		t.Errorf("a table with parts of a later point: %v", err)
	}
	var st command.MachineStatus
	r.m.Report(&st)
	if st.Cycle == nil || st.Cycle.Error == "" || st.Tip == nil || st.Tip.Seq != 1 {
		t.Errorf("status after a failed cycle: %+v", st.Cycle)
	}
}

func TestRemoveForgets(t *testing.T) {
	t.Parallel()
	r := pair(t)
	if err := r.m.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(r.cfg.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after remove: %v", err)
	}
	if _, err := r.m.Cycle(t.Context(), CycleOptions{Authority: auth(1)}); !fault.Is(err, fault.Stopped) {
		t.Errorf("a cycle after remove: %v", err)
	}
}

// TestOldTableIsRefusedByKey gives a disk another key: its table is made anew.
func TestOldTableIsRefusedByKey(t *testing.T) {
	t.Parallel()
	r := pair(t)
	if err := r.m.Close(); err != nil {
		t.Fatal(err)
	}
	r.cfg.Disks[1].Key++
	r.target.disks["ledger"].key++
	p := &r.target.points[1]
	p.Disks[1].Sum = diskSum(r.cfg.Disks[1].Key, r.target.disks["ledger"].data)
	r.open()
	r.cycle()
	if _, err := blocksum.Open(vfs.OS{}, r.m.tablePath("ledger"), r.cfg.Disks[1].Key); err != nil {
		t.Error(err)
	}
}

// TestCodecsOfTheReceiver: what the receiver cannot read is not sent.
func TestCodecsOfTheReceiver(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.cfg.Policy.Codec = "auto"
	r.image(0, 2*mib, 1, [2]int64{0, 2 * mib})
	r.image(1, mib, 2, [2]int64{0, mib})
	r.open()
	r.cycle()
	sent := func(codecs ...string) int64 {
		r.target.codecs = codecs
		before := r.target.wire.Load()
		r.write(0, 0, bytes.Repeat([]byte("a ledger "+fmt.Sprint(before)), mib/20))
		r.cycle()
		return r.target.wire.Load() - before
	}
	packed, plain := sent(hrl.Codecs()...), sent("raw", "codec of a later version")
	if packed > plain/4 {
		t.Errorf("%d bytes were sent packed, %d plain", packed, plain)
	}
}
