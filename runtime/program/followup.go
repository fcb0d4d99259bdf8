package program

import (
	"fmt"
	"slices"
	"strings"

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
// the new site, without the plan's steps. Both in group order. Before that the
// leases that the run has ended (leased) go on. Of some of those that go over
// nobody knows whether the new site was granted the authority (unclear): it is
// asked again, under the same operation id.
func CancelOf(p *Program, held, over, leased, unclear []string) *Program {
	var opens []Node
	for _, name := range leased {
		m, _ := p.Machine(name)
		opens = append(opens, one(Step{ID: "cancel/" + name + "/lease", Kind: Lease, Machine: name, Host: m.ToHost, Site: m.ToSite, OnFail: OnFailContinue,
			Title: fmt.Sprintf("let %s renew the lease of %s on %s again", m.ToHost, name, m.FromHost)}))
	}
	groups := slices.Concat([]Node{par(0, opens...)}, grantAgain(p, unclear), finish(p, over))
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
				m, _ := p.Machine(name)
				branches = append(branches, giveBack("cancel/", name, m.FromHost, m.FromSite))
			case slices.Contains(over, name):
				branches = append(branches, startOver(p, name))
			}
		}
		groups = append(groups, par(0, branches...))
	}
	return follow(p, SectionCancel, seq(groups...))
}

// grantAgain are the failover's own steps that grant the authority.
func grantAgain(p *Program, machines []string) []Node {
	var grants []Node
	for _, s := range p.Steps() {
		if s.Kind == Grant && slices.Contains(machines, s.Machine) {
			grants = append(grants, one(goOn(*s)))
		}
	}
	if len(grants) == 0 {
		return nil
	}
	return []Node{par(0, grants...)}
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

func giveBack(prefix, name, host, site string) Node {
	unlock := Step{ID: prefix + name + "/unlock", Kind: Unlock, Machine: name, Host: host, Site: site,
		Title: fmt.Sprintf("unlock %s on %s", name, host), OnFail: OnFailContinue}
	start := Step{ID: prefix + name + "/start", Kind: Restart, Machine: name, Host: host, Site: site,
		Title: fmt.Sprintf("start %s on %s again", name, host), OnFail: OnFailContinue, Requires: []string{unlock.ID}}
	return seq(one(unlock), one(start))
}

// StartThere is what is left to do of a failover whose machines are where it
// goes: those that a run which is over has left stopped and locked there are
// given back.
func StartThere(p *Program, locked []string) *Program {
	q := *p
	q.Machines = slices.Clone(p.Machines)
	var branches []Node
	for i := range q.Machines {
		if m := &q.Machines[i]; slices.Contains(locked, m.Name) {
			m.Skip = ""
			branches = append(branches, giveBack("again/", m.Name, m.ToHost, m.ToSite))
		}
	}
	return follow(&q, SectionFailover, seq(one(Step{ID: "claim", Kind: Claim, Title: "claim the machines at their agents"}), par(0, branches...)))
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
	if m.Discard {
		found.Discard, found.Title = true, fmt.Sprintf("discard what only the disks of %s on %s have", m.Name, m.ToHost)
	}
	grant := Step{ID: id + "epoch/" + m.FromHost, Kind: Grant, Machine: m.Name, Host: m.FromHost, Site: m.FromSite, Requires: []string{found.ID},
		Title: fmt.Sprintf("raise the epoch of %s: %s sends to %s", m.Name, m.FromHost, m.ToHost)}
	peer := Step{ID: id + "epoch/" + m.ToHost, Kind: GrantPeer, Machine: m.Name, Host: m.ToHost, Site: m.ToSite, Requires: []string{grant.ID},
		Title: fmt.Sprintf("tell %s the epoch of %s", m.ToHost, m.Name)}
	drain := Step{ID: id + "drain", Kind: Reseed, Machine: m.Name, Host: m.FromHost, Site: m.FromSite, Requires: []string{peer.ID},
		Title: fmt.Sprintf("send the first point of %s, %s → %s", m.Name, m.FromHost, m.ToHost)}
	return seq(one(learn), one(stop), one(found), one(grant), one(peer), one(drain))
}

// RollbackOf takes a failover back. The machines that were failed over (over)
// are stopped at the new site in reverse group order, the old site gets its
// authority back, and they are started there from their untouched disks in
// group order. Those that were only stopped (held) are unlocked and started.
// addresses are those at the old site. done are the plan's steps that were done:
// those that say rollback = "again" run once more behind that.
func RollbackOf(p *Program, over, held []string, addresses map[string]string, ready map[string]*recovery.Check, done []*Step) *Program {
	groups := p.inGroups()
	var nodes, back []Node
	for _, g := range slices.Backward(groups) {
		var halts []Node
		for _, m := range g {
			if slices.Contains(over, m.Name) {
				halts = append(halts, one(halt(m, "rollback/")))
			}
		}
		nodes = append(nodes, par(0, halts...))
	}
	for _, m := range p.Active() {
		if slices.Contains(over, m.Name) {
			back = append(back, returns(m))
		}
	}
	nodes = append(nodes, par(0, back...))
	for _, g := range groups {
		var starts []Node
		for _, m := range g {
			if slices.Contains(over, m.Name) || slices.Contains(held, m.Name) {
				starts = append(starts, startAtHome(m, slices.Contains(over, m.Name), addresses[m.Name], ready[m.Name]))
			}
		}
		nodes = append(nodes, par(0, starts...))
	}
	for _, s := range done {
		if s.Plan.Rollback == "again" {
			nodes = append(nodes, one(doAgain(p, *s)))
		}
	}
	return follow(p, SectionRollback, seq(nodes...))
}

// doAgain is a step of the plan as it runs behind a rollback: on the host where
// its machine is then.
func doAgain(p *Program, s Step) Step {
	s.ID, s.Requires, s.Skip, s.Source = "rollback/"+s.ID, nil, "", false
	if s.Plan.Exec != nil {
		if m, ok := p.Machine(s.Plan.Exec.On); ok {
			s.Title = strings.Replace(s.Title, "(on "+s.Host+")", "(on "+m.FromHost+")", 1)
			s.Host, s.Site = m.FromHost, m.FromSite
		}
	}
	return s
}

// inGroups returns the machines of the run group by group, in plan order.
func (p *Program) inGroups() [][]Machine {
	var out [][]Machine
	at := map[string]int{}
	for _, m := range p.Active() {
		i, seen := at[m.Group]
		if !seen {
			i = len(out)
			at[m.Group] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], m)
	}
	return out
}

// halt stops what runs at the new site, by force if need be: it ends anyhow,
// and its disks are kept as they are. Nobody starts it on them meanwhile.
func halt(m Machine, prefix string) Step {
	return Step{ID: prefix + m.Name + "/stop", Kind: Halt, Machine: m.Name, Group: m.Group, Host: m.ToHost, Site: m.ToSite,
		Within: MinStop, Force: true, Lock: true, Title: fmt.Sprintf("stop %s on %s", m.Name, m.ToHost)}
}

// returns gives the old site its authority back, first there: it is granted
// when the agent of the site that is to be active has stored it.
func returns(m Machine) Node {
	id := "rollback/" + m.Name + "/"
	back := Step{ID: id + "epoch/" + m.FromHost, Kind: Return, Machine: m.Name, Group: m.Group, Host: m.FromHost, Site: m.FromSite,
		Requires: []string{id + "stop"}, Title: fmt.Sprintf("raise the epoch of %s: active at %s again", m.Name, m.FromSite)}
	peer := Step{ID: id + "epoch/" + m.ToHost, Kind: ReturnPeer, Machine: m.Name, Group: m.Group, Host: m.ToHost, Site: m.ToSite,
		Requires: []string{back.ID}, Title: fmt.Sprintf("tell %s the epoch of %s; what ran there is kept as a point", m.ToHost, m.Name)}
	return seq(one(back), one(peer))
}

// startAtHome starts a machine on its own disks at the old site.
func startAtHome(m Machine, returned bool, ip string, check *recovery.Check) Node {
	id := "rollback/" + m.Name + "/"
	unlock := Step{ID: id + "unlock", Kind: Unlock, Machine: m.Name, Group: m.Group, Host: m.FromHost, Site: m.FromSite,
		Title: fmt.Sprintf("unlock %s on %s", m.Name, m.FromHost)}
	if returned {
		unlock.Requires = []string{id + "epoch/" + m.FromHost}
	}
	start := Step{ID: id + "start", Kind: Restart, Machine: m.Name, Group: m.Group, Host: m.FromHost, Site: m.FromSite, OnFail: OnFailContinue,
		Requires: []string{unlock.ID}, Title: fmt.Sprintf("start %s on %s", m.Name, m.FromHost)}
	nodes := []Node{one(unlock), one(start)}
	if check != nil {
		nodes = append(nodes, one(Step{ID: id + "ready", Kind: Ready, Machine: m.Name, Group: m.Group, Host: m.FromHost, Site: m.FromSite, IP: ip,
			Ready: check, Within: check.Within, OnFail: OnFailContinue, Requires: []string{start.ID},
			Title: fmt.Sprintf("%s is ready on %s: %s", m.Name, m.FromHost, question(check))}))
	}
	return seq(nodes...)
}

// ChangePointOf puts the machines of an uncommitted unplanned failover on
// another recovery point: stops them, keeps what they wrote as a point,
// prepares the one asked for and starts them in group order, without the plan's
// own steps. number tells this change from other ones of the run.
func ChangePointOf(p *Program, machines []string, point string, number int, ready map[string]*recovery.Check) *Program {
	prefix := fmt.Sprintf("%s/%d/", SectionPoint, number)
	groups := p.inGroups()
	for i := range groups {
		groups[i] = slices.DeleteFunc(groups[i], func(m Machine) bool { return !slices.Contains(machines, m.Name) })
	}
	var nodes, disks []Node
	for _, g := range slices.Backward(groups) {
		var halts []Node
		for _, m := range g {
			halts = append(halts, one(halt(m, prefix)))
		}
		nodes = append(nodes, par(0, halts...))
	}
	points := Step{ID: prefix + "points", Kind: Points, Title: "fix the recovery point of every machine: " + point}
	nodes = append(nodes, one(points))
	for _, g := range groups {
		for _, m := range g {
			disks = append(disks, one(Step{ID: prefix + m.Name + "/prepare", Kind: Prepare, Machine: m.Name, Group: m.Group, Host: m.ToHost, Site: m.ToSite,
				Requires: []string{points.ID}, Title: fmt.Sprintf("keep what %s wrote on %s as a point and prepare the disks of the other one", m.Name, m.ToHost)}))
		}
	}
	nodes = append(nodes, par(0, disks...))
	for _, g := range groups {
		var starts []Node
		for _, m := range g {
			starts = append(starts, startAgain(m, prefix, ready[m.Name]))
		}
		nodes = append(nodes, par(0, starts...))
	}
	nodes = append(nodes, one(Step{ID: prefix + "running", Kind: Running, Title: "every machine that was started runs", OnFail: OnFailContinue}))
	q := follow(p, SectionPoint, seq(nodes...))
	q.Point = point
	return q
}

func startAgain(m Machine, prefix string, check *recovery.Check) Node {
	unlock := Step{ID: prefix + m.Name + "/unlock", Kind: Unlock, Machine: m.Name, Group: m.Group, Host: m.ToHost, Site: m.ToSite, OnFail: OnFailContinue,
		Requires: []string{prefix + m.Name + "/prepare"}, Title: fmt.Sprintf("unlock %s on %s", m.Name, m.ToHost)}
	start := Step{ID: prefix + m.Name + "/start", Kind: Start, Machine: m.Name, Group: m.Group, Host: m.ToHost, Site: m.ToSite, OnFail: OnFailContinue,
		Requires: []string{unlock.ID}, Title: fmt.Sprintf("start %s on %s", m.Name, m.ToHost)}
	nodes := []Node{one(unlock), one(start)}
	if check != nil {
		nodes = append(nodes, one(Step{ID: prefix + m.Name + "/ready", Kind: Ready, Machine: m.Name, Group: m.Group, Host: m.ToHost, Site: m.ToSite,
			Ready: check, Within: check.Within, OnFail: OnFailContinue, Requires: []string{start.ID},
			Title: fmt.Sprintf("%s is ready: %s", m.Name, question(check))}))
	}
	return seq(nodes...)
}
