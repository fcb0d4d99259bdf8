package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/crash"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/internal/quantity"
)

// letting is the lease that this host grants, as the source has given its word.
// It belongs to the record of its epoch and goes with it. One of length 0 was
// given up: it stays for its Rev, so that no request that was late on its way
// brings it back.
type letting struct {
	Source string        `json:"source"`
	Epoch  ident.Epoch   `json:"epoch"`
	Rev    uint64        `json:"rev"`
	Length time.Duration `json:"length"`
	Stop   time.Duration `json:"stop"`
	// Closed is the run for which nothing is granted any more.
	Closed string `json:"closed,omitempty"`
}

// Two clocks may run apart by one part of rateMargin, which is far more than
// clock.Drift allows for, and wakeMargin covers what a timer is late.
const (
	rateMargin = 100
	wakeMargin = time.Second
)

// over is how long after the last grant a run may count on the stop.
func (l *letting) over() time.Duration {
	d := l.Length + l.Stop
	return d + d/rateMargin + wakeMargin
}

// lets is the lease in force here; nil: none.
func (r *record) lets() *letting {
	if l := r.Lets; l != nil && l.Epoch == r.Authority.Epoch && l.Length > 0 {
		return l
	}
	return nil
}

// mayRenew says why a renewal is not granted.
func (m *machine) mayRenew(r *record, from string, in *command.RenewRequest) (why string) {
	switch l := r.Lets; {
	case r.Conflict != nil:
		return "two records of one epoch"
	case !r.inForce().Same(in.Authority) || !r.Authority.Same(in.Authority):
		return fmt.Sprintf("host %s holds %s", m.a.host(), describe(r.inForce()))
	case r.sends(from, m.a.host()) != nil:
		return r.sends(from, m.a.host()).Error()
	case l == nil || l.Epoch != r.Authority.Epoch:
		return ""
	case l.Closed != "":
		return fmt.Sprintf("run %s takes the machine over from host %s", l.Closed, from)
	case l.stale(in):
		return fmt.Sprintf("a newer request came first (%d, this is %d)", l.Rev, in.Rev)
	}
	return ""
}

// stale reports whether a request is older than what is on record.
func (l *letting) stale(in *command.RenewRequest) bool {
	return in.Rev < l.Rev || in.Rev == l.Rev && (in.Length != l.Length || in.Stop != l.Stop)
}

// renew grants a renewal of the lease of a machine that another host runs. What
// a run counts on later is durable before the source may count on the grant.
func (m *machine) renew(ctx context.Context, from string, in command.RenewRequest) (command.RenewResult, error) {
	if in.Length < 0 || in.Stop < 0 {
		return command.RenewResult{}, fault.Errorf(fault.Invalid, "machine %s: a lease of %s with a stop of %s", m.name, in.Length, in.Stop)
	}
	if in.Authority.Epoch != 0 {
		m.learn(ctx, in.Authority, from)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended() {
		return command.RenewResult{}, m.unassigned()
	}
	out := command.RenewResult{Authority: m.rec.inForce(), Why: m.mayRenew(&m.rec, from, &in)}
	if l := m.rec.Lets; l != nil && l.Epoch == m.rec.Authority.Epoch {
		out.Rev, out.Stale = l.Rev, l.stale(&in)
	}
	if out.Why != "" {
		return out, nil
	}
	if out.Rev < in.Rev {
		next := m.rec.clone()
		next.Lets = &letting{Source: from, Epoch: m.rec.Authority.Epoch, Rev: in.Rev, Length: in.Length, Stop: in.Stop}
		if err := next.write(m.a.o.FS, m.dir); err != nil {
			return command.RenewResult{}, err
		}
		m.rec, out.Rev = next, in.Rev
		crash.At("agent.lease.stored")
		m.log.Info("lease of the machine", logkit.KeyHost, from, "length", in.Length, logkit.KeyEpoch, uint64(next.Authority.Epoch))
	}
	m.granted, m.grantedOnce = clock.Mono(m.a.o.Clock), true
	out.Granted = true
	return out, nil
}

// closeLease ends the renewals for a run, or lets them go on. From its answer on
// nothing is granted, so that the time left can only shrink.
func (m *machine) closeLease(in command.LeaseRequest) (command.LeaseResult, error) {
	if in.Fence == 0 {
		return command.LeaseResult{}, fault.Errorf(fault.Invalid, "machine %s: only a run that has claimed it ends its lease", m.name)
	}
	err := m.updateIf(func(r *record) error {
		l := r.lets()
		closed := in.Run
		if in.Open {
			closed = ""
		}
		if l == nil || l.Closed == closed {
			return errHave
		}
		next := *l
		next.Closed = closed
		r.Lets = &next
		return nil
	})
	switch {
	case errors.Is(err, errHave):
	case err != nil:
		return command.LeaseResult{}, err
	default:
		crash.At("agent.lease.closed")
		m.log.Warn("renewals of the lease", "open", in.Open, logkit.KeyRun, in.Run)
	}
	rec := m.snapshot()
	return command.LeaseResult{Lease: m.letStatus(&rec)}, nil
}

// letStatus is the lease as the target knows it; nil: none.
func (m *machine) letStatus(rec *record) *command.LeaseStatus {
	l := rec.lets()
	if l == nil {
		return nil
	}
	m.mu.Lock()
	last := m.granted
	if !m.grantedOnce { // what an earlier agent granted, it did before this one began
		last = m.a.startedMono
	}
	m.mu.Unlock()
	age := max(0, clock.Mono(m.a.o.Clock)-last)
	st := &command.LeaseStatus{Source: l.Source, Target: m.a.host(), Epoch: l.Epoch, Length: l.Length, Closed: l.Closed,
		Age: age, Left: max(0, l.over()-age), Granted: l.Closed == "" && age < l.Length}
	switch {
	case l.Closed != "":
		st.Why = "run " + l.Closed + " takes the machine over"
	case !st.Granted:
		st.Why = fmt.Sprintf("host %s has not asked for %s", l.Source, quantity.FormatDuration(age))
	}
	return st
}
