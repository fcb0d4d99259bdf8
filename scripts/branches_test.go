package scripts_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts"
)

const branchy = `local helper = require "helper"
local function pick(list, want)
  for _, v in ipairs(list) do
    if v == want then return v end
  end
end
local steps = {}
if #steps > 0 then steps[1] = machine "db2" end
return plan "p" { from = "paris", to = "lyon", group "g" { machine "db1", after = action "a" { only = "any", function(run)
  if run.type == "test" then
    run:note("a test")
  elseif run.type == "planned" then
    while false do run:note("never") end
  else
    if run.from == "paris" then run:note("from paris") else run:note("from elsewhere") end
  end
  local function nobody() if run.id then return 1 end end
  for i = 1, 2 do
    repeat local found = pick({ "a", "b" }, "b") until found == "b"
    if i == 2 then
      pcall(function()
        error("x") end)
      error(helper(run.type)) end
  end
end } } }
`

var branchyFiles = plans.Bundle{Main: "p.lua", Files: map[string]string{"p.lua": branchy, "helper.lua": `return function(x)
  if x == "planned" then return "it is planned" end
  return "no"
end
`}}

// What no run has taken is told with the line that decides about it; what stands
// inside of that is known to be there.
func TestBranches(t *testing.T) {
	t.Parallel()
	b := scripts.NewBranches()
	counting := scripts.New(scripts.Options{Branches: b})
	if _, err := counting.LoadPlan(branchyFiles, nil); err != nil {
		t.Fatal(err)
	}
	untaken := func() []string {
		var out []string
		list := b.Of(branchyFiles)
		for _, br := range list {
			if !br.Taken && br.Never != "" && (br.Inside < 0 || list[br.Inside].Taken) {
				out = append(out, fmt.Sprintf("%s:%d: %s", br.File, br.Line, br.Never))
			}
		}
		return out
	}
	want := []string{"helper.lua:1: the function was never called", "p.lua:2: the function was never called", "p.lua:8: the condition was never true"}
	if got := untaken(); !slices.Equal(got, want) {
		t.Errorf("loaded: got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for range 2 { // what was taken stays taken
		for _, l := range []*scripts.Loader{counting, scripts.New(scripts.Options{})} {
			_, detail, err := said(l.RunFunc(t.Context(), branchyFiles, ref, testRun, &journal{}))
			if err != nil || detail != "p.lua:23: it is planned" {
				t.Errorf("got %q %v", detail, err)
			}
		}
		want = []string{
			"helper.lua:2: the condition was never false", "p.lua:8: the condition was never true", "p.lua:10: the condition was never true",
			"p.lua:13: the loop never had a turn", "p.lua:12: the condition was never false", "p.lua:17: the function was never called",
		}
		if got := untaken(); !slices.Equal(got, want) {
			t.Errorf("run: got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	unplanned := testRun
	unplanned.Type = "unplanned"
	if _, _, err := said(counting.RunFunc(context.Background(), branchyFiles, ref, unplanned, &journal{})); err != nil {
		t.Fatal(err)
	}
	want = []string{
		"p.lua:8: the condition was never true", "p.lua:10: the condition was never true", "p.lua:13: the loop never had a turn",
		"p.lua:15: the condition was never false", "p.lua:17: the function was never called",
	}
	if got := untaken(); !slices.Equal(got, want) {
		t.Errorf("both: got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
