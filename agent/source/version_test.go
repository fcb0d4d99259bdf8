package source

import (
	"os"
	"strings"
	"testing"

	"github.com/drrun/drrun/internal/durable"
)

// rewrite changes the journal of a closed source.
func (r *rig) rewrite(from, to string) string {
	r.t.Helper()
	path := r.m.path(journalName)
	b, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	s := strings.Replace(string(b), from, to, 1)
	if s == string(b) {
		r.t.Fatalf("nothing replaced in %s", s)
	}
	if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return s
}

func (r *rig) closed() {
	r.t.Helper()
	r.image(0, 2*mib, 1)
	r.image(1, mib, 2, [2]int64{0, 5000})
	r.open()
	r.cycle()
	if err := r.m.Close(); err != nil {
		r.t.Fatal(err)
	}
}

// TestMayFeaturesAreKept: what a newer program wrote and this one may ignore
// is there again after cycles of this one.
func TestMayFeaturesAreKept(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.closed()
	r.rewrite(`"version": 1,`, `"version": 1, "may": ["hints"], "hints": {"a": 1},`)
	r.open()
	r.write(1, 100, noise(4, 9000))
	r.cycle()
	b, err := os.ReadFile(r.m.path(journalName))
	if err != nil || !strings.Contains(string(b), `"hints": {`) || !strings.Contains(string(b), `"may": [`) {
		t.Errorf("after a cycle: %s (%v)", b, err)
	}
}

// TestOlderJournalIsBroughtUp: a source goes on from a journal of an older
// version, and a copy of that stays.
//
//nolint:paralleltest // it registers a step
func TestOlderJournalIsBroughtUp(t *testing.T) {
	r := newRig(t)
	r.closed()
	old := r.rewrite(`"version": 1,`, `"version": 0, "name_before": "x",`)
	journalFormat.Steps = map[int]durable.Step{0: func(old []byte) ([]byte, error) {
		return []byte(strings.Replace(string(old), `"version": 0, "name_before": "x",`, `"version": 1,`, 1)), nil
	}}
	defer func() { journalFormat.Steps = nil }()
	r.open()
	r.write(1, 100, noise(4, 9000))
	if res := r.cycle(); res.Point.Seq != 2 || res.Changed != 3*4096 {
		t.Errorf("it did not go on: %+v", res)
	}
	kept, err := os.ReadFile(r.m.path(journalName) + ".v0")
	if err != nil || string(kept) != old {
		t.Errorf("the copy: %s (%v)", kept, err)
	}
}
