package plantest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/simworld"
)

// scenario is a failover from its begin to an end that nobody needs to touch.
type scenario struct {
	name string
	typ  recovery.Type
	lost bool // the source site has lost its power
	// then is what follows the failover: commit, rollback, cleanup, failback.
	then []string
	// faults: single faults are tried; of those of the failover only when it is
	// the first scenario that has it.
	faults bool
	tail   bool // only deaths behind the failover
}

var scenarios = []scenario{
	{name: "planned", typ: recovery.Planned, then: []string{"commit"}, faults: true},
	{name: "failback", typ: recovery.Planned, then: []string{"commit", "failback", "commit"}},
	{name: "rollback", typ: recovery.Planned, then: []string{"rollback"}, faults: true, tail: true},
	{name: "unplanned", typ: recovery.Unplanned, lost: true, then: []string{"commit"}, faults: true},
	{name: "unplanned, source answers", typ: recovery.Unplanned, then: []string{"commit"}},
	{name: "test", typ: recovery.Test, then: []string{"cleanup"}, faults: true},
}

// injection is one fault, or a death of the runtime.
type injection struct {
	Name string // the column of the table
	Step string // of the run
	kind injectionKind
	verb string
	host string
	mach string
	n    int // journal record
}

type injectionKind int

const (
	none        injectionKind = iota
	fails                     // the call fails, once
	loses                     // it is done, and its answer is lost, once
	hangs                     // it does not end
	cuts                      // its host falls silent
	silences                  // the services of a machine do not answer
	breaks                    // a program does its work and ends with an error, once
	diesBefore                // the runtime dies before a record is committed
	diesAfter                 // … and after
	unanswered                // nobody answers a wait
	losesSource               // the source is cut off for good: the run goes on as unplanned
)

// apply puts a fault into a world. What it returns counts how often it has
// happened; nil: it happens anyhow.
func (i injection) apply(st *stage) *simworld.Fault {
	f := simworld.Fault{Step: i.Step, Verb: i.verb, Times: 1}
	switch i.kind {
	case fails:
		return st.w.Break(f)
	case loses:
		f.Lost = true
		return st.w.Break(f)
	case hangs:
		f.Hang, f.Times = true, 0
		return st.w.Break(f)
	case cuts, losesSource:
		f.Cut = true
		return st.w.Break(f)
	case breaks:
		f.Verb = "program"
		return st.w.Break(f)
	case silences:
		st.w.Silence(i.mach, true)
	case diesBefore, diesAfter:
		st.rt.DieAt(i.n, i.kind == diesAfter)
	case none, unanswered:
	}
	return nil
}

// trial is one scenario under some faults.
type trial struct {
	*stage
	sc      scenario
	inject  []injection
	began   []string // how the world was
	resumed int
	asked   int
	broken  []*simworld.Fault
	errs    bool // it ended with errors in its list
	run     *report.Run
	history []*report.Run
	log     []simworld.Asked
	records []string // steps of the journal records
	// failedOver is how many records there were when the failover stood.
	failedOver int
	end        ending
}

// patience is how long the person waits before anything is tried again, and how
// often.
const (
	mendTakes = time.Minute
	maxMends  = 8
)

// play runs the scenario. What is wrong with it is in the world's violations.
func (t *trial) play(ctx context.Context) error {
	t.began = t.w.Summary()
	t.w.Listen()
	t.rt.OnRecord(func(_ int, step, _ string) { t.records = append(t.records, step) })
	for _, i := range t.inject {
		if f := i.apply(t.stage); f != nil {
			t.broken = append(t.broken, f)
		}
	}
	req := runtime.Request{Type: t.sc.typ}
	if t.sc.lost {
		for _, h := range t.w.Hosts(t.subject.Plan.From) {
			t.w.Down(h)
		}
		req.SourceIsDown = true
	}
	req.Unattended = t.sc.typ == recovery.Test
	if err := t.start(ctx, req); err != nil || t.run == nil {
		return err
	}
	for _, what := range t.sc.then {
		if !t.stands(t.run) && what != "failback" {
			break // it has been told
		}
		if err := t.follow(ctx, what); err != nil {
			return err
		}
	}
	t.judgeEnd()
	t.log = t.w.Log()
	t.end = endOf(t.stage)
	return nil
}

func (t *trial) start(ctx context.Context, req runtime.Request) error {
	for range maxMends {
		run, err := t.rt.Start(ctx, req)
		if err != nil { // a start that was refused changes nothing: it is tried again when the fault is mended
			if t.clean() {
				t.bad(simworld.RuleEnd, "", fmt.Sprintf("without any fault the %s run does not start: %v", t.sc.name, err), fault.Hint(err))
				return nil
			}
			t.mend()
			continue
		}
		if err := t.operate(ctx, run); err != nil {
			return err
		}
		if t.run.Status != report.RunRefused {
			t.failedOver = len(t.records)
			return nil
		}
		if t.clean() {
			t.bad(simworld.RuleEnd, "", fmt.Sprintf("without any fault the %s run is refused: %s", t.sc.name, t.run.Reason), t.run.Hint)
			return nil
		}
	}
	t.bad(simworld.RuleEnd, "", "the run does not start, whatever is mended", "")
	return nil
}

// clean reports whether nothing was broken.
func (t *trial) clean() bool { return len(t.inject) == 0 }

func (t *trial) bad(rule, step, text, hint string) {
	id := ""
	if t.run != nil {
		id = t.run.ID
	}
	t.w.Violated(simworld.Violation{Rule: rule, Step: step, Text: text, Hint: hint, Run: id})
}

func (t *trial) mend() {
	var lost []string
	if t.sc.lost {
		lost = t.w.Hosts(t.subject.Plan.From)
	}
	t.w.Mend(lost...)
	<-time.After(mendTakes)
}

// operate is the careful person: answers what is asked, mends what is broken and
// lets the run go on, until it stands or has ended.
func (t *trial) operate(ctx context.Context, run *report.Run) error {
	for range 4 * maxMends {
		t.run = run
		t.history = append(t.history, run)
		t.errs = t.errs || len(run.Errors) > 0
		var next func() (*report.Run, error)
		switch {
		case run.Status == report.RunWaiting:
			next = t.answer(ctx, run)
		case t.stands(run):
			t.judgeSuccess(run)
			return nil
		case run.Status.Ended():
			if run.Status == report.RunRefused {
				t.mend()
			}
			return nil
		default: // stopped, paused, partial
			if t.resumed >= maxMends || t.hopeless(run) {
				return nil
			}
			t.resumed++
			opt := runtime.ResumeOptions{By: "author"}
			if t.injected(losesSource) && run.Type == recovery.Planned && t.resumed == 1 {
				opt.As, opt.SourceIsDown = recovery.Unplanned, true
			} else {
				t.mend()
			}
			id := run.ID
			next = func() (*report.Run, error) {
				return t.rt.Do(ctx, id, func(e *runtime.Engine) error { return e.Resume(ctx, id, opt) })
			}
		}
		went, err := next()
		if err != nil {
			t.bad(simworld.RuleEnd, "", fmt.Sprintf("the %s run is %s and cannot go on: %v", t.sc.name, run.Status, err), fault.Hint(err))
			return nil
		}
		run = went
	}
	t.run = run
	return nil
}

// stands reports whether a run waits for what comes behind the failover. A test
// that went to its end with errors is cleaned up like any other.
func (t *trial) stands(run *report.Run) bool {
	return run.Status == report.RunUncommitted || run.Type == recovery.Test && run.Status == report.RunPartial
}

func (t *trial) injected(k injectionKind) bool {
	return slices.ContainsFunc(t.inject, func(i injection) bool { return i.kind == k })
}

// hopeless notes that a run without faults stopped: nothing can be mended.
func (t *trial) hopeless(run *report.Run) bool {
	if !t.clean() {
		return false
	}
	what := "stops"
	if run.Status == report.RunPartial {
		what = "ends with errors"
	}
	step, text, hint := "", run.Reason, run.Hint
	if len(run.Errors) > 0 {
		last := run.Errors[len(run.Errors)-1]
		if run.Status == report.RunPartial {
			last = run.Errors[0]
		}
		step, text, hint = last.Step, last.Error.Message, last.Error.Hint
	}
	for _, s := range run.Steps {
		if step == "" && (s.Status == report.StepFailed || s.Status == report.StepUnknown) {
			step = s.ID
		}
	}
	t.bad(simworld.RuleEnd, step, fmt.Sprintf("without any fault the %s run %s: %s", t.sc.name, what, text), hint)
	return true
}

// answer answers the first question of a run.
func (t *trial) answer(ctx context.Context, run *report.Run) func() (*report.Run, error) {
	wait := run.Waits[0]
	ans := runtime.Answer{Step: wait.Step, Word: "go", By: "author"}
	switch {
	case slices.Contains(wait.Answers, runtime.SourceIsDown):
		t.asked++
		if ans.Word = "again"; t.sc.lost || run.Type == recovery.Unplanned && t.injected(losesSource) {
			ans.Word = runtime.SourceIsDown
		} else {
			t.mend()
		}
	case slices.Contains(wait.Answers, "again"):
		t.asked++
		t.mend()
		ans.Word = "again"
		if run.ExitCode == fault.ExitUnknown && t.rt.done(ctx, run) {
			ans.Word = "done"
		}
	case t.injected(unanswered) && t.asked == 0 && !wait.Deadline.IsZero():
		t.asked++
		return func() (*report.Run, error) {
			<-time.After(time.Until(wait.Deadline) + time.Second)
			return t.rt.Settle(ctx, run.ID)
		}
	}
	return func() (*report.Run, error) { return t.rt.Answer(ctx, run.ID, ans) }
}

// follow does what comes behind a failover.
func (t *trial) follow(ctx context.Context, what string) error {
	id := t.run.ID
	if what == "failback" {
		return t.start(ctx, runtime.Request{Type: recovery.Planned, Failback: true})
	}
	do := func(e *runtime.Engine) error {
		switch what {
		case "commit":
			return e.Commit(ctx, id, "author")
		case "rollback":
			return e.Rollback(ctx, id, "author")
		}
		return e.Cleanup(ctx, id, "author")
	}
	for range maxMends {
		run, err := t.rt.Do(ctx, id, do)
		if err != nil {
			if t.clean() {
				return fmt.Errorf("%s: %w", what, err)
			}
			t.mend()
			continue
		}
		return t.operate(ctx, run)
	}
	t.bad(simworld.RuleEnd, "", "the "+what+" is refused, whatever is mended", "")
	return nil
}

// names are the machines that a run has moved.
func names(run *report.Run) []string {
	var out []string
	for _, m := range run.Machines {
		if m.State != "skipped" {
			out = append(out, m.Name)
		}
	}
	return out
}

// judgeSuccess looks whether a run that says it went well did.
func (t *trial) judgeSuccess(run *report.Run) {
	if len(run.Errors) == 0 && run.ExitCode == fault.ExitOK || run.Status == report.RunUncommitted && t.resumed == 0 && len(run.Errors) == 0 {
		starts := map[string]string{}
		for _, s := range run.Steps {
			if s.Kind == string(program.Start) && s.Status == report.StepDone {
				starts[s.Machine] = s.ID
			}
		}
		t.w.CheckAnswers(run.ID, starts, run.Type == recovery.Test)
	}
}

// judgeEnd looks at the world at the end of the scenario.
func (t *trial) judgeEnd() {
	want := map[string]report.RunStatus{"commit": report.RunCommitted, "rollback": report.RunRolledBack, "cleanup": report.RunDone}[t.sc.then[len(t.sc.then)-1]]
	run := t.run
	if t.sc.typ == recovery.Test && t.errs && !t.clean() {
		want = report.RunFailed // cleaned up, and it says what was wrong
		if run.Status == report.RunDone {
			want = run.Status // it was mended
		}
	}
	if run.Status != want {
		t.bad(simworld.RuleEnd, lastFailed(run), fmt.Sprintf("the %s run ends as %s, not as %s: %s", t.sc.name, run.Status, want, reason(run)), run.Hint)
		return
	}
	if t.sc.typ == recovery.Test {
		if now := t.w.Summary(); !slices.Equal(now, t.began) {
			_, got, had := firstDifference(strings.Join(now, "\n"), strings.Join(t.began, "\n"))
			t.bad(simworld.RuleTest, "", fmt.Sprintf("the test has changed the world: %s; before: %s", got, had), "")
		}
	} else {
		t.w.CheckPlaces()
		t.judgePlaces(run, want)
	}
	if want == report.RunRolledBack {
		t.judgeUndone(run)
	}
	for _, m := range run.Machines {
		if run.Type == recovery.Planned && m.Loss != nil && *m.Loss > 0 {
			t.bad(simworld.RuleLoss, "", fmt.Sprintf("a planned failover has lost %.0f s of %s", *m.Loss, m.Name), "")
		}
	}
	for _, r := range t.history {
		t.judgeFailedChecks(r)
	}
	if t.errs && run.Type == recovery.Unplanned { // it went on whatever failed: not all that the world file states can hold
		return
	}
	for _, x := range t.expects {
		ok, err := x.f(&runObject{stage: t.stage, run: run})
		switch {
		case err != nil:
			t.bad(simworld.RuleWorld, "", fmt.Sprintf("%s: %v", x.text, err), "")
		case ok == nil || ok == false:
			t.bad(simworld.RuleWorld, "", "the world file expects: "+x.text, "")
		}
	}
}

func reason(run *report.Run) string {
	if run.Reason == "" && len(run.Errors) > 0 {
		return run.Errors[len(run.Errors)-1].Error.Message
	}
	return run.Reason
}

// lastFailed is the step that a run has ended at.
func lastFailed(run *report.Run) string {
	if n := len(run.Errors); n > 0 {
		return run.Errors[n-1].Step
	}
	return ""
}

// judgePlaces looks where the machines are.
func (t *trial) judgePlaces(run *report.Run, want report.RunStatus) {
	site := run.To
	if want == report.RunRolledBack {
		site = run.From
	}
	for _, name := range names(run) {
		p, _ := t.w.Where(name)
		if p.Site != site || p.Power != recovery.PowerRunning || p.Uncommitted {
			t.bad(simworld.RuleEnd, "", fmt.Sprintf("the run is %s, and %s is %s at %s, not running at %s", run.Status, name, p.Power, p.Site, site), "")
		}
	}
}

// judgeFailedChecks looks for machines that were started although a check of
// what they need had failed. An unplanned run goes on whatever fails.
func (t *trial) judgeFailedChecks(run *report.Run) {
	if run.Type == recovery.Unplanned {
		return
	}
	for _, c := range run.Steps {
		if c.Kind != string(program.Check) || c.Status != report.StepFailed {
			continue
		}
		for _, m := range run.Steps {
			if m.Kind != string(program.Start) || m.Section != c.Section || m.Started.IsZero() || m.Started.Before(c.Ended) {
				continue
			}
			for _, n := range run.Machines {
				if n.Group == c.Group && t.w.NeedsOf(m.Machine, n.Name) {
					t.bad(simworld.RuleNeeds, c.ID, fmt.Sprintf("%s was started although %s had failed, of %s, which it needs", m.Machine, c.Title, n.Name),
						`on_fail = "continue" belongs to checks that nothing behind them depends on`)
				}
			}
		}
	}
}

// judgeUndone looks for what a rollback has left behind.
func (t *trial) judgeUndone(run *report.Run) {
	for _, id := range t.w.Outside(run.ID) {
		i := slices.IndexFunc(run.Steps, func(s report.Step) bool { return s.ID == id })
		if i < 0 || run.Steps[i].Section == "rollback" || run.Steps[i].Pos == nil {
			continue
		}
		if slices.ContainsFunc(t.w.Violations(), func(v simworld.Violation) bool { return v.Rule == simworld.RulePlace && v.Step == id }) {
			continue // said already
		}
		again := slices.ContainsFunc(run.Steps, func(s report.Step) bool {
			return s.Section == "rollback" && s.Pos != nil && *s.Pos == *run.Steps[i].Pos && s.Status == report.StepDone
		})
		if !again {
			t.bad(simworld.RuleUndone, id, "the rollback leaves what this step has done: "+run.Steps[i].Title,
				`rollback = "again" lets it run again when the machines are back, with their old addresses; or, in the world file, w:harmless: nobody minds`)
		}
	}
}

// verdict are the violations of the trial that count.
func (t *trial) verdict() []simworld.Violation {
	return slices.DeleteFunc(t.w.Violations(), func(v simworld.Violation) bool {
		// An unplanned run goes on to its end and lists what failed: what needs
		// that is started all the same, because the plan's rule says so.
		unplanned := t.run != nil && t.run.Type == recovery.Unplanned
		return v.Rule == simworld.RuleNeeds && unplanned && !t.clean() && t.errs
	})
}

// planned reports whether the plan itself has a step.
func (t *trial) planned(step string) bool {
	return slices.ContainsFunc(t.history, func(r *report.Run) bool {
		return slices.ContainsFunc(r.Steps, func(s report.Step) bool { return s.ID == step && s.Pos != nil })
	})
}

// word is the outcome in the table; bad: the fault broke something.
func (t *trial) word(bad bool) string {
	switch {
	case bad:
		return "BAD"
	case slices.ContainsFunc(t.broken, func(f *simworld.Fault) bool { return f.Hits == 0 }):
		return "" // it did not come to that
	case t.resumed > 0 && t.errs && t.sc.typ == recovery.Unplanned:
		return "partial"
	case t.resumed > 0:
		return "resumed"
	case t.asked > 0:
		return "asked"
	}
	return "ok"
}

// posOf finds where the plan says a step.
func (t *trial) posOf(step string) *plans.Pos {
	for _, r := range t.history {
		for i := range r.Steps {
			if r.Steps[i].ID == step && r.Steps[i].Pos != nil {
				return r.Steps[i].Pos
			}
		}
	}
	return t.placeOf(step)
}

// placeOf finds where the plan says the machine or group of a step that is not
// written in it.
func (t *trial) placeOf(step string) *plans.Pos {
	if len(t.history) == 0 {
		return nil
	}
	run := t.history[len(t.history)-1]
	i := slices.IndexFunc(run.Steps, func(s report.Step) bool { return s.ID == step })
	if i < 0 {
		return nil
	}
	for _, item := range t.subject.Plan.Items {
		if g := item.Group; g != nil && g.Name == run.Steps[i].Group {
			for _, m := range g.Machines {
				if m.Name == run.Steps[i].Machine {
					return &m.Pos
				}
			}
			return &g.Pos
		}
	}
	return nil
}

// trace is what happened until something, in lines.
func (t *trial) trace(until time.Duration) []string {
	var lines []string
	for _, e := range t.w.Effects() {
		if e.At > until {
			break
		}
		line := fmt.Sprintf("%8s  %s", "+"+e.At.Round(time.Second).String(), e.Text)
		if e.Step != "" {
			line += "  (" + e.Step + ")"
		}
		lines = append(lines, line)
	}
	return lines
}

// run1 plays a trial in a bubble of its own.
func run1(bubble Bubble, s *Subject, sc scenario, inject []injection) (*trial, error) {
	var t *trial
	var err error
	bubble(func(ctx context.Context) {
		var st *stage
		if st, err = newStage(ctx, s); err != nil {
			return
		}
		t = &trial{stage: st, sc: sc, inject: inject}
		err = errors.Join(t.play(ctx), st.close(ctx))
	})
	return t, err
}
