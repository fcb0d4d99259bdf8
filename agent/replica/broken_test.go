package replica_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
)

// logs lists the received segments.
func (w *world) logs(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(w.dir, "store", "erp", "data", "logs", "*.hrl"))
	must(t, err)
	return files
}

// checkBroken wants the points before the last one whole and ready for a
// failover, the last one refused, and nothing received on top of it.
func checkBroken(t *testing.T, w *world, m *replica.Machine) {
	t.Helper()
	ctx := context.Background()
	last := w.tip
	for i, id := range w.order[:len(w.order)-1] {
		res, err := m.PrepareTest(ctx, "t", id, nil)
		must(t, err)
		if got, err := os.ReadFile(res.Paths["data"]); err != nil || !bytes.Equal(got, w.kept[id].disks["data"]) {
			t.Errorf("point %d is not what was sent: %v", i+1, err)
		}
		must(t, m.CleanupTest("t"))
	}
	_, err := m.PrepareTest(ctx, "t", last.ID, nil)
	wantKind(t, err, fault.Corrupt)
	res, err := m.Verify(ctx, ident.PointID{}, nil)
	must(t, err)
	if len(res.Faults) == 0 || !strings.Contains(strings.Join(res.Faults, " "), last.ID.String()) {
		t.Errorf("verify: %+v", res)
	}
	wantKind(t, m.Apply(ctx), fault.Corrupt)
	w.change()
	err = w.cycle(m)
	wantKind(t, err, fault.Corrupt)
	if fault.Hint(err) == "" || !strings.Contains(err.Error(), last.ID.String()) {
		t.Errorf("got %v (hint %q)", err, fault.Hint(err))
	}
	_, err = m.Prepare(ctx, "run-1", last.ID, nil)
	wantKind(t, err, fault.Corrupt)
	before := w.order[len(w.order)-2]
	got, err := m.Prepare(ctx, "run-1", before, nil)
	must(t, err)
	if p, err := os.ReadFile(got.Paths["data"]); err != nil || !bytes.Equal(p, w.kept[before].disks["data"]) {
		t.Errorf("the disk prepared is not the point: %v", err)
	}
}

// TestDamagedLog: a log that rots or goes before it is applied costs its point
// and no other one.
func TestDamagedLog(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(path string){
		"content": func(path string) { flip(t, path, 256+36+20) },
		"footer":  func(path string) { flip(t, path, -5) },
		"missing": func(path string) { must(t, os.Remove(path)) },
	} {
		for _, restart := range []bool{false, true} {
			w, m := chain(t)
			w.segs = 1
			must(t, w.cycle(m))
			damage(w.logs(t)[0])
			if restart {
				m = reopen(t, w, m)
			} else {
				w.now = w.now.Add(time.Hour) // under a hold, say
			}
			t.Log(name, restart)
			checkBroken(t, w, m)
		}
	}
}

// TestLogRotsInTheMiddle: the head is taken back from the middle of a point
// whose log cannot be read to its end, by the same process or after a crash.
func TestLogRotsInTheMiddle(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		for n := range 9 {
			w, m := chain(t)
			must(t, m.Close())
			f := &faultFS{left: -1}
			w.fs = f
			m = open(t, w)
			w.disks["data"] = w.random(37*block + 100)
			must(t, w.cycle(m))
			log, writes := w.logs(t)[0], 0
			f.filter = func(op, path string) error {
				if strings.HasSuffix(path, "head.img") {
					if writes++; writes == n+1 {
						return errTest
					}
				}
				return nil
			}
			if err := m.Apply(context.Background()); !errors.Is(err, errTest) {
				t.Fatalf("write %d: %v", n, err)
			}
			f.filter = nil
			flip(t, log, 256+36+20)
			if restart {
				m = reopen(t, w, m)
			}
			checkBroken(t, w, m)
		}
	}
}

// TestBrokenPointIsMovedAway: what the hint says brings replication back.
func TestBrokenPointIsMovedAway(t *testing.T) {
	t.Parallel()
	w, m := chain(t)
	before := w.tip
	must(t, w.cycle(m))
	must(t, os.Remove(w.logs(t)[0]))
	m = reopen(t, w, m)
	wantKind(t, m.Apply(context.Background()), fault.Corrupt)
	must(t, m.Close())
	must(t, os.Remove(w.manifest(w.tip.ID)))
	m = open(t, w)
	w.order, w.tip, w.sent["data"] = w.order[:5], before, w.kept[before.ID].disks["data"]
	_, err := m.Ranges("data", 0, 1) // the sender compares; the table has the lost point in it
	wantKind(t, err, fault.Unreachable)
	must(t, m.Apply(context.Background()))
	_, err = m.Ranges("data", 0, 1)
	must(t, err)
	must(t, w.cycle(m))
	must(t, m.Apply(context.Background()))
	must(t, w.check(m))
}

// TestFirstPointDamaged: there is no older point; it is said at every call and
// every start, and the replica can be removed.
func TestFirstPointDamaged(t *testing.T) {
	t.Parallel()
	w := newWorld(tempDir(t), 5, "data")
	m := open(t, w)
	must(t, w.cycle(m))
	must(t, m.Close())
	flip(t, w.logs(t)[0], 256+36+20)
	for range 2 {
		m = open(t, w)
		for range 2 {
			wantKind(t, m.Apply(context.Background()), fault.Corrupt)
		}
		w.change()
		wantKind(t, w.cycle(m), fault.Corrupt)
		must(t, m.Close())
	}
	must(t, open(t, w).Remove())
}
