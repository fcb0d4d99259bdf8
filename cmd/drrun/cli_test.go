package main

import (
	"bytes"
	"context"
	"encoding/json"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drrun/drrun/cmd/internal/term"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/control"
	"github.com/drrun/drrun/runtime/estate"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/store"
)

// fakeEngine has one run, "erp-1", that a test moves on.
type fakeEngine struct {
	control.Engine
	mu      sync.Mutex
	run     report.Run
	events  []report.Event
	changed chan struct{} // closed and replaced with every change
	started []control.StartRequest
	answers []control.AnswerRequest
	paused  int
	// onAnswer is what an answer makes of the run.
	onAnswer func(e *fakeEngine)
}

func newFake(status report.RunStatus, exit int, events ...report.Event) *fakeEngine {
	e := &fakeEngine{changed: make(chan struct{})}
	e.run = report.Run{ID: "erp-1", Kind: report.KindFailover, Plan: "erp", Type: "planned", From: "paris", To: "lyon", Status: status, ExitCode: exit, Allowed: []string{}}
	for _, ev := range events {
		e.add(ev)
	}
	return e
}

// add appends an event; callers hold e.mu or are alone.
func (e *fakeEngine) add(ev report.Event) {
	ev.Run, ev.Seq, ev.Time = "erp-1", uint64(len(e.events)+1), time.Now()
	e.events = append(e.events, ev)
	close(e.changed)
	e.changed = make(chan struct{})
}

func (e *fakeEngine) Start(_ context.Context, r control.StartRequest) (report.Run, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.started = append(e.started, r)
	return e.run, nil
}

func (e *fakeEngine) Explain(context.Context, control.StartRequest) (report.Explain, error) {
	return report.Explain{Plan: "erp", Type: "planned", From: "paris", To: "lyon", Steps: make([]report.Listing, 9)}, nil
}

func (e *fakeEngine) Run(_ context.Context, run string) (report.Run, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if run != e.run.ID {
		return report.Run{}, fault.Errorf(fault.NotFound, "there is no run %q", run)
	}
	return e.run, nil
}

func (e *fakeEngine) Runs(context.Context) ([]report.Run, error) { return []report.Run{e.run}, nil }

func (e *fakeEngine) Answer(_ context.Context, r control.AnswerRequest) (report.Run, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.answers = append(e.answers, r)
	if e.onAnswer != nil {
		e.onAnswer(e)
	}
	return e.run, nil
}

func (e *fakeEngine) Pause(context.Context, control.RunRequest) (report.Run, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.paused++
	return e.run, nil
}

func (e *fakeEngine) Events(ctx context.Context, _ string, after uint64) iter.Seq2[report.Event, error] {
	return func(yield func(report.Event, error) bool) {
		for {
			e.mu.Lock()
			all, changed := e.events, e.changed
			e.mu.Unlock()
			for _, ev := range all[after:] {
				after = ev.Seq
				if !yield(ev, nil) {
					return
				}
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
}

// shell is somebody at a terminal, in front of a controller with that engine.
type shell struct {
	env      Env
	out, err *safeBuffer
	signals  chan os.Signal
}

// safeBuffer is what a command printed.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newShell(t *testing.T, e control.Engine, typed string) *shell {
	t.Helper()
	return newShellOn(t, e, estate.New(estate.Options{Store: store.NewMemory(), Clock: clock.Real{}, Log: slog.New(slog.DiscardHandler)}), typed)
}

func newShellOn(t *testing.T, e control.Engine, cat *estate.Catalogue, typed string) *shell {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	path := filepath.Join(t.TempDir(), "c.sock")
	l, err := control.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- control.NewServer(e, cat, control.Info{}, log).Serve(ctx, l, path) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("controller: %v", err)
		}
	})
	s := &shell{out: &safeBuffer{}, err: &safeBuffer{}, signals: make(chan os.Signal, 2)}
	s.env = Env{Getenv: func(k string) string { return map[string]string{"DRRUN_CONTROLLER": path}[k] },
		Stdin: strings.NewReader(typed), Asks: true, Signals: s.signals, User: "ada@desk",
		Stdout: term.Terminal{Writer: s.out}, Stderr: term.Terminal{Writer: s.err, Interactive: true, Width: func() int { return 100 }}}
	return s
}

func (s *shell) run(args ...string) int {
	s.env.Args = args
	return Main(s.env)
}

var ended = report.Event{Kind: report.EventEnd}

func TestRealFailoverAsksForTheSite(t *testing.T) {
	t.Parallel()
	for typed, want := range map[string]int{"lyon\n": fault.ExitOK, "paris\n": fault.ExitRefused, "": fault.ExitRefused} {
		e := newFake(report.RunUncommitted, 0, ended)
		s := newShell(t, e, typed)
		if got := s.run("erp", "--planned"); got != want {
			t.Errorf("typed %q: exit %d, want %d\n%s", typed, got, want, s.err)
		}
		if started := len(e.started) == 1; started != (want == 0) {
			t.Errorf("typed %q: started %v", typed, started)
		}
	}
	e := newFake(report.RunUncommitted, 0, ended)
	if got := newShell(t, e, "").run("erp", "--planned", "--yes", "--set", "a=b=c", "--commit"); got != 0 {
		t.Errorf("with --yes: exit %d", got)
	}
	if r := e.started[0]; r.Plan != "erp" || r.Set["a"] != "b=c" || !r.Commit || r.By != "ada@desk" {
		t.Errorf("request: %+v", r)
	}
}

func TestShellWord(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"wait:go/no-go": "wait:go/no-go", "wait:business go": "'wait:business go'", "it's": `'it'\''s'`} {
		if got := shellWord(in); got != want {
			t.Errorf("shellWord(%q) = %s, want %s", in, got, want)
		}
	}
}

func waiting() *fakeEngine {
	w := report.Wait{Step: "group/edge/wait", Name: "go/no-go", Ask: "Is the ledger consistent?", Answers: []string{"go", "stop"}}
	e := newFake(report.RunWaiting, fault.ExitWaiting, report.Event{Kind: report.EventWait, Wait: &w}, ended)
	e.run.Waits = []report.Wait{w}
	e.onAnswer = func(e *fakeEngine) {
		e.run.Status, e.run.Waits, e.run.ExitCode = report.RunUncommitted, nil, 0
		e.add(ended)
	}
	return e
}

func TestWaitIsAskedOnTheTerminal(t *testing.T) {
	t.Parallel()
	e := waiting()
	s := newShell(t, e, "perhaps\ngo  looks fine\n")
	if got := s.run("erp", "--planned", "--yes"); got != 0 {
		t.Fatalf("exit %d\n%s", got, s.err)
	}
	if len(e.answers) != 1 || e.answers[0].Answer != "go" || e.answers[0].Text != "looks fine" || e.answers[0].Wait != "group/edge/wait" {
		t.Errorf("answers: %+v", e.answers)
	}
	if !strings.Contains(s.err.String(), "Is the ledger consistent?") {
		t.Errorf("the question was not shown:\n%s", s.err)
	}
}

func TestWaitWithoutATerminalEndsTheCommand(t *testing.T) {
	t.Parallel()
	s := newShell(t, waiting(), "")
	s.env.Asks, s.env.Stderr.Interactive = false, false
	if got := s.run("watch", "erp-1"); got != fault.ExitWaiting {
		t.Errorf("exit %d, want %d\n%s", got, fault.ExitWaiting, s.err)
	}
	if !strings.Contains(s.out.String(), "drrun answer erp-1 group/edge/wait go|stop") {
		t.Errorf("the result does not say how to answer:\n%s", s.out)
	}
	if strings.Contains(s.err.String(), "\x1b") {
		t.Errorf("control sequences on a plain stderr: %q", s.err)
	}
}

func TestInterruptDetachesFromAController(t *testing.T) {
	t.Parallel()
	e := newFake(report.RunRunning, 0, report.Event{Kind: report.EventStep, Step: &report.Step{ID: "drain", Title: "drain", Status: report.StepRunning}})
	s := newShell(t, e, "")
	s.signals <- os.Interrupt
	// The interrupt may come before the command follows the run: both ways it
	// ends the command and not the run.
	if got := s.run("watch", "erp-1"); got != fault.ExitInterrupted {
		t.Errorf("exit %d, want %d", got, fault.ExitInterrupted)
	}
	if e.paused != 0 {
		t.Error("an interrupt paused the run of a controller")
	}
}

func TestOldEndsDoNotEndFollowing(t *testing.T) {
	t.Parallel()
	e := newFake(report.RunRunning, 0, ended) // it was stopped and has been resumed
	time.AfterFunc(300*time.Millisecond, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.run.Status = report.RunUncommitted
		e.add(report.Event{Kind: report.EventNote, Note: &report.Note{Text: "the last word"}})
		e.add(ended)
	})
	s := newShell(t, e, "")
	if got := s.run("watch", "erp-1"); got != 0 || !strings.Contains(s.err.String(), "the last word") {
		t.Errorf("exit %d:\n%s", got, s.err)
	}
}

func TestForeignTextCannotDriveTheTerminal(t *testing.T) {
	t.Parallel()
	evil := "\x1b]0;owned\x07\u202e"
	e := newFake(report.RunFailed, fault.ExitFailed,
		report.Event{Kind: report.EventNote, Note: &report.Note{Text: "note " + evil}},
		report.Event{Kind: report.EventStep, Step: &report.Step{ID: "x", Title: evil, Status: report.StepFailed, Error: fault.Errorf(fault.Failed, "bad %s", evil)}}, ended)
	e.run.Reason = evil
	e.run.Machines = []report.Machine{{Name: evil, State: evil, Reason: evil}}
	e.run.Errors = []report.Failure{{Machine: evil, Error: fault.Errorf(fault.Failed, "%s", evil+"!")}}
	e.run.Waits = []report.Wait{}
	s := newShell(t, e, "")
	s.env.Stderr.Interactive = false
	for _, args := range [][]string{{"watch", "erp-1"}, {"show", "erp-1"}, {"runs"}, {"show", evil}} {
		s.run(args...)
	}
	for name, text := range map[string]string{"stdout": s.out.String(), "stderr": s.err.String()} {
		if strings.ContainsAny(text, "\x1b\x07\u202e") {
			t.Errorf("%s holds what was in foreign text: %q", name, text)
		}
		if !strings.Contains(text, "owned") {
			t.Errorf("%s shows nothing of it: %q", name, text)
		}
	}
}

func TestJSONIsOneEventALine(t *testing.T) {
	t.Parallel()
	e := newFake(report.RunPartial, fault.ExitPartial, report.Event{Kind: report.EventNote, Note: &report.Note{Text: "one\ntwo"}}, ended)
	s := newShell(t, e, "")
	if got := s.run("watch", "erp-1", "-o", "json"); got != fault.ExitPartial {
		t.Errorf("exit %d, want %d", got, fault.ExitPartial)
	}
	lines := strings.Split(strings.TrimSpace(s.out.String()), "\n")
	for _, l := range lines {
		if !json.Valid([]byte(l)) {
			t.Errorf("not JSON: %q", l)
		}
	}
	if len(lines) != 3 || !strings.Contains(lines[2], `"exit_code":7`) {
		t.Errorf("lines:\n%s", s.out)
	}
}

func TestNoPlanHasTheNameOfACommand(t *testing.T) {
	t.Parallel()
	for _, name := range commandNames() {
		err := plans.ValidatePlan(&plans.Plan{Name: name, From: "paris", To: "lyon"})
		if err == nil || !strings.Contains(err.Error(), "is a command of drrun") {
			t.Errorf("a plan named %q: %v", name, err)
		}
	}
}

func TestEveryCommandHasItsHelp(t *testing.T) {
	t.Parallel()
	for _, cmd := range append(commands(), planCommand) {
		var out bytes.Buffer
		env := Env{Args: []string{"help", cmd.name}, Getenv: func(string) string { return "" }, Stdin: strings.NewReader(""),
			Stdout: term.Terminal{Writer: &out}, Stderr: term.Terminal{Writer: &out}}
		if code := Main(env); code != 0 {
			t.Errorf("help %s: exit %d", cmd.name, code)
		}
		for _, want := range []string{"\nEXAMPLES\n  drrun", "\nEXIT STATUS\n  0 ", "  2 "} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("help %s has no %q:\n%s", cmd.name, want, out.String())
			}
		}
		for line := range strings.Lines(out.String()) {
			if len([]rune(line)) > 140 {
				t.Errorf("help %s has a line of %d columns: %s", cmd.name, len([]rune(line)), line)
			}
		}
	}
}

// TestEveryWordHasItsHelp: whatever the registry has, help says where it stands.
func TestEveryWordHasItsHelp(t *testing.T) {
	t.Parallel()
	words := helpWords()
	if len(words) < 150 {
		t.Fatalf("%d words", len(words))
	}
	for _, word := range words {
		if wordHelp(word) == "" {
			t.Errorf("no help on %q", word)
		}
	}
}
