package source

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/drrun/drrun/internal/vfs"
)

// TestGoldenSources: the sending side goes on from what the agents of every
// version left (package agent makes those folders): what changed since is sent,
// and nothing is compared.
func TestGoldenSources(t *testing.T) {
	t.Parallel()
	all, err := filepath.Glob("../testdata/agent_v*")
	if err != nil || len(all) == 0 {
		t.Fatalf("no golden folders: %v", err)
	}
	for _, src := range all {
		t.Run(filepath.Base(src), func(t *testing.T) {
			t.Parallel()
			goldenSource(t, src)
		})
	}
}

func goldenSource(t *testing.T, src string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(src, "par-1/machines/erp/source"))); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, journalName))
	if err != nil {
		t.Fatal(err)
	}
	j, err := decodeJournal(journalName, b)
	if err != nil {
		t.Fatal(err)
	}
	if len(j.extra) > 0 {
		t.Errorf("the journal holds what no field takes: %s", j.extra)
	}
	again := filepath.Join(dir, "again.json")
	if err := j.write(vfs.OS{}, again); err != nil {
		t.Fatal(err)
	}
	if w, err := os.ReadFile(again); err != nil || j.Version == JournalVersion && !bytes.Equal(w, b) {
		t.Errorf("the journal is written otherwise than it was read:\n%s\n%s (%v)", b, w, err)
	}

	disk, err := os.ReadFile(filepath.Join(src, "disk.img"))
	if err != nil {
		t.Fatal(err)
	}
	if b, err = os.ReadFile(filepath.Join(src, "expected.json")); err != nil {
		t.Fatal(err)
	}
	var want struct {
		Points []struct {
			ID  string `json:"id"`
			Seq uint64 `json:"seq"`
		} `json:"points"`
	}
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	newest := want.Points[len(want.Points)-1]
	if j.Tip == nil || j.Tip.ID.String() != newest.ID || uint64(j.Tip.Seq) != newest.Seq {
		t.Fatalf("the tip is %+v, want %+v", j.Tip, newest)
	}
	r := newRig(t)
	d := Disk{Name: j.Disks[0].Name, ID: j.Disks[0].ID, Key: j.Disks[0].Key, Path: filepath.Join(dir, "disk.img")}
	r.target = newTarget(t, []Disk{d})
	r.target.points, r.target.disks[d.Name].data = append(r.target.points, *j.Tip), bytes.Clone(disk)
	r.cfg.Dir, r.cfg.FS, r.cfg.Machine, r.cfg.Disks, r.cfg.Peer = dir, vfs.OS{}, "erp", []Disk{d}, r.target
	copy(disk[5*4096:], noise(3, 4096))
	if err := os.WriteFile(d.Path, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	r.open()
	res := r.cycle()
	if uint64(res.Point.Seq) != newest.Seq+1 || res.Point.From.String() != newest.ID || res.Changed != 4096 || res.Wire >= 2*4096 || r.target.blocks > 0 {
		t.Errorf("it went on with %+v, %d ranges compared; want one block sent and none compared", res, r.target.blocks)
	}
}
