package plans

import (
	"time"

	"github.com/drrun/drrun/internal/recovery"
)

// Defaults of steps, checks and providers.
const (
	// MaxKeepLast is the most points that a line of a retention counts.
	MaxKeepLast       = 100_000
	DefaultWithin     = 5 * time.Minute
	DefaultCheckEvery = 2 * time.Second
	DefaultForceAfter = 30 * time.Second
	DefaultFreezeMax  = 10 * time.Second
	DefaultEvery      = 5 * time.Minute
	// DefaultDrillTTL is when a drill that still stands is ended.
	DefaultDrillTTL = 4 * time.Hour
)

// FillDefaults puts the defaults where the estate says nothing.
func FillDefaults(e *Estate) {
	for i := range e.Policies {
		fillPolicy(&e.Policies[i])
	}
	for _, h := range e.eachHost {
		if h.Addr != "" {
			h.Addr = h.AddrPort()
		}
	}
	for i := range e.Machines {
		fillMachine(&e.Machines[i])
	}
	e.Index()
}

func fillMachine(m *Machine) {
	if m.Ready != nil {
		fillCheck(m.Ready)
	}
	if x := m.Exec; x != nil {
		if x.ForceAfter == 0 {
			x.ForceAfter = DefaultForceAfter
		}
		if x.FreezeMax == 0 {
			x.FreezeMax = DefaultFreezeMax
		}
	}
}

func fillCheck(c *recovery.Check) {
	if c.Every == 0 {
		c.Every = DefaultCheckEvery
	}
	if c.Within == 0 {
		c.Within = DefaultWithin
	}
}

func fillPolicy(p *recovery.Policy) {
	if p.Every == 0 {
		p.Every = DefaultEvery
	}
	set := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	set(&p.Codec, "auto")
	set(&p.Initial, "now")
	set(&p.Fence, "stop")
	set(&p.StartAlone, "ask")
	if p.Consistency == "" {
		p.Consistency = recovery.Crash
	}
}
