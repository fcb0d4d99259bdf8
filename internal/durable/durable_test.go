package durable_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/drrun/drrun/internal/durable"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/internal/vfs/faultfs"
)

func replace(from, to string) durable.Step {
	return func(old []byte) ([]byte, error) {
		if !bytes.Contains(old, []byte(from)) {
			return nil, errors.New("not of that version")
		}
		return bytes.ReplaceAll(old, []byte(from), []byte(to)), nil
	}
}

// third knows two older versions.
var third = durable.Format{Version: 3, Must: []string{"known"}, Program: "drrun-agent", Steps: map[int]durable.Step{
	1: replace(`"version":1`, `"version":2`), 2: replace(`"version":2`, `"version":3`),
}}

const (
	file = "/f.json"
	old  = `{"version":1,"must":["known"],"a":7}`
	now  = `{"version":3,"must":["known"],"a":7}`
)

func disk(t *testing.T, content string) *faultfs.Disk {
	t.Helper()
	d := faultfs.New()
	if err := vfs.WriteFile(d, file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return d
}

func read(t *testing.T, fsys vfs.FS, name string) string {
	t.Helper()
	b, err := vfs.ReadFile(fsys, name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestUpgradeSurvivesAnyCut kills the upgrade at each of its changes, and cuts
// the power there: what stands afterwards is the old file or, with a copy of it
// beside, the new one; and the next start ends the upgrade.
func TestUpgradeSurvivesAnyCut(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	for at := 1; ; at++ {
		below := disk(t, old)
		fsys := faultfs.Over(below)
		fsys.KillAt(at)
		_, err := third.Admit(fsys, file, []byte(old))
		if !fsys.Killed() {
			if err != nil || at < 8 {
				t.Fatalf("%d changes: %v", at-1, err)
			}
			break
		}
		for _, left := range []*faultfs.Disk{below.Clone(), below.Cut(rng)} {
			got := read(t, left, file)
			if got != old && got != now {
				t.Fatalf("killed at %d: the file holds %q", at, got)
			}
			if got == now && read(t, left, file+".v1") != old {
				t.Fatalf("killed at %d: no copy of the old file", at)
			}
			again, err := third.Admit(left, file, []byte(got))
			if err != nil || string(again) != now || read(t, left, file) != now || read(t, left, file+".v1") != old {
				t.Fatalf("killed at %d, then again: %q, %v", at, again, err)
			}
		}
	}
}

// TestNothingIsTouched that this program cannot read, or need not bring up.
func TestNothingIsTouched(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]string{
		`{"version":4,"a":7}`:                      "it has version 4, this program knows 3",
		`{"version":3,"must":["known","cipher"]}`:  `it needs "cipher"`,
		`{"version":0,"a":7}`:                      "brings up none older than 1",
		`{"version":1,"must":["cipher"]}`:          `it needs "cipher"`,
		`{"version": 2,"written":"by hand"}`:       "cannot bring /f.json from version 2 to 3",
		now:                                        "",
		`{"version":3,"may":["hints"],"hints":{}}`: "",
		`garbage`:                                  "",
	} {
		d := disk(t, content)
		fsys := faultfs.Over(d)
		got, err := third.Admit(fsys, file, []byte(content))
		switch {
		case want == "" && (err != nil || string(got) != content):
			t.Errorf("%s: %q, %v", content, got, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) || fault.Hint(err) == ""):
			t.Errorf("%s: %v (hint %q), want %q", content, err, fault.Hint(err), want)
		}
		if fsys.Changes() != 0 || read(t, d, file) != content {
			t.Errorf("%s: %d changes", content, fsys.Changes())
		}
	}
}

type known struct {
	Version int    `json:"version"`
	Name    string `json:"name,omitempty"`
	hidden  int
}

// TestUnknownFieldsAreKept through a decode and an encode.
func TestUnknownFieldsAreKept(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`{"z":[1, 2],"version":1,"name":"x","a":{"b":1}}`: `{"version":1,"name":"y","a":{"b":1},"z":[1,2]}`,
		`{"version":1}`: `{"version":1,"name":"y"}`,
	} {
		extra, err := durable.Unknown([]byte(in), known{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := durable.Marshal(known{Version: 1, Name: "y", hidden: 1}, extra)
		if err != nil || string(got) != want {
			t.Errorf("%s became %s (%v), want %s", in, got, err, want)
		}
	}
}

func FuzzUnknown(f *testing.F) {
	f.Add([]byte(`{"version":1,"x":null}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, in []byte) {
		extra, err := durable.Unknown(in, known{})
		if err != nil {
			return
		}
		out, err := durable.Marshal(known{}, extra)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := durable.Unknown(out, known{}); err != nil || len(again) != len(extra) {
			t.Fatalf("%q: %d unknown fields became %d (%v)", in, len(extra), len(again), err)
		}
	})
}
