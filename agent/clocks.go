package agent

import (
	"context"
	"sync"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/transport"
)

const (
	clockSamples = 3               // questions for one measurement
	clockEvery   = time.Minute     // a peer's clock is asked for no more often
	clockWithin  = 2 * time.Second // for all of them
	clockStale   = time.Hour       // after this the controller's word gives way to a peer's clock
)

// clocks is what this host knows of the clocks of others, on its own monotonic
// clock, so that setting its wall clock changes none of it.
type clocks struct {
	controller clock.Other

	mu    sync.Mutex
	peers map[string]*peerClock
}

// peerClock is the clock of another agent, and what that one knows of the
// controller's.
type peerClock struct {
	own, controller clock.Other
	told            time.Duration // age of the word on the controller's when it came
	asked           time.Duration // on this host's monotonic clock
	once            bool
}

func (c *clocks) peer(host string) *peerClock {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.peers == nil {
		c.peers = map[string]*peerClock{}
	}
	if c.peers[host] == nil {
		c.peers[host] = &peerClock{}
	}
	return c.peers[host]
}

// due says whether a peer's clock is to be asked for, and notes that it is.
func (c *clocks) due(host string, mono time.Duration) bool {
	p := c.peer(host)
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.once && mono-p.asked < clockEvery {
		return false
	}
	p.asked, p.once = mono, true
	return true
}

// offset is how far the wall clock, which showed wall when the monotonic one
// read mono, is ahead of the controller's: as a runtime told, or as the peer
// knows from one, or else of the peer's own clock.
func (c *clocks) offset(peer string, wall time.Time, mono time.Duration) clock.Offset {
	p := c.peer(peer)
	c.mu.Lock()
	told := p.told
	c.mu.Unlock()
	from := func(o *clock.Other, more time.Duration, of string) (clock.Offset, bool) {
		r, age, ok := o.At(mono)
		return clock.Offset{Ahead: wall.Round(0).Sub(r.Time), Error: r.Error, Age: max(0, age) + more, Of: of}, ok
	}
	near, knows := from(&c.controller, 0, "")
	far, heard := from(&p.controller, told, "")
	switch {
	case knows && near.Age < clockStale:
		return near
	case heard && far.Age < clockStale:
		return far
	}
	if own, ok := from(&p.own, 0, peer); ok && own.Age < clockStale {
		return own
	}
	switch {
	case knows && (!heard || near.Error <= far.Error):
		return near
	case heard:
		return far
	}
	return clock.Offset{}
}

// askClock measures the clock of a peer, unless that was done a moment ago. A
// peer that does not answer is asked again later: replication does not wait.
func (a *Agent) askClock(ctx context.Context, host string) {
	if !a.clocks.due(host, clock.Mono(a.o.Clock)) {
		return
	}
	p, err := a.peer(host)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, clockWithin)
	defer cancel()
	for range clockSamples {
		var res command.ClockResult
		sent := clock.Mono(a.o.Clock)
		err := p.Call(ctx, command.Clock.Name, command.ClockRequest{Now: a.o.Clock.Now().UTC()}, &res)
		if err != nil {
			a.log.Debug("the clock of a peer is not known", logkit.KeyHost, host, logkit.KeyError, err)
			return
		}
		a.heardClock(host, sent, clock.Mono(a.o.Clock), res)
	}
}

// heardClock takes in what a peer answered to a question of sent, at got.
func (a *Agent) heardClock(host string, sent, got time.Duration, res command.ClockResult) {
	p := a.clocks.peer(host)
	r := clock.Halve(sent, got, res.Now)
	p.own.Add(r, got)
	if c := res.Controller; c != nil && c.Error >= 0 {
		p.controller.Add(clock.Reading{Mono: r.Mono, Time: c.Time, Error: c.Error + r.Error}, got)
		a.clocks.mu.Lock()
		p.told = res.ControllerAge
		a.clocks.mu.Unlock()
	}
	a.clockAgrees(host, res.Now)
}

// clockAgrees lets the replicas of this host, where they doubt its wall clock,
// know what time it is for somebody else.
func (a *Agent) clockAgrees(who string, theirs time.Time) {
	for _, m := range a.all() {
		if rep := m.replica(); rep != nil {
			rep.ClockAgrees(who, theirs)
		}
	}
}

// answerClock answers the verb clock.
func (a *Agent) answerClock(_ context.Context, p transport.Peer, in command.ClockRequest) (command.ClockResult, error) {
	if err := a.fromRuntime(p); err != nil && !a.knows(p) {
		return command.ClockResult{}, err
	}
	mono := clock.Mono(a.o.Clock)
	res := command.ClockResult{Now: a.o.Clock.Now().UTC(), Mono: mono, Instance: a.instance}
	if r := in.Reading; r != nil && p.Runtime != "" && in.Instance == a.instance {
		if r.Error <= 0 || r.Mono > mono {
			return command.ClockResult{}, fault.Errorf(fault.Invalid, "a reading of the clock that cannot be: at %s of %s, right within %s", r.Mono, mono, r.Error)
		}
		a.clocks.controller.Add(*r, mono)
	}
	if c, age, ok := a.clocks.controller.At(mono); ok {
		res.Controller, res.ControllerAge = &c, age
	}
	if !in.Now.IsZero() {
		a.clockAgrees(p.String(), in.Now)
	}
	return res, nil
}

// knows reports whether p is a host of a machine that is assigned here.
func (a *Agent) knows(p transport.Peer) bool {
	for _, m := range a.all() {
		if h, ok := m.assignment().Host(p.Host); ok && p.Host != "" && h.Site == p.Site && p.Estate == a.estate() {
			return true
		}
	}
	return false
}

// ConfirmClock takes the word of an operator that this host's wall clock is
// right: points that a jump kept are thinned again. It names the machines whose
// replicas had doubted it. fault.Failed: a store did not take it.
func (a *Agent) ConfirmClock(by string) (machines []string, err error) {
	machines = []string{}
	for _, m := range a.all() {
		rep := m.replica()
		if rep == nil || rep.ClockDoubt(a.o.Clock.Now()) == nil {
			continue
		}
		if err := rep.ConfirmClock(by); err != nil {
			return machines, fault.Errorf(fault.KindOf(err), "the clock is not confirmed for machine %s: %w", m.name, err)
		}
		machines = append(machines, m.name)
		m.nudge()
	}
	return machines, nil
}
