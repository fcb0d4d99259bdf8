package plantest_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drrun/drrun/cmd/internal/plantest"
	"github.com/drrun/drrun/runtime/simworld"
	"github.com/drrun/drrun/scripts"
)

// planted are the kinds of mistake that plans have, each with what has to be
// said of it: the rule, the line of the plan (by a text in it), a part of the
// words.
var planted = []struct {
	file, rule, at, text string
	faults               int // it takes to show
}{
	{"no_key", simworld.RuleTwice, `action "open a ticket"`, "done twice in one run: http.post", 1},
	{"impatient", simworld.RuleEnd, `check "balancer answers"`, "not done within 10s", 0},
	{"app_first", simworld.RuleNeeds, `machine "app1"`, "app1 was started before db1 answered", 0},
	{"unanswered", simworld.RuleEnd, `wait "go/no-go"`, "the test run stops", 0},
	{"dns_in_test", simworld.RuleTest, `action "point DNS"`, "a test did this in the real world: dns.update", 0},
	{"source_step", simworld.RuleEnd, `exec "stop the timers"`, "run ends with errors", 0},
	{"goes_on", simworld.RuleNeeds, `check "the database is the leader"`, "app1 was started although", 1},
	{"retry_unsafe", simworld.RuleTwice, `action "move the licence"`, "repeated by itself although nobody knows", 1},
	{"back_only", simworld.RuleTwice, `action "move the licence"`, "repeated by itself although nobody knows", 1},
	{"shutdown_only", simworld.RuleTwice, `action "move the licence"`, "repeated by itself although nobody knows", 1},
	{"old_site", simworld.RuleAsks, `check "database answers"`, "was answered by db1 at paris", 0},
	{"fixed_address", simworld.RulePlace, `action "point DNS"`, "points at 10.20.0.10, and lb1 runs at paris", 0},
	{"short_limit", simworld.RuleEnd, `machine "db1"`, "db1 is ready: tcp :5432", 0},
	{"left_undone", simworld.RulePlace, `action "point DNS"`, "points at 10.20.0.10, and lb1 runs at paris", 0},
}

// Each planted mistake is found, at its line.
func TestPlantedMistakes(t *testing.T) {
	t.Parallel()
	for i, p := range planted {
		if !*full && i%mistakesOf != 0 {
			continue
		}
		t.Run(p.file, func(t *testing.T) {
			t.Parallel()
			plan := filepath.Join("testdata", "planted", p.file+".lua")
			r, err := plantest.Explore(scripts.New(scripts.Options{}), bubble(t), plantest.Request{Plan: plan, Faults: p.faults, First: true}, nil)
			if err != nil {
				t.Fatal(err)
			}
			found := slices.ContainsFunc(r.Findings, func(f plantest.Finding) bool {
				return f.Rule == p.rule && strings.Contains(f.Text, p.text) && f.Pos != nil && strings.Contains(lineOf(t, f.Pos.File, f.Pos.Line), p.at) &&
					f.Hint != "" && len(f.Trace) > 0
			})
			if !found {
				t.Errorf("not found: %s at %s: %s", p.rule, p.at, p.text)
			}
			for _, f := range r.Findings {
				t.Logf("%s (%d of %d runs)", line(f), f.Runs, r.Runs)
			}
		})
	}
}

func lineOf(t *testing.T, file string, n int) string {
	t.Helper()
	lines := strings.Split(read(t, file), "\n")
	return lines[n-1]
}
