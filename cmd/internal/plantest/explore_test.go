package plantest_test

import (
	"flag"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drrun/drrun/cmd/internal/plantest"
	"github.com/drrun/drrun/scripts"
)

// full: every fault, and the faults of every mutant, as make plans does. Without it
// a share of the faults, and of the mutants without faults.
var full = flag.Bool("full", false, "try every single fault of the example plans and their mutants")

// line is a finding in one line.
func line(f plantest.Finding) string {
	at := "-"
	if f.Pos != nil {
		at = fmt.Sprintf("%s:%d", filepath.Base(f.Pos.File), f.Pos.Line)
	}
	return fmt.Sprintf("%s %s [%s; %s] %s", f.Rule, at, f.Scenario, strings.Join(f.Faults, " and "), f.Text)
}

func request(r plantest.Request) plantest.Request {
	if !*full {
		r.Sample, r.Pairs = faultsOf, 2
	}
	return r
}

// goodPlans are the example plans, each with its estate and its world.
func goodPlans(t *testing.T) (plans []string) {
	t.Helper()
	files, err := filepath.Glob("testdata/good/*.lua")
	if err != nil {
		t.Fatal(err)
	}
	for _, plan := range append(files, "testdata/erp/erp.lua", "../../../examples/erp/erp.lua", "../../drrun/project/erp.lua") {
		if name := filepath.Base(plan); name != "estate.lua" && !strings.HasSuffix(name, "world.lua") && !strings.HasSuffix(name, "_test.lua") {
			plans = append(plans, plan)
		}
	}
	return plans
}

// The good example plans end well under every single fault.
func TestGoodPlansAreGood(t *testing.T) {
	t.Parallel()
	for _, plan := range goodPlans(t) {
		t.Run(filepath.Base(plan), func(t *testing.T) {
			r, err := plantest.Explore(scripts.New(scripts.Options{}), bubble(t), request(plantest.Request{Plan: plan, Faults: 1, Pairs: 50, Seed: 1}), nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d runs in %.1f s", r.Runs, r.Seconds)
			if r.Runs < 725/faultsOf || *full && r.Runs < 600 {
				t.Errorf("only %d runs", r.Runs)
			}
			for _, f := range r.Findings {
				t.Errorf("%s\n%s", line(f), strings.Join(f.Trace, "\n"))
			}
		})
	}
}
