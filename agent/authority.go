package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/drrun/drrun/agent/provider"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/crash"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/internal/planted"
	"github.com/drrun/drrun/internal/recovery"
)

// admit checks the epoch and the fencing number of a command. A higher number
// is remembered, durably, before the command takes effect.
func (m *machine) admit(meta command.Meta) error {
	m.mu.Lock()
	rec := m.rec
	m.mu.Unlock()
	if err := m.checkFence(&rec, meta); err != nil {
		return err
	}
	if meta.Epoch != 0 && meta.Epoch != rec.Authority.Epoch && !planted.Is(planted.EpochCheck) {
		return fault.Errorf(fault.Conflict, "machine %s: the command of run %q is for epoch %d, host %s holds %s",
			m.name, meta.Run, meta.Epoch, m.a.host(), describe(rec.Authority)).
			WithHint("another run moved the machine; resume reads the records anew")
	}
	if meta.Fence <= rec.Fence {
		return nil
	}
	return m.updateIf(func(r *record) error {
		if err := m.checkFence(r, meta); err != nil {
			return err
		}
		if meta.Fence > r.Fence {
			r.claimedBy(meta)
		}
		return nil
	})
}

func (m *machine) checkFence(rec *record, meta command.Meta) error {
	if meta.Fence != 0 && meta.Fence < rec.Fence && !planted.Is(planted.FenceCheck) {
		return fault.Errorf(fault.Conflict, "machine %s: the command of run %q has fencing number %d, run %q claimed it with %d",
			m.name, meta.Run, meta.Fence, rec.FenceRun, rec.Fence).WithHint("another runtime works on the machine")
	}
	return nil
}

// claimedBy notes the run whose number is in force. One before it can grant
// nothing here any more: its takeover ends.
func (r *record) claimedBy(meta command.Meta) {
	r.Fence, r.FenceRun = meta.Fence, meta.Run
	if r.Takeover != meta.Run {
		r.Takeover = ""
	}
}

// claim raises the fencing number. The number of another run is taken away only
// by a higher one.
func (m *machine) claim(in command.ClaimRequest) (command.ClaimResult, error) {
	if meta := in.Meta; meta.Fence != 0 {
		err := m.updateIf(func(r *record) error {
			if err := m.checkFence(r, meta); err != nil {
				return err
			}
			if meta.Fence == r.Fence && r.FenceRun != meta.Run {
				return fault.Errorf(fault.Conflict, "machine %s: run %q has claimed it with fencing number %d",
					m.name, r.FenceRun, r.Fence).WithHint("claim with a higher number")
			}
			r.claimedBy(meta)
			switch {
			case in.LetGo:
				r.Takeover = ""
			case in.Takeover && r.Authority.Active != m.a.site():
				r.Takeover = meta.Run
			}
			if l := r.Lets; l != nil && l.Closed != "" && l.Closed != meta.Run {
				// The run that relied on it can grant nothing here any more.
				next := *l
				next.Closed = ""
				r.Lets = &next
			}
			return nil
		})
		if err != nil {
			return command.ClaimResult{}, err
		}
	}
	crash.At("agent.fence.stored")
	rec := m.snapshot()
	return command.ClaimResult{Authority: rec.Authority, Fence: rec.Fence}, nil
}

// errHave says that the record is the one that was to be stored.
var errHave = errors.New("the authority record is in force already")

// mayGrant is the comparison of grant's compare-and-set.
func (m *machine) mayGrant(rec *record, in command.GrantRequest) error {
	if err := m.checkFence(rec, in.Meta); err != nil {
		return err
	}
	ours := rec.Authority
	switch {
	case ours.Same(in.Next):
		return errHave
	case !ours.Same(in.Expect):
		return fault.Errorf(fault.Conflict, "machine %s: cannot grant %s: expected %s, host %s holds %s",
			m.name, describe(in.Next), describe(in.Expect), m.a.host(), describe(ours)).
			WithHint("another run moved the machine; resume reads the records anew")
	case in.Next.Epoch <= ours.Epoch:
		return fault.Errorf(fault.Conflict, "machine %s: cannot grant %s over %s: the number does not grow",
			m.name, describe(in.Next), describe(ours))
	}
	return m.checkAuthority(&rec.Assignment, in.Next)
}

// takeOverRecord puts a newer record in force.
func (m *machine) takeOverRecord(r *record, next recovery.Authority) {
	r.Authority, r.Conflict = next, nil
	r.Lets, r.LeaseStop, r.Without, r.Takeover = nil, nil, nil, "" // they were of the record before
	if next.Active == m.a.site() {
		r.Locked = false // the record gives back the right that was given up
		return
	}
	// If the authority comes back, it is a run that starts the machine, in its
	// order, and not this agent by itself.
	r.Desired = recovery.PowerStopped
}

// grant moves the record from Expect to Next.
func (m *machine) grant(ctx context.Context, in command.GrantRequest) (command.GrantResult, error) {
	err := m.updateIf(func(r *record) error {
		if err := m.mayGrant(r, in); err != nil {
			return err
		}
		m.takeOverRecord(r, in.Next)
		if in.Fence > r.Fence {
			r.Fence, r.FenceRun = in.Fence, in.Run
		}
		return nil
	})
	if errors.Is(err, errHave) {
		if m.snapshot().Authority.Uncommitted && !in.Next.Uncommitted {
			if err := m.commit(ctx, in.Next.Epoch); err != nil {
				return command.GrantResult{}, err
			}
		}
		return command.GrantResult{Authority: m.snapshot().Authority}, nil
	}
	if err != nil {
		return command.GrantResult{}, err
	}
	crash.At("agent.epoch.stored")
	m.log.Info("authority granted", logkit.KeyEpoch, uint64(in.Next.Epoch), "active", in.Next.Active, logkit.KeyRun, in.Next.Run)
	m.interrupt(fault.Errorf(fault.Interrupted, "the authority record changed to %s", describe(in.Next)))
	m.enforce(ctx)
	if in.Next.Active != m.a.site() && m.state(ctx).Power == recovery.PowerStopped {
		m.setStartErr("") // that it does not run here is as it should be now
	}
	release, err := m.takeRole(ctx)
	if err != nil {
		return command.GrantResult{}, err
	}
	defer release()
	m.settle(ctx)
	m.nudge()
	return command.GrantResult{Authority: m.snapshot().Authority}, nil
}

// checkAuthority refuses a record that names what the assignment does not have.
func (m *machine) checkAuthority(a *recovery.Assignment, next recovery.Authority) error {
	if _, ok := a.AtSite(next.Active); !ok {
		return fault.Errorf(fault.Invalid, "machine %s has no host at site %q", m.name, next.Active)
	}
	for _, p := range next.Direction {
		from, ok1 := a.Host(p.From)
		_, ok2 := a.Host(p.To)
		if !ok1 || !ok2 || p.From == p.To || from.Site != next.Active {
			return fault.Errorf(fault.Invalid, "machine %s cannot be sent from host %q to host %q with active site %q", m.name, p.From, p.To, next.Active)
		}
	}
	return nil
}

// learn takes over a record that a peer holds: a newer one wins, another one
// of the same epoch is a conflict that both refuse.
func (m *machine) learn(ctx context.Context, theirs recovery.Authority, from string) {
	var ours recovery.Authority
	var ran bool // or was to run, as far as this agent knew
	if planted.Is(planted.NotLearnt) {
		return
	}
	err := m.updateIf(func(r *record) error {
		ours, ran = r.Authority, r.Desired == recovery.PowerRunning
		switch {
		case theirs.Epoch < ours.Epoch, ours.Same(theirs), r.Conflict != nil && r.Conflict.Same(theirs):
			return errHave
		case theirs.Epoch == ours.Epoch:
			r.Conflict = &theirs
			return nil
		}
		if err := m.checkAuthority(&r.Assignment, theirs); err != nil {
			return err
		}
		m.takeOverRecord(r, theirs)
		return nil
	})
	switch {
	case errors.Is(err, errHave):
		if ours.Same(theirs) && ours.Uncommitted && !theirs.Uncommitted {
			m.background(func(ctx context.Context) error { return m.commit(ctx, theirs.Epoch) })
		}
		return
	case err != nil:
		m.log.Error("cannot take over what a peer says", logkit.KeyHost, from, "theirs", describe(theirs), logkit.KeyError, err)
		if fault.Is(err, fault.Invalid) || m.ended() {
			return
		}
		m.note(func(m *machine) { m.roleErr, m.rec.unstored = err, &theirs })
	case theirs.Epoch == ours.Epoch:
		m.log.Error("two authority records of one epoch", logkit.KeyHost, from, "ours", describe(ours), "theirs", describe(theirs))
	default:
		m.log.Warn("a peer holds a newer authority record, adopted", logkit.KeyHost, from, "ours", describe(ours), "theirs", describe(theirs))
	}
	m.interrupt(fault.Errorf(fault.Interrupted, "host %s holds %s", from, describe(theirs)))
	if ran && theirs.Active != m.a.site() && m.state(ctx).Power == recovery.PowerStopped {
		m.setStartErr(fmt.Sprintf("not started: host %s holds %s; this host had epoch %d", from, describe(theirs), ours.Epoch))
	}
	m.enforce(ctx)
	m.nudge()
}

// enforce stops the machine, or raises an alarm, where another site may run it.
func (m *machine) enforce(ctx context.Context) {
	rec := m.snapshot()
	auth := rec.inForce()
	if auth.Active == m.a.site() || m.state(ctx).Power == recovery.PowerStopped || planted.Is(planted.NotFenced) {
		return
	}
	why := describe(auth) + " is in force"
	if rec.Assignment.Policy.Fence == "alarm" {
		alarm := "runs although " + why + "; the policy says alarm, not stop"
		m.mu.Lock()
		known := m.startErr == alarm
		m.startErr = alarm
		m.mu.Unlock()
		if !known {
			m.log.Error("machine runs at a site that may not run it", logkit.KeyEpoch, uint64(auth.Epoch), "active", auth.Active)
		}
		return
	}
	m.mu.Lock()
	known := m.fencing
	m.fencing = true
	m.mu.Unlock()
	if !known {
		m.background(func(ctx context.Context) error { return m.fence(ctx, why) })
	}
}

// fence stops the machine, again and again until it is stopped, the authority
// comes back to this site, or ctx ends.
func (m *machine) fence(ctx context.Context, why string) error {
	defer m.note(func(m *machine) { m.fencing = false })
	for pause := retryFirst; ; pause = min(2*pause, retryMost) {
		m.setStartErr("is being stopped: " + why)
		err := m.fenceOnce(ctx, why)
		if err == nil || m.ended() || ctx.Err() != nil {
			return err
		}
		m.log.Error("machine that another site may run cannot be stopped", logkit.KeyError, err)
		m.setStartErr("cannot be stopped although " + why + ": " + err.Error())
		select {
		case <-m.gone:
		case <-ctx.Done():
		case <-time.After(jitter(pause)):
		}
	}
}

func (m *machine) fenceOnce(ctx context.Context, why string) error {
	release, err := m.power.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	rec := m.snapshot()
	if rec.inForce().Active == m.a.site() {
		m.setStartErr("")
		return nil
	}
	if err := m.update(func(r *record) { r.Desired = recovery.PowerStopped }); err != nil {
		// It must not run on because a disk is full.
		_, serr := m.provider().Stop(ctx, m.process(&rec), provider.Stop{Force: true})
		return errors.Join(err, serr)
	}
	if _, err := m.stopHeld(ctx, 0, true, false); err != nil {
		return err
	}
	m.setStartErr("stopped: " + why)
	return nil
}

// background runs f in the agent's life; its error is shown and logged.
func (m *machine) background(f func(context.Context) error) {
	if m.a.life.Err() != nil {
		return
	}
	m.a.work.Go(func() {
		if err := f(m.a.life); err != nil && !errors.Is(err, errEnds) {
			m.log.Error("work in the background failed", logkit.KeyError, err)
			m.note(func(m *machine) { m.roleErr = err })
		}
		m.nudge()
	})
}

// assign takes over an assignment; the authority record only where there is
// none.
func (a *Agent) assign(ctx context.Context, in command.AssignRequest) error {
	as := in.Assignment
	if err := checkAssignment(&as); err != nil {
		return fault.Wrap(fault.Invalid, err)
	}
	if _, ok := as.Host(a.host()); !ok || as.Estate != a.estate() {
		return fault.Errorf(fault.Refused, "machine %s of estate %q is not for host %s of estate %q", as.Machine, as.Estate, a.host(), a.estate())
	}
	done, err := a.assigning.take(ctx)
	if err != nil {
		return err
	}
	defer done()
	m, fresh, err := a.obtain(as)
	if err != nil {
		return err
	}
	if !fresh {
		if reflect.DeepEqual(*m.assignment(), as) {
			return nil
		}
		m.interrupt(fault.Errorf(fault.Interrupted, "machine %s is assigned anew", m.name)) // its work is not lost
	}
	release, err := m.takeRole(ctx)
	if err != nil {
		return err
	}
	defer release()
	rec := m.snapshot()
	if !fresh && as.Revision < rec.Assignment.Revision {
		return fault.Errorf(fault.Conflict, "machine %s: revision %d of the estate is in force, %d is older", as.Machine, rec.Assignment.Revision, as.Revision).
			WithHint("this runtime has old state; take the estate from the newer one")
	}
	var was *left
	if fresh {
		if err := m.checkAuthority(&as, in.Authority); err != nil {
			return err
		}
		if was, err = m.takeUp(ctx, &as, in.Authority.Active); err != nil {
			return err
		}
	}
	if err := m.closeChanged(&rec.Assignment, &as); err != nil {
		return err
	}
	err = m.update(func(r *record) {
		r.Assignment = as
		if !fresh {
			return
		}
		r.Authority = in.Authority
		if was != nil {
			r.Launch, r.Process = was.Launch, was.Process
		}
		if r.Authority.Active == a.site() {
			// From here the agent runs the machine: it is started as soon as
			// the peer confirms the right to (resumePower).
			r.Own = true
			if as.Exec != nil {
				r.Desired = recovery.PowerRunning
			}
		}
	})
	if err != nil {
		return err
	}
	if err := m.makeProvider(); err != nil {
		return err
	}
	if was != nil {
		if err := a.o.FS.Remove(a.leftFile(as.Machine)); err != nil {
			m.log.Warn("cannot remove the note of the machine's process", logkit.KeyError, err)
		}
	}
	a.adopt(m)
	m.settle(ctx)
	m.nudge()
	return nil
}

// closeChanged closes the stores that an assignment changes; settle opens them
// again.
func (m *machine) closeChanged(old, next *recovery.Assignment) error {
	switch {
	case !sameDisks(old.Disks, next.Disks), m.store(old) != m.store(next):
		return m.closeRoles()
	case !reflect.DeepEqual(old.Policy, next.Policy):
		return m.closeSource()
	}
	return nil
}

func sameDisks(a, b []recovery.Disk) bool {
	return slices.EqualFunc(a, b, func(x, y recovery.Disk) bool {
		return x.Name == y.Name && x.ID == y.ID && x.Key == y.Key && x.Allocation == y.Allocation && fmt.Sprint(x.Paths) == fmt.Sprint(y.Paths)
	})
}

// obtain returns the machine of an assignment, a new one if need be: that one
// is not known to the agent before adopt.
func (a *Agent) obtain(as recovery.Assignment) (m *machine, fresh bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if m := a.machines[as.Machine]; m != nil {
		return m, false, nil
	}
	m = newMachine(a, as.Machine)
	m.rec = record{Desired: recovery.PowerStopped}
	if err := a.o.FS.MkdirAll(m.dir, 0o700); err != nil {
		return nil, false, fmt.Errorf("cannot make folder of machine %s: %w", as.Machine, err)
	}
	return m, true, nil
}

// adopt makes a machine known and starts its loops.
func (a *Agent) adopt(m *machine) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.machines[m.name] = m
	if a.running {
		m.startLoop()
	}
}

// unassign ends protection at this host. The machine goes on running.
func (a *Agent) unassign(ctx context.Context, in command.UnassignRequest) error {
	done, err := a.assigning.take(ctx)
	if err != nil {
		return err
	}
	defer done()
	m, err := a.machine(in.Machine)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	rec := m.snapshot()
	if err := m.checkFence(&rec, in.Meta); err != nil {
		return err
	}
	if err := m.releaseLease(ctx); err != nil {
		return err
	}
	m.interrupt(fault.Errorf(fault.Interrupted, "machine %s is unprotected", m.name))
	release, err := m.takeRole(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := m.letGo(ctx); err != nil {
		return err
	}
	if err := m.removeRoles(in.DeleteReplica); err != nil {
		return err
	}
	rec = m.snapshot()
	if err := a.leave(&rec); err != nil {
		return err
	}
	if err := m.forget(); err != nil {
		return err
	}
	a.mu.Lock()
	delete(a.machines, m.name)
	a.mu.Unlock()
	if err := a.o.FS.RemoveAll(m.dir); err != nil {
		m.log.Warn("cannot clear the folder of an unprotected machine", logkit.KeyError, err)
	}
	return nil
}

// forget ends the machine durably: from here nobody changes its record.
func (m *machine) forget() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := filepath.Join(m.dir, recordName)
	if err := m.a.o.FS.Remove(name); err != nil {
		return fmt.Errorf("cannot forget machine %s: %w", m.name, err)
	}
	close(m.gone)
	return nil
}
