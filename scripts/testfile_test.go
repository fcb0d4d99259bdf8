package scripts_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts"
	"github.com/drrun/drrun/scripts/registry"
)

// echo is an object that says what it was asked.
type echo struct{ heard *[]string }

func (echo) What() string                 { return "world" }
func (echo) Methods() []registry.Function { return registry.WorldMethods }
func (echo) Fields() []registry.Function  { return registry.RunResultFields }
func (echo) Field(name string) any        { return []any{name, 1.5} }

func (e echo) Call(_ context.Context, _ plans.Pos, method string, args []any) (any, error) {
	*e.heard = append(*e.heard, fmt.Sprint(method, args))
	switch method {
	case "planned":
		return e, nil
	case "fail":
		return nil, errors.New("fail: no such machine")
	case "expect":
		v, err := args[1].(scripts.Function)(e, 7)
		return v, err
	}
	return map[string]any{"site": "lyon"}, nil
}

func (e echo) World(_ context.Context, plan string, o map[string]any) (scripts.Object, error) {
	*e.heard = append(*e.heard, fmt.Sprint("world ", plan, o))
	return e, nil
}

func (echo) Print(string) {}

func (e echo) CrashEverywhere(_ context.Context, _ string, _ map[string]any, body scripts.Function) error {
	for range 2 {
		if _, err := body(e); err != nil {
			return fmt.Errorf("record 3: %w", err)
		}
	}
	return nil
}

// runTests runs every test of a source and returns what became of each.
func runTests(t *testing.T, src string) (out, heard []string) {
	t.Helper()
	b := one("erp_test.lua", src)
	cases, err := loader().LoadTests(b)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range cases {
		f, err := loader().RunTest(t.Context(), b, i, echo{&heard})
		switch {
		case err != nil:
			out = append(out, fmt.Sprintf("%s: error %v", c.Name(), err))
		case f != nil:
			out = append(out, fmt.Sprintf("%s: %d: %s", c.Name(), f.Pos.Line, f.Message))
		default:
			out = append(out, c.Name()+": ok")
		}
	}
	return out, heard
}

// Tests have the names of their describes, run before_each of all of them, and
// begin with the file evaluated anew.
func TestTestFile(t *testing.T) {
	t.Parallel()
	out, heard := runTests(t, `local n = 0
before_each(function() n = n + 1 end)
describe("outer", function()
  before_each(function() n = n + 10 end)
  describe("inner", function()
    it("counts", function() assert.equal(n, 11) n = 100 end)
  end)
  it("counts again", function() assert.equal(n, 11) end)
end)
it("stands alone", function() assert.equal(n, 1) end)
it("asks", function()
  local w = world("erp.lua", { estate = "e.lua", set = { a = 1 } })
  local run = w:planned { commit = true }
  assert.equal(run.status, { "status", 1.5 })
  assert.equal(w:machine("db1").site, "lyon")
  assert.equal(w:expect("f", function(r, x) return r.id[1] .. x end), "id7")
end)
it("dies everywhere", function() crash_everywhere(function(w) w:sleep("1s") end) end)
`)
	want := "outer, inner, counts: ok; outer, counts again: ok; stands alone: ok; asks: ok; dies everywhere: ok"
	if got := strings.Join(out, "; "); got != want {
		t.Errorf("got %s", got)
	}
	if got := strings.Join(heard, "; "); !strings.HasPrefix(got, "world erp.luamap[estate:e.lua set:map[a:1]]; planned[map[commit:true]]; machine[db1]; expect[f") ||
		!strings.HasSuffix(got, "sleep[1s]; sleep[1s]") {
		t.Errorf("heard %s", got)
	}
}

// What fails says where, and in words.
func TestTestFailures(t *testing.T) {
	t.Parallel()
	out, _ := runTests(t, `it("1", function() assert.equal(1, 2, "sum") end)
it("2", function() assert(nil) end)
it("3", function() assert.contains({ "a", "bc" }, "d") end)
it("4", function() assert.less(3, 2) end)
it("5", function() assert.fails(function() end) end)
it("6", function() assert.equals(1, 1) end)
it("7", function() world():fail("x", "y") end)
it("8", function() world():plannned() end)
it("9", function() world().planned() end)
it("10", function() world { boot = 1, nope = 2 } end)
it("11", function() crash_everywhere(function(w)
  error("gone")
end) end)
it("12", function() local http = require "drrun.http"; http.get("http://x") end)
it("13", function() world().x = 1 end)
it("14", function() assert.equal({ a = { 1 } }, { a = { 1 } }) assert.differs("a", "b") assert.near(1, 1.5, 0.5) assert.fails(function() error("boom") end, "oo") end)
`)
	want := []string{
		"1: 1: sum: got 1, want 2", "2: 2: got nil", `3: 3: { "a", "bc" } does not have "d" in it`, "4: 4: got 3, want less than 2",
		"5: 5: it does not fail", `6: 6: there is no assert.equals, did you mean "equal"?`, "7: 7: fail: no such machine",
		`8: 8: a world has no "plannned", did you mean "planned"?`, "9: 9: planned is a method: write world:planned(…)",
		`10: 10: world: unknown key "nope"`, "11: 11: record 3: erp_test.lua:12: gone", "12: 14: ", "13: 15: a world cannot be changed", "14: ok",
	}
	for i, w := range want {
		if i >= len(out) || !strings.HasPrefix(out[i], w) {
			t.Errorf("got %q, want %q", out[i], w)
		}
	}
}

// A test file is in the sandbox of plans, and its mistakes are told as theirs.
func TestTestFileMistakes(t *testing.T) {
	t.Parallel()
	for src, want := range map[string]string{
		`it("a", function() end) it("a", function() end)`: `test "a" is there twice`,
		`it("a")`:                                  "function expected",
		`local x = os.time()`:                      "os",
		`world("erp.lua")`:                         "world is made inside of it",
		`return plan "x" { from = "a" }`:           "belongs to the file of a plan, not to the file of a test",
		`local t = require "drrun.tsting"`:         "there is no module",
		`describe("x", function() error("y") end)`: "y",
	} {
		_, err := loader().LoadTests(one("erp_test.lua", src))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "erp_test.lua:1: ") {
			t.Errorf("%s: %v", src, err)
		}
	}
	short := scripts.New(scripts.Options{PlanTime: 100 * time.Millisecond})
	if _, err := short.LoadTests(one("erp_test.lua", "while true do end")); err == nil || !strings.Contains(err.Error(), "time limit") {
		t.Errorf("an endless file: %v", err)
	}
	if _, err := loader().LoadPlan(one("p.lua", `local t = require "drrun.testing"`), nil); err == nil || !strings.Contains(err.Error(), "is for test files") {
		t.Errorf("in a plan: %v", err)
	}
}

// A world file returns a function; its state lives until it is closed.
func TestWorldFile(t *testing.T) {
	t.Parallel()
	var heard []string
	end, err := loader().RunWorld(t.Context(), one("erp_world.lua", `return function(w) w:needs("a", "b") end`), echo{&heard})
	if err != nil || len(heard) != 1 || heard[0] != "needs[a b]" {
		t.Fatalf("%v %v", heard, err)
	}
	end()
	if _, err = loader().RunWorld(t.Context(), one("erp_world.lua", `return { 1 }`), echo{&heard}); err == nil || !strings.Contains(err.Error(), "a world file returns a function") {
		t.Errorf("%v", err)
	}
	if _, err = loader().RunWorld(t.Context(), one("erp_world.lua", "return function(w)\n  w:nope()\nend"), echo{&heard}); err == nil || !strings.Contains(err.Error(), "erp_world.lua:2: ") {
		t.Errorf("%v", err)
	}
}

// A module and a constructor have the same name; who calls the module so is told.
func TestModuleInTheWay(t *testing.T) {
	t.Parallel()
	_, err := loader().LoadPlan(one("p.lua", `local exec = require "drrun.exec"
return plan "p" { from = "a", to = "b",
  shutdown = { before = exec "x" { cmd = "true" } },
  group "g" { machine "m" },
}`), nil)
	if err == nil || !strings.Contains(err.Error(), "p.lua:3: exec is the module of line 1 here, not the word for a step: give the module another name") {
		t.Errorf("%v", err)
	}
}
