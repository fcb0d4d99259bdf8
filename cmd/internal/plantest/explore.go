package plantest

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/simworld"
	"github.com/drrun/drrun/scripts"
)

// Request says what is to be explored.
type Request struct {
	Plan   string `json:"plan"`
	Estate string `json:"estate,omitempty"`
	// In is the estate instead of a file.
	In     *plans.Estate     `json:"in,omitempty"`
	Set    map[string]string `json:"set,omitempty"`
	Faults int               `json:"faults"` // 0: none, 1: every single one
	Pairs  int               `json:"pairs,omitempty"`
	Seed   uint64            `json:"seed,omitempty"`
	// Sample tries only every so many of the single faults and deaths; 0: each.
	Sample int `json:"sample,omitempty"`
	// NoDeaths leaves out the deaths of the runtime.
	NoDeaths bool `json:"no_deaths,omitempty"`
	// First ends the exploration at the first run that ends badly.
	First bool `json:"first,omitempty"`
}

// Load reads what the request names.
func (r *Request) Load(lua *scripts.Loader) (*Subject, error) {
	if r.In != nil {
		return LoadIn(lua, r.Plan, r.In, r.Set)
	}
	return Load(lua, r.Plan, r.Estate, r.Set)
}

// Finding is a rule that runs have broken, with the shortest of them.
type Finding struct {
	Rule     string     `json:"rule"`
	Text     string     `json:"text"`
	Hint     string     `json:"hint,omitempty"`
	Scenario string     `json:"scenario"`
	Faults   []string   `json:"faults"` // none: it needs no fault
	Step     string     `json:"step,omitempty"`
	Pos      *plans.Pos `json:"pos,omitempty"`
	Runs     int        `json:"runs"` // that have ended so
	Trace    []string   `json:"trace"`
}

// Row is one step of a scenario and what became of the run under each fault.
type Row struct {
	Scenario string            `json:"scenario"`
	Step     string            `json:"step"`
	Outcomes map[string]string `json:"outcomes"`
}

// Report is what an exploration has found.
type Report struct {
	Plan     string    `json:"plan"`
	Runs     int       `json:"runs"`
	Seconds  float64   `json:"seconds"` // of real time
	Findings []Finding `json:"findings"`
	Table    []Row     `json:"table"`
}

// Explore runs a plan in the simulated world under every single fault, and some
// pairs, and tells which runs end badly.
func Explore(lua *scripts.Loader, bubble Bubble, req Request, beat func()) (*Report, error) {
	s, err := req.Load(lua)
	if err != nil {
		return nil, err
	}
	return ExploreSubject(s, bubble, req, beat)
}

// ExploreSubject explores a plan that is loaded.
func ExploreSubject(s *Subject, bubble Bubble, req Request, beat func()) (*Report, error) {
	x := &explorer{s: s, bubble: bubble, req: req, beat: beat, began: time.Now(), found: map[string]*Finding{}, rows: map[string]*Row{},
		without: map[string]map[string]bool{}, places: map[string]int{}}
	if x.beat == nil {
		x.beat = func() {}
	}
	err := x.run()
	r := &Report{Plan: s.Bundle.Main, Runs: x.runs, Seconds: time.Since(x.began).Seconds(), Findings: []Finding{}, Table: []Row{}}
	for _, key := range x.order {
		r.Findings = append(r.Findings, *x.found[key])
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int { return cmp.Compare(len(a.Faults), len(b.Faults)) })
	for _, key := range slices.SortedFunc(maps.Keys(x.rows), func(a, b string) int { return cmp.Compare(x.places[a], x.places[b]) }) {
		r.Table = append(r.Table, *x.rows[key])
	}
	return r, err
}

type explorer struct {
	s      *Subject
	bubble Bubble
	req    Request
	beat   func()
	began  time.Time

	// without is, by scenario, what its run without faults has broken; places is
	// where the rows of the table stand.
	without map[string]map[string]bool
	places  map[string]int

	mu    sync.Mutex
	runs  int
	found map[string]*Finding
	order []string
	rows  map[string]*Row
	err   error
}

func rowKey(sc scenario, step string) string { return sc.name + "\x00" + step }

// know notes what the run of a scenario without faults was like.
func (x *explorer) know(t *trial) {
	broken := map[string]bool{}
	for _, v := range t.verdict() {
		broken[t.keyOf(v)] = true
	}
	x.without[t.sc.name] = broken
	steps := []string{theRun}
	if t.run != nil {
		for _, s := range t.run.Steps {
			steps = append(steps, s.ID)
		}
	}
	for _, step := range steps {
		x.places[rowKey(t.sc, step)] = len(x.places)
	}
}

// theRun is the row of what belongs to no step.
const theRun = "the run"

// work is one trial that is to be played.
type work struct {
	sc     scenario
	inject []injection
	base   *ending // the end without faults, which deaths must not change
}

func (x *explorer) enough() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.err != nil || x.req.First && len(x.found) > 0
}

func (x *explorer) run() error {
	type based struct {
		sc   scenario
		base *trial
	}
	var bases []based
	for _, sc := range scenarios { // all without faults first: they tell the most
		t, err := run1(x.bubble, x.s, sc, nil)
		if err != nil {
			return fmt.Errorf("the %s run cannot be tried: %w", sc.name, err)
		}
		x.know(t)
		x.note(t, nil)
		bases = append(bases, based{sc, t})
	}
	if x.req.Faults == 0 || x.enough() {
		return x.err
	}
	tried := map[string]bool{} // steps that a scenario with faults has
	for _, b := range bases {
		if b.sc.faults && !b.sc.tail {
			for _, a := range b.base.log {
				tried[a.Step] = true
			}
			for _, s := range b.base.run.Steps {
				tried[s.ID] = tried[s.ID] || s.Status != report.StepSkipped
			}
		}
	}
	var singles, all []work
	for _, b := range bases {
		lame := slices.ContainsFunc(b.base.verdict(), func(v simworld.Violation) bool { return v.Rule == simworld.RuleEnd })
		if lame { // what does not come to its end by itself is no ground to compare with
			continue
		}
		faults, deaths := x.injections(b.base)
		if !b.sc.faults { // only what the plan does nowhere else, as in a failback alone
			elsewhere := func(i injection) bool {
				cut := i.kind == cuts && b.sc.typ == recovery.Unplanned // then the source does not answer, which is another scenario
				return cut || tried[i.Step] || !b.base.planned(i.Step)
			}
			faults, deaths = slices.DeleteFunc(faults, elsewhere), slices.DeleteFunc(deaths, elsewhere)
		}
		for _, i := range faults {
			singles = append(singles, work{sc: b.sc, inject: []injection{i}})
		}
		all = append(all, singles[len(singles)-len(faults):]...)
		for _, i := range deaths {
			if x.req.NoDeaths {
				break
			}
			all = append(all, work{sc: b.sc, inject: []injection{i}, base: &b.base.end})
		}
	}
	if x.req.Sample > 1 {
		kept := all[:0]
		for i := 0; i < len(all); i += x.req.Sample {
			kept = append(kept, all[i])
		}
		all = kept
	}
	all = append(all, x.pairs(singles)...)
	if x.req.First { // what is cheap and tells much comes first
		slices.SortStableFunc(all, func(a, b work) int { return cmp.Compare(kindOrder(a), kindOrder(b)) })
	}
	x.playAll(all)
	return x.err
}

func kindOrder(w work) int {
	if k := w.inject[0].kind; k == diesBefore || k == diesAfter {
		return 1
	}
	return 0
}

// pairs draws pairs of single faults of one scenario.
func (x *explorer) pairs(singles []work) []work {
	rng := rand.New(rand.NewPCG(x.req.Seed, 2)) //nolint:gosec // no secret is made of it
	var out []work
	for n := 0; len(singles) > 1 && n < x.req.Pairs; n++ {
		a, b := singles[rng.IntN(len(singles))], singles[rng.IntN(len(singles))]
		if a.sc.name != b.sc.name || a.inject[0] == b.inject[0] {
			n-- // there are others
			if a.inject[0] == b.inject[0] && len(singles) < 4 {
				n++
			}
			continue
		}
		out = append(out, work{sc: a.sc, inject: []injection{a.inject[0], b.inject[0]}})
	}
	return out
}

func (x *explorer) playAll(all []work) {
	next := make(chan work)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for w := range next {
				t, err := run1(x.bubble, x.s, w.sc, w.inject)
				if err != nil {
					x.fail(fmt.Errorf("%s, %s: %w", w.sc.name, strings.Join(words(w.inject), " and "), err))
					continue
				}
				x.note(t, w.base)
				x.beat()
			}
		})
	}
	for _, w := range all {
		if x.enough() {
			break
		}
		next <- w
	}
	close(next)
	wg.Wait()
}

func (x *explorer) fail(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.err == nil {
		x.err = err
	}
}

func words(inject []injection) []string {
	out := []string{}
	for _, i := range inject {
		switch {
		case i.kind == silences:
			out = append(out, "the services of "+i.mach+" do not answer")
		case i.verb != "" && i.kind != cuts && i.kind != losesSource:
			out = append(out, i.Step+" "+i.Name+" ("+i.verb+")")
		default:
			out = append(out, cmp.Or(i.Step, fmt.Sprintf("record %d", i.n))+" "+i.Name)
		}
	}
	return out
}

// note takes down how a trial ended. base is the end that it must have.
func (x *explorer) note(t *trial, base *ending) {
	if base != nil && len(t.verdict()) == 0 {
		if err := base.same(t.end); err != nil {
			i := t.inject[0]
			t.bad(simworld.RuleEnd, i.Step, "after the death of the runtime "+err.Error(), "an action runs again on resume with the recorded results: what it does must not depend on anything else; what is not safe to repeat stands last in its action")
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.runs++
	for _, v := range t.verdict() {
		x.finding(t, v)
	}
	if len(t.inject) != 1 {
		return
	}
	i := t.inject[0]
	key := rowKey(t.sc, i.Step)
	row := x.rows[key]
	if row == nil {
		row = &Row{Scenario: t.sc.name, Step: i.Step, Outcomes: map[string]string{}}
		x.rows[key] = row
		if _, known := x.places[key]; !known {
			x.places[key] = len(x.places)
		}
	}
	bad := slices.ContainsFunc(t.verdict(), func(v simworld.Violation) bool { return !x.without[t.sc.name][t.keyOf(v)] })
	row.Outcomes[i.Name] = worse(row.Outcomes[i.Name], t.word(bad))
}

var ranks = []string{"", "ok", "asked", "resumed", "partial", "BAD"}

func worse(a, b string) string {
	if slices.Index(ranks, a) > slices.Index(ranks, b) {
		return a
	}
	return b
}

// textOf is what was broken, without the name of the run.
func (t *trial) textOf(v simworld.Violation) string {
	if t.run == nil {
		return v.Text
	}
	return strings.ReplaceAll(strings.ReplaceAll(v.Text, "run "+t.run.ID, "the run"), t.run.ID, "the run")
}

// keyOf is the same for what is broken in the same way.
func (t *trial) keyOf(v simworld.Violation) string {
	key := v.Rule + "\x00" + stepName(v.Step)
	if v.Rule != simworld.RuleEnd {
		key += "\x00" + t.textOf(v)
	}
	return key
}

func (x *explorer) finding(t *trial, v simworld.Violation) {
	step := v.Step
	pos := t.posOf(step)
	text, key := t.textOf(v), t.keyOf(v)
	f := x.found[key]
	faults, trace := words(t.inject), t.trace(v.At)
	switch {
	case f == nil:
		f = &Finding{}
		x.found[key] = f
		x.order = append(x.order, key)
	case len(f.Faults) < len(faults) || len(f.Faults) == len(faults) && len(f.Trace) <= len(trace):
		f.Runs++
		return
	}
	*f = Finding{Rule: v.Rule, Text: text, Hint: v.Hint, Scenario: t.sc.name, Faults: faults, Step: step, Pos: pos, Runs: f.Runs + 1, Trace: trace}
}

// stepName is a step without the number that tells repetitions apart.
func stepName(step string) string {
	name, _, _ := strings.Cut(step, "#")
	return name
}

// injections lists the faults that can be tried on what a run without faults
// has done: one for each kind of call of each step, and the deaths of the
// runtime at each of its records.
func (x *explorer) injections(base *trial) (faults, deaths []injection) {
	first := 1
	if base.sc.tail {
		first = base.failedOver + 1
	} else {
		faults = x.stepFaults(base)
	}
	for n := first; n <= len(base.records); n++ {
		step := cmp.Or(base.records[n-1], theRun)
		deaths = append(deaths, injection{Name: "dies before", Step: step, kind: diesBefore, n: n}, injection{Name: "dies after", Step: step, kind: diesAfter, n: n})
	}
	return faults, deaths
}

// asking are verbs that only look: they are not broken by themselves.
var asking = []string{"status", "points", "room", "room-back", "written", "proof-ranges", "claim"}

func (x *explorer) stepFaults(base *trial) []injection {
	var out []injection
	seen := map[string]bool{}
	add := func(i injection) {
		key := fmt.Sprint(i.kind, i.Step, i.verb, i.mach)
		if !seen[key] {
			seen[key] = true
			out = append(out, i)
		}
	}
	for _, a := range base.log {
		in := injection{Step: a.Step, verb: a.Verb, host: a.Host}
		with := func(name string, k injectionKind) {
			i := in
			i.Name, i.kind = name, k
			add(i)
		}
		switch {
		case slices.Contains(asking, a.Verb):
		case a.Verb == "check":
			with("fails", fails)
			with("hangs", hangs)
		default:
			with("fails", fails)
			with("loses", loses)
			with("hangs", hangs)
			if a.Verb == "exec" || a.Verb == "ssh.run" {
				with("breaks", breaks)
			}
			if a.Host != "" {
				with("silent", cuts)
			}
		}
	}
	for _, s := range base.run.Steps {
		switch {
		case s.Kind == string(program.Wait) && s.Status == "done":
			add(injection{Name: "unanswered", Step: s.ID, kind: unanswered})
		case s.Kind == string(program.Start):
			add(injection{Name: "never ready", Step: s.ID, kind: silences, mach: s.Machine})
		case base.sc.typ == recovery.Planned && (s.Kind == string(program.Stop) || s.Kind == string(program.DrainFinal)) && s.Status == "done":
			add(injection{Name: "site lost", Step: s.ID, kind: losesSource, host: s.Host})
		}
	}
	return out
}

// Columns are the faults of a table, in order.
func Columns(rows []Row) []string {
	order := []string{"fails", "loses", "breaks", "hangs", "silent", "site lost", "never ready", "unanswered", "dies before", "dies after"}
	have := map[string]bool{}
	for _, r := range rows {
		for k := range r.Outcomes {
			have[k] = true
		}
	}
	out := slices.DeleteFunc(order, func(k string) bool { return !have[k] })
	for _, k := range slices.Sorted(maps.Keys(have)) {
		if !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	return out
}
