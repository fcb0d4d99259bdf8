package runtime

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/state"
)

func isTest(st *state.State) bool { return st.Type == recovery.Test }

// Runs lists the runs, oldest first, without their steps.
func (e *Engine) Runs(ctx context.Context) ([]report.Run, error) {
	heads, err := e.heads(ctx)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	out := []report.Run{}
	for _, h := range heads {
		r := report.Run{ID: h.ID, Kind: h.Kind, Plan: h.Plan, Type: h.Type, Direction: h.Direction, From: h.From, To: h.To, StartedBy: h.By,
			Status: h.Status, Section: h.Section, Reason: h.Reason, Hint: h.Hint, ExitCode: h.Exit, Created: h.Created, Ended: h.Ended,
			Live: e.live[h.ID] != nil, Uncommitted: h.Uncommitted}
		for _, m := range h.Machines {
			r.Machines = append(r.Machines, report.Machine{Name: m})
		}
		orphan(&r, h.works())
		out = append(out, r)
	}
	return out, nil
}

// orphan marks a run that works by itself (works), but that nobody drives.
func orphan(r *report.Run, works bool) {
	if !r.Live && works {
		r.Status, r.Reason = report.RunStopped, "the runtime that drove it ended"
		r.Hint, r.ExitCode = "drrun resume "+r.ID, fault.ExitStopped
	}
}

// Busy reports whether this engine drives a run that works by itself now: what
// Show would say of its status, without the cost of its steps.
func (e *Engine) Busy(id string) bool {
	e.mu.Lock()
	d := e.live[id]
	e.mu.Unlock()
	if d == nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dead == nil && d.st.Status.Busy()
}

// Show returns the snapshot of a run; id may be its unique begin.
func (e *Engine) Show(ctx context.Context, id string) (*report.Run, error) {
	id, err := e.resolve(ctx, id)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	d := e.live[id]
	e.mu.Unlock()
	if d != nil {
		return d.snapshot(), nil
	}
	st, _, err := e.load(ctx, id)
	if err != nil {
		return nil, err
	}
	r := snapshot(st, nil, false)
	h := headOf(st)
	orphan(r, h.works())
	return r, nil
}

func (d *driver) snapshot() *report.Run {
	d.mu.Lock()
	defer d.mu.Unlock()
	return snapshot(d.st, d.progress, d.dead == nil)
}

func (d *driver) setProgress(step string, p report.Progress, _ time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.flying[step] == nil {
		return
	}
	d.progress[step] = p
	d.tellWatchers()
}

// snapshot shows a state.
func snapshot(st *state.State, progress map[string]report.Progress, live bool) *report.Run {
	r := headReport(st, live)
	r.Steps, r.Machines = make([]report.Step, 0, len(st.Ordered())), make([]report.Machine, 0, len(st.Main().Machines))
	for i, s := range st.Ordered() {
		step := stepOf(s, i+1)
		if p, ok := progress[s.ID]; ok {
			step.Progress = &p
		}
		r.Steps = append(r.Steps, step)
	}
	for _, s := range st.Open() {
		r.Waits = append(r.Waits, *waitReport(st, s))
	}
	for _, m := range st.Main().Machines {
		r.Machines = append(r.Machines, machineReport(st, m))
	}
	r.Errors, r.Notes, r.Statements = append(r.Errors, st.Errors...), append(r.Notes, st.Notes...), append(r.Statements, st.Statements...)
	measure(st, r)
	return r
}

// headReport is the snapshot without its lists.
func headReport(st *state.State, live bool) *report.Run {
	p := st.Main()
	r := &report.Run{ID: st.Run.ID, Kind: st.Run.Kind, Plan: p.Plan, Type: st.Type, Direction: p.Direction, From: p.From, To: p.To,
		Point: st.Run.Point, StartedBy: st.Run.StartedBy, Status: st.Status, Section: st.Section(), Reason: reasonOf(st), Hint: st.Hint,
		ExitCode: st.ExitCode(), Live: live, Created: st.Created, Ended: st.SectionEnd, Bundle: st.Run.Bundle, EstateHash: st.Run.Estate,
		Allowed: st.Allowed(live), Params: st.Run.Params, Uncommitted: st.Uncommitted()}
	if r.Allowed == nil {
		r.Allowed = []string{}
	}
	for _, s := range slices.Concat(st.Running(), st.Open()) {
		r.Phase = s.Phase
	}
	return r
}

func stepReport(s *state.Step, number int) *report.Step {
	r := stepOf(s, number)
	return &r
}

func stepOf(s *state.Step, number int) report.Step {
	r := report.Step{Number: number, ID: s.ID, Section: s.Section, Phase: s.Phase, Kind: string(s.Kind), Title: s.Title, Group: s.Group,
		Machine: s.Machine, Host: s.Host, Status: s.Status, Reason: s.Reason, Attempts: s.Attempt, Started: s.First, Ended: s.Ended,
		Detail: s.Detail, Error: s.Error, Pos: s.Pos}
	if s.Status == report.StepDone || s.Status == report.StepPending {
		r.Error = nil
	}
	if !r.Ended.IsZero() && !r.Started.IsZero() {
		r.Seconds = r.Ended.Sub(r.Started).Seconds()
	}
	return r
}

// waitReport is the question that a step puts to a person, if it does.
func waitReport(st *state.State, s *state.Step) *report.Wait {
	if !slices.Contains(st.Open(), s) {
		return nil
	}
	w := &report.Wait{Step: s.ID, Name: s.ID, Answers: answersOf(s), Since: s.Started}
	switch {
	case s.Status == report.StepWaiting:
		q, since := s.Question()
		w.Name, w.Since, w.Ask, w.Role, w.Timeout = s.Plan.Name, since, q.Ask, q.Role, cmp.Or(q.OnTimeout, program.OnFailStop)
		w.Deadline = st.Deadline(s)
	case s.Error != nil:
		w.Ask = s.Error.Message
	}
	return w
}

func machineReport(st *state.State, m program.Machine) report.Machine {
	r := report.Machine{Name: m.Name, Group: m.Group, FromHost: m.FromHost, ToHost: m.ToHost, IP: m.IP, State: "skipped", Reason: m.Skip}
	if m.Skip != "" {
		return r
	}
	r.State = machineState(st, m.Name)
	for _, s := range st.Of(m.Name) {
		machineStep(&r, st, s)
	}
	if r.Epoch == 0 {
		if c, ok := decode[claimed](st, "claim"); ok {
			r.Epoch = uint64(c.newest(m.Name).Epoch)
		}
	}
	if p, ok := chosenPoint(st, m.Name); ok {
		r.Point = pointReport(p)
		loss := lossOf(st, r, p)
		r.Loss = &loss
	}
	r.Proof = proofReport(st, m.Name)
	return r
}

// machineStep takes down what a step means for its machine.
func machineStep(r *report.Machine, st *state.State, s *state.Step) {
	if s.Status == report.StepFailed && !s.Optional && s.Error != nil {
		r.Reason = s.Error.Message
	}
	if s.Status != report.StepDone || s.Section == program.SectionRollback && s.Kind == program.Ready {
		return
	}
	switch s.Kind {
	case program.Stop:
		r.Stopped = s.Ended
	case program.Start:
		r.Started, r.Ready = s.Ended, s.Ended
	case program.Ready:
		r.Ready = s.Ended
	case program.Grant, program.Return:
		if g, ok := decode[command.GrantResult](st, s.ID); ok {
			r.Epoch = uint64(g.Authority.Epoch)
		}
	case program.DrainFinal:
		if d, ok := decode[command.DrainResult](st, s.ID); ok {
			r.Drained = d.Changed
		}
	case program.Found:
		if f, ok := decode[command.FoundResult](st, s.ID); ok && (f.Discarded || !f.Point.ID.IsZero()) {
			r.Found = &report.Found{Bytes: f.Bytes, Blocks: f.Blocks, Since: f.Since, Discarded: f.Discarded}
			if !f.Discarded {
				r.Found.Point = f.Point.ID.String()
			}
		}
	}
}

func pointReport(p recovery.Point) *report.Point {
	r := &report.Point{ID: p.ID.String(), Seq: uint64(p.Seq), Instant: p.Instant, Kind: p.Kind, Labels: p.Labels, Suspect: p.Suspect}
	for _, d := range p.Disks {
		r.Disks = append(r.Disks, report.PointDisk{Name: d.Name, Size: d.Size, Sum: fmt.Sprintf("%016x", d.Sum)})
	}
	return r
}

// lossOf is how much time the machine lost: nothing when the final delta of
// the stopped machine was drained, else from the point to the stop. If that is
// not known, it may have written until the source was last taken to be there: to
// the begin of the run, or later, when a planned run went on as unplanned or a
// person said that the source is down. Instants are corrected to the controller's
// clock.
func lossOf(st *state.State, m report.Machine, p recovery.Point) float64 {
	if final, ok := decode[command.DrainResult](st, "shutdown/"+m.Name+"/drain"); ok && final.Point.ID == p.ID {
		return 0
	}
	until := later(st.Created, st.TurnedAt)
	for _, s := range st.Statements {
		if s.What == SourceIsDown {
			until = later(until, s.Time)
		}
	}
	if !m.Stopped.IsZero() {
		until = m.Stopped
	}
	at, _ := p.Corrected()
	return max(0, until.Sub(at).Seconds())
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// measure compares what was reached with the plan's objectives.
func measure(st *state.State, r *report.Run) {
	if st.Main().Section != program.SectionFailover {
		return
	}
	var last time.Time
	all := len(st.Main().Active()) > 0
	worst, known := 0.0, false
	for _, m := range r.Machines {
		if m.State == "skipped" {
			continue
		}
		if m.Ready.IsZero() {
			all = false
		}
		if m.Ready.After(last) {
			last = m.Ready
		}
		if m.Loss != nil {
			known = true
			worst = max(worst, *m.Loss)
		}
	}
	if all {
		took, aim := last.Sub(st.Created).Seconds(), st.Run.RTO.Seconds()
		r.RTO = &report.Measure{Aim: aim, Measured: took, Met: aim == 0 || took <= aim}
	}
	if known {
		aim := st.Run.RPO.Seconds()
		r.RPO = &report.Measure{Aim: aim, Measured: worst, Met: aim == 0 || worst <= aim}
	}
}

// proofReport says whether zero loss is proved for a machine; nil where no proof
// is asked for: it goes with planned failovers.
func proofReport(st *state.State, machine string) *report.Proof {
	s := st.Steps["proof/"+machine]
	if s == nil || !st.AnyGranted() {
		return nil
	}
	switch {
	case st.Type != recovery.Planned:
		return &report.Proof{Text: "not proved: the run went on as " + string(st.Type)}
	case s.Status == report.StepDone:
		res, _ := decode[proven](st, s.ID)
		return &report.Proof{Proved: true, Bytes: res.Bytes, Text: s.Detail}
	case s.Status == report.StepSkipped:
		return &report.Proof{Text: s.Reason}
	case s.Error != nil && s.Status == report.StepFailed:
		return &report.Proof{Text: "not proved: " + s.Error.Message}
	}
	return &report.Proof{Text: "not proved yet"}
}

// proofText is the line that goes on record when a planned failover is
// committed.
func proofText(st *state.State) string {
	var not []string
	var bytes int64
	for _, m := range st.Granted() {
		p := proofReport(st, m)
		switch {
		case p == nil:
		case p.Proved:
			bytes += p.Bytes
		default:
			not = append(not, m+": "+p.Text)
		}
	}
	if len(not) > 0 {
		return "no loss by the sums of both sites; not proved by reading: " + strings.Join(not, "; ")
	}
	return fmt.Sprintf("zero loss, proved: %s read at both sites and equal", quantity.FormatSize(bytes))
}
