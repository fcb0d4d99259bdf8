package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/drrun/drrun/agent"
	"github.com/drrun/drrun/internal/fault"
)

func TestOperationRunsOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var runs atomic.Int32
	release := make(chan struct{})
	f := func(context.Context) (string, error) {
		<-release
		return fmt.Sprint("run ", runs.Add(1)), nil
	}
	ops := agent.NewOps(dir, t.Context())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if got, err := ops.Once(t.Context(), "r/1", "start", true, f); got != "run 1" || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	close(release)
	wg.Wait()
	got, err := agent.NewOps(dir, t.Context()).Once(t.Context(), "r/1", "start", true, f) // another agent
	if got != "run 1" || err != nil {
		t.Errorf("after a restart: %q, %v", got, err)
	}
	if got, err := ops.Once(t.Context(), "", "start", true, f); got != "run 2" || err != nil {
		t.Errorf("without an id: %q, %v", got, err)
	}
}

func TestOperationKeepsItsFault(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fail := func(context.Context) (string, error) {
		return "", fmt.Errorf("cannot stop: %w", fault.Errorf(fault.Refused, "it is locked").WithHint("unlock it"))
	}
	for range 2 {
		_, err := agent.NewOps(dir, t.Context()).Once(t.Context(), "r/1", "stop", true, fail)
		if !fault.Is(err, fault.Refused) || err.Error() != "cannot stop: it is locked" || fault.Hint(err) != "unlock it" {
			t.Errorf("fault is %v, hint %q", err, fault.Hint(err))
		}
		fail = func(context.Context) (string, error) { return "", errors.New("ran again") }
	}
}

func TestOperationCutShort(t *testing.T) {
	t.Parallel()
	for _, idempotent := range []bool{true, false} {
		dir := t.TempDir()
		life, die := context.WithCancel(t.Context())
		_, err := agent.NewOps(dir, life).Once(t.Context(), "r/1", "exec", idempotent, func(ctx context.Context) (string, error) {
			die() // the agent ends in the middle
			return "", context.Cause(ctx)
		})
		if err == nil {
			t.Error("an operation that was cut short has a result")
		}
		got, err := agent.NewOps(dir, t.Context()).Once(t.Context(), "r/1", "exec", idempotent, func(context.Context) (string, error) { return "again", nil })
		if idempotent && (got != "again" || err != nil) {
			t.Errorf("idempotent: %q, %v", got, err)
		}
		if !idempotent && !fault.Is(err, fault.Unknown) {
			t.Errorf("not idempotent: %q, %v", got, err)
		}
	}
}

func TestOperationGoesOnWithoutItsCaller(t *testing.T) {
	t.Parallel()
	ops := agent.NewOps(t.TempDir(), t.Context())
	release, started := make(chan struct{}), make(chan struct{})
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := ops.Once(ctx, "r/1", "prepare", true, func(ctx context.Context) (string, error) {
			close(started)
			<-release
			return "done", ctx.Err()
		})
		left <- err
	}()
	<-started
	leave()
	if err := <-left; !fault.Is(err, fault.Unreachable) {
		t.Errorf("the caller that left got %v", err)
	}
	close(release)
	got, err := ops.Once(t.Context(), "r/1", "prepare", true, func(context.Context) (string, error) { return "second", nil })
	if got != "done" || err != nil {
		t.Errorf("asked again: %q, %v", got, err)
	}
}

func TestOperationsAreBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i := range agent.MaxOps { // as many as may be there
		must(t, os.WriteFile(fmt.Sprintf("%s/%032x.json", dir, i), []byte(`{"version":1}`), 0o600))
	}
	ops := agent.NewOps(dir, t.Context())
	for i := range 3 {
		if _, err := ops.Once(t.Context(), fmt.Sprint("r/", i), "stop", true, func(context.Context) (string, error) { return "", nil }); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > agent.MaxOps || len(entries) < agent.MaxOps/2 {
		t.Errorf("%d operations are kept (%v), the limit is %d", len(entries), err, agent.MaxOps)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"assignment":{"version":1,"machine":"erp","hosts":[{"name":"a","site":"b"}],"disks":[{"name":"d","id":"00000000000000000000000000000001"}]}}`))
	f.Add([]byte(`{"version":1,"assignment":{"machine":"../erp"}}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := agent.DecodeRecord(b); err != nil && fault.KindOf(err) != fault.Corrupt && fault.KindOf(err) != fault.Refused && fault.KindOf(err) != fault.Invalid {
			t.Errorf("kind is %s: %v", fault.KindOf(err), err)
		}
	})
}

func FuzzDecodeOperation(f *testing.F) {
	f.Add([]byte(`{"version":1,"op":"a/b/1","verb":"stop","done":true,"result":{}}`))
	f.Add([]byte(`{"version":1,"done":true}`))
	f.Fuzz(func(_ *testing.T, b []byte) { _ = agent.DecodeOperation(b) })
}

func FuzzDecodeLeft(f *testing.F) {
	f.Add([]byte(`{"version":1,"must":[],"process":{"pid":5}}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := agent.DecodeLeft(b); err != nil && fault.KindOf(err) != fault.Corrupt && fault.KindOf(err) != fault.Refused {
			t.Errorf("kind is %s: %v", fault.KindOf(err), err)
		}
	})
}
