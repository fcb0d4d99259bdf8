package replica_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

// TestAllAtOnce: receiving goes on while everything else is asked for.
func TestAllAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(tempDir(t), 55, "system", "data")
	m := open(t, w)
	m.SetElapsed(func() time.Duration { return 0 })
	ctx, stop := context.WithCancel(context.Background())
	must(t, w.cycle(m))
	var wg sync.WaitGroup
	loop := func(name string, fn func() error) {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := fn(); err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, replica.ErrPreempted) {
					t.Errorf("%s: %v", name, err)
					return
				}
			}
		})
	}
	loop("apply", func() error { return m.Apply(ctx) })
	loop("thin", func() error {
		if err := m.ConfirmClock("ann"); err != nil {
			return err
		}
		_, err := m.Thin(ctx, []recovery.Keep{{For: 40 * time.Minute}}, m.Points()[0].Received.Add(time.Hour))
		return err
	})
	loop("verify", func() error {
		res, err := m.Verify(ctx, ident.PointID{}, nil)
		if len(res.Faults) > 0 {
			t.Errorf("faults %q", res.Faults)
		}
		return err
	})
	loop("test", func() error {
		tip, _, _ := m.Tip()
		_, err := m.PrepareTest(ctx, "t", tip.ID, nil)
		return errors.Join(err, m.CleanupTest("t"))
	})
	loop("hold", func() error { return errors.Join(m.SetHold(true), m.SetHold(false)) })
	loop("look", func() error {
		_, _, _ = m.Tip()
		_ = m.Staged()
		if len(m.Points()) == 0 {
			return errors.New("no points")
		}
		_, err := m.Ranges("data", 0, 1)
		return err
	})
	for range 25 {
		w.change()
		must(t, w.cycle(m))
	}
	stop()
	wg.Wait()
	must(t, m.Apply(context.Background()))
	must(t, w.check(m))
}
