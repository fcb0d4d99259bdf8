package e2e_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/lab"
	"github.com/drrun/drrun/runtime/report"
)

// long reports whether the long variants are asked for (make test-kill).
func long() bool { return os.Getenv("DRRUN_LONG") != "" }

// following is a drrun command whose events are read as they come.
type following struct {
	cmd    *exec.Cmd
	events chan report.Event // closed at the end of its output
	diag   strings.Builder   // complete after wait
	ended  chan error
	run    string // the run's id, once an event named it
}

// follow starts drrun with -o json.
func (s *site) follow(ctx context.Context, args ...string) *following {
	s.t.Helper()
	f := &following{cmd: s.Command(ctx, append(args, "-o", "json")...), events: make(chan report.Event, 4096), ended: make(chan error, 1)}
	out, err := f.cmd.StdoutPipe()
	s.no(err)
	f.cmd.Stderr = &f.diag
	s.no(f.cmd.Start())
	go func() {
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 16<<20)
		for lines.Scan() {
			var ev report.Event
			if json.Unmarshal(lines.Bytes(), &ev) == nil {
				f.events <- ev
			}
		}
		close(f.events)
		f.ended <- f.cmd.Wait()
	}()
	return f
}

// until reads events up to the first that is one of those meant; false: the
// command ended before.
func (f *following) until(meant func(report.Event) bool) bool {
	for ev := range f.events {
		f.run = ev.Run
		if meant(ev) {
			return true
		}
	}
	return false
}

// wait reads the rest and returns the exit code.
func (f *following) wait(t *testing.T) int {
	t.Helper()
	f.until(func(report.Event) bool { return false })
	err := <-f.ended
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return f.cmd.ProcessState.ExitCode()
}

// kill ends the command with SIGKILL.
func (f *following) kill(t *testing.T) {
	t.Helper()
	if err := f.cmd.Process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	f.wait(t)
}

// at means the event of a step that has begun, or ended.
func at(step string, ended bool) func(report.Event) bool {
	return func(ev report.Event) bool {
		if ev.Step == nil || ev.Step.ID != step {
			return false
		}
		return ev.Step.Status == report.StepDone || !ended && ev.Step.Status == report.StepRunning
	}
}

// show reads a run as drrun shows it.
func (s *site) show(ctx context.Context, id string) (r report.Run) {
	s.t.Helper()
	s.no(json.Unmarshal([]byte(s.must(s.Drrun(ctx, "show", id, "-o", "json"))), &r))
	return r
}

// exit returns the exit code and what was said of a command that may fail.
func (s *site) exit(ctx context.Context, args ...string) (code int, said string) {
	s.t.Helper()
	out, err := s.Drrun(ctx, args...)
	var exit *lab.ExitError
	if errors.As(err, &exit) {
		return exit.Code, exit.Stdout + exit.Stderr
	}
	s.no(err)
	return 0, out
}

// neverTogether fails the test if a machine ever ran twice at a time, by what
// the machines themselves wrote.
func (s *site) neverTogether() []lab.Life {
	s.t.Helper()
	lives, err := s.Lives()
	s.no(err)
	if len(lives) == 0 {
		s.t.Error("no machine bore witness: the test shows nothing")
	}
	for _, two := range lab.Together(lives) {
		s.t.Errorf("ran at once: %s and %s", two[0], two[1])
	}
	return lives
}

// serving fails the test unless every machine answers at a site, and at no other.
func (s *site) serving(where string) {
	s.t.Helper()
	for _, m := range lab.Machines {
		for _, name := range []string{"paris", "lyon"} {
			if got := lab.Listening(s.IP(name, m) + ":" + s.Port); got != (name == where) {
				s.t.Errorf("%s answers at %s: %v", m, name, got)
			}
		}
	}
}

// edit changes a text of the plans' folder.
func (s *site) edit(name, old, new string) {
	s.t.Helper()
	path := filepath.Join(s.Root, "plans", name)
	b, err := os.ReadFile(path)
	s.no(err)
	if !strings.Contains(string(b), old) {
		s.t.Fatalf("%s has no %q", name, old)
	}
	s.no(os.WriteFile(path, []byte(strings.ReplaceAll(string(b), old, new)), 0o600))
}

// within bounds what a test may wait for.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
