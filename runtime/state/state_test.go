package state_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/state"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// tree is the fixed small program of the traces:
//
//	pre → a → (b ∥ c1 → c2, c2 needs c1) → w (a manual wait) → d
//
// Options change single steps.
func tree(typ recovery.Type, change func(id string, s *program.Step)) *program.Program {
	step := func(id string, kind program.Kind) program.Node {
		s := program.Step{ID: id, Kind: kind, Phase: "p", Title: id, Within: time.Minute, OnFail: program.OnFailStop}
		if typ == recovery.Unplanned {
			s.OnFail = program.OnFailContinue
		}
		switch id {
		case "w":
			s.OnFail = program.OnFailStop
			s.Plan = &plans.Step{Kind: plans.StepWait, Name: "w", Wait: &plans.WaitStep{Ask: "go on?", OnTimeout: "stop"}}
		case "c2":
			s.Requires, s.Ready = []string{"c1"}, &recovery.Check{TCP: ":1"}
		case "d":
			s.Plan = &plans.Step{Kind: plans.StepExec, Name: "d", Exec: &plans.ExecStep{Cmd: []string{"true"}}}
		case "g":
			s.Machine = "m1"
		}
		if change != nil {
			change(id, &s)
		}
		return program.Node{Step: &s}
	}
	return &program.Program{Version: 1, Section: program.SectionFailover, Plan: "small", Type: typ, From: "paris", To: "lyon",
		Machines: []program.Machine{{Name: "m1", FromSite: "paris", ToSite: "lyon", FromHost: "par-1", ToHost: "lyo-1"}},
		Root: program.Node{Seq: []program.Node{
			step("pre", program.Preflight), step("g", program.Grant), step("a", program.Start),
			{Par: []program.Node{step("b", program.Start), {Seq: []program.Node{step("c1", program.Start), step("c2", program.Ready)}}}},
			step("w", program.Wait), step("d", program.Exec)}}}
}

// play folds a trace: words of a step and a sign.
//
//	a>  started   a.  done       a!  failed    a?  unknown   a~  skipped at run time
//	w:go  answered   w#  timed out   +5s  time passes   pause  resume  cancel  commit  cleanup
func play(t *testing.T, typ recovery.Type, change func(string, *program.Step), run state.Run, trace string) (*state.State, []state.Record) {
	t.Helper()
	now := t0
	run.ID = "r1"
	records := []state.Record{{Seq: 1, Time: now, Kind: state.Created, Run: &run, Program: tree(typ, change)}}
	s, err := state.New(records)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range strings.Fields(trace) {
		r := state.Record{By: "ann"}
		switch id := word[:len(word)-1]; {
		case word[0] == '+':
			d, err := time.ParseDuration(word[1:])
			if err != nil {
				t.Fatal(err)
			}
			now = now.Add(d)
			continue
		case word == "pause":
			r.Kind = state.Paused
		case word == "resume":
			r.Kind = state.Resumed
		case word == "attach":
			r.Kind, r.Word = state.Resumed, state.WordAttach
		case word == "unplanned":
			r.Kind, r.Program = state.Resumed, tree(recovery.Unplanned, change)
		case word == "cancel":
			r.Kind = state.Cancelled
		case word == "commit":
			r.Kind, r.Program = state.Section, program.CommitOf(s.Main(), s.Granted())
		case word == "cleanup":
			r.Kind, r.Program = state.Section, program.CleanupOf(s.Main())
		case word == "giveback":
			r.Kind, r.Program = state.Section, program.CancelOf(s.Main(), s.Held(), s.Down(), s.Leased(), s.UnclearGrants())
		case strings.Contains(word, ":"):
			r.Kind = state.Answered
			r.Step, r.Word, _ = strings.Cut(word, ":")
		default:
			r.Step = id
			r.Kind = map[byte]state.Kind{'>': state.Started, '.': state.Done, '!': state.Failed, '?': state.Unknown, '~': state.Skipped, '#': state.TimedOut}[word[len(word)-1]]
			if st := s.Steps[id]; st != nil {
				r.Attempt = st.Attempt
			}
			switch r.Kind {
			case state.Started:
				r.Attempt++
			case state.Failed, state.Unknown:
				r.Error = fault.Errorf(fault.Failed, "%s breaks", id)
			}
		}
		r.Seq, r.Time = s.Seq+1, now
		if err := s.Apply(r); err != nil {
			t.Fatalf("%q at %s: %v", trace, word, err)
		}
		records = append(records, r)
	}
	return s, records
}

// next is what may start, as text; times are relative to t0.
func next(s *state.State) string {
	var out []string
	for _, e := range s.Next() {
		w := e.Step
		if !e.At.IsZero() && e.At.After(t0) {
			w += "@" + e.At.Sub(t0).String()
		}
		if e.Timeout {
			w += "#"
		}
		out = append(out, w)
	}
	return strings.Join(out, " ")
}

const (
	upToA = "pre> pre. g> g. a> a. "
	upToW = upToA + "b> c1> b. c1. c2> c2. w> "
	toEnd = upToW + "w:go d> d. "
)

type row struct {
	name   string
	typ    recovery.Type
	change func(string, *program.Step)
	run    state.Run
	trace  string
	want   string // status exit: next
}

func set(id string, f func(*program.Step)) func(string, *program.Step) {
	return func(got string, s *program.Step) {
		if got == id {
			f(s)
		}
	}
}

func retryA(s *program.Step)    { s.Retry = plans.Retry{Times: 1, Every: 10 * time.Second} }
func optional(s *program.Step)  { s.Optional = true }
func askA(s *program.Step)      { s.OnFail = program.OnFailAsk }
func goOn(s *program.Step)      { s.OnFail = program.OnFailContinue }
func stopAll(s *program.Step)   { s.OnFail = program.OnFailStop }
func timeoutGo(s *program.Step) { s.Plan.Wait.OnTimeout = "continue" }

var traces = []row{
	{"begin", recovery.Planned, nil, state.Run{}, "", "preflight 0: pre"},
	{"preflight under way", recovery.Planned, nil, state.Run{}, "pre>", "preflight 0:"},
	{"preflight refuses", recovery.Planned, nil, state.Run{}, "pre> pre!", "refused 3:"},
	{"preflight refuses an unplanned run too", recovery.Unplanned, nil, state.Run{}, "pre> pre!", "refused 3:"},
	{"order", recovery.Planned, nil, state.Run{}, "pre> pre.", "preflight 0: g"},
	{"branches start together", recovery.Planned, nil, state.Run{}, upToA, "running 0: b c1"},
	{"a branch goes on alone", recovery.Planned, nil, state.Run{}, upToA + "b> c1> c1.", "running 0: c2"},
	{"the join waits for all", recovery.Planned, nil, state.Run{}, upToA + "b> c1> c1. c2> c2.", "running 0:"},
	{"a wait", recovery.Planned, nil, state.Run{}, upToW, "waiting 5: w@1m0s#"},
	{"go", recovery.Planned, nil, state.Run{}, upToW + "w:go", "running 0: d"},
	{"stop", recovery.Planned, nil, state.Run{}, upToW + "w:stop", "stopped 4:"},
	{"stop stops an unplanned run too", recovery.Unplanned, nil, state.Run{}, upToW + "w:stop", "stopped 4:"},
	{"stop, resume asks again", recovery.Planned, nil, state.Run{}, upToW + "w:stop resume", "running 0: w"},
	{"timeout stops", recovery.Planned, nil, state.Run{}, upToW + "+1m w#", "stopped 4:"},
	{"timeout goes on", recovery.Planned, set("w", timeoutGo), state.Run{}, upToW + "+1m w#", "running 0: d"},
	{"the time of a wait begins again with a new process", recovery.Planned, nil, state.Run{}, upToW + "+50s attach", "waiting 5: w@1m50s#"},
	{"end of a real run", recovery.Planned, nil, state.Run{}, toEnd, "uncommitted 0:"},
	{"end of a test", recovery.Test, nil, state.Run{}, toEnd, "uncommitted 0:"},
	{"first error stops, siblings finish", recovery.Planned, nil, state.Run{}, upToA + "b> c1> b!", "running 0:"},
	{"... and then it is stopped", recovery.Planned, nil, state.Run{}, upToA + "b> c1> b! c1.", "stopped 4:"},
	{"resume from the failed step on", recovery.Planned, nil, state.Run{}, upToA + "b> c1> b! c1. resume", "running 0: b c2"},
	{"unplanned goes on", recovery.Unplanned, nil, state.Run{}, upToA + "b> c1> b!", "running 0:"},
	{"what requires a failed step is given up", recovery.Unplanned, nil, state.Run{}, upToA + "b> c1> b. c1!", "running 0: w"},
	{"unplanned ends with errors", recovery.Unplanned, nil, state.Run{}, upToA + "b> c1> b. c1! w> w:go d> d.", "partial 7:"},
	{"... and tries again what failed", recovery.Unplanned, nil, state.Run{}, upToA + "b> c1> b. c1! w> w:go d> d. resume", "running 0: c1"},
	{"... and ends well then", recovery.Unplanned, nil, state.Run{}, upToA + "b> c1> b. c1! w> w:go d> d. resume c1> c1. c2> c2.", "uncommitted 0:"},
	{"... or gives back what was not failed over", recovery.Unplanned, nil, state.Run{}, "pre> pre. g> g! a> a. b> c1> b. c1. c2> c2. w> w:go d> d. cancel giveback", "cancelled 1:"},
	{"a grant that is known to have failed is none", recovery.Planned, nil, state.Run{}, "pre> pre. g> g! cancel giveback", "cancelled 1:"},
	{"on_fail stop in an unplanned run", recovery.Unplanned, set("a", stopAll), state.Run{}, "pre> pre. g> g. a> a!", "stopped 4:"},
	{"on_fail continue in a planned run", recovery.Planned, set("a", goOn), state.Run{}, "pre> pre. g> g. a> a!", "running 0: b c1"},
	{"... is no success", recovery.Planned, set("a", goOn), state.Run{}, "pre> pre. g> g. a> a! b> c1> b. c1. c2> c2. w> w:go d> d.", "partial 7:"},
	{"on_fail ask", recovery.Planned, set("a", askA), state.Run{}, "pre> pre. g> g. a> a!", "waiting 5:"},
	{"ask: again", recovery.Planned, set("a", askA), state.Run{}, "pre> pre. g> g. a> a! a:again", "running 0: a"},
	{"ask: go", recovery.Planned, set("a", askA), state.Run{}, "pre> pre. g> g. a> a! a:go", "running 0: b c1"},
	{"ask: stop", recovery.Planned, set("a", askA), state.Run{}, "pre> pre. g> g. a> a! a:stop", "stopped 4:"},
	{"optional", recovery.Planned, set("a", optional), state.Run{}, "pre> pre. g> g. a> a! b> c1> b. c1. c2> c2. w> w:go d> d.", "uncommitted 0:"},
	{"retry waits", recovery.Planned, set("a", retryA), state.Run{}, "pre> pre. g> g. +5s a> a!", "running 0: a@15s"},
	{"retry fails as well", recovery.Planned, set("a", retryA), state.Run{}, "pre> pre. g> g. a> a! +10s a> a!", "stopped 4:"},
	{"the time of a step is that of all its tries", recovery.Planned, set("a", func(s *program.Step) { s.Retry = plans.Retry{Times: 9, Every: 10 * time.Second} }), state.Run{}, "pre> pre. g> g. a> +35s a! +10s a> +5s a!", "stopped 4:"},
	{"a resume gives the time again", recovery.Planned, set("a", func(s *program.Step) { s.Retry = plans.Retry{Times: 9, Every: 10 * time.Second} }), state.Run{}, "pre> pre. g> g. a> +35s a! +10s a> +5s a! +1h resume a> +5s a!", "running 0: a@1h1m5s"},
	{"resume gives the retries again", recovery.Planned, set("a", retryA), state.Run{}, "pre> pre. g> g. a> a! +10s a> a! resume a> a!", "running 0: a@20s"},
	{"skipped at run time", recovery.Planned, nil, state.Run{}, "pre> pre. g> g. a> a~", "running 0: b c1"},
	{"unknown outcome", recovery.Planned, nil, state.Run{}, "pre> pre. g> g. a> a?", "waiting 6:"},
	{"unknown outcome beside a running step", recovery.Planned, nil, state.Run{}, upToA + "b> c1> b?", "running 0:"},
	{"unknown: done", recovery.Planned, nil, state.Run{}, "pre> pre. g> g. a> a? a:done", "running 0: b c1"},
	{"unknown: again", recovery.Planned, nil, state.Run{}, "pre> pre. g> g. a> a? a:again", "running 0: a"},
	{"unknown: abort", recovery.Planned, nil, state.Run{}, "pre> pre. g> g. a> a? a:abort", "stopped 4:"},
	{"pause", recovery.Planned, nil, state.Run{}, upToA + "b> pause", "running 0:"},
	{"paused", recovery.Planned, nil, state.Run{}, upToA + "b> pause b.", "paused 4:"},
	{"pause survives a new process", recovery.Planned, nil, state.Run{}, upToA + "b> pause b. attach", "paused 4:"},
	{"pause, resume", recovery.Planned, nil, state.Run{}, upToA + "b> pause b. resume", "running 0: c1"},
	{"cancel lets steps in flight end", recovery.Planned, nil, state.Run{}, upToA + "b> cancel", "running 0:"},
	{"cancelled after the grant stays failed over", recovery.Planned, nil, state.Run{}, upToA + "b> cancel b. giveback", "partial 1:"},
	{"cancelled before anything", recovery.Planned, nil, state.Run{}, "pre> pre. cancel giveback", "cancelled 1:"},
	{"as unplanned", recovery.Planned, nil, state.Run{}, upToA + "b> c1> b. c1! unplanned", "running 0: c1"},
	{"commit", recovery.Planned, nil, state.Run{}, toEnd + "commit commit/m1/lyo-1> commit/m1/lyo-1. commit/m1/par-1> commit/m1/par-1.", "committed 0:"},
	{"commit under way", recovery.Planned, nil, state.Run{}, toEnd + "commit commit/m1/lyo-1>", "running 0:"},
	{"commit fails", recovery.Planned, nil, state.Run{}, toEnd + "commit commit/m1/lyo-1> commit/m1/lyo-1!", "stopped 4:"},
	{"commit fails, resume", recovery.Planned, nil, state.Run{}, toEnd + "commit commit/m1/lyo-1> commit/m1/lyo-1! resume", "running 0: commit/m1/lyo-1"},
	{"cleaning", recovery.Test, nil, state.Run{}, toEnd + "cleanup", "cleaning 0: cleanup/m1"},
	{"cleaned up", recovery.Test, nil, state.Run{}, toEnd + "cleanup cleanup/m1> cleanup/m1.", "done 0:"},
	{"cleanup of a failed test", recovery.Test, nil, state.Run{}, upToA + "b> c1> b! c1. cleanup cleanup/m1> cleanup/m1.", "failed 1:"},
	{"cleanup before its end: the test has shown nothing", recovery.Test, nil, state.Run{}, upToW + "cleanup cleanup/m1> cleanup/m1.", "failed 1:"},
	{"cleanup with an unknown outcome", recovery.Test, nil, state.Run{}, "pre> pre. g> g. a> a? cleanup cleanup/m1> cleanup/m1.", "failed 1:"},
	{"a step of the plan is passed over", recovery.Planned, nil, state.Run{}, upToW + "w:stop w:go", "running 0: d"},
	{"... or tried again by its name", recovery.Planned, nil, state.Run{}, upToW + "w:stop w:again", "running 0: w"},
	{"cleanup fails", recovery.Test, nil, state.Run{}, toEnd + "cleanup cleanup/m1> cleanup/m1!", "stopped 4:"},
	{"... and is tried again", recovery.Test, nil, state.Run{}, toEnd + "cleanup cleanup/m1> cleanup/m1! resume", "cleaning 0: cleanup/m1"},
	{"a test is cancelled", recovery.Test, nil, state.Run{}, upToA + "cancel cleanup cleanup/m1> cleanup/m1.", "cancelled 1:"},
}

func TestTraces(t *testing.T) {
	t.Parallel()
	seen := map[report.RunStatus]bool{}
	for _, r := range traces {
		s, records := play(t, r.typ, r.change, r.run, r.trace)
		got := strings.TrimSpace(fmt.Sprintf("%s %d: %s", s.Status, s.ExitCode(), next(s)))
		if got != strings.TrimSpace(r.want) {
			t.Errorf("%s: %s\n got %q (%s)\nwant %q", r.name, r.trace, got, s.Reason, r.want)
		}
		seen[s.Status] = true
		foldsTheSame(t, r.name, s, records)
	}
	for _, st := range []report.RunStatus{report.RunPreflight, report.RunRunning, report.RunWaiting, report.RunPaused, report.RunStopped, report.RunUncommitted,
		report.RunCommitted, report.RunDone, report.RunFailed, report.RunPartial, report.RunCancelled, report.RunRefused, report.RunCleaning} {
		if !seen[st] {
			t.Errorf("no trace ends in status %s", st)
		}
	}
}

// foldsTheSame replays the records from their stored form: every prefix and
// its rest give the state that was reached without a break.
func foldsTheSame(t *testing.T, name string, want *state.State, records []state.Record) {
	t.Helper()
	var stored []state.Record
	for _, r := range records {
		raw, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var back state.Record
		if err := json.Unmarshal(raw, &back); err != nil {
			t.Fatal(err)
		}
		back.Seq, back.Time, back.Kind = r.Seq, r.Time, r.Kind
		stored = append(stored, back)
	}
	for n := 1; n <= len(stored); n++ {
		s, err := state.New(stored[:n])
		if err != nil {
			t.Fatalf("%s: fold of %d records: %v", name, n, err)
		}
		for _, r := range stored[n:] {
			if err := s.Apply(r); err != nil {
				t.Fatalf("%s: record %d: %v", name, r.Seq, err)
			}
		}
		if view(s) != view(want) {
			t.Fatalf("%s: resumed after %d records the state differs:\n%s\nwant\n%s", name, n, view(s), view(want))
		}
	}
}

// view is everything of a state that can be seen.
func view(s *state.State) string {
	var b strings.Builder
	fmt.Fprintln(&b, s.Seq, s.Status, s.Reason, s.Hint, s.ExitCode(), s.Section(), s.SectionEnd, s.Allowed(true), s.Granted(), s.Held(), s.Follow(), next(s))
	for _, st := range s.Ordered() {
		fmt.Fprintln(&b, st.ID, st.Status, st.Attempt, st.OpNumber, st.Tries, st.Started, st.Ended, st.Retry, st.Reason, st.Detail, st.Asks, st.Passed, st.Error)
	}
	fmt.Fprintln(&b, len(s.Errors), s.Notes, s.Statements)
	return b.String()
}

func TestFollow(t *testing.T) {
	t.Parallel()
	auto := state.Run{Commit: plans.CommitPolicy{Mode: "auto"}}
	for _, r := range []row{
		{"manual commit", recovery.Planned, nil, state.Run{}, toEnd, ""},
		{"auto commit", recovery.Planned, nil, auto, toEnd, "commit"},
		{"auto commit not before the end", recovery.Planned, nil, auto, upToW, ""},
		{"no auto commit with errors", recovery.Unplanned, nil, auto, upToA + "b> c1> b. c1! w> w:go d> d.", ""},
		{"cleanup by itself", recovery.Test, nil, state.Run{Cleanup: true}, toEnd, "cleanup"},
		{"cleanup after an error", recovery.Test, nil, state.Run{Cleanup: true}, upToA + "b> c1> b! c1.", "cleanup"},
		{"not while a step is in flight", recovery.Test, nil, state.Run{Cleanup: true}, upToA + "b> c1> b!", ""},
		{"cancel of a test", recovery.Test, nil, state.Run{}, upToA + "cancel", "cleanup"},
		{"cancel of a real run", recovery.Planned, nil, state.Run{}, upToA + "cancel", "cancel"},
		{"refused", recovery.Planned, nil, auto, "pre> pre!", ""},
		{"once", recovery.Planned, nil, auto, toEnd + "commit commit/m1/lyo-1> commit/m1/lyo-1!", ""},
	} {
		if s, _ := play(t, r.typ, r.change, r.run, r.trace); s.Follow() != r.want {
			t.Errorf("%s: %q, want %q", r.name, s.Follow(), r.want)
		}
	}
}

func TestAllowed(t *testing.T) {
	t.Parallel()
	for _, r := range []row{
		{"running", recovery.Planned, nil, state.Run{}, upToA, "pause cancel"},
		{"waiting", recovery.Planned, nil, state.Run{}, upToW, "answer pause cancel rollback"},
		{"stopped", recovery.Planned, nil, state.Run{}, upToW + "w:stop", "answer resume cancel rollback"},
		{"uncommitted", recovery.Planned, nil, state.Run{}, toEnd, "commit rollback"},
		{"committed unplanned", recovery.Unplanned, nil, state.Run{}, toEnd + "commit commit/m1/lyo-1> commit/m1/lyo-1. commit/m1/par-1> commit/m1/par-1.", "reverse"},
		{"standing test", recovery.Test, nil, state.Run{}, toEnd, "cleanup"},
		{"stopped test", recovery.Test, nil, state.Run{}, upToW + "w:stop", "answer resume cancel cleanup"},
		{"refused", recovery.Planned, nil, state.Run{}, "pre> pre!", ""},
	} {
		s, _ := play(t, r.typ, r.change, r.run, r.trace)
		if got := strings.Join(s.Allowed(true), " "); got != r.want {
			t.Errorf("%s: %q, want %q", r.name, got, r.want)
		}
	}
}

func TestOperationsSurviveAndAreDecided(t *testing.T) {
	t.Parallel()
	s, _ := play(t, recovery.Planned, nil, state.Run{}, "pre> pre. g> g. a>")
	apply := func(r state.Record) {
		t.Helper()
		r.Seq, r.Time, r.Step = s.Seq+1, t0, "a"
		if err := s.Apply(r); err != nil {
			t.Fatal(err)
		}
	}
	op := func(seq int) *state.Op { return &state.Op{Seq: seq, Name: "http.post", Class: plans.OpUnsafe} }
	apply(state.Record{Kind: state.OpStarted, Attempt: 1, Op: op(1)})
	done := op(1)
	done.Result = json.RawMessage(`200`)
	apply(state.Record{Kind: state.OpDone, Attempt: 1, Op: done})
	apply(state.Record{Kind: state.OpStarted, Attempt: 1, Op: op(2)})
	st := s.Steps["a"]
	if len(st.Ops) != 2 || st.Ops[0].Open() || !st.Ops[1].Open() || st.OpNumber != 1 {
		t.Fatalf("operations: %+v", st.Ops)
	}
	apply(state.Record{Kind: state.Unknown, Attempt: 1, Error: fault.Errorf(fault.Unknown, "lost")})
	apply(state.Record{Kind: state.Answered, Word: state.Again, By: "ann"})
	if len(st.Ops) != 1 || st.OpNumber != 1 || st.Status != report.StepPending {
		t.Fatalf("after again: %d operations, number %d, %s: the first one must stay", len(st.Ops), st.OpNumber, st.Status)
	}
	apply(state.Record{Kind: state.Started, Attempt: 2})
	apply(state.Record{Kind: state.OpStarted, Attempt: 2, Op: op(2)})
	apply(state.Record{Kind: state.Unknown, Attempt: 2, Error: fault.Errorf(fault.Unknown, "lost")})
	apply(state.Record{Kind: state.Answered, Word: state.OutcomeDone, By: "ann"})
	if len(st.Ops) != 2 || st.Ops[1].Open() || st.Status != report.StepPending {
		t.Fatalf("after done: %+v, %s: the action goes on behind the operation", st.Ops, st.Status)
	}
	apply(state.Record{Kind: state.Started, Attempt: 3})
	apply(state.Record{Kind: state.Failed, Attempt: 3, Error: fault.Errorf(fault.Failed, "no")})
	if st.OpNumber != 2 || len(st.Ops) != 0 {
		t.Fatalf("after a failure: number %d, %d operations: a further attempt is a new one", st.OpNumber, len(st.Ops))
	}
}

func TestUnclearFailureKeepsTheOperationID(t *testing.T) {
	t.Parallel()
	s, _ := play(t, recovery.Planned, nil, state.Run{}, "pre> pre. g> g. a>")
	err := s.Apply(state.Record{Seq: s.Seq + 1, Time: t0, Kind: state.Failed, Step: "a", Attempt: 1, Unclear: true, Error: fault.Errorf(fault.Unreachable, "gone")})
	if err != nil || s.Steps["a"].OpNumber != 1 {
		t.Fatalf("number %d (%v), want 1: it may have been done", s.Steps["a"].OpNumber, err)
	}
}

func TestApplyRefusesWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]state.Record{
		"gap":             {Seq: 99, Kind: state.Noted},
		"second creation": {Seq: 2, Kind: state.Created, Run: &state.Run{}, Program: tree(recovery.Test, nil)},
		"unknown kind":    {Seq: 2, Kind: "sang"},
		"unknown step":    {Seq: 2, Kind: state.Started, Step: "zz", Attempt: 1},
		"not started":     {Seq: 2, Kind: state.Done, Step: "a", Attempt: 1},
		"wrong attempt":   {Seq: 2, Kind: state.Started, Step: "pre", Attempt: 2},
		"no question":     {Seq: 2, Kind: state.Answered, Step: "w", Word: "go"},
		"no operation":    {Seq: 2, Kind: state.OpDone, Step: "a"},
		"no program":      {Seq: 2, Kind: state.Section},
	} {
		s, _ := play(t, recovery.Planned, nil, state.Run{}, "")
		before := view(s)
		if err := s.Apply(r); !fault.Is(err, fault.Corrupt) {
			t.Errorf("%s: %v, want corrupt", name, err)
		}
		if view(s) != before {
			t.Errorf("%s: the refused record changed the state", name)
		}
	}
	if _, err := state.New(nil); !fault.Is(err, fault.Corrupt) {
		t.Errorf("no records: %v", err)
	}
}

func TestListsAreBounded(t *testing.T) {
	t.Parallel()
	s, _ := play(t, recovery.Planned, nil, state.Run{}, "")
	for i := range state.MaxNotes + 10 {
		if err := s.Apply(state.Record{Seq: s.Seq + 1, Time: t0, Kind: state.Noted, Text: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.Notes) != state.MaxNotes || s.Notes[len(s.Notes)-1].Text != fmt.Sprint(state.MaxNotes+9) {
		t.Fatalf("%d notes, the last is %q", len(s.Notes), s.Notes[len(s.Notes)-1].Text)
	}
}

func TestParallelLimit(t *testing.T) {
	t.Parallel()
	p := tree(recovery.Planned, nil)
	p.Root.Seq[3].Limit = 1
	s, err := state.New([]state.Record{{Seq: 1, Time: t0, Kind: state.Created, Run: &state.Run{ID: "r"}, Program: p}})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"pre", "g", "a"} {
		for _, k := range []state.Kind{state.Started, state.Done} {
			if err := s.Apply(state.Record{Seq: s.Seq + 1, Time: t0, Kind: k, Step: id, Attempt: 1}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := next(s); got != "b" {
		t.Fatalf("next is %q, want b alone", got)
	}
	if reflect.DeepEqual(s.Main(), nil) {
		t.Fatal("no program")
	}
}
