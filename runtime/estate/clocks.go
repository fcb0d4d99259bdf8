package estate

import (
	"context"
	"sync"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/command"
)

// A host's clock is asked for this often at a time, and no sooner again.
const (
	clockSamples = 3
	clockEvery   = time.Minute
)

// measured is when hosts were told the controller's time, on the monotonic
// clock.
type measured struct {
	mu sync.Mutex
	at map[string]time.Duration
}

func (m *measured) due(host string, now time.Duration) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if last, was := m.at[host]; was && now-last < clockEvery {
		return false
	}
	if m.at == nil {
		m.at = map[string]time.Duration{}
	}
	m.at[host] = now
	return true
}

// MeasureClocks compares the controller's clock with those of all hosts that
// have joined, each about once a minute. A host that does not answer is asked
// again later.
func (c *Catalogue) MeasureClocks(ctx context.Context) error {
	e, _, err := c.AppliedEstate(ctx)
	if err != nil || e == nil {
		return err
	}
	var wg sync.WaitGroup
	for _, h := range e.Hosts() {
		if rec, err := c.Host(ctx, h.Name); err == nil && !rec.Joined.IsZero() {
			wg.Go(func() { c.measureClock(ctx, h.Name) })
		}
	}
	wg.Wait()
	return nil
}

// measureClock asks a host's agent for its time, several times, and tells it
// what the controller's clock showed at the answer that came quickest. The
// agent then puts that beside the instants of the points it cuts.
func (c *Catalogue) measureClock(ctx context.Context, host string) {
	if !c.measured.due(host, clock.Mono(c.clock)) {
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, askWithin, noAnswer(host))
	defer cancel()
	var tell command.ClockRequest
	for i := range clockSamples + 1 {
		wall, sent := c.clock.Now().UTC(), clock.Mono(c.clock)
		tell.Now = wall
		res, err := command.Clock.Call(ctx, c.caller, host, tell)
		if err != nil || res.Now.IsZero() {
			c.log.Debug("the clock of a host is not measured", "host", host, "err", err) // an older agent does not know the verb
			return
		}
		half := max((clock.Mono(c.clock)-sent)/2, time.Microsecond)
		if i < clockSamples && (tell.Reading == nil || tell.Instance != res.Instance || half < tell.Reading.Error) {
			tell.Reading, tell.Instance = &clock.Reading{Mono: res.Mono, Time: wall.Add(half), Error: half}, res.Instance
		}
	}
}
