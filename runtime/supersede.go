package runtime

import (
	"context"
	"slices"
	"strings"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/state"
)

// lostRun finds the uncommitted failover whose new site is lost: an unplanned
// run away from it takes its machines on. What that site sent back since is
// stored at the old one and is applied there. It is "" where the machines are
// not of one such run, or its site still answers: then it can be rolled back.
func (e *Engine) lostRun(ctx context.Context, p *prepared) (string, error) {
	lost := ""
	for _, m := range p.program.Active() {
		rec, err := p.look.newest(m.Name)
		switch {
		case err != nil, !rec.Uncommitted, rec.Active != m.FromSite, len(rec.Direction) == 0, lost != "" && rec.Run != lost:
			return "", nil //nolint:nilerr // a conflict is preflight's to refuse
		case p.look.answers(m.FromHost):
			return "", nil
		}
		lost = rec.Run
	}
	if lost == "" {
		return "", nil
	}
	st, _, err := e.load(ctx, lost)
	if fault.Is(err, fault.NotFound) {
		return lost, nil // of another runtime; the records say enough
	}
	if err != nil || !takenOn(st, p) {
		return "", err
	}
	return lost, nil
}

// takenOn reports whether a run takes on all machines of an uncommitted one.
func takenOn(st *state.State, p *prepared) bool {
	if st.Status != report.RunUncommitted && st.Status != report.RunPartial || st.HasSection(program.SectionCommit) {
		return false
	}
	active := p.program.Active()
	for _, name := range st.Granted() {
		if !slices.ContainsFunc(active, func(m program.Machine) bool { return m.Name == name }) {
			return false
		}
	}
	return true
}

// supersede ends the run before, once this one has claimed its machines. It
// does not take that run over, which would claim them for it again.
func (e *Engine) supersede(ctx context.Context, run *state.Run) error {
	if e.standingBefore(ctx, run) == "" {
		return nil
	}
	return e.endAs(ctx, run.Supersedes, run.ID, run.StartedBy)
}

// standAgain lets the run before stand again that this one has superseded, where
// this one ends and has not moved all its machines: what is left is still failed
// over by it, and only it can commit that or take it back.
func (e *Engine) standAgain(ctx context.Context, st *state.State) error {
	if st.Run.Supersedes == "" {
		return nil
	}
	before, j, err := e.load(ctx, st.Run.Supersedes)
	if err != nil { // this run ends all the same
		e.log.Error("the run before cannot be read: it does not stand again", "run", st.Run.Supersedes, "superseded_by", st.Run.ID, "cause", err.Error())
		return nil //nolint:nilerr // logged
	}
	if before.SupersededBy() != st.Run.ID {
		return nil
	}
	moved := st.Granted()
	left := slices.DeleteFunc(before.Granted(), func(m string) bool { return slices.Contains(moved, m) })
	if len(left) == 0 {
		return nil
	}
	d := newDriver(e, before, j, sources{})
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.append(state.Record{Kind: state.Superseded, By: st.Run.ID, Text: strings.Join(left, ", ")})
}

// endAs ends a run whose machines another one has.
func (e *Engine) endAs(ctx context.Context, id, other, by string) error {
	e.mu.Lock()
	d := e.live[id]
	e.mu.Unlock()
	if d == nil {
		st, j, err := e.load(ctx, id)
		if err != nil {
			return err
		}
		d = newDriver(e, st, j, sources{})
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.st.Status.Ended() {
		return nil
	}
	return d.append(state.Record{Kind: state.Superseded, Word: other, By: nobody(by)})
}

// overBy is the run that has moved all machines of a run since, as their agents
// say; "" where there is still one that this run can act on.
func (e *Engine) overBy(ctx context.Context, st *state.State) string {
	d := newDriver(e, st, nil, sources{})
	if st.Status.Ended() || !d.claims() {
		return ""
	}
	look := e.look(ctx, hostsOf(st))
	touched := slices.Concat(st.Granted(), st.Held())
	if len(touched) == 0 {
		for _, m := range st.Main().Active() {
			touched = append(touched, m.Name)
		}
	}
	other := ""
	for _, name := range touched {
		rec, err := look.newest(name)
		if err != nil || rec.Run == st.Run.ID || rec.Epoch <= d.authorityLocked(name).Epoch {
			return ""
		}
		other = rec.Run
	}
	return other
}

// standingBefore is the run that another one was to supersede and has not. One
// whose journal cannot be read is not driven by anybody: it holds nothing up,
// the failover away from its lost site least of all.
func (e *Engine) standingBefore(ctx context.Context, run *state.Run) string {
	if run.Supersedes == "" {
		return ""
	}
	st, _, err := e.load(ctx, run.Supersedes)
	if err != nil || st.Status.Ended() {
		return ""
	}
	return run.Supersedes
}

// allowedFor lists what is allowed for a run now.
func (e *Engine) allowedFor(ctx context.Context, id string) string {
	st, _, err := e.load(ctx, id)
	if err != nil || len(st.Allowed(true)) == 0 {
		return "nothing"
	}
	return strings.Join(st.Allowed(true), ", ")
}
