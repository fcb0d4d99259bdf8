// Package proving judges whether a plan is proven: whether its last test failover
// went well, met the plan's objectives, and was of the plan, the estate and the
// policies that are in force now. What has changed since was never tried.
//
// It is pure. It takes a plan for proven only on evidence; whatever it cannot
// compare counts as changed.
package proving

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/report"
)

// Plan is an applied plan and what it would run on now.
type Plan struct {
	Name    string
	Plan    *plans.Plan
	Hash    string // of its bundle
	Text    string // of its bundle: machines that it names anywhere count as touched
	Applied time.Time
	Estate  *plans.Estate
	Changed time.Time // when the estate was applied
}

// Test is a test failover of the plan that has ended, and what it was of.
type Test struct {
	Run    *report.Run
	Hash   string // of the plan's bundle
	Estate *plans.Estate
}

// A regression is a test that took longer than the median of at least
// fewestBefore before it, by a quarter and by leastSlower.
const (
	fewestBefore = 3
	slowerBy     = 1.25
	leastSlower  = 10 * time.Second
)

// Judge says whether the plan is proven; tests are the newest last.
func Judge(p Plan, tests []Test) report.Proven {
	out := report.Proven{Plan: p.Name, Tests: []report.TestTime{}}
	var green, last *Test
	var bad time.Time // when the first one ended that did not prove it, since the green one
	for i := range tests {
		last = &tests[i]
		why := Faults(last.Run)
		switch {
		case len(why) == 0:
			green, bad = last, time.Time{}
		case bad.IsZero():
			if bad = last.Run.Ended; bad.IsZero() { // refused: it never began
				bad = last.Run.Created
			}
		}
		if r := last.Run.RTO; r != nil {
			out.Tests = append(out.Tests, report.TestTime{Run: last.Run.ID, Ended: last.Run.Ended, RTO: r.Measured, Passed: len(why) == 0})
		}
	}
	out.Slower = slower(out.Tests)
	if last == nil {
		out.Why, out.Since = []string{"it was never tested"}, p.Applied
		return out
	}
	if green != nil {
		out.Run, out.At = green.Run.ID, green.Run.Ended
	}
	if why := Faults(last.Run); len(why) > 0 {
		out.Why, out.Since = why, bad
		return out
	}
	if green.Hash != p.Hash {
		out.Why, out.Since = append(out.Why, "the plan has changed"), p.Applied
	}
	if changed := differ(&p, green.Estate); len(changed) > 0 {
		out.Why = append(out.Why, "changed in the estate: "+few(changed))
		if out.Since.IsZero() || p.Changed.Before(out.Since) {
			out.Since = p.Changed
		}
	}
	out.Proven = len(out.Why) == 0
	return out
}

// Faults says what a test that has ended lacks to prove its plan.
func Faults(r *report.Run) []string {
	var out []string
	if r.Status != report.RunDone || len(r.Errors) > 0 {
		text := r.Reason
		if text == "" && len(r.Errors) > 0 {
			text = r.Errors[0].Step + ": " + r.Errors[0].Error.Message
		}
		if text == "" {
			text = "it is " + string(r.Status)
		}
		return []string{fmt.Sprintf("test %s did not pass: %s", r.ID, text)}
	}
	if r.RTO == nil {
		return []string{fmt.Sprintf("in test %s not every machine became ready", r.ID)}
	}
	for name, m := range map[string]*report.Measure{"rto": r.RTO, "rpo": r.RPO} {
		if m != nil && !m.Met {
			out = append(out, fmt.Sprintf("test %s missed the %s of %s: %s", r.ID, name, seconds(m.Aim), seconds(m.Measured)))
		}
	}
	slices.Sort(out)
	return out
}

// slower is the alarm of a test that took much longer than those before it.
func slower(tests []report.TestTime) string {
	var before []float64
	for _, t := range tests {
		if t.Passed {
			before = append(before, t.RTO)
		}
	}
	if len(before) <= fewestBefore {
		return ""
	}
	last := before[len(before)-1]
	before = slices.Sorted(slices.Values(before[:len(before)-1]))
	median := (before[(len(before)-1)/2] + before[len(before)/2]) / 2
	if last < slowerBy*median || last-median < leastSlower.Seconds() {
		return ""
	}
	return fmt.Sprintf("the last test took %s, the median of the %d before it is %s", seconds(last), len(before), seconds(median))
}

func seconds(s float64) string {
	return quantity.FormatDuration(time.Duration(s * float64(time.Second)))
}

// differ names what of the estate is not as it was in a test. Machines that the
// plan neither starts nor names are left out.
func differ(p *Plan, was *plans.Estate) []string {
	if was == nil {
		return []string{"what the test ran on is not kept"}
	}
	a, errA := parts(p, was)
	b, errB := parts(p, p.Estate)
	if errA != nil || errB != nil {
		return []string{"it cannot be compared"}
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if now, ok := b[name]; !ok {
			out = append(out, name+" is gone")
		} else if now != a[name] {
			out = append(out, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b)) {
		if _, ok := a[name]; !ok {
			out = append(out, name+" is new")
		}
	}
	return out
}

// parts are the hashes of what an estate has, by kind and name.
func parts(p *Plan, e *plans.Estate) (map[string]string, error) {
	touched := map[string]bool{}
	for _, g := range p.Plan.Resolve(e) {
		for _, name := range g.Names() {
			touched[name] = true
		}
	}
	out := map[string]string{}
	var failed error
	add := func(kind, name string, v any) {
		raw, err := json.Marshal(v)
		var tree any
		if err == nil {
			err = json.Unmarshal(raw, &tree)
		}
		if err != nil {
			failed = err
		}
		out[strings.TrimSpace(kind+" "+name)] = plans.Hash(withoutPlaces(tree))
	}
	for i := range e.Machines {
		if m := &e.Machines[i]; touched[m.Name] || strings.Contains(p.Text, m.Name) {
			add("machine", m.Name, m)
		}
	}
	for i := range e.Policies {
		add("policy", e.Policies[i].Name, &e.Policies[i])
	}
	for i := range e.Sites {
		s := &e.Sites[i]
		for j := range s.Networks {
			add("network", s.Name+"/"+s.Networks[j].Name, &s.Networks[j])
		}
		for j := range s.Clouds {
			c := s.Clouds[j]
			for k := range c.Hosts {
				add("host", c.Hosts[k].Name, &c.Hosts[k])
			}
			c.Hosts = nil
			add("cloud", s.Name+"/"+c.Name, &c)
		}
	}
	for i := range e.Secrets {
		add("secret", e.Secrets[i].Name, &e.Secrets[i])
	}
	add("allow", "", e.Allow)
	return out, failed
}

// withoutPlaces takes out where the estate's file says things: moving a line
// changes nothing.
func withoutPlaces(v any) any {
	switch v := v.(type) {
	case map[string]any:
		delete(v, "pos")
		delete(v, "policy_pos")
		for _, inner := range v {
			withoutPlaces(inner)
		}
	case []any:
		for _, inner := range v {
			withoutPlaces(inner)
		}
	}
	return v
}

func few(names []string) string {
	const most = 8
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
