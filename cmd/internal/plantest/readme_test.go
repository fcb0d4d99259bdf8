package plantest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drrun/drrun/cmd/internal/plantest"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts"
)

// luaBlocks are the blocks of Lua in a text of Markdown.
func luaBlocks(text string) (blocks []string) {
	for _, part := range strings.Split(text, "```lua\n")[1:] {
		block, _, _ := strings.Cut(part, "```")
		blocks = append(blocks, block)
	}
	return blocks
}

// TestReadme: every block of Lua in the README is what it looks like, and the
// test there passes with the plan there, in the estate that drrun init writes.
func TestReadme(t *testing.T) {
	t.Parallel()
	lua := scripts.New(scripts.Options{})
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	write("estate.lua", read(t, "../../drrun/project/estate.lua"))
	write("erp_world.lua", read(t, "../../drrun/project/erp_world.lua"))
	kinds := map[string]int{}
	var try *plans.Estate
	for _, block := range luaBlocks(read(t, "../../../README.md")) {
		switch {
		case strings.Contains(block, `return estate "try"`):
			kinds["estate"]++
			var err error
			if try, err = lua.LoadEstate(plans.Bundle{Main: "try.lua", Files: map[string]string{"try.lua": block}}); err != nil {
				t.Error(err)
			}
		case strings.Contains(block, `return plan "counter"`):
			kinds["counter"]++
			p, err := lua.LoadPlan(plans.Bundle{Main: "counter.lua", Files: map[string]string{"counter.lua": block}}, nil)
			if err == nil && try != nil {
				err = plans.Check(p, try)
			}
			if err != nil {
				t.Error(err)
			}
		case strings.Contains(block, `return plan "erp"`):
			kinds["plan"]++
			if n := strings.Count(block, "\n"); n > 30 {
				t.Errorf("the plan has %d lines", n)
			}
			write("erp.lua", block)
		case strings.HasPrefix(block, "it("):
			kinds["test"]++
			write("erp_test.lua", block)
		default:
			t.Errorf("a block of no known kind:\n%s", block)
		}
	}
	if len(kinds) != 4 {
		t.Fatalf("blocks: %v", kinds)
	}
	r, err := plantest.Explore(lua, bubble(t), request(plantest.Request{Plan: filepath.Join(dir, "erp.lua"), Faults: 1, Seed: 1}), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Findings {
		t.Errorf("%s\n%s", line(f), strings.Join(f.Trace, "\n"))
	}
	s, err := plantest.Load(lua, filepath.Join(dir, "erp.lua"), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if doubts := plans.Doubts(s.Plan, s.Estate); len(doubts) > 0 {
		t.Error(doubts)
	}
	tests, err := plantest.ListTests(lua, []string{filepath.Join(dir, "erp_test.lua")})
	if err != nil || len(tests) != 1 {
		t.Fatalf("%d tests, %v", len(tests), err)
	}
	if r := (&plantest.Tester{Lua: lua, Bubble: bubble(t)}).Run(tests[0]); !r.Passed {
		t.Errorf("%s:%d: %s", r.Failure.Pos.File, r.Failure.Pos.Line, r.Failure.Message)
	}
}
