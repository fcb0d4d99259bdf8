package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/drrun/drrun/agent/provider"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/crash"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/internal/planted"
	"github.com/drrun/drrun/internal/recovery"
)

// launch is what the machine would be started with now.
func (m *machine) launch(rec *record, kind, run string, paths map[string]string) provider.Launch {
	addr := rec.Assignment.Addresses
	if kind == provider.Test {
		addr = rec.Assignment.TestAddresses
	}
	return provider.Launch{
		Machine: m.name, Site: m.a.site(), IP: addr[m.a.site()].IP, Epoch: rec.Authority.Epoch,
		Run: run, Type: kind, Disks: paths, Token: ident.NewID().String(),
	}
}

// process is the machine's process, or one that says how to ask about it.
func (m *machine) process(rec *record) provider.Process {
	if rec.Process != nil {
		return *rec.Process
	}
	paths, err := m.diskPaths(&rec.Assignment)
	if err != nil {
		m.log.Debug("disk paths are not known", logkit.KeyError, err)
	}
	return provider.Process{Launch: m.launch(rec, provider.Production, "", paths)}
}

// state asks for the power state of the machine.
func (m *machine) state(ctx context.Context) provider.State {
	rec := m.snapshot()
	if rec.Process == nil && rec.Launch != nil {
		return provider.State{Power: recovery.PowerUnknown, Why: "a start is under way"}
	}
	return m.provider().Status(ctx, m.process(&rec))
}

// lookFor settles a start whose outcome is not known: cut short by a crash, or
// by a provider that could not tell. Nothing else starts the machine meanwhile:
// the power lock is held.
func (m *machine) lookFor(ctx context.Context) error {
	rec := m.snapshot()
	if rec.Launch == nil || rec.Process != nil {
		return nil
	}
	p, found, err := m.provider().Find(ctx, *rec.Launch)
	if err != nil {
		return fault.Errorf(fault.Unknown, "cannot look for machine %s: %w", m.name, err)
	}
	return m.update(func(r *record) {
		if found {
			r.Process = &p
		} else {
			r.Launch = nil
		}
	})
}

// lookForTest does the same for the machine of a test.
func (m *machine) lookForTest(ctx context.Context, test string) error {
	t, ok := m.snapshot().Tests[test]
	if !ok || t.Launch == nil || t.Process != nil {
		return nil
	}
	p, found, err := m.provider().Find(ctx, *t.Launch)
	if err != nil {
		return fault.Errorf(fault.Unknown, "cannot look for test %s of machine %s: %w", test, m.name, err)
	}
	if found {
		t.Process = &p
	} else {
		t.Launch = nil
	}
	return m.updateTest(test, t)
}

// updateTest stores what became of a test, unless it is cleaned up.
func (m *machine) updateTest(test string, t testRecord) error {
	return m.update(func(r *record) {
		if _, ok := r.Tests[test]; ok {
			r.Tests[test] = t
		}
	})
}

// adoptProcesses finds the processes of starts that a crash cut short.
func (m *machine) adoptProcesses(ctx context.Context) error {
	if err := m.lookFor(ctx); err != nil {
		return err
	}
	for test := range m.snapshot().Tests {
		if err := m.lookForTest(ctx, test); err != nil {
			return err
		}
	}
	if st := m.state(ctx); st.Power == recovery.PowerRunning {
		m.log.Info("machine runs, adopted", logkit.KeyPID, st.PID)
	}
	return nil
}

// mayStart says why the machine may not be started here; nil: it may.
func (m *machine) mayStart(rec *record) error {
	refused := func(format string, args ...any) *fault.Error {
		return fault.Errorf(fault.Refused, "machine %s is not started at host %s: %s", m.name, m.a.host(), fmt.Sprintf(format, args...))
	}
	switch {
	case rec.Conflict != nil:
		return refused("two records of one epoch: %s here, %s at its peer", describe(rec.Authority), describe(*rec.Conflict)).
			WithHint("find out which site runs the machine; grant the next epoch from there")
	case rec.inForce().Active != m.a.site():
		return refused("%s", describe(rec.inForce())).WithHint("site %s may run it", rec.inForce().Active)
	case rec.Locked:
		flags := "--planned"
		if rec.Assignment.HomeSite == m.a.site() {
			flags += " --failback"
		}
		return refused("it is locked, this host gave up the right to start it").
			WithHint("resume, cancel or roll back the run that stopped it (drrun runs); if that is over: drrun failover %s %s", m.name, flags)
	}
	if !rec.Own {
		return refused("its disks here are a replica, no recovery point is prepared").WithHint("prepare a recovery point first")
	}
	return nil
}

// start starts the machine on its own or its prepared disks. Running already
// is no error.
func (m *machine) start(ctx context.Context, run string) (command.StartResult, error) {
	if err := m.endedElsewhere(ctx); err != nil {
		return command.StartResult{}, err
	}
	m.tryLease(ctx)
	return m.startIf(ctx, run, m.mayStart)
}

// endedElsewhere tells the other hosts of the machine the record in force, by
// which they stop it, and refuses the start as long as one says that it runs
// there: a site that was down when a person stated so may be back since. A host
// that does not answer cannot be asked: whoever calls has made sure of it.
func (m *machine) endedElsewhere(ctx context.Context) error {
	rec := m.snapshot()
	if m.mayStart(&rec) != nil || planted.Is(planted.StartNotAsked) {
		return nil // refused by what comes next
	}
	for _, h := range rec.Assignment.Hosts {
		if h.Name == m.a.host() {
			continue
		}
		got, err := m.confirmAt(ctx, h.Name, startAsks)
		if err != nil {
			continue
		}
		if got.Authority.Epoch >= rec.Authority.Epoch && !got.Authority.Same(rec.Authority) {
			m.learn(ctx, got.Authority, h.Name)
			return nil
		}
		if got.Power == recovery.PowerRunning {
			return fault.Errorf(fault.Interrupted, "machine %s is not started: it still runs at host %s, which was told of %s", m.name, h.Name, describe(rec.Authority)).
				WithHint("it is stopped there by the policy's fence; if that says alarm, stop it by hand")
		}
	}
	return nil
}

// errStopped says that a machine is not to run any more.
var errStopped = errors.New("the machine was stopped meanwhile")

// startAgain is start for a machine that was to run when this agent was started:
// one that was stopped meanwhile stays stopped.
func (m *machine) startAgain(ctx context.Context, run string) error {
	_, err := m.startIf(ctx, run, func(r *record) error {
		if r.Desired != recovery.PowerRunning {
			return errStopped
		}
		return m.mayStart(r)
	})
	return err
}

// startIf starts the machine if may allows it, before anything is done and at
// the moment when the start becomes durable.
func (m *machine) startIf(ctx context.Context, run string, may func(*record) error) (command.StartResult, error) {
	release, err := m.power.take(ctx)
	if err != nil {
		return command.StartResult{}, err
	}
	defer release()
	if err := m.lookFor(ctx); err != nil {
		return command.StartResult{}, err
	}
	rec := m.snapshot()
	if err := may(&rec); err != nil {
		return command.StartResult{}, err
	}
	if err := m.leaseAllows(&rec); err != nil {
		m.setStartErr(err.Error())
		return command.StartResult{}, err
	}
	switch st := m.state(ctx); st.Power {
	case recovery.PowerRunning:
		m.setStartErr("")
		return command.StartResult{Power: st.Power, PID: st.PID}, m.update(func(r *record) { r.Desired, r.LeaseStop = recovery.PowerRunning, nil })
	case recovery.PowerUnknown:
		return command.StartResult{}, fault.Errorf(fault.Unknown, "cannot start machine %s: it is not known whether it runs: %s", m.name, st.Why)
	}
	paths, err := m.diskPaths(&rec.Assignment)
	if err != nil {
		return command.StartResult{}, err
	}
	for _, p := range paths {
		if _, err := m.a.o.FS.Stat(p); err != nil {
			return command.StartResult{}, fault.Errorf(fault.Refused, "cannot start machine %s: %w", m.name, err).
				WithHint("bring the disk %s back, or mount what it lies on", p)
		}
	}
	if err := m.still(&rec); err != nil {
		m.setStartErr("not started: " + err.Error())
		return command.StartResult{}, err
	}
	l := m.launch(&rec, provider.Production, run, paths)
	// From here its disks may change: no point is the final one any more. A
	// record that took the right away comes before this, and it is not started,
	// or after this, and it is stopped.
	err = m.updateIf(func(r *record) error {
		if err := may(r); err != nil {
			return err
		}
		if err := m.leaseAllows(r); err != nil {
			return err
		}
		r.LeaseStop = nil
		r.Desired, r.Launch, r.Process, r.Clean, r.Final = recovery.PowerRunning, &l, nil, false, ident.PointID{}
		return nil
	})
	if err != nil {
		return command.StartResult{}, err
	}
	crash.At("agent.start.stored")
	p, err := m.provider().Start(ctx, l)
	if err != nil {
		if fault.Is(err, fault.Unknown) {
			return command.StartResult{}, err // the launch stays noted and is looked for
		}
		m.setStartErr("not started: " + err.Error())
		if err2 := m.update(func(r *record) { r.Launch, r.Desired, r.LeaseStop = nil, recovery.PowerStopped, rec.LeaseStop }); err2 != nil {
			m.log.Warn("cannot forget a failed start", logkit.KeyError, err2)
		}
		return command.StartResult{}, err
	}
	crash.At("agent.start.done")
	if err := m.update(func(r *record) { r.Process = &p }); err != nil {
		return command.StartResult{}, err
	}
	if err := m.stays(ctx, p); err != nil {
		m.setStartErr(err.Error())
		return command.StartResult{}, err
	}
	m.setStartErr("")
	m.nudge()
	m.log.Info("machine started", logkit.KeyPID, p.PID, logkit.KeyEpoch, uint64(l.Epoch), logkit.KeyRun, run)
	return command.StartResult{Power: recovery.PowerRunning, PID: p.PID}, nil
}

// startWatch is how long a machine is looked at after its start.
const startWatch = 300 * time.Millisecond

// stays looks whether a machine that was started still runs a moment later: one
// that ends at once is not recovered.
func (m *machine) stays(ctx context.Context, p provider.Process) error {
	end := time.After(startWatch)
	tick := time.NewTicker(startWatch / 10)
	defer tick.Stop()
	for last := false; ; {
		st := m.provider().Status(ctx, p)
		if st.Power == recovery.PowerStopped && (st.Exit != "" || last) { // how it ended is known a moment later
			return fault.Errorf(fault.Failed, "machine %s ended at once: %s", m.name, cmp.Or(st.Exit, "how is not known")).
				WithHint("what it printed is in %s on host %s", filepath.Join(m.dir, "output*.log"), m.a.host())
		}
		if last {
			return nil
		}
		select {
		case <-tick.C:
		case <-end:
			last = true
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (m *machine) setStartErr(s string) { m.note(func(m *machine) { m.startErr = s }) }

// stop stops the machine and, if asked, durably gives up the right to start it.
func (m *machine) stop(ctx context.Context, within time.Duration, force, giveUp bool) (command.StopResult, error) {
	release, err := m.power.take(ctx)
	if err != nil {
		return command.StopResult{Power: recovery.PowerUnknown}, err
	}
	defer release()
	return m.stopHeld(ctx, within, force, giveUp)
}

// stopHeld is stop with the power lock held.
func (m *machine) stopHeld(ctx context.Context, within time.Duration, force, giveUp bool) (command.StopResult, error) {
	err := m.update(func(r *record) { r.Desired, r.LeaseStop = recovery.PowerStopped, nil })
	if err == nil {
		err = m.lookFor(ctx)
	}
	if err != nil {
		return command.StopResult{Power: recovery.PowerUnknown}, err
	}
	crash.At("agent.stop.stored")
	rec := m.snapshot()
	p := m.process(&rec)
	was := m.provider().Status(ctx, p)
	forced := false
	if was.Power != recovery.PowerStopped {
		if forced, err = m.provider().Stop(ctx, p, provider.Stop{Within: within, Force: force}); err != nil {
			return command.StopResult{Power: m.provider().Status(ctx, p).Power}, err
		}
	}
	if st := m.provider().Status(ctx, p); st.Power != recovery.PowerStopped {
		return command.StopResult{Power: st.Power}, fault.Errorf(fault.Unknown, "machine %s is %s after its stop", m.name, st.Power)
	}
	crash.At("agent.stop.done")
	err = m.update(func(r *record) {
		r.Process, r.Launch = nil, nil
		r.Locked = r.Locked || giveUp && !planted.Is(planted.LockForgotten)
		if was.Power == recovery.PowerRunning {
			r.Clean = !forced
		}
	})
	if err != nil {
		return command.StopResult{Power: recovery.PowerUnknown}, err
	}
	crash.At("agent.lock.stored")
	m.log.Info("machine stopped", "forced", forced, "locked", giveUp)
	m.nudge()
	return command.StopResult{Power: recovery.PowerStopped, Forced: forced}, nil
}

// startTest starts the machine on the view of a test.
func (m *machine) startTest(ctx context.Context, test string) (command.StartResult, error) {
	release, err := m.power.take(ctx)
	if err != nil {
		return command.StartResult{}, err
	}
	defer release()
	if err := m.lookForTest(ctx, test); err != nil {
		return command.StartResult{}, err
	}
	rec := m.snapshot()
	t, ok := rec.Tests[test]
	if !ok || t.Paths == nil {
		return command.StartResult{}, fault.Errorf(fault.Refused, "test %s of machine %s is not prepared here", test, m.name)
	}
	if t.Process != nil {
		switch st := m.provider().Status(ctx, *t.Process); st.Power {
		case recovery.PowerRunning:
			return command.StartResult{Power: st.Power, PID: st.PID}, nil
		case recovery.PowerUnknown:
			return command.StartResult{}, fault.Errorf(fault.Unknown, "cannot start machine %s in test %s: it is not known whether it runs: %s", m.name, test, st.Why)
		}
	}
	l := m.launch(&rec, provider.Test, t.Run, t.Paths)
	t.Launch, t.Process = &l, nil
	if err := m.updateTest(test, t); err != nil {
		return command.StartResult{}, err
	}
	p, err := m.provider().Start(ctx, l)
	if err != nil {
		return command.StartResult{}, err
	}
	t.Process = &p
	if err := m.updateTest(test, t); err != nil {
		return command.StartResult{}, err
	}
	if err := m.stays(ctx, p); err != nil {
		return command.StartResult{}, err
	}
	return command.StartResult{Power: recovery.PowerRunning, PID: p.PID}, nil
}

// stopTest ends the process of a test, by force if it must; it is not started
// again after that.
func (m *machine) stopTest(ctx context.Context, test string) error {
	release, err := m.power.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := m.lookForTest(ctx, test); err != nil {
		return err
	}
	t := m.snapshot().Tests[test]
	if t.Process != nil {
		if _, err := m.provider().Stop(ctx, *t.Process, provider.Stop{Within: testStop, Force: true}); err != nil {
			return err
		}
	}
	t.Process, t.Launch, t.Paths = nil, nil, nil
	return m.updateTest(test, t)
}

// testStop is how long the machine of a test may take to stop by itself: its
// disks are thrown away.
const testStop = 5 * time.Second

// Right to run, after the agent was started.
const (
	confirmTimeout = 5 * time.Second
	startAsks      = 2 * time.Second // for a peer to answer before a start
	confirmFirst   = time.Second
	confirmMost    = 30 * time.Second
)

// verdict is what the peers say about our authority record.
type verdict struct {
	confirmed string // host that has the same record
	newer     string // host that has a newer or another one
	record    recovery.Authority
	silent    []string // hosts that gave no answer, with why
	taken     bool     // a run takes the machine over from here
}

// askPeers asks the other hosts of the assignment for their records.
func (m *machine) askPeers(ctx context.Context) verdict {
	rec := m.snapshot()
	var v verdict
	for _, h := range rec.Assignment.Hosts {
		if h.Name == m.a.host() {
			continue
		}
		answer, err := m.confirmAt(ctx, h.Name, confirmTimeout)
		got := answer.Authority
		switch {
		case err != nil:
			v.silent = append(v.silent, fmt.Sprintf("%s: %v", h.Name, err))
		case rec.Authority.Same(got) && answer.Takeover != "" && !planted.Is(planted.TakenConfirmed):
			v.taken = true
			v.silent = append(v.silent, fmt.Sprintf("%s: run %s takes the machine over from this host", h.Name, answer.Takeover))
		case rec.Authority.Same(got):
			v.confirmed = h.Name
		case got.Epoch >= rec.Authority.Epoch && (v.newer == "" || got.Epoch > v.record.Epoch):
			v.newer, v.record = h.Name, got
		default:
			v.silent = append(v.silent, fmt.Sprintf("%s has %s only", h.Name, describe(got)))
		}
	}
	return v
}

func (m *machine) confirmAt(ctx context.Context, host string, within time.Duration) (out command.ConfirmResult, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, within, fault.Errorf(fault.Unreachable, "no answer within %s", within))
	defer cancel()
	p, err := m.a.peer(host)
	if err != nil {
		return out, err
	}
	err = p.Call(ctx, command.Confirm.Name, command.ConfirmRequest{Machine: m.name, Authority: m.snapshot().Authority, Instance: m.a.instance}, &out)
	return out, err
}

// resumePower settles, once after the agent's start, whether the machine may
// run here: it is started again, or goes on running, only when a peer has the
// same record and no run takes the machine over there, or a person or, of peers
// that are silent, the policy permits it alone.
func (m *machine) resumePower(ctx context.Context) {
	for pause := confirmFirst; ctx.Err() == nil; pause = min(2*pause, confirmMost) {
		rec := m.snapshot()
		if rec.Desired != recovery.PowerRunning || rec.Authority.Active != m.a.site() || m.resumeOnce(ctx, rec) {
			return
		}
		select {
		case <-m.gone:
			return
		case <-ctx.Done():
		case <-time.After(jitter(pause)):
		}
	}
}

// resumeOnce asks once; true: it is settled.
func (m *machine) resumeOnce(ctx context.Context, rec record) bool {
	v := m.askPeers(ctx)
	if v.newer != "" {
		m.learn(ctx, v.record, v.newer)
		return true
	}
	running := m.state(ctx).Power != recovery.PowerStopped
	switch {
	case v.confirmed != "" && !v.taken, rec.permitted(m.a.started), planted.Is(planted.RightNotAsked):
	case !v.taken && (rec.Assignment.Policy.StartAlone == "allow" || len(rec.Assignment.Hosts) < 2):
		m.log.Warn("no peer confirms the right to run, the policy allows to start alone", "silent", strings.Join(v.silent, "; "))
	default:
		if !running {
			m.waitsForPeer(&rec, &v)
		}
		return false
	}
	if running {
		m.setStartErr("")
		return true
	}
	m.tryLease(ctx)
	if err := m.startAgain(ctx, rec.Authority.Run); err != nil {
		if errors.Is(err, errStopped) {
			return true
		}
		m.log.Warn("machine is not started again", logkit.KeyError, err)
		m.setStartErr(err.Error())
		now := m.snapshot()
		return m.mayStart(&now) != nil // else what is in the way may go: a disk that is mounted late
	}
	return true
}

// waitsForPeer shows why the machine is not started.
func (m *machine) waitsForPeer(rec *record, v *verdict) {
	s := "not started: no peer confirms epoch " + fmt.Sprint(rec.Authority.Epoch) + " (" + strings.Join(v.silent, "; ") + ")"
	if rec.Assignment.Policy.StartAlone != "never" {
		s += "; drrun-agent permit " + m.name + " starts it if you know that no other site runs it"
	}
	m.note(func(m *machine) {
		if m.rec.Authority.Same(rec.Authority) { // else a peer has said meanwhile why it is not started
			m.startErr = s
		}
	})
}
