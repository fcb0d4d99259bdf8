package replica_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

// A golden store is a folder under testdata, store_vVERSION: store/ as the
// program of that version left it, expected.json, and the point that its sender
// was about to send: next.json and the segments in next/. What is expected is
// in words of its own: it must not change with the records that it checks.
type goldenExpected struct {
	Now    time.Time               `json:"now"`
	Disks  map[string]ident.DiskID `json:"disks"`
	Points []goldenContent         `json:"points"` // oldest first; the last one is next
	Staged []goldenStaged          `json:"staged"`
}

type goldenContent struct {
	ID       string            `json:"id"`
	Seq      uint64            `json:"seq"`
	Instant  time.Time         `json:"instant"`
	Received time.Time         `json:"received"`
	Labels   []string          `json:"labels"`
	Held     bool              `json:"held"`
	SHA256   map[string]string `json:"sha256"` // by disk
}

type goldenStaged struct {
	Disk     string `json:"disk"`
	Segments int    `json:"segments"` // that are whole
	Part     int64  `json:"part"`     // bytes of the next one
}

// TestGoldenStores: stores of every version that was ever written open, and go
// on. With -update one of this program's version is made if there is none:
// what is there is never made anew, since it stands for stores in the field.
func TestGoldenStores(t *testing.T) {
	t.Parallel()
	current := filepath.Join("testdata", fmt.Sprintf("store_v%d", replica.RecordVersion))
	if _, err := os.Stat(current); *update && err != nil {
		makeGolden(t, current)
	}
	stores, err := filepath.Glob("testdata/store_v*")
	must(t, err)
	if !slices.Contains(stores, current) {
		t.Errorf("there is no %s: -update makes it", current)
	}
	for _, src := range stores {
		t.Run(filepath.Base(src), func(t *testing.T) {
			t.Parallel()
			w, want := copyGolden(t, src)
			if src == current {
				w.encodedAgain(t)
			}
			goldenGoesOn(t, w, want)
		})
	}
}

// copyGolden copies a golden store to where it may be changed. Its heads have
// another path there than the one that it remembers.
func copyGolden(t *testing.T, src string) (*world, goldenExpected) {
	t.Helper()
	w := newWorld(tempDir(t), 5, "system", "data")
	must(t, os.CopyFS(w.dir, os.DirFS(src)))
	b, err := os.ReadFile(filepath.Join(src, "expected.json"))
	must(t, err)
	var want goldenExpected
	must(t, json.Unmarshal(b, &want))
	w.ids, w.now = want.Disks, want.Now
	return w, want
}

// encodedAgain: a record that is read and written is the same, byte for byte:
// no field of it is unknown, and none is new without a version of its own.
func (w *world) encodedAgain(t *testing.T) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(w.dir, "store/erp/points/*.json"))
	must(t, err)
	for _, name := range append(names, filepath.Join(w.dir, "store/erp/replica.json")) {
		b, err := os.ReadFile(name)
		must(t, err)
		var again []byte
		if filepath.Base(name) == "replica.json" {
			s, derr := replica.DecodeState(name, b)
			must(t, derr)
			if extra := s.Unknown(); len(extra) > 0 {
				t.Errorf("%s holds what no field takes: %s", name, extra)
			}
			again, err = replica.EncodeState(s)
		} else {
			p, derr := replica.DecodePoint(name, b)
			must(t, derr)
			again, err = replica.EncodePoint(p)
		}
		must(t, err)
		if !bytes.Equal(again, b) {
			t.Errorf("%s is written otherwise than it was read:\n%s\n%s", name, b, again)
		}
	}
}

// goldenGoesOn opens a golden store, reads its points, ends the point that was
// on its way, and lives on.
func goldenGoesOn(t *testing.T, w *world, want goldenExpected) {
	t.Helper()
	ctx := context.Background()
	before := w.files(t)
	m := open(t, w)
	if after := w.files(t); !slices.Equal(after, before) {
		t.Errorf("opened, it has the files\n%s\nand had\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
	state, err := os.ReadFile(filepath.Join(w.dir, "store/erp/replica.json"))
	must(t, err)
	if bytes.Contains(state, []byte(`"rescan"`)) {
		t.Errorf("its tables were not taken: %s", state)
	}
	was := want.Points[:len(want.Points)-1]
	w.goldenPoints(t, m, was)
	if got, want := uint64(m.Applied()), was[len(was)-2].Seq; got != want {
		t.Errorf("point %d is applied, want %d", got, want)
	}
	w.goldenNext(t, m, want)
	w.goldenPoints(t, m, want.Points)
	must(t, m.Apply(ctx))
	must(t, w.check(m))

	w.change()
	must(t, w.cycle(m)) // a sender of today
	must(t, m.Apply(ctx))
	dropped, err := m.Thin(ctx, []recovery.Keep{{Last: 2}}, w.now)
	must(t, err)
	left := m.Points()
	if dropped != len(want.Points)-2 || len(left) != 3 || !left[0].Held || left[0].ID.String() != was[0].ID {
		t.Errorf("%d points dropped, left are %+v; want the held one and the newest two", dropped, left)
	}
	must(t, w.check(m)) // opens a view of each
	m = reopen(t, w, m)
	must(t, w.check(m))
}

// files are the names of all files of the store.
func (w *world) files(t *testing.T) (names []string) {
	t.Helper()
	dir := filepath.Join(w.dir, "store")
	must(t, fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, path)
		}
		return err
	}))
	return names
}

// goldenPoints compares the points with what is expected, and reads each disk
// of each through a view. The model knows them from then on.
func (w *world) goldenPoints(t *testing.T, m *replica.Machine, want []goldenContent) {
	t.Helper()
	points := m.Points()
	if len(points) != len(want) {
		t.Fatalf("%d points, want %d", len(points), len(want))
	}
	w.order = nil
	for i, p := range points {
		e := want[i]
		if p.ID.String() != e.ID || uint64(p.Seq) != e.Seq || !p.Instant.Equal(e.Instant) || !p.Received.Equal(e.Received) ||
			p.Held != e.Held || !slices.Equal(p.Labels, e.Labels) || p.Kind != recovery.Crash {
			t.Errorf("point %+v, want %+v", p, e)
		}
		res, err := m.PrepareTest(context.Background(), "golden", p.ID, nil)
		must(t, err)
		for _, n := range w.names {
			b, err := os.ReadFile(res.Paths[n])
			must(t, err)
			if got := hexSum(b); got != e.SHA256[n] {
				t.Fatalf("point %d: disk %s has the SHA-256 %s, want %s", e.Seq, n, got, e.SHA256[n])
			}
			w.disks[n] = b
		}
		must(t, m.CleanupTest("golden"))
		w.keep(p)
	}
}

// goldenNext ends the point that was on its way: its segments that are whole
// are not asked for again, and one goes on at its byte.
func (w *world) goldenNext(t *testing.T, m *replica.Machine, want goldenExpected) {
	t.Helper()
	path := filepath.Join(w.dir, "next.json")
	b, err := os.ReadFile(path)
	must(t, err)
	next, err := replica.DecodePoint(path, b)
	must(t, err)
	var staged []goldenStaged
	for _, s := range m.Staged() {
		if d, _ := next.Disk(s.Disk); d.Log != s.Log {
			t.Errorf("staged of disk %s is log %s, want %s", s.Disk, s.Log, d.Log)
		}
		staged = append(staged, goldenStaged{s.Disk, s.Segments, s.Part})
	}
	if !slices.Equal(staged, want.Staged) {
		t.Errorf("staged are %+v, want %+v", staged, want.Staged)
	}
	for _, d := range next.Disks {
		for k := range d.Segments {
			data, err := os.ReadFile(w.nextSegment(d.Name, k))
			must(t, err)
			sum := sha256.Sum256(data)
			must(t, send(m, segment{command.SegmentHeader{
				Machine: "erp", Epoch: 1, Disk: d.Name, From: next.From, Log: d.Log, Segment: k, Size: int64(len(data)), SHA256: sum[:],
			}, data}))
		}
	}
	_, err = m.Accept(context.Background(), next, time.Second)
	must(t, err)
}

func (w *world) nextSegment(disk string, n int) string {
	return filepath.Join(w.dir, "next", fmt.Sprintf("%s.%d.hrl", disk, n))
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// makeGolden makes a golden store: three applied points, the first held with a
// label and one after it thinned away, one point that is not applied, and one
// that is on its way.
func makeGolden(t *testing.T, to string) {
	t.Helper()
	w := newWorld(tempDir(t), 7, "system", "data")
	w.disks["system"], w.disks["data"] = lines("system", 16*block), lines("data", 20*block+512)
	m := open(t, w)
	for i := range 5 {
		must(t, w.cycle(m))
		if i < 4 {
			must(t, m.Apply(context.Background()))
		}
		w.rewriteSome(i)
	}
	_, err := m.Label(context.Background(), w.order[0], []string{"before upgrade"}, true)
	must(t, err)
	_, err = m.Thin(context.Background(), []recovery.Keep{{Last: 3}}, w.now) // merges two undo logs
	must(t, err)
	w.order = slices.Delete(w.order, 1, 2)
	next, segs, err := w.cut(m)
	must(t, err)
	must(t, os.Mkdir(filepath.Join(w.dir, "next"), 0o700))
	for _, s := range segs {
		must(t, os.WriteFile(w.nextSegment(s.header.Disk, s.header.Segment), s.data, 0o600))
	}
	must(t, send(m, segs[0])) // of system; of data only a part
	r, err := m.Receive(segs[2].header)
	must(t, err)
	_, err = r.Write(segs[2].data[:len(segs[2].data)/2])
	must(t, err)
	r.Abort()
	must(t, m.Close())

	want := goldenExpected{Now: w.now, Disks: w.ids, Staged: []goldenStaged{{"system", 1, 0}, {"data", 0, int64(len(segs[2].data) / 2)}}}
	next.Received = w.now
	w.keep(next)
	for _, id := range w.order {
		s := w.kept[id]
		c := goldenContent{
			ID: id.String(), Seq: uint64(s.point.Seq), Instant: s.point.Instant, Received: s.point.Received, SHA256: map[string]string{},
		}
		if id == w.order[0] {
			c.Labels, c.Held = []string{"before upgrade"}, true
		}
		for n, b := range s.disks {
			c.SHA256[n] = hexSum(b)
		}
		want.Points = append(want.Points, c)
	}
	b, err := json.MarshalIndent(want, "", " ")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(w.dir, "expected.json"), append(b, '\n'), 0o600))
	b, err = replica.EncodePoint(next)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(w.dir, "next.json"), b, 0o600))
	// The folder it was made in is no part of it.
	path := filepath.Join(w.dir, "store/erp/replica.json")
	b = rewrite(t, path, func(e map[string]json.RawMessage) {
		e["body"] = bytes.ReplaceAll(e["body"], []byte(w.dir), []byte("/golden"))
	})
	st, err := replica.DecodeState(path, b)
	must(t, err)
	b, err = replica.EncodeState(st)
	must(t, err)
	must(t, os.WriteFile(path, b, 0o600))
	must(t, os.Remove(filepath.Join(w.dir, "wire.hrl")))
	must(t, os.CopyFS(to, os.DirFS(w.dir)))
}

// lines is content that takes little room in a repository.
func lines(what string, n int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%s %d\n", what, i/20)
	}
	d := b.Bytes()[:n]
	clear(d[n/3&^(block-1) : n/2&^(block-1)])
	return d
}

// rewriteSome changes some blocks of every disk, makes one zero, and lets data
// grow, then shrink.
func (w *world) rewriteSome(i int) {
	for _, n := range w.names {
		d := bytes.Clone(w.disks[n])
		for _, k := range []int{1, 6, 9 + i} {
			copy(d[k*block+100:], fmt.Sprintf("cycle %d wrote into %s", i, n))
		}
		clear(d[(10+i)*block : (11+i)*block])
		switch {
		case n == "data" && i == 0:
			d = append(d, lines("more", 3*block)...)
		case n == "data" && i == 1:
			d = d[:len(d)-2*block]
		}
		w.disks[n] = d
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(5 * time.Minute)
}
