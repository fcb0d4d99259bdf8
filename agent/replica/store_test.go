package replica_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
)

// TestKilledWhileRemoved: a replica whose removal was cut off is gone or whole,
// and it can be removed again.
func TestKilledWhileRemoved(t *testing.T) {
	t.Parallel()
	for n := 0; ; n++ {
		w, m := chain(t)
		must(t, m.Close())
		f := &faultFS{left: -1}
		w.fs = f
		m, err := replica.Open(w.config())
		must(t, err)
		f.left = n
		killed := m.Remove()
		if killed != nil && !errors.Is(killed, errDead) {
			t.Fatal(killed)
		}
		w.fs = fastFS{}
		m = open(t, w)
		if got := len(m.Points()); got != 0 && got != 5 || killed == nil && got != 0 {
			t.Fatalf("operation %d: %d points", n, got)
		}
		must(t, m.Remove())
		must(t, m.Remove())
		files, err := os.ReadDir(filepath.Join(w.dir, "store"))
		must(t, err)
		if len(files) != 0 {
			t.Errorf("left: %v", files)
		}
		if killed == nil {
			return
		}
	}
}

// deviceFS says that a path is a device: it keeps its size.
type deviceFS struct {
	fastFS
	path string
}

type deviceInfo struct{ fs.FileInfo }

func (deviceInfo) Mode() fs.FileMode { return fs.ModeDevice | 0o600 }

func (f deviceFS) Stat(path string) (fs.FileInfo, error) {
	fi, err := f.fastFS.Stat(path)
	if err != nil || path != f.path {
		return fi, err
	}
	return deviceInfo{fi}, nil
}

// TestDeviceThatGrowsAgain: what a device held beyond the end of the disk does
// not come back.
func TestDeviceThatGrowsAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(tempDir(t), 9, "data")
	ctx := context.Background()
	w.heads["data"] = filepath.Join(w.dir, "device")
	w.fs = deviceFS{path: w.heads["data"]}
	w.disks["data"] = bytes.Repeat([]byte{7}, 60*block)
	must(t, os.WriteFile(w.heads["data"], w.disks["data"], 0o600))
	m := open(t, w)
	res, err := m.Keep(ctx, replica.Kept{Label: replica.AsFound, Epoch: 2}, nil)
	must(t, err)
	w.keep(res.Point)
	for _, size := range []int{40*block + 512, 20 * block, 55*block + 512} {
		d := make([]byte, size)
		copy(d, w.disks["data"])
		d[0]++
		w.disks["data"] = d
		must(t, w.cycle(m))
		must(t, w.check(m))
		must(t, m.Apply(ctx))
		must(t, w.check(m))
	}
	w.disks["data"] = make([]byte, 70*block)
	must(t, w.cycle(m))
	wantKind(t, m.Apply(ctx), fault.Refused)
	if fi, err := os.Stat(w.heads["data"]); err != nil || fi.Size() != 60*block {
		t.Errorf("the device changed: %v", err)
	}
}

// TestDeviceTakesNoOverlay: that is said when it is asked for, not only when the
// source has been stopped; a file takes one.
func TestDeviceTakesNoOverlay(t *testing.T) {
	t.Parallel()
	for _, device := range []bool{true, false} {
		w := newWorld(tempDir(t), 9, "data")
		w.heads["data"] = filepath.Join(w.dir, "device")
		if device {
			w.fs = deviceFS{path: w.heads["data"]}
			must(t, os.WriteFile(w.heads["data"], nil, 0o600))
			must(t, os.Truncate(w.heads["data"], 200*block))
		}
		m := open(t, w)
		must(t, w.cycle(m))
		must(t, m.Apply(context.Background()))
		err := m.TakesOverlay(w.tip.ID)
		if !device {
			must(t, err)
			must(t, os.WriteFile(w.heads["data"]+".base", nil, 0o600))
			err = m.TakesOverlay(w.tip.ID)
		}
		wantKind(t, err, fault.Refused)
	}
}

// TestDiskThatEnded: points with a disk that newer ones do not have are read,
// and verified.
func TestDiskThatEnded(t *testing.T) {
	t.Parallel()
	w := newWorld(tempDir(t), 17, "system", "data")
	m := open(t, w)
	ctx := context.Background()
	for range 2 {
		must(t, w.cycle(m))
		must(t, m.Apply(ctx))
		w.change()
	}
	w.names = []string{"system"} // the sender has it no more
	for range 2 {
		must(t, w.cycle(m))
		must(t, m.Apply(ctx))
		w.change()
	}
	for _, id := range w.order[:2] {
		res, err := m.PrepareTest(ctx, "t", id, nil)
		must(t, err)
		got, err := os.ReadFile(res.Paths["data"])
		must(t, err)
		if !bytes.Equal(got, w.kept[id].disks["data"]) {
			t.Error("the view is not what was sent")
		}
		must(t, m.CleanupTest("t"))
	}
	res, err := m.Verify(ctx, ident.PointID{}, nil)
	must(t, err)
	if res.Points != 4 || len(res.Faults) > 0 {
		t.Errorf("%+v", res)
	}
	flip(t, w.head("data"), 30*block)
	res, err = m.Verify(ctx, ident.PointID{}, nil)
	must(t, err)
	if len(res.Faults) != 2 {
		t.Errorf("a rotten disk that ended: %+v", res)
	}
	m = reopen(t, w, m) // this host has it no more
	res, err = m.Verify(ctx, ident.PointID{}, nil)
	must(t, err)
	if len(res.Faults) != 2 || !strings.Contains(res.Faults[0], "no longer has") {
		t.Errorf("points that cannot be read: %+v", res)
	}
}

// TestManifestThatMayBeThere: a manifest whose folder could not be synced is no
// point, and does not stand in the way of the next one with its number.
func TestManifestThatMayBeThere(t *testing.T) {
	t.Parallel()
	w, m := chain(t)
	must(t, m.Close())
	f := &renamedFS{}
	w.fs = f
	m = open(t, w)
	f.fail = filepath.Join(w.dir, "store", "erp", "points")
	if err := w.cycle(m); !errors.Is(err, errTest) {
		t.Fatalf("got %v", err)
	}
	f.fail = ""
	w.change()
	must(t, w.cycle(m)) // another point
	m = reopen(t, w, m)
	if len(m.Points()) != 6 || !slices.Equal(w.order, pointIDs(m)) {
		t.Errorf("points %v", pointIDs(m))
	}
	must(t, w.check(m))
}

func pointIDs(m *replica.Machine) (ids []ident.PointID) {
	for _, p := range m.Points() {
		ids = append(ids, p.ID)
	}
	return ids
}

// renamedFS renames into a folder and then says that it failed.
type renamedFS struct {
	fastFS
	fail string
}

func (f *renamedFS) Rename(a, b string) error {
	err := f.fastFS.Rename(a, b)
	if f.fail != "" && filepath.Dir(b) == f.fail {
		err = errors.Join(err, errTest)
	}
	return err
}

// TestCommitEndsVerify: no step of a run waits for a verification.
func TestCommitEndsVerify(t *testing.T) {
	t.Parallel()
	w, m := setup(t)
	ctx := context.Background()
	_, err := m.Prepare(ctx, "run-1", w.tip.ID, nil)
	must(t, err)
	committed := make(chan error, 1)
	first := true
	_, err = m.Verify(ctx, ident.PointID{}, func(int64) {
		if first {
			first = false
			go func() { committed <- m.Commit("run-1") }()
			m.WaitUrgent()
		}
	})
	if !errors.Is(err, replica.ErrPreempted) {
		t.Errorf("got %v", err)
	}
	must(t, <-committed)
}
