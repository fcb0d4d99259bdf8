package sandbox

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	lua "github.com/yuin/gopher-lua"
)

func box(t *testing.T, l Limits) *Box {
	t.Helper()
	b := New(t.Context(), l, nil)
	t.Cleanup(b.Close)
	return b
}

func run(t *testing.T, b *Box, src string) ([]lua.LValue, error) {
	t.Helper()
	fn, err := b.L.Load(strings.NewReader(src), "t.lua")
	if err != nil {
		t.Fatal(err)
	}
	return b.Call(fn)
}

// The globals of a state, all of them: one more is a hole until somebody
// looked at it.
func TestGlobals(t *testing.T) {
	t.Parallel()
	b := box(t, Limits{})
	g, _ := b.L.Get(lua.GlobalsIndex).(*lua.LTable)
	var names []string
	ForEach(g, func(k, _ lua.LValue) { names = append(names, k.String()) })
	slices.Sort(names)
	want := []string{"_VERSION", "assert", "error", "getmetatable", "ipairs", "math", "next", "pairs", "pcall", "print", "rawequal",
		"rawget", "rawset", "select", "setmetatable", "string", "table", "tonumber", "tostring", "type", "unpack", "xpcall"}
	if !slices.Equal(names, want) {
		t.Errorf("globals\n%v, want\n%v", names, want)
	}
}

func TestGlobalsCannotBeMadeOrReplaced(t *testing.T) {
	t.Parallel()
	b := box(t, Limits{})
	rets, err := run(t, b, `x = 5; return tostring(x)`)
	if err != nil || rets[0].String() != "unknown" {
		t.Errorf("got %v %v", rets, err)
	}
}

func TestUnknownTakesPartInEverything(t *testing.T) {
	t.Parallel()
	b := box(t, Limits{})
	_, err := run(t, b, `
local u = nope.a.b[1](2):c("x") { y = 1 }
local v = u + 1 - u * 2 / u % 3 ^ u
local w = -v; w = #u
u.x = 1; u[u] = u
for k in pairs(u) do error("a key") end
for k in ipairs(u) do error("an item") end
local x = ("x"):rep(u) .. math.floor(u) .. string.format("%d", u) .. tonumber(u) .. select("#", unpack(u))
table.insert(u, 1); table.insert({}, u); next(u); setmetatable(u, {}); rawset({}, 1, u)
if u < v or u > v or u <= v then error("compared") end
return tostring(u), table.concat({ "a", u }), ("%s"):format(u)`)
	if err != nil {
		t.Error(err)
	}
}

func TestEndings(t *testing.T) {
	t.Parallel()
	b := box(t, Limits{Time: 20 * time.Millisecond})
	if _, err := run(t, b, `while true do end`); !errors.Is(err, ErrTime) {
		t.Errorf("time: %v", err)
	}
	b = box(t, Limits{Total: 1 << 20})
	if _, err := run(t, b, `while true do pcall(string.rep, "x", 1000) end`); !errors.Is(err, ErrMemory) {
		t.Errorf("total: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	c := New(ctx, Limits{}, nil)
	defer c.Close()
	mine := errors.New("mine")
	c.Set("stop", c.Func(func(*lua.LState) int { cancel(mine); return 0 }))
	if _, err := run(t, c, `pcall(stop) while true do pcall(stop) end`); !errors.Is(err, mine) {
		t.Errorf("cancel: %v", err)
	}
	d := box(t, Limits{})
	d.Set("boom", d.Func(func(*lua.LState) int { panic("boom") }))
	if _, err := run(t, d, `return pcall(boom)`); err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("panic: %v", err)
	}
}

// What the code holds counts on, however often it waits for the world: a table
// that grows a little between two calls takes all memory in the end.
func TestMemoryOverCallsOfTheWorld(t *testing.T) {
	b := box(t, Limits{Heap: 24 << 20})
	b.Set("world", b.Func(func(*lua.LState) int { b.Outside(func() {}); return 0 }))
	_, err := run(t, b, `local t = {} while true do for i = 1, 10000 do t[#t + 1] = { i } end world() end`)
	if !errors.Is(err, ErrMemory) {
		t.Errorf("tables: %v", err)
	}
	// Strings that are garbage by the next call do not.
	c := box(t, Limits{Total: 1 << 20})
	c.Set("world", c.Func(func(*lua.LState) int { c.Outside(func() {}); return 0 }))
	if _, err := run(t, c, `for i = 1, 100 do string.rep("x", 100000) world() end`); err != nil {
		t.Errorf("strings: %v", err)
	}
}

// Calls nest as deep as a plan may need, and end long before the stack does.
func TestDepthOfCalls(t *testing.T) {
	t.Parallel()
	b := box(t, Limits{})
	const f = `local function f(n) if n == 0 then return 0 end return 1 + f(n - 1) end `
	if rets, err := run(t, b, f+`return f(350)`); err != nil || rets[0].String() != "350" {
		t.Errorf("350 calls: %v %v", rets, err)
	}
	if _, err := run(t, b, f+`return f(450)`); err == nil || !strings.Contains(err.Error(), "stack overflow") {
		t.Errorf("450 calls: %v", err)
	}
}

func TestPatternSteps(t *testing.T) {
	t.Parallel()
	b := box(t, Limits{Steps: 1000})
	if _, err := run(t, b, `return ("a"):rep(50):find(("a*"):rep(20) .. "b")`); err == nil || !strings.Contains(err.Error(), "too many steps") {
		t.Errorf("got %v", err)
	}
}

func FuzzMatch(f *testing.F) {
	for _, s := range [][2]string{{"hello", "(l)(l)"}, {"f(a)", "%b()"}, {"THE", "%f[%a]%a+"}, {"x", "[^]]"}, {"a", "%"}, {"aa", "(a)%1"}, {"", "[a-"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, src, pat string) {
		steps := 100_000
		m := &matcher{src: src, pat: pat, steps: &steps, poll: func() bool { return true }}
		defer func() {
			if r := recover(); r != nil {
				err, ok := r.(error)
				var pe patternError
				if !ok || !errors.As(err, &pe) && !errors.Is(err, errPattern) {
					t.Fatalf("%q %q: %v", src, pat, r)
				}
			}
		}()
		start, end, ok := m.find(0)
		if ok && (start < 0 || start > end || end > len(src)) {
			t.Errorf("match %d to %d of %q", start, end, src)
		}
	})
}
