package execprov_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/agent/provider"
	execprov "github.com/drrun/drrun/agent/provider/exec"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// systemctl is what stands for the program: the file state holds the unit's
// ActiveState, every call is noted in calls, and a stop of a deaf unit hangs.
const systemctl = `#!/bin/sh
cd "${0%/*}"
echo "$*" >> calls
case "$1" in
show) echo "ActiveState=$(cat state)" ;;
start) echo active > state ;;
stop) test -e deaf && exec sleep 60; cat after > state ;;
kill) echo failed > state ;;
esac
`

// Not parallel: the program is found by the PATH of the process.
func TestUnit(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	write := func(name, content string, perm os.FileMode) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), perm); err != nil {
			t.Fatal(err)
		}
	}
	write("systemctl", systemctl, 0o700)
	write("state", "inactive", 0o600)
	write("after", "inactive", 0o600)
	m := execprov.New(recovery.Exec{Unit: "erp.service"}, execprov.Options{FS: vfs.OS{}, Dir: dir, Log: logkit.Discard()})
	l := provider.Launch{Machine: "erp", Type: provider.Production}
	begin := func() provider.Process {
		t.Helper()
		p, err := m.Start(t.Context(), l)
		if err != nil {
			t.Fatal(err)
		}
		if st := m.Status(t.Context(), p); st.Power != recovery.PowerRunning {
			t.Errorf("after the start it is %+v", st)
		}
		return p
	}
	forced, err := m.Stop(t.Context(), begin(), provider.Stop{})
	if err != nil || forced {
		t.Errorf("stop: forced %t, %v", forced, err)
	}
	write("after", "failed", 0o600) // systemd had to kill it
	if forced, err = m.Stop(t.Context(), begin(), provider.Stop{}); err != nil || !forced {
		t.Errorf("stop by systemd's own force: forced %t, %v", forced, err)
	}
	write("deaf", "", 0o600)
	p := begin()
	_, err = m.Stop(t.Context(), p, provider.Stop{Within: 50 * time.Millisecond})
	if !fault.Is(err, fault.Failed) || !strings.Contains(err.Error(), "did not stop within") || fault.Hint(err) == "" {
		t.Errorf("deaf unit: %v", err)
	}
	if forced, err = m.Stop(t.Context(), p, provider.Stop{Within: 50 * time.Millisecond, Force: true}); err != nil || !forced {
		t.Errorf("deaf unit by force: forced %t, %v", forced, err)
	}
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil || !strings.Contains(string(calls), "kill --signal=SIGKILL -- erp.service") {
		t.Errorf("calls (%v): %s", err, calls)
	}
	write("state", "", 0o600)
	if st := m.Status(t.Context(), p); st.Power != recovery.PowerUnknown || st.Why == "" {
		t.Errorf("without an answer it is %+v", st)
	}
	l.Type = provider.Test
	if _, err := m.Start(t.Context(), l); !fault.Is(err, fault.Refused) {
		t.Errorf("a unit on test disks: %v", err)
	}
}
