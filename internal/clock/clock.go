// Package clock is the one place that reads the wall clock, so that records
// get their times from a clock that tests and the simulator can set. Timers
// use package time (tests run them in testing/synctest bubbles).
package clock

import "time"

// Clock tells the time. Safe for concurrent use.
type Clock interface {
	// Now returns the time with its monotonic reading; UTC is applied where
	// it goes into a record.
	Now() time.Time
}

// Real is the machine's clock.
type Real struct{}

// Now implements Clock.
func (Real) Now() time.Time { return time.Now() }

// Func adapts a function to Clock.
type Func func() time.Time

// Now implements Clock.
func (f Func) Now() time.Time { return f() }
