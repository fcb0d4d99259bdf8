package clock

import "time"

// Booted is a Clock that knows how long the host has been up.
type Booted interface {
	Clock
	// Boot returns the time since the host's start, also while it was suspended.
	Boot() time.Duration
}

// Boot reads the time since the host's start: it goes on while the host is
// suspended, as Mono does not, and is the same for every process of one boot.
// It is for promises about what another host counts on meanwhile. A clock that
// knows no boot goes by its monotonic side.
func Boot(c Clock) time.Duration {
	if b, ok := c.(Booted); ok {
		return b.Boot()
	}
	return Mono(c)
}

// Boot implements Booted.
func (Real) Boot() time.Duration { return sinceBoot() }

// Suspend lets the host of this clock sleep for d: neither its timers nor Mono
// see it.
func (s *Skewed) Suspend(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slept += d
}

// Boot implements Booted.
func (s *Skewed) Boot() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Mono() + s.slept
}
