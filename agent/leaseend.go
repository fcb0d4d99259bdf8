package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/drrun/drrun/agent/provider"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/internal/planted"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/internal/recovery"
)

// watchLease stops the machine when its lease ends. It asks nobody, so that
// nothing can keep it.
func (m *machine) watchLease(ctx context.Context) {
	for ctx.Err() == nil {
		var due <-chan time.Time
		if rec := m.snapshot(); rec.owes() {
			due = time.After(m.leaseTurn(ctx, &rec))
		}
		select {
		case <-due:
		case <-m.leaseWake:
		case <-m.gone:
			return
		case <-ctx.Done():
		}
	}
}

// leaseTurn returns when it is to be looked again.
func (m *machine) leaseTurn(ctx context.Context, rec *record) time.Duration {
	left, _ := m.leaseLeft()
	if left > grace(rec.Obeys.Length) || m.without(rec) != nil || planted.Is(planted.LeaseIgnored) {
		return leaseLook
	}
	if st := m.state(ctx); st.Power == recovery.PowerStopped {
		return renewLeast
	}
	if err := m.endByLease(ctx, rec, left); err != nil && ctx.Err() == nil {
		m.log.Error("machine whose lease ends cannot be stopped", logkit.KeyError, err)
		m.setStartErr("cannot be stopped although its lease ended: " + err.Error())
	}
	return leaseLook
}

// endByLease stops the machine, gracefully as long as there is time for it. A
// command that holds the machine's power meanwhile, or a disk that is full, does
// not keep it.
func (m *machine) endByLease(ctx context.Context, rec *record, left time.Duration) error {
	soft := max(0, left-min(grace(rec.Obeys.Length)/4, time.Second))
	m.log.Error("lease is not renewed, the machine is stopped", logkit.KeyHost, rec.Obeys.Target, "length", rec.Obeys.Length, "grace", soft)
	m.setStartErr(leaseOver(rec))
	began := clock.Boot(m.a.o.Clock)
	waits, cancel := context.WithTimeout(ctx, max(soft, stopNow))
	release, err := m.power.take(waits)
	cancel()
	forced := err != nil
	if forced {
		if ctx.Err() != nil {
			return err
		}
		now := m.snapshot()
		serr := m.stopByForce(ctx, &now, stopNow)
		if release, err = m.power.take(ctx); err != nil {
			return errors.Join(err, serr)
		}
	}
	defer release()
	rest, _ := m.leaseLeft()
	now := m.snapshot()
	if !forced && (!now.owes() || rest > grace(now.Obeys.Length)) { // granted meanwhile, and nothing was done yet
		m.setStartErr("")
		return nil
	}
	stored := m.update(func(r *record) {
		if r.Desired == recovery.PowerRunning {
			r.LeaseStop = &leaseStop{Epoch: r.Authority.Epoch, At: m.a.o.Clock.Now().UTC()}
		}
		r.Desired = recovery.PowerStopped
	})
	now = m.snapshot()
	err = m.stopByForce(ctx, &now, max(stopNow, soft-(clock.Boot(m.a.o.Clock)-began)))
	if err = errors.Join(err, stored); err != nil {
		return err
	}
	m.setStartErr(leaseOver(rec))
	m.nudge()
	return m.update(func(r *record) { r.Process, r.Launch, r.Clean = nil, nil, false })
}

// stopByForce stops the machine by force after within; the power lock need not
// be held.
func (m *machine) stopByForce(ctx context.Context, rec *record, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within+leaseStopMost)
	defer cancel()
	p := m.process(rec)
	if rec.Process == nil && rec.Launch != nil { // a start is under way, or was cut short
		found, ok, err := m.provider().Find(ctx, *rec.Launch)
		if err != nil || !ok {
			return err
		}
		p = found
	}
	if _, err := m.provider().Stop(ctx, p, provider.Stop{Within: within, Force: true}); err != nil {
		return err
	}
	if st := m.provider().Status(ctx, p); st.Power != recovery.PowerStopped {
		return fault.Errorf(fault.Unknown, "machine %s is %s after its stop", m.name, st.Power)
	}
	return nil
}

func leaseOver(rec *record) string {
	return fmt.Sprintf("stopped: host %s has not renewed its lease of %s; it is started again when it does", rec.Obeys.Target, quantity.FormatDuration(rec.Obeys.Length))
}

// startAfterLease starts the machine that was stopped because its lease ended.
func (m *machine) startAfterLease(ctx context.Context) error {
	m.lease.mu.Lock()
	now := clock.Boot(m.a.o.Clock)
	early := m.lease.failed > 0 && now-m.lease.failed < startAgainGap
	m.lease.mu.Unlock()
	if early {
		return nil
	}
	rec := m.snapshot()
	_, err := m.startIf(ctx, rec.Authority.Run, func(r *record) error {
		if r.LeaseStop == nil || r.LeaseStop.Epoch != r.Authority.Epoch {
			return errStopped
		}
		return m.mayStart(r)
	})
	m.lease.mu.Lock()
	defer m.lease.mu.Unlock()
	m.lease.failed = 0
	if err != nil && !errors.Is(err, errStopped) {
		m.log.Warn("machine is not started again after its lease ended", logkit.KeyError, err)
		m.lease.failed = now
	}
	return nil
}
