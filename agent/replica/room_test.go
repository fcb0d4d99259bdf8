package replica_test

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// twoFS says that paths below other lie on a file system of their own.
type twoFS struct {
	*faultFS
	other string
}

type info struct {
	fs.FileInfo
	sys syscall.Stat_t
}

func (i info) Sys() any { return &i.sys }

func (f twoFS) Stat(path string) (fs.FileInfo, error) {
	fi, err := f.faultFS.Stat(path)
	if err != nil {
		return nil, err
	}
	i := info{FileInfo: fi}
	if strings.HasPrefix(path, f.other) {
		i.sys.Dev = 1
	}
	return i, nil
}

// setFree says how much room there is, here and there.
func (f twoFS) setFree(store, other int64) {
	f.free = func(path string) (int64, error) {
		if strings.HasPrefix(path, f.other) {
			return other, nil
		}
		return store, nil
	}
}

const plenty = 1 << 40

// apart is a machine whose heads lie on another file system than its store.
func apart(t *testing.T) (*world, twoFS, *replica.Machine) {
	t.Helper()
	w := newWorld(tempDir(t), 61, "system", "data")
	f := twoFS{&faultFS{left: -1}, filepath.Join(w.dir, "heads")}
	must(t, os.Mkdir(f.other, 0o700))
	for _, n := range w.names {
		w.heads[n] = filepath.Join(f.other, n+".img")
		w.disks[n] = bytes.Repeat([]byte{1}, 40*block)
	}
	w.fs, w.segs = f, 1
	f.setFree(plenty, plenty)
	return w, f, open(t, w)
}

// TestRoomBack: what keeping an overlay and changing to another point would
// take, on two file systems; the base that goes is room.
func TestRoomBack(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w, f, m := apart(t)
	for range 3 {
		w.change()
		must(t, w.cycle(m))
	}
	must(t, m.Apply(ctx))
	_, err := m.RoomBack(ctx, w.order[0], nil)
	wantKind(t, err, fault.Refused)
	res, err := m.Prepare(ctx, "run-1", w.tip.ID, nil)
	must(t, err)
	for _, path := range res.Paths {
		d, err := os.ReadFile(path)
		must(t, err)
		for i := range 10 {
			d[i*block] ^= 0x55
		}
		must(t, os.WriteFile(path, d, 0o600))
	}
	ask := func(store, heads int64, to ident.PointID) command.RoomResult {
		t.Helper()
		f.setFree(store, heads)
		r, err := m.RoomBack(ctx, to, nil)
		must(t, err)
		return r
	}
	for _, enough := range []bool{true, false} {
		store := int64(20 * (block + 64))
		if !enough {
			store--
		}
		if r := ask(store, 0, ident.PointID{}); (r.Needed <= r.Free) != enough || r.Needed != 20*(block+64) {
			t.Errorf("a rollback with %d bytes: %+v", store, r)
		}
		if r := ask(store, plenty, w.order[0]); (r.Needed <= r.Free) != enough {
			t.Errorf("a change of the point with %d bytes in the store: %+v", store, r)
		}
	}
	all := ask(plenty, plenty, w.order[0])
	base := int64(0)
	for _, n := range w.names {
		f, err := vfs.OS{}.OpenFile(w.head(n)+".base", vfs.ReadOnly, 0)
		must(t, err)
		for off := int64(0); ; {
			start, end, err := f.NextData(off)
			if err != nil {
				break // the end
			}
			base, off = base+end-start, end
		}
		must(t, f.Close())
	}
	heads := all.Needed - 20*(block+64) - base // beside what the base leaves
	if all.Mode != replica.ModeCopy || heads <= 0 {
		t.Fatalf("the whole change: %+v, the base has %d", all, base)
	}
	if r := ask(plenty, heads, w.order[0]); r.Needed > r.Free {
		t.Errorf("just enough beside the base: %+v", r)
	}
	if r := ask(plenty, heads-1, w.order[0]); r.Needed <= r.Free {
		t.Errorf("a byte too little beside the base: %+v", r)
	}
	if _, p, live := m.Live(); !live || p.ID != w.tip.ID {
		t.Error("a question has ended the overlay")
	}
}

// TestRoomOfAllHeads: the heads of two disks share a file system; what is
// promised to one is not there for the other.
func TestRoomOfAllHeads(t *testing.T) {
	t.Parallel()
	w, f, m := apart(t)
	f.setFree(plenty, 60*block)
	wantKind(t, w.cycle(m), fault.NoSpace)
	f.setFree(plenty, 80*block)
	must(t, w.cycle(m))
	f.setFree(plenty, plenty)
	must(t, m.Apply(context.Background()))
	must(t, w.check(m))
}

// TestRoomOfATest: a view takes room of the store, and never what the logs
// that are not applied yet need.
func TestRoomOfATest(t *testing.T) {
	t.Parallel()
	w, f, m := apart(t)
	ctx := context.Background()
	must(t, w.cycle(m))
	must(t, m.Apply(ctx))
	first := w.tip
	for _, n := range w.names {
		w.disks[n] = bytes.Repeat([]byte{2}, 40*block)
	}
	must(t, w.cycle(m))
	f.setFree(100*block, 0) // the views take 80
	_, err := m.PrepareTest(ctx, "t", first.ID, nil)
	wantKind(t, err, fault.NoSpace)
	f.setFree(170*block, 0) // and the undo logs 80
	_, err = m.PrepareTest(ctx, "t", first.ID, nil)
	must(t, err)
	must(t, m.CleanupTest("t"))
	_, err = m.Prepare(ctx, "run-1", first.ID, nil)
	wantKind(t, err, fault.NoSpace)
	f.setFree(plenty, 160*block) // both disks, and the undo log over each
	_, err = m.Prepare(ctx, "run-1", first.ID, nil)
	must(t, err)
}

// TestRoomForWhatIsCut: a disk that shrinks goes into the undo log.
func TestRoomForWhatIsCut(t *testing.T) {
	t.Parallel()
	w, f, m := apart(t)
	ctx := context.Background()
	must(t, w.cycle(m))
	must(t, m.Apply(ctx))
	w.disks["data"] = bytes.Clone(w.disks["data"][:10*block])
	w.disks["data"][0]++
	p, segs, err := w.cut(m)
	must(t, err)
	f.setFree(20*block, plenty)
	for _, s := range segs {
		must(t, send(m, s))
	}
	_, err = m.Accept(ctx, p, 0)
	wantKind(t, err, fault.NoSpace)
	f.setFree(40*block, plenty)
	got, err := m.Accept(ctx, p, 0)
	must(t, err)
	w.keep(got)
	must(t, m.Apply(ctx))
	f.setFree(plenty, plenty)
	must(t, w.check(m))
}

// TestRoomOfScatteredBlocks: a change at both ends of a large disk takes two
// blocks, also of a disk without holes, and when its sums are made again.
func TestRoomOfScatteredBlocks(t *testing.T) {
	t.Parallel()
	for _, alloc := range []string{"", replica.AllocationFull} {
		w := newWorld(tempDir(t), 62, "data")
		f := &faultFS{left: -1}
		w.fs, w.segs, w.alloc = f, 1, alloc
		w.disks["data"] = make([]byte, 3000*block)
		w.disks["data"][1500*block] = 1
		m := open(t, w)
		ctx := context.Background()
		must(t, w.cycle(m))
		must(t, m.Apply(ctx))
		f.free = func(string) (int64, error) { return 100 * block, nil }
		for i := range 2 {
			w.disks["data"] = bytes.Clone(w.disks["data"])
			w.disks["data"][i], w.disks["data"][len(w.disks["data"])-1-i] = 1, 1
			must(t, w.cycle(m))
			must(t, m.Close())
			files, err := filepath.Glob(filepath.Join(w.dir, "store", "erp", "data", "logs", "*.sums"))
			must(t, err)
			flip(t, files[0], 10)
			m = open(t, w)
		}
		f.free = nil
		must(t, m.Apply(ctx))
		must(t, w.check(m))
	}
}

// TestFullDiskKeepsTheLastPoint: every write fails for a while, at any moment;
// the points stay, the error says so, and it goes on when there is room.
func TestFullDiskKeepsTheLastPoint(t *testing.T) {
	t.Parallel()
	for n := 0; n < 120; n += 7 {
		w := newWorld(tempDir(t), 63, "data")
		f := &faultFS{left: -1}
		w.fs = f
		m := open(t, w)
		ctx := context.Background()
		must(t, w.cycle(m))
		must(t, m.Apply(ctx))
		last, count := w.tip, 0
		full := func(op, _ string) error {
			if op != "write" && op != "create" && op != "truncate" && op != "sync" {
				return nil
			}
			if count++; count > n {
				return syscall.ENOSPC
			}
			return nil
		}
		f.filter = full
		var err error
		for i := 0; i < 5 && err == nil; i++ {
			w.change()
			if err = w.cycle(m); err == nil {
				last = w.tip
				err = m.Apply(ctx)
			}
		}
		if err == nil {
			_, err = m.PrepareTest(ctx, "t", last.ID, nil)
		}
		must(t, m.Close())
		m, oerr := replica.Open(w.config()) // the agent starts anew, the disk is full still
		if oerr != nil || !slices.ContainsFunc(m.Points(), func(p recovery.Point) bool { return p.ID == last.ID }) {
			t.Fatalf("write %d: opened on a full disk: %v", n, oerr)
		}
		f.filter = nil
		if err != nil && (!fault.Is(err, fault.NoSpace) || fault.Hint(err) == "") {
			t.Errorf("write %d: %v (%s, hint %q)", n, err, fault.KindOf(err), fault.Hint(err))
		}
		if tip, _, _ := m.Tip(); tip.ID != last.ID {
			w.keep(tip) // durable, and then the table could not be written
		}
		must(t, w.check(m))
		must(t, w.cycle(m))
		must(t, m.Apply(ctx))
		must(t, w.check(m))
		must(t, m.Close())
	}
}

// TestTwoConnectionsCommit: both have the whole segment, it is stored once.
func TestTwoConnectionsCommit(t *testing.T) {
	t.Parallel()
	w, m := setup(t)
	p, segs, err := w.cut(m)
	must(t, err)
	for _, s := range segs {
		first, err := m.Receive(s.header)
		must(t, err)
		_, err = first.Write(s.data)
		must(t, err)
		must(t, first.Sealed())
		second, err := m.Receive(s.header)
		must(t, err)
		var wg sync.WaitGroup
		for _, r := range []*replica.Receiver{first, second} {
			wg.Go(func() {
				if err := r.Stored(context.Background()); err != nil {
					t.Error(err)
				}
			})
		}
		must(t, second.Sealed())
		wg.Wait()
	}
	got, err := m.Accept(context.Background(), p, 0)
	must(t, err)
	w.keep(got)
	must(t, w.check(reopen(t, w, m)))
}
