package program

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
)

// Directions of a run.
const (
	Failover = "failover"
	Failback = "failback"
)

// Request is what was asked for.
type Request struct {
	Type       recovery.Type
	Failback   bool
	NoShutdown bool
	NoProof    bool
}

// Fact is what is known of a machine before the run.
type Fact struct {
	Active string          // site that may run it; empty: unknown
	Hosts  []recovery.Host // its two ends, home first
}

// MinStop is the least time a stop may take, whatever force_after says.
const MinStop = 5 * time.Minute

type compiler struct {
	plan     *plans.Plan
	estate   *plans.Estate
	req      Request
	groups   []plans.ResolvedGroup
	prog     *Program
	ids      map[string]int
	machines map[string]*Machine
}

// Compile makes the program of a failover. Errors are fault.Invalid (plan and
// estate do not go together) or fault.Refused (the state of a machine).
func Compile(p *plans.Plan, e *plans.Estate, req Request, facts map[string]Fact) (*Program, error) {
	c := &compiler{plan: p, estate: e, req: req, groups: p.Resolve(e), ids: map[string]int{}, machines: map[string]*Machine{}}
	c.prog = &Program{Version: Version, Section: SectionFailover, Plan: p.Name, Type: req.Type, Direction: Failover, From: p.From, To: p.To}
	if req.Failback {
		c.prog.Direction, c.prog.From, c.prog.To = Failback, p.To, p.From
	}
	if err := c.placeMachines(facts); err != nil {
		return nil, err
	}
	if len(c.prog.Active()) == 0 {
		c.prog.Nothing = c.nothing()
		return c.prog, nil
	}
	claim := "claim " + c.count() + " at their agents"
	if req.Type == recovery.Test {
		claim = "read the records of " + c.count() + " at their agents"
	}
	c.prog.Root = seq(
		one(c.step(Step{ID: "preflight", Kind: Preflight, Phase: "preflight", Title: "preflight of " + c.count(), OnFail: OnFailStop})),
		one(c.step(Step{ID: "claim", Kind: Claim, Phase: "preflight", Title: claim, OnFail: OnFailStop})),
		c.syncAhead(), c.shutdown(), c.epoch(), c.items(), c.running(), c.proof(),
	)
	return c.prog, nil
}

// running looks at the end whether what was started still runs. Of a test's
// machines agents tell only their start.
func (c *compiler) running() Node {
	if c.req.Type == recovery.Test {
		return Node{}
	}
	return one(c.step(Step{ID: "running", Kind: Running, Phase: "end", Title: "every machine that was started runs", Within: time.Minute}))
}

// ProofsAtOnce is of how many machines of a host the disks are read whole at a
// time: production runs at the new site by then, and nothing waits for the proof
// but the commit.
const ProofsAtOnce = 4

// proof compares, behind the started machines, what both sites have on the
// medium: only that shows a write that the tracker missed.
func (c *compiler) proof() Node {
	if c.req.Type != recovery.Planned {
		return Node{}
	}
	hosts := map[string]int{} // place in byHost
	var byHost []Node
	most := 0
	all := c.each(func(m Machine) Node {
		s := Step{ID: "proof/" + m.Name, Kind: Proof, Phase: "read proof", Machine: m.Name, Group: m.Group, Host: m.ToHost, Site: m.ToSite,
			Title: fmt.Sprintf("read the disks of %s whole on %s and %s and compare them", m.Name, m.FromHost, m.ToHost)}
		if c.req.NoProof {
			s.Skip = "not proved: --no-proof"
		}
		n := one(c.step(s))
		at, had := hosts[m.FromHost]
		if !had {
			at = len(byHost)
			hosts[m.FromHost] = at
			byHost = append(byHost, Node{Limit: ProofsAtOnce})
		}
		byHost[at].Par = append(byHost[at].Par, n)
		most = max(most, len(byHost[at].Par))
		return n
	})
	if most <= ProofsAtOnce {
		return par(0, all...)
	}
	return par(0, byHost...)
}

// placeMachines finds both ends of every machine, and which are there already.
func (c *compiler) placeMachines(facts map[string]Fact) error {
	if c.req.Type == recovery.Test {
		c.swapForTest(facts)
	}
	for _, g := range c.groups {
		for _, rm := range g.Machines {
			if c.machines[rm.Name] != nil {
				continue
			}
			m, err := c.place(rm.Name, g.Group.Name, facts[rm.Name])
			if err != nil {
				return err
			}
			c.prog.Machines = append(c.prog.Machines, m)
			c.machines[rm.Name] = &m
		}
	}
	return nil
}

// swapForTest turns the sites round when every machine is active at the
// target: a test goes to the site that is not active.
func (c *compiler) swapForTest(facts map[string]Fact) {
	n, there := 0, 0
	for _, g := range c.groups {
		for _, rm := range g.Machines {
			n++
			if facts[rm.Name].Active == c.prog.To {
				there++
			}
		}
	}
	if n > 0 && n == there {
		c.prog.From, c.prog.To = c.prog.To, c.prog.From
	}
}

func (c *compiler) place(name, group string, f Fact) (Machine, error) {
	m := Machine{Name: name, Group: group, FromSite: c.prog.From, ToSite: c.prog.To}
	if c.req.Type == recovery.Test && f.Active == m.ToSite {
		m.FromSite, m.ToSite = m.ToSite, m.FromSite
	}
	for _, h := range f.Hosts {
		switch h.Site {
		case m.FromSite:
			m.FromHost, m.Back = h.Name, h.Store != ""
		case m.ToSite:
			m.ToHost = h.Name
		}
	}
	for _, end := range []struct{ host, site string }{{m.FromHost, m.FromSite}, {m.ToHost, m.ToSite}} {
		if end.host == "" {
			return m, fault.Errorf(fault.Invalid, "machine %s: no host at site %s holds it", name, end.site).
				WithHint("protect it with a replica at %s (drrun apply), or take it out of the plan", end.site)
		}
	}
	m.IP = c.address(name, m.ToSite)
	m.Home, _ = c.estate.HomeSite(name)
	switch {
	case c.req.Type == recovery.Test || f.Active == m.FromSite || f.Active == "":
	case f.Active == m.ToSite:
		m.Skip = "already active at " + m.ToSite
	default:
		return m, fault.Errorf(fault.Refused, "machine %s is active at %s, which is neither site of the run", name, f.Active).
			WithHint("look at: drrun status %s", name)
	}
	return m, nil
}

func (c *compiler) address(machine, site string) string {
	a, _ := c.estate.AddressOf(machine, site, c.req.Type == recovery.Test)
	return a.IP
}

func (c *compiler) nothing() string {
	if len(c.prog.Machines) == 0 {
		return "the plan names no machine"
	}
	names := make([]string, len(c.prog.Machines))
	for i, m := range c.prog.Machines {
		names[i] = m.Name
	}
	return fmt.Sprintf("%s already active at %s", strings.Join(names, ", "), c.prog.To)
}

func (c *compiler) count() string {
	return quantity.Count(len(c.prog.Active()), "machine")
}

// step fills what every step has: a unique id, a limit, the type's rule.
func (c *compiler) step(s Step) Step {
	c.ids[s.ID]++
	if n := c.ids[s.ID]; n > 1 {
		s.ID = fmt.Sprintf("%s#%d", s.ID, n)
	}
	if s.Within == 0 {
		s.Within = plans.DefaultWithin
	}
	if s.OnFail == "" {
		s.OnFail = c.rule()
	}
	return s
}

// rule is what an error does by default: an unplanned run goes on to its end.
func (c *compiler) rule() string {
	if c.req.Type == recovery.Unplanned {
		return OnFailContinue
	}
	return OnFailStop
}

// active returns the machines of a group that the run touches.
func (c *compiler) active(g plans.ResolvedGroup) []plans.ResolvedMachine {
	return slices.DeleteFunc(slices.Clone(g.Machines), func(rm plans.ResolvedMachine) bool {
		return c.machines[rm.Name].Skip != ""
	})
}

// each makes one node for every machine of the run, in plan order.
func (c *compiler) each(f func(Machine) Node) []Node {
	var out []Node
	for _, m := range c.prog.Active() {
		out = append(out, f(m))
	}
	return out
}

func (c *compiler) syncAhead() Node {
	if c.req.Type != recovery.Planned {
		return Node{}
	}
	return par(0, c.each(func(m Machine) Node {
		return one(c.step(Step{ID: "drain-ahead/" + m.Name, Kind: DrainAhead, Phase: "sync ahead", Machine: m.Name,
			Host: m.FromHost, Site: m.FromSite, Title: fmt.Sprintf("drain %s while it runs, %s → %s", m.Name, m.FromHost, m.ToHost)}))
	})...)
}

// shutdown stops the source machines: groups in reverse order, machines of a
// group in parallel, then the final delta of all.
func (c *compiler) shutdown() Node {
	if c.req.Type == recovery.Test || c.req.NoShutdown {
		return Node{}
	}
	nodes := c.planSteps("shutdown/before:", "shutdown", c.plan.Shutdown.Before, place{source: true})
	var all []string
	for _, g := range slices.Backward(c.groups) {
		var stops []Node
		for _, rm := range c.active(g) {
			stops = append(stops, one(c.stop(*c.machines[rm.Name])))
			all = append(all, rm.Name)
		}
		nodes = append(nodes, par(0, stops...))
	}
	var drains []Node
	for _, name := range all {
		drains = append(drains, one(c.drainFinal(*c.machines[name])))
	}
	nodes = append(nodes, par(0, drains...))
	nodes = append(nodes, c.planSteps("shutdown/after:", "shutdown", c.plan.Shutdown.After, place{source: true})...)
	return seq(nodes...)
}

func (c *compiler) unplanned() bool { return c.req.Type == recovery.Unplanned }

func (c *compiler) stop(m Machine) Step {
	force := c.plan.Shutdown.ForceAfter
	title := fmt.Sprintf("stop %s on %s and lock it", m.Name, m.FromHost)
	if force > 0 {
		title += fmt.Sprintf(" (by force after %s)", inWords(force))
	}
	return c.step(Step{ID: "shutdown/" + m.Name + "/stop", Kind: Stop, Phase: "shutdown", Machine: m.Name, Group: m.Group,
		Host: m.FromHost, Site: m.FromSite, Title: title, Force: force > 0, ForceAfter: force,
		Within: max(MinStop, force+time.Minute), Optional: c.unplanned(), Source: c.unplanned()})
}

func (c *compiler) drainFinal(m Machine) Step {
	s := Step{ID: "shutdown/" + m.Name + "/drain", Kind: DrainFinal, Phase: "shutdown", Machine: m.Name, Group: m.Group,
		Host: m.FromHost, Site: m.FromSite, Title: fmt.Sprintf("drain the rest of %s, %s → %s", m.Name, m.FromHost, m.ToHost),
		Optional: c.unplanned(), Source: c.unplanned()}
	return c.step(s)
}

// epoch raises the epoch, fixes the points and prepares the disks.
func (c *compiler) epoch() Node {
	test := c.req.Type == recovery.Test
	nodes := c.planSteps("failover/before:", "failover", c.plan.Failover.Before, place{})
	if !test {
		nodes = append(nodes, par(0, c.each(c.grants)...))
	}
	title := "fix the recovery point of every machine"
	nodes = append(nodes, one(c.step(Step{ID: "points", Kind: Points, Phase: "failover", Title: title})))
	nodes = append(nodes, par(0, c.each(func(m Machine) Node {
		s := Step{ID: "prepare/" + m.Name, Kind: Prepare, Phase: "failover", Machine: m.Name, Group: m.Group, Host: m.ToHost,
			Site: m.ToSite, Test: test, Title: fmt.Sprintf("prepare the disks of %s on %s", m.Name, m.ToHost), Requires: []string{"points"}}
		if !test {
			s.Requires = append(s.Requires, grantID(m.Name, m.ToHost))
		}
		return one(c.step(s))
	})...))
	nodes = append(nodes, c.planSteps("failover/after:", "failover", c.plan.Failover.After, place{})...)
	return seq(nodes...)
}

func grantID(machine, host string) string { return "epoch/" + machine + "/" + host }

func (c *compiler) grants(m Machine) Node {
	var nodes []Node
	needs := []string{"claim"}
	if c.unplanned() {
		right := c.step(Step{ID: "right-to-run/" + m.Name, Kind: Right, Phase: "failover", Machine: m.Name, Group: m.Group,
			OnFail: OnFailAsk, Title: fmt.Sprintf("%s is known stopped at %s, or a person says so", m.Name, m.FromSite)})
		nodes, needs = append(nodes, one(right)), append(needs, right.ID)
	}
	grant := c.step(Step{ID: grantID(m.Name, m.ToHost), Kind: Grant, Phase: "failover", Machine: m.Name, Group: m.Group,
		Host: m.ToHost, Site: m.ToSite, Title: fmt.Sprintf("raise the epoch of %s: active at %s", m.Name, m.ToSite), Requires: needs})
	peer := c.step(Step{ID: grantID(m.Name, m.FromHost), Kind: GrantPeer, Phase: "failover", Machine: m.Name, Group: m.Group,
		Host: m.FromHost, Site: m.FromSite, Title: fmt.Sprintf("tell %s the epoch of %s", m.FromHost, m.Name),
		Requires: []string{grant.ID}, Optional: c.unplanned(), Source: c.unplanned()})
	return seq(append(nodes, one(grant), one(peer))...)
}

// items are the groups and waits in the order of the page.
func (c *compiler) items() Node {
	var nodes []Node
	byItem := map[int]plans.ResolvedGroup{}
	for _, g := range c.groups {
		byItem[g.Item] = g
	}
	for i := range c.plan.Items {
		if w := c.plan.Items[i].Wait; w != nil {
			nodes = append(nodes, c.planStep("wait:", "wait", w, place{}))
			continue
		}
		if g, ok := byItem[i]; ok {
			nodes = append(nodes, c.group(g))
		}
	}
	return seq(nodes...)
}

func (c *compiler) group(g plans.ResolvedGroup) Node {
	id, phase := "group:"+g.Group.Name+"/", "group "+g.Group.Name
	at := place{group: g.Group.Name}
	if len(c.active(g)) == 0 {
		at.skip = "every machine of the group is already active at " + c.prog.To
	}
	nodes := c.planSteps(id+"before:", phase, g.Group.Before, at)
	if g.Group.Delay > 0 && at.skip == "" {
		nodes = append(nodes, one(c.delay(id+"delay", phase, g.Group.Name, "", g.Group.Delay)))
	}
	last := map[string]string{} // machine → its last step
	var branches []Node
	for _, rm := range needsOrder(g.Machines) {
		n := c.machine(g, rm, id+rm.Name+"/", phase, last)
		branches = append(branches, n)
	}
	nodes = append(nodes, par(g.Group.Parallel, branches...))
	return seq(append(nodes, c.planSteps(id+"after:", phase, g.Group.After, at)...)...)
}

// needsOrder puts a machine after those it needs and else keeps the page's
// order, so that a limit on parallel branches cannot block itself.
func needsOrder(ms []plans.ResolvedMachine) []plans.ResolvedMachine {
	var out []plans.ResolvedMachine
	open := make(map[string]plans.ResolvedMachine, len(ms)) // not placed yet
	for _, m := range ms {
		open[m.Name] = m
	}
	var place func(name string)
	place = func(name string) {
		m, ok := open[name]
		if !ok { // placed, of another group, or in a circle, which is refused at load
			return
		}
		delete(open, name)
		for _, n := range m.Ref.Needs {
			place(n)
		}
		out = append(out, m)
	}
	for _, m := range ms {
		place(m.Name)
	}
	return out
}

func (c *compiler) machine(g plans.ResolvedGroup, rm plans.ResolvedMachine, id, phase string, last map[string]string) Node {
	m := *c.machines[rm.Name]
	start := Step{ID: id + "start", Kind: Start, Phase: phase, Machine: m.Name, Group: g.Group.Name, Host: m.ToHost, Site: m.ToSite,
		Test: c.req.Type == recovery.Test, Title: fmt.Sprintf("start %s on %s", m.Name, m.ToHost), Requires: []string{"prepare/" + m.Name}}
	if m.Skip != "" {
		start.Skip, start.Requires = m.Skip, nil
		return one(c.step(start))
	}
	if len(rm.Ref.Needs) > 0 {
		start.Title += ", after " + strings.Join(rm.Ref.Needs, ", ")
	}
	at := place{group: g.Group.Name, machine: m.Name}
	nodes := c.planSteps(id+"before:", phase, rm.Ref.Before, at)
	if rm.Ref.Delay > 0 {
		nodes = append(nodes, one(c.delay(id+"delay", phase, g.Group.Name, m.Name, rm.Ref.Delay)))
	}
	start = c.step(start)
	nodes = append(nodes, one(start))
	last[m.Name] = start.ID
	if em, ok := c.estate.Machine(m.Name); ok && em.Ready != nil {
		within := em.Ready.Within
		if within == 0 {
			within = plans.DefaultWithin
		}
		ready := c.step(Step{ID: id + "ready", Kind: Ready, Phase: phase, Machine: m.Name, Group: g.Group.Name, Host: m.ToHost, Site: m.ToSite,
			Test: start.Test, Title: fmt.Sprintf("%s is ready: %s", m.Name, question(em.Ready)), Ready: em.Ready, Within: within, Requires: []string{start.ID}})
		nodes = append(nodes, one(ready))
		last[m.Name] = ready.ID
	}
	after := c.planSteps(id+"after:", phase, rm.Ref.After, at)
	if len(after) > 0 {
		last[m.Name] = after[len(after)-1].Step.ID
	}
	out := seq(append(nodes, after...)...)
	for _, n := range rm.Ref.Needs {
		if l := last[n]; l != "" {
			out.Needs = append(out.Needs, l)
		}
	}
	return out
}

func (c *compiler) delay(id, phase, group, machine string, d time.Duration) Step {
	return c.step(Step{ID: id, Kind: Delay, Phase: phase, Group: group, Machine: machine, Title: "wait " + inWords(d), Within: d})
}

// inWords prints a duration as a plan writes it: 10m, not 10m0s.
func inWords(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// question is a check in words.
func question(k *recovery.Check) string {
	switch {
	case k.TCP != "":
		return "tcp " + k.TCP
	case k.HTTP != "":
		s := "http " + k.HTTP
		if k.Expect != 0 {
			s += fmt.Sprintf(" answers %d", k.Expect)
		}
		return s
	case len(k.Exec) > 0:
		return strings.Join(k.Exec, " ")
	}
	return "check"
}

// Groups returns the names of the machines of each group, in plan order.
func (p *Program) Groups() map[string][]string {
	out := map[string][]string{}
	for _, m := range p.Machines {
		out[m.Group] = append(out[m.Group], m.Name)
	}
	return out
}

// Hosts returns the hosts of the machines that the run touches, by name.
func (p *Program) Hosts() []string {
	set := map[string]bool{}
	for _, m := range p.Active() {
		set[m.FromHost], set[m.ToHost] = true, true
	}
	return slices.Sorted(maps.Keys(set))
}
