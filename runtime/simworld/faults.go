package simworld

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
)

// Fault is something that goes wrong. What is empty matches everything.
type Fault struct {
	Host    string
	Verb    string // of an agent ("start"), or an operation ("http.post", "dns")
	Machine string
	Step    string // id in the run
	Text    string // part of what an operation is asked
	// Times is how often it goes wrong; 0: always.
	Times int
	// What happens: it fails, its effect happens and the answer is lost, it hangs
	// until its step gives up, it takes longer.
	Lost  bool
	Hang  bool
	Cut   bool // the host is cut off from then on
	Delay time.Duration
	Kind  fault.Kind // of the error; 0: fault.Failed
	Hits  int        // how often it has happened
}

// call is what a fault is compared with.
type call struct {
	host, verb, machine, step, run, text string

	meta    command.Meta // of an agent's verb
	trouble trouble
}

// trouble is what the faults make of one call.
type trouble struct {
	err   error
	lost  bool
	hang  bool
	delay time.Duration
}

func (f *Fault) matches(c *call) bool {
	is := func(want, got string) bool { return want == "" || want == got }
	return is(f.Host, c.host) && is(f.Machine, c.machine) && is(f.Step, c.step) && (is(f.Verb, c.verb) || strings.HasPrefix(c.verb, f.Verb+".")) &&
		strings.Contains(c.text, f.Text) && (f.Times == 0 || f.Hits < f.Times)
}

// trouble says what goes wrong with a call, and counts it.
func (w *World) trouble(c *call) (t trouble) {
	w.note(c)
	for _, f := range w.faults {
		if !f.matches(c) {
			continue
		}
		f.Hits++
		t.delay += f.Delay
		switch {
		case f.Cut:
			w.cutOff(c.host)
		case f.Hang:
			t.hang = true
			if m := w.machines[c.machine]; m != nil {
				m.hung = true
			}
		case f.Lost:
			t.lost = true
		case f.Delay == 0:
			kind := f.Kind
			if kind == 0 {
				kind = fault.Failed
			}
			where := c.host
			if where == "" {
				where = "the controller"
			}
			t.err = fault.Errorf(kind, "%s breaks on %s", c.verb, where)
		}
	}
	return t
}

// Break adds a fault and returns it; its Hits are read after the run.
func (w *World) Break(f Fault) *Fault {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, &f)
	return &f
}

// Mend takes all faults back: broken calls, hosts that are down, sites that
// are cut off, machines whose services do not answer.
func (w *World) Mend(lost ...string) {
	w.mu.Lock()
	w.faults = nil
	var hosts []string
	for name, h := range w.hosts {
		if h.down && !slices.Contains(lost, name) {
			hosts = append(hosts, name)
		}
	}
	for _, m := range w.machines {
		m.down, m.hung = false, false
	}
	w.mu.Unlock()
	for _, h := range hosts {
		w.Up(h)
	}
	for site := range w.cutSites() {
		w.Heal(site)
	}
}

func (w *World) cutSites() map[string]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[string]bool{}
	for s, is := range w.sites {
		if is {
			out[s] = true
		}
	}
	return out
}

// Down takes the power of a host: its machines stop, its agent is silent.
func (w *World) Down(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.hosts[name]
	if h == nil || h.down {
		return
	}
	for _, e := range h.ends {
		w.replicate(e.machine)
		e.power = recovery.PowerStopped
		e.machine.stopTests(h.site)
	}
	h.down = true
	w.happened("", "", "world", "%s goes down", name)
}

func (m *machine) stopTests(site string) {
	kept := m.tests[:0]
	for _, i := range m.tests {
		if i.site != site {
			kept = append(kept, i)
		}
	}
	m.tests = kept
}

// Up lets a host come back. Its agent asks the others first: a machine that has
// moved meanwhile is not started.
func (w *World) Up(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.hosts[name]
	if h == nil || !h.down {
		return
	}
	h.down = false
	w.happened("", "", "world", "%s is back", name)
	for _, e := range h.ends {
		w.learn(e)
		if e.rec.Active == h.site && !e.locked && (e.liveRun == "" || !e.liveNone()) && e.power != recovery.PowerRunning && e.machine.nowhere() {
			e.power = recovery.PowerRunning
			e.prod = instance{machine: e.machine, site: h.site, started: time.Now()}
		}
	}
}

// liveNone reports that a failover has not prepared the disks here.
func (e *end) liveNone() bool { return e.rec.Uncommitted && e.live.IsZero() }

func (m *machine) nowhere() bool {
	for _, e := range m.ends {
		if e.power == recovery.PowerRunning {
			return false
		}
	}
	return true
}

// learn lets an agent take the record that a peer has meanwhile, and stop what
// may not run any more.
func (w *World) learn(e *end) {
	best := e.machine.newest()
	if best.rec.Epoch <= e.rec.Epoch || w.cut(best.host) || w.cut(e.host) {
		return
	}
	e.rec = best.rec
	if e.rec.Active != e.host.site && e.power == recovery.PowerRunning {
		e.power = recovery.PowerStopped
		w.happened("", "", "fence", "%s fences %s", e.host.name, e.machine.name)
	}
}

// Partition cuts a site or a host off; its machines run on.
func (w *World) Partition(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cutOff(name)
}

func (w *World) cutOff(name string) {
	if name == "" || w.sites[name] {
		return
	}
	w.replicateAll()
	w.sites[name] = true
	w.happened("", "", "world", "%s is cut off", name)
}

// Asked is a call that the world has heard: what can break there.
type Asked struct{ Step, Verb, Host, Machine string }

// note remembers each kind of call once.
func (w *World) note(c *call) {
	a := Asked{Step: c.step, Verb: c.verb, Host: c.host, Machine: c.machine}
	if w.listens && a.Step != "" && !w.heard[a] {
		w.heard[a] = true
		w.log = append(w.log, logged{a, w.since(), w.placeOf(c)})
	}
}

// Listen lets the world remember what it hears, for Log.
func (w *World) Listen() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listens = true
}

// logged is a kind of call as it was heard first.
type logged struct {
	Asked
	at    time.Duration
	place int // of its step in the program
}

// Log lists the kinds of calls that the world has heard since Listen, in order: at
// one instant in that of the program, as goroutines run in any.
func (w *World) Log() []Asked {
	w.mu.Lock()
	defer w.mu.Unlock()
	slices.SortStableFunc(w.log, func(a, b logged) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.place, b.place), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Machine, b.Machine), cmp.Compare(a.Verb, b.Verb))
	})
	out := make([]Asked, len(w.log))
	for i := range w.log {
		out[i] = w.log[i].Asked
	}
	return out
}

// Heal ends a partition.
func (w *World) Heal(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.sites, name)
	w.happened("", "", "world", "%s is reached again", name)
	for _, m := range w.machines {
		for _, e := range m.ends {
			w.learn(e)
		}
		m.cut = time.Now().UTC()
	}
}

// SetBoot says how long after its start a machine's services answer; less than
// nothing: never.
func (w *World) SetBoot(machine string, d time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.machines[machine]
	if m != nil {
		m.boot = d
	}
	return m != nil
}

// Silence lets the services of a machine answer nobody, until Mend.
func (w *World) Silence(machine string, silent bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.machines[machine]
	if m != nil {
		m.down = silent
	}
	return m != nil
}

// Needs says that the services of a machine need those of another.
func (w *World) Needs(machine, other string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.machines[machine]
	if m == nil || w.machines[other] == nil {
		return false
	}
	m.needs = append(m.needs, other)
	return true
}

// NeedsOf reports whether the services of a machine need those of another, or of
// one that needs that.
func (w *World) NeedsOf(machine, other string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.needs(machine, other, 0)
}

func (w *World) needs(machine, other string, depth int) bool {
	m := w.machines[machine]
	return m != nil && depth <= len(w.machines) && slices.ContainsFunc(m.needs, func(n string) bool { return n == other || w.needs(n, other, depth+1) })
}

// Harmless says that operations whose text has part in it change nothing that
// counts: they may be done in tests, and twice.
func (w *World) Harmless(part string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.harmless = append(w.harmless, part)
}

// Propagate says how long changes of names take to be seen by lookups.
func (w *World) Propagate(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.propagation = d
}

// Serve adds a server outside; the last one that matches answers. It returns the
// server; its Hits are read after the run.
func (w *World) Serve(s Server) *Server {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.servers = append(w.servers, &s)
	return &s
}
