package plantest_test

import (
	"slices"
	"testing"

	"github.com/drrun/drrun/cmd/internal/plantest"
	"github.com/drrun/drrun/scripts"
)

// TestTable: the rows stand in the order of the run, each time, and what a run
// without faults breaks already is not laid to the faults.
func TestTable(t *testing.T) {
	t.Parallel()
	rows := func() (out []plantest.Row) {
		r, err := plantest.Explore(scripts.New(scripts.Options{}), bubble(t), plantest.Request{Plan: "testdata/planted/dns_in_test.lua", Faults: 1, NoDeaths: true, Sample: 2 + mistakesOf}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(r.Findings, func(f plantest.Finding) bool { return f.Scenario == "test" && len(f.Faults) == 0 }) {
			t.Fatal("the test run without faults breaks nothing: this test says nothing")
		}
		return r.Table
	}
	first, second := rows(), rows()
	var order []string
	for i, r := range first {
		if r.Scenario != second[i].Scenario || r.Step != second[i].Step {
			t.Fatalf("row %d is %s %s, then %s %s", i, r.Scenario, r.Step, second[i].Scenario, second[i].Step)
		}
		if r.Scenario != "test" {
			continue
		}
		order = append(order, r.Step)
		for fault, word := range r.Outcomes {
			if word == "BAD" {
				t.Errorf("%s %s is BAD", r.Step, fault)
			}
		}
	}
	at := func(step string) int { return slices.Index(order, step) }
	if a, b, c := at("prepare/db1"), at("group:databases/db1/start"), at("cleanup/lb1"); a < 0 || a > b || b > c {
		t.Errorf("the rows are %q", order)
	}
}
