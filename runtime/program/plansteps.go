package program

import (
	"fmt"
	"slices"
	"strings"

	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
)

// place is where in the program a plan's step stands.
type place struct {
	group   string
	machine string
	source  bool   // around the shutdown: the machines are at the source
	skip    string // why everything there is skipped
}

func (c *compiler) planSteps(prefix, phase string, steps []plans.Step, at place) []Node {
	var out []Node
	for i := range steps {
		out = append(out, c.planStep(prefix, phase, &steps[i], at))
	}
	return out
}

func (c *compiler) planStep(prefix, phase string, ps *plans.Step, at place) Node {
	s := Step{ID: prefix + ps.Name, Kind: Kind(ps.Kind), Phase: phase, Group: at.group, Machine: at.machine, Within: ps.Within,
		Retry: ps.Retry, OnFail: ps.OnFail, Skip: at.skip, Plan: ps, Pos: &ps.Pos}
	if s.Skip == "" {
		s.Skip = c.filter(ps)
	}
	s.Source = at.source && c.unplanned()
	c.aim(&s, ps, at)
	s.Title = c.title(ps, s)
	if s.Kind == Wait && ps.OnFail == "" {
		s.OnFail = OnFailStop // a person who says stop means it, in every type
	}
	return one(c.step(s))
}

// filter returns why a step is not for this run, or "".
func (c *compiler) filter(ps *plans.Step) string {
	switch {
	case len(ps.Only) > 0 && !slices.Contains(ps.Only, c.req.Type):
		return "only for " + words(ps.Only)
	case slices.Contains(ps.Skip, c.req.Type):
		return "not in a " + string(c.req.Type) + " run"
	case ps.Direction != "" && ps.Direction != c.prog.Direction:
		return "only for a " + ps.Direction
	}
	return ""
}

func words(types []recovery.Type) string {
	s := make([]string, len(types))
	for i, t := range types {
		s[i] = string(t)
	}
	return strings.Join(s, ", ")
}

// aim sets the host that does a step: the one named, or the one that runs the
// machine named, at that time or at the end that `at` says.
func (c *compiler) aim(s *Step, ps *plans.Step, at place) {
	on := ""
	switch {
	case ps.Exec != nil:
		on = ps.Exec.On
	case ps.Check != nil:
		on = CheckMachine(&ps.Check.Check)
		if on == "" {
			on = at.machine
		}
	}
	if on == "" {
		return
	}
	m, ok := c.machines[on]
	if !ok {
		if site, known := c.estate.HostSite(on); known && ps.Exec != nil {
			s.Host, s.Site = on, site
		}
		return
	}
	source := at.source
	if ps.At != "" {
		source = ps.At == "source"
	}
	if m.Skip != "" {
		source = false // it is at the target already
	}
	if source {
		s.Host, s.Site = m.FromHost, m.FromSite
		return
	}
	s.Host, s.Site = m.ToHost, m.ToSite
}

// CheckMachine returns the host part of a check's address.
func CheckMachine(k *recovery.Check) string {
	addr := k.TCP
	if k.HTTP != "" {
		_, rest, found := strings.Cut(k.HTTP, "://")
		if !found {
			rest = k.HTTP
		}
		addr, _, _ = strings.Cut(rest, "/")
	}
	host, _, found := strings.Cut(addr, ":")
	if !found {
		return addr
	}
	return host
}

func (c *compiler) title(ps *plans.Step, s Step) string {
	what := ""
	switch {
	case ps.Exec != nil && ps.Exec.Sh != "":
		what = "sh: " + ps.Exec.Sh
	case ps.Exec != nil:
		what = strings.Join(ps.Exec.Cmd, " ")
	case ps.Check != nil && ps.Check.Func == nil:
		what = question(&ps.Check.Check)
	case ps.Wait != nil:
		what = ps.Wait.Ask
	}
	t := fmt.Sprintf("%s %q", ps.Kind, ps.Name)
	if what != "" {
		t += ": " + clip(what, 120)
	}
	if s.Host != "" {
		t += " (on " + s.Host + ")"
	}
	return t
}

func clip(s string, n int) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}
