package sim

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/recovery"
)

// Scenario is what a seed stands for: data, so that it can be cut down.
type Scenario struct {
	Seed       uint64
	Machines   [][]int // blocks of each disk of each machine
	WriteEvery time.Duration
	Every      time.Duration // of the replication policy
	Keep       []recovery.Keep
	Delay      time.Duration // of the network, one way
	Jitter     time.Duration
	Codec      string
	NoReflink  bool
	Outside    bool // the disks at lyon lie outside of the store
	NoPlan     bool // runs are of machines, not of the plan
	Offset     time.Duration
	Horizon    time.Duration // when everything is mended
	Events     []Event
}

// Event is one thing that a person asks for or that breaks.
type Event struct {
	At   time.Duration
	What string        // see events.go
	On   string        // host or runtime
	To   string        // the other end of a link
	For  time.Duration // until it is mended
	N    int           // the n-th effect after At; 0: at At
	Word string        // of what is asked for
}

func (e Event) String() string {
	s := fmt.Sprintf("%9.3fs %s", e.At.Seconds(), e.What)
	for _, w := range []string{e.On, e.To, e.Word} {
		if w != "" {
			s += " " + w
		}
	}
	if e.N > 0 {
		s += fmt.Sprintf(" at effect %d", e.N)
	}
	if e.For > 0 {
		s += " for " + e.For.String()
	}
	return s
}

// String shows the scenario with its schedule.
func (s *Scenario) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: machines with blocks %v, a write every %s, a point every %s, keep %v, delay %s+%s, codec %s, reflink %v, outside %v, plan %v, clock of lyo-1 %s, until %s\n",
		s.Seed, s.Machines, s.WriteEvery, s.Every, s.Keep, s.Delay, s.Jitter, s.Codec, !s.NoReflink, s.Outside, !s.NoPlan, s.Offset, s.Horizon)
	for _, e := range s.Events {
		fmt.Fprintf(&b, "  %s\n", e)
	}
	return b.String()
}

// stream is a source of numbers of its own for each purpose, so that an event
// that is taken out moves nothing else.
func stream(seed uint64, purpose string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(purpose))               // never fails
	return rand.New(rand.NewPCG(seed, h.Sum64())) //nolint:gosec // a simulation repeats
}

// The names of the world.
const (
	paris, lyon = "paris", "lyon"
	par, lyo    = "par-1", "lyo-1"
	rtOne       = "rt-1"
	rtTwo       = "rt-2"
)

var (
	hostNames    = []string{par, lyo}
	controlNames = []string{rtOne, rtTwo}
)

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func between(r *rand.Rand, a, b time.Duration) time.Duration {
	return a + time.Duration(r.Int64N(int64(b-a)))
}

// New makes the scenario of a seed.
func New(seed uint64) *Scenario {
	r := stream(seed, "scenario")
	s := &Scenario{Seed: seed, WriteEvery: between(r, 400*time.Millisecond, 6*time.Second), Every: pick(r, 5*time.Second, 10*time.Second, 25*time.Second),
		Delay: between(r, time.Millisecond, 40*time.Millisecond), Codec: pick(r, "auto", "auto", "raw"),
		NoReflink: r.IntN(3) == 0, Outside: r.IntN(2) == 0, NoPlan: r.IntN(3) == 0, Horizon: between(r, 80*time.Second, 240*time.Second)}
	s.Jitter = s.Delay/2 + time.Millisecond
	for range 1 + r.IntN(2) {
		var blocks []int
		for range 1 + r.IntN(2) {
			blocks = append(blocks, 16+r.IntN(49))
		}
		s.Machines = append(s.Machines, blocks)
	}
	if r.IntN(2) == 0 {
		s.Keep = pick(r, []recovery.Keep{{Last: 4}}, []recovery.Keep{{For: 40 * time.Second}, {Every: 30 * time.Second, For: 10 * time.Minute}})
	}
	if r.IntN(4) == 0 {
		s.Offset = between(r, -3*time.Minute, 3*time.Minute)
	}
	s.asks(r)
	s.faults(r)
	s.permits(stream(seed, "permits"))
	s.lost(stream(seed, "lost"))
	s.silent(stream(seed, "silent"))
	s.struck(stream(seed, "struck"))
	s.Events = slices.DeleteFunc(s.Events, func(e Event) bool { return e.At >= s.Horizon })
	slices.SortStableFunc(s.Events, func(a, b Event) int { return int(a.At - b.At) })
	return s
}

// asks draws what persons ask for: one to three runs, and what belongs to them.
func (s *Scenario) asks(r *rand.Rand) {
	at := between(r, 10*time.Second, 40*time.Second)
	for range 1 + r.IntN(3) {
		rt := pick(r, rtOne, rtOne, rtOne, rtTwo)
		s.Events = append(s.Events, Event{At: at, What: askRun, On: rt, Word: pick(r, runPlanned, runPlanned, runUnplanned, runUnplanned, runNoShutdown, runTest)})
		if r.IntN(8) == 0 { // somebody else, at the same time
			s.Events = append(s.Events, Event{At: at + between(r, 0, 3*time.Second), What: askRun, On: rtTwo, Word: pick(r, runPlanned, runUnplanned)})
		}
		then := at
		for range r.IntN(4) {
			then += between(r, 100*time.Millisecond, pick(r, 6*time.Second, 30*time.Second))
			s.Events = append(s.Events, Event{At: then, What: pick(r, askCommit, askCommit, askCommit, askCancel, askPause, askResume, askResume,
				askUnplanned, askCleanup, askReverse, askRollback, askRollback, askPoint),
				On: rt})
		}
		at = then + between(r, 10*time.Second, 60*time.Second)
	}
	if r.IntN(4) == 0 {
		s.Events = append(s.Events, Event{At: between(r, 20*time.Second, s.Horizon), What: askPermit, On: pick(r, hostNames...)})
	}
}

// permits draws the words of persons on a host, who do not know of a run that
// is under way.
func (s *Scenario) permits(r *rand.Rand) {
	for _, e := range slices.Clone(s.Events) {
		if e.What == askRun && e.Word != runTest && r.IntN(3) == 0 {
			s.Events = append(s.Events, Event{At: e.At + between(r, 300*time.Millisecond, pick(r, 3*time.Second, 8*time.Second, 20*time.Second)), What: askPermit, On: pick(r, par, par, lyo)})
		}
	}
}

// lost draws the loss of the site that is active at first, which is failed over:
// nobody reaches it any more, and it may have no power either, and have it again
// before anybody reaches it; or it has no power, and is back while it is failed
// over.
func (s *Scenario) lost(r *rand.Rand) {
	if r.IntN(3) != 0 {
		return
	}
	at := between(r, 15*time.Second, s.Horizon/2)
	off := between(r, 5*time.Second, 40*time.Second)
	power, cut := r.IntN(3) > 0, r.IntN(3) > 0
	if cut || !power {
		s.Events = append(s.Events, Event{At: at, What: faultPart, On: par, For: off + between(r, 30*time.Second, 2*time.Minute)})
	} else {
		off = between(r, 10*time.Second, 22*time.Second)
	}
	if power {
		s.Events = append(s.Events, Event{At: at + time.Second, What: faultPower, On: par, For: off})
	}
	s.Events = append(s.Events, Event{At: at + between(r, 1500*time.Millisecond, 8*time.Second), What: askRun, On: pick(r, controlNames...), Word: pick(r, runUnplanned, runNoShutdown)})
}

// silent draws that nobody reaches the source any more right after an unplanned
// run has looked at it: it runs on, and nobody has said anything of it.
func (s *Scenario) silent(r *rand.Rand) {
	for _, e := range slices.Clone(s.Events) {
		if e.What == askRun && (e.Word == runUnplanned || e.Word == runNoShutdown) && r.IntN(4) == 0 {
			s.Events = append(s.Events, Event{At: e.At + between(r, 50*time.Millisecond, 1500*time.Millisecond), What: faultPart, On: par, For: between(r, 20*time.Second, 90*time.Second)})
		}
	}
}

// struck draws that a process dies in the middle of what a run has it do: a
// runtime in a program or an action of the plan, an agent in an operation. What
// was begun there may be done.
func (s *Scenario) struck(r *rand.Rand) {
	for _, e := range slices.Clone(s.Events) {
		if e.What != askRun {
			continue
		}
		until := between(r, 100*time.Millisecond, 20*time.Second)
		switch r.IntN(8) {
		case 0:
			s.Events = append(s.Events, Event{At: e.At - 1, What: faultRuntime, On: e.On, N: 1 + r.IntN(4), Word: atEffect, For: until})
		case 1:
			s.Events = append(s.Events, Event{At: e.At - 1, What: faultKill, On: pick(r, hostNames...), N: 1 + r.IntN(6), Word: atEffect, For: until})
		}
	}
}

// breaks are the kinds of what breaks.
var breaks = []string{faultKill, faultPower, faultPart, faultMute, faultFlaky, faultSlow, faultRuntime, faultFull, faultIO, faultClock, faultStop}

// faults draws what breaks: of some kinds only, and those again and again. A
// little of everything hides what a lot of one thing shows.
func (s *Scenario) faults(r *rand.Rand) {
	var kinds []string
	for _, k := range breaks {
		if r.IntN(4) == 0 {
			kinds = append(kinds, k)
		}
	}
	if len(kinds) == 0 {
		kinds = breaks
	}
	for range r.IntN(8) {
		e := Event{At: between(r, 5*time.Second, s.Horizon-10*time.Second), What: pick(r, kinds...), On: pick(r, hostNames...), For: between(r, 300*time.Millisecond, 50*time.Second)}
		if len(s.Events) > 0 && r.IntN(3) > 0 { // close to what somebody asks for
			e.At = s.Events[r.IntN(len(s.Events))].At + between(r, 0, pick(r, 2*time.Second, 8*time.Second))
		}
		e.draw(r)
		s.Events = append(s.Events, e)
	}
}

// draw fills in what belongs to the kind of what breaks.
func (e *Event) draw(r *rand.Rand) {
	switch e.What {
	case faultKill, faultPower:
		switch r.IntN(4) {
		case 0, 1:
			e.N = 1 + r.IntN(pick(r, 10, 100, 600))
		case 2:
			e.N, e.Word = 1+r.IntN(pick(r, 3, 30)), pick(r, atEffect, atRecord, atRecord)
		}
		if e.What == faultKill {
			e.For = between(r, 100*time.Millisecond, pick(r, 3*time.Second, 50*time.Second))
		}
	case faultRuntime:
		e.On = pick(r, rtOne, rtOne, rtTwo)
		switch r.IntN(4) {
		case 0, 1:
			e.N = 1 + r.IntN(pick(r, 10, 80))
		case 2:
			e.N, e.Word = 1+r.IntN(3), atEffect
		}
		e.For = between(r, 100*time.Millisecond, pick(r, 3*time.Second, 50*time.Second))
	case faultIO:
		e.N, e.For = 1+r.IntN(300), 0
	case faultPart, faultMute, faultFlaky, faultSlow:
		e.To = pick(r, par, lyo, rtOne, rtOne, rtTwo)
		if e.To == e.On {
			e.To = "" // from all
		}
	case faultClock:
		e.For = between(r, -2*time.Minute, 2*time.Minute)
	}
}
