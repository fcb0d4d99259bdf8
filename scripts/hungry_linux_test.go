package scripts_test

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drrun/drrun/scripts"
)

var every = flag.Bool("every", false, "all of the hungry functions, not each fourth")

// hungry are bodies of functions that take memory until somebody stops them.
var hungry = []struct{ name, src string }{
	{"doubling string", `local s = "x" while true do s = s .. s end`},
	{"strings in a list", `local t, s = {}, ("x"):rep(1e5) while true do t[#t + 1] = s .. #t end`},
	{"rep in a list", `local t = {} while true do t[#t + 1] = ("x"):rep(8e6) end`},
	{"tables in a list", `local t = {} while true do t[#t + 1] = {} end`},
	{"written tables in a list", `local t = {} while true do t[#t + 1] = { 1, 2, { 3 } } end`},
	{"tables in tables", `local t while true do t = { t } end`},
	{"tables with keys", `local t = {} while true do t[#t + 1] = { a = 1, b = 2, c = { d = 3 } } end`},
	{"numbers in a list", `local t = {} while true do t[#t + 1] = #t end`},
	{"far indexes", `local t = {} while true do local n = { } n[1000000] = 1 t[#t + 1] = n end`},
	{"keys", `local t, i = {}, 0 while true do i = i + 1 t["key" .. i] = i end`},
	{"long keys", `local t, i = {}, 0 while true do i = i + 1 t[("k"):rep(1e5) .. i] = i end`},
	{"tables as keys", `local t = {} while true do t[{}] = true end`},
	{"functions", `local t = {} while true do local n = #t t[n + 1] = function() return n end end`},
	{"upvalues", `local f = function() end while true do local g, s = f, { f } f = function() return g, s end end`},
	{"metatables", `local t = {} while true do t[#t + 1] = setmetatable({}, { __index = t, __mode = "k" }) end`},
	{"metatable chain", `local t = {} while true do t = setmetatable({}, { __index = t, n = {} }) end`},
	{"concat", `local t = {} for i = 1, 1000 do t[i] = ("x"):rep(8000) end local u = {} while true do u[#u + 1] = table.concat(t) end`},
	{"gsub", `local u, s = {}, ("x"):rep(1000) while true do u[#u + 1] = s:gsub("x", ("y"):rep(1000)) end`},
	{"format", `local u, s = {}, ("x"):rep(1e6) while true do u[#u + 1] = ("%s%s"):format(s, s) end`},
	{"upper and reverse", `local u, s = {}, ("x"):rep(1e6) while true do u[#u + 1] = s:upper() u[#u + 1] = s:reverse() end`},
	{"sub", `local u, s = {}, ("x"):rep(1e6) while true do u[#u + 1] = s:sub(2) s = s .. "y" end`},
	{"errors", `local t = {} while true do local ok, e = pcall(error, ("x"):rep(1e5) .. #t) t[#t + 1] = e end`},
	{"errors that are tables", `local t = {} while true do local ok, e = pcall(error, { t, {}, #t }) t[#t + 1] = e end`},
	{"pcall around", `local t = {} while true do pcall(function() while true do t[#t + 1] = { #t } end end) end`},
	{"xpcall around", `local t = {} while true do xpcall(function() while true do t[#t + 1] = { #t } end end, function(e) t[#t + 1] = { e } return e end) end`},
	{"in a deep call", `local t = {} local function f(n) if n > 0 then return 1 + f(n - 1) end while true do t[#t + 1] = { n } end end f(100)`},
	{"in a comparison", `local t = {} table.sort({ 1, 2, 3, 4 }, function(a, b) while true do t[#t + 1] = { a, b } end end)`},
	{"in a replacement", `local t = {} ("abc"):gsub(".", function(c) while true do t[#t + 1] = { c } end end)`},
	{"in a metamethod", `local t = {} local m = setmetatable({}, { __index = function(_, k) while true do t[#t + 1] = { k } end end }) local x = m.x`},
	{"varargs", `local t = {} local function f(...) t[#t + 1] = { ... } return f(#t, ...) end while true do pcall(f) end`},
	{"byte", `local t, s = {}, ("x"):rep(8000) while true do t[#t + 1] = { s:byte(1, -1) } end`},
	{"tostring", `local t = {} while true do t[#t + 1] = tostring(#t) .. tostring(t) .. ("x"):rep(1000) end`},
	{"temporaries", `local function f(n) if n == 0 then local t = {} for i = 1, 1e5 do t[i] = { i } end return t end return { f(n - 1), f(n - 1) } end f(20)`},
}

// ofRuns are bodies that take memory by what only functions of runs can call.
var ofRuns = []struct{ name, src string }{
	{"values of the run", `local t, s, i = {}, ("x"):rep(6e4), 0 while true do i = i + 1 run:set("k" .. i % 100, s) t[i] = run:get("k" .. i % 100) .. i end`},
	{"json texts", `local t, u = { ("x"):rep(1e5) }, {} while true do u[#u + 1] = json.encode(t) end`},
	{"notes", `while true do print(("x"):rep(1e6)) end`},
	{"pieces", `local re, u = require "drrun.re", {} while true do u[#u + 1] = re.split("x", ("x"):rep(9e4)) end`},
	{"json", `local t = {} while true do t[#t + 1] = json.decode('[' .. ('{"a":[1,2,3]},'):rep(1000) .. '0]') end`},
	{"replacements", `local re, u = require "drrun.re", {} while true do u[#u + 1] = re.replace("x", ("x"):rep(1e4), "yyyyyyyyyy") end`},
	{"patterns", `local re, i = require "drrun.re", 0 while true do i = i + 1 re.match("(a|b|c|d){1,400}" .. i, "x") end`},
	{"templates", `local template, u = require "drrun.template", {} while true do u[#u + 1] = template.render(("{{x}}"):rep(100), { x = ("y"):rep(1e4) }) end`},
}

// hungryResult is what a child tells of one of them.
type hungryResult struct {
	Name  string `json:"name"`
	Error string `json:"error"`
	Grown int64  `json:"grown"` // bytes of resident memory, at most
	Took  int64  `json:"took"`  // milliseconds
	Good  int    `json:"good"`  // functions of another run that ended well meanwhile
	Bad   string `json:"bad"`   // what was wrong with one of them
}

// TestHungry runs what takes memory in a child process, with the limits that the
// product has: each ends with an error at a line of its file, the process has
// not grown by a gibibyte, and the functions of another run went on.
func TestHungry(t *testing.T) {
	if os.Getenv("DRRUN_HUNGRY") != "" {
		feed(t)
		return
	}
	t.Parallel()
	cmd := exec.Command(os.Args[0], "-test.run=^TestHungry$", "-test.timeout=30m", fmt.Sprintf("-every=%v", *every))
	cmd.Env = append(os.Environ(), "DRRUN_HUNGRY=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	place := regexp.MustCompile(`^p\.lua:\d+: `)
	n, most := 0, int64(0)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var r hungryResult
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			continue // of the test's own output
		}
		n++
		most = max(most, r.Grown)
		if !place.MatchString(r.Error) || strings.Contains(r.Error, "internal error") {
			t.Errorf("%s: ended with %.200q, want an error with its line", r.Name, r.Error)
		}
		if r.Grown >= 1<<30 {
			t.Errorf("%s: the process grew by %d MiB", r.Name, r.Grown>>20)
		}
		if r.Good == 0 || r.Bad != "" {
			t.Errorf("%s: of another run %d functions ended well; %s", r.Name, r.Good, r.Bad)
		}
		if testing.Verbose() {
			t.Logf("%-30s %5d MiB %6d ms %4d  %.90s", r.Name, r.Grown>>20, r.Took, r.Good, strings.ReplaceAll(r.Error, "\n", " "))
		}
	}
	if err := cmd.Wait(); err != nil || n < 10 || *every && n != len(hungry)+len(ofRuns) {
		t.Errorf("%d told, %v", n, err)
	}
	t.Logf("at most %d MiB", most>>20)
}

// feed is the child.
func feed(t *testing.T) {
	l := scripts.New(scripts.Options{})
	tell := func(name string, run func() error) {
		r := hungryResult{Name: name}
		debug.FreeOSMemory()
		before := resident(t)
		stop := make(chan struct{})
		var other sync.WaitGroup
		other.Go(func() { neighbour(l, stop, &r) })
		begun := time.Now()
		if err := run(); err != nil {
			r.Error = err.Error()
		}
		r.Took = time.Since(begun).Milliseconds()
		close(stop)
		other.Wait()
		r.Grown = peak(t) - before
		raw, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("%s\n", raw)
	}
	for i, h := range append(hungry, ofRuns...) {
		if !*every && i%4 != 1 {
			continue
		}
		tell(h.name, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, detail, err := l.RunFunc(ctx, action(h.src), ref, testRun, &journal{})
			if err == nil && detail != "" {
				err = fmt.Errorf("%s", detail) //nolint:err113 // it is text
			}
			return err
		})
	}
}

// steady is the host of a function that works until it is told to stop.
type steady struct {
	journal
	stop chan struct{}
	n    int
}

func (s *steady) Exec(context.Context, string, string, []string) (int, string, error) {
	s.n++
	s.records, s.next = nil, 0 // it lives for long
	select {
	case <-s.stop:
		return 0, "stop", nil
	case <-time.After(time.Millisecond):
		return 0, "go on", nil
	}
}

// neighbour is a function of another run: it works, asks the world and works on,
// for as long as the hungry one lasts.
func neighbour(l *scripts.Loader, stop chan struct{}, r *hungryResult) {
	s := &steady{stop: stop}
	ok, detail, err := l.RunFunc(context.Background(), action(`
local kept = {}
for i = 1, 10000 do kept[i] = { i, tostring(i) } end
repeat
  local t = {}
  for i = 1, 5000 do t[i] = { i, kept[i][2] } end
  table.sort(t, function(a, b) return a[2] < b[2] end)
  assert(t[1][1] == 1 and t[5000][1] == 999)
until exec.run { on = "db1", cmd = { "true" } }.output == "stop"
run:note(json.encode { n = #kept })`), ref, testRun, s)
	r.Good = s.n
	if !ok || err != nil || len(s.notes) != 1 || s.notes[0] != `{"n":10000}` {
		r.Bad = fmt.Sprintf("it ended with %v %q %v %q", ok, detail, err, s.notes)
	}
}

// resident is the memory of this process, and begins its peak anew.
func resident(t *testing.T) int64 {
	t.Helper()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0o600); err != nil {
		t.Fatal(err)
	}
	return statusOf(t, "VmRSS:")
}

func peak(t *testing.T) int64 { return statusOf(t, "VmHWM:") }

func statusOf(t *testing.T, key string) int64 {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == key {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatalf("/proc/self/status has no %s", key)
	return 0
}
