package scripts_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/drrun/drrun/scripts"
	"github.com/drrun/drrun/scripts/registry"
)

// writer writes a file as its input says: each byte is a choice. At the end of
// the input every choice is the first one, which ends what is being written.
type writer struct {
	in    []byte
	out   strings.Builder
	scope registry.Scope
	depth int
	names int // given so far
}

// usual is what a constructor needs, so that a file can be right.
var usual = map[string]string{
	"plan": `from = "paris", to = "lyon", group "g0" { machine "m0" }, `,
	"estate": `policy "p0" { every = "30s", rpo = "1m" },
 site "s0" { cloud "c0" { policy = "p0", to = "d0", host "h0" { addr = "10.0.0.5", store = "/s" } } },
 site "s1" { cloud "d0" { policy = "p0", to = "c0", host "h1" { addr = "10.0.0.6", store = "/s" } } }, `,
	"machine": `host = "h0", disk "root" { file = "/a" }, exec = { unit = "u" }, `, "group": `machine "db1", `, "exec": `cmd = "a", only = "any", `, "wait": `ask = "a", skip = "test", `,
	"check": `tcp = "db1:80", `, "action": `only = "any", function() end, `, "machines": `tag = "a", `, "site": `cloud "c" { policy = "p0", host "h" { addr = "10.0.0.5", store = "/s" } }, `,
	"policy": `every = "30s", rpo = "1m", `, "disk": `file = "/a", `, "network": `cidr = "10.0.0.0/24", `, "host": `addr = "10.0.0.5", store = "/s", `,
}

// built is the file that an input stands for.
func built(in []byte, estate bool) string {
	w := &writer{in: in, scope: registry.PlanFile}
	root := "plan"
	if estate {
		w.scope, root = registry.EstateFile, "estate"
	}
	for range w.pick(5) {
		w.statement()
	}
	if w.pick(16) != 15 {
		w.write("return ")
	}
	w.constructor(registry.Of(w.scope)[root])
	return w.out.String()
}

// pick is a number below n.
func (w *writer) pick(n int) int {
	if len(w.in) == 0 {
		return 0
	}
	c := w.in[0]
	w.in = w.in[1:]
	return int(c) % n
}

func oneOf[T any](w *writer, list ...T) T { return list[w.pick(len(list))] }

func (w *writer) write(format string, args ...any) {
	if len(args) > 0 {
		format = fmt.Sprintf(format, args...)
	}
	w.out.WriteString(format)
}

func (w *writer) statement() {
	switch w.pick(7) {
	case 1:
		w.write("local x = ")
		w.value()
	case 2:
		w.write("local x = {} for i = 1, %d do x[#x + 1] = ", w.pick(40))
		w.item(nil)
		w.write(" end")
	case 3:
		w.write("local function x(n, ...) return ")
		w.value()
		w.write(" end")
	case 4:
		w.write("local http = require %q", "drrun."+oneOf(w, registry.Modules...).Name)
	case 5:
		w.write("if x then ")
		w.item(nil)
		w.write(" end")
	case 6:
		w.write("x = x")
	}
	w.write("\n")
}

func (w *writer) constructor(c *registry.Constructor) {
	w.depth++
	defer func() { w.depth-- }()
	w.write(c.Name)
	if !c.Unnamed {
		w.names++
		w.write(" %q", oneOf(w, fmt.Sprint("n", w.names), fmt.Sprint("n", w.names), fmt.Sprint("n", w.names), "a", "db1", "paris", "", "a b", "../x"))
	}
	if c.Body == registry.None || c.Body == registry.Optional && w.pick(2) == 1 {
		return
	}
	w.write(" { ")
	if w.pick(8) != 7 && c.Scope == w.scope {
		w.write("%s", usual[c.Name])
	}
	for range w.pick(6) {
		w.write("\n" + strings.Repeat(" ", w.depth))
		w.field(c.Fields)
		w.write(oneOf(w, ",", ",", ",", ",", ";", ""))
	}
	if w.depth < 6 {
		for range w.pick(5) {
			w.write("\n" + strings.Repeat(" ", w.depth))
			w.item(c)
			w.write(oneOf(w, ",", ",", ",", ",", ",", ",", ",", ""))
		}
	}
	w.write("}")
}

// field writes a key of a constructor, now and then a wrong one, and a value that
// mostly has its type.
func (w *writer) field(fields []registry.Field) {
	if len(fields) == 0 {
		w.write("x = 1")
		return
	}
	f := oneOf(w, fields...)
	name := f.Name
	switch w.pick(16) {
	case 14:
		name = name[1:] + "s"
	case 15:
		c := oneOf(w, registry.Constructors...)
		if len(c.Fields) > 0 {
			name = oneOf(w, c.Fields...).Name
		}
	}
	w.write("[%q] = ", name)
	if w.pick(8) == 7 {
		w.value()
		return
	}
	switch f.Type {
	case registry.Duration:
		w.write(oneOf(w, `"5m"`, `"0s"`, `"1h30m"`, `"9999999h"`, `"-1s"`, `"5"`))
	case registry.Rate:
		w.write(oneOf(w, `"200Mbit/s"`, `"1bit/s"`, `"200"`))
	case registry.Bool:
		w.write(oneOf(w, "true", "false"))
	case registry.Integer:
		w.write(oneOf(w, "1", "0", "-1", "4096", "1.5", "1e99", "0/0"))
	case registry.Word:
		w.write("%q", oneOf(w, append(f.Words, "x")...))
	case registry.Types:
		w.write(oneOf(w, `"test"`, `{ "planned", "unplanned" }`, `"any"`, `{}`, `{ "tset" }`))
	case registry.Record, registry.Commit:
		w.write("{ ")
		for range w.pick(4) {
			w.field(f.Fields)
			w.write(", ")
		}
		w.write("}")
	case registry.Steps:
		w.write(oneOf(w, "{ ", "{ ", ""))
		from := w.out.String()
		w.item(nil)
		if strings.HasSuffix(from, "{ ") {
			w.write(" }")
		}
	case registry.Address:
		w.write(oneOf(w, `{ lan = 11 }`, `"10.0.0.1"`, `{ "10.0.0.1/24", "2001:db8::1/64" }`, `{ lan = { 1, 2 } }`, `{ lan = 9e9 }`))
	case registry.Map, registry.Params:
		w.write(oneOf(w, `{ a = "b" }`, `{ a = { "b", "c" } }`, `{ 1, 2 }`, `{ x = 1, y = true, z = {} }`))
	case registry.Keep:
		w.write(oneOf(w, `{ "all for 1h", "5m for 1d" }`, `{ "1d for 1h" }`, `"all"`))
	default:
		w.write(oneOf(w, `"db1"`, `{ "db1", "a" }`, `"db1:5432"`, `"http://db1:80/x"`, `"0 3 * * SUN"`, `"a && b"`, `"Europe/Paris"`, `""`))
	}
}

// item writes what can stand in a constructor's body, and what cannot.
func (w *writer) item(in *registry.Constructor) {
	all := registry.Of(w.scope)
	switch n := w.pick(12); {
	case in != nil && in.Function && n < 6:
		w.function()
	case in != nil && len(in.Items) > 0 && n < 8:
		if c := all[oneOf(w, in.Items...)]; c != nil {
			w.constructor(c)
			return
		}
		w.value()
	case n < 10:
		c := oneOf(w, registry.Constructors...)
		if w.depth > 6 {
			w.write("nil")
			return
		}
		w.constructor(&c)
	default:
		w.value()
	}
}

func (w *writer) function() {
	w.write("function(run) ")
	for range w.pick(4) {
		m := oneOf(w, registry.Modules...)
		fn := oneOf(w, m.Functions...)
		switch w.pick(4) {
		case 0:
			w.write("local v = require(%q).%s(", "drrun."+m.Name, fn.Name)
			w.value()
			w.write(") ")
		case 1:
			w.write("local http = require %q http.%s { ", "drrun."+m.Name, fn.Name)
			w.field(oneOf(w, registry.Constructors...).Fields)
			w.write(" } ")
		case 2:
			w.write("run:%s(", oneOf(w, registry.RunFields...).Name)
			w.value()
			w.write(") ")
		default:
			w.write("x.y = ")
			w.value()
			w.write(" ")
		}
	}
	w.write("end")
}

// value writes an expression.
func (w *writer) value() {
	if w.depth > 8 {
		w.write("1")
		return
	}
	w.depth++
	defer func() { w.depth-- }()
	switch n := w.pick(20); n {
	case 0, 1, 2, 3, 4, 5, 6, 7:
		w.write([]string{"nil", "1", `"a"`, "true", "x", "{}", `secret "a"`, "i"}[n])
	case 8, 9, 10, 11:
		w.value()
		w.write(oneOf(w, " .. ", " + ", " and ", " or ", " == ", ".x.", "[1] or ", " % "))
		w.write(oneOf(w, "1", "x", `"a"`, "nil", "x", "i"))
	case 12:
		w.write("{ ")
		for range w.pick(4) {
			w.value()
			w.write(", ")
		}
		w.write("}")
	case 13:
		w.write("each({ 1, 2, 3 }, function(x) return ")
		w.item(nil)
		w.write(" end)")
	case 14:
		w.write("#")
		w.value()
	case 15:
		w.write("%s(", oneOf(w, "tostring", "pairs", "next", "unpack", "table.concat", "string.rep", "setmetatable", "pcall", "error", "x", "select", "rawset"))
		w.value()
		w.write(", ")
		w.value()
		w.write(")")
	case 16:
		w.function()
	default:
		w.item(nil)
	}
}

// TestBuiltFilesLoad: enough of what FuzzBuilt writes gets past the parser, and
// some of it is right.
func TestBuiltFilesLoad(t *testing.T) {
	t.Parallel()
	l := scripts.New(scripts.Options{})
	parsed, right := 0, 0
	const n = 300
	for i := range n {
		in := make([]byte, 8+i%60)
		x := uint32(i + 1)
		for j := range in {
			x = x*1664525 + 1013904223
			in[j] = byte(x >> 24)
		}
		_, err := load(t, l, built(in, i%2 == 0), i%2 == 0)
		switch {
		case err == nil:
			right++
			parsed++
		case !strings.Contains(err.Error(), "syntax"):
			parsed++
		}
	}
	t.Logf("of %d files %d are Lua, %d are right", n, parsed, right)
	if parsed < n/2 || right == 0 {
		t.Errorf("of %d files %d are Lua, %d are right", n, parsed, right)
	}
}
