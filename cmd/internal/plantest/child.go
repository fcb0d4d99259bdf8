package plantest

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts"
)

// ChildCommand is the hidden command of drrun that Serve is behind.
const ChildCommand = "__simulate"

// Limits of a child.
const (
	DefaultPatience = time.Minute
	childHeap       = 768 << 20 // bytes
	heapEvery       = 50 * time.Millisecond
)

// Job is what a child is asked to do.
type Job struct {
	Tests    []TestID `json:"tests,omitempty"`
	Update   bool     `json:"update,omitempty"`
	Coverage bool     `json:"coverage,omitempty"`
	Explore  *Request `json:"explore,omitempty"`
	// Patience is how long, in real time, nothing may be heard of a test before it
	// counts as one that does not end; 0: DefaultPatience.
	Patience time.Duration `json:"-"`
}

// Event is what a child says, one a line.
type Event struct {
	Begin    *TestID       `json:"begin,omitempty"`
	Result   *TestResult   `json:"result,omitempty"`
	Beat     bool          `json:"beat,omitempty"` // it lives
	Coverage []PlanFigures `json:"coverage,omitempty"`
	Explored *Report       `json:"explored,omitempty"`
	Error    *fault.Error  `json:"error,omitempty"`
	Done     bool          `json:"done,omitempty"`
}

// Serve is the child: it reads a Job from in and writes Events to out. It does
// not return: package testing ends the process.
func Serve(in io.Reader, out io.Writer) {
	InVirtualTime(func(bubble Bubble) { serve(bubble, in, out) })
}

// InVirtualTime calls f with what runs functions in virtual time. It does not
// return: package testing, which alone has that, ends the process.
func InVirtualTime(f func(Bubble)) {
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(mostMemory)
	os.Args = os.Args[:1] // testing reads its flags from there
	match := func(_, _ string) (bool, error) { return true, nil }
	testing.Main(match, []testing.InternalTest{{Name: "simulation", F: func(t *testing.T) { //nolint:staticcheck // the one door to virtual time outside of go test
		f(func(f func(context.Context)) { synctest.Test(t, func(t *testing.T) { f(t.Context()) }) })
	}}}, nil, nil)
}

func serve(bubble Bubble, in io.Reader, out io.Writer) {
	var mu sync.Mutex
	enc := json.NewEncoder(out)
	say := func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		if err := enc.Encode(e); err != nil { // nobody listens any more
			os.Exit(fault.ExitInternal)
		}
	}
	go func() { // outside of every bubble: in there no time passes while code runs
		for range time.Tick(heapEvery) {
			if heap := memory(); heap > childHeap {
				say(Event{Error: fault.Errorf(fault.Failed, "it takes too much memory: %s", quantity.FormatSize(int64(heap)))}) //nolint:gosec // less than the machine has
				os.Exit(fault.ExitFailed)
			}
		}
	}()
	var job Job
	if err := json.NewDecoder(in).Decode(&job); err != nil {
		say(Event{Error: fault.Errorf(fault.Internal, "cannot read the job: %w", err)})
		return
	}
	lua := scripts.New(scripts.Options{})
	beat := func() { say(Event{Beat: true}) }
	if job.Explore != nil {
		r, err := Explore(lua, bubble, *job.Explore, beat)
		if err != nil {
			say(Event{Error: asFault(err)})
		} else {
			say(Event{Explored: r})
		}
		say(Event{Done: true})
		return
	}
	OneAfterTheOther()
	tr := Tester{Lua: lua, Bubble: bubble, Update: job.Update, Beat: beat}
	if job.Coverage {
		tr.Coverage = NewCoverage()
		tr.Lua = scripts.New(scripts.Options{Branches: tr.Coverage.Branches})
	}
	for _, id := range job.Tests {
		say(Event{Begin: &id})
		r := tr.Run(id)
		say(Event{Result: &r})
		if tr.Coverage != nil { // after each test: the next one may kill the child
			say(Event{Coverage: tr.Coverage.parts()})
		}
	}
	say(Event{Done: true})
}

func asFault(err error) *fault.Error {
	f := fault.Wrap(fault.Failed, err)
	if f.Hint == "" {
		f.Hint = fault.Hint(err)
	}
	return f
}

// errHangs is that a child shows no sign of life.
var errHangs = errors.New("it shows no sign of life")

// child runs a job in a process of its own and calls hear with what it says. An
// error means that it did not come to its end.
func child(ctx context.Context, job Job, hear func(Event)) error {
	self, err := os.Executable()
	if err != nil {
		return fault.Errorf(fault.Internal, "cannot find drrun itself: %w", err)
	}
	raw, err := json.Marshal(job)
	if err != nil {
		return fault.Errorf(fault.Internal, "cannot write the job: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r, w, err := os.Pipe()
	if err != nil {
		return fault.Errorf(fault.Failed, "cannot start the simulation: %w", err)
	}
	defer func() { _ = r.Close() }() // read to its end, or given up
	cmd := exec.CommandContext(ctx, self, ChildCommand)
	errs := &tail{}
	cmd.Stdin, cmd.Stderr, cmd.ExtraFiles = bytes.NewReader(raw), errs, []*os.File{w}
	cmd.Env = append(os.Environ(), "GOMAXPROCS="+fmt.Sprint(runtime.GOMAXPROCS(0)))
	if err = cmd.Start(); err != nil {
		_ = w.Close()
		return fault.Errorf(fault.Failed, "cannot start the simulation: %w", err)
	}
	_ = w.Close() // the child has it
	patience := cmp.Or(job.Patience, DefaultPatience)
	alive := time.AfterFunc(patience, func() { cancel(errHangs) })
	defer alive.Stop()
	done := false
	var failed error
	lines := bufio.NewReader(r)
	dec := json.NewDecoder(lines)
	for {
		var e Event
		if err := dec.Decode(&e); err != nil {
			break
		}
		alive.Reset(patience)
		done = done || e.Done
		if e.Error != nil {
			failed = e.Error
		}
		hear(e)
	}
	err = cmd.Wait()
	switch {
	case failed != nil:
		return failed
	case done:
		return nil
	case errors.Is(context.Cause(ctx), errHangs):
		return errHangs
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return fault.Errorf(fault.Internal, "the simulation ended without a result (%v): %s", err, errs)
}

// tail keeps the begin of what a child says in its agony.
type tail struct{ b []byte }

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	if left := 4000 - len(t.b); left > 0 {
		t.b = append(t.b, p[:min(left, len(p))]...)
	}
	return len(p), nil
}

// String is what it has kept.
func (t *tail) String() string { return string(t.b) }

// RunTests runs tests in children, and tells of each when it has ended. A test
// that hangs or kills its child has failed; the others go on in another one.
func RunTests(ctx context.Context, job Job, hear func(TestResult)) ([]PlanFigures, error) {
	figures, err := runTests(ctx, job, hear)
	return counted(figures), err
}

func runTests(ctx context.Context, job Job, hear func(TestResult)) ([]PlanFigures, error) {
	var figures []PlanFigures
	left := job.Tests
	for len(left) > 0 {
		var at *TestID
		begun := time.Now()
		job.Tests = left
		err := child(ctx, job, func(e Event) {
			switch {
			case e.Begin != nil:
				at, begun = e.Begin, time.Now()
			case e.Result != nil:
				left = left[1:]
				at = nil
				hear(*e.Result)
			case e.Coverage != nil:
				figures = mergeFigures(figures, e.Coverage)
			}
		})
		switch {
		case err == nil:
			return figures, nil
		case ctx.Err() != nil || at == nil:
			return figures, err
		}
		text := err.Error()
		if errors.Is(err, errHangs) {
			text = fmt.Sprintf("it does not end: nothing was heard of it for %s of real time (an endless loop?)", cmp.Or(job.Patience, DefaultPatience))
		}
		hear(TestResult{TestID: *at, Seconds: time.Since(begun).Seconds(), Failure: &scripts.TestFailure{Pos: plans.Pos{File: at.File, Line: at.Line}, Message: text}})
		left = left[1:]
	}
	return figures, nil
}

// mergeFigures puts figures of several children together: what one has covered
// is no gap.
func mergeFigures(a, b []PlanFigures) []PlanFigures {
	for _, f := range b {
		i := slices.IndexFunc(a, func(o PlanFigures) bool { return o.File == f.File })
		if i < 0 {
			a = append(a, f)
			continue
		}
		a[i].Gaps = slices.DeleteFunc(a[i].Gaps, func(g Gap) bool { return !slices.Contains(f.Gaps, g) })
		a[i].Ways, a[i].Served = mergeWays(a[i].Ways, f.Ways), mergeServed(a[i].Served, f.Served)
		never := 0
		for _, g := range a[i].Gaps {
			if g.What == neverRan {
				never++
			}
		}
		a[i].Ran = a[i].Steps - never
	}
	return a
}

// mergeWays puts the branches of a plan together. Where a module was not loaded in
// one of two children the other one tells more.
func mergeWays(a, b []scripts.Branch) []scripts.Branch {
	switch {
	case len(a) > len(b):
		return a
	case len(a) == len(b):
		for i := range b {
			b[i].Taken = b[i].Taken || a[i].Taken
		}
	}
	return b
}

// RunExplore explores in a child.
func RunExplore(ctx context.Context, r Request) (*Report, error) {
	var out *Report
	err := child(ctx, Job{Explore: &r}, func(e Event) {
		if e.Explored != nil {
			out = e.Explored
		}
	})
	if errors.Is(err, errHangs) {
		return nil, fault.Errorf(fault.Failed, "the plan does not end: nothing was heard of its run for %s of real time (an endless loop?)", DefaultPatience)
	}
	return out, err
}
