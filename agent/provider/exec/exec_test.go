package execprov_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drrun/drrun/agent/provider"
	execprov "github.com/drrun/drrun/agent/provider/exec"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// TestMain makes this binary the machine as well: "writer FILE" appends to
// FILE as fast as it can, in two processes of one session.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && strings.HasPrefix(os.Args[1], "writer") {
		writer(os.Args[1], os.Args[2])
		return
	}
	os.Exit(m.Run())
}

func writer(mode, file string) {
	if mode == "writer-deaf" {
		signal.Ignore(syscall.SIGTERM)
	}
	if mode == "writer" {
		child := exec.Command(os.Args[0], "writer-child", file+".child")
		if err := child.Start(); err != nil {
			os.Exit(1)
		}
		defer func() { _ = child.Wait() }()
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		os.Exit(1)
	}
	for {
		if _, err := fmt.Fprintln(f, os.Getenv("DRRUN_TYPE"), os.Getenv("DRRUN_DISK_DATA_1")); err != nil {
			os.Exit(1)
		}
	}
}

func setup(t *testing.T, mode string) (*execprov.Machine, provider.Launch, string) {
	t.Helper()
	dir := t.TempDir()
	disk := filepath.Join(dir, "data.img")
	cfg := recovery.Exec{Start: []string{os.Args[0], mode, "{disk.data-1}"}, ForceAfter: 5 * time.Second}
	m := execprov.New(cfg, execprov.Options{FS: vfs.OS{}, Dir: dir, Env: os.Environ(), Log: logkit.Discard()})
	l := provider.Launch{
		Machine: "erp", Site: "lyon", IP: "10.0.0.5", Epoch: 3, Run: "erp-1", Type: provider.Production,
		Disks: map[string]string{"data-1": disk}, Token: t.Name() + dir,
	}
	return m, l, disk
}

func start(t *testing.T, m *execprov.Machine, l provider.Launch, files ...string) provider.Process {
	t.Helper()
	p, err := m.Start(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := m.Stop(context.Background(), p, provider.Stop{Within: time.Millisecond, Force: true}); err != nil {
			t.Error(err)
		}
	})
	for _, f := range files {
		eventually(t, func() bool { return size(f) > 0 })
	}
	return p
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it did not come true within a minute")
		}
	}
}

func size(name string) int64 {
	fi, err := os.Stat(name)
	if err != nil {
		return 0
	}
	return fi.Size()
}

func TestStartStopStatus(t *testing.T) {
	t.Parallel()
	m, l, disk := setup(t, "writer")
	if st := m.Status(t.Context(), provider.Process{}); st.Power != recovery.PowerStopped {
		t.Errorf("before the start it is %s", st.Power)
	}
	p := start(t, m, l, disk, disk+".child")
	if st := m.Status(t.Context(), p); st.Power != recovery.PowerRunning || st.PID != p.PID {
		t.Errorf("status is %+v, want running as %d", st, p.PID)
	}
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	line, err := bufio.NewReader(f).ReadString('\n')
	if want := "production " + disk + "\n"; err != nil || line != want {
		t.Errorf("environment gave %q (%v), want %q", line, err, want)
	}
	forced, err := m.Stop(t.Context(), p, provider.Stop{})
	if err != nil || forced {
		t.Fatalf("stop: forced %t, %v", forced, err)
	}
	if st := m.Status(t.Context(), p); st.Power != recovery.PowerStopped {
		t.Errorf("after the stop it is %s", st.Power)
	}
	eventually(t, func() bool { return m.Status(t.Context(), p).Exit == "signal: terminated" })
	if _, err := m.Stop(t.Context(), p, provider.Stop{}); err != nil {
		t.Errorf("second stop: %v", err)
	}
}

func TestLeaderDiesChildStays(t *testing.T) {
	t.Parallel()
	m, l, disk := setup(t, "writer")
	p := start(t, m, l, disk+".child")
	if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return m.Status(t.Context(), p).Exit == "signal: killed" })
	if st := m.Status(t.Context(), p); st.Power != recovery.PowerRunning {
		t.Errorf("a child still writes, status is %s", st.Power)
	}
}

func TestAnotherAgentAdopts(t *testing.T) {
	t.Parallel()
	m, l, disk := setup(t, "writer")
	p := start(t, m, l, disk)
	other, _, _ := setup(t, "writer")
	if st := other.Status(t.Context(), p); st.Power != recovery.PowerRunning {
		t.Errorf("adopted machine is %s", st.Power)
	}
	found, ok, err := other.Find(t.Context(), l)
	if err != nil || !ok || found.PID != p.PID || found.Started != p.Started || found.Boot != p.Boot {
		t.Errorf("found %+v, %t, %v; want %+v", found, ok, err, p)
	}
	l.Token = "another launch"
	if found, ok, err := other.Find(t.Context(), l); ok || err != nil {
		t.Errorf("found %+v (%v) for a launch that never was", found, err)
	}
	reused := p
	reused.Started++
	reused.Launch.Token = "of the process that had the id"
	if st := other.Status(t.Context(), reused); st.Power != recovery.PowerStopped {
		t.Errorf("process id of another start: %s", st.Power)
	}
	reboot := p
	reboot.Boot = "another boot"
	if st := other.Status(t.Context(), reboot); st.Power != recovery.PowerStopped {
		t.Errorf("process of another boot: %s", st.Power)
	}
}

func TestFreezeHoldsAllWriters(t *testing.T) {
	t.Parallel()
	m, l, disk := setup(t, "writer")
	p := start(t, m, l, disk, disk+".child")
	kind, err := m.Freeze(t.Context(), p, true)
	if err != nil || kind != recovery.Crash {
		t.Fatalf("freeze: %s, %v", kind, err)
	}
	a, b := size(disk), size(disk+".child")
	tick := time.NewTimer(30 * time.Millisecond)
	<-tick.C
	if size(disk) != a || size(disk+".child") != b {
		t.Error("a frozen machine writes")
	}
	if st := m.Status(t.Context(), p); st.Power != recovery.PowerRunning {
		t.Errorf("frozen machine is %s", st.Power)
	}
	if err := m.Thaw(t.Context(), p, true); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return size(disk) > a && size(disk+".child") > b })
}

// shellMachine is a machine of shell commands; $0 is the writer, $1 the disk.
func shellMachine(t *testing.T, script string) (*execprov.Machine, provider.Launch, string) {
	t.Helper()
	_, l, disk := setup(t, "")
	cfg := recovery.Exec{Start: []string{"sh", "-c", script, os.Args[0], "{disk.data-1}"}}
	return execprov.New(cfg, execprov.Options{FS: vfs.OS{}, Dir: t.TempDir(), Env: os.Environ(), Log: logkit.Discard()}), l, disk
}

// Not every process of a machine is in its session, and not every one kept the
// environment.
func TestAllProcessesAreHeldAndStopped(t *testing.T) {
	t.Parallel()
	m, l, disk := shellMachine(t, `
		env -i "$0" writer-child "$1.bare" &
		env -i "$(command -v setsid)" "$0" writer-child "$1.apart" &
		(setsid "$0" writer-child "$1.left" &) &
		wait`)
	files := []string{disk + ".bare", disk + ".apart", disk + ".left"}
	p := start(t, m, l, files...)
	if found, ok, err := m.Find(t.Context(), l); err != nil || !ok || found.PID != p.PID {
		t.Errorf("found %+v (%v), want process %d", found, err, p.PID)
	}
	if _, err := m.Freeze(t.Context(), p, false); err != nil {
		t.Fatal(err)
	}
	sizes := func() (s []int64) {
		for _, f := range files {
			s = append(s, size(f))
		}
		return s
	}
	before := sizes()
	pause := time.NewTimer(30 * time.Millisecond)
	<-pause.C
	if got := sizes(); !slices.Equal(got, before) {
		t.Errorf("a frozen machine writes: sizes %v, then %v", before, got)
	}
	if err := m.Thaw(t.Context(), p, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		now := sizes()
		return now[0] > before[0] && now[1] > before[1] && now[2] > before[2]
	})
	if _, err := m.Stop(t.Context(), p, provider.Stop{}); err != nil {
		t.Fatal(err)
	}
	if w, err := provider.Writers(files); err != nil || len(w) > 0 {
		t.Errorf("after the stop: %v, %v", w, err)
	}
}

// A process of the session whose leader is gone, and that nothing marks, may
// be the machine's or not: that is unknown, and it is not killed.
func TestProcessInDoubt(t *testing.T) {
	t.Parallel()
	m, l, disk := shellMachine(t, `env -i "$0" writer-child "$1" & echo $! > "$1.pid"; wait`)
	p, err := m.Start(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return size(disk) > 0 && size(disk+".pid") > 0 })
	b, err := os.ReadFile(disk + ".pid")
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(child, syscall.SIGKILL) }) // the test may have ended it
	if st := m.Status(t.Context(), p); st.Power != recovery.PowerRunning {
		t.Errorf("it is %s, want running", st.Power)
	}
	if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return m.Status(t.Context(), p).Power == recovery.PowerUnknown })
	if st := m.Status(t.Context(), p); !strings.Contains(st.Why, strconv.Itoa(child)) {
		t.Errorf("why: %q", st.Why)
	}
	for what, err := range map[string]error{
		"stop":   func() error { _, err := m.Stop(t.Context(), p, provider.Stop{Force: true}); return err }(),
		"freeze": func() error { _, err := m.Freeze(t.Context(), p, false); return err }(),
	} {
		if err == nil || !strings.Contains(err.Error(), strconv.Itoa(child)) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := syscall.Kill(child, syscall.SIGKILL); err != nil {
		t.Errorf("it was ended: %v", err)
	}
	eventually(t, func() bool { return m.Status(t.Context(), p).Power == recovery.PowerStopped })
}

// A machine that prints for years does not fill the disk of its agent.
func TestOutputIsBounded(t *testing.T) {
	t.Parallel()
	_, l, _ := setup(t, "")
	dir := t.TempDir()
	cfg := recovery.Exec{Start: []string{"sh", "-c", "while :; do head -c 300000 /dev/zero; done"}}
	m := execprov.New(cfg, execprov.Options{FS: vfs.OS{}, Dir: dir, Env: os.Environ(), Log: logkit.Discard()})
	p := start(t, m, l)
	out := filepath.Join(dir, "output.log")
	for range 3 {
		eventually(t, func() bool { return size(out) > 5<<20 })
		if _, err := m.Freeze(t.Context(), p, false); err != nil { // so that the sizes stand still
			t.Fatal(err)
		}
		if st := m.Status(t.Context(), p); st.Power != recovery.PowerRunning {
			t.Fatalf("it is %+v", st)
		}
		if size(out) != 0 || size(out+".1") != 512<<10 {
			t.Errorf("%d bytes are left, %d are kept", size(out), size(out+".1"))
		}
		if err := m.Thaw(t.Context(), p, false); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStopFrozen(t *testing.T) {
	t.Parallel()
	m, l, disk := setup(t, "writer")
	p := start(t, m, l, disk)
	if _, err := m.Freeze(t.Context(), p, true); err != nil {
		t.Fatal(err)
	}
	if forced, err := m.Stop(t.Context(), p, provider.Stop{}); err != nil || forced {
		t.Errorf("stop of a frozen machine: forced %t, %v", forced, err)
	}
}

func TestDeafMachine(t *testing.T) {
	t.Parallel()
	m, l, disk := setup(t, "writer-deaf")
	p := start(t, m, l, disk)
	_, err := m.Stop(t.Context(), p, provider.Stop{Within: 20 * time.Millisecond})
	if !fault.Is(err, fault.Failed) || fault.Hint(err) == "" {
		t.Errorf("stop without force: %v", err)
	}
	if st := m.Status(t.Context(), p); st.Power != recovery.PowerRunning {
		t.Errorf("it is %s, want running", st.Power)
	}
	forced, err := m.Stop(t.Context(), p, provider.Stop{Within: 20 * time.Millisecond, Force: true})
	if err != nil || !forced {
		t.Errorf("forced stop: %t, %v", forced, err)
	}
}

func TestCommands(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := recovery.Exec{
		Start: []string{os.Args[0], "writer-child", "{disk.d}"}, Status: []string{"sh", "-c", "exit $(cat code)"},
		Freeze: []string{"touch", dir + "/frozen-{machine}"}, Thaw: []string{"touch", dir + "/thawed-{epoch}"},
	}
	cfg.Status[2] = "exit $(cat " + dir + "/code)"
	m := execprov.New(cfg, execprov.Options{FS: vfs.OS{}, Dir: dir, Env: os.Environ(), Log: logkit.Discard()})
	p := provider.Process{Launch: provider.Launch{Machine: "erp", Epoch: 7}}
	for code, want := range map[string]recovery.Power{
		"0": recovery.PowerRunning, "3": recovery.PowerStopped, "1": recovery.PowerStopped,
		"4": recovery.PowerUnknown, "126": recovery.PowerUnknown,
	} {
		if err := os.WriteFile(dir+"/code", []byte(code), 0o600); err != nil {
			t.Fatal(err)
		}
		if st := m.Status(t.Context(), p); st.Power != want {
			t.Errorf("status command exits %s: %s, want %s", code, st.Power, want)
		}
	}
	kind, err := m.Freeze(t.Context(), p, true)
	if err != nil || kind != recovery.App || size(dir+"/frozen-erp") != 0 {
		t.Errorf("freeze by command: %s, %v", kind, err)
	}
	if err := m.Thaw(t.Context(), p, true); err != nil {
		t.Error(err)
	}
	for _, f := range []string{"frozen-erp", "thawed-7"} {
		if _, err := os.Stat(filepath.Join(dir, f)); err != nil {
			t.Error(err)
		}
	}
}

func TestCannotStart(t *testing.T) {
	t.Parallel()
	m, l, _ := setup(t, "writer")
	l.Disks = nil
	if _, err := m.Start(t.Context(), l); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "data-1") {
		t.Errorf("unknown disk: %v", err)
	}
	none := execprov.New(recovery.Exec{Start: []string{"/no/such/program"}},
		execprov.Options{FS: vfs.OS{}, Dir: t.TempDir(), Log: logkit.Discard()})
	if _, err := none.Start(t.Context(), l); !fault.Is(err, fault.Failed) || fault.Hint(err) == "" {
		t.Errorf("missing program: %v", err)
	}
	if _, err := none.Freeze(t.Context(), provider.Process{}, false); !fault.Is(err, fault.Refused) {
		t.Errorf("freeze of a machine we did not start: %v", err)
	}
}

func TestExpandOnce(t *testing.T) {
	t.Parallel()
	l := provider.Launch{Machine: "erp", Site: "{ip}", IP: "10.0.0.5", Epoch: 3, Disks: map[string]string{"a": "/a b;$x"}}
	got, err := execprov.Expand([]string{"x={disk.a},{machine}", "{site}", "{epoch}", `{"json":1}`, "{other}"}, l)
	want := []string{"x=/a b;$x,erp", "{ip}", "3", `{"json":1}`, "{other}"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
	env := execprov.Environment([]string{"PATH=/bin", "DRRUN_RUN=old"}, l)
	if !slices.Contains(env, "PATH=/bin") || slices.Contains(env, "DRRUN_RUN=old") || !slices.Contains(env, "DRRUN_DISK_A=/a b;$x") {
		t.Errorf("environment is %q", env)
	}
}

func TestParseUnit(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]provider.State{
		"ActiveState=active\nMainPID=42\n":         {Power: recovery.PowerRunning, PID: 42},
		"MainPID=0\nActiveState=inactive\n":        {Power: recovery.PowerStopped, Exit: "inactive"},
		"MainPID=0\nActiveState=failed":            {Power: recovery.PowerStopped, Exit: "failed"},
		"ActiveState=deactivating\nMainPID=\n":     {Power: recovery.PowerRunning},
		"":                                         {Power: recovery.PowerUnknown},
		"Failed to connect to bus\nActiveState=\n": {Power: recovery.PowerUnknown},
	} {
		if got := execprov.ParseUnit(in); got != want {
			t.Errorf("%q: %+v, want %+v", in, got, want)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("42 (a) b) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 1 1"))
	f.Add([]byte("42 (a"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if pid, _, _, _, err := execprov.ParseStat(b); err == nil && pid <= 0 {
			t.Errorf("process id %d accepted", pid)
		}
	})
}
