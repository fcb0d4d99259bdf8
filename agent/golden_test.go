package agent_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/agent"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

var update = flag.Bool("update", false, "make the golden files that are missing")

// A golden folder, agent_vVERSION, is what the agents of that version left on
// two hosts: their states in par-1/ and lyo-1/, the store of lyo-1, the
// machine's disk, and expected.json, in words of its own.
type goldenHosts struct {
	Fence  ident.Fence   `json:"fence"`
	Start  string        `json:"start"` // an operation that was done
	Drain  string        `json:"drain"` // one more; it made the newest point
	Points []goldenPoint `json:"points"`
	Item   string        `json:"item"` // what the catalogue holds as estate
}

type goldenPoint struct {
	ID     string   `json:"id"`
	Seq    uint64   `json:"seq"`
	Held   bool     `json:"held"`
	Labels []string `json:"labels"`
}

const (
	goldenBlocks = 8
	goldenTest   = "drill-1" // stands at lyo-1
	goldenWord   = "copies of the estate"
)

// TestGoldenHosts: agents go on from the folders of every version that was ever
// written. With -update one of this program's version is made if there is none;
// what is there is never made anew, since it stands for hosts in the field.
func TestGoldenHosts(t *testing.T) {
	t.Parallel()
	current := filepath.Join("testdata", fmt.Sprintf("agent_v%d", agent.RecordVersion))
	if _, err := os.Stat(current); *update && err != nil {
		makeGolden(t, current)
	}
	all, err := filepath.Glob("testdata/agent_v*")
	must(t, err)
	if !slices.Contains(all, current) {
		t.Errorf("there is no %s: -update makes it", current)
	}
	encodedAgain(t, current)
	for _, src := range all {
		t.Run(filepath.Base(src), func(t *testing.T) {
			t.Parallel()
			goldenGoesOn(t, src)
		})
	}
}

// encodedAgain: what is read and written is the same, byte for byte: no field is
// unknown, and none is new without a version of its own.
func encodedAgain(t *testing.T, src string) {
	t.Helper()
	seen := map[string]int{}
	must(t, filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		must(t, err)
		again, kind := b, ""
		switch {
		case d.Name() == "machine.json":
			kind = "record"
			dir := t.TempDir()
			extra, rerr := agent.RecordAgain(b, dir)
			must(t, rerr)
			if len(extra) > 0 {
				t.Errorf("%s holds what no field takes: %s", path, extra)
			}
			again, err = os.ReadFile(filepath.Join(dir, "machine.json"))
		case filepath.Base(filepath.Dir(path)) == "ops":
			kind = "operation"
			again, err = agent.OperationAgain(b)
		case filepath.Ext(path) == ".item":
			kind = "item"
			it, data, derr := agent.DecodeItem(b)
			must(t, derr)
			again, err = agent.EncodeItem(it, data)
		}
		must(t, err)
		seen[kind]++
		if !bytes.Equal(again, b) {
			t.Errorf("%s is written otherwise than it was read:\n%s\n%s", path, b, again)
		}
		return nil
	}))
	if seen["record"] != 2 || seen["operation"] < 3 || seen["item"] != 2 {
		t.Errorf("%s holds %v", src, seen)
	}
}

// goldenPair is a pair whose agents are not started, and whose machine is none.
func goldenPair(t *testing.T) *pair {
	t.Helper()
	p := newPair(t)
	for _, n := range []*node{p.a, p.b} {
		n.end()
		n.fake, n.boot = &fakeProvider{power: recovery.PowerRunning}, "golden"
	}
	p.fence = 7
	return p
}

// relocate exchanges paths and addresses in the files of two hosts.
func (p *pair) relocate(dir string, pairs ...string) {
	p.t.Helper()
	to := strings.NewReplacer(pairs...)
	for _, pattern := range []string{"*/machines/*/machine.json", "*/machines/*/ops/*.json"} {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		must(p.t, err)
		for _, name := range names {
			b, err := os.ReadFile(name)
			must(p.t, err)
			must(p.t, os.WriteFile(name, []byte(to.Replace(string(b))), 0o600))
		}
	}
}

// The addresses of the two hosts in a golden folder.
const goldenA, goldenB = "par-1.golden:1", "lyo-1.golden:1"

func goldenGoesOn(t *testing.T, src string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(src, "expected.json"))
	must(t, err)
	var want goldenHosts
	must(t, json.Unmarshal(b, &want))
	p, dir := goldenPair(t), t.TempDir()
	must(t, os.CopyFS(dir, os.DirFS(src)))
	const policy = `"every": 3600000000000` // without a retention, which is 24 h: the points are older
	p.relocate(dir, "/golden/", dir+"/", goldenA, p.a.listen, goldenB, p.b.listen, policy, policy+`, "keep": [{"every": 0, "for": 1000000000000000000}]`)
	disk := filepath.Join(dir, "disk.img")
	writeBlock(t, disk, 5, 99)
	p.a.state, p.b.state = filepath.Join(dir, "par-1"), filepath.Join(dir, "lyo-1")
	for _, n := range []*node{p.b, p.a} { // the target first: the source has a cycle to run, and is not to find nobody
		n.start()
	}
	st := p.status("par-1")
	if st.Role != command.RoleSource || st.Fence != want.Fence || st.Authority.Epoch != 1 || st.Power != recovery.PowerRunning {
		t.Errorf("the source is %+v", st)
	}
	if st := p.status("lyo-1"); st.Role != command.RoleTarget || !slices.Equal(st.Tests, []string{goldenTest}) {
		t.Errorf("the target is %+v", st)
	}
	p.auth, p.fence = st.Authority, want.Fence
	meta := command.Meta{Machine: "erp", Run: "golden", Fence: want.Fence, Epoch: 1}
	p.goldenAnswers(meta, want)
	p.goldenPoints(want)

	newest := want.Points[len(want.Points)-1]
	meta.Op = "golden/new"
	call(p, command.Drain, "par-1", command.DrainRequest{Meta: meta})
	var sent int64
	points := call(p, command.Points, "lyo-1", command.PointsRequest{Machine: "erp"}).Points
	for _, pt := range points[len(want.Points):] {
		sent += pt.Disks[0].Bytes
	}
	if next := points[len(want.Points)]; next.From.String() != newest.ID || uint64(next.Seq) != newest.Seq+1 {
		t.Errorf("the source went on with %+v, want from %s", next, newest.ID)
	}
	if sent < blockSize || sent >= 2*blockSize {
		t.Errorf("%d bytes were sent for one changed block", sent)
	}
	p.until("lyo-1", "the new point applied", func(st command.MachineStatus) bool { return st.Applied == st.Tip.Seq })
	res := call(p, command.Verify, "lyo-1", command.VerifyRequest{Machine: "erp"})
	if res.Points != len(points) || len(res.Faults) > 0 {
		t.Errorf("verified: %+v of %d points", res, len(points))
	}
	a, err := os.ReadFile(disk)
	must(t, err)
	head, err := os.ReadFile(filepath.Join(dir, "store/erp/data/head.img"))
	if err != nil || !bytes.Equal(a, head) {
		t.Errorf("the head is not the disk (%v)", err)
	}
	call(p, command.Cleanup, "lyo-1", command.CleanupRequest{Meta: command.Meta{Machine: "erp", Run: goldenTest}, Test: goldenTest})
	if st := p.status("lyo-1"); len(st.Tests) > 0 {
		t.Errorf("tests %v stand after the cleanup", st.Tests)
	}
}

// goldenAnswers: operations that were done give their results and do nothing,
// older runtimes are refused, the catalogue holds what was put.
func (p *pair) goldenAnswers(meta command.Meta, want goldenHosts) {
	p.t.Helper()
	meta.Op = want.Start
	if res := call(p, command.Start, "par-1", command.StartRequest{Meta: meta}); res.PID != 1 || res.Power != recovery.PowerRunning {
		p.t.Errorf("the start that was done gives %+v", res)
	}
	if starts, _ := p.a.fake.counts(); starts != 0 {
		p.t.Error("a start that was done was done again")
	}
	meta.Op = want.Drain
	if res := call(p, command.Drain, "par-1", command.DrainRequest{Meta: meta}); res.Point.ID.String() != want.Points[len(want.Points)-1].ID {
		p.t.Errorf("the drain that was done gives %+v", res)
	}
	meta.Op, meta.Fence = "golden/old", want.Fence-1
	_, err := try(p, command.Drain, "par-1", command.DrainRequest{Meta: meta})
	wantKind(p.t, err, fault.Conflict)
	if got := getItem(p, "estate"); string(got) != want.Item {
		p.t.Errorf("the catalogue holds %q", got)
	}
	wantKind(p.t, putItem(p, item("estate", 2, want.Fence, nil), nil, false), fault.Conflict)
}

// goldenPoints compares the target's points with what is expected.
func (p *pair) goldenPoints(want goldenHosts) {
	p.t.Helper()
	points := call(p, command.Points, "lyo-1", command.PointsRequest{Machine: "erp"}).Points
	if len(points) < len(want.Points) {
		p.t.Fatalf("%d points, want %d", len(points), len(want.Points))
	}
	for i, e := range want.Points {
		if pt := points[i]; pt.ID.String() != e.ID || uint64(pt.Seq) != e.Seq || pt.Held != e.Held || !slices.Equal(pt.Labels, e.Labels) {
			p.t.Errorf("point %+v, want %+v", pt, e)
		}
	}
}

// writeBlock fills a block of a disk with what does not compress.
func writeBlock(t *testing.T, disk string, block int64, seed byte) {
	t.Helper()
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	must(t, err)
	b, x := make([]byte, blockSize), uint32(seed)+1
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	_, err = f.WriteAt(b, block*blockSize)
	must(t, errors.Join(err, f.Close()))
}

// makeGolden makes a golden folder: a machine that runs at par-1, four points at
// lyo-1, the second held, and a test of it; a catalogue, and operations.
func makeGolden(t *testing.T, to string) {
	t.Helper()
	p, dir := goldenPair(t), t.TempDir()
	p.a.fake.set(recovery.PowerStopped)
	p.a.state, p.b.state = filepath.Join(dir, "par-1"), filepath.Join(dir, "lyo-1")
	disk := filepath.Join(dir, "disk.img")
	must(t, os.WriteFile(disk, make([]byte, goldenBlocks*blockSize), 0o600))
	for i := range int64(4) {
		writeBlock(t, disk, i, byte(i))
	}
	p.as.Hosts[0].Store, p.as.Hosts[1].Store = filepath.Join(dir, "store-par"), filepath.Join(dir, "store")
	p.as.Disks[0].Paths["paris"], p.as.Policy.Every, p.as.Exec.Start = disk, time.Hour, []string{"/golden/ledger"}
	for _, n := range []*node{p.a, p.b} {
		n.start()
	}
	for _, h := range []string{"lyo-1", "par-1"} {
		call(p, command.Assign, h, command.AssignRequest{Assignment: p.as, Authority: p.auth})
		call(p, command.Claim, h, command.ClaimRequest{Meta: command.Meta{Machine: "erp", Run: "golden", Fence: p.fence}})
	}
	want := goldenHosts{Fence: p.fence, Item: goldenWord}
	start := p.meta("golden")
	call(p, command.Start, "par-1", command.StartRequest{Meta: start})
	want.Start = start.Op
	p.until("lyo-1", "the first point", func(st command.MachineStatus) bool { return st.Tip != nil })
	for i := range int64(3) {
		writeBlock(t, disk, 2+i, byte(10+i))
		meta := p.meta("golden")
		res := call(p, command.Drain, "par-1", command.DrainRequest{Meta: meta})
		want.Drain = meta.Op
		if i == 0 {
			p.until("lyo-1", "it applied", func(st command.MachineStatus) bool { return st.Applied == res.Point.Seq })
			call(p, command.Hold, "lyo-1", command.HoldRequest{Machine: "erp", Point: res.Point.ID, Held: true, Label: "before upgrade"})
			call(p, command.Prepare, "lyo-1", command.PrepareRequest{
				Meta: command.Meta{Machine: "erp", Run: goldenTest}, Point: res.Point.ID, Test: goldenTest,
			})
		}
	}
	p.until("lyo-1", "all applied", func(st command.MachineStatus) bool { return st.Applied == st.Tip.Seq })
	must(t, putItem(p, item("fence", uint64(p.fence), p.fence, nil), nil, false))
	must(t, putItem(p, item("estate", 3, p.fence, []byte(goldenWord)), []byte(goldenWord), false))
	for _, pt := range call(p, command.Points, "lyo-1", command.PointsRequest{Machine: "erp"}).Points {
		want.Points = append(want.Points, goldenPoint{pt.ID.String(), uint64(pt.Seq), pt.Held, pt.Labels})
	}
	p.a.end()
	p.b.end()
	b, err := json.MarshalIndent(want, "", " ")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "expected.json"), append(b, '\n'), 0o600))
	p.relocate(dir, dir+"/", "/golden/", p.a.listen, goldenA, p.b.listen, goldenB)
	for _, n := range []*node{p.a, p.b} { // no part of what is durable
		must(t, os.Remove(filepath.Join(n.state, "lock")))
	}
	must(t, os.CopyFS(to, os.DirFS(dir)))
}
