package clock

import (
	"sync"
	"time"
)

// start is where Mono counts from: any time of this process will do.
var start = time.Now()

// Monotonic is a Clock with a monotonic side of its own.
type Monotonic interface {
	Clock
	// Mono returns the time since an instant of this process that never
	// changes, whatever is done to the wall clock.
	Mono() time.Duration
}

// Mono reads the monotonic side of a clock. Ages and intervals are differences
// of it, of one process and one clock; they must not be made from Now once a
// time may have lost its monotonic reading (by Round, UTC or a record).
func Mono(c Clock) time.Duration {
	if m, ok := c.(Monotonic); ok {
		return m.Mono()
	}
	return c.Now().Sub(start)
}

// Skewed is a clock whose wall clock can be set while its monotonic one goes
// on, as a person or a time daemon sets it. For tests and simulations. Safe for
// concurrent use.
type Skewed struct {
	base  Clock
	mu    sync.Mutex
	ahead time.Duration
	slept time.Duration
}

var (
	_ Monotonic = (*Skewed)(nil)
	_ Booted    = (*Skewed)(nil)
)

// NewSkewed returns a clock that shows what base does until it is set.
func NewSkewed(base Clock) *Skewed { return &Skewed{base: base} }

// Jump sets the wall clock forward, or back, by d.
func (s *Skewed) Jump(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ahead += d
}

// Now implements Clock. The time has no monotonic reading, so that whoever
// makes an age of two of them sees the jumps between them.
func (s *Skewed) Now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.base.Now().Round(0).Add(s.ahead)
}

// Mono implements Monotonic.
func (s *Skewed) Mono() time.Duration { return Mono(s.base) }
