package runtime

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/planted"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/state"
)

// takeOver claims the machines of a run that nobody drives, with a fencing
// number above any the agents have seen, and records that. A run whose machines
// another one has moved since can only be cancelled; what it still has can be
// committed or rolled back.
func (d *driver) takeOver(ctx context.Context, by, op string) error {
	hosts := map[string]bool{}
	for _, h := range d.st.Main().Hosts() {
		hosts[h] = true
	}
	look := d.e.look(ctx, hosts)
	over, gone := d.movedOn(look)
	if (op == report.OpCommit || op == report.OpRollback) && len(d.ours(gone)) > 0 {
		over, d.gone = nil, gone // what it still has is committed, or rolled back, without the others
	}
	if over != nil && op != report.OpCancel {
		return over
	}
	fence, err := nextFence(ctx, d.e.store, max(d.st.Fence, look.fence()))
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.append(state.Record{Kind: state.Resumed, Word: state.WordAttach, By: by, Fence: fence}); err != nil {
		return err
	}
	if over != nil { // agents refuse what it does with these records
		return nil
	}
	return d.reclaim(ctx, look)
}

// movedOn says which machines other runs have moved since this one claimed
// them, and by which run each.
func (d *driver) movedOn(look looked) (over error, gone map[string]string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.claims() {
		return nil, nil
	}
	gone = map[string]string{}
	for _, m := range d.st.Main().Active() {
		if d.without(m) {
			continue
		}
		mine := d.authorityLocked(m.Name)
		for _, host := range []string{m.ToHost, m.FromHost} {
			ms, ok := look.machine(host, m.Name)
			rec := ms.Authority
			if !ok || rec.Epoch <= mine.Epoch || rec.Run == d.id {
				continue
			}
			gone[m.Name] = rec.Run
			if over == nil {
				over = fault.Errorf(fault.Conflict, "machine %s has moved on to epoch %d by run %s: run %s is over for it", m.Name, rec.Epoch, rec.Run, d.id).
					WithHint("look at: drrun status %s; end this run with: drrun cancel %s, or for the machines it still has: drrun commit %[2]s, drrun rollback %[2]s", m.Name, d.id)
			}
		}
	}
	return over, gone
}

// without reports whether the run is at a commit or a rollback that goes without
// a machine.
func (d *driver) without(m program.Machine) bool {
	section := d.st.Section()
	if section != program.SectionCommit && section != program.SectionRollback {
		return false
	}
	return !slices.ContainsFunc(d.st.Of(m.Name), func(st *state.Step) bool { return st.Section == section })
}

// ours are the machines that the run has failed over and no other run has moved
// since.
func (d *driver) ours(gone map[string]string) []string {
	return slices.DeleteFunc(d.st.Granted(), func(m string) bool { _, moved := gone[m]; return moved })
}

// reclaim raises the fencing number at the agents of a run that was taken
// over. Callers hold d.mu. A host that does not answer learns of it with the
// next command; one that knows a newer claim refuses.
func (d *driver) reclaim(ctx context.Context, look looked) error {
	if !d.claims() {
		return nil
	}
	for _, m := range d.st.Main().Active() {
		if d.gone[m.Name] != "" || d.without(m) {
			continue
		}
		for _, host := range []string{m.ToHost, m.FromHost} {
			if !look.answers(host) {
				continue
			}
			req := d.claimRequest()
			req.Takeover = d.takesOver(m.Name, host)
			if err := d.claimAt(ctx, lookTimeout, m.Name, host, req); err != nil && !fault.Is(err, fault.Unreachable) {
				return fault.Errorf(fault.KindOf(err), "cannot claim %s on %s for run %s: %w", m.Name, host, d.id, err)
			}
		}
	}
	return nil
}

// giveBackBy does a verb that gives a machine back to a site. Before each try it
// asks the other site: another run may have moved the machine there since, which
// the first site, cut off meanwhile, may not know. It is left there then. A site
// that stays silent cannot be asked: a person says that it is down or isolated.
func giveBackBy[In, Out any](ctx context.Context, j *job, v command.Verb[In, Out], in func(command.Meta) In, tell func(*Out) outcome) outcome {
	asks := false
	heard, since := time.Time{}, j.d.e.now() // when the other site answered last; since when it does not
	out := new(Out)
	err := send(ctx, j, v, in, out, func(ctx context.Context, f func(context.Context) error) error {
		return j.try(ctx, func(ctx context.Context) error {
			err := j.elsewhere(ctx)
			switch now := j.d.e.now(); {
			case err == nil:
				heard, since = now, now
			case !fault.Is(err, fault.Unreachable):
				return err
			case j.d.statedAt(j.otherIsDown()).After(heard):
			case now.Sub(since) < optionalTries:
				return err
			default:
				asks = true
				return fault.Errorf(fault.Refused, "%w", err).WithHint("%s", fault.Hint(err))
			}
			return f(ctx)
		})
	})
	if err != nil {
		return outcome{err: j.at(err), asks: asks}
	}
	return tell(out)
}

// elsewhere says that another run has moved a machine to the other site since, or
// (fault.Unreachable) that nobody knows.
func (j *job) elsewhere(ctx context.Context) error {
	host, site := j.otherEnd()
	look := j.d.e.lookAt(ctx, host, j.step.Machine)
	if !look.answers(host) {
		return fault.Errorf(fault.Unreachable, "%s does not answer: nobody knows whether another runtime has moved %s there since (%w)", host, j.step.Machine, look.failure(host)).
			WithHint("start the agent on %s, or make sure that %s is down or isolated, then: drrun answer %s %q %s", host, site, j.run.ID, j.step.ID, j.otherIsDown())
	}
	ms, ok := look.machine(host, j.step.Machine)
	if rec := ms.Authority; ok && rec.Epoch > j.d.authority(j.step.Machine).Epoch && rec.Run != j.run.ID {
		return fault.Errorf(fault.Conflict, "%s is not given back to %s: %s holds epoch %d of run %s", j.step.Machine, j.step.Host, host, rec.Epoch, rec.Run).
			WithHint("look at: drrun status %s", j.step.Machine)
	}
	return nil
}

// otherEnd is the end of the machine where the step is not done.
func (j *job) otherEnd() (host, site string) {
	if m := j.machine; j.step.Host == m.FromHost {
		return m.ToHost, m.ToSite
	}
	return j.machine.FromHost, j.machine.FromSite
}

// otherIsDown is the word by which a person says that the other end is down.
func (j *job) otherIsDown() string { return downWord(j.step.Section) }

// downWord is what a person can say of the site that a machine is not given back
// to: of the run's target, but where the run itself gives it back.
func downWord(section string) string {
	if section == program.SectionFailover {
		return SourceIsDown
	}
	return TargetIsDown
}

// statedAt is when a person said a word last; zero: nobody did.
func (d *driver) statedAt(word string) (at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.st.Statements {
		if s.What == word {
			at = s.Time
		}
	}
	return at
}

// stillLocked makes sure that the source of a planned run stands as the run has
// left it: stopped, and locked since its final delta. A run of another runtime may
// have claimed the machine in between, given it back and started it: what it has
// written since is in no point of this run. The claim of this run, which is the
// newest, keeps it so from here on. A source that does not answer is waited for,
// until the run goes on as an unplanned one because it is lost.
func (j *job) stillLocked(ctx context.Context) error {
	if j.step.Kind != program.Grant || planted.Is(planted.LockForgotten) {
		return nil
	}
	return j.try(ctx, func(ctx context.Context) error {
		if j.d.runType() != recovery.Planned || j.d.statedDown() {
			return nil
		}
		return j.lockedIn(j.d.e.lookAt(ctx, j.machine.FromHost, j.step.Machine))
	})
}

// lockedIn reports what stillLocked wants to see in a look at the source.
func (j *job) lockedIn(look looked) error {
	m := j.machine
	ms, ok := look.machine(m.FromHost, m.Name)
	switch {
	case !look.answers(m.FromHost):
		return fault.Errorf(fault.Unreachable, "%s does not answer: nobody knows whether %s is still stopped and locked there (%w)", m.FromHost, m.Name, look.failure(m.FromHost)).
			WithHint("start the agent on %s, then: drrun resume %s; if the site is lost: drrun resume %[2]s --as unplanned --source-is-down", m.FromHost, j.run.ID)
	case ok && ms.Authority.Run == j.run.ID: // it was granted already
	case !ok || !ms.Locked || ms.Power != recovery.PowerStopped:
		return fault.Errorf(fault.Conflict, "%s is %s on %s and not as this run has left it, stopped and locked: what it wrote since its final delta would be lost", m.Name, cmp.Or(ms.Power, recovery.PowerUnknown), m.FromHost).
			WithHint("drrun cancel %s, and begin anew", j.run.ID)
	}
	return nil
}
