package plantest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/simworld"
)

// pending is a fault that a test has asked for, until it strikes: one that does
// not is a test that shows nothing of what it is there for.
type pending struct {
	at    plans.Pos
	call  string
	fault *simworld.Fault // nil: a death of the runtime
	rt    *Runtime
	heard []string
}

// maybe takes the options of a fault off the end of the arguments: whether it may
// be that it never strikes.
func (a *arguments) maybe() bool {
	n := len(a.list) - 1
	if n < 0 {
		return false
	}
	if _, ok := a.list[n].(map[string]any); !ok {
		return false
	}
	t := a.table(n, "maybe")
	a.list = a.list[:n]
	return flag(t, "maybe")
}

// written is the call as the test has it.
func (a *arguments) written() string {
	list := make([]string, len(a.list))
	for i, v := range a.list {
		if list[i] = fmt.Sprint(v); i < 2 && a.method != "crash_runtime_at" {
			list[i] = fmt.Sprintf("%q", v)
		}
	}
	return fmt.Sprintf("w:%s(%s)", a.method, strings.Join(list, ", "))
}

// breaks puts a fault into the world.
func (st *stage) breaks(a *arguments, f simworld.Fault, maybe bool) {
	broken := st.w.Break(f)
	if !maybe {
		st.waiting = append(st.waiting, pending{at: a.at, call: a.written(), fault: broken})
	}
}

// dies notes a death of the runtime; one that was to come before is none any more.
func (st *stage) dies(a *arguments, maybe bool) {
	st.waiting = slices.DeleteFunc(st.waiting, func(p pending) bool { return p.fault == nil })
	if !maybe {
		st.waiting = append(st.waiting, pending{at: a.at, call: a.written(), rt: st.rt})
	}
}

// neverStruck is the first fault of a test that nobody has asked for; nil: there is
// none.
func (st *stage) neverStruck() *pending {
	for _, p := range st.waiting {
		if p.fault == nil && p.rt.Pending() == 0 || p.fault != nil && p.fault.Hits > 0 {
			continue
		}
		if p.fault != nil {
			p.heard = st.heard(p.fault)
		}
		return &p
	}
	return nil
}

// heard are the verbs that the machine or host of a fault was asked.
func (st *stage) heard(f *simworld.Fault) []string {
	var out []string
	for _, a := range st.w.Log() {
		for word, verb := range verbs {
			if verb == a.Verb && (f.Machine == "" || f.Machine == a.Machine) && (f.Host == "" || f.Host == a.Host) && !slices.Contains(out, word) {
				out = append(out, word)
			}
		}
	}
	slices.Sort(out)
	return out
}

// text says what never struck, and what there was instead.
func (p *pending) text() string {
	const may = "; { maybe = true } behind it says that it may be so"
	switch {
	case p.fault == nil:
		return fmt.Sprintf("%s never struck: the test has ended %d records before that%s", p.call, p.rt.Pending(), may)
	case p.fault.Text != "":
		return fmt.Sprintf("%s never struck: no call of %s has %q in it%s", p.call, p.fault.Verb, p.fault.Text, may)
	case len(p.heard) == 0:
		return fmt.Sprintf("%s never struck: %s was asked nothing%s", p.call, cmp.Or(p.fault.Machine, p.fault.Host), may)
	}
	return fmt.Sprintf("%s never struck: %s was asked %s%s", p.call, cmp.Or(p.fault.Machine, p.fault.Host), strings.Join(p.heard, ", "), may)
}

// served is a server that a test or a world file has put there.
type served struct {
	At    plans.Pos `json:"at"`
	What  string    `json:"what"`
	Asked bool      `json:"asked"`

	server *simworld.Server
}

// asked notes which servers of a world were asked.
func (c *Coverage) asked(st *stage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pc := c.plans[st.subject.Bundle.Main]
	if pc == nil {
		return // it had no run
	}
	for _, s := range st.served {
		s.Asked = s.server.Hits > 0
		pc.served = mergeServed(pc.served, []served{s})
	}
}

// mergeServed puts servers of several worlds together: each is told once.
func mergeServed(a, b []served) []served {
	for _, s := range b {
		i := slices.IndexFunc(a, func(o served) bool { return o.At == s.At && o.What == s.What })
		if i < 0 {
			a = append(a, s)
			continue
		}
		a[i].Asked = a[i].Asked || s.Asked
	}
	return a
}
