// Package simworld is a simulated estate in virtual time: hosts with agents
// that keep the contract of the verbs (fencing numbers, epochs, stored results
// of operations, points, overlays, tests), machines whose services answer some
// time after they started, servers outside, and faults. It stands for everything
// that the engine calls: agents, programs of the controller, and what functions
// of plans ask.
//
// It is slow by default, as the world is: a service answers 40 s after its
// machine was started, or after what it needs. All times come from package
// time, so it has to run in a bubble of testing/synctest. It knows no Lua and no
// files; rules that a run breaks are collected as Violations and judged by
// others.
package simworld

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
)

// Durations of the world, unless it is told others.
const (
	DefaultBoot = 40 * time.Second // from the start of a machine until its services answer
	stopTakes   = 8 * time.Second
	startTakes  = time.Second
	drainTakes  = 2 * time.Second
	copyTakes   = 3 * time.Second // of an overlay
	readTakes   = 20 * time.Second
	keepPoints  = 16 // newest points that the world remembers of a machine
)

// World is the simulated estate. It outlives the runtimes that die in it. Safe
// for concurrent use.
type World struct {
	mu       sync.Mutex
	estate   *plans.Estate
	began    time.Time
	hosts    map[string]*host
	machines map[string]*machine
	order    []string              // of machines, as the estate has them
	sites    map[string]bool       // sites and hosts that are cut off
	servers  []*Server             // outside
	names    map[string]nameRecord // of DNS: name and type
	pairs    map[string]pair       // of machines, cached
	faults   []*Fault
	effects  []Effect
	done     map[string]bool   // idempotency keys that servers have done something under
	before   map[string]before // effects as they happened last
	runs     map[string]*runKnown
	classes  map[string]plans.OpClass // of operations that agents do
	persons  int                      // how often a person has said what to do
	// propagation is how long changes of names take to be seen by lookups.
	propagation time.Duration
	bad         []Violation
	seen        map[string]bool // texts of bad
	harmless    []string
	asked       map[string]time.Duration // machines whose services were seen to answer in a run: run and machine
	log         []logged
	listens     bool
	heard       map[Asked]bool
	outside     []outside
}

type nameRecord struct {
	values []string
	old    []string  // that lookups get
	since  time.Time // until then
	run    string
	step   string
}

// host runs an agent.
type host struct {
	name, site string
	down       bool
	ends       map[string]*end
	order      []string // of its machines
}

// machine is a protected machine with its two ends.
type machine struct {
	name   string
	boot   time.Duration // -1: its services never answer
	down   bool          // its services do not answer until it is mended
	hung   bool          // work on it does not move
	needs  []string
	every  time.Duration // between two points
	disks  []string
	ends   []*end // home first
	points []recovery.Point
	seq    int
	tests  []*instance
	ttl    []testEnd
	cut    time.Time // instant of the newest point
}

// end is a machine at one of its hosts.
type end struct {
	machine *machine
	host    *host
	rec     recovery.Authority
	fence   ident.Fence
	power   recovery.Power
	locked  bool
	store   bool
	results []result // of operations, for those who ask again
	tests   []string
	live    ident.PointID
	liveRun string
	prod    instance
}

// result is what an operation came to.
type result struct {
	verb, op string
	res      any
}

// instance is a running machine: of production, or of a test.
type instance struct {
	machine *machine
	site    string
	test    string
	started time.Time
}

// Effect is something that changed the world, or asked it.
type Effect struct {
	At   time.Duration `json:"at"` // since the world began
	Text string        `json:"text"`
	Step string        `json:"step,omitempty"`
	Run  string        `json:"run,omitempty"`
	Verb string        `json:"verb"`

	class plans.OpClass
}

// again reports whether it is the same how often it happens.
func (e *Effect) again() bool { return e.Verb == "exec" && e.class == plans.OpIdempotent }

// Rules that a Violation is of.
const (
	RuleRight   = "right"   // a machine ran at two sites, or without the right to
	RuleNeeds   = "needs"   // a machine was started before what it needs answered
	RuleTwice   = "twice"   // an effect happened twice in a run
	RuleTest    = "test"    // a test changed something outside
	RuleAsks    = "asks"    // a question was answered by a machine that is not of the run
	RulePoints  = "command" // a command broke the contract with agents
	RulePlace   = "place"   // what the plan points elsewhere points at the wrong site
	RuleUndone  = "undone"  // a rollback left what a step of the plan has done
	RuleLoss    = "loss"    // a planned failover lost what was acknowledged
	RuleSuccess = "success" // a failure was reported as success
	RuleWorld   = "world"   // what the world file states does not hold
	RuleEnd     = "end"     // a run did not come to its aim
)

// Violation is a rule that was broken.
type Violation struct {
	Rule string        `json:"rule"`
	Text string        `json:"text"`
	Step string        `json:"step,omitempty"` // of the run
	Run  string        `json:"run,omitempty"`
	At   time.Duration `json:"at"`
	Hint string        `json:"hint,omitempty"`
}

// New makes the world of an estate: every machine runs at home and has points
// at both sites.
func New(e *plans.Estate) (*World, error) {
	w := &World{estate: e, began: time.Now().UTC(), hosts: map[string]*host{}, machines: map[string]*machine{}, sites: map[string]bool{},
		names: map[string]nameRecord{}, pairs: map[string]pair{}, done: map[string]bool{}, before: map[string]before{}, runs: map[string]*runKnown{}, classes: map[string]plans.OpClass{}, heard: map[Asked]bool{},
		seen: map[string]bool{}, asked: map[string]time.Duration{}}
	for _, h := range e.Hosts() {
		site, _ := e.HostSite(h.Name)
		w.hosts[h.Name] = &host{name: h.Name, site: site, ends: map[string]*end{}}
	}
	load, targets := map[string]int{}, map[string][]*plans.Host{}
	for i := range e.Machines {
		if m := &e.Machines[i]; m.Protected {
			if _, known := targets[m.Host]; !known && m.Replica == "" {
				targets[m.Host] = e.Targets(m.Name)
			}
			if err := w.add(m, targets[m.Host], load); err != nil {
				return nil, err
			}
		}
	}
	return w, nil
}

func (w *World) add(m *plans.Machine, targets []*plans.Host, load map[string]int) error {
	home, ok := w.hosts[m.Host]
	if !ok {
		return fault.Errorf(fault.Invalid, "machine %s: its host %q is not in the estate", m.Name, m.Host)
	}
	target := m.Replica
	if target == "" {
		for _, t := range targets { // the one with fewest machines, as drrun apply does among equals
			if site, _ := w.estate.HostSite(t.Name); site != home.site && (target == "" || load[t.Name] < load[target]) {
				target = t.Name
			}
		}
	}
	peer, ok := w.hosts[target]
	if !ok {
		return fault.Errorf(fault.Invalid, "machine %s has nowhere to replicate to", m.Name).
			WithHint("give its cloud to = CLOUD, and a host there a store")
	}
	load[target]++
	x := &machine{name: m.Name, boot: DefaultBoot, every: cmp.Or(w.estate.PolicyOf(m.Name).Every, 5*time.Minute)}
	for _, d := range m.Disks {
		x.disks = append(x.disks, d.Name)
	}
	rec := recovery.Authority{Epoch: 1, Active: home.site, Direction: []recovery.Pair{{From: home.name, To: peer.name}}, At: w.began}
	for _, h := range []*host{home, peer} {
		eh, _ := w.estate.Host(h.name)
		en := &end{machine: x, host: h, rec: rec, fence: 1, power: recovery.PowerStopped, store: eh.Store != ""}
		x.ends, h.ends[m.Name] = append(x.ends, en), en
		h.order = append(h.order, m.Name)
	}
	x.ends[0].power = recovery.PowerRunning
	x.ends[0].prod = instance{machine: x, site: home.site, started: w.began.Add(-24 * time.Hour)}
	for n := 2; n >= 0; n-- {
		w.point(x, w.began.Add(-x.every/2-time.Duration(n)*x.every))
	}
	w.machines[m.Name] = x
	w.order = append(w.order, m.Name)
	return nil
}

// point adds a recovery point that both sites have.
func (w *World) point(m *machine, at time.Time) recovery.Point {
	m.seq++
	var id ident.PointID
	copy(id.ID[:], fmt.Sprintf("%06d%s", m.seq, m.name))
	p := recovery.Point{Version: recovery.FormatVersion, ID: id, Seq: ident.Seq(m.seq), Machine: m.name, Instant: at.UTC(), Kind: recovery.App, Received: at} //nolint:gosec // counts up from 1
	for _, d := range m.disks {
		p.Disks = append(p.Disks, recovery.PointDisk{Name: d, Size: 1 << 30, Sum: uint64(m.seq) * 1000}) //nolint:gosec // as above
	}
	if len(m.points) == cap(m.points) { // most machines get one or two more
		m.points = append(make([]recovery.Point, 0, len(m.points)+2), m.points...)
	}
	m.points = append(m.points, p)
	if len(m.points) > keepPoints {
		m.points = slices.Clone(m.points[len(m.points)-keepPoints:])
	}
	m.cut = p.Instant
	return p
}

// sender is the end that sends now; nil: nothing replicates.
func (m *machine) sender() (from, to *end) {
	for i, e := range m.ends {
		if len(e.rec.Direction) == 1 && e.rec.Direction[0].From == e.host.name && e.rec.Active == e.host.site {
			return e, m.ends[1-i]
		}
	}
	return nil, nil
}

// replicate adds the points that the time until now has made. Callers hold
// w.mu, and call it before anything changes that replication depends on.
func (w *World) replicate(m *machine) {
	now := time.Now().UTC()
	from, to := m.sender()
	if from == nil || from.power != recovery.PowerRunning || w.cut(from.host) || w.cut(to.host) {
		return
	}
	if n := int(now.Sub(m.cut) / m.every); n > keepPoints { // older ones would be forgotten at once
		m.cut = m.cut.Add(time.Duration(n-keepPoints) * m.every)
	}
	for next := m.cut.Add(m.every); !next.After(now); next = m.cut.Add(m.every) {
		w.point(m, next)
	}
}

func (w *World) replicateAll() {
	for _, m := range w.machines {
		w.replicate(m)
	}
}

// since is the world's time.
func (w *World) since() time.Duration { return time.Since(w.began) }

func (w *World) happened(step, run, verb, format string, args ...any) *Effect {
	w.effects = append(w.effects, Effect{At: w.since(), Text: fmt.Sprintf(format, args...), Step: step, Run: run, Verb: verb})
	return &w.effects[len(w.effects)-1]
}

// violated notes a broken rule, once.
func (w *World) violated(v Violation) {
	v.At = w.since()
	if key := v.Rule + v.Text + v.Step; !w.seen[key] {
		w.seen[key] = true
		w.bad = append(w.bad, v)
	}
}

// Violated notes a broken rule that somebody else has found.
func (w *World) Violated(v Violation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.violated(v)
}

// Violations returns the rules that were broken, in order of time.
func (w *World) Violations() []Violation {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.bad)
}

// Effects returns what happened, in order of time.
func (w *World) Effects() []Effect {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.effects)
}

// Since is how long the world exists.
func (w *World) Since() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.since()
}

// Names lists machines in the order of the estate.
func (w *World) Names() []string { return slices.Clone(w.order) }

// Site tells a site from a host and anything else.
func (w *World) Site(name string) bool {
	_, ok := w.estate.Site(name)
	return ok
}

// Host tells a host.
func (w *World) Host(name string) bool { return w.hosts[name] != nil }

// Hosts lists the hosts of a site, sorted; of all sites for "".
func (w *World) Hosts(site string) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(w.hosts)) {
		if site == "" || w.hosts[name].site == site {
			out = append(out, name)
		}
	}
	return out
}

// Place is where a machine is.
type Place struct {
	Site    string // that may run it
	Power   recovery.Power
	Answers bool // its services
	Tests   int  // that stand
	Epoch   ident.Epoch
	// Uncommitted: a failover waits for its commit.
	Uncommitted bool
	Direction   []recovery.Pair
}

// Where tells where a machine is, by the newest record that a host holds; false:
// there is no such machine.
func (w *World) Where(name string) (Place, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.machines[name]
	if m == nil {
		return Place{}, false
	}
	best := m.newest()
	p := Place{Site: best.rec.Active, Epoch: best.rec.Epoch, Uncommitted: best.rec.Uncommitted, Tests: len(m.tests), Direction: slices.Clone(best.rec.Direction), Power: recovery.PowerUnknown}
	for _, e := range m.ends {
		if e.rec.Epoch == best.rec.Epoch && !e.rec.Uncommitted { // cleared wins over set
			p.Uncommitted = false
		}
		if e.host.site == p.Site {
			p.Power = e.power
			p.Answers = w.answers(e)
		}
	}
	return p, true
}

// newest is the end with the highest epoch.
func (m *machine) newest() *end {
	best := m.ends[0]
	for _, e := range m.ends[1:] {
		if e.rec.Epoch > best.rec.Epoch {
			best = e
		}
	}
	return best
}

// Summary is the state of everything in words, without times and ids of runs:
// two runs that end alike have the same.
func (w *World) Summary() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, name := range w.order {
		m := w.machines[name]
		for _, e := range m.ends {
			out = append(out, fmt.Sprintf("%s on %s: active %s, epoch %d, %s, %v, uncommitted %v, locked %v, tests %d",
				name, e.host.name, e.rec.Active, e.rec.Epoch, e.power, e.rec.Direction, e.rec.Uncommitted, e.locked, len(e.tests)))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(w.names)) {
		out = append(out, fmt.Sprintf("name %s: %v", key, w.names[key].values))
	}
	return out
}

// Changes counts how often each effect happened in the world outside, for
// comparison; what may be done twice counts once.
func (w *World) Changes() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[string]int{}
	for i := range w.effects {
		if e := &w.effects[i]; !e.again() || out[e.Text] == 0 {
			out[e.Text]++
		}
	}
	return out
}

// Estate is what the world was made of.
func (w *World) Estate() *plans.Estate { return w.estate }

// Assignment is what the agents of a machine know of it; false: there is no such
// machine.
func (w *World) Assignment(name string) (recovery.Assignment, bool) {
	m := w.machines[name]
	if m == nil {
		return recovery.Assignment{}, false
	}
	a := recovery.Assignment{Version: recovery.FormatVersion, Estate: w.estate.Name, Machine: name, HomeSite: m.ends[0].host.site}
	for _, e := range m.ends {
		h := recovery.Host{Name: e.host.name, Site: e.host.site}
		if e.store {
			h.Store = "/srv/drrun"
		}
		a.Hosts = append(a.Hosts, h)
	}
	return a, true
}

// Programs counts the programs that a step of a run has run and that may not
// just be run again.
func (w *World) Programs(run, step string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for i := range w.effects {
		if e := &w.effects[i]; e.Run == run && e.Step == step && e.Verb == "exec" && !e.again() {
			n++
		}
	}
	return n
}
