package replica_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

func TestHoldThenCommit(t *testing.T) {
	t.Parallel()
	w, m := setup(t)
	ctx := context.Background()
	must(t, m.SetHold(true))
	before, err := os.ReadFile(w.head("data"))
	must(t, err)
	for range 4 {
		must(t, w.cycle(m))
		must(t, m.Apply(ctx))
		w.change()
	}
	after, err := os.ReadFile(w.head("data"))
	must(t, err)
	if !bytes.Equal(before, after) {
		t.Error("the head moved while held")
	}
	must(t, w.check(m))
	m = reopen(t, w, m)
	if !m.Held() || m.Applied() != 2 || m.NextSeq() != 7 {
		t.Errorf("held %v, applied %d, next %d", m.Held(), m.Applied(), m.NextSeq())
	}
	must(t, w.check(m))
	must(t, m.SetHold(false))
	must(t, m.Apply(ctx))
	if m.Applied() != 6 {
		t.Errorf("applied %d", m.Applied())
	}
	must(t, w.check(m))
}

func TestTestViewStandsStill(t *testing.T) {
	t.Parallel()
	w, m := setup(t)
	ctx := context.Background()
	old := w.order[0]
	res, err := m.PrepareTest(ctx, "drill-1", old, nil)
	must(t, err)
	for range 3 {
		must(t, w.cycle(m))
		must(t, m.Apply(ctx))
		w.change()
	}
	w.now = w.now.AddDate(0, 1, 0)
	m = reopen(t, w, m)
	must(t, m.ConfirmClock("ann"))
	n, err := m.Thin(ctx, nil, w.now)
	must(t, err)
	if n == 0 || !slices.ContainsFunc(m.Points(), func(p recovery.Point) bool { return p.ID == old }) {
		t.Errorf("thinning dropped %d points, and the one under the test", n)
	}
	got, err := os.ReadFile(res.Paths["data"])
	must(t, err)
	if !bytes.Equal(got, w.kept[old].disks["data"]) {
		t.Error("the view changed")
	}
	if again, err := m.PrepareTest(ctx, "drill-1", old, nil); err != nil || again.Paths["data"] != res.Paths["data"] {
		t.Errorf("again: %+v, %v", again, err)
	}
	_, err = m.PrepareTest(ctx, "drill-1", w.tip.ID, nil)
	wantKind(t, err, fault.Conflict)
	_, err = m.PrepareTest(ctx, "../x", old, nil)
	wantKind(t, err, fault.Invalid)
	must(t, m.CleanupTest("drill-1"))
	must(t, m.CleanupTest("drill-1"))
	if _, err := os.Stat(res.Paths["data"]); !errors.Is(err, os.ErrNotExist) || len(m.Tests()) != 0 {
		t.Errorf("the view stays: %v", err)
	}
	must(t, w.check(m))
}

func TestFailoverAndBack(t *testing.T) {
	t.Parallel()
	for _, full := range []bool{false, true} {
		w, m := setup(t)
		if full {
			must(t, m.Close())
			w.alloc = replica.AllocationFull
			m = open(t, w)
		}
		ctx := context.Background()
		must(t, w.cycle(m))
		must(t, m.Apply(ctx))
		p := w.kept[w.order[0]].point
		room, err := m.Room(p.ID)
		must(t, err)
		var seen int64
		res, err := m.Prepare(ctx, "run-1", p.ID, func(done int64) { seen = done })
		must(t, err)
		if room.Needed < res.Bytes || room.Mode != res.Mode || seen != res.Bytes {
			t.Errorf("expected %+v, took %+v, saw %d", room, res, seen)
		}
		if again, err := m.Prepare(ctx, "run-1", p.ID, nil); err != nil || again.Bytes != res.Bytes {
			t.Errorf("again: %+v, %v", again, err)
		}
		_, err = m.Prepare(ctx, "run-2", p.ID, nil)
		wantKind(t, err, fault.Conflict)
		got, err := os.ReadFile(res.Paths["data"])
		must(t, err)
		if res.Paths["data"] != w.head("data") || !bytes.Equal(got, w.kept[p.ID].disks["data"]) {
			t.Error("the disk prepared is not the point")
		}
		table, err := blocksum.Open(fastFS{}, m.LiveTables()["data"], w.key("data"))
		must(t, err)
		if s, err := table.Sum(); err != nil || s != p.Disks[0].Sum {
			t.Errorf("live table has sum %x, %v", s, err)
		}
		must(t, table.Close())
		wantKind(t, w.cycle(m), fault.Conflict) // an old sender
		w.reset(p)
		must(t, w.live(res.Paths))
		m = reopen(t, w, m)
		if run, at, ok := m.Live(); !ok || run != "run-1" || at.ID != p.ID || m.Committed() {
			t.Errorf("live: %s %s %v", run, at.ID, ok)
		}
		must(t, w.check(m))
		wantKind(t, m.Commit("run-2"), fault.Conflict)
		must(t, m.Commit("run-1"))
		must(t, m.Commit("run-1"))
		wantKind(t, m.Remove(), fault.Refused)

		tables, err := w.sourceTables()
		must(t, err)
		last := w.final(m)
		must(t, m.Adopt(ctx, last, tables))
		must(t, m.Adopt(ctx, last, tables))
		w.keep(last)
		if _, _, live := m.Live(); live || m.Applied() != last.Seq {
			t.Errorf("still live, applied %d", m.Applied())
		}
		for range 2 {
			must(t, w.check(m))
			w.change()
			must(t, w.cycle(m))
			must(t, m.Apply(ctx))
		}
		must(t, w.check(m))
		must(t, m.Remove())
		if _, err := os.Stat(w.head("data")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the head stays: %v", err)
		}
	}
}

// TestOldPrimary: a machine that ran at home gets a replica there; what only it
// has is kept first.
func TestOldPrimary(t *testing.T) {
	t.Parallel()
	w := newWorld(tempDir(t), 9, "data")
	w.heads["data"] = w.dir + "/home.img"
	ctx := context.Background()
	common := w.final(open(t, newWorld(tempDir(t), 9, "data")))
	tables, err := w.sourceTables()
	must(t, err)
	sent := w.disks["data"]
	w.disks["data"] = slices.Clone(sent)
	copy(w.disks["data"][5*block+17:], "written while cut off")
	copy(w.disks["data"][9*block:], "and this")
	must(t, os.WriteFile(w.heads["data"], w.disks["data"], 0o600))
	m := open(t, w)
	wantKind(t, m.Adopt(ctx, w.final(m), tables), fault.Corrupt) // the tables are not those of the point
	res, err := m.Keep(ctx, replica.Kept{Label: replica.AsFound, Run: "run-2", Epoch: 2, Common: &common, Tables: tables}, nil)
	must(t, err)
	if res.Blocks != 2 || res.Bytes != 2*block || !res.Since.Equal(common.Instant) || !res.Point.Held || res.Point.Labels[0] != replica.AsFound || res.Point.Seq <= common.Seq {
		t.Errorf("found %+v", res)
	}
	w.keep(res.Point)
	if again, err := m.Keep(ctx, replica.Kept{Label: replica.AsFound, Run: "run-2", Epoch: 2, Common: &common, Tables: tables}, nil); err != nil || again.Point.ID != res.Point.ID {
		t.Errorf("again: %+v, %v", again, err)
	}
	must(t, w.check(m))
	w.disks["data"] = sent // what the other site has
	for range 3 {
		must(t, w.cycle(m))
		must(t, m.Apply(ctx))
		w.change()
	}
	m.SetElapsed(func() time.Duration { return 30 * time.Minute })
	w.now = w.now.AddDate(1, 0, 0)
	_, err = m.Thin(ctx, nil, w.now)
	if !errors.Is(err, replica.ErrClockJumped) {
		t.Errorf("got %v", err)
	}
	wantKind(t, err, fault.Refused)
	must(t, m.ConfirmClock("ann"))
	_, err = m.Thin(ctx, nil, w.now)
	must(t, err)
	must(t, w.check(m))
	if p := m.Points(); len(p) != 2 || p[0].ID != res.Point.ID {
		t.Errorf("points %v", p)
	}
	_, err = m.Label(ctx, res.Point.ID, nil, false)
	must(t, err)
	m = reopen(t, w, m)
	if n, err := m.Thin(ctx, nil, w.now); n != 1 || err != nil {
		t.Errorf("released, thinning drops %d: %v", n, err)
	}
	must(t, w.check(m))
	must(t, m.Remove())
	if _, err := os.Stat(w.heads["data"]); err != nil {
		t.Errorf("the machine's own disk was removed: %v", err)
	}
}

// TestOverlayIsDropped: the store keeps what an uncommitted failover wrote and
// goes on as a replica (another point, or back).
func TestOverlayIsDropped(t *testing.T) {
	t.Parallel()
	w, m := setup(t)
	ctx := context.Background()
	tip := w.tip
	_, err := m.Prepare(ctx, "run-1", w.order[0], nil)
	must(t, err)
	w.reset(w.kept[w.order[0]].point)
	must(t, w.live(map[string]string{"data": w.head("data")}))
	live := w.kept[w.order[0]].point
	res, err := m.Keep(ctx, replica.Kept{Label: replica.AsFound, Run: "run-2", Epoch: 3, Common: &live, Tables: m.LiveTables()}, nil)
	must(t, err)
	w.keep(res.Point)
	must(t, w.check(m))
	got, err := m.Prepare(ctx, "run-1", tip.ID, nil)
	must(t, err)
	disk, err := os.ReadFile(got.Paths["data"])
	must(t, err)
	if !bytes.Equal(disk, w.kept[tip.ID].disks["data"]) {
		t.Error("the other point is not what was sent")
	}
	must(t, w.check(m))
	// Nothing was written since: adopting the same point again keeps one of each.
	w.reset(tip)
	tables, err := w.sourceTables()
	must(t, err)
	must(t, m.Adopt(ctx, tip, tables))
	now, _, _ := m.Tip()
	if now.ID == tip.ID || now.From != tip.ID {
		t.Errorf("tip %s from %s", now.ID, now.From)
	}
	w.keep(now)
	must(t, w.check(m))
	w.change()
	must(t, w.cycle(m))
	must(t, m.Apply(ctx))
	must(t, w.check(m))
}

// TestRollbackAtHome: a held replica of the machine's own disk runs again on
// what it held.
func TestRollbackAtHome(t *testing.T) {
	t.Parallel()
	w, m := setup(t)
	ctx := context.Background()
	applied := w.tip
	must(t, m.SetHold(true))
	for range 2 {
		must(t, w.cycle(m))
		w.change()
	}
	_, err := m.Prepare(ctx, "rollback-3", applied.ID, nil)
	must(t, err)
	must(t, m.Commit("rollback-3"))
	must(t, m.SetHold(false))
	must(t, m.Apply(ctx))
	must(t, w.check(m))
	w.reset(applied)
	must(t, w.live(map[string]string{"data": w.head("data")}))
	tables, err := w.sourceTables()
	must(t, err)
	last := w.final(m)
	last.Seq = 1 // of a store that counts on its own
	must(t, m.Adopt(ctx, last, tables))
	got, _, _ := m.Tip()
	if got.ID != last.ID || got.Seq != 5 {
		t.Errorf("tip %s, number %d", got.ID, got.Seq)
	}
	w.keep(got)
	must(t, w.check(m))
}

// TestPrepareEndsVerify: a real failover does not wait for a verification.
func TestPrepareEndsVerify(t *testing.T) {
	t.Parallel()
	w, m := setup(t)
	ctx := context.Background()
	reading, prepared := make(chan struct{}), make(chan error, 1)
	first := true
	_, err := m.Verify(ctx, ident.PointID{}, func(int64) {
		if !first {
			return
		}
		first = false
		close(reading)
		go func() {
			_, err := m.Prepare(ctx, "run-1", w.tip.ID, nil)
			prepared <- err
		}()
		m.WaitUrgent()
	})
	<-reading
	if err == nil {
		t.Error("the verification went to its end")
	}
	must(t, <-prepared)
}

// TestOverlayHasTheHeadsPermissions: the machine opens it as it opened the head.
func TestOverlayHasTheHeadsPermissions(t *testing.T) {
	t.Parallel()
	w, m := setup(t)
	must(t, os.Chmod(w.head("data"), 0o640))
	_, err := m.Prepare(t.Context(), "run-1", w.tip.ID, nil)
	must(t, err)
	fi, err := os.Stat(w.head("data"))
	must(t, err)
	if fi.Mode().Perm() != 0o640 {
		t.Errorf("permissions %s, the head had -rw-r-----", fi.Mode())
	}
}

// TestFilesInTheWay: what stands beside a head and is not ours is neither
// removed nor taken for the base.
func TestFilesInTheWay(t *testing.T) {
	t.Parallel()
	w, m := setup(t)
	ctx := context.Background()
	for _, suffix := range []string{".base", ".new"} {
		path := w.head("data") + suffix
		must(t, os.WriteFile(path, []byte("somebody's"), 0o600))
		_, err := m.Prepare(ctx, "run-1", w.order[0], nil)
		wantKind(t, err, fault.Refused)
		must(t, m.Apply(ctx))
		m = reopen(t, w, m)
		if got, err := os.ReadFile(path); err != nil || string(got) != "somebody's" {
			t.Errorf("%s holds %q, %v", path, got, err)
		}
		must(t, os.Remove(path))
	}
	_, err := m.Prepare(ctx, "run-1", w.order[0], nil)
	must(t, err)
	must(t, w.check(m))
}

// TestTakeOverAgain: a take-over that failed in its middle, after which the
// machine ran on, keeps all that the base has.
func TestTakeOverAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(tempDir(t), 15, "system", "data")
	f := &faultFS{left: -1}
	w.fs = f
	m := open(t, w)
	ctx := context.Background()
	must(t, w.cycle(m))
	must(t, m.Apply(ctx))
	res, err := m.Prepare(ctx, "run-1", w.tip.ID, nil)
	must(t, err)
	must(t, m.Commit("run-1"))
	must(t, w.live(res.Paths))
	tables, err := w.sourceTables()
	must(t, err)
	first := w.final(m)
	f.filter = func(op, path string) error {
		if op == "rename" && strings.Contains(path, "/data/undo/") {
			return errTest
		}
		return nil
	}
	if err := m.Adopt(ctx, first, tables); !errors.Is(err, errTest) {
		t.Fatalf("got %v", err)
	}
	f.filter = nil
	for range 3 {
		must(t, w.live(res.Paths))
	}
	tables, err = w.sourceTables()
	must(t, err)
	last := w.final(m)
	last.Seq = first.Seq
	must(t, m.Adopt(ctx, last, tables))
	w.keep(last)
	must(t, w.check(m))
	must(t, w.check(reopen(t, w, m)))
}
