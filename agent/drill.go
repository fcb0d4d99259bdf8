package agent

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/internal/planted"
	"github.com/drrun/drrun/internal/recovery"
)

// prepareTest makes the throw-away view of a test. It goes on beside
// replication and never changes the replica. When the test has to end is
// durable before its first file is.
func (m *machine) prepareTest(ctx context.Context, in command.PrepareRequest) (command.PrepareResult, error) {
	rep, err := m.needReplica()
	if err != nil {
		return command.PrepareResult{}, err
	}
	err = m.update(func(r *record) {
		if r.Tests == nil {
			r.Tests = map[string]testRecord{}
		}
		t := r.Tests[in.Test]
		t.Point, t.Run = in.Point, in.Run
		if in.TTL > 0 && t.Deadline.IsZero() { // asked again, it stands no longer
			t.Deadline = m.a.o.Clock.Now().Add(in.TTL).UTC()
		}
		r.Tests[in.Test] = t
	})
	if err != nil {
		return command.PrepareResult{}, err
	}
	select {
	case m.test <- struct{}{}:
	default:
	}
	progress, done := m.busy("prepare", needed(rep, in))
	defer done()
	res, err := rep.PrepareTest(ctx, in.Test, in.Point, progress)
	if err != nil {
		return command.PrepareResult{}, err
	}
	if planted.Is(planted.TestOnHead) {
		if res.Paths, err = m.diskPaths(m.assignment()); err != nil {
			return command.PrepareResult{}, err
		}
	}
	err = m.updateIf(func(r *record) error {
		t, stands := r.Tests[in.Test]
		if !stands {
			return fault.Errorf(fault.Stopped, "test %s of machine %s was cleaned up while it was prepared", in.Test, m.name)
		}
		t.Paths = res.Paths
		r.Tests[in.Test] = t
		return nil
	})
	if fault.Is(err, fault.Stopped) {
		return command.PrepareResult{}, withCleanup(err, rep.CleanupTest(in.Test))
	}
	return command.PrepareResult{Paths: res.Paths, Mode: res.Mode, Bytes: res.Bytes, Took: res.Took}, err
}

// withCleanup adds to an error that the cleanup after it failed, too.
func withCleanup(err, cleanup error) error {
	if cleanup == nil {
		return err
	}
	return fault.Errorf(fault.KindOf(cleanup), "%w; its view stays: %w", err, cleanup)
}

// cleanup ends a test. Idempotent.
func (m *machine) cleanup(ctx context.Context, test string) error {
	if err := m.stopTest(ctx, test); err != nil {
		return err
	}
	rep := m.replica()
	if _, stands := m.snapshot().Tests[test]; stands && rep == nil {
		if err := m.roleProblem(); err != nil { // the view is there still
			return fault.Errorf(fault.Refused, "the view of test %s cannot be removed yet: %w", test, err)
		}
	}
	if rep != nil {
		if err := rep.CleanupTest(test); err != nil {
			return err
		}
	}
	return m.update(func(r *record) { delete(r.Tests, test) })
}

// watchTests ends the tests whose time is over, whether a runtime is alive or
// not.
func (m *machine) watchTests(ctx context.Context) {
	for ctx.Err() == nil {
		t := time.NewTimer(m.endTests(ctx))
		select {
		case <-t.C:
		case <-m.test:
		case <-m.gone:
			t.Stop()
			return
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// endTests cleans up the tests whose time is over and returns when to look
// again.
func (m *machine) endTests(ctx context.Context) time.Duration {
	wait := idleWait
	for id, t := range m.snapshot().Tests {
		if t.Deadline.IsZero() {
			continue
		}
		left := t.Deadline.Sub(m.a.o.Clock.Now())
		if left > 0 {
			wait = min(wait, left)
			continue
		}
		if err := m.cleanup(ctx, id); err != nil {
			if ctx.Err() == nil && !m.ended() {
				m.log.Error("test whose time is over is not cleaned up", "test", id, logkit.KeyError, err, "hint", fault.Hint(err))
			}
			wait = min(wait, jitter(10*retryFirst))
			continue
		}
		m.log.Info("test is cleaned up, its time is over", "test", id, logkit.KeyRun, t.Run)
	}
	return wait
}

// testsInfo says what is known of the tests that stand here, in order of their
// ids.
func (m *machine) testsInfo(ctx context.Context, rec *record) []command.TestInfo {
	infos := make([]command.TestInfo, 0, len(rec.Tests))
	for _, id := range slices.Sorted(maps.Keys(rec.Tests)) {
		t := rec.Tests[id]
		info := command.TestInfo{ID: id, Run: t.Run, Point: t.Point, Deadline: t.Deadline, Power: recovery.PowerStopped}
		switch {
		case t.Process != nil:
			info.Power = m.provider().Status(ctx, *t.Process).Power
		case t.Launch != nil:
			info.Power = recovery.PowerUnknown
		}
		infos = append(infos, info)
	}
	return infos
}
