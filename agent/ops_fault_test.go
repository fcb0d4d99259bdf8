package agent_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/drrun/drrun/agent"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs/faultfs"
)

// TestOperationsOnABadDisk lets each change of the store of operations fail
// once, before or after it took effect, or ends the process or the power there.
// What was answered as done is answered so for ever; what may not be repeated
// runs once, or its outcome is called unknown.
func TestOperationsOnABadDisk(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"eio", "enospc", "late", "kill", "power"} {
		for _, again := range []bool{true, false} {
			for n := 1; ; n++ {
				if badOperation(t, how, again, n) {
					break
				}
			}
		}
	}
}

// badOperation does two operations with the nth change failing, and asks for
// the first again until it is answered; it reports whether there were fewer
// changes.
func badOperation(t *testing.T, how string, again bool, n int) (beyond bool) {
	t.Helper()
	disk := faultfs.New()
	f := faultfs.Over(disk)
	rule := faultfs.Rule{Nth: n, Short: true}
	switch how {
	case "enospc":
		rule.Err = syscall.ENOSPC
	case "late":
		rule.Late = true
	}
	if how == "kill" || how == "power" {
		f.KillAt(n)
	} else {
		f.Fail(rule)
	}
	runs := map[string]int{}
	do := func(ops agent.Ops, id string) (string, error) {
		return ops.Once(t.Context(), id, "start", again, func(context.Context) (string, error) {
			runs[id]++
			return fmt.Sprint(id, " ran"), nil
		})
	}
	answered := map[string]bool{}
	ops := agent.NewOpsOn(f, "/ops", t.Context())
	for _, id := range []string{"r/1", "r/2"} {
		if got, err := do(ops, id); err == nil && got == id+" ran" {
			answered[id] = true
		}
	}
	beyond = f.Changes() < n
	switch how {
	case "power":
		disk = disk.Cut(rand.New(rand.NewPCG(uint64(n), 1)))
		fallthrough
	case "kill":
		f = faultfs.Over(disk)
		ops = agent.NewOpsOn(f, "/ops", t.Context())
	}
	for _, id := range []string{"r/1", "r/2"} {
		before := runs[id]
		got, err := do(ops, id)
		where := fmt.Sprintf("%s at change %d (again %v), operation %s", how, n, again, id)
		switch {
		case answered[id] && (err != nil || runs[id] != before):
			t.Fatalf("%s: it was answered, and then: %q, %v, ran %d times", where, got, err, runs[id])
		case !again && runs[id] > 1:
			t.Fatalf("%s: it ran %d times", where, runs[id])
		case again && err != nil:
			t.Fatalf("%s: %v", where, err)
		case err != nil && !fault.Is(err, fault.Unknown):
			t.Fatalf("%s: %v", where, err)
		case err == nil && runs[id] == 0:
			t.Fatalf("%s: it is answered and never ran: %q", where, got)
		}
	}
	if beyond && !(answered["r/1"] && answered["r/2"]) {
		t.Fatalf("%s: nothing failed, and it was not answered: %v", how, errors.New(f.Failed()))
	}
	return beyond
}
