package replica_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

// chain is a replica with five points, of which each wrote the first block
// again, and another block of its own.
func chain(t *testing.T) (*world, *replica.Machine) {
	t.Helper()
	w := newWorld(tempDir(t), 21, "data")
	w.segs = 1
	m := open(t, w)
	for i := range 5 {
		must(t, w.cycle(m))
		must(t, m.Apply(context.Background()))
		d := bytes.Clone(w.disks["data"])
		copy(d, fmt.Sprintf("written by cycle %d", i))
		copy(d[(3+2*i)*block:], w.random(block))
		d[(3+2*i)*block] = byte(100 + i)
		w.disks["data"] = d
	}
	return w, m
}

func (w *world) undo(newer, older int) string {
	return filepath.Join(w.dir, "store", "erp", "data", "undo", fmt.Sprintf("%016d-%016d.hrl", newer, older))
}

func flip(t *testing.T, path string, off int64) {
	t.Helper()
	p, err := os.ReadFile(path)
	must(t, err)
	if off < 0 {
		off += int64(len(p))
	}
	p[off] ^= 0x10
	must(t, os.WriteFile(path, p, 0o600))
}

func TestVerifyNamesADamagedUndoLog(t *testing.T) {
	t.Parallel()
	w, m := chain(t)
	ctx := context.Background()
	res, err := m.Verify(ctx, ident.PointID{}, nil)
	must(t, err)
	if len(res.Faults) > 0 || res.Points != 5 {
		t.Fatalf("%+v", res)
	}
	flip(t, w.undo(3, 2), 256+36+20) // in the frame: points 2 and 1 need its blocks
	res, err = m.Verify(ctx, ident.PointID{}, nil)
	must(t, err)
	if len(res.Faults) != 2 || !strings.Contains(res.Faults[0], w.undo(3, 2)) || !strings.Contains(res.Faults[0], w.order[1].String()) ||
		!strings.Contains(res.Faults[1], w.order[0].String()) {
		t.Errorf("faults %q", res.Faults)
	}
	for i, id := range w.order {
		_, err := m.PrepareTest(ctx, "t", id, nil)
		if bad := i < 2; bad != (err != nil) || bad && !fault.Is(err, fault.Corrupt) {
			t.Errorf("point %d: %v", i+1, err)
		}
		must(t, m.CleanupTest("t"))
	}
	if res, err := m.Verify(ctx, w.order[3], nil); err != nil || res.Points != 1 || len(res.Faults) != 0 {
		t.Errorf("a point above it: %+v, %v", res, err)
	}
	m = reopen(t, w, m)
	must(t, w.cycle(m))
	must(t, m.Apply(ctx))
}

func TestVerifyNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	w, m := chain(t)
	ctx := context.Background()
	must(t, os.Remove(w.undo(4, 3)))
	m = reopen(t, w, m)
	res, err := m.Verify(ctx, ident.PointID{}, nil)
	must(t, err)
	if len(res.Faults) != 3 || !strings.Contains(res.Faults[2], "missing") {
		t.Errorf("faults %q", res.Faults)
	}
	if _, err := os.Stat(w.undo(3, 2)); err != nil {
		t.Errorf("the rest of the chain was removed: %v", err)
	}
}

func TestVerifyFindsARottenHead(t *testing.T) {
	t.Parallel()
	w, m := chain(t)
	flip(t, w.head("data"), 30*block)
	res, err := m.Verify(context.Background(), ident.PointID{}, nil)
	must(t, err)
	if len(res.Faults) != 5 { // no undo log has that block
		t.Errorf("faults %q", res.Faults)
	}
}

func TestDamagedManifestCostsOnePoint(t *testing.T) {
	t.Parallel()
	w, m := chain(t)
	ctx := context.Background()
	must(t, m.Close())
	path := w.manifest(w.order[2])
	flip(t, path, 200)
	m = open(t, w)
	if len(m.Points()) != 5 {
		t.Fatalf("%d points", len(m.Points()))
	}
	res, err := m.Verify(ctx, ident.PointID{}, nil)
	must(t, err)
	if len(res.Faults) != 1 || !strings.Contains(res.Faults[0], path) {
		t.Errorf("faults %q", res.Faults)
	}
	for i, id := range w.order {
		if _, err := m.PrepareTest(ctx, "t", id, nil); (err != nil) != (i == 2) {
			t.Errorf("point %d: %v", i+1, err)
		}
		must(t, m.CleanupTest("t"))
	}
	if p, err := recovery.Select(m.Points(), "latest", false); err != nil || p.ID != w.tip.ID {
		t.Errorf("latest: %v", err)
	}
}

func (w *world) manifest(id ident.PointID) string {
	return filepath.Join(w.dir, "store", "erp", "points", fmt.Sprintf("%016d-%s.json", w.kept[id].point.Seq, id))
}

// TestRecordsOfANewerProgram: nothing is touched.
func TestRecordsOfANewerProgram(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		from, to string
		want     fault.Kind
		text     string
	}{
		"must flag": {`"must":[]`, `"must":["encrypted"]`, fault.Refused, `"encrypted"`},
		"version":   {`"version":1,"must"`, `"version":2,"must"`, fault.Refused, "version 2"},
		"format":    {`"format":"drrun `, `"format":"other `, fault.Corrupt, "format"},
	} {
		for _, manifest := range []bool{false, true} {
			w, m := chain(t)
			must(t, m.Close())
			path := filepath.Join(w.dir, "store", "erp", "replica.json")
			if manifest {
				path = w.manifest(w.order[4]) // of the head
			}
			p, err := os.ReadFile(path)
			must(t, err)
			changed := bytes.Replace(p, []byte(c.from), []byte(c.to), 1)
			if bytes.Equal(p, changed) {
				t.Fatalf("%s: nothing to change in %s", name, p)
			}
			must(t, os.WriteFile(path, changed, 0o600))
			tmp := path + ".tmp"
			must(t, os.WriteFile(tmp, []byte("half"), 0o600))
			_, err = replica.Open(w.config())
			wantKind(t, err, c.want)
			if !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: %v", name, err)
			}
			if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, changed) {
				t.Errorf("%s: the record changed: %v", name, err)
			}
			if _, err := os.Stat(tmp); err != nil {
				t.Errorf("%s: a file was removed: %v", name, err)
			}
		}
	}
}

func TestSumsAreMadeAgain(t *testing.T) {
	t.Parallel()
	w, m := chain(t)
	must(t, w.cycle(m))
	must(t, m.Close())
	files, err := filepath.Glob(filepath.Join(w.dir, "store", "erp", "data", "logs", "*.sums"))
	must(t, err)
	if len(files) != 1 {
		t.Fatalf("files %v", files)
	}
	for _, off := range []int64{10, 70} { // in the header, in the hashes
		flip(t, files[0], off)
		m = open(t, w)
		w.change()
		must(t, w.cycle(m)) // folded on top
		must(t, m.Close())
	}
	m = open(t, w)
	must(t, m.Apply(context.Background()))
	must(t, w.check(m))
}

// TestStagedSumsAreMadeAgain: a first copy is not sent anew for it.
func TestStagedSumsAreMadeAgain(t *testing.T) {
	t.Parallel()
	w, m := chain(t)
	w.segs = 2
	p, segs, err := w.cut(m)
	must(t, err)
	must(t, send(m, segs[0]))
	must(t, m.Close())
	files, err := filepath.Glob(filepath.Join(w.dir, "store", "erp", "data", "logs", "*.sums"))
	must(t, err)
	flip(t, files[0], 70)
	m = open(t, w)
	if s := m.Staged(); len(s) != 1 || s[0].Segments != 1 {
		t.Fatalf("staged %+v", s)
	}
	for _, s := range segs {
		must(t, send(m, s))
	}
	got, err := m.Accept(context.Background(), p, 0)
	must(t, err)
	w.keep(got)
	must(t, w.check(m))
}

func TestStoreOfAnotherMachineOrDisk(t *testing.T) {
	t.Parallel()
	w, m := chain(t)
	must(t, m.Close())
	c := w.config()
	c.Machine = "crm"
	_, err := replica.Open(c)
	wantKind(t, err, fault.Refused)
	c = w.config()
	c.Disks[0].ID = ident.NewDiskID()
	_, err = replica.Open(c)
	wantKind(t, err, fault.Refused)
	c = w.config()
	c.Disks[0].Head = filepath.Join(w.dir, "moved.img")
	_, err = replica.Open(c)
	wantKind(t, err, fault.Refused)
	must(t, os.Rename(w.head("data"), c.Disks[0].Head))
	w.heads["data"] = c.Disks[0].Head
	must(t, w.check(open(t, w)))
	c.Disks[0].Name = "points"
	_, err = replica.Open(c)
	wantKind(t, err, fault.Invalid)
	must(t, os.Remove(filepath.Join(w.dir, "store", "erp", "replica.json")))
	_, err = replica.Open(w.config())
	wantKind(t, err, fault.Corrupt)
}

// TestFailedStepsAreDoneAgain lets every kind of operation fail once and goes
// on with the same open replica.
func TestFailedStepsAreDoneAgain(t *testing.T) {
	t.Parallel()
	for n := range 40 {
		w := newWorld(tempDir(t), 31, "data")
		w.segs = 1
		f := &faultFS{left: -1}
		w.fs = f
		m := open(t, w)
		must(t, w.cycle(m))
		must(t, m.Apply(context.Background()))
		count := 0
		f.filter = func(string, string) error {
			if count++; count == n*4 {
				return errTest
			}
			return nil
		}
		for i := 0; i < 6; i++ {
			w.change()
			err := w.cycle(m)
			if err == nil {
				err = m.Apply(context.Background())
			}
			if err != nil && !errors.Is(err, errTest) {
				t.Fatalf("operation %d: %v", n*4, err)
			}
			if tip, _, _ := m.Tip(); tip.ID == w.pending.ID && w.tip.ID != tip.ID {
				w.keep(tip)
			}
		}
		must(t, m.Apply(context.Background()))
		must(t, w.check(m))
	}
}

// TestUnreadableIsNotMissing: a folder that cannot be looked at for a while costs
// nothing.
func TestUnreadableIsNotMissing(t *testing.T) {
	t.Parallel()
	w, m := chain(t)
	must(t, m.SetHold(true))
	must(t, w.cycle(m))
	must(t, m.Close())
	for _, part := range []string{"/logs/", "/undo/", "/head.img", "/table.adopt"} {
		f := &faultFS{left: -1}
		f.look = func(path string) error {
			if strings.Contains(path, part) {
				return errTest
			}
			return nil
		}
		w.fs = f
		if m, err := replica.Open(w.config()); err == nil {
			if err = m.Apply(context.Background()); err == nil {
				_, err = m.Prepare(context.Background(), "run-1", w.order[0], nil)
			}
			if !errors.Is(err, errTest) {
				t.Errorf("%s: %v", part, err)
			}
			f.look = nil
			must(t, m.Close())
		} else if !errors.Is(err, errTest) {
			t.Errorf("%s: %v", part, err)
		}
		w.fs = fastFS{}
		m := open(t, w)
		must(t, w.check(m))
		must(t, m.Close())
	}
}

// TestMissingHead: no empty file takes its place.
func TestMissingHead(t *testing.T) {
	t.Parallel()
	w, m := chain(t)
	ctx := context.Background()
	must(t, os.Rename(w.head("data"), w.dir+"/away"))
	w.change()
	must(t, w.cycle(m)) // what is received is kept
	err := m.Apply(ctx)
	wantKind(t, err, fault.Corrupt)
	if !strings.Contains(err.Error(), w.head("data")) || fault.Hint(err) == "" {
		t.Errorf("got %v", err)
	}
	if _, err := m.PrepareTest(ctx, "t", w.order[0], nil); err == nil {
		t.Error("a view of a disk that is gone")
	}
	if _, err := os.Stat(w.head("data")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something stands there: %v", err)
	}
	must(t, os.Rename(w.dir+"/away", w.head("data")))
	must(t, m.Apply(ctx))
	must(t, w.check(m))
}
