package program

import (
	"fmt"
	"slices"

	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
)

// follow makes a program of another section of a run.
func follow(p *Program, section string, root Node) *Program {
	q := *p
	q.Section, q.Root, q.Nothing = section, root, ""
	root.walk(0, func(_ int, s *Step) {
		s.Phase = section
		if s.Within == 0 {
			s.Within = plans.DefaultWithin
		}
		if s.OnFail == "" {
			s.OnFail = OnFailStop
		}
	})
	return &q
}

// CommitOf is the commit of a failover, for the machines that were failed
// over: the active site first, then the other one (after an unplanned run as
// far as it answers).
func CommitOf(p *Program, machines []string) *Program {
	var nodes []Node
	for _, m := range p.Active() {
		if !slices.Contains(machines, m.Name) {
			continue
		}
		commit := Step{ID: "commit/" + m.Name + "/" + m.ToHost, Kind: Commit, Machine: m.Name, Host: m.ToHost, Site: m.ToSite,
			Title: fmt.Sprintf("commit %s on %s", m.Name, m.ToHost)}
		peer := Step{ID: "commit/" + m.Name + "/" + m.FromHost, Kind: CommitPeer, Machine: m.Name, Host: m.FromHost, Site: m.FromSite,
			Title: fmt.Sprintf("commit %s on %s", m.Name, m.FromHost), Optional: p.Type == recovery.Unplanned}
		nodes = append(nodes, seq(one(commit), one(peer)))
	}
	return follow(p, SectionCommit, par(0, nodes...))
}

// CleanupOf ends a test: groups in reverse order.
func CleanupOf(p *Program) *Program {
	var nodes []Node
	for _, m := range slices.Backward(p.Active()) {
		nodes = append(nodes, one(Step{ID: "cleanup/" + m.Name, Kind: Cleanup, Machine: m.Name, Host: m.ToHost, Site: m.ToSite, Test: true,
			Title: fmt.Sprintf("clean up the test of %s on %s", m.Name, m.ToHost), OnFail: OnFailContinue}))
	}
	return follow(p, SectionCleanup, par(0, nodes...))
}

// CancelOf leaves no machine between two states. Those that were stopped and
// not failed over (held) are given back: their source is unlocked and started
// again. Those that were failed over and do not run yet (over) are started at
// the new site, without the plan's steps. Both in group order.
func CancelOf(p *Program, held, over []string) *Program {
	groups := finish(p, over)
	byGroup := p.Groups()
	seen := map[string]bool{}
	for _, m := range p.Machines {
		if seen[m.Group] {
			continue
		}
		seen[m.Group] = true
		var branches []Node
		for _, name := range byGroup[m.Group] {
			switch {
			case slices.Contains(held, name):
				branches = append(branches, giveBack(p, name))
			case slices.Contains(over, name):
				branches = append(branches, startOver(p, name))
			}
		}
		groups = append(groups, par(0, branches...))
	}
	return follow(p, SectionCancel, seq(groups...))
}

// finish is what has to be done before the first of the machines can start:
// its point and its disks, by the steps of the failover itself.
func finish(p *Program, machines []string) []Node {
	if len(machines) == 0 {
		return nil
	}
	var points, disks []Node
	for _, s := range p.Steps() {
		switch {
		case s.Kind == Points:
			points = append(points, one(goOn(*s)))
		case s.Kind == Prepare && slices.Contains(machines, s.Machine):
			disks = append(disks, one(goOn(*s)))
		}
	}
	return append(points, par(0, disks...))
}

// startOver is the machine's start at the new site.
func startOver(p *Program, name string) Node {
	for _, s := range p.Steps() {
		if s.Kind == Start && s.Machine == name {
			return one(goOn(*s))
		}
	}
	return Node{}
}

// goOn is a step of the failover as the cancel does it: the grant that it
// requires is done.
func goOn(s Step) Step {
	s.OnFail = OnFailContinue
	s.Requires = slices.DeleteFunc(slices.Clone(s.Requires), func(id string) bool { return id == grantID(s.Machine, s.Host) })
	return s
}

func giveBack(p *Program, name string) Node {
	m, _ := p.Machine(name)
	unlock := Step{ID: "cancel/" + name + "/unlock", Kind: Unlock, Machine: name, Host: m.FromHost, Site: m.FromSite,
		Title: fmt.Sprintf("unlock %s on %s", name, m.FromHost), OnFail: OnFailContinue}
	start := Step{ID: "cancel/" + name + "/start", Kind: Restart, Machine: name, Host: m.FromHost, Site: m.FromSite,
		Title: fmt.Sprintf("start %s on %s again", name, m.FromHost), OnFail: OnFailContinue, Requires: []string{unlock.ID}}
	return seq(one(unlock), one(start))
}

// Reverse replicates machines back after a committed unplanned failover.
// FromSite of a machine is its active site.
func Reverse(name string, machines []Machine) *Program {
	p := &Program{Version: Version, Plan: name, Machines: machines}
	if len(machines) > 0 {
		p.From, p.To = machines[0].FromSite, machines[0].ToSite
	}
	if len(p.Active()) == 0 {
		p.Section, p.Nothing = SectionReverse, "every machine replicates already"
		return p
	}
	var nodes []Node
	for _, m := range p.Active() {
		nodes = append(nodes, reverseOne(m))
	}
	return follow(p, SectionReverse, seq(
		one(Step{ID: "preflight", Kind: Preflight, Title: "both ends of every machine answer"}),
		one(Step{ID: "claim", Kind: Claim, Title: "claim the machines at their agents"}),
		par(0, nodes...)))
}

func reverseOne(m Machine) Node {
	id := "reverse/" + m.Name + "/"
	learn := Step{ID: id + "learn", Kind: Learn, Machine: m.Name, Host: m.ToHost, Site: m.ToSite,
		Title: fmt.Sprintf("tell %s that %s is active at %s", m.ToHost, m.Name, m.FromSite)}
	stop := Step{ID: id + "stop", Kind: Stop, Machine: m.Name, Host: m.ToHost, Site: m.ToSite, Requires: []string{learn.ID},
		Title: fmt.Sprintf("stop %s on %s and lock it", m.Name, m.ToHost)}
	found := Step{ID: id + "found", Kind: Found, Machine: m.Name, Host: m.ToHost, Site: m.ToSite, Requires: []string{stop.ID},
		Title: fmt.Sprintf("keep the disks of %s on %s as found", m.Name, m.ToHost)}
	grant := Step{ID: id + "epoch/" + m.FromHost, Kind: Grant, Machine: m.Name, Host: m.FromHost, Site: m.FromSite, Requires: []string{found.ID},
		Title: fmt.Sprintf("raise the epoch of %s: %s sends to %s", m.Name, m.FromHost, m.ToHost)}
	peer := Step{ID: id + "epoch/" + m.ToHost, Kind: GrantPeer, Machine: m.Name, Host: m.ToHost, Site: m.ToSite, Requires: []string{grant.ID},
		Title: fmt.Sprintf("tell %s the epoch of %s", m.ToHost, m.Name)}
	drain := Step{ID: id + "drain", Kind: Reseed, Machine: m.Name, Host: m.FromHost, Site: m.FromSite, Requires: []string{peer.ID},
		Title: fmt.Sprintf("send the first point of %s, %s → %s", m.Name, m.FromHost, m.ToHost)}
	return seq(one(learn), one(stop), one(found), one(grant), one(peer), one(drain))
}
