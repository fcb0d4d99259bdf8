package replica_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/internal/durable"
	"github.com/drrun/drrun/internal/fault"
)

// rewrite changes the envelope of a record, and makes its checksum right.
func rewrite(t *testing.T, path string, change func(map[string]json.RawMessage)) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	e := map[string]json.RawMessage{}
	must(t, json.Unmarshal(b, &e))
	change(e)
	e["crc32c"], err = json.Marshal(crc32.Checksum(e["body"], crc32.MakeTable(crc32.Castagnoli)))
	must(t, err)
	b, err = json.Marshal(e)
	must(t, err)
	must(t, os.WriteFile(path, b, 0o600))
	return b
}

func (w *world) records(t *testing.T) (state, manifest string) {
	t.Helper()
	manifests, err := filepath.Glob(filepath.Join(w.dir, "store", "erp", "points", "*.json"))
	must(t, err)
	return filepath.Join(w.dir, "store", "erp", "replica.json"), manifests[0]
}

// TestNewerRecordsAreLeftAlone: a store with one record of a newer program is
// refused by name, and no byte of it is touched.
func TestNewerRecordsAreLeftAlone(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(map[string]json.RawMessage){
		"version 2": func(e map[string]json.RawMessage) { e["version"] = []byte("2") },
		`"cipher"`:  func(e map[string]json.RawMessage) { e["must"] = []byte(`["cipher"]`) },
	} {
		for _, manifest := range []bool{false, true} {
			w, m := jumping(t)
			must(t, m.Close())
			path, point := w.records(t)
			if manifest {
				path = point
			}
			rewrite(t, path, change)
			before := tree(t, w.dir)
			_, err := replica.Open(w.config())
			if !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), path) || fault.Hint(err) == "" {
				t.Errorf("%s: %v", name, err)
			}
			if after := tree(t, w.dir); after != before {
				t.Errorf("%s: the store was touched:\n%s\nwas\n%s", name, after, before)
			}
		}
	}
}

// TestOlderProgramLeavesADiscardAlone: one that does not know what is given up
// refuses the state by the flag's name; without one it would take the overlay for
// half made, or disks that are half overwritten for a point.
//
//nolint:paralleltest // it takes the flags away
func TestOlderProgramLeavesADiscardAlone(t *testing.T) {
	known := replica.StateFormat.Must
	defer func() { replica.StateFormat.Must = known }()
	for flag, s := range replica.StatesWithFlags(goldenPoint()) {
		data, err := replica.EncodeState(s)
		must(t, err)
		replica.StateFormat.Must = known
		if got, err := replica.DecodeState("replica.json", data); err != nil || !reflect.DeepEqual(got.Live, s.Live) || !reflect.DeepEqual(got.Discarded, s.Discarded) {
			t.Errorf("%s: %+v, %v", flag, got, err)
		}
		replica.StateFormat.Must = nil
		if _, err := replica.DecodeState("replica.json", data); !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), flag) {
			t.Errorf("%s: an older program says %v", flag, err)
		}
	}
}

// tree is all files of a folder with what they hold.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		fmt.Fprintf(&b, "%s %d %08x\n", path, len(raw), crc32.ChecksumIEEE(raw))
		return err
	}))
	return b.String()
}

// TestMayFeaturesAreKept through points, thinning and a label.
func TestMayFeaturesAreKept(t *testing.T) {
	t.Parallel()
	w, m := jumping(t)
	must(t, m.Close())
	state, manifest := w.records(t)
	hints := func(e map[string]json.RawMessage) {
		e["may"] = []byte(`["hints"]`)
		e["body"] = append(e["body"][:len(e["body"])-1], `,"hints":{"a":1}}`...)
	}
	rewrite(t, state, hints)
	rewrite(t, manifest, hints)
	m = open(t, w)
	must(t, w.cycle(m))
	must(t, m.Apply(context.Background()))
	_, err := m.Label(context.Background(), m.Points()[0].ID, []string{"before upgrade"}, false)
	must(t, err)
	for _, path := range []string{state, manifest} {
		b, err := os.ReadFile(path)
		must(t, err)
		if !bytes.Contains(b, []byte(`"may":["hints"]`)) || !bytes.Contains(b, []byte(`"hints":{"a":1}`)) {
			t.Errorf("%s: %s", path, b)
		}
	}
	m = reopen(t, w, m)
	must(t, w.check(m))
}

// TestOlderStateIsBroughtUp: a store with an older replica.json opens, verifies
// and takes a further point; a copy of the older one stays.
//
//nolint:paralleltest // it registers a step
func TestOlderStateIsBroughtUp(t *testing.T) {
	w, m := jumping(t)
	must(t, m.Close())
	path, _ := w.records(t)
	current, err := os.ReadFile(path)
	must(t, err)
	old := rewrite(t, path, func(e map[string]json.RawMessage) { e["version"], e["body"] = []byte("0"), []byte(`{"old":true}`) })
	replica.StateFormat.Steps = map[int]durable.Step{0: func(got []byte) ([]byte, error) {
		if !bytes.Equal(got, old) {
			t.Errorf("the step gets %s", got)
		}
		return current, nil
	}}
	defer func() { replica.StateFormat.Steps = nil }()
	m = open(t, w)
	must(t, w.check(m))
	must(t, w.cycle(m))
	must(t, m.Apply(context.Background()))
	must(t, w.check(m))
	kept, err := os.ReadFile(path + ".v0")
	if err != nil || !bytes.Equal(kept, old) {
		t.Errorf("the copy: %s (%v)", kept, err)
	}
}
