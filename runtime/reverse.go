package runtime

import (
	"context"
	"slices"
	"strings"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/state"
)

// Reverse starts a run that replicates machines back after a committed
// unplanned failover.
func (e *Engine) Reverse(ctx context.Context, req ReverseRequest) (string, error) {
	if err := e.askGuard(ctx, "")(); err != nil {
		return "", err
	}
	p, err := e.prepareReverse(ctx, &req)
	if err != nil {
		return "", err
	}
	return e.begin(ctx, &state.Run{ID: req.ID, Kind: report.KindReverse, StartedBy: req.By, EstateRev: p.rev, Discard: req.Discard}, p)
}

// ExplainReverse lists the steps of a reverse and starts nothing.
func (e *Engine) ExplainReverse(ctx context.Context, req ReverseRequest) (*report.Explain, error) {
	p, err := e.prepareReverse(ctx, &req)
	if err != nil {
		return nil, err
	}
	x := p.program.Explain(nil)
	return &x, nil
}

// prepareReverse finds the machines, their direction and the steps. All of them
// go back to one site: it is the name that a person types.
func (e *Engine) prepareReverse(ctx context.Context, req *ReverseRequest) (*prepared, error) {
	est, rev, err := e.cat.AppliedEstate(ctx)
	if err != nil {
		return nil, err
	}
	names := req.Machines
	name := "reverse"
	if req.Plan != "" || req.Bundle != nil {
		_, p, err := e.loadPlan(ctx, &Request{Plan: req.Plan, Bundle: req.Bundle})
		if err != nil {
			return nil, err
		}
		name = p.Name
		for _, g := range p.Resolve(est) {
			names = append(names, g.Names()...)
		}
	}
	if len(names) == 0 {
		return nil, fault.Errorf(fault.Invalid, "reverse needs a plan or machines")
	}
	machines, look, err := e.reverseMachines(ctx, names)
	if err != nil {
		return nil, err
	}
	for _, n := range req.Discard {
		i := slices.IndexFunc(machines, func(m program.Machine) bool { return m.Name == n })
		if i < 0 {
			return nil, fault.Errorf(fault.Invalid, "--discard-diverged %s: that machine is not one of this reverse (%s)", n, strings.Join(names, ", "))
		}
		machines[i].Discard = true
	}
	for _, m := range machines[1:] {
		if first := machines[0]; m.ToSite != first.ToSite {
			return nil, fault.Errorf(fault.Invalid, "%s would replicate to %s and %s to %s: a reverse goes to one site", first.Name, first.ToSite, m.Name, m.ToSite).
				WithHint("drrun reverse MACHINE… with the machines of one site, then those of the other")
		}
	}
	return &prepared{src: sources{estate: est}, rev: rev, program: program.Reverse(name, machines), seen: look.fence()}, nil
}

// reverseMachines finds the direction of each machine: active site → the other.
func (e *Engine) reverseMachines(ctx context.Context, names []string) ([]program.Machine, looked, error) {
	facts, look, err := e.facts(ctx, names)
	if err != nil {
		return nil, looked{}, err
	}
	var out []program.Machine
	for _, n := range names {
		m := program.Machine{Name: n}
		for _, h := range facts[n].Hosts {
			if h.Site == facts[n].Active {
				m.FromSite, m.FromHost = h.Site, h.Name
			} else {
				m.ToSite, m.ToHost, m.Back = h.Site, h.Name, h.Store != ""
			}
		}
		switch {
		case m.FromHost == "" || m.ToHost == "":
			return nil, looked{}, fault.Errorf(fault.Invalid, "machine %s has no second host to replicate to", n)
		case !m.Back:
			return nil, looked{}, fault.Errorf(fault.Refused, "host %s of machine %s has no store: it cannot receive", m.ToHost, n).
				WithHint("give %s a store in the estate, then: drrun apply", m.ToHost)
		}
		rec, err := look.newest(n)
		if err != nil {
			return nil, looked{}, err
		}
		switch {
		case rec.Uncommitted:
			return nil, looked{}, fault.Errorf(fault.Refused, "machine %s is failed over and not committed (run %s)", n, rec.Run).
				WithHint("drrun commit %s, then reverse", rec.Run)
		case len(rec.Direction) > 0:
			m.Skip = "replicates already"
		}
		out = append(out, m)
	}
	return out, look, nil
}
