package scripts

import (
	"fmt"
	"maps"
	"slices"
	"time"

	lua "github.com/yuin/gopher-lua"

	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts/registry"
	"github.com/drrun/drrun/scripts/sandbox"
	"github.com/drrun/drrun/scripts/syntax"
)

// function is a function of the plan, in the order of the page.
type function struct {
	fn      *lua.LFunction
	isCheck bool
}

// planBuilder turns the items of a page into a plan.
type planBuilder struct {
	*page
	funcs  []function
	params []string // names of the parameters, with a value or without
	known  reported
}

func (p *planBuilder) plan(root *node, set map[string]string) *plans.Plan {
	b := p.body(root)
	p.known.note(root, b)
	out := &plans.Plan{
		Name: root.name, From: get[string](b, "from"), To: get[string](b, "to"),
		RTO: get[time.Duration](b, "rto"), RPO: get[time.Duration](b, "rpo"), Point: get[string](b, "point"),
		Pos: root.pos,
	}
	out.Commit = p.commit(b)
	if d := get[*body](b, "drill"); d != nil {
		out.Drill = p.drill(d)
	}
	out.Params = p.parameters(b, set, out.Drill != nil)
	out.Secrets = p.namedSecrets()
	out.Machines = p.named(nil, func(u *syntax.Unit) []syntax.Import { return u.Machines })
	if s := get[*body](b, "shutdown"); s != nil {
		out.Shutdown = plans.Shutdown{Phase: p.phase(s), ForceAfter: get[time.Duration](s, "force_after")}
	}
	if f := get[*body](b, "failover"); f != nil {
		out.Failover = p.phase(f)
	}
	for _, n := range b.items {
		switch n.ctor.Name {
		case "group":
			out.Items = append(out.Items, plans.Item{Group: p.group(n)})
		case "wait":
			s := p.step(n)
			out.Items = append(out.Items, plans.Item{Wait: &s})
		}
	}
	return out
}

// namedSecrets are the secrets that the page makes and those that functions
// name, with their first place; nil when there is none.
func (p *planBuilder) namedSecrets() map[string]plans.Pos {
	return p.named(maps.Clone(p.secrets), func(u *syntax.Unit) []syntax.Import { return u.Secrets })
}

// named adds what the files name by constants, with their first place.
func (p *planBuilder) named(out map[string]plans.Pos, of func(*syntax.Unit) []syntax.Import) map[string]plans.Pos {
	if out == nil {
		out = make(map[string]plans.Pos)
	}
	for _, file := range slices.Sorted(maps.Keys(p.source.units)) {
		u := p.source.units[file]
		if u == nil {
			continue
		}
		for _, s := range of(u) {
			if _, known := out[s.Name]; !known {
				out[s.Name] = plans.Pos{File: file, Line: s.Line}
			}
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func (p *planBuilder) commit(b *body) plans.CommitPolicy {
	c := plans.CommitPolicy{Mode: "manual"}
	if w := get[string](b, "commit"); w != "" {
		c.Mode = w
	}
	if r := get[*body](b, "commit"); r != nil {
		c = plans.CommitPolicy{Mode: "window", Within: get[time.Duration](r, "within"), OnTimeout: get[string](r, "on_timeout")}
		if c.Within == 0 && !r.bad["within"] {
			p.fault(r.pos, "%s: within is missing", r.what)
		}
		if c.OnTimeout == "" && !r.bad["on_timeout"] {
			p.fault(r.pos, `%s: on_timeout is missing ("commit" or "rollback")`, r.what)
		}
	}
	return c
}

func (p *planBuilder) phase(b *body) plans.Phase {
	var ph plans.Phase
	for _, n := range get[[]*node](b, "before") {
		ph.Before = append(ph.Before, p.step(n))
	}
	for _, n := range get[[]*node](b, "after") {
		ph.After = append(ph.After, p.step(n))
	}
	return ph
}

func (p *planBuilder) group(n *node) *plans.Group {
	b := p.body(n)
	p.known.note(n, b)
	g := &plans.Group{Name: n.name, Parallel: get[int](b, "parallel"), Delay: get[time.Duration](b, "delay"), Pos: n.pos}
	if g.Parallel < 0 {
		p.fault(b.at("parallel"), "%s: parallel is negative", n)
	}
	// Functions are counted in the order of the page.
	for _, s := range get[[]*node](b, "before") {
		g.Before = append(g.Before, p.step(s))
	}
	for _, m := range b.items {
		g.Machines = append(g.Machines, p.machine(m))
	}
	for _, s := range get[[]*node](b, "after") {
		g.After = append(g.After, p.step(s))
	}
	return g
}

func (p *planBuilder) machine(n *node) plans.MachineRef {
	b := p.body(n)
	p.known.note(n, b)
	r := plans.MachineRef{Name: n.name, Pos: n.pos}
	if n.ctor.Name == "machines" {
		r.Tag, r.Except = get[string](b, "tag"), get[[]string](b, "except")
		if r.Tag == "" && !b.bad["tag"] && !b.absent {
			p.fault(n.pos, `machines: tag is missing (machines { tag = "…" })`)
		}
		return r
	}
	if r.Name == "" && !n.broken {
		p.fault(n.pos, "machine: its name is empty")
	}
	r.Phase = p.phase(b)
	r.Needs, r.Delay = get[[]string](b, "needs"), get[time.Duration](b, "delay")
	return r
}

func (p *planBuilder) step(n *node) plans.Step {
	b := p.body(n)
	s := plans.Step{
		Kind: plans.StepKind(n.ctor.Name), Name: n.name, Within: plans.DefaultWithin, Pos: n.pos,
		OnFail: get[string](b, "on_fail"), Direction: get[string](b, "direction"), At: get[string](b, "at"), Rollback: get[string](b, "rollback"),
		Only: get[[]recovery.Type](b, "only"), Skip: get[[]recovery.Type](b, "skip"),
	}
	if b.has("within") {
		s.Within = get[time.Duration](b, "within")
	}
	if r := get[*body](b, "retry"); r != nil {
		s.Retry = plans.Retry{Times: get[int](r, "times"), Every: get[time.Duration](r, "every")}
	}
	switch s.Kind {
	case plans.StepExec:
		s.Exec = &plans.ExecStep{Cmd: get[[]string](b, "cmd"), Sh: get[string](b, "sh"), On: get[string](b, "on")}
	case plans.StepCheck:
		s.Check = p.check(b, s.Within)
	case plans.StepWait:
		s.Wait = &plans.WaitStep{Ask: get[string](b, "ask"), Role: get[string](b, "role"),
			OnTimeout: get[string](b, "on_timeout"), Unattended: get[string](b, "unattended"), Untimed: !b.has("within")}
		if s.Wait.OnTimeout == "" {
			s.Wait.OnTimeout = "stop"
		}
	case plans.StepAction:
		s.Action = p.function(b, false)
	}
	p.known.note(n, b)
	return s
}

func (p *planBuilder) function(b *body, isCheck bool) *plans.FuncRef {
	if b.fn == nil {
		return nil
	}
	p.funcs = append(p.funcs, function{b.fn, isCheck})
	return &plans.FuncRef{Index: len(p.funcs) - 1, Pos: b.fnPos}
}

func (p *planBuilder) check(b *body, within time.Duration) *plans.CheckStep {
	c := &plans.CheckStep{Check: question(b)}
	c.Within = within
	if c.Every == 0 {
		c.Every = plans.DefaultCheckEvery
	}
	c.Func = p.function(b, true)
	return c
}

// question reads the fields of a check.
func question(b *body) recovery.Check {
	return recovery.Check{
		TCP: get[string](b, "tcp"), HTTP: get[string](b, "http"), Expect: get[int](b, "expect"),
		Contains: get[string](b, "contains"), Exec: get[[]string](b, "exec"), Every: get[time.Duration](b, "every"),
		Within: get[time.Duration](b, "within"),
	}
}

func (p *planBuilder) drill(b *body) *plans.Drill {
	d := &plans.Drill{
		Cron: get[string](b, "cron"), On: get[string](b, "on"), TZ: get[string](b, "tz"), Point: get[string](b, "point"),
		TTL: get[time.Duration](b, "ttl"), Missed: get[string](b, "missed"), Overlap: get[string](b, "overlap"),
		Deadline: get[time.Duration](b, "deadline"), Jitter: get[time.Duration](b, "jitter"),
		Blackout: get[[]string](b, "blackout"), Pos: b.pos,
	}
	if _, err := time.LoadLocation(d.TZ); err != nil {
		p.fault(b.at("tz"), "drill: tz is %q, which is no time zone (write Europe/Paris)", d.TZ)
		d.TZ = ""
	}
	p.schedule(b, d)
	return d
}

// parameters reads the typed parameters and what --set gave them.
func (p *planBuilder) parameters(b *body, set map[string]string, drill bool) map[string]any {
	out := make(map[string]any)
	t := get[*lua.LTable](b, "params")
	if t != nil {
		sandbox.ForEach(t, func(k, v lua.LValue) {
			name, ok := k.(lua.LString)
			if !ok {
				p.fault(b.at("params"), "plan: params: a key is %s, want a name", describe(k))
				return
			}
			p.params = append(p.params, string(name))
			if val := p.param(p.keyPos(t, string(name), b.at("params")), string(name), v, set, drill); val != nil {
				out[string(name)] = val
			}
		})
	}
	for name := range set {
		if !slices.Contains(p.params, name) {
			p.faultNear(b.pos, name, p.params, "--set %s: the plan has no parameter of this name", name)
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// keyPos is the place of a key of a table written on the page.
func (p *page) keyPos(t *lua.LTable, key string, or plans.Pos) plans.Pos {
	if l, ok := p.tables[t].Keys[key]; ok {
		return plans.Pos{File: p.files[t], Line: l}
	}
	return or
}

// param reads one parameter: a default, which says its type, or a table.
func (p *planBuilder) param(pos plans.Pos, name string, v lua.LValue, set map[string]string, drill bool) any {
	what := fmt.Sprintf("plan: params: %s", name)
	kind, def := "", v
	var choices []string
	required := false
	if t, ok := v.(*lua.LTable); ok {
		def = t.RawGetString("default")
		r := p.record(what, pos, t, slices.DeleteFunc(registry.ParamFields(), func(f registry.Field) bool { return f.Name == "default" && def == lua.LNil }))
		kind, choices, required = get[string](r, "type"), get[[]string](r, "choices"), get[bool](r, "required")
	}
	var val any
	switch d := def.(type) {
	case lua.LString:
		if !p.text(what, pos, string(d)) {
			return nil
		}
		val = string(d)
		kind = or(kind, "string")
	case lua.LNumber:
		val = float64(d)
		kind = or(kind, "number")
	case lua.LBool:
		val = bool(d)
		kind = or(kind, "boolean")
	case *lua.LNilType:
		kind = or(kind, "string")
	default:
		p.fault(pos, "%s is %s, want a string, a number, true or false", what, describe(def))
		return nil
	}
	if required && val == nil && drill {
		p.fault(pos, "%s is required, and in a drill nobody gives it: give it a default", what)
		return nil
	}
	if text, ok := set[name]; ok {
		val = text
	}
	if val == nil {
		if required && p.wantParams {
			p.fault(pos, "%s: it has no default: give it with --set %s=…", what, name)
		}
		return nil
	}
	got, err := typed(kind, val, choices)
	if err != nil {
		p.fault(pos, "%s: %v", what, err)
		return nil
	}
	return got
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
