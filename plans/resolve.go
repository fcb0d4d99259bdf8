package plans

import (
	"slices"
)

// ResolvedGroup is a group with its machines by name.
type ResolvedGroup struct {
	Item     int // index in Plan.Items
	Group    *Group
	Machines []ResolvedMachine
}

// ResolvedMachine is a machine of a group, with the reference that put it there.
type ResolvedMachine struct {
	Name string
	Ref  *MachineRef
}

// Names returns the names of the group's machines, in the order of the page.
func (g ResolvedGroup) Names() []string {
	names := make([]string, len(g.Machines))
	for i, m := range g.Machines {
		names[i] = m.Name
	}
	return names
}

// Resolve replaces tags by machines: the plan's groups in the order of the
// page. A machine that is selected twice stands where it is first; that, and
// names that are unknown, are faults of Check.
func (p *Plan) Resolve(e *Estate) []ResolvedGroup {
	seen := make(map[string]bool)
	var out []ResolvedGroup
	for i := range p.Items {
		if g := p.Items[i].Group; g != nil {
			rg := ResolvedGroup{Item: i, Group: g}
			for _, m := range g.selected(e) {
				if !seen[m.Name] {
					rg.Machines = append(rg.Machines, m)
				}
				seen[m.Name] = true
			}
			out = append(out, rg)
		}
	}
	return out
}

// selected is every machine the references of a group mean, a machine as often
// as it is meant.
func (g *Group) selected(e *Estate) []ResolvedMachine {
	var all []ResolvedMachine
	for i := range g.Machines {
		r := &g.Machines[i]
		if r.Tag == "" {
			if _, ok := e.Machine(r.Name); ok {
				all = append(all, ResolvedMachine{Name: r.Name, Ref: r})
			}
			continue
		}
		for _, name := range e.Tagged(r.Tag) {
			if !slices.Contains(r.Except, name) {
				all = append(all, ResolvedMachine{Name: name, Ref: r})
			}
		}
	}
	return all
}

// Steps calls f with every step of the plan in the order of the page and the
// place where it stands: "shutdown", "failover", "group" or "plan" (a wait).
func (p *Plan) Steps(f func(place string, s *Step)) {
	phase := func(place string, ph *Phase, before bool) {
		steps := ph.After
		if before {
			steps = ph.Before
		}
		for i := range steps {
			f(place, &steps[i])
		}
	}
	phase("shutdown", &p.Shutdown.Phase, true)
	phase("shutdown", &p.Shutdown.Phase, false)
	phase("failover", &p.Failover, true)
	phase("failover", &p.Failover, false)
	for i := range p.Items {
		if w := p.Items[i].Wait; w != nil {
			f("plan", w)
		}
		g := p.Items[i].Group
		if g == nil {
			continue
		}
		phase("group", &g.Phase, true)
		for j := range g.Machines {
			phase("group", &g.Machines[j].Phase, true)
			phase("group", &g.Machines[j].Phase, false)
		}
		phase("group", &g.Phase, false)
	}
}
