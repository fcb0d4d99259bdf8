package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/needs"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/control"
	"github.com/drrun/drrun/runtime/estate"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/store"
)

// A person in haste: each command that ends something for good, with each
// mistake that haste makes, on a real terminal and without one. What agents and
// state look like afterwards is in testdata/script/haste.txt, with real ones.

// hasteEngine notes what reaches the engine and would change something.
type hasteEngine struct {
	*fakeEngine
	changes []string
}

func newHasteEngine(allowed ...string) *hasteEngine {
	e := &hasteEngine{fakeEngine: newFake(report.RunUncommitted, 0, ended)}
	e.run.Allowed = allowed
	return e
}

// change notes an operation; the run allows nothing more after it.
func (e *hasteEngine) change(op string) (report.Run, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.changes = append(e.changes, op)
	e.run.Allowed = nil
	e.add(ended)
	return e.run, nil
}

// Run finds a run by the beginning of its name, as the engine does.
func (e *hasteEngine) Run(ctx context.Context, run string) (report.Run, error) {
	if run != "" && strings.HasPrefix("erp-1", run) {
		run = "erp-1"
	}
	return e.fakeEngine.Run(ctx, run)
}

func (e *hasteEngine) Start(context.Context, control.StartRequest) (report.Run, error) {
	return e.change("start")
}

func (e *hasteEngine) Commit(context.Context, control.RunRequest) (report.Run, error) {
	return e.change("commit")
}

func (e *hasteEngine) Cancel(context.Context, control.RunRequest) (report.Run, error) {
	return e.change("cancel")
}

func (e *hasteEngine) Cleanup(context.Context, control.RunRequest) (report.Run, error) {
	return e.change("cleanup")
}

func (e *hasteEngine) Rollback(context.Context, control.RunRequest) (report.Run, error) {
	return e.change("rollback")
}

func (e *hasteEngine) ChangePoint(context.Context, control.RunRequest) (report.Run, error) {
	return e.change("change-point")
}

func (e *hasteEngine) Resume(context.Context, control.RunRequest) (report.Run, error) {
	return e.change("resume")
}

func (e *hasteEngine) Answer(context.Context, control.AnswerRequest) (report.Run, error) {
	return e.change("answer")
}

func (e *hasteEngine) Reverse(context.Context, control.ReverseRequest) (report.Run, error) {
	return e.change("reverse")
}

func (e *hasteEngine) ExplainReverse(context.Context, control.ReverseRequest) (report.Explain, error) {
	return report.Explain{Plan: "erp", Kind: report.KindReverse, From: "lyon", To: "paris"}, nil
}

func (e *hasteEngine) Written(context.Context, control.RunRequest) (control.WrittenResult, error) {
	return control.WrittenResult{Machines: []report.Written{{Machine: "db1", Host: "lyo-1"}}}, nil
}

// oneEstate is what the catalogue of a haste test has applied.
type oneEstate struct{}

func (oneEstate) LoadEstate(plans.Bundle) (*plans.Estate, error) {
	host := func(name string) []plans.Host {
		return []plans.Host{{Name: name, Addr: "127.0.0.1", Store: "/srv/" + name}}
	}
	return &plans.Estate{Name: "acme", Sites: []plans.Site{
		{Name: "paris", Clouds: []plans.Cloud{{Name: "prod", To: "dr", Hosts: host("par-1")}}},
		{Name: "lyon", Clouds: []plans.Cloud{{Name: "dr", To: "prod", Hosts: host("lyo-1")}}},
	}}, nil
}

func (oneEstate) LoadPlan(plans.Bundle, map[string]string) (*plans.Plan, error) {
	return nil, fault.Errorf(fault.Invalid, "there is no plan here")
}

func (oneEstate) Ensure(string) error { return nil }

func (oneEstate) NewToken(string) (text, hash string, err error) { return "", "", nil }

// Call is every agent: none answers.
func (oneEstate) Call(_ context.Context, host, _ string, _, _ any) error {
	return fault.Errorf(fault.Unreachable, "%s does not answer", host)
}

func hasteCatalogue(t *testing.T) *estate.Catalogue {
	t.Helper()
	cat := estate.New(estate.Options{Store: store.NewMemory(), Loader: oneEstate{}, Trust: oneEstate{}, Caller: oneEstate{}, Clock: clock.Real{},
		Log: slog.New(slog.DiscardHandler)})
	b := plans.Bundle{Main: "estate.lua", Files: map[string]string{"estate.lua": `return estate "acme" {}`}}
	if _, err := cat.Apply(t.Context(), estate.ApplyRequest{Bundles: []plans.Bundle{b}, By: "ada"}); err != nil {
		t.Fatal(err)
	}
	return cat
}

// desk is a real terminal with somebody in front who answers each question when
// it has been asked.
type desk struct {
	safeBuffer
	keyboard *os.File
	screen   *os.File // what the command has as its input
	answers  []string // typed one a question; then the input ends (Ctrl-D)
	asked    int
}

func newDesk(t *testing.T, early string, answers ...string) *desk {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		needs.Missing(t, fmt.Sprintf("pseudo terminals (%v)", err), "mount devpts")
	}
	n, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	screen, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = screen.Close(), keyboard.Close() })
	d := &desk{keyboard: keyboard, screen: screen, answers: answers}
	d.types(early)
	return d
}

func (d *desk) types(s string) { _, _ = d.keyboard.WriteString(s) } // a lost key makes the test fail

// Write is what the command prints on the terminal.
func (d *desk) Write(p []byte) (int, error) {
	n, err := d.safeBuffer.Write(p)
	if strings.Contains(string(p), " to go on: ") || strings.Contains(string(p), "[y/N] ") || strings.Contains(string(p), "Passphrase") {
		d.asked++
		if len(d.answers) == 0 {
			d.types("\x04")
		} else {
			d.types(d.answers[0])
			d.answers = d.answers[1:]
		}
	}
	return n, err
}

// destructive is a command that ends something for good.
type destructive struct {
	name string
	args []string
	op   string // what reaches the engine
	word string // to be typed on a terminal; "": naming the run is all
	// plain says that without a terminal it needs no --yes: it names its run.
	plain bool
	// run is where the name of the run stands in args, else -1.
	run int
	// bare: a command that is not about a run's state.
	bare bool
}

func destructiveCommands() []destructive {
	return []destructive{
		{name: "planned", args: []string{"erp", "--planned"}, op: "start", word: "lyon", run: -1, bare: true},
		{name: "unplanned", args: []string{"erp", "--unplanned", "--source-is-down"}, op: "start", word: "lyon", run: -1, bare: true},
		{name: "failover", args: []string{"failover", "db1", "--unplanned", "--source-is-down"}, op: "start", word: "lyon", run: -1, bare: true},
		{name: "commit", args: []string{"commit", "erp-1"}, op: "commit", word: "paris", run: 1, plain: true},
		{name: "rollback", args: []string{"rollback", "erp-1"}, op: "rollback", word: "lyon", run: 1},
		{name: "change-point", args: []string{"change-point", "erp-1", "--point", "latest"}, op: "change-point", word: "lyon", run: 1},
		{name: "reverse", args: []string{"reverse", "db1"}, op: "reverse", word: "paris", run: -1, bare: true},
		{name: "cancel", args: []string{"cancel", "erp-1"}, op: "cancel", run: 1, plain: true, bare: true},
		{name: "cleanup", args: []string{"cleanup", "erp-1"}, op: "cleanup", run: 1, plain: true, bare: true},
		{name: "resume as unplanned", args: []string{"resume", "erp-1", "--as", "unplanned", "--source-is-down"}, op: "resume", run: 1, plain: true, bare: true},
		{name: "source-is-down", args: []string{"answer", "erp-1", "source-is-down"}, op: "answer", run: 1, plain: true, bare: true},
	}
}

// at runs the command at a desk.
func (c destructive) at(t *testing.T, e *hasteEngine, d *desk, more ...string) int {
	t.Helper()
	s := newShellOn(t, e, hasteCatalogue(t), "")
	s.env.Stdin = d.screen
	s.env.Stderr.Writer = d
	return s.run(append(slices.Clone(c.args), more...)...)
}

// without runs the command without a terminal.
func (c destructive) without(t *testing.T, e *hasteEngine, args ...string) (code int, printed string) {
	t.Helper()
	s := newShellOn(t, e, hasteCatalogue(t), c.word+"\n")
	s.env.Asks, s.env.Stderr.Interactive = false, false
	code = s.run(args...)
	return code, s.err.String()
}

// unchanged fails the test if anything has reached the engine.
func (e *hasteEngine) unchanged(t *testing.T, c destructive, how string, before report.Run) {
	t.Helper()
	if len(e.changes) > 0 || !reflect.DeepEqual(e.run, before) {
		t.Errorf("%s, %s: %v was done", c.name, how, e.changes)
	}
}

// TestDiscardIsAskedFor: with the site's name alone nothing is given up.
func TestDiscardIsAskedFor(t *testing.T) {
	t.Parallel()
	c := destructive{name: "discard", args: []string{"reverse", "db1", "--discard-diverged", "db1"}, op: "reverse"}
	for answers, want := range map[[2]string]int{{"paris\n", "paris\n"}: 3, {"db1\n", "db1\n"}: 3, {"paris\n", "db1\n"}: 0} {
		e := newHasteEngine()
		if code := c.at(t, e, newDesk(t, "", answers[:]...)); code != want || (len(e.changes) > 0) != (want == 0) {
			t.Errorf("typed %q: exit %d, changes %v", answers, code, e.changes)
		}
	}
	e := newHasteEngine()
	if code, printed := c.without(t, e, c.args...); code != 2 || len(e.changes) > 0 || !strings.Contains(printed, "--yes") {
		t.Errorf("without a terminal: exit %d, %v, %s", code, e.changes, printed)
	}
}

func TestHasteAtATerminal(t *testing.T) {
	t.Parallel()
	for _, c := range destructiveCommands() {
		if c.word == "" {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			other := map[string]string{"paris": "lyon", "lyon": "paris"}[c.word]
			mistakes := map[string]*desk{
				"Enter only":       newDesk(t, "", "\n"),
				"y":                newDesk(t, "", "y\n"),
				"yes":              newDesk(t, "", "yes\n"),
				"the other site":   newDesk(t, "", other+"\n"),
				"an abbreviation":  newDesk(t, "", c.word[:3]+"\n"),
				"upper case":       newDesk(t, "", strings.ToUpper(c.word)+"\n"),
				"the run's name":   newDesk(t, "", "erp-1\n"),
				"end of the input": newDesk(t, ""),
				"typed too early":  newDesk(t, c.word+"\n"),
				"y typed early":    newDesk(t, "y\n"+c.word+"\n", "\n"),
			}
			for how, d := range mistakes {
				e := newHasteEngine(report.OpCommit, report.OpRollback, report.OpChangePoint)
				before := e.run
				if code := c.at(t, e, d); code != fault.ExitRefused || d.asked != 1 {
					t.Errorf("%s: exit %d after %d questions, want %d after one\n%s", how, code, d.asked, fault.ExitRefused, d)
				}
				if !strings.Contains(d.String(), "name was not typed") {
					t.Errorf("%s: the refusal does not say why:\n%s", how, d)
				}
				e.unchanged(t, c, how, before)
			}
			for how, d := range map[string]*desk{"typed": newDesk(t, "", c.word+"\n"), "typed after haste": newDesk(t, "no\n", c.word+"\n")} {
				e := newHasteEngine(report.OpCommit, report.OpRollback, report.OpChangePoint)
				if code := c.at(t, e, d); code != 0 || !slices.Equal(e.changes, []string{c.op}) {
					t.Errorf("%s: exit %d, done %v\n%s", how, code, e.changes, d)
				}
				if !strings.Contains(d.String(), "Type "+c.word+" to go on: ") || !strings.Contains(d.String(), "erp") {
					t.Errorf("the question does not name what it is about and what to type:\n%s", d)
				}
				if c.bare {
					continue
				}
				again := newDesk(t, "", c.word+"\n")
				if code := c.at(t, e, again); code != fault.ExitRefused || again.asked > 0 || len(e.changes) != 1 {
					t.Errorf("twice in a row: exit %d after %d questions, done %v", code, again.asked, e.changes)
				}
			}
		})
	}
}

func TestHasteWithoutATerminal(t *testing.T) {
	t.Parallel()
	for _, c := range destructiveCommands() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			allowed := []string{report.OpCommit, report.OpRollback, report.OpChangePoint}
			e := newHasteEngine(allowed...)
			before := e.run
			code, said := c.without(t, e, c.args...)
			switch {
			case c.plain && (code != 0 || !slices.Equal(e.changes, []string{c.op})):
				t.Errorf("with the run's whole name: exit %d, done %v\n%s", code, e.changes, said)
			case !c.plain:
				if code != fault.ExitInvalid || !strings.Contains(said, "--yes") {
					t.Errorf("without --yes: exit %d, want %d\n%s", code, fault.ExitInvalid, said)
				}
				e.unchanged(t, c, "without --yes", before)
			}
			if c.word != "" {
				e = newHasteEngine(allowed...)
				if code, said := c.without(t, e, append(slices.Clone(c.args), "--yes")...); code != 0 || !slices.Equal(e.changes, []string{c.op}) {
					t.Errorf("with --yes: exit %d, done %v\n%s", code, e.changes, said)
				}
			}
			if c.run < 0 {
				return
			}
			for _, name := range []string{"erp", "erp-", "erp-2", "erp-11"} {
				e, args := newHasteEngine(allowed...), slices.Clone(c.args)
				if args[c.run] = name; c.word != "" {
					args = append(args, "--yes")
				}
				before := e.run
				if code, said := c.without(t, e, args...); code != fault.ExitInvalid || !strings.Contains(said, name) {
					t.Errorf("run %q: exit %d, want %d\n%s", name, code, fault.ExitInvalid, said)
				}
				e.unchanged(t, c, "a run named "+name, before)
			}
		})
	}
}

// TestHasteInTheWrongState: a run that does not allow it is refused with what it
// is and what it allows, and nobody types a name for nothing.
func TestHasteInTheWrongState(t *testing.T) {
	t.Parallel()
	for _, c := range destructiveCommands() {
		if c.bare {
			continue
		}
		e, d := newHasteEngine("pause"), newDesk(t, "", c.word+"\n")
		e.run.Status = report.RunRunning
		before := e.run
		if code := c.at(t, e, d); code != fault.ExitRefused || d.asked > 0 {
			t.Errorf("%s: exit %d after %d questions", c.name, code, d.asked)
		}
		for _, want := range []string{"run erp-1 is running", c.name + " is not possible", "allowed now: pause"} {
			if !strings.Contains(d.String(), want) {
				t.Errorf("%s: the refusal has no %q:\n%s", c.name, want, d)
			}
		}
		e.unchanged(t, c, "in the wrong state", before)
	}
}

// TestUnprotectAsksForTheMachine: what the catalogue answers shows that the
// request went out, since no machine is protected here.
func TestUnprotectAsksForTheMachine(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"", "--delete-replica", "--runs-nowhere"} {
		c := destructive{name: "unprotect", args: []string{"unprotect", "db1"}}
		if flag != "" {
			c.args = append(c.args, flag)
		}
		for how, d := range map[string]*desk{"Enter": newDesk(t, "", "\n"), "y": newDesk(t, "", "y\n"), "db": newDesk(t, "", "db\n"),
			"early": newDesk(t, "db1\n"), "all": newDesk(t, "", "db1 db2\n")} {
			if code := c.at(t, newHasteEngine(), d); code != fault.ExitRefused || d.asked != 1 || !strings.Contains(d.String(), "name was not typed") {
				t.Errorf("%s %s: exit %d\n%s", flag, how, code, d)
			}
		}
		d := newDesk(t, "", "db1\n")
		if code := c.at(t, newHasteEngine(), d); code != fault.ExitInvalid || !strings.Contains(d.String(), `no machine "db1" is protected`) {
			t.Errorf("%s typed: exit %d\n%s", flag, code, d)
		}
		if code, said := c.without(t, newHasteEngine(), c.args...); code != fault.ExitInvalid || !strings.Contains(said, "--yes") {
			t.Errorf("%s without a terminal: exit %d\n%s", flag, code, said)
		}
	}
	c := destructive{args: []string{"unprotect", "db1", "--runs-nowhere", "--delete-replica", "--yes"}}
	if code, said := c.without(t, newHasteEngine(), c.args...); code != fault.ExitInvalid || !strings.Contains(said, "exclude each other") {
		t.Errorf("both flags: exit %d\n%s", code, said)
	}
}
