package scripts_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/drrun/drrun/plans"
)

// The tests here hold table constructors to what Lua 5.1 makes of them. The
// library's own compiler loses and overwrites items; see package syntax.

// last is a kind of last item: its source, and how many values it gives; every
// value of it is the number of the item it becomes.
var lastItems = map[string]func(n int) (src string, values int){
	"constant": func(n int) (string, int) { return fmt.Sprint(n), 1 },
	"call":     func(n int) (string, int) { return fmt.Sprintf("one(%d)", n), 1 },
	"method":   func(n int) (string, int) { return fmt.Sprintf("obj:one(%d)", n), 1 },
	"three":    func(n int) (string, int) { return fmt.Sprintf("three(%d)", n), 3 },
	"no value": func(int) (string, int) { return "none()", 0 },
	"one of 3": func(n int) (string, int) { return fmt.Sprintf("(three(%d))", n), 1 },
	"varargs":  func(int) (string, int) { return "...", -1 },
	"sum":      func(n int) (string, int) { return fmt.Sprintf("one(%d) + 0", n), 1 },
	"joined":   func(n int) (string, int) { return fmt.Sprintf("tonumber(%d .. '')", n), 1 },
	"and table": func(n int) (string, int) {
		return fmt.Sprintf("#{ one(1), %s x = one(2) } + %d", strings.Repeat("0, ", 49), n-50), 1
	},
}

// keyedPlaces are where keyed fields stand among n items.
var keyedPlaces = map[string]func(n int) []int{
	"none": func(int) []int { return nil }, "first": func(int) []int { return []int{0} }, "last": func(n int) []int { return []int{n} },
	"middle": func(n int) []int { return []int{n / 2} }, "around": func(n int) []int { return []int{0, n / 2, min(50, n), n} },
}

// keyedValues are the values of keyed fields; each is 7.
var keyedValues = []string{"7", "one(7)", "obj:one(7)", "(three(7))", "#{ one(1), 2, 3, 4, 5, 6, y = one(7), 7 }"}

// constructors writes, for n items, one table of every kind of last and keyed
// field, and after each a line that compares it with what it must be.
func constructors(n int) string {
	var b strings.Builder
	b.WriteString(`
local obj = {}
function obj.one(_, x) return x end
local function one(x) return x end
local function three(x) return x, x + 1, x + 2 end
local function none() end
local function same(what, t, n, keyed)
  for i = 1, n do if t[i] ~= i then error(what .. ": item " .. i .. " is " .. tostring(t[i])) end end
  if t[n + 1] ~= nil or #t ~= n then error(what .. ": length " .. #t .. ", want " .. n) end
  for i = 1, keyed do if t["k" .. i] ~= 7 then error(what .. ": k" .. i .. " is " .. tostring(t["k" .. i])) end end
end
`)
	v := 0
	for name, lastItem := range lastItems {
		for place, where := range keyedPlaces {
			v++
			last, values := lastItem(n)
			rest := ""
			if values < 0 {
				values, rest = 2, fmt.Sprintf("%d, %d", n, n+1)
			}
			var fields []string
			keyed := 0
			for i := 0; i <= n; i++ {
				for _, w := range where(n) {
					if w == i {
						keyed++
						fields = append(fields, fmt.Sprintf("k%d = %s", keyed, keyedValues[(v+keyed+n)%len(keyedValues)]))
					}
				}
				switch {
				case i < n-1:
					fields = append(fields, fmt.Sprint(i+1))
				case i == n-1:
					fields = append(fields, last)
				}
			}
			// Only the last field of all can be more values than one.
			if slices.Contains(where(n), n) {
				values = min(values, 1)
				if name == "no value" {
					continue // the item is nil: no length to compare
				}
			}
			fmt.Fprintf(&b, "(function(...) same(%q, { %s }, %d, %d) end)(%s);\n",
				fmt.Sprintf("%d items, last %s, keyed %s", n, name, place), strings.Join(fields, ", "), n-1+values, keyed, rest)
		}
	}
	return b.String()
}

// edge reports whether n is near a batch of the library's compiler.
func edge(n int) bool { return n < 4 || (n+2)%50 < 5 }

func TestTableConstructorsAsLua51(t *testing.T) {
	t.Parallel()
	l := loader()
	for n := 1; n <= 151; n++ {
		// The same on the page, in a module that it loads, and in a function.
		src := constructors(n)
		b := plans.Bundle{Main: "p.lua", Files: map[string]string{"tables.lua": src, "p.lua": "require \"tables\"\ndo\n" + src + `end
return plan "p" { from = "a", to = "b", group "g" { machine "m", after = check "c" { function(run)
` + src + `return true end } } }`}}
		if ok, detail, err := l.RunFunc(t.Context(), b, ref, testRun, &journal{}); !ok || err != nil {
			t.Fatalf("%d items: %q %v", n, detail, err)
		}
	}
}

func TestGroupsOfEveryLength(t *testing.T) {
	t.Parallel()
	l := loader()
	for n := 1; n <= 151; n++ {
		var items, want []string
		for i := 1; i <= n; i++ {
			items = append(items, fmt.Sprintf("machine(\"m%d\")", i))
			want = append(want, fmt.Sprintf("m%d", i))
		}
		list := strings.Join(items, ", ")
		for kind, src := range map[string]string{
			"after is a call":   "group \"g\" { before = check \"b\" { tcp = \"a.b:1\" }, " + list + ", after = check \"a\" { tcp = \"a.b:2\" } }",
			"last is a call":    "group \"g\" { parallel = 2, " + list + " }",
			"a list in a list":  "group \"g\" { { " + list + " }, delay = \"5s\" }",
			"a list by a call":  "group \"g\" { (function() return { " + list + " } end)() }",
			"unpacked":          "group \"g\" { unpack { " + list + " } }",
			"one, and unpacked": "group \"g\" { machine \"m0\", unpack { " + list + " } }",
		} {
			if !edge(n) && kind != "after is a call" {
				continue
			}
			p, err := l.LoadPlan(one("p.lua", "return plan \"p\" { from = \"a\", to = \"b\", "+src+" }"), nil)
			if err != nil {
				t.Fatalf("%d machines, %s: %v", n, kind, err)
			}
			var got []string
			for _, m := range p.Items[0].Group.Machines {
				if m.Name != "m0" {
					got = append(got, m.Name)
				}
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%d machines, %s: got %v", n, kind, got)
			}
			if kind == "after is a call" && (len(p.Items[0].Group.After) != 1 || len(p.Items[0].Group.Before) != 1) {
				t.Fatalf("%d machines, %s: steps are lost", n, kind)
			}
		}
	}
}

// TestLongLists: behind a million items the library loses them; no list comes to
// that, on the page and in functions, however its items were put there.
func TestLongLists(t *testing.T) {
	t.Parallel()
	const want = ": a list of more than 1000000 items: use several lists, or keys that are no numbers"
	for _, c := range []struct {
		src  string
		line int // of the error; 0: there is none
	}{
		{"local t = {} t[999990] = 0\nfor i = 1, 60000 do\nt[#t + 1] = i\nend", 3},
		{"local t = {} t[999990] = 0\nfor i = 1, 60000 do\nlocal n = i\ntable.insert(t, n)\nend", 4},
		{`local t, seen = {}, {}
for i = 1000000, 1048580 do t[i] = i end
local function look(f, ...)
  local ok, err = pcall(f, ...)
  if ok or not err:find("a list of more than 1000000 items", 1, true) then error("seen: " .. tostring(err)) end
end
look(function() return #t end)
look(function() for _, v in ipairs(t) do end end)
for _, name in ipairs { "concat", "sort", "remove", "insert", "maxn", "getn" } do look(table[name], t) end
if t[1048580] ~= 1048580 then error("lost") end`, 0},
		{`local t, n, far = {}, 0, { [5e6] = 1 }
for i = 950000, 1000000 do t[i] = i end
for i = 1, 10 do t[i] = i end
for _, v in ipairs(t) do n = n + v end
if #t ~= 1e6 or t[#t] ~= 1e6 or n ~= 55 or table.remove(t) ~= 1e6 or #far ~= 0 or far[5e6] ~= 1 then error("lost") end`, 0},
	} {
		_, err := loader().LoadPlan(one("p.lua", c.src), nil)
		ok, detail, runErr := runAction(t, loader(), c.src, &journal{})
		switch before := strings.Count(action("").Files["p.lua"], "\n") - 2; {
		case runErr != nil:
			t.Errorf("%s: %v", c.src, runErr)
		case c.line == 0:
			if err == nil || !strings.HasPrefix(err.Error(), "p.lua:1: the file returns nothing") || !ok {
				t.Errorf("%s: on the page %v; in a function %v %q", c.src, err, ok, detail)
			}
		case err == nil || !strings.HasPrefix(err.Error(), fmt.Sprintf("p.lua:%d%s", c.line, want)):
			t.Errorf("%s: on the page %v", c.src, err)
		case ok || !strings.HasPrefix(detail, fmt.Sprintf("p.lua:%d: ", before+c.line)) || !strings.HasSuffix(detail, want):
			t.Errorf("%s: in a function %q, lines before it %d", c.src, detail, before)
		}
	}
}
