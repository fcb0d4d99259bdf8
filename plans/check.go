package plans

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/drrun/drrun/internal/recovery"
)

// Check checks a plan against the estate it is to run in, and by itself. The
// error is nil or Faults with every mistake.
func Check(p *Plan, e *Estate) error {
	var fs Faults
	if err := ValidatePlan(p); err != nil {
		fs = append(fs, err.(Faults)...) //nolint:errorlint // it is nil or Faults
	}
	return append(fs, References(p, e)...).Sorted().Err()
}

// References returns the mistakes of a plan that only an estate can show: what
// it names and the estate does not have. The plan may be one of which only a
// part could be read.
func References(p *Plan, e *Estate) Faults {
	c := planCheck{Plan: p, e: e, inPlan: p.machinesOf(e)}
	c.sites()
	c.machines()
	p.Steps(c.step)
	c.secrets()
	return c.fs.Sorted()
}

// planCheck collects the faults of a plan against an estate.
type planCheck struct {
	*Plan
	e      *Estate
	inPlan []string // names of its machines, sorted
	fs     Faults
}

// machinesOf returns the names of the plan's machines, sorted.
func (p *Plan) machinesOf(e *Estate) (names []string) {
	for _, g := range p.Resolve(e) {
		names = append(names, g.Names()...)
	}
	slices.Sort(names)
	return names
}

func (c *planCheck) sites() {
	for _, s := range []struct{ key, name string }{{"from", c.From}, {"to", c.To}} {
		if _, ok := c.e.Site(s.name); !ok && s.name != "" {
			c.fs.addNear(c.Pos, s.name, c.siteNames(), "plan: %s is %q, which is no site of the estate", s.key, s.name)
		}
	}
}

func (c *planCheck) secrets() {
	var names []string
	for _, s := range c.e.Secrets {
		names = append(names, s.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Secrets)) {
		if !slices.Contains(names, name) {
			c.fs.addNear(c.Secrets[name], name, names, "secret %q is not in the estate", name)
		}
	}
}

func (c *planCheck) siteNames() []string {
	var names []string
	for _, s := range c.e.Sites {
		names = append(names, s.Name)
	}
	return names
}

func (c *planCheck) machineNames() []string {
	var names []string
	for _, m := range c.e.Machines {
		names = append(names, m.Name)
	}
	return names
}

func (c *planCheck) tags() []string {
	var tags []string
	for _, m := range c.e.Machines {
		tags = append(tags, m.Tags...)
	}
	slices.Sort(tags)
	return slices.Compact(tags)
}

func (c *planCheck) machines() {
	for _, g := range c.groups() {
		for _, r := range g.Machines {
			c.ref(r)
		}
	}
	seen := make(map[string]ResolvedMachine)
	group := make(map[string]string)
	for _, g := range c.groups() {
		for _, m := range g.selected(c.e) {
			first, dup := seen[m.Name]
			switch {
			case !dup:
				seen[m.Name], group[m.Name] = m, g.Name
				c.protected(m)
			case m.Ref.Tag != "" || first.Ref.Tag != "": // two bare names: ValidatePlan says it
				c.fs.add(m.Ref.Pos, "machine %q is selected twice, first in group %q (line %d)", m.Name, group[m.Name], first.Ref.Pos.Line)
			}
		}
	}
	for _, g := range c.Resolve(c.e) {
		here := make(map[string]bool, len(g.Machines))
		for _, m := range g.Machines {
			here[m.Name] = true
		}
		for _, m := range g.Machines {
			for _, n := range m.Ref.Needs {
				if !here[n] {
					c.fs.addNear(m.Ref.Pos, n, g.Names(), "machine %q: needs %q, which is not in group %q", m.Name, n, g.Group.Name)
				}
			}
		}
	}
}

func (c *planCheck) ref(r MachineRef) {
	if r.Tag == "" {
		if _, ok := c.e.Machine(r.Name); !ok && r.Name != "" { // without a name: said by the page
			c.fs.addNear(r.Pos, r.Name, c.machineNames(), "machine %q is not in the estate", r.Name)
		}
		return
	}
	tagged := c.e.Tagged(r.Tag)
	if len(tagged) == 0 {
		c.fs.addNear(r.Pos, r.Tag, c.tags(), "machines: the tag %q selects no machine of the estate", r.Tag)
		return
	}
	for _, x := range r.Except {
		if !slices.Contains(tagged, x) {
			c.fs.addNear(r.Pos, x, tagged, "machines: except names %q, which has no tag %q", x, r.Tag)
		}
	}
	if !slices.ContainsFunc(tagged, func(n string) bool { return !slices.Contains(r.Except, n) }) {
		c.fs.add(r.Pos, "machines: except leaves none of the machines with the tag %q", r.Tag)
	}
}

// protected checks that a machine of the plan can go from one of its sites to
// the other.
func (c *planCheck) protected(rm ResolvedMachine) {
	m, ok := c.e.Machine(rm.Name)
	if !ok {
		return
	}
	if !m.Protected {
		c.fs.add(rm.Ref.Pos, "machine %q is not protected (protected = false in the estate)", m.Name)
		return
	}
	_, known := c.e.Site(c.From)
	_, knownTo := c.e.Site(c.To)
	if !known || !knownTo {
		return // said once, for the plan
	}
	home, _ := c.e.HomeSite(m.Name)
	if home != c.From && home != c.To && home != "" {
		c.fs.add(rm.Ref.Pos, "machine %q lives at %q, the plan goes from %q to %q", m.Name, home, c.From, c.To)
		return
	}
	site := ""
	for _, t := range c.e.Targets(m.Name) {
		if site, _ = c.e.HostSite(t.Name); site == c.From || site == c.To {
			return
		}
	}
	if site != "" {
		c.fs.add(rm.Ref.Pos, "machine %q is replicated to %q, the plan goes from %q to %q", m.Name, site, c.From, c.To)
	}
}

func (c *planCheck) step(_ string, s *Step) {
	what := fmt.Sprintf("%s %q", s.Kind, s.Name)
	switch {
	case s.Exec != nil && s.Exec.On != "":
		c.execOn(what, s)
	case s.Exec != nil:
		if program := s.Exec.Program(); !Allows(c.e.Allow, program) {
			c.fs.add(s.Pos, "%s: the estate does not allow the program %q on the controller (estate %q { allow = { %q }, … } lets plans run it; on = says a host)",
				what, program, c.e.Name, program)
		}
	case s.Check != nil && s.Check.TCP != "":
		host, _, _ := splitTarget(s.Check.TCP)
		c.checkHost(what, s.Pos, host)
	case s.Check != nil && s.Check.HTTP != "":
		host, _ := httpHost(s.Check.HTTP)
		c.checkHost(what, s.Pos, host)
	case s.Check != nil && len(s.Check.Exec) > 0:
		c.checkExec(what, s)
	}
}

// checkExec checks that a host of the plan's machines lets plans run the
// program of a check.
func (c *planCheck) checkExec(what string, s *Step) {
	var names []string
	for _, g := range c.Resolve(c.e) {
		for _, m := range g.Machines {
			for _, h := range c.hostsOf(m.Name) {
				if Allows(h.Allow, s.Check.Exec[0]) {
					return
				}
				names = append(names, h.Name)
			}
		}
	}
	if len(names) == 0 {
		return // that the plan has no machines is said
	}
	slices.Sort(names)
	c.fs.add(s.Pos, "%s: none of its hosts (%s) allows the program %q (allow = { %q } in the estate lets plans run it)",
		what, strings.Join(slices.Compact(names), ", "), s.Check.Exec[0], s.Check.Exec[0])
}

// execOn checks that every host the command may run on lets plans run it.
func (c *planCheck) execOn(what string, s *Step) {
	hosts := c.hostsOf(s.Exec.On)
	if len(hosts) == 0 {
		names := c.machineNames()
		for _, h := range c.e.Hosts() {
			names = append(names, h.Name)
		}
		c.fs.addNear(s.Pos, s.Exec.On, names, "%s: on is %q, which is no machine and no host of the estate", what, s.Exec.On)
		return
	}
	if _, isHost := c.e.Host(s.Exec.On); !isHost && !contains(c.inPlan, s.Exec.On) {
		c.fs.add(s.Pos, "%s: on is machine %q, which is not in the plan: name a machine of the plan, or a host", what, s.Exec.On)
		return
	}
	program := s.Exec.Program()
	for _, h := range hosts {
		if !Allows(h.Allow, program) {
			c.fs.add(s.Pos, "%s: host %q does not allow the program %q (allow = { %q } in the estate lets plans run it)",
				what, h.Name, program, program)
		}
	}
}

// contains reports whether a sorted list has a name.
func contains(sorted []string, name string) bool {
	_, has := slices.BinarySearch(sorted, name)
	return has
}

// hostsOf returns the hosts that on can mean: the host itself, or the home of a
// machine and every host its replica may be on.
func (c *planCheck) hostsOf(on string) []*Host {
	if h, ok := c.e.Host(on); ok {
		return []*Host{h}
	}
	m, ok := c.e.Machine(on)
	if !ok {
		return nil
	}
	var hosts []*Host
	if h, ok := c.e.Host(m.Host); ok {
		hosts = append(hosts, h)
	}
	return append(hosts, c.e.Targets(on)...)
}

// Program is what an allow list has to name: of a shell line sh.
func (s *ExecStep) Program() string {
	if len(s.Cmd) > 0 {
		return s.Cmd[0]
	}
	return "sh"
}

// Allows reports whether an allow list lets plans run a program: as it
// is written there, and as agents compare it. A shell line is the program sh.
func Allows(allow []string, program string) bool {
	return slices.Contains(allow, program) || program == "/bin/sh" && slices.Contains(allow, "sh")
}

// checkHost checks that a check asks a machine, or a name with a dot or an
// address of the world outside.
func (c *planCheck) checkHost(what string, p Pos, host string) {
	if _, ok := c.e.Machine(host); ok || strings.Contains(host, ".") || host == "localhost" {
		return
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return
	}
	if host == "" {
		c.fs.add(p, "%s: it names no machine (a step of a plan has no machine of its own)", what)
		return
	}
	c.fs.addNear(p, host, c.machineNames(), "%s: %q is no machine of the estate", what, host)
}

// isPort reports whether s is the number of a port.
func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// splitTarget splits host:port; the host may be empty.
func splitTarget(s string) (host, port string, ok bool) {
	host, port, err := net.SplitHostPort(s)
	return host, port, err == nil
}

// httpHost returns the host of a check's URL; "" for ":8080/path".
func httpHost(s string) (string, bool) {
	if strings.HasPrefix(s, ":") {
		s = "http://machine" + s
		u, err := url.Parse(s)
		return "", err == nil && isPort(u.Port())
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Port() != "" && !isPort(u.Port()) {
		return "", false
	}
	return u.Hostname(), true
}

// AllTypes is what only = "any" means.
func AllTypes() []recovery.Type {
	return []recovery.Type{recovery.Test, recovery.Planned, recovery.Unplanned}
}
