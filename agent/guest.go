package agent

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drrun/drrun/agent/provider"
	"github.com/drrun/drrun/agent/source"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/internal/planted"
	"github.com/drrun/drrun/internal/recovery"
)

const (
	defaultFreezeMax = 10 * time.Second
	thawTimeout      = 30 * time.Second
)

// guest holds a machine still for its source. While it is held, the machine's
// power lock is taken: nothing starts or stops it.
type guest struct{ m *machine }

// Freeze implements source.Guest.
func (g guest) Freeze(ctx context.Context, app bool) (source.Frozen, error) {
	m := g.m
	release, err := m.power.take(ctx)
	if err != nil {
		return source.Frozen{}, err
	}
	if err := m.lookFor(ctx); err != nil {
		release()
		return source.Frozen{}, err
	}
	rec := m.snapshot()
	switch st := m.state(ctx); st.Power {
	case recovery.PowerStopped:
		if err := m.still(&rec); err != nil {
			release()
			return source.Frozen{}, err
		}
		kind := recovery.Crash
		if rec.Clean {
			kind = recovery.App
		}
		return source.Frozen{Kind: kind, Thaw: func(context.Context) (bool, error) { release(); return true, nil }}, nil
	case recovery.PowerUnknown:
		release()
		return source.Frozen{}, fault.Errorf(fault.Refused, "it is not known whether machine %s runs: it cannot be held still: %s", m.name, st.Why)
	}
	if planted.Is(planted.NotFrozen) {
		return source.Frozen{Kind: recovery.Crash, Thaw: func(context.Context) (bool, error) { release(); return true, nil }}, nil
	}
	f, err := m.freeze(ctx, &rec, app)
	if err == nil {
		return source.Frozen{Kind: f.kind, Thaw: func(ctx context.Context) (bool, error) { defer release(); return f.thaw(ctx) }}, nil
	}
	release()
	if rec.Assignment.Policy.Consistency == recovery.Fuzzy {
		return source.Frozen{Kind: recovery.Fuzzy, Thaw: func(context.Context) (bool, error) { return true, nil }}, nil
	}
	return source.Frozen{}, err
}

// still refuses a stopped machine whose disks somebody else writes: started by
// hand, it is not stopped, and what is read of it is of no one instant.
func (m *machine) still(rec *record) error {
	if m.a.o.Embedded {
		return nil
	}
	paths, err := m.diskPaths(&rec.Assignment)
	if err != nil {
		return err
	}
	writers, err := provider.Writers(slices.Collect(maps.Values(paths)))
	if err != nil {
		return err
	}
	if len(writers) > 0 {
		return fault.Errorf(fault.Refused, "machine %s is not run by this agent, yet %s", m.name, strings.Join(writers, "; ")).
			WithHint("stop it; the agent starts the machine with the commands of its exec provider")
	}
	return nil
}

// frozen is a machine held still by us.
type frozen struct {
	m     *machine
	kind  recovery.Consistency
	app   bool
	timer *time.Timer
	mu    sync.Mutex
	over  bool // thawed, by whomever
}

// freeze marks the freeze durably, then freezes. The machine is thawed after
// freeze_max whatever its caller does, and by the next agent if this one dies.
func (m *machine) freeze(ctx context.Context, rec *record, app bool) (*frozen, error) {
	limit := defaultFreezeMax
	if e := rec.Assignment.Exec; e != nil && e.FreezeMax > 0 {
		limit = e.FreezeMax
	}
	if err := m.update(func(r *record) { r.Frozen = &freezeMark{App: app} }); err != nil {
		return nil, err
	}
	begin := time.Now()
	within, cancel := context.WithTimeoutCause(ctx, limit, fault.Errorf(fault.Failed, "it took longer than freeze_max (%s)", limit))
	defer cancel()
	kind, err := m.provider().Freeze(within, m.process(rec), app)
	if err != nil {
		defer m.nudge() // the loop sees to a thaw that failed
		return nil, errors.Join(err, m.thaw(ctx, app))
	}
	f := &frozen{m: m, kind: kind, app: app}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.timer = time.AfterFunc(limit-time.Since(begin), func() {
		if held, err := f.thaw(context.WithoutCancel(ctx)); held || err != nil {
			m.log.Warn("machine was held still for freeze_max and is let go", "freeze_max", limit, logkit.KeyError, err)
		}
	})
	return f, nil
}

// thaw lets the machine go on, once. held is false if it had been let go
// before: what was read meanwhile may be of several instants.
func (f *frozen) thaw(ctx context.Context) (held bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return false, nil
	}
	f.over = true
	f.timer.Stop()
	if err = f.m.thaw(ctx, f.app); err != nil {
		f.m.nudge() // the loop tries again
	}
	return true, err
}

// thaw lets the machine go on and clears the mark. Where it fails the mark
// stays, and the loop tries again until the machine is let go.
func (m *machine) thaw(ctx context.Context, app bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawTimeout)
	defer cancel()
	rec := m.snapshot()
	err := m.provider().Thaw(ctx, m.process(&rec), app)
	if err != nil && m.state(ctx).Power == recovery.PowerStopped {
		m.log.Warn("machine ended while it was held still", logkit.KeyError, err)
		err = nil
	}
	if err == nil {
		err = m.update(func(r *record) { r.Frozen = nil })
	}
	m.note(func(m *machine) { m.thawErr = err })
	return err
}

// letGo thaws a machine that an agent that died, or a thaw that failed, left
// held still.
func (m *machine) letGo(ctx context.Context) error {
	release, err := m.power.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	mark := m.snapshot().Frozen
	if mark == nil || planted.Is(planted.NotThawed) {
		return nil
	}
	m.log.Warn("the machine was left held still, it is let go")
	return m.thaw(ctx, mark.App)
}
