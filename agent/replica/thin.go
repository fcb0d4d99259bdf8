package replica

import (
	"sync"
	"time"
)

// clockWatch notices that the wall clock jumped against the monotonic one.
type clockWatch struct {
	mu      sync.Mutex
	wall    time.Time // wall clock at the last look
	mono    time.Duration
	elapsed func() time.Duration // monotonic
	jump    time.Duration        // not confirmed yet
}

func (c *clockWatch) start(now, last time.Time) {}
