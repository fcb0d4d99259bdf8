package agent

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/durable"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/internal/vfs"
)

const storedRecord = `{"version":1,"must":[],"may":["hints"],"hints":{"a":1},"fence":7,
"assignment":{"version":1,"machine":"erp","hosts":[{"name":"par-1","site":"paris","addr":"h:1"}],"disks":[{"name":"data","id":"00000000000000000000000000000001","key":1}]},
"authority":{"epoch":1,"active":"paris","at":"2026-01-01T00:00:00Z"}}`

// readOne opens the state folder that holds one machine's record, as an agent does.
func readOne(t *testing.T, content string) (m *machine, file string, err error) {
	t.Helper()
	dir := t.TempDir()
	file = filepath.Join(dir, "machines", "erp", recordName)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	a := &Agent{o: Options{FS: vfs.OS{}, State: dir, Clock: clock.Real{}}, log: logkit.Discard()}
	ms, err := a.readMachines()
	if err != nil {
		return nil, file, err
	}
	return ms[0], file, nil
}

// TestRecordsOfOtherVersions: newer ones are refused by name and left as they
// are, what may be ignored is kept, older ones are brought up after a copy.
//
//nolint:paralleltest // it registers a step
func TestRecordsOfOtherVersions(t *testing.T) {
	for change, want := range map[string]string{
		`"version":2,"must":[]`: "version 2", `"version":1,"must":["leases"]`: `"leases"`, `"version":0,"must":[]`: "version 0",
	} {
		content := strings.Replace(storedRecord, `"version":1,"must":[]`, change, 1)
		_, file, err := readOne(t, content)
		after, rerr := os.ReadFile(file)
		if !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) || rerr != nil || string(after) != content {
			t.Errorf("%s: %v; the file holds %s (%v)", change, err, after, rerr)
		}
	}
	m, file, err := readOne(t, storedRecord)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.update(func(r *record) { r.Fence++ }); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil || !bytes.Contains(b, []byte(`"fence": 8`)) || !bytes.Contains(b, []byte(`"hints": {`)) || !bytes.Contains(b, []byte(`"may": [`)) {
		t.Errorf("after a change: %s (%v)", b, err)
	}
	recordFormat.Steps = map[int]durable.Step{0: func(old []byte) ([]byte, error) {
		return bytes.Replace(old, []byte(`"version":0`), []byte(`"version":1`), 1), nil
	}}
	defer func() { recordFormat.Steps = nil }()
	old := strings.Replace(storedRecord, `"version":1`, `"version":0`, 1)
	m, file, err = readOne(t, old)
	if err != nil || m.rec.Fence != 7 {
		t.Fatalf("an older one: %v", err)
	}
	kept, err := os.ReadFile(file + ".v0")
	if err != nil || string(kept) != old {
		t.Errorf("the copy: %s (%v)", kept, err)
	}
}
