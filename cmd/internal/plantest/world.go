package plantest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/simworld"
	"github.com/drrun/drrun/scripts"
	"github.com/drrun/drrun/scripts/registry"
)

// stage is one world with a runtime in it, for one plan.
type stage struct {
	subject *Subject
	w       *simworld.World
	rt      *Runtime
	expects []expectation
	ends    []func()
	golden  func(name, text string) error
	ran     func(*report.Run) // hears of every state of a run that a test has seen
	runs    []*runObject
	looked  bool // the test has asked for the violations
	waiting []pending
	served  []served
}

// expectation is what a world file wants at the end of a run.
type expectation struct {
	text string
	f    scripts.Function
}

// closing is how long, in virtual time, a runtime may take to end.
const closing = time.Minute

func newStage(ctx context.Context, s *Subject) (*stage, error) {
	w, err := simworld.New(s.Estate)
	if err != nil {
		return nil, err
	}
	st := &stage{subject: s, w: w, ran: func(*report.Run) {}}
	st.rt = NewRuntime(w, s.Bundle, s.Plan, s.Scripts(w), nil)
	if s.World != nil {
		end, err := s.lua.RunWorld(ctx, *s.World, worldObject{st})
		if err != nil {
			return nil, errors.Join(err, st.close(ctx))
		}
		st.ends = append(st.ends, end)
		st.waiting = nil // they are there for any test
	}
	return st, nil
}

func (st *stage) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing)
	defer cancel()
	err := st.rt.Close(ctx)
	for _, end := range st.ends {
		end()
	}
	return err
}

// worldObject is a world in Lua.
type worldObject struct{ *stage }

var _ scripts.Object = worldObject{}

// What implements scripts.Object.
func (worldObject) What() string { return "world" }

// Methods implements scripts.Object.
func (worldObject) Methods() []registry.Function { return registry.WorldMethods }

// Fields implements scripts.Object.
func (worldObject) Fields() []registry.Function { return nil }

// Field implements scripts.Object.
func (worldObject) Field(string) any { return nil }

// arguments reads the values that a method was given.
type arguments struct {
	at     plans.Pos
	method string
	list   []any
	err    error
}

func (a *arguments) fail(format string, args ...any) {
	if a.err == nil {
		a.err = errf("%s: "+format, append([]any{a.method}, args...)...)
	}
}

func (a *arguments) value(i int) any {
	if i < len(a.list) {
		return a.list[i]
	}
	return nil
}

func (a *arguments) text(i int, what string) string {
	s, ok := a.value(i).(string)
	if a.value(i) == nil {
		a.fail("argument %d is missing, want %s", i+1, what)
	} else if !ok {
		a.fail("argument %d is %v, want %s", i+1, a.value(i), what)
	}
	return s
}

func (a *arguments) number(i, def int) int {
	switch n := a.value(i).(type) {
	case nil:
		return def
	case float64:
		return int(n)
	default:
		a.fail("argument %d is %v, want a number", i+1, n)
	}
	return def
}

func (a *arguments) duration(i int) time.Duration {
	d, err := quantity.ParseDuration(a.text(i, `a duration like "10m"`))
	if err != nil {
		a.fail("%v", err)
	}
	return d
}

// table reads an options table with known keys.
func (a *arguments) table(i int, keys ...string) map[string]any {
	v := a.value(i)
	if v == nil {
		return nil
	}
	t, ok := v.(map[string]any)
	if !ok {
		a.fail("argument %d is %v, want a table of options", i+1, v)
		return nil
	}
	for _, k := range slices.Sorted(maps.Keys(t)) {
		if !slices.Contains(keys, k) {
			a.fail("unknown key %q%s", k, near(k, keys))
		}
	}
	return t
}

// near says which of known was probably meant.
func near(name string, known []string) string {
	if near := plans.Nearest(name, known); near != "" {
		return fmt.Sprintf(", did you mean %q?", near)
	}
	return ""
}

// unknown fails for a name that is none of those that the estate knows.
func (a *arguments) unknown(name, what string, known []string) {
	const few = 8 // so many are listed
	hint := near(name, known)
	if hint == "" && len(known) <= few {
		hint = ", it has " + strings.Join(known, ", ")
	}
	a.fail("%q is no %s of the estate%s", name, what, hint)
}

// isMachine reports whether the estate has a machine, and fails a where not.
func (st *stage) isMachine(a *arguments, name string) bool {
	_, ok := st.w.Where(name)
	if !ok {
		a.unknown(name, "machine", st.w.Names())
	}
	return ok
}

func (st *stage) hosts() (names []string) {
	for _, h := range st.w.Estate().Hosts() {
		names = append(names, h.Name)
	}
	return names
}

func (st *stage) sites() (names []string) {
	for _, s := range st.w.Estate().Sites {
		names = append(names, s.Name)
	}
	return names
}

func flag(t map[string]any, key string) bool { b, _ := t[key].(bool); return b }

func word(t map[string]any, key string) string { s, _ := t[key].(string); return s }

// Call implements scripts.Object.
func (o worldObject) Call(ctx context.Context, at plans.Pos, method string, args []any) (any, error) {
	a := &arguments{at: at, method: method, list: args}
	switch method {
	case "planned", "unplanned", "test":
		return o.run(ctx, recovery.Type(method), a)
	case "fail", "lose", "delay":
		return nil, o.trouble(method, a)
	case "partition", "heal", "down", "up":
		return nil, o.place(method, a)
	case "crash_runtime_at":
		maybe := a.maybe()
		if n := a.number(0, 0); a.err == nil && n > 0 {
			o.rt.DieAt(n, false)
			o.dies(a, maybe)
		} else {
			a.fail("the number of a journal record, from 1")
		}
	case "needs":
		machine := a.text(0, "a machine")
		for i := 1; i < max(2, len(args)); i++ {
			if other := a.text(i, "a machine"); a.err == nil && o.isMachine(a, machine) && o.isMachine(a, other) {
				o.w.Needs(machine, other)
			}
		}
	case "boot":
		machine, d := a.text(0, "a machine"), time.Duration(-1)
		if a.value(1) != "never" {
			d = a.duration(1)
		}
		if a.err == nil && o.isMachine(a, machine) {
			o.w.SetBoot(machine, d)
		}
	case "propagate":
		if d := a.duration(0); a.err == nil {
			o.w.Propagate(d)
		}
	case "serve":
		return nil, o.serve(a)
	case "harmless":
		if s := a.text(0, "a text"); a.err == nil {
			o.w.Harmless(s)
		}
	case "expect":
		f, ok := a.value(1).(scripts.Function)
		if !ok {
			a.fail("argument 2 is no function")
		}
		o.expects = append(o.expects, expectation{a.text(0, "a text"), f})
	case "sleep":
		if d := a.duration(0); a.err == nil {
			<-time.After(d)
			return nil, o.lookAgain(ctx)
		}
	default:
		return o.look(method, a)
	}
	return nil, a.err
}

// look are the methods that only read.
func (o worldObject) look(method string, a *arguments) (any, error) {
	switch method {
	case "machine":
		name := a.text(0, "a machine")
		if a.err == nil {
			o.isMachine(a, name)
		}
		p, _ := o.w.Where(name)
		return map[string]any{"name": name, "site": p.Site, "state": lifeOf(p), "power": string(p.Power), "answers": p.Answers, "tests": p.Tests}, a.err
	case "record":
		t := a.table(1, "type", "server")
		return anys(o.w.Name(a.text(0, "a name"), word(t, "type"))), a.err
	case "effects":
		part, out := "", []any{}
		if a.value(0) != nil {
			part = a.text(0, "a text")
		}
		for _, e := range o.w.Effects() {
			if strings.Contains(e.Text, part) {
				out = append(out, e.Text)
			}
		}
		return out, a.err
	case "violations":
		o.looked = true
		out := []any{}
		for _, v := range o.w.Violations() {
			out = append(out, map[string]any{"rule": v.Rule, "text": v.Text, "step": v.Step})
		}
		return out, nil
	case "now":
		return o.w.Since().Seconds(), nil
	}
	return nil, errf("a world has no method %s", method)
}

func anys(s []string) []any {
	out := make([]any, len(s))
	for i := range s {
		out[i] = s[i]
	}
	return out
}

// lifeOf is a machine's place in its life in a word.
func lifeOf(p simworld.Place) string {
	switch {
	case p.Uncommitted:
		return string(recovery.FailedOver)
	case len(p.Direction) == 0:
		return string(recovery.Unprotected)
	}
	return string(recovery.Protected)
}

func (o worldObject) run(ctx context.Context, typ recovery.Type, a *arguments) (any, error) {
	t := a.table(0, "failback", "commit", "cleanup", "point", "set", "source_is_down", "force", "no_shutdown", "no_proof", "unattended", "ttl")
	req := runtime.Request{Type: typ, Failback: flag(t, "failback"), Commit: flag(t, "commit"), Cleanup: flag(t, "cleanup"), Point: word(t, "point"),
		SourceIsDown: flag(t, "source_is_down"), Force: flag(t, "force"), NoShutdown: flag(t, "no_shutdown"), NoProof: flag(t, "no_proof"), Unattended: flag(t, "unattended")}
	if s := word(t, "ttl"); s != "" {
		d, err := quantity.ParseDuration(s)
		if err != nil {
			a.fail("ttl: %v", err)
		}
		req.TTL = d
	}
	if set, ok := t["set"].(map[string]any); ok {
		req.Set = map[string]string{}
		for k, v := range set {
			req.Set[k] = fmt.Sprint(v)
		}
	}
	if a.err != nil {
		return nil, a.err
	}
	r, err := o.rt.Start(ctx, req)
	if err != nil {
		return nil, withHint(err)
	}
	o.ran(r)
	ro := &runObject{stage: o.stage, run: r}
	o.runs = append(o.runs, ro)
	return ro, nil
}

// lookAgain brings the runs that a test has up to date: time has passed.
func (st *stage) lookAgain(ctx context.Context) error {
	for _, ro := range st.runs {
		r, err := st.rt.Settle(ctx, ro.run.ID)
		if err != nil {
			return withHint(err)
		}
		ro.run = r
		st.ran(r)
	}
	return nil
}

// withHint puts what to do into the text of an error.
func withHint(err error) error {
	if h := fault.Hint(err); h != "" {
		return fmt.Errorf("%w (%s)", err, h)
	}
	return err
}

// verbs are the words of a test for what agents do.
var verbs = map[string]string{"stop": command.Stop.Name, "drain": command.Drain.Name, "prepare": command.Prepare.Name, "start": command.Start.Name,
	"grant": command.Grant.Name, "claim": command.Claim.Name, "proof": command.Proof.Name, "commit": command.Commit.Name, "cleanup": command.Cleanup.Name,
	"unlock": command.Unlock.Name, "check": command.Check.Name, "exec": command.Exec.Name, "status": command.Status.Name, "found": command.Found.Name}

// calls are what a test can break of the calls of a plan's functions.
var calls = []string{"http", "dns", "tcp", "exec"}

func (o worldObject) trouble(method string, a *arguments) error {
	maybe := a.maybe()
	what := a.text(0, "a machine, a host, or "+strings.Join(calls, ", "))
	if _, ok := o.w.Where(what); a.err == nil && !ok && !o.w.Host(what) && !slices.Contains(calls, what) {
		a.unknown(what, "machine and no host", slices.Concat(o.w.Names(), o.hosts(), calls))
	}
	verb := a.text(1, "a verb")
	f := simworld.Fault{Times: 1}
	switch {
	case a.err != nil:
		return a.err
	case slices.Contains(calls, what):
		f.Verb, f.Text = what, verb
	case o.w.Host(what):
		f.Host = what
	default:
		f.Machine = what
	}
	if f.Verb == "" {
		if verb == "ready" {
			return o.notReady(method, what, a)
		}
		known, ok := verbs[verb]
		if !ok {
			return errf("%s: there is no verb %q (%s, ready)", method, verb, strings.Join(slices.Sorted(maps.Keys(verbs)), ", "))
		}
		f.Verb = known
	}
	switch method {
	case "delay":
		f.Delay = a.duration(2)
	case "lose":
		f.Lost = true
		f.Times = a.number(2, 1)
	default:
		f.Times = a.number(2, 1)
	}
	if a.err == nil {
		o.breaks(a, f, maybe)
	}
	return a.err
}

// notReady lets the services of a machine answer later, or not at all.
func (o worldObject) notReady(method, machine string, a *arguments) error {
	switch method {
	case "delay":
		if d := a.duration(2); a.err == nil && o.isMachine(a, machine) {
			o.w.SetBoot(machine, simworld.DefaultBoot+d)
		}
	default:
		if o.isMachine(a, machine) {
			o.w.Silence(machine, true)
		}
	}
	return a.err
}

func (o worldObject) place(method string, a *arguments) error {
	if method == "heal" && len(a.list) == 0 {
		o.w.Mend()
		return nil
	}
	name := a.text(0, "a site or a host")
	var hosts []string
	switch {
	case a.err != nil:
		return a.err
	case o.w.Site(name):
		hosts = o.w.Hosts(name)
	case o.w.Host(name):
		hosts = []string{name}
	default:
		a.unknown(name, "site and no host", slices.Concat(o.sites(), o.hosts()))
		return a.err
	}
	for _, h := range hosts {
		switch method {
		case "partition":
			o.w.Partition(h)
		case "heal":
			o.w.Heal(h)
		case "down":
			o.w.Down(h)
		case "up":
			o.w.Up(h)
		}
	}
	return nil
}

func (o worldObject) serve(a *arguments) error {
	t := a.table(0, "http", "tcp", "dns", "exec", "status", "body", "values", "exit", "output", "down")
	if a.err != nil {
		return a.err
	}
	s := simworld.Server{HTTP: word(t, "http"), TCP: word(t, "tcp"), DNS: word(t, "dns"), Exec: word(t, "exec"), Status: 200, Body: word(t, "body"),
		Output: word(t, "output"), Down: flag(t, "down")}
	if n, ok := t["status"].(float64); ok {
		s.Status = int(n)
	}
	if n, ok := t["exit"].(float64); ok {
		s.Exit = int(n)
	}
	if list, ok := t["values"].([]any); ok {
		for _, v := range list {
			s.Values = append(s.Values, fmt.Sprint(v))
		}
	}
	if s.HTTP+s.TCP+s.DNS+s.Exec == "" {
		return errf("serve: say what answers: http, tcp, dns or exec")
	}
	o.served = append(o.served, served{server: o.w.Serve(s), At: a.at, What: s.Name()})
	return nil
}
