package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/drrun/drrun/internal/crash"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

func (m *Machine) viewDir(disk, test string) string  { return m.dir(disk, "views", test) }
func (m *Machine) viewPath(disk, test string) string { return m.dir(disk, "views", test, "disk.img") }

// PrepareTest makes a throw-away view of a point for a test. Heads, points and
// replication are not touched; the point is pinned until CleanupTest.
// Idempotent for a test id and point. A real Prepare ends it.
func (m *Machine) PrepareTest(ctx context.Context, test string, point ident.PointID, progress func(done int64)) (_ PrepareResult, err error) {
	defer m.fullDisk(&err)
	if err := checkTest(test); err != nil {
		return PrepareResult{}, err
	}
	began := m.cfg.Clock.Now()
	ctx, done, err := m.work.take(ctx, yielding)
	if err != nil {
		return PrepareResult{}, err
	}
	defer done()
	if err := m.settle(ctx); err != nil {
		return PrepareResult{}, err
	}
	p, err := m.point(point)
	if err != nil {
		return PrepareResult{}, err
	}
	if err := m.readable(p); err != nil {
		return PrepareResult{}, err
	}
	if v, ok := m.snapshot().Tests[test]; ok {
		if v.Point != point {
			return PrepareResult{}, fault.Errorf(fault.Conflict, "test %s stands on point %s", test, v.Point)
		}
		if v.Phase == phaseReady {
			return m.viewResult(test, p, v), nil
		}
		if err := m.dropView(test); err != nil {
			return PrepareResult{}, err
		}
	}
	if err := m.checkPrepareRoom(p, true); err != nil {
		return PrepareResult{}, err
	}
	v := testView{Point: point, Phase: phaseCopy}
	if err := m.recordView(test, v); err != nil {
		return PrepareResult{}, err
	}
	count := counter(progress)
	for _, d := range p.Disks {
		mode, n, err := m.materialise(ctx, p, d.Name, m.viewPath(d.Name, test), count)
		if err != nil {
			return PrepareResult{}, errors.Join(fmt.Errorf("cannot prepare test %s: %w", test, err), m.dropView(test))
		}
		v.Mode = mode
		v.Bytes += n
	}
	crash.At("replica.test.copied")
	v.Phase, v.Took = phaseReady, m.cfg.Clock.Now().Sub(began)
	if err := m.recordView(test, v); err != nil {
		return PrepareResult{}, err
	}
	return m.viewResult(test, p, v), nil
}

func (m *Machine) recordView(test string, v testView) error {
	return m.record(func(s *state) { s.Tests[test] = v })
}

func (m *Machine) viewResult(test string, p recovery.Point, v testView) PrepareResult {
	r := PrepareResult{Paths: map[string]string{}, Mode: v.Mode, Bytes: v.Bytes, Took: v.Took}
	for _, d := range p.Disks {
		r.Paths[d.Name] = m.viewPath(d.Name, test)
	}
	return r
}

// dropView removes the files of a test, then its record.
func (m *Machine) dropView(test string) error {
	for _, d := range m.names {
		if err := m.fs.RemoveAll(m.viewDir(d, test)); err != nil {
			return fmt.Errorf("cannot remove the view of test %s: %w", test, err)
		}
	}
	return m.record(func(s *state) { delete(s.Tests, test) })
}

// CleanupTest removes the view of a test and releases its point. Nothing may
// run on it any more. Idempotent.
func (m *Machine) CleanupTest(test string) (err error) {
	defer m.fullDisk(&err)
	if err := checkTest(test); err != nil {
		return err
	}
	m.mu.RLock()
	v, ok := m.st.Tests[test]
	m.mu.RUnlock()
	if !ok {
		return nil
	}
	_, done, err := m.work.take(context.Background(), normal)
	if err != nil {
		return err
	}
	defer done()
	v.Phase = phaseDrop
	if err := m.recordView(test, v); err != nil {
		return err
	}
	crash.At("replica.test.dropping")
	return m.dropView(test)
}

// Tests returns the tests that stand here, with their points.
func (m *Machine) Tests() map[string]ident.PointID {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := map[string]ident.PointID{}
	for t, v := range m.st.Tests {
		if v.Phase == phaseReady {
			out[t] = v.Point
		}
	}
	return out
}

// finishTests removes views that are not whole or are being removed, and
// folders of views that nothing names.
func (m *Machine) finishTests() error {
	for t, v := range m.snapshot().Tests {
		if v.Phase != phaseReady {
			if err := m.dropView(t); err != nil {
				return err
			}
		}
	}
	known := m.Tests()
	for _, d := range m.names {
		names, err := m.list(m.dir(d, "views"))
		if err != nil {
			return err
		}
		for _, n := range slices.DeleteFunc(names, func(n string) bool { _, ok := known[n]; return ok }) {
			if err := m.fs.RemoveAll(m.viewDir(d, n)); err != nil {
				return err
			}
		}
	}
	return nil
}
