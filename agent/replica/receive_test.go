package replica_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

// bundle is a replica with two points, applied.
func setup(t *testing.T) (*world, *replica.Machine) {
	t.Helper()
	w := newWorld(tempDir(t), 3, "data")
	m := open(t, w)
	must(t, w.cycle(m))
	w.change()
	must(t, w.cycle(m))
	must(t, m.Apply(context.Background()))
	w.change()
	for same(w.disks["data"], w.sent["data"]) && len(w.disks["data"]) == len(w.sent["data"]) {
		w.change()
	}
	return w, m
}

func reopen(t *testing.T, w *world, m *replica.Machine) *replica.Machine {
	t.Helper()
	must(t, m.Close())
	return open(t, w)
}

func TestSegmentResumesAtTheByte(t *testing.T) {
	t.Parallel()
	w, m := setup(t)
	p, segs, err := w.cut(m)
	must(t, err)
	r, err := m.Receive(segs[0].header)
	must(t, err)
	half := len(segs[0].data) / 2
	_, err = r.Write(segs[0].data[:half])
	must(t, err)
	r.Abort()
	if _, err := r.Write([]byte{1}); err == nil {
		t.Error("an aborted receiver takes bytes")
	}
	m = reopen(t, w, m)
	if s := m.Staged(); len(s) != 1 || s[0].Part != int64(half) || s[0].Segments != 0 || s[0].Log != segs[0].header.Log {
		t.Fatalf("staged %+v", s)
	}
	r, err = m.Receive(segs[0].header)
	must(t, err)
	if r.Offset() != int64(half) {
		t.Fatalf("goes on at %d, want %d", r.Offset(), half)
	}
	_, err = io.Copy(r, bytes.NewReader(segs[0].data[half:]))
	must(t, err)
	must(t, r.Commit(context.Background()))
	if r, err := m.Receive(segs[0].header); err != nil || r != nil {
		t.Fatalf("a segment that is here is asked for again: %v", err)
	}
	m = reopen(t, w, m)
	if s := m.Staged(); len(s) != 1 || s[0].Segments != 1 || s[0].Part != 0 {
		t.Fatalf("staged %+v", s)
	}
	for _, s := range segs[1:] {
		must(t, send(m, s))
	}
	got, err := m.Accept(context.Background(), p, 2*time.Second)
	must(t, err)
	w.keep(got)
	if again, err := m.Accept(context.Background(), p, time.Second); err != nil || again.Received != got.Received {
		t.Errorf("accepting again: %+v, %v", again, err)
	}
	if r, err := m.Receive(segs[0].header); err != nil || r != nil {
		t.Errorf("a segment of an accepted point is asked for again: %v", err)
	}
	if tip, age, ok := m.Tip(); !ok || tip.ID != p.ID || age != 2*time.Second {
		t.Errorf("tip %s of age %s", tip.ID, age)
	}
	must(t, w.check(m))
}

// TestSyncThatFailed: bytes that may be lost are not synced again but sent again.
func TestSyncThatFailed(t *testing.T) {
	t.Parallel()
	w, m := setup(t)
	must(t, m.Close())
	f := &faultFS{left: -1}
	w.fs = f
	m = open(t, w)
	p, segs, err := w.cut(m)
	must(t, err)
	f.filter = func(op, path string) error {
		if op == "sync" && strings.HasSuffix(path, ".part") {
			return errTest
		}
		return nil
	}
	if err := send(m, segs[0]); !errors.Is(err, errTest) {
		t.Fatalf("got %v", err)
	}
	f.filter = nil
	r, err := m.Receive(segs[0].header)
	must(t, err)
	if r.Offset() != 0 {
		t.Errorf("goes on at %d", r.Offset())
	}
	r.Abort()
	for _, s := range segs {
		must(t, send(m, s))
	}
	got, err := m.Accept(context.Background(), p, 0)
	must(t, err)
	w.keep(got)
	must(t, w.check(m))
}

func TestTipAgeGoesOn(t *testing.T) {
	t.Parallel()
	w, m := setup(t)
	w.now = w.now.Add(time.Minute)
	_, before, _ := m.Tip()
	m = reopen(t, w, m)
	w.now = w.now.Add(time.Minute)
	if _, age, _ := m.Tip(); age != before+time.Minute {
		t.Errorf("age %s after a restart and a minute, before %s", age, before)
	}
}

func TestSegmentsThatAreRefused(t *testing.T) {
	t.Parallel()
	w, m := setup(t)
	p, segs, err := w.cut(m)
	must(t, err)
	ctx := context.Background()
	t.Run("another tip", func(t *testing.T) {
		h := segs[0].header
		h.From = ident.NewPointID()
		_, err := m.Receive(h)
		wantKind(t, err, fault.Conflict)
	})
	t.Run("not this machine or disk, or out of range", func(t *testing.T) {
		h := segs[0].header
		h.Machine = "crm"
		_, err := m.Receive(h)
		wantKind(t, err, fault.Invalid)
		h = segs[0].header
		h.Disk = "../data"
		_, err = m.Receive(h)
		wantKind(t, err, fault.NotFound)
		h = segs[0].header
		h.Size = 1 << 40
		_, err = m.Receive(h)
		wantKind(t, err, fault.Invalid)
	})
	t.Run("damaged on the way", func(t *testing.T) {
		bad := segs[0]
		bad.data = bytes.Clone(bad.data)
		bad.data[len(bad.data)/2] ^= 1
		wantKind(t, send(m, bad), fault.Corrupt)
		if s := m.Staged(); len(s) > 0 && (s[0].Segments != 0 || s[0].Part != 0) {
			t.Errorf("it stays: %+v", s)
		}
	})
	t.Run("longer than announced, and shorter", func(t *testing.T) {
		r, err := m.Receive(segs[0].header)
		must(t, err)
		_, err = r.Write(append(bytes.Clone(segs[0].data), 0))
		wantKind(t, err, fault.Invalid)
		wantKind(t, r.Commit(ctx), fault.Invalid)
	})
	t.Run("a point without its segments", func(t *testing.T) {
		_, err := m.Accept(ctx, p, 0)
		wantKind(t, err, fault.Conflict)
	})
	t.Run("a newer connection takes over", func(t *testing.T) {
		first, err := m.Receive(segs[0].header)
		must(t, err)
		second, err := m.Receive(segs[0].header)
		must(t, err)
		_, err = first.Write(segs[0].data)
		wantKind(t, err, fault.Stopped)
		first.Abort()
		_, err = second.Write(segs[0].data[second.Offset():])
		must(t, err)
		must(t, second.Commit(ctx))
	})
	t.Run("another log drops the staged one", func(t *testing.T) {
		_, other, err := w.cut(m)
		must(t, err)
		must(t, send(m, other[0]))
		if s := m.Staged(); len(s) != 1 || s[0].Log != other[0].header.Log {
			t.Errorf("staged %+v", s)
		}
		files, err := os.ReadDir(filepath.Join(w.dir, "store", "erp", "data", "logs"))
		must(t, err)
		if len(files) != 2 {
			t.Errorf("files %v", files)
		}
	})
	must(t, w.cycle(m))
	must(t, w.check(m))
}

func TestManifestThatLies(t *testing.T) {
	t.Parallel()
	w, m := setup(t)
	ctx := context.Background()
	p, segs, err := w.cut(m)
	must(t, err)
	sendAll := func() {
		for _, s := range segs {
			must(t, send(m, s))
		}
	}
	for name, c := range map[string]struct {
		change func(*recovery.Point)
		want   fault.Kind
	}{
		"another sum":        {func(p *recovery.Point) { p.Disks[0].Sum++ }, fault.Corrupt},
		"another size":       {func(p *recovery.Point) { p.Disks[0].Size -= 10 * block }, fault.Corrupt},
		"another disk":       {func(p *recovery.Point) { p.Disks[0].ID = ident.NewDiskID() }, fault.Conflict},
		"an old number":      {func(p *recovery.Point) { p.Seq = 1 }, fault.Conflict},
		"a number far out":   {func(p *recovery.Point) { p.Seq = 1 << 63 }, fault.Invalid},
		"another tip":        {func(p *recovery.Point) { p.From = ident.NewPointID() }, fault.Conflict},
		"another machine":    {func(p *recovery.Point) { p.Machine = "crm" }, fault.Invalid},
		"a newer version":    {func(p *recovery.Point) { p.Version = 2 }, fault.Invalid},
		"no disks":           {func(p *recovery.Point) { p.Disks = nil }, fault.Invalid},
		"a name with a path": {func(p *recovery.Point) { p.Disks[0].Name = "../data" }, fault.Invalid},
	} {
		sendAll()
		bad := p
		bad.Disks = append([]recovery.PointDisk(nil), p.Disks...)
		c.change(&bad)
		if _, err := m.Accept(ctx, bad, 0); !fault.Is(err, c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
		if c.want == fault.Corrupt && len(m.Staged()) != 0 {
			t.Errorf("%s: the staged logs stay", name)
		}
	}
	sendAll()
	got, err := m.Accept(ctx, p, 0)
	must(t, err)
	w.keep(got)
	must(t, w.check(m))
}

func TestCompare(t *testing.T) {
	t.Parallel()
	w, m := setup(t)
	if res, err := open(t, newWorld(tempDir(t), 1, "data")).Ranges("data", 0, 10); err != nil || res.Size != 0 || len(res.Sums) != 0 {
		t.Errorf("an empty replica answers %+v, %v", res, err)
	}
	want := w.sent["data"]
	res, err := m.Ranges("data", 0, 10)
	must(t, err)
	if res.Size != int64(len(want)) || res.Sum != sum(w.key("data"), want) || len(res.Sums) != 8 {
		t.Errorf("ranges %+v", res)
	}
	blocks, err := m.Blocks("data", []int64{0, 7})
	must(t, err)
	if len(blocks.Hashes) != 2 || int64(len(blocks.Hashes[0])) != 8*blocksum.BlockCount(int64(len(want))) || len(blocks.Hashes[1]) != 0 {
		t.Errorf("blocks %v", blocks)
	}
	_, err = m.Blocks("data", make([]int64, 5000))
	wantKind(t, err, fault.Invalid)
	_, err = m.Ranges("other", 0, 1)
	wantKind(t, err, fault.NotFound)
}

func TestNoSpace(t *testing.T) {
	t.Parallel()
	w, m := setup(t)
	must(t, m.Close())
	f := &faultFS{left: -1}
	w.fs = f
	m = open(t, w)
	ctx := context.Background()
	p, segs, err := w.cut(m)
	must(t, err)
	f.free = func(string) (int64, error) { return 10, nil }
	_, err = m.Receive(segs[0].header)
	wantKind(t, err, fault.NoSpace)
	f.free = func(string) (int64, error) { return segs[0].header.Size + 100, nil }
	r, err := m.Receive(segs[0].header)
	must(t, err)
	_, err = r.Write(segs[0].data)
	must(t, err)
	err = r.Commit(ctx) // the file fits, the head and its undo log would not
	wantKind(t, err, fault.NoSpace)
	if fault.Hint(err) == "" {
		t.Error("no hint")
	}
	if s := m.Staged(); len(s) != 1 || s[0].Part != segs[0].header.Size {
		t.Errorf("the bytes are gone: %+v", s)
	}
	_, err = m.Prepare(ctx, "run", w.order[0], nil)
	wantKind(t, err, fault.NoSpace)
	_, err = m.PrepareTest(ctx, "t", w.order[0], nil)
	wantKind(t, err, fault.NoSpace)
	f.free = nil
	must(t, w.check(m))
	for _, s := range segs {
		must(t, send(m, s))
	}
	got, err := m.Accept(ctx, p, 0)
	must(t, err)
	w.keep(got)
	must(t, m.Apply(ctx))
	must(t, w.check(m))
}

func TestHeadThatIsNotOurs(t *testing.T) {
	t.Parallel()
	w := newWorld(tempDir(t), 5, "data")
	w.heads["data"] = filepath.Join(w.dir, "home.img")
	must(t, os.WriteFile(w.heads["data"], []byte("somebody's data"), 0o600))
	m := open(t, w)
	wantKind(t, w.cycle(m), fault.Refused)
	must(t, os.Remove(w.heads["data"]))
	must(t, w.cycle(m))
	must(t, m.Apply(context.Background()))
	must(t, w.check(m))
	got, err := os.ReadFile(w.heads["data"])
	must(t, err)
	if !bytes.Equal(got, w.disks["data"]) {
		t.Error("the head is not the disk")
	}
}
