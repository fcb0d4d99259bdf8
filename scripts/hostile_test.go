package scripts_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts"
)

// hostile are pages that try to run for ever, to take all memory, or to get
// out of the sandbox; want is a part of the fault each must end with.
var hostile = []struct{ name, src, want string }{
	{"endless loop", `while true do end`, "time limit"},
	{"endless loop under pcall", `while true do pcall(function() while true do end end) end`, "time limit"},
	{"endless loop under xpcall", `local function f() while true do end end while true do xpcall(f, f) end`, "time limit"},
	{"endless recursion", `local function f() return 1 + f() end f()`, "stack overflow"},
	{"endless recursion under pcall", `local function f() pcall(f) return f() end f()`, ""},
	{"endless tail calls", `local function f() return f() end f()`, "time limit"},
	{"endless metamethods", `local t = setmetatable({}, {}) getmetatable(t).__index = function(t, k) return t[k] end local x = t.x`, "stack overflow"},
	{"endless iterator", `for x in function() return 1 end do end`, "time limit"},
	{"pattern bomb", `local x = ("a"):rep(40):find(("a*"):rep(40) .. "b")`, "too many steps"},
	{"pattern bomb, balanced", `local x = ("("):rep(100000):gsub("%b()", "")`, "steps"},
	{"pattern bomb, depth", `local x = ("a"):rep(1000):match(("(a"):rep(33))`, "captures"},
	{"pattern bomb under pcall", `while true do pcall(string.find, ("a"):rep(40), ("a*"):rep(40) .. "b") end`, "time limit"},
	{"string growth", `local s = "x" while true do s = s .. s end`, "a string of more than"},
	{"string growth under pcall", `local s, t = "xxxxxxxx", {} while true do pcall(function() s = s .. s end) t[#t + 1] = s .. #t end`, ""},
	{"rep", `local s = ("x"):rep(1e9)`, "a string of more than"},
	{"rep of inf", `local s = ("x"):rep(1/0)`, "a string of more than"},
	{"rep, many", `local t = {} while true do t[#t + 1] = ("x"):rep(1e6) end`, "memory"},
	{"concat", `local t = {} for i = 1, 100 do t[i] = ("x"):rep(1e5) end local s = table.concat(t)`, "a string of more than"},
	{"gsub growth", `local s = ("x"):rep(1e6):gsub("x", ("y"):rep(1e3))`, "a string of more than"},
	{"format", `local s = ("%99999999d"):format(1)`, "invalid format"},
	{"format growth", `local x = ("x"):rep(1e6) local s = ("%s"):rep(50):format(` + strings.Repeat("x, ", 49) + `x)`, "a string of more than"},
	{"table growth", `local t = {} for i = 1, 1e9 do t[i] = { i } end`, ""},
	{"far index", `local t = {} t[6e7] = 1 for i = 1, 100 do t = { [6e7 + i] = t } end error("fine")`, "fine"},
	{"unpack", `local t = {} t[1e5] = 1 local x = { unpack(t, 1, 1e5) }`, "too many values"},
	{"unpack, far", `local x = { unpack({}, -2e9, 2e9) }`, "too many values"},
	{"byte", `local x = { (("x"):rep(1e6)):byte(1, -1) }`, "more than 8000 values"},
	{"sort by lies", `local t = {} for i = 1, 1e4 do t[i] = i end table.sort(t, function() return true end) error("fine")`, ""},
	{"insert far", `local t = {} table.insert(t, 1e9, 1) table.insert(t, -5, 1) table.remove(t, 1e10) error("fine")`, ""},
	{"error of nothing", `error("")`, "an error without a message"},
	{"error of blanks", `error(" \n ")`, "an error without a message"},
	{"error object", `error({ code = 5 })`, "an error that is a table"},
	{"error object that fails", `error(setmetatable({}, { __tostring = function() error("again") end }))`, "an error that is a table"},
	{"error function", `error(function() end)`, "an error that is a function\n"},
	{"error node", `error(machine "a")`, "an error that is a machine\n"},
	{"error secret", `error(secret "a")`, "an error that is a secret\n"},
	{"string metatable", `getmetatable("").__index = function() return "owned" end`, ""},
	{"string methods replaced", `string.rep = function() return "x" end error(("a"):rep(3))`, "x"},
	{"globals' metatable", `setmetatable(string, { __index = function() return 1 end }) error(tostring(string.nope))`, "1"},
	{"node's metatable", `local m = machine "x" setmetatable(m, {})`, "table expected"},
	{"hidden names", "local x = _ENV", "unknown name"},
	{"tostring that lies", `local s = "a" .. setmetatable({}, { __concat = function() while true do end end })`, "time limit"},
	{"node loop", `local t = {} t[1] = t return plan "p" { from = "a", to = "b", t }`, "levels deep"},
	{"key loop", `local t = {} t.t = t return plan "p" { from = "a", to = "b", params = { x = t }, group "g" { machine "m" } }`, "unknown key"},
	{"module loop", `local m = require "p"`, "loads itself"},
	{"goto loop", `::a:: goto a`, "time limit"},
	{"nan key", `local t = {} t[0/0] = 1`, ""},
	{"many locals", func() string {
		var b strings.Builder
		for i := range 300 {
			fmt.Fprintf(&b, "local v%d = %d\n", i, i)
		}
		return b.String()
	}(), ""},
	{"many arguments", "tostring(" + strings.Repeat("1, ", 300) + "1)", ""},
	{"deep brackets", "local x = " + strings.Repeat("(", 100000) + "1" + strings.Repeat(")", 100000), "nested"},
	{"deep unary", "local x = " + strings.Repeat("- ", 100000) + "1", "nested"},
	{"deep concatenation", "local x = " + strings.Repeat("'a' .. ", 100000) + "'b'", "nested"},
	{"deep sum", "local x = " + strings.Repeat("1 + ", 100000) + "1", "nested"},
	{"deep tables", "local x = " + strings.Repeat("{", 4000) + strings.Repeat("}", 4000), "nested"},
	{"deep functions", strings.Repeat("local function f() ", 1000) + strings.Repeat("end ", 1000), "nested"},
	{"deep calls", "local x = tostring" + strings.Repeat(" {}", 50000), "nested"},
	{"many elseifs", "if x then " + strings.Repeat("elseif x then ", 5000) + "end", "nested"},
	{"long file", "--" + strings.Repeat("x", 1<<20), "longer than"},
	{"many items", "local t = { " + strings.Repeat("0,", 20001) + " }", "more than 20000 items"},
	{"zero bytes", "local x = \"\x00tab\" \x00tab(1, {})", "syntax"},
}

// TestHostilePages is not parallel: the heap is watched.
func TestHostilePages(t *testing.T) {
	short := scripts.New(scripts.Options{PlanTime: 100 * time.Millisecond, Memory: 48 << 20, Text: 4 << 20})
	long := scripts.New(scripts.Options{PlanTime: 30 * time.Second, Memory: 48 << 20, Text: 4 << 20})
	for _, c := range hostile {
		t.Run(c.name, func(t *testing.T) {
			l := long
			if c.want == "time limit" || c.want == "" { // others end by themselves
				l = short
			}
			start := time.Now()
			_, err := l.LoadPlan(one("p.lua", c.src), nil)
			took := time.Since(start)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "p.lua:") {
				t.Errorf("got %.300v, want %q", err, c.want)
			}
			if strings.Contains(fmt.Sprint(err), "internal error") {
				t.Errorf("a host function panicked: %v", err)
			}
			if took > time.Minute {
				t.Errorf("took %v", took)
			}
		})
	}
}

// The same inside a function of a run: its context is the limit, and a
// swallowed cancellation comes again.
func TestHostileFunctions(t *testing.T) {
	l := scripts.New(scripts.Options{PlanTime: 30 * time.Second, Memory: 48 << 20, Text: 4 << 20})
	for name, body := range map[string]string{
		"loop":        `while true do end`,
		"pcall":       `while true do pcall(error, "x") end`,
		"table":       `local t = {} while true do t[#t + 1] = {} end`,
		"strings":     `local t = {} while true do t[#t + 1] = ("x"):rep(1e6) .. #t end`,
		"pcall table": `local t = {} while true do pcall(function() while true do t[#t + 1] = { #t } end end) end`,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
			defer cancel()
			start := time.Now()
			ok, _, err := l.RunFunc(ctx, action(body), ref, testRun, &journal{})
			if ok || err == nil || time.Since(start) > time.Minute {
				t.Errorf("ok %v, err %v after %v", ok, err, time.Since(start))
			}
		})
	}
}

// A panic of a host function is a fault of drrun: no pcall makes it a result.
func TestPanicOfHostEndsFunction(t *testing.T) {
	t.Parallel()
	l := scripts.New(scripts.Options{PlanTime: 30 * time.Second, Log: slog.New(slog.DiscardHandler)})
	_, _, err := l.RunFunc(t.Context(), action(`pcall(exec.run, { on = "db1", cmd = { "x" } }) return true`), ref, testRun, panics{})
	if err == nil || !strings.Contains(err.Error(), "internal error") {
		t.Errorf("got %v", err)
	}
}

type panics struct{ plans.HostCalls }
