package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/drrun/drrun/agent/hrl"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/vfs"
)

// The scripts run drrun as a user does: as a process of its own, which is this
// test binary under another name.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"drrun": main,
		"mkhrl": makeLog,
	})
}

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits, "flip": flip, "until": until,
		},
		Setup: func(e *testscript.Env) error {
			e.Setenv("DRRUN_STATE", filepath.Join(e.WorkDir, "state"))
			e.Setenv("NO_COLOR", "1")
			return nil
		},
	})
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

// until FILE waits, for at most ten seconds, until a file exists.
func until(ts *testscript.TestScript, _ bool, args []string) {
	name := ts.MkAbs(args[0])
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for giveUp := time.Now().Add(10 * time.Second); time.Now().Before(giveUp); <-tick.C {
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
