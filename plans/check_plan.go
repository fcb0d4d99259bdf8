package plans

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

// Commands are the words a plan cannot be named by: commands of drrun.
var Commands = []string{
	"answer", "apply", "cancel", "change-point", "check", "cleanup", "commit", "demo", "drill", "explain", "explore",
	"failover", "help", "hrl", "init", "pause", "points", "recover", "report", "resume", "reverse", "rollback",
	"runs", "serve", "show", "state", "status", "test", "token", "unprotect", "version", "watch",
}

var (
	directions = []string{"failover", "failback"}
	onFails    = []string{"stop", "continue", "ask"}
	ends       = []string{"source", "target"}
)

// ValidatePlan checks what a plan says by itself, without an estate. The error
// is nil or Faults with every mistake.
func ValidatePlan(p *Plan) error {
	var fs Faults
	fs.planHead(p)
	fs.planGroups(p)
	p.Steps(func(place string, s *Step) { fs.step(p, place, s) })
	return fs.Sorted().Err()
}

func (fs *Faults) planHead(p *Plan) {
	if err := ident.CheckName(p.Name); err != nil {
		fs.add(p.Pos, "plan: %v", err)
	}
	if slices.Contains(Commands, p.Name) {
		fs.add(p.Pos, "plan: %q is a command of drrun and cannot be a plan's name", p.Name)
	}
	switch {
	case p.From == "":
		fs.add(p.Pos, "plan: from is missing (the site whose machines it protects)")
	case p.To == "":
		fs.add(p.Pos, "plan: to is missing (the site the machines go to)")
	case p.From == p.To:
		fs.add(p.Pos, "plan: from and to are the same site %q", p.To)
	}
	if len(p.groups()) == 0 {
		fs.add(p.Pos, "plan: it has no group")
	}
	if d := p.Drill; d != nil && (d.Cron == "") == (d.On == "") {
		fs.add(d.Pos, `drill: one of cron ("0 3 * * SUN") and on ("first sunday 03:00") is needed, and only one`)
	}
}

func (p *Plan) groups() []*Group {
	var gs []*Group
	for _, it := range p.Items {
		if it.Group != nil {
			gs = append(gs, it.Group)
		}
	}
	return gs
}

func (fs *Faults) planGroups(p *Plan) {
	groups, machines := make(map[string]Pos), make(map[string]string)
	for _, g := range p.groups() {
		if first, dup := groups[g.Name]; dup {
			fs.add(g.Pos, "group: the name %q is used twice, first in line %d", g.Name, first.Line)
		}
		groups[g.Name] = g.Pos
		fs.title(g.Pos, "group", g.Name)
		if len(g.Machines) == 0 {
			fs.add(g.Pos, "group %q: it has no machine", g.Name)
		}
		for _, r := range g.Machines {
			if r.Name == "" {
				continue
			}
			if where, dup := machines[r.Name]; dup {
				fs.add(r.Pos, "machine %q stands in the plan twice, first in group %q", r.Name, where)
			} else {
				machines[r.Name] = g.Name
			}
		}
		fs.needs(g)
	}
	steps := make(map[string]Pos)
	p.Steps(func(_ string, s *Step) {
		key := string(s.Kind) + " " + s.Name
		if first, dup := steps[key]; dup && s.Kind == StepWait {
			fs.add(s.Pos, "wait: the name %q is used twice, first in line %d", s.Name, first.Line)
		}
		steps[key] = s.Pos
	})
}

// needs checks that machines need machines of their group, without a circle.
func (fs *Faults) needs(g *Group) {
	edges := make(map[string][]string)
	var names []string
	tags := false
	for _, r := range g.Machines {
		names = append(names, r.Name)
		edges[r.Name] = r.Needs
		tags = tags || r.Tag != ""
	}
	for _, r := range g.Machines {
		for _, n := range r.Needs {
			if !slices.Contains(names, n) && !tags {
				fs.addNear(r.Pos, n, names, "machine %q: needs %q, which is not in group %q", r.Name, n, g.Name)
			}
		}
	}
	state := make(map[string]int) // 1: being visited, 2: done
	var visit func(string) bool
	visit = func(n string) bool {
		if state[n] != 0 {
			return state[n] == 1
		}
		state[n] = 1
		if slices.ContainsFunc(edges[n], visit) {
			return true
		}
		state[n] = 2
		return false
	}
	if i := slices.IndexFunc(names, visit); i >= 0 {
		fs.add(g.Machines[i].Pos, "group %q: the needs of its machines go in a circle", g.Name)
	}
}

// maxTitle is the longest name of a group or a step, in characters.
const maxTitle = 200

// title checks the name of a group or a step: words for people on one line,
// and part of the step's id in the journal.
func (fs *Faults) title(p Pos, kind, name string) {
	switch {
	case strings.TrimSpace(name) == "":
		fs.add(p, "%s: its name is empty", kind)
	case utf8.RuneCountInString(name) > maxTitle:
		fs.add(p, "%s: its name is longer than %d characters", kind, maxTitle)
	case strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		fs.add(p, "%s %q: its name is not on one line, or has characters that do not print", kind, name)
	}
}

func (fs *Faults) step(p *Plan, place string, s *Step) {
	what := fmt.Sprintf("%s %q", s.Kind, s.Name)
	fs.title(s.Pos, string(s.Kind), s.Name)
	if len(s.Only) > 0 && len(s.Skip) > 0 {
		fs.add(s.Pos, "%s: only and skip cannot both be said", what)
	}
	effects := s.Kind == StepExec || s.Kind == StepAction
	if effects && place != "shutdown" && len(s.Only) == 0 && len(s.Skip) == 0 {
		fs.add(s.Pos, `%s: say when it runs: only = "planned", skip = "test", or only = "any" for everywhere`, what)
	}
	fs.word(s.Pos, what, "direction", s.Direction, directions)
	fs.word(s.Pos, what, "on_fail", s.OnFail, onFails)
	fs.word(s.Pos, what, "at", s.At, ends)
	if s.Retry.Times < 0 {
		fs.add(s.Pos, "%s: retry.times is negative", what)
	}
	if s.Retry.Every > s.Within && s.Within > 0 {
		fs.add(s.Pos, "%s: retry.every is longer than within, the time of the whole step (%s > %s): it would never be tried again",
			what, written(s.Retry.Every), written(s.Within))
	}
	switch s.Kind {
	case StepExec:
		fs.execStep(what, s)
	case StepCheck:
		fs.checkStep(what, s)
	case StepWait:
		fs.waitStep(p, place, what, s)
	case StepAction:
		if s.Action == nil {
			fs.add(s.Pos, "%s: its function(run) … end is missing", what)
		}
	}
}

func (fs *Faults) word(p Pos, what, key, got string, words []string) {
	if got != "" && !slices.Contains(words, got) {
		fs.addNear(p, got, words, "%s: %s is %q, want %s", what, key, got, orList(words))
	}
}

func (fs *Faults) execStep(what string, s *Step) {
	if s.Exec == nil || (len(s.Exec.Cmd) == 0) == (s.Exec.Sh == "") {
		fs.add(s.Pos, "%s: one of cmd and sh is needed, and only one", what)
	}
	if s.Exec != nil && s.At != "" && s.Exec.On == "" {
		fs.add(s.Pos, "%s: at needs on, the machine whose site is meant", what)
	}
}

func (fs *Faults) checkStep(what string, s *Step) {
	c := s.Check
	if c == nil {
		fs.add(s.Pos, "%s: one of tcp, http, exec and a function is needed", what)
		return
	}
	fs.checkBody(s.Pos, what, c.Check, c.Func != nil)
}

// checkBody wants exactly one question.
func (fs *Faults) checkBody(p Pos, what string, c recovery.Check, isFunc bool) {
	n := 0
	for _, set := range []bool{c.TCP != "", c.HTTP != "", len(c.Exec) > 0, isFunc} {
		if set {
			n++
		}
	}
	if n != 1 {
		fs.add(p, "%s: one of tcp, http, exec and a function is needed, and only one", what)
	}
	if c.HTTP == "" && (c.Expect != 0 || c.Contains != "" && len(c.Exec) == 0) {
		fs.add(p, "%s: expect and contains belong to http", what)
	}
	if c.Every > c.Within && c.Within > 0 && c.Every != DefaultCheckEvery { // the default: see Doubts
		fs.add(p, "%s: every is longer than within (%s > %s): it would be asked only once", what, written(c.Every), written(c.Within))
	}
	if c.Expect != 0 && (c.Expect < 100 || c.Expect > 599) {
		fs.add(p, "%s: expect is %d, which is no status of HTTP", what, c.Expect)
	}
	if c.TCP != "" {
		if _, port, ok := splitTarget(c.TCP); !ok || !isPort(port) {
			fs.add(p, `%s: tcp is %q, want host:port or ":port" for the machine itself`, what, c.TCP)
		}
	}
	if c.HTTP != "" {
		if _, ok := httpHost(c.HTTP); !ok {
			fs.add(p, `%s: http is %q, want a URL or ":port/path" for the machine itself`, what, c.HTTP)
		}
	}
}

func (fs *Faults) waitStep(p *Plan, place, what string, s *Step) {
	w := s.Wait
	if w == nil || w.Ask == "" {
		fs.add(s.Pos, "%s: ask is missing, the question to the person", what)
	}
	if w == nil {
		return
	}
	fs.word(s.Pos, what, "on_timeout", w.OnTimeout, []string{"stop", "continue"})
	fs.word(s.Pos, what, "unattended", w.Unattended, []string{"go", "stop"})
	if p.Drill != nil && s.RunsIn(place, recovery.Test) && w.Unattended == "" {
		fs.add(s.Pos, `%s: the plan has a drill, which is a test without people: say skip = "test" (or only = "planned", …), or unattended = "go" or "stop"`, what)
	}
}

// HasPlace reports whether runs of a type come to a place of the plan, as Steps
// names them: a test stops no source machine, so it has no shutdown.
func HasPlace(place string, t recovery.Type) bool { return place != "shutdown" || t != recovery.Test }

// RunsIn reports whether a step that stands at a place is in runs of a type.
func (s *Step) RunsIn(place string, t recovery.Type) bool {
	return HasPlace(place, t) && !slices.Contains(s.Skip, t) && (len(s.Only) == 0 || slices.Contains(s.Only, t))
}

// HeldBack reports whether the filter of a step keeps it out of a run that comes
// to its place.
func (s *Step) HeldBack(place string) bool {
	return s.Direction != "" || slices.ContainsFunc(AllTypes(), func(t recovery.Type) bool { return HasPlace(place, t) && !s.RunsIn(place, t) })
}

// orList writes "a, b or c".
func orList(words []string) string {
	out := ""
	for i, w := range words {
		switch {
		case i == 0:
		case i == len(words)-1:
			out += " or "
		default:
			out += ", "
		}
		out += fmt.Sprintf("%q", w)
	}
	return out
}
