package agent

import (
	"context"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/logkit"
)

// permitted reports whether an operator permitted this epoch since the agent
// was started.
func (r *record) permitted(since time.Time) bool {
	for _, p := range r.Permits {
		if p.Epoch == r.Authority.Epoch && !p.At.Before(since) {
			return true
		}
	}
	return false
}

// Permit records an operator's word that the machine may start although no
// peer answers, and starts it.
func (a *Agent) Permit(ctx context.Context, machine, by string) (command.StartResult, error) {
	return a.permit(ctx, machine, by, false)
}

// PermitWithoutLease is Permit for a machine whose lease is not renewed: it runs
// on without it until it is, under this record and this boot of the host. Whoever
// permits it answers for it that no run takes it over from the target meanwhile:
// such a run waits for the end of the lease and asks nobody.
func (a *Agent) PermitWithoutLease(ctx context.Context, machine, by string) (command.StartResult, error) {
	return a.permit(ctx, machine, by, true)
}

func (a *Agent) permit(ctx context.Context, machine, by string, noLease bool) (command.StartResult, error) {
	m, err := a.machine(machine)
	if err != nil {
		return command.StartResult{}, err
	}
	rec := m.snapshot()
	if rec.Assignment.Policy.StartAlone == "never" {
		return command.StartResult{}, fault.Errorf(fault.Refused, "the policy of machine %s never lets it start without its peer", machine).
			WithHint(`bring the peer back, or apply start_alone = "ask"`)
	}
	if err := m.mayStart(&rec); err != nil {
		return command.StartResult{}, err
	}
	if v := m.askPeers(ctx); v.newer != "" {
		m.learn(ctx, v.record, v.newer)
		return command.StartResult{}, fault.Errorf(fault.Refused, "machine %s is not started: host %s holds %s", machine, v.newer, describe(v.record))
	}
	m.tryLease(ctx)
	rec = m.snapshot()
	lease := m.leaseAllows(&rec)
	if lease != nil && !noLease {
		return command.StartResult{}, fault.Errorf(fault.Refused, "%w", lease).WithHint("%s", fault.Hint(lease))
	}
	err = m.update(func(r *record) {
		now := a.o.Clock.Now().UTC()
		r.Permits = append(r.Permits, permit{By: by, At: now, Epoch: r.Authority.Epoch, WithoutLease: lease != nil})
		r.Permits = r.Permits[max(0, len(r.Permits)-maxPermits):]
		if lease != nil {
			r.Without = &withoutLease{Epoch: r.Authority.Epoch, Boot: a.boot(), By: by, At: now}
		}
	})
	if err == nil && lease != nil {
		err = m.setLease(func(f *leaseFile) {
			if f.Length == 0 { // lost, or of another boot: it has ended
				*f = leaseFile{Boot: a.boot(), Epoch: rec.Obeys.Epoch, Rev: rec.Obeys.Rev, Sent: clock.Boot(a.o.Clock) - rec.Obeys.Length, Length: rec.Obeys.Length}
			}
			f.Free = true
		})
	}
	if err != nil {
		return command.StartResult{}, err
	}
	m.log.Warn("an operator permitted the machine to start without its peer", "by", by, logkit.KeyEpoch, uint64(rec.Authority.Epoch))
	return m.start(ctx, rec.Authority.Run)
}
