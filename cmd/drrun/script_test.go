package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/drrun/drrun/agent/hrl"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/lab"
	"github.com/drrun/drrun/internal/needs"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/runtime/report"
)

// The scripts run drrun as a user does: as a process of its own, which is this
// test binary under another name.
func TestMain(m *testing.M) {
	testscript.Main(tests{m}, map[string]func(){
		"drrun": main,
		"mkhrl": makeLog,
	})
}

// tests removes what was built for all scripts when they have ended.
type tests struct{ *testing.M }

func (t tests) Run() int {
	code := t.M.Run()
	if agentDir != "" {
		_ = os.RemoveAll(agentDir) // a temporary folder
	}
	return code
}

// agentDir is where buildAgent has put drrun-agent.
var agentDir string

func TestScripts(t *testing.T) {
	t.Parallel()
	runScripts(t, "testdata/script", nil)
}

// TestScriptsThatMount are scripts with a disk of their own for a store: root
// may mount one, others in a user namespace.
func TestScriptsThatMount(t *testing.T) {
	t.Parallel()
	flags := "-m"
	if os.Geteuid() != 0 {
		flags = "-Urm"
	}
	needs.Program(t, "unshare", "install the package util-linux")
	if out, err := exec.Command("unshare", flags, "mount", "-t", "tmpfs", "none", "/mnt").CombinedOutput(); err != nil {
		needs.Missing(t, fmt.Sprintf("the right to mount (%v: %s)", err, bytes.TrimSpace(out)), "run it as root, or allow user namespaces")
	}
	runScripts(t, "testdata/mounts", map[string]string{"UNSHARE": flags})
}

func runScripts(t *testing.T, dir string, env map[string]string) {
	testscript.Run(t, testscript.Params{
		Dir: dir,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits, "flip": flip, "until": until, "port": port, "fill": fill, "join": join, "listening": listening, "again": again, "runid": runID, "must": must,
		},
		Setup: func(e *testscript.Env) error {
			dir, err := buildAgent()
			if err != nil {
				return err
			}
			e.Setenv("PATH", e.Getenv("PATH")+string(os.PathListSeparator)+dir)
			e.Defer(func() { endMachines(filepath.Join(e.WorkDir, "db1.pid")) })
			e.Setenv("DRRUN_STATE", filepath.Join(e.WorkDir, "state"))
			e.Setenv("NO_COLOR", "1")
			for k, v := range env {
				e.Setenv(k, v)
			}
			return nil
		},
	})
}

// endMachines kills the machines that a script's agents started, at home, in
// tests and at the other site: machines outlive their agents. Each has written
// its process id into the file, and has the script's folder in its environment.
func endMachines(pidFile string) {
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return // no machine was started
	}
	for _, word := range strings.Fields(string(text)) {
		env, err := os.ReadFile("/proc/" + word + "/environ")
		if pid, perr := strconv.Atoi(word); err == nil && perr == nil && bytes.Contains(env, []byte(filepath.Dir(pidFile))) {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	}
}

// exits CODE PROGRAM ARG… runs a program and wants that exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARG…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		got = ee.ExitCode()
	} else if err != nil {
		ts.Fatalf("cannot run %s: %v", args[1], err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// buildAgent builds drrun-agent once for all scripts.
var buildAgent = sync.OnceValues(func() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "drrun-scripts-"); err != nil {
		return "", err
	}
	agentDir = dir
	if err := lab.Sources("../.."); err != nil {
		return dir, err
	}
	cmd := exec.Command("go", "build", "-o", dir, "../drrun-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as the Makefile builds it, so mostly from the cache
	out, err := cmd.CombinedOutput()
	if err != nil {
		return dir, fmt.Errorf("cannot build drrun-agent: %w\n%s", err, out)
	}
	return dir, nil
})

// port NAME sets a variable to a free address on loopback.
func port(ts *testscript.TestScript, _ bool, args []string) {
	// An address of its own and a port that no program gets by chance: what dials
	// takes ports of 127.0.0.1.
	n := ports.Add(1)
	ts.Setenv(args[0], fmt.Sprintf("127.185.%d.%d:20331", n/250+1, n%250+1))
}

// ports counts the addresses that were given out.
var ports atomic.Int32

// fill FILE puts the values of variables into a file.
func fill(ts *testscript.TestScript, _ bool, args []string) {
	name := ts.MkAbs(args[0])
	text, err := os.ReadFile(name)
	ts.Check(err)
	ts.Check(os.WriteFile(name, []byte(os.Expand(string(text), ts.Getenv)), 0o600))
}

// join FILE [CODE] gives an agent the token in a file and wants an exit code.
func join(ts *testscript.TestScript, neg bool, args []string) {
	code := "0"
	if len(args) > 1 {
		code = args[1]
	}
	exits(ts, neg, []string{code, "drrun-agent", "join", strings.TrimSpace(ts.ReadFile(args[0]))})
}

// listening ADDRESS waits, for at most a minute, until a UDP address is
// taken.
func listening(ts *testscript.TestScript, _ bool, args []string) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for giveUp := time.Now().Add(time.Minute); time.Now().Before(giveUp); <-tick.C {
		c, err := net.ListenPacket("udp", args[0])
		if err != nil {
			return
		}
		ts.Check(c.Close())
	}
	ts.Fatalf("nothing listens at %s", args[0])
}

// again PATTERN PROGRAM ARG… runs a program, for at most 90 seconds, until it
// prints what matches. What was printed last is there for stdout.
func again(ts *testscript.TestScript, _ bool, args []string) {
	pattern, err := regexp.Compile(args[0])
	ts.Check(err)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for giveUp := time.Now().Add(90 * time.Second); time.Now().Before(giveUp); <-tick.C {
		if err := ts.Exec(args[1], args[2:]...); err == nil && pattern.MatchString(ts.ReadFile("stdout")) {
			return
		}
	}
	ts.Fatalf("%s does not print %q", strings.Join(args[1:], " "), args[0])
}

// runid NAME sets a variable to the name of the newest run.
func runID(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(ts.Exec("drrun", "runs", "-o", "json"))
	var runs []report.Run
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &runs))
	if len(runs) == 0 {
		ts.Fatalf("there is no run")
	}
	ts.Setenv(args[0], runs[len(runs)-1].ID)
}

// flip FILE OFFSET turns the bits of one byte; a negative offset counts from
// the end.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	off, err := strconv.Atoi(args[1])
	ts.Check(err)
	name := ts.MkAbs(args[0])
	data, err := os.ReadFile(name)
	ts.Check(err)
	if off < 0 {
		off += len(data)
	}
	data[off] ^= 0xff
	ts.Check(os.WriteFile(name, data, 0o600))
}

// must FILE BIT sets a flag in the header of a replication log that its reader
// must understand, and the header's checksum with it (agent/hrl/FORMAT.md).
func must(ts *testscript.TestScript, _ bool, args []string) {
	bit, err := strconv.Atoi(args[1])
	ts.Check(err)
	name := ts.MkAbs(args[0])
	data, err := os.ReadFile(name)
	ts.Check(err)
	const flags, sum = 12, 252
	binary.LittleEndian.PutUint32(data[flags:], 1<<bit)
	binary.LittleEndian.PutUint32(data[sum:], crc32.Checksum(data[:sum], crc32.MakeTable(crc32.Castagnoli)))
	ts.Check(os.WriteFile(name, data, 0o600))
}

// until FILE waits, for at most a minute, until a file exists.
func until(ts *testscript.TestScript, _ bool, args []string) {
	name := ts.MkAbs(args[0])
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for giveUp := time.Now().Add(time.Minute); time.Now().Before(giveUp); <-tick.C {
		if _, err := os.Stat(name); err == nil {
			return
		}
	}
	ts.Fatalf("%s did not appear", args[0])
}

// makeLog writes a small replication log to the file it is given.
func makeLog() {
	if err := writeLog(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func writeLog(name string) error {
	h := hrl.Header{Kind: hrl.Full, Log: ident.NewLogID(), Disk: ident.NewDiskID(), To: ident.NewPointID(), Epoch: 1, SizeAfter: 1 << 20}
	w, err := hrl.Create(vfs.OS{}, name, h, hrl.Options{})
	if err != nil {
		return err
	}
	block := make([]byte, 4096)
	for i := range block {
		block[i] = byte(i * i >> 3)
	}
	if err := w.Data(8192, block); err != nil {
		return err
	}
	_, err = w.Close(hrl.Footer{Instant: time.Date(2026, 11, 24, 3, 0, 0, 0, time.UTC)})
	return err
}
