package plantest

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/simworld"
	"github.com/drrun/drrun/scripts"
)

// Coverage is what tests have seen of plans: which steps ran, which filters let
// a step pass and held it back, how waits were answered, which failures that a
// plan has a word for have happened, and which branches of its functions were
// taken.
type Coverage struct {
	// Branches hears of branches from the loader that has it.
	Branches *scripts.Branches
	mu       sync.Mutex
	plans    map[string]*planCoverage
}

type planCoverage struct {
	plan  *plans.Plan
	files plans.Bundle
	steps map[string]*seenStep
	types map[recovery.Type]bool
	backs bool

	served []served
}

// seenStep is what runs have made of one step of a plan.
type seenStep struct{ ran, skipped, failed, again, goes, stops, proved, unproved bool }

// NewCoverage returns an empty Coverage.
func NewCoverage() *Coverage {
	return &Coverage{Branches: scripts.NewBranches(), plans: map[string]*planCoverage{}}
}

func stepKey(p plans.Pos, name string) string { return fmt.Sprintf("%s:%d %s", p.File, p.Line, name) }

// saw notes how a run stands.
func (c *Coverage) saw(s *Subject, r *report.Run) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pc := c.plans[s.Bundle.Main]
	if pc == nil {
		pc = &planCoverage{plan: s.Plan, files: s.Bundle, steps: map[string]*seenStep{}, types: map[recovery.Type]bool{}}
		c.plans[s.Bundle.Main] = pc
	}
	pc.types[r.Type] = true
	pc.backs = pc.backs || r.Direction == "failback"
	byPos := map[plans.Pos][]*plans.Step{}
	s.Plan.Steps(func(_ string, ps *plans.Step) { byPos[ps.Pos] = append(byPos[ps.Pos], ps) })
	for i := range r.Steps {
		st := &r.Steps[i]
		if st.Pos == nil {
			continue
		}
		for _, ps := range byPos[*st.Pos] {
			if strings.HasSuffix(st.ID, ps.Name) {
				pc.note(ps, st)
			}
		}
	}
}

func (pc *planCoverage) note(ps *plans.Step, st *report.Step) {
	key := stepKey(ps.Pos, ps.Name)
	seen := pc.steps[key]
	if seen == nil {
		seen = &seenStep{}
		pc.steps[key] = seen
	}
	switch st.Status {
	case report.StepDone:
		seen.ran, seen.goes = true, true
		assumed := strings.Contains(st.Detail, simworld.NotProved)
		seen.unproved, seen.proved = seen.unproved || assumed, seen.proved || !assumed
	case report.StepFailed:
		seen.ran, seen.failed, seen.stops = true, true, true
	case report.StepSkipped:
		seen.skipped = true
	}
	seen.again = seen.again || st.Attempts > 1
}

const neverRan = "never ran"

// Gap is something of a plan that no test has taken.
type Gap struct {
	File string `json:"file"`
	Line int    `json:"line"`
	Step string `json:"step,omitempty"`
	What string `json:"what"`
}

// PlanFigures are the counts of one plan.
type PlanFigures struct {
	File  string `json:"file"`
	Steps int    `json:"steps"`
	Ran   int    `json:"ran"`
	// Branches are those of all functions, Taken those that a test has taken.
	Branches int   `json:"branches"`
	Taken    int   `json:"taken"`
	Gaps     []Gap `json:"gaps"`
	// Ways are the branches one by one and Served the servers of tests, until
	// figures of several processes are put together.
	Ways   []scripts.Branch `json:"ways,omitempty"`
	Served []served         `json:"served,omitempty"`
}

// Figures tells what is covered, plan by plan.
func (c *Coverage) Figures() []PlanFigures { return counted(c.parts()) }

// parts are figures whose branches are not counted yet.
func (c *Coverage) parts() []PlanFigures {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []PlanFigures
	for _, file := range slices.Sorted(maps.Keys(c.plans)) {
		f := c.plans[file].figures(file)
		f.Ways, f.Served = c.Branches.Of(c.plans[file].files), slices.Clone(c.plans[file].served)
		out = append(out, f)
	}
	return out
}

// counted counts the branches of figures. One inside of another that was not taken
// is no gap of its own. Servers that nothing has asked are gaps, too.
func counted(figures []PlanFigures) []PlanFigures {
	for i := range figures {
		f := &figures[i]
		var gaps []Gap
		for _, w := range f.Ways {
			switch {
			case w.Never == "":
			case w.Taken:
				f.Branches++
				f.Taken++
			default:
				f.Branches++
				if w.Inside < 0 || f.Ways[w.Inside].Taken {
					gaps = append(gaps, Gap{File: w.File, Line: w.Line, What: w.Never})
				}
			}
		}
		for _, s := range f.Served {
			if !s.Asked {
				gaps = append(gaps, Gap{File: s.At.File, Line: s.At.Line, What: fmt.Sprintf("w:serve { %s }: nothing has asked it", s.What)})
			}
		}
		slices.SortStableFunc(gaps, func(a, b Gap) int { return cmp.Or(strings.Compare(a.File, b.File), a.Line-b.Line) })
		f.Gaps = append(f.Gaps, gaps...)
		f.Ways, f.Served = nil, nil
	}
	return figures
}

func (pc *planCoverage) figures(file string) PlanFigures {
	f := PlanFigures{File: file, Gaps: []Gap{}}
	at := func(p plans.Pos, step, what string) {
		f.Gaps = append(f.Gaps, Gap{File: p.File, Line: p.Line, Step: step, What: what})
	}
	for _, typ := range plans.AllTypes() {
		if !pc.types[typ] {
			at(pc.plan.Pos, "", "no "+string(typ)+" run")
		}
	}
	if !pc.backs {
		at(pc.plan.Pos, "", "no failback")
	}
	pc.plan.Steps(func(place string, ps *plans.Step) {
		f.Steps++
		seen := pc.steps[stepKey(ps.Pos, ps.Name)]
		if seen == nil {
			seen = &seenStep{}
		}
		if seen.ran {
			f.Ran++
		} else {
			at(ps.Pos, ps.Name, neverRan)
		}
		if seen.unproved && !seen.proved {
			at(ps.Pos, ps.Name, fmt.Sprintf("that the answer contains %q is not proved: w:serve { http = …, body = … } says what it is", ps.Check.Contains))
		}
		if ps.HeldBack(place) && !seen.skipped {
			at(ps.Pos, ps.Name, "its filter never held it back")
		}
		switch {
		case ps.Kind == plans.StepWait && seen.ran && !seen.goes:
			at(ps.Pos, ps.Name, "never answered with go")
		case ps.Kind == plans.StepWait && !seen.stops:
			at(ps.Pos, ps.Name, "never answered with stop, nor timed out")
		}
		if ps.OnFail != "" && !seen.failed {
			at(ps.Pos, ps.Name, "on_fail = \""+ps.OnFail+"\", and it never failed")
		}
		if ps.Retry.Times > 0 && !seen.again {
			at(ps.Pos, ps.Name, "never retried")
		}
	})
	return f
}

// isPlan finds plans among the files of a folder; modules and estates return
// something else.
var isPlan = regexp.MustCompile(`(?m)^[ \t]*return[ \t]+plan\b`)

// Untested adds the plans of folders of which no test has seen a run.
func Untested(lua *scripts.Loader, args []string, figures []PlanFigures) ([]PlanFigures, error) {
	files, err := findFiles(args, func(path string) bool {
		name := filepath.Base(path)
		return strings.HasSuffix(name, ".lua") && !strings.HasSuffix(name, "_test.lua") && !strings.HasSuffix(name, "_world.lua")
	})
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		file = filepath.Clean(file)
		if slices.ContainsFunc(figures, func(f PlanFigures) bool { return filepath.Clean(f.File) == file }) {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fault.Errorf(fault.Invalid, "cannot read %s: %w", file, err)
		}
		if !isPlan.Match(text) {
			continue
		}
		f := PlanFigures{File: file, Gaps: []Gap{{File: file, Line: 1, What: "no test has a run of this plan"}}}
		if s, err := Load(lua, file, "", nil); err != nil {
			f.Gaps[0].What += ", and it does not load: " + firstLine(err)
		} else {
			f.Gaps[0].Line = s.Plan.Pos.Line
			s.Plan.Steps(func(string, *plans.Step) { f.Steps++ })
		}
		figures = append(figures, f)
	}
	slices.SortFunc(figures, func(a, b PlanFigures) int { return strings.Compare(a.File, b.File) })
	return figures, nil
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
