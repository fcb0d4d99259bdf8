package runtime

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/state"
)

// lastLook is how long a source may take to answer when its lease has ended.
const lastLook = 2 * time.Second

// lease is the lease that the new site's host has on record for a machine that
// the run takes from its source; nil: none. It must be of the newest record that
// anybody has told: of an earlier one nobody keeps it.
func (l looked) lease(m program.Machine) *command.LeaseStatus {
	ms, ok := l.machine(m.ToHost, m.Name)
	newest, err := l.newest(m.Name)
	if !ok || err != nil || ms.Lease == nil || !ms.Authority.Same(newest) || newest.Active != m.FromSite {
		return nil
	}
	if s := ms.Lease; s.Source == m.FromHost && s.Target == m.ToHost && s.Epoch == newest.Epoch && s.Length > 0 {
		return s
	}
	return nil
}

// leaseNotes say for which machines an unplanned run will wait, and how long.
func (j *job) leaseNotes(l looked) (out []string) {
	if j.typ != recovery.Unplanned || j.run.SourceIsDown {
		return nil
	}
	for _, m := range j.main.Active() {
		if s := l.lease(m); s != nil && !l.answers(m.FromHost) {
			out = append(out, fmt.Sprintf("%s does not answer; by its lease of %s it stops %s itself: the run asks nobody and waits for that, %s as it stands now",
				m.FromHost, quantity.FormatDuration(s.Length), m.Name, quantity.FormatDuration(s.Left)))
		}
	}
	return out
}

// waitForLease waits until the source has stopped its machine because its lease
// ended, as it has given its word to the new site's host. From the moment on when
// that host has promised, durably, to renew it no more, the time left only
// shrinks; that host counts it, so that it survives this process. has is false
// where no lease is on record.
func (j *job) waitForLease(ctx context.Context) (out outcome, has bool) {
	m := j.machine
	at := j.with(func(s *program.Step) { s.Host = m.ToHost })
	var l looked
	err := at.try(ctx, func(ctx context.Context) error {
		l = j.d.e.lookAt(ctx, m.ToHost, m.Name)
		return l.failure(m.ToHost)
	})
	if err != nil {
		return failed(fault.Errorf(fault.KindOf(err), "nobody knows whether %s has a lease: %w", m.Name, err)), true
	}
	c, _ := j.d.claimed()
	s := l.lease(*m)
	if newest := c.newest(m.Name); s == nil || s.Epoch != newest.Epoch {
		return outcome{}, false
	}
	j.noteLease(s)
	if s, err = at.askLease(ctx, false); err != nil {
		return failed(err), true
	}
	if s == nil { // the source took its word back in between
		return outcome{}, false
	}
	ctx, end := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer end()
	stopped := make(chan bool, 1)
	wg.Go(func() { j.watchSource(ctx, stopped) })
	for s.Left > 0 {
		now := j.d.e.now()
		j.d.setProgress(j.step.ID, report.Progress{Phase: fmt.Sprintf("waits for the end of the lease of %s on %s, at %s", m.Name, m.FromHost,
			now.Add(s.Left).Format(time.TimeOnly)), Done: int64((s.Age).Seconds()), Total: int64((s.Age + s.Left).Seconds())}, now)
		select {
		case <-stopped:
			return outcome{detail: "stopped and locked on " + m.FromHost}, true
		case <-time.After(min(s.Left, pollEvery)):
		case <-ctx.Done():
			return failed(context.Cause(ctx)), true
		}
		if by := j.d.downBy(); by != "" {
			return outcome{detail: fmt.Sprintf("%s states that %s is down or isolated", by, m.FromSite)}, true
		}
		// Asked for again, and not only looked at: it is this run that relies on it.
		next, err := at.askLease(ctx, false)
		if err != nil {
			return failed(err), true
		}
		if next == nil {
			return failed(fault.Errorf(fault.Conflict, "%s has no lease of %s on record any more", m.ToHost, m.Name)), true
		}
		s = next
	}
	return j.leaseEnded(ctx, at, s), true
}

// leaseEnded looks at the source a last time: one that answers and still runs its
// machine has not kept its word.
func (j *job) leaseEnded(ctx context.Context, at *job, s *command.LeaseStatus) outcome {
	m := j.machine
	look, cancel := context.WithTimeout(ctx, lastLook)
	defer cancel()
	if ms, ok := j.d.e.look(look, map[string]bool{m.FromHost: true}).machine(m.FromHost, m.Name); ok && ms.Power == recovery.PowerRunning {
		err := fault.Errorf(fault.Refused, "%s is known to run on %s although its lease has ended", m.Name, m.FromHost).
			WithHint("stop it there, then: drrun answer %s again", j.run.ID)
		if _, oerr := at.askLease(ctx, true); oerr != nil {
			j.d.note(j.step.ID, fmt.Sprintf("the lease of %s stays ended on %s: %v", m.Name, m.ToHost, oerr))
		}
		return failed(err)
	}
	return outcome{data: s, detail: fmt.Sprintf("its lease of %s on %s has ended, renewed last %s ago", quantity.FormatDuration(s.Length), m.FromHost, quantity.FormatDuration(s.Age))}
}

// noteLease puts the wait on the record, before it begins: a cancel has to let
// the lease go on.
func (j *job) noteLease(s *command.LeaseStatus) {
	d := j.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if st := d.st.Steps[j.step.ID]; st == nil || st.Leased {
		return
	}
	text := fmt.Sprintf("nobody knows whether %s still runs on %s: by its lease of %s, which %s renews no more, it is stopped there in %s at most",
		j.step.Machine, s.Source, quantity.FormatDuration(s.Length), s.Target, quantity.FormatDuration(max(s.Left, s.Length)))
	_ = d.append(state.Record{Kind: state.Noted, Step: j.step.ID, Word: state.WordLease, Text: text}) // what cannot be written stops the run
}

// askLease ends the renewals, or lets them go on. The answer is of now: it has no
// operation id.
func (j *job) askLease(ctx context.Context, open bool) (*command.LeaseStatus, error) {
	meta := j.meta(j.step.Machine, j.step.Host)
	meta.Op = ""
	var res command.LeaseResult
	err := j.try(ctx, func(ctx context.Context) (err error) {
		ctx, cancel := context.WithTimeoutCause(ctx, lookTimeout, fault.Errorf(fault.Unreachable, "no answer within %s", lookTimeout))
		defer cancel()
		res, err = command.Lease.Call(ctx, j.d.e.caller, j.step.Host, command.LeaseRequest{Meta: meta, Open: open})
		return err
	})
	if err != nil {
		err = fault.Errorf(fault.KindOf(err), "cannot end the lease of %s at %s: %w", j.step.Machine, j.step.Host, err)
	}
	return res.Lease, err
}

// watchSource tells when the source answers that its machine is stopped for good.
func (j *job) watchSource(ctx context.Context, stopped chan<- bool) {
	for ctx.Err() == nil {
		l := j.d.e.lookAt(ctx, j.machine.FromHost, j.step.Machine)
		if ms, ok := l.machine(j.machine.FromHost, j.step.Machine); ok && ms.Power == recovery.PowerStopped && ms.Locked {
			stopped <- true
			return
		}
		select {
		case <-time.After(pollEvery):
		case <-ctx.Done():
		}
	}
}
