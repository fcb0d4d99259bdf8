package clock

import (
	"sync"
	"time"
)

// Drift is how far two clocks may run apart, of the time that passes: more than
// two bad quartzes do, and as much as a time daemon slews.
const Drift = 500e-6

// Reading says what another clock showed when this one's monotonic side read
// Mono; the other one's time is right within Error.
type Reading struct {
	Mono  time.Duration `json:"mono"`
	Time  time.Time     `json:"time"`
	Error time.Duration `json:"error"`
}

// Halve is the reading of a clock that was asked at sent and had answered at
// got, on the asker's monotonic clock: it showed theirs somewhere between, so
// half of the way there and back bounds the error.
func Halve(sent, got time.Duration, theirs time.Time) Reading {
	half := (got - sent) / 2
	return Reading{Mono: sent + half, Time: theirs, Error: max(half, time.Microsecond)}
}

// at is the reading brought to another time: its error has grown.
func (r Reading) at(mono time.Duration) Reading {
	past := mono - r.Mono
	return Reading{Mono: mono, Time: r.Time.Add(past), Error: r.Error + time.Duration(float64(past.Abs())*Drift)}
}

// Offset is how far one clock was ahead of another. Error bounds how wrong that
// is, 0: nothing is known; Age is that of the reading it was made from; Of names
// whose the other clock is, empty: the controller's.
type Offset struct {
	Ahead, Error, Age time.Duration
	Of                string
}

// Other is what is known of another clock: the best of the readings, which is
// the one with the smallest error now. The zero value knows nothing. Safe for
// concurrent use.
type Other struct {
	mu    sync.Mutex
	best  Reading
	known bool
}

// Add takes a reading in at mono. One that cannot be true together with the
// kept one takes its place: the other clock was set.
func (o *Other) Add(r Reading, mono time.Duration) {
	r.Time = r.Time.Round(0)
	o.mu.Lock()
	defer o.mu.Unlock()
	have, next := o.best.at(mono), r.at(mono)
	if apart := next.Time.Sub(have.Time).Abs(); !o.known || next.Error <= have.Error || apart > next.Error+have.Error {
		o.best, o.known = r, true
	}
}

// At returns what the other clock shows at mono, and how old the reading is
// that says so; false: nothing is known.
func (o *Other) At(mono time.Duration) (r Reading, age time.Duration, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.best.at(mono), mono - o.best.Mono, o.known
}
