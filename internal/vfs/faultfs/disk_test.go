package faultfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/internal/vfs/faultfs"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func is(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
}

func create(t testing.TB, fsys vfs.FS, name, text string) vfs.File {
	t.Helper()
	f, err := fsys.OpenFile(name, vfs.Create, 0o600)
	must(t, err)
	_, err = f.WriteAt([]byte(text), 0)
	must(t, err)
	return f
}

// read returns a file's content, or "-" when it is not there.
func read(t testing.TB, fsys vfs.FS, name string) string {
	t.Helper()
	b, err := vfs.ReadFile(fsys, name)
	if errors.Is(err, fs.ErrNotExist) {
		return "-"
	}
	must(t, err)
	return string(b)
}

// TestLikeARealFileSystem does the same seeded operations on a Disk and on the
// machine's file system: their outcomes are the same, and so is what they hold.
func TestLikeARealFileSystem(t *testing.T) {
	t.Parallel()
	for seed := range uint64(15) {
		rng := rand.New(rand.NewPCG(seed, 1))
		disk := faultfs.New()
		must(t, disk.MkdirAll("/r", 0o755))
		mem := &driver{fs: disk, root: "/r", files: map[string]vfs.File{}}
		real := &driver{fs: vfs.OS{}, root: t.TempDir(), files: map[string]vfs.File{}}
		var log []string
		for range 300 {
			op := draw(rng)
			a, b := mem.do(op), real.do(op)
			log = append(log, fmt.Sprintf("%+v: %s", op, a))
			if a != b {
				t.Fatalf("seed %d: a disk gives %s\nand the machine %s\nafter %s", seed, a, b, strings.Join(log[max(0, len(log)-12):], "\n"))
			}
		}
		for _, d := range []*driver{mem, real} {
			for _, f := range d.files {
				must(t, f.Close())
			}
		}
	}
}

// step is one operation of the comparison.
type step struct {
	kind, a, b string
	off, n     int64
	fill       byte
}

func draw(rng *rand.Rand) step {
	names := []string{"x", "y", "d", "d/x", "d/e", "d/e/y", "x/under"}
	kinds := []string{"open", "new", "empty", "close", "write", "write", "append", "truncate", "punch", "sync", "read", "rename", "remove", "removeall", "mkdir", "list", "stat", "syncdir"}
	return step{
		kind: kinds[rng.IntN(len(kinds))], a: names[rng.IntN(len(names))], b: names[rng.IntN(len(names))],
		off: rng.Int64N(20000), n: 1 + rng.Int64N(9000), fill: byte(1 + rng.IntN(255)),
	}
}

type driver struct {
	fs    vfs.FS
	root  string
	files map[string]vfs.File
}

// outcome is what both must agree on: the kind of error, not its text.
func outcome(v any, err error) string {
	for _, e := range []error{io.EOF, fs.ErrNotExist, fs.ErrClosed, syscall.ENOTDIR, syscall.EISDIR, syscall.ENOTEMPTY, fs.ErrExist, syscall.EINVAL} {
		if errors.Is(err, e) {
			return fmt.Sprint(v, " ", e)
		}
	}
	return fmt.Sprint(v, " ", err)
}

func (d *driver) do(s step) string {
	path := filepath.Join(d.root, s.a)
	switch s.kind {
	case "open", "new", "empty":
		flag := map[string]int{"open": vfs.ReadWrite, "new": vfs.CreateNew, "empty": vfs.CreateTrunc}[s.kind]
		f, err := d.fs.OpenFile(path, flag, 0o600)
		if err == nil {
			if old := d.files[s.a]; old != nil {
				_ = old.Close()
			}
			d.files[s.a] = f
		}
		return outcome("", err)
	case "rename":
		return outcome("", d.fs.Rename(path, filepath.Join(d.root, s.b)))
	case "remove":
		return outcome("", d.fs.Remove(path))
	case "removeall":
		return outcome("", d.fs.RemoveAll(path))
	case "mkdir":
		return outcome("", d.fs.MkdirAll(path, 0o700))
	case "syncdir":
		fi, err := d.fs.Stat(path)
		if err != nil || !fi.IsDir() {
			return "" // fsync of a file is no error for the machine
		}
		return outcome("", d.fs.SyncDir(path))
	case "list":
		all, err := d.fs.ReadDir(path)
		var names []string
		for _, e := range all {
			names = append(names, fmt.Sprint(e.Name(), e.IsDir()))
		}
		return outcome(names, err)
	case "stat":
		fi, err := d.fs.Stat(path)
		if err != nil || fi.IsDir() {
			return outcome("", err)
		}
		return outcome(fmt.Sprint(fi.Name(), fi.Size(), fi.Mode()), nil)
	}
	f := d.files[s.a]
	if f == nil {
		return ""
	}
	return d.doFile(s, f)
}

func (d *driver) doFile(s step, f vfs.File) string {
	p := bytes.Repeat([]byte{s.fill}, int(s.n))
	switch s.kind {
	case "write":
		n, err := f.WriteAt(p, s.off)
		return outcome(n, err)
	case "append":
		n, err := f.Write(p)
		return outcome(n, err)
	case "truncate":
		return outcome("", f.Truncate(s.off))
	case "punch":
		return outcome("", f.PunchHole(s.off, s.n))
	case "sync":
		return outcome("", f.Sync())
	case "close":
		delete(d.files, s.a)
		return outcome("", f.Close())
	}
	n, err := f.ReadAt(p, s.off)
	size, serr := f.Size()
	m, rerr := f.Read(make([]byte, 10))
	return outcome(fmt.Sprintf("%x %d %v %d %v", p[:n], size, serr, m, rerr), err)
}

// TestNothingUnsyncedSurvives is a power cut after which all that was not
// synced is gone.
func TestNothingUnsyncedSurvives(t *testing.T) {
	t.Parallel()
	d := faultfs.New()
	must(t, d.MkdirAll("/d", 0o755))
	a := create(t, d, "/d/a", "old")
	must(t, a.Sync())
	must(t, d.SyncDir("/d"))
	create(t, d, "/d/unnamed", "synced, and its folder was not")
	b := create(t, d, "/d/b", "never synced")
	must(t, d.SyncDir("/d"))
	must(t, create(t, d, "/d/nameless", "x").Sync())
	_, err := a.WriteAt([]byte("new and longer"), 0)
	must(t, err)
	must(t, d.MkdirAll("/e/f", 0o755))
	must(t, vfs.WriteFile(d, "/e/f/whole", []byte("whole"), 0o600))
	must(t, d.RemoveAll("/d/unnamed"))

	after := d.Clone().Cut(nil)
	for name, want := range map[string]string{"/d/a": "old", "/d/b": "", "/d/nameless": "-", "/d/unnamed": "", "/e/f/whole": "whole"} {
		if got := read(t, after, name); got != want {
			t.Errorf("%s holds %q, want %q", name, got, want)
		}
	}
	if got := read(t, d, "/d/a"); got != "new and longer" {
		t.Errorf("a cut of a clone changed the disk: %q", got)
	}
	d.Cut(nil)
	is(t, b.Sync(), faultfs.ErrNoPower)
	_, err = d.Stat("/d")
	is(t, err, faultfs.ErrNoPower)
}

// TestWhatACutDraws: every outcome that a power cut may have comes with some
// seed, and none else.
func TestWhatACutDraws(t *testing.T) {
	t.Parallel()
	d := faultfs.New()
	old, now := strings.Repeat("o", 8192), strings.Repeat("n", 8192)
	f := create(t, d, "/f", old)
	must(t, f.Sync())
	must(t, create(t, d, "/from", "moved").Sync())
	must(t, d.SyncDir("/"))
	_, err := f.WriteAt([]byte(now), 0)
	must(t, err)
	faults := faultfs.Over(d)
	faults.Fail(faultfs.Rule{Op: faultfs.Rename, Late: true})
	is(t, faults.Rename("/from", "/to"), syscall.EIO)

	seen := map[string]bool{}
	for seed := range uint64(300) {
		c := d.Clone().Cut(rand.New(rand.NewPCG(seed, 2)))
		got := read(t, c, "/f")
		if len(got) != len(old) {
			t.Fatalf("%d bytes", len(got))
		}
		for i := 0; i < len(got); i += 512 {
			if s := got[i : i+512]; s != old[:512] && s != now[:512] {
				t.Fatalf("a sector is torn: %q", s)
			}
		}
		switch {
		case got == old:
			seen["old"] = true
		case got == now:
			seen["new"] = true
		case strings.Count(got, "n")%4096 == 0:
			seen["one page"] = true
		default:
			seen["torn"] = true
		}
		from, to := read(t, c, "/from"), read(t, c, "/to")
		if (from == "moved") == (to == "moved") {
			t.Fatalf("a rename left %q and %q", from, to)
		}
		seen["renamed "+to] = true
	}
	for _, want := range []string{"old", "new", "one page", "torn", "renamed moved", "renamed -"} {
		if !seen[want] {
			t.Errorf("no cut leaves %s: %v", want, seen)
		}
	}
}

// TestSizeAfterACut: a file that grew has the old size, the new one or one
// between, and zeros where its pages were lost; never what was never written.
func TestSizeAfterACut(t *testing.T) {
	t.Parallel()
	sizes := map[int64]bool{}
	for seed := range uint64(200) {
		d := faultfs.New()
		f := create(t, d, "/f", "abc")
		must(t, errors.Join(f.Sync(), d.SyncDir("/")))
		_, err := f.WriteAt(bytes.Repeat([]byte{'x'}, 10000), 3)
		must(t, err)
		c := d.Cut(rand.New(rand.NewPCG(seed, 3)))
		got := read(t, c, "/f")
		if !strings.HasPrefix(got, "abc") || strings.Trim(got[3:], "x\x00") != "" {
			t.Fatalf("seed %d: %q", seed, got)
		}
		sizes[int64(len(got))] = true
		// What lies behind the end is zero when the file grows again.
		f, err = c.OpenFile("/f", vfs.ReadWrite, 0)
		must(t, err)
		must(t, f.Truncate(20000))
		if rest := read(t, c, "/f")[len(got):]; strings.Trim(rest, "\x00") != "" {
			t.Fatalf("seed %d: %q behind the end", seed, rest)
		}
	}
	if !sizes[3] || !sizes[10003] || len(sizes) < 10 {
		t.Errorf("sizes %v", sizes)
	}
}

func TestCapacity(t *testing.T) {
	t.Parallel()
	d := faultfs.New()
	d.SetCapacity(5 * 4096)
	free := func(want int64) {
		t.Helper()
		got, err := d.Free("/")
		must(t, err)
		if got != want*4096 {
			t.Fatalf("%d bytes free, want %d pages", got, want)
		}
	}
	a := create(t, d, "/a", strings.Repeat("a", 3*4096))
	must(t, a.Sync())
	free(2)
	b, err := d.OpenFile("/b", vfs.Create, 0o600)
	must(t, err)
	must(t, b.CloneFrom(a))
	free(2)
	_, err = b.WriteAt([]byte("own"), 0)
	must(t, err)
	free(1)
	n, err := a.WriteAt(bytes.Repeat([]byte{'z'}, 3*4096), 0) // the second page is shared no more afterwards
	is(t, err, syscall.ENOSPC)
	if n != 2*4096 {
		t.Errorf("%d bytes fit", n)
	}
	must(t, d.Remove("/b"))
	free(2)
	_, err = a.WriteAt(bytes.Repeat([]byte{'z'}, 3*4096), 0)
	must(t, err)
	must(t, a.PunchHole(0, 4096))
	free(3)
	must(t, a.Truncate(0))
	free(5)
	if _, err := d.Free("/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestHolesAndClones(t *testing.T) {
	t.Parallel()
	d := faultfs.New()
	f := create(t, d, "/f", "start")
	must(t, f.Truncate(1<<40))
	_, err := f.WriteAt([]byte("far"), 1<<30+100)
	must(t, err)
	extents := func(f vfs.File) (all []int64) {
		for off := int64(0); ; {
			start, end, err := f.NextData(off)
			if errors.Is(err, io.EOF) {
				return all
			}
			must(t, err)
			all, off = append(all, start, end), end
		}
	}
	want := fmt.Sprint([]int64{0, 4096, 1 << 30, 1<<30 + 4096})
	if got := fmt.Sprint(extents(f)); got != want {
		t.Errorf("extents %s, want %s", got, want)
	}
	c, err := d.OpenFile("/c", vfs.Create, 0o600)
	must(t, err)
	must(t, c.CloneFrom(f))
	if got := fmt.Sprint(extents(c)); got != want {
		t.Errorf("extents of the clone %s, want %s", got, want)
	}
	_, err = f.WriteAt([]byte("START"), 0)
	must(t, err)
	p := make([]byte, 5)
	_, err = c.ReadAt(p, 0)
	must(t, err)
	if string(p) != "start" {
		t.Errorf("the clone reads %q", p)
	}
	d.SetReflink(false)
	is(t, c.CloneFrom(f), errors.ErrUnsupported)
}

// TestCloneIsApart: a disk and its clone share nothing that is written.
func TestCloneIsApart(t *testing.T) {
	t.Parallel()
	d := faultfs.New()
	f := create(t, d, "/f", "first")
	c := d.Clone()
	_, err := f.WriteAt([]byte("other"), 0)
	must(t, err)
	create(t, c, "/f", "third")
	if a, b := read(t, d, "/f"), read(t, c, "/f"); a != "other" || b != "third" {
		t.Errorf("%q and %q", a, b)
	}
}
