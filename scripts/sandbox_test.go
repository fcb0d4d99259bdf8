package scripts_test

import (
	"strings"
	"testing"
)

// reach lists every name a page, or a function, can reach without a module.
const reach = `
local seen = {}
local function walk(path, v, into)
  if type(v) ~= "table" or seen[v] then return end
  seen[v] = true
  local keys = {}
  for k in pairs(v) do keys[#keys + 1] = tostring(k) end
  table.sort(keys)
  for _, k in ipairs(keys) do
    into[#into + 1] = path .. k .. " " .. type(v[k])
    walk(path .. k .. ".", v[k], into)
  end
end
local function reachable()
  seen = {}
  local all = {}
  for _, g in ipairs {
    { "_VERSION", _VERSION }, { "assert", assert }, { "each", each }, { "error", error }, { "getmetatable", getmetatable }, { "ipairs", ipairs },
    { "math", math }, { "next", next }, { "pairs", pairs }, { "pcall", pcall }, { "print", print }, { "rawequal", rawequal },
    { "rawget", rawget }, { "rawset", rawset }, { "require", require }, { "secret", secret }, { "select", select },
    { "setmetatable", setmetatable }, { "string", string }, { "table", table }, { "tonumber", tonumber }, { "tostring", tostring },
    { "type", type }, { "unpack", unpack }, { "xpcall", xpcall },
    { 'getmetatable("")', getmetatable("") }, { "getmetatable(string)", getmetatable(string) },
  } do
    all[#all + 1] = g[1] .. " " .. type(g[2])
    walk(g[1] .. ".", g[2], all)
  end
  return table.concat(all, "\n")
end
`

func TestReachableGlobals(t *testing.T) {
	t.Parallel()
	_, err := loader().LoadPlan(one("p.lua", reach+"error(reachable(), 0)"), nil)
	_, got, _ := strings.Cut(err.Error(), ": ")
	got, _, _ = strings.Cut(got, "\n    ")
	golden(t, "globals.plan.golden", got+"\n")
	b := one("p.lua", reach+`return plan "p" { from = "a", to = "b", group "g" { machine "m", after = check "c" { function() return true, reachable() end } } }`)
	_, detail, err := loader().RunFunc(t.Context(), b, ref, testRun, &journal{})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "globals.run.golden", detail+"\n")
	if detail != got {
		t.Error("a function reaches other names than a page")
	}
}

// TestLibrariesThatAreNotThere: names of Lua that reach out of the sandbox are
// refused. Package sandbox holds the list of all that are there.
func TestLibrariesThatAreNotThere(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"_G", "_GOPHER_LUA_VERSION", "_printregs", "channel", "collectgarbage", "coroutine", "debug", "dofile", "getfenv", "io", "load",
		"loadfile", "loadstring", "module", "newproxy", "os", "package", "setfenv", "bit", "jit", "arg",
	} {
		_, err := loader().LoadPlan(one("p.lua", "local x = "+name), nil)
		if err == nil || !strings.HasPrefix(err.Error(), "p.lua:1: ") {
			t.Errorf("%s is not refused: %v", name, err)
		}
	}
}

// Strings behave as the manual of Lua 5.1 says.
func TestStringLibrary(t *testing.T) {
	t.Parallel()
	src := `
local function eq(line, got, want) if got ~= want then error(line .. ": got " .. tostring(got) .. ", want " .. tostring(want)) end end
local function why(...) local _, e = pcall(...) return (e:gsub("^p.lua:%d+: ", "")) end
local function list(...) local t = { ... } for i = 1, select("#", ...) do t[i] = tostring(t[i]) end return table.concat(t, "|") end
eq(1, list(("hello world"):find("o w")), "5|7")
eq(2, list(("hello"):find("l+")), "3|4")
eq(3, list(("hello"):find("(l)(l)")), "3|4|l|l")
eq(4, list(("hello"):find("")), "1|0")
eq(5, list(("hello"):find("", 10)), "6|5")
eq(6, list(("a.b"):find(".", 1, true)), "2|2")
eq(7, list(("a.b"):find("%.")), "2|2")
eq(8, list(("hello"):find("xyz")), "nil")
eq(9, list(("hello"):find("l", -2)), "4|4")
eq(10, list(("key = value"):match("^(%w+)%s*=%s*(%w+)$")), "key|value")
eq(11, list(("  trim  "):match("^%s*(.-)%s*$")), "trim")
eq(12, list(("abc"):match("()b()")), "2|3")
eq(13, list(("f(a(b)c)d"):match("%b()")), "(a(b)c)")
eq(14, list(("THE (quick) fox"):find("%((%a+)%)")), "5|11|quick")
eq(15, list(("abcabc"):match("(a)(b)(c)%1%2%3")), "a|b|c")
eq(16, list(("x^y"):match("[%^x]+")), "x^")
eq(17, list(("a]b"):match("[]]")), "]")
eq(18, list(("a-b"):match("[a%-]+")), "a-")
eq(19, list(("a1b2"):match("[^%d]+", 3)), "b")
eq(20, list(("THE END"):gsub("%f[%a]%a+", string.lower)), "the end|2")
local words = {}
for w in ("one two  three"):gmatch("%a+") do words[#words + 1] = w end
eq(21, table.concat(words, ","), "one,two,three")
local kv = {}
for k, v in ("a=1, b=2"):gmatch("(%w+)=(%w+)") do kv[#kv + 1] = k .. v end
eq(22, table.concat(kv, ","), "a1,b2")
local empty = 0
for _ in ("abc"):gmatch("") do empty = empty + 1 end
eq(23, empty, 4)
eq(24, list(("hello"):gsub("l", "L")), "heLLo|2")
eq(25, list(("hello"):gsub("l", "L", 1)), "heLlo|1")
eq(26, list(("hello"):gsub("", "-")), "-h-e-l-l-o-|6")
eq(27, list(("hello world"):gsub("(%w+)", "<%1>")), "<hello> <world>|2")
eq(28, list(("hello"):gsub("(h)(e)", "%2%1%0%%")), "ehhe%llo|1")
eq(29, list(("$name is $x"):gsub("%$(%w+)", { name = "Lua" })), "Lua is $x|2")
eq(30, list(("abc"):gsub("%w", function(c) if c == "b" then return "[" .. c .. "]" end end)), "a[b]c|3")
eq(31, list(("abc"):gsub("^a", "x")), "xbc|1")
eq(32, ("%5d|%-5d|%05d|%+d"):format(42, 42, 42, 42), "   42|42   |00042|+42")
eq(33, ("%x %X %o %c %q %s %10.3s|"):format(255, 255, 8, 65, "a\"b", true, "abcdef"), 'ff FF 10 A "a\\"b" true        abc|')
eq(34, ("%.2f %g %g %e %%"):format(3.14159, 0.1, 1e20, 12345.678), "3.14 0.1 1e+20 1.234568e+04 %")
eq(35, ("%i %u"):format(3, 7), "3 7")
eq(36, ("ab"):rep(3), "ababab")
eq(37, ("ab"):rep(0) .. ("ab"):rep(-1), "")
eq(38, table.concat({ 1, 2, "x" }, ", "), "1, 2, x")
eq(39, table.concat({ 1, 2, 3 }, "-", 2, 3), "2-3")
eq(40, "a" .. 1 .. "b" .. 2, "a1b2")
eq(41, ("abc"):upper() .. ("ABC"):lower() .. ("abc"):reverse(), "ABCabccba")
eq(42, why(string.rep, "x"):match("bad argument"), "bad argument")
eq(43, why(string.find, "a", "[a"), "malformed pattern (missing ']')")
eq(44, why(string.find, "a", "%"), "malformed pattern (ends with '%')")
eq(45, why(string.match, "a", "(a"), "unfinished capture")
eq(46, tostring({}), "table")
eq(47, list(("a,b,,c"):gsub(",", ";")), "a;b;;c|3")
eq(48, list(("äö"):byte(1, -1)), "195|164|195|182")
error("all well")
`
	_, err := loader().LoadPlan(one("p.lua", src), nil)
	if err == nil || !strings.Contains(err.Error(), "all well") {
		t.Error(err)
	}
}
