package simworld

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
)

// runKnown is what the world knows of a run: which effects its plan declares.
type runKnown struct {
	test      bool
	steps     map[string]int // ids, and their places from 1
	to        string
	questions map[string]question // text of a check
	declared  map[string]bool     // steps that are for tests only
}

// question is the step that asks a text.
type question struct {
	step     string
	shutdown bool
}

// Know tells the world of a run before it works in it: the ids of its steps, and
// which of them the plan says.
func (w *World) Know(run string, typ recovery.Type, to string, ids []string, steps map[string]*plans.Step) {
	k := &runKnown{steps: make(map[string]int, len(ids)), test: typ == recovery.Test, to: to, questions: map[string]question{}, declared: map[string]bool{}}
	for i, id := range ids {
		k.steps[id] = i + 1
	}
	for _, id := range slices.Sorted(maps.Keys(steps)) {
		s := steps[id]
		q := question{step: id, shutdown: strings.HasPrefix(id, "shutdown/")}
		if len(s.Only) == 1 && s.Only[0] == recovery.Test {
			k.declared[id] = true
		}
		switch {
		case s.Check != nil && s.Check.TCP != "":
			k.questions[s.Check.TCP] = q
		case s.Check != nil && s.Check.HTTP != "":
			k.questions[s.Check.HTTP] = q
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.runs[run] = k
}

func (w *World) question(run, text string) question {
	if k := w.runs[run]; k != nil {
		return k.questions[text]
	}
	return question{}
}

// Person notes that a person has said what is to be done: what is repeated
// after that is on that person's word.
func (w *World) Person() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.persons++
}

// before is an effect as it happened last.
type before struct {
	attempt string
	ok      bool
	persons int
}

// effect notes a change of the world outside, and what is wrong with it. key is
// the idempotency key: a server that has done it does nothing. What only reads is
// no change, and of a program its author says whether it may be done twice.
func (w *World) effect(c *call, class plans.OpClass, name, key, text string, ok bool) {
	if class == plans.OpRead {
		return
	}
	if key != "" && strings.HasPrefix(name, "http.") {
		if w.done[key] {
			return
		}
		w.done[key] = ok // a refusal is no deed: the next try may be one
	}
	w.happened(c.step, c.run, name, "%s", text).class = class
	for _, part := range w.harmless {
		if strings.Contains(text, part) {
			return
		}
	}
	w.outside = append(w.outside, outside{c.run, c.step})
	k := w.runs[c.run]
	if k != nil && k.test && !k.declared[c.step] {
		hint := `skip = "test" (or, in the world file, w:harmless: nobody minds)`
		if name == "exec" && key != "" {
			hint = `skip = "test"; class = "read" where the program only looks (or, in the world file, w:harmless: nobody minds)`
		}
		w.violated(Violation{Rule: RuleTest, Step: c.step, Run: c.run, Text: "a test did this in the real world: " + text, Hint: hint})
	}
	if name == "dns.update" || name == "exec" && class == plans.OpIdempotent { // done twice it is the same
		return
	}
	id := c.run + "\x00" + c.step + "\x00" + text
	was, repeated := w.before[id]
	attempt := key
	if i := strings.LastIndexByte(key, '/'); i >= 0 && name != "exec" {
		attempt = key[:i]
	}
	hint := "make it the last operation of its action, so that nothing behind it lets the action run again; or give the request an Idempotency-Key of its own"
	switch {
	case !repeated, was.attempt == attempt && attempt != "":
	case was.ok:
		w.violated(Violation{Rule: RuleTwice, Step: c.step, Run: c.run, Text: "done twice in one run: " + text, Hint: hint})
	case class == plans.OpUnsafe && was.persons == w.persons:
		w.violated(Violation{Rule: RuleTwice, Step: c.step, Run: c.run, Text: "repeated by itself although nobody knows what the first attempt did: " + text,
			Hint: "no retry on a step whose call is not safe to repeat"})
	}
	w.before[id] = before{attempt: attempt, ok: ok || was.ok && repeated, persons: w.persons}
}

// outside is a change of the world outside by a step of a run.
type outside struct{ run, step string }

// Outside lists the steps of a run that have changed the world outside of the
// machines, where that counts.
func (w *World) Outside(run string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, o := range w.outside {
		if o.run == run && !slices.Contains(out, o.step) {
			out = append(out, o.step)
		}
	}
	return out
}

// Happened reports whether an effect whose text has part in it has happened in
// a run: what a person finds who looks.
func (w *World) Happened(run, step, part string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.effects, func(e Effect) bool {
		return e.Run == run && (step == "" || e.Step == step) && strings.Contains(e.Text, part)
	})
}

// CheckPlaces notes names that the plan has pointed at a machine's address of a
// site where it does not run.
func (w *World) CheckPlaces() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(w.names)) {
		rec := w.names[key]
		for _, ip := range rec.values {
			p, ok := w.whose(ip)
			if !ok {
				continue
			}
			active := p.machine.newest().rec.Active
			if p.test || !slices.Contains(p.sites, active) {
				name, kind, _ := strings.Cut(key, " ")
				w.violated(Violation{Rule: RulePlace, Step: rec.step, Run: rec.run,
					Text: fmt.Sprintf("%s (%s) points at %s, and %s runs at %s", name, kind, ip, p.machine.name, active),
					Hint: `use run:machine("` + p.machine.name + `").ip, the address in this run; after a rollback point it back: rollback = "again"`})
			}
		}
	}
}

// CheckAnswers notes machines of a run that ended well and whose services do
// not answer. starts are the steps that have started them.
func (w *World) CheckAnswers(run string, starts map[string]string, test bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(starts)) {
		of := ""
		if test {
			of = run
		}
		i, ok := w.instanceOf(w.machines[name], of)
		if ok && w.up(i) {
			continue
		}
		w.violated(Violation{Rule: RuleSuccess, Run: run, Step: starts[name], Text: fmt.Sprintf("the run is a success although %s does not answer", name),
			Hint: fmt.Sprintf("ask %s: ready in the estate, or a check behind its group", name)})
	}
}
