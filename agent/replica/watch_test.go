package replica_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
)

// thins drops all that may go; it fails while the clock is in doubt.
func (w *world) thins(m *replica.Machine) (int, error) {
	return m.Thin(context.Background(), []recovery.Keep{{For: time.Minute}}, w.skew.Now())
}

// doubted checks that nothing is thinned, and that it is said why and what to do.
func (w *world) doubted(t *testing.T, m *replica.Machine, way string) {
	t.Helper()
	n, err := w.thins(m)
	if n != 0 || !errors.Is(err, replica.ErrClockJumped) || !fault.Is(err, fault.Refused) ||
		!strings.Contains(err.Error(), way) || !strings.Contains(fault.Hint(err), "drrun-agent confirm-clock") {
		t.Fatalf("thinned %d: %v (hint %q), want a refusal with %q", n, err, fault.Hint(err), way)
	}
}

// jumping is a replica with points to thin.
func jumping(t *testing.T) (*world, *replica.Machine) {
	t.Helper()
	w, m := setup(t)
	for range 4 {
		must(t, w.cycle(m))
		must(t, m.Apply(context.Background()))
		w.change()
	}
	return w, m
}

// TestClockThatJumps: forward or back, while the process runs or across its
// restart, in one step or several, and after further restarts: no point goes
// until a person has confirmed the clock, and then for good.
func TestClockThatJumps(t *testing.T) {
	t.Parallel()
	for name, steps := range map[string][]time.Duration{
		"forward": {3 * time.Hour}, "back": {-3 * time.Hour}, "forward in steps": {50 * time.Minute, 50 * time.Minute},
		"forward restart": {3 * time.Hour}, "back restart": {-3 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, m := jumping(t)
			for i, d := range steps {
				if i > 0 {
					_ = m.ClockDoubt(w.skew.Now()) // a look between two steps must not hide them
				}
				w.skew.Jump(d)
			}
			way, _, restart := strings.Cut(name, " ")
			if restart && strings.HasSuffix(name, "restart") {
				m = reopen(t, w, m)
			}
			w.doubted(t, m, way)
			w.now = w.now.Add(time.Minute)
			m = reopen(t, w, m)
			w.doubted(t, m, way) // it is durable
			must(t, m.ConfirmClock("ann"))
			m = reopen(t, w, m)
			if err := m.ClockDoubt(w.skew.Now()); err != nil {
				t.Errorf("confirmed, and in doubt after a restart: %v", err)
			}
			w.now = w.now.Add(4 * time.Hour) // no age is below zero
			if n, err := w.thins(m); n == 0 || err != nil {
				t.Fatalf("confirmed, thinned %d: %v", n, err)
			}
			b, err := os.ReadFile(filepath.Join(w.dir, "store", "erp", "replica.json"))
			must(t, err)
			if !strings.Contains(string(b), `"by":"ann"`) {
				t.Errorf("who confirmed is not recorded: %s", b)
			}
			must(t, w.check(m))
		})
	}
}

// TestClockThatStays: time that passes is no jump, and neither are small
// corrections, nor an hour in which the process did not run.
func TestClockThatStays(t *testing.T) {
	t.Parallel()
	w, m := jumping(t)
	w.now = w.now.AddDate(0, 0, 3)
	w.skew.Jump(-20 * time.Minute)
	if n, err := w.thins(m); n == 0 || err != nil {
		t.Fatalf("thinned %d: %v", n, err)
	}
	w.change()
	must(t, w.cycle(m))
	w.now = w.now.Add(55 * time.Minute)
	m = reopen(t, w, m)
	if _, err := w.thins(m); err != nil {
		t.Fatal(err)
	}
}

// TestPeersConfirmTheClock: who has another time does not, who has the same
// does; the sender of a point is such a peer.
func TestPeersConfirmTheClock(t *testing.T) {
	t.Parallel()
	w, m := jumping(t)
	w.skew.Jump(3 * time.Hour)
	w.doubted(t, m, "forward")
	m.ClockAgrees("par-1", w.now)
	w.doubted(t, m, "forward")
	must(t, w.cycle(m)) // its sender's clock is three hours behind
	w.doubted(t, m, "forward")
	m.ClockAgrees("par-1", w.skew.Now().Add(-10*time.Minute))
	if _, err := w.thins(m); err != nil {
		t.Fatal(err)
	}
	w.skew.Jump(-3 * time.Hour)
	w.doubted(t, m, "back")
	w.change()
	must(t, w.cycle(m))
	if _, err := w.thins(m); err != nil {
		t.Fatal(err)
	}
	must(t, w.check(m))
}

// TestLocksOutliveAJump: a clock that was set forward does not open a lock.
func TestLocksOutliveAJump(t *testing.T) {
	t.Parallel()
	w, m := setup(t)
	p, segs, err := w.cut(m)
	must(t, err)
	for _, s := range segs {
		must(t, send(m, s))
	}
	p.LockedUntil = w.now.AddDate(0, 0, 30)
	_, err = m.Accept(context.Background(), p, 0)
	must(t, err)
	w.skew.Jump(40 * 24 * time.Hour)
	if err := m.Remove(); !errors.Is(err, replica.ErrClockJumped) || !fault.Is(err, fault.Refused) {
		t.Fatalf("removed: %v", err)
	}
}

// TestAgeOfTheTip is what was the age at sending and the time since receipt,
// whatever the wall clocks of both hosts do.
func TestAgeOfTheTip(t *testing.T) {
	t.Parallel()
	for _, jump := range []time.Duration{5 * time.Hour, -5 * time.Hour} {
		w, m := setup(t)
		p, segs, err := w.cut(m)
		must(t, err)
		for _, s := range segs {
			must(t, send(m, s))
		}
		p.Instant = p.Instant.Add(-jump) // the sender's clock was set between
		_, err = m.Accept(context.Background(), p, 7*time.Second)
		must(t, err)
		w.skew.Jump(jump)
		w.now = w.now.Add(time.Minute)
		if _, age, _ := m.Tip(); age != time.Minute+7*time.Second {
			t.Errorf("the tip is %s old after a jump by %s", age, jump)
		}
	}
}
