package scripts

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	lua "github.com/yuin/gopher-lua"

	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts/hostcall"
	"github.com/drrun/drrun/scripts/registry"
	"github.com/drrun/drrun/scripts/sandbox"
)

// TestCase is one test of a test file.
type TestCase struct {
	Names []string  `json:"names"` // of its describes, then its own
	Pos   plans.Pos `json:"pos"`
}

// Name is the whole name in one line.
func (c TestCase) Name() string { return strings.Join(c.Names, ", ") }

// Object is a value of the test's host: a world, or a run. Values that go to and
// fro are those of JSON, Objects and Functions.
type Object interface {
	// What it is, for messages: "world", "run".
	What() string
	// Methods are its methods and Fields its fields, as the registry has them.
	Methods() []registry.Function
	Fields() []registry.Function
	// Call calls a method, at a line of the file; an error fails the test there.
	Call(ctx context.Context, at plans.Pos, method string, args []any) (any, error)
	// Field reads a field.
	Field(name string) any
}

// Function is a function of the test file that the host may call.
type Function func(args ...any) (any, error)

// TestHost is the simulated world as test files ask for it.
type TestHost interface {
	// World makes a world; plan may be empty.
	World(ctx context.Context, plan string, options map[string]any) (Object, error)
	// CrashEverywhere runs body again and again in worlds of its own.
	CrashEverywhere(ctx context.Context, plan string, options map[string]any, body Function) error
	// Print takes a line that the test prints.
	Print(line string)
}

// TestFailure is why a test failed.
type TestFailure struct {
	Pos     plans.Pos `json:"pos"`
	Message string    `json:"message"`
}

// testPage is one evaluation of a test file.
type testPage struct {
	*page
	ctx    context.Context
	host   TestHost
	blocks []block
	cases  []testCase
	result lua.LValue // the function that the file returned; nil of Lua: none
}

type block struct {
	name   string
	before []lua.LValue
}

type testCase struct {
	TestCase
	before []lua.LValue
	fn     lua.LValue
}

// LoadTests evaluates a test file and lists its tests. The error is
// plans.Faults with every mistake.
func (l *Loader) LoadTests(b plans.Bundle) ([]TestCase, error) {
	limits := l.limits()
	p, err := l.testPage(context.Background(), b, nil, limits)
	if p != nil {
		defer p.box.Close()
	}
	if err != nil {
		return nil, err
	}
	out := make([]TestCase, len(p.cases))
	for i, c := range p.cases {
		out[i] = c.TestCase
	}
	return out, nil
}

// RunTest evaluates a test file and runs one of its tests, the one of that
// number. nil: it passed. The time of the state is not limited: whoever calls
// watches the clock of the wall.
func (l *Loader) RunTest(ctx context.Context, b plans.Bundle, number int, host TestHost) (*TestFailure, error) {
	limits := l.limits()
	limits.Time = 0
	p, err := l.testPage(ctx, b, host, limits)
	if p != nil {
		defer p.box.Close()
	}
	if err != nil {
		return nil, err
	}
	if number >= len(p.cases) {
		return nil, fmt.Errorf("%s has no test %d", b.Main, number)
	}
	p.box.SetPrint(host.Print)
	c := p.cases[number]
	for _, fn := range append(slices.Clone(c.before), c.fn) {
		if f := p.call(fn); f != nil {
			return f, nil
		}
	}
	return nil, nil //nolint:nilnil // it passed
}

// RunWorld evaluates a world file, which returns a function, and calls that with
// the world. The state lives until the returned function is called.
func (l *Loader) RunWorld(ctx context.Context, b plans.Bundle, world Object) (closeState func(), err error) {
	limits := l.limits()
	limits.Time = 0
	p, err := l.testPage(ctx, b, nil, limits)
	if err != nil {
		if p != nil {
			p.box.Close()
		}
		return nil, err
	}
	if p.result == lua.LNil {
		p.box.Close()
		return nil, plans.Faults{{Pos: p.mainPos(), Message: "a world file returns a function: return function(w) … end"}}
	}
	if f := p.call(p.result, p.object(world)); f != nil {
		p.box.Close()
		return nil, plans.Faults{{Pos: f.Pos, Message: f.Message}}.WithSource(b)
	}
	p.box.Rest()
	return p.box.Close, nil
}

func (l *Loader) testPage(ctx context.Context, b plans.Bundle, host TestHost, limits sandbox.Limits) (*testPage, error) {
	src := l.source(b, registry.TestFile)
	if len(src.faults) > 0 {
		return nil, src.faults.Sorted().WithSource(b)
	}
	p := &testPage{page: newPage(ctx, src, limits, l.o), ctx: ctx, host: host, blocks: []block{{}}}
	p.result = lua.LNil
	p.running = true // mistakes are errors of the line, nothing of the file is an item
	module := p.module()
	p.modules = func(name string) lua.LValue {
		if name == testingModule {
			return module
		}
		return nil
	}
	u := src.units[b.Main]
	rets, err := p.run(u)
	if err != nil {
		p.running = false // it is told as a fault of the file
		p.failed(err)
		return p, p.err()
	}
	if len(rets) > 0 && rets[0].Type() == lua.LTFunction {
		p.result = rets[0]
	}
	return p, nil
}

// module is drrun.testing; its functions are globals too.
func (p *testPage) module() lua.LValue {
	L := p.box.L
	t := L.NewTable()
	for name, fn := range map[string]lua.LGFunction{
		"describe": p.describe, "it": p.it, "before_each": p.beforeEach, "world": p.world, "crash_everywhere": p.crashEverywhere,
	} {
		f := p.box.Func(fn)
		t.RawSetString(name, f)
		p.box.Set(name, f)
	}
	assert := p.assert()
	t.RawSetString("assert", assert)
	p.box.Set("assert", assert)
	return t
}

func (p *testPage) describe(L *lua.LState) int {
	name, fn := L.CheckString(1), L.CheckFunction(2)
	p.blocks = append(p.blocks, block{name: name})
	L.Push(fn)
	L.Call(0, 0)
	p.blocks = p.blocks[:len(p.blocks)-1]
	return 0
}

func (p *testPage) it(L *lua.LState) int {
	name, fn := L.CheckString(1), L.CheckFunction(2)
	c := testCase{TestCase: TestCase{Pos: p.here(L)}, fn: fn}
	for _, b := range p.blocks {
		if b.name != "" {
			c.Names = append(c.Names, b.name)
		}
		c.before = append(c.before, b.before...)
	}
	c.Names = append(c.Names, name)
	if i := slices.IndexFunc(p.cases, func(o testCase) bool { return o.Name() == c.Name() }); i >= 0 {
		L.RaiseError("test %q is there twice, first in line %d", c.Name(), p.cases[i].Pos.Line)
	}
	p.cases = append(p.cases, c)
	return 0
}

func (p *testPage) beforeEach(L *lua.LState) int {
	b := &p.blocks[len(p.blocks)-1]
	b.before = append(b.before, L.CheckFunction(1))
	return 0
}

// options reads the optional plan and options of world and crash_everywhere.
func (p *testPage) options(L *lua.LState) (plan string, o map[string]any, next int) {
	next = 1
	if s, ok := L.Get(next).(lua.LString); ok {
		plan, next = string(s), next+1
	}
	o = map[string]any{}
	if t, ok := L.Get(next).(*lua.LTable); ok {
		hostcall.Keys(L, "world", t, []string{"estate", "set", "boot"})
		v, err := p.fromLua(t)
		if err != nil {
			L.RaiseError("world: %v", err)
		}
		o, _ = v.(map[string]any)
		next++
	}
	return plan, o, next
}

func (p *testPage) world(L *lua.LState) int {
	plan, o, _ := p.options(L)
	if p.host == nil {
		L.RaiseError(`world is made inside of it("…", function() … end)`)
	}
	var w Object
	var err error
	p.box.Outside(func() { w, err = p.host.World(p.ctx, plan, o) })
	if err != nil {
		L.RaiseError("%v", err)
	}
	L.Push(p.object(w))
	return 1
}

func (p *testPage) crashEverywhere(L *lua.LState) int {
	plan, o, next := p.options(L)
	fn := L.CheckFunction(next)
	if p.host == nil {
		L.RaiseError(`crash_everywhere stands inside of it("…", function() … end)`)
	}
	var err error
	p.box.Outside(func() { err = p.host.CrashEverywhere(p.ctx, plan, o, p.function(fn)) })
	if err != nil {
		L.RaiseError("%v", err)
	}
	return 0
}

// call runs a function of the file and tells why it failed.
func (p *testPage) call(fn lua.LValue, args ...lua.LValue) *TestFailure {
	_, err := p.box.Call(fn, args...)
	if err == nil {
		return nil
	}
	pos, text := p.place(err)
	if cause := p.box.Err(); cause != nil {
		text = cause.Error()
	}
	return &TestFailure{Pos: pos, Message: text}
}

// function is a function of the file for the host.
func (p *testPage) function(fn *lua.LFunction) Function {
	return func(args ...any) (any, error) {
		in := make([]lua.LValue, len(args))
		for i, a := range args {
			in[i] = p.toLua(a)
		}
		rets, err := p.box.Call(fn, in...)
		if err != nil {
			pos, text := p.place(err)
			if cause := p.box.Err(); cause != nil {
				return nil, cause
			}
			return nil, fmt.Errorf("%s:%d: %s", pos.File, pos.Line, text)
		}
		if len(rets) == 0 {
			return nil, nil //nolint:nilnil // nothing was returned
		}
		return p.fromLua(rets[0])
	}
}

// object is a value of the host in Lua.
func (p *testPage) object(o Object) lua.LValue {
	L := p.box.L
	ud, mt := L.NewUserData(), L.NewTable()
	ud.Value = o
	var known []string
	methods := make(map[string]lua.LValue)
	for _, m := range o.Methods() {
		known = append(known, m.Name)
		methods[m.Name] = p.box.Func(func(L *lua.LState) int { return p.method(L, o, m.Name) })
	}
	for _, f := range o.Fields() {
		known = append(known, f.Name)
	}
	mt.RawSetString("__index", p.box.Func(func(L *lua.LState) int {
		key := L.Get(2).String()
		switch m, ok := methods[key]; {
		case ok:
			L.Push(m)
		case slices.Contains(known, key):
			L.Push(p.toLua(o.Field(key)))
		default:
			L.RaiseError("a %s has no %q%s", o.What(), key, near(key, known))
		}
		return 1
	}))
	mt.RawSetString("__newindex", p.box.Func(func(L *lua.LState) int {
		L.RaiseError("a %s cannot be changed", o.What())
		return 0
	}))
	mt.RawSetString("__tostring", p.box.Func(func(L *lua.LState) int {
		L.Push(lua.LString(o.What()))
		return 1
	}))
	mt.RawSetString("__metatable", lua.LString("protected"))
	L.SetMetatable(ud, mt)
	return ud
}

func (p *testPage) method(L *lua.LState, o Object, name string) int {
	self, ok := L.Get(1).(*lua.LUserData)
	if !ok || self.Value != any(o) {
		L.RaiseError("%s is a method: write %s:%s(…)", name, o.What(), name)
	}
	var args []any
	for i := 2; i <= L.GetTop(); i++ {
		v, err := p.fromLua(L.Get(i))
		if err != nil {
			L.RaiseError("%s: argument %d: %v", name, i-1, err)
		}
		args = append(args, v)
	}
	var got any
	var err error
	at := p.here(L)
	p.box.Outside(func() { got, err = o.Call(p.ctx, at, name, args) })
	if err != nil {
		if p.ctx.Err() != nil {
			p.box.Fatal(err)
		}
		L.RaiseError("%v", err)
	}
	if got == nil {
		return 0
	}
	L.Push(p.toLua(got))
	return 1
}

func (p *testPage) toLua(v any) lua.LValue {
	if o, ok := v.(Object); ok {
		return p.object(o)
	}
	return hostcall.ToLua(p.box.L, v)
}

func (p *testPage) fromLua(v lua.LValue) (any, error) {
	switch v := v.(type) {
	case *lua.LFunction:
		return p.function(v), nil
	case *lua.LUserData:
		if o, ok := v.Value.(Object); ok {
			return o, nil
		}
	}
	return hostcall.FromLua(v, func(lua.LValue) (string, error) { return "", errors.New("a test has no secrets") })
}

// assert is the table of assertions, which can be called itself.
func (p *testPage) assert() lua.LValue {
	L := p.box.L
	t, mt := L.NewTable(), L.NewTable()
	fail := func(L *lua.LState, at int, format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		if s, ok := L.Get(at).(lua.LString); ok {
			text = string(s) + ": " + text
		}
		L.RaiseError("%s", text)
	}
	checks := map[string]lua.LGFunction{
		"equal": func(L *lua.LState) int {
			if got, want := L.Get(1), L.Get(2); !p.same(got, want) {
				fail(L, 3, "got %s, want %s", p.show(got), p.show(want))
			}
			return 0
		},
		"differs": func(L *lua.LState) int {
			if p.same(L.Get(1), L.Get(2)) {
				fail(L, 3, "got %s", p.show(L.Get(1)))
			}
			return 0
		},
		"near": func(L *lua.LState) int {
			if got, want, by := L.CheckNumber(1), L.CheckNumber(2), L.CheckNumber(3); math.Abs(float64(got-want)) > float64(by) {
				fail(L, 4, "got %v, want %v ± %v", got, want, by)
			}
			return 0
		},
		"less": func(L *lua.LState) int {
			if got, limit := L.CheckNumber(1), L.CheckNumber(2); got >= limit {
				fail(L, 3, "got %v, want less than %v", got, limit)
			}
			return 0
		},
		"contains": func(L *lua.LState) int {
			if got, part := L.Get(1), L.Get(2); !p.contains(got, part) {
				fail(L, 3, "%s does not have %s in it", p.show(got), p.show(part))
			}
			return 0
		},
		"fails": func(L *lua.LState) int {
			_, err := p.box.Call(L.CheckFunction(1))
			part := L.OptString(2, "")
			if err == nil {
				fail(L, 3, "it does not fail")
			}
			if _, text := p.place(err); !strings.Contains(text, part) {
				fail(L, 3, "it fails with %q, which does not have %q in it", text, part)
			}
			return 0
		},
	}
	names := slices.Sorted(maps.Keys(checks))
	for name, fn := range checks {
		t.RawSetString(name, p.box.Func(fn))
	}
	mt.RawSetString("__call", p.box.Func(func(L *lua.LState) int {
		if lua.LVIsFalse(L.Get(2)) {
			fail(L, 3, "got %s", p.show(L.Get(2)))
		}
		L.Push(L.Get(2))
		return 1
	}))
	mt.RawSetString("__index", p.box.Func(func(L *lua.LState) int {
		L.RaiseError("there is no assert.%s%s", L.Get(2).String(), near(L.Get(2).String(), names))
		return 0
	}))
	mt.RawSetString("__metatable", lua.LString("protected"))
	L.SetMetatable(t, mt)
	return t
}

// plain is a value for comparison.
func (p *testPage) plain(v lua.LValue) any {
	got, err := hostcall.FromLua(v, func(lua.LValue) (string, error) { return "", nil })
	if err != nil {
		return v
	}
	return got
}

func (p *testPage) same(a, b lua.LValue) bool {
	if a == b {
		return true
	}
	return a.Type() == b.Type() && a.Type() == lua.LTTable && fmt.Sprintf("%#v", p.plain(a)) == fmt.Sprintf("%#v", p.plain(b))
}

func (p *testPage) contains(got, part lua.LValue) bool {
	switch g := got.(type) {
	case lua.LString:
		return strings.Contains(string(g), part.String())
	case *lua.LTable:
		for i := 1; i <= g.Len(); i++ {
			item := g.RawGetInt(i)
			if text, ok := item.(lua.LString); p.same(item, part) || ok && part.Type() == lua.LTString && strings.Contains(string(text), part.String()) {
				return true
			}
		}
	}
	return false
}

// show is a value in a message.
func (p *testPage) show(v lua.LValue) string {
	switch v := v.(type) {
	case lua.LString:
		return fmt.Sprintf("%q", string(v))
	case *lua.LTable:
		return showPlain(p.plain(v))
	}
	return v.String()
}

// showPlain writes a plain value as Lua does.
func showPlain(v any) string {
	var out []string
	switch v := v.(type) {
	case string:
		return fmt.Sprintf("%q", v)
	case nil:
		return "nil"
	case []any:
		for _, item := range v {
			out = append(out, showPlain(item))
		}
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			out = append(out, k+" = "+showPlain(v[k]))
		}
	default:
		return fmt.Sprint(v)
	}
	if len(out) == 0 {
		return "{}"
	}
	return "{ " + strings.Join(out, ", ") + " }"
}
