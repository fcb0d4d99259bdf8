package source

import (
	"errors"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs/faultfs"
)

// TestEveryOperationFailsOnce lets one change of the source's files fail, by a
// full disk or a bad one, before or after it took effect, in the life of a
// source that goes on: it makes its points, a full disk is called one, and the
// end is what it would have been.
func TestEveryOperationFailsOnce(t *testing.T) {
	t.Parallel()
	for _, rule := range []faultfs.Rule{{Err: syscall.EIO, Short: true}, {Err: syscall.ENOSPC, Short: true}, {Err: syscall.EIO, Late: true}} {
		last := failedAt(t, rule, 0)
		if last < 50 {
			t.Fatalf("a life has only %d changes", last)
		}
		for n := 1; n <= last; n += 11 {
			failedAt(t, rule, n)
		}
	}
}

// failedAt lives with the nth change failing and returns how many there were.
func failedAt(t *testing.T, rule faultfs.Rule, n int) int {
	t.Helper()
	r := newRig(t)
	r.disksOfLife()
	f := faultfs.Over(r.cfg.FS)
	var changes atomic.Int64 // what is sent is folded beside what is spooled
	f.SetHook(func(op faultfs.Op, path string) error {
		if op.Changes() {
			changes.Add(1)
		}
		return nil
	})
	if rule.Nth = n; n > 0 {
		f.Fail(rule)
	}
	r.cfg.FS = f
	failed := func(err error) bool {
		if err == nil {
			return false
		}
		if !errors.Is(err, rule.Err) {
			t.Fatalf("change %d failed once (%s): %v", n, f.Failed(), err)
		}
		if rule.Err == syscall.ENOSPC && r.m != nil && !fault.Is(err, fault.NoSpace) {
			t.Errorf("change %d (%s): a full disk is no %v", n, f.Failed(), err)
		}
		return true
	}
	m, err := open(r.cfg, r.limits)
	if failed(err) {
		m, err = open(r.cfg, r.limits)
	}
	if err != nil {
		t.Fatalf("change %d failed once (%s): %v", n, f.Failed(), err)
	}
	r.m = m
	for range 2 {
		if _, err := m.Cycle(t.Context(), CycleOptions{Authority: auth(1)}); failed(err) {
			if _, err := m.Cycle(t.Context(), CycleOptions{Authority: auth(1)}); err != nil {
				t.Fatalf("change %d failed once (%s), and the next cycle: %v", n, f.Failed(), err)
			}
		}
		r.change()
	}
	count := int(changes.Load())
	if n > 0 && n <= count && f.Failed() == "" {
		t.Fatalf("change %d of %d did not fail", n, count)
	}
	f.Mend()
	r.cycle()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	r.open() // what is on disk is what memory had
	r.cycle()
	return count
}
