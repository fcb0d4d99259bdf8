package sandbox

import (
	"math/rand/v2"
	"strings"

	lua "github.com/yuin/gopher-lua"
)

// removed are the globals of the base library that reach out of the state or
// around its rules.
var removed = []string{
	"dofile", "loadfile", "loadstring", "load", "collectgarbage", "newproxy", "module", "getfenv", "setfenv",
	"_printregs", "_G", "_GOPHER_LUA_VERSION", "require", "print",
}

// open loads the libraries and puts the limits into them.
func (b *Box) open() {
	L := b.L
	for _, lib := range []struct {
		name string
		open lua.LGFunction
	}{{"", lua.OpenBase}, {lua.TabLibName, lua.OpenTable}, {lua.StringLibName, lua.OpenString}, {lua.MathLibName, lua.OpenMath}} {
		L.Push(L.NewFunction(lib.open))
		L.Push(lua.LString(lib.name))
		L.Call(1, 0)
	}
	g := L.Get(lua.GlobalsIndex).(*lua.LTable) //nolint:forcetypeassert // it is
	for _, name := range removed {
		g.RawSetString(name, lua.LNil)
	}
	str, _ := g.RawGetString("string").(*lua.LTable)
	tab, _ := g.RawGetString("table").(*lua.LTable)
	mat, _ := g.RawGetString("math").(*lua.LTable)
	b.strings(str)
	tab.RawSetString("concat", b.L.NewFunction(b.concat))
	mat.RawSetString("random", b.L.NewFunction(b.mathRandom))
	mat.RawSetString("randomseed", lua.LNil)
	b.base(g)
	b.deliberate(g)
	b.shortLists(tab)
	unknown := b.Unknown()
	for _, name := range []string{"tonumber", "unpack", "next", "rawget", "rawset", "setmetatable"} {
		b.openTo(unknown, g, name)
	}
	for _, t := range []*lua.LTable{str, tab, mat} {
		ForEach(t, func(k, _ lua.LValue) {
			if k.String() != "concat" { // it leaves unknown items out
				b.openTo(unknown, t, k.String())
			}
		})
	}
	for _, t := range []*lua.LTable{g, str, tab, mat} {
		b.guardAll(t)
	}
	// Strings find their methods through a table that code cannot reach.
	mt := L.NewTable()
	mt.RawSetString("__index", str)
	mt.RawSetString("__metatable", lua.LString("protected"))
	L.SetMetatable(lua.LString(""), mt)
	L.SetMetatable(g, b.strict(unknown))
	L.SetTop(0)
}

// openTo makes a function of a library answer an unknown value with an unknown
// one: the name is reported, and evaluation goes on.
func (b *Box) openTo(unknown lua.LValue, t *lua.LTable, name string) {
	fn, ok := t.RawGetString(name).(*lua.LFunction)
	if !ok {
		return
	}
	orig := fn.GFunction
	fn.GFunction = func(L *lua.LState) int {
		for i := 1; i <= L.GetTop(); i++ {
			if IsUnknown(L.Get(i)) {
				L.Push(unknown)
				return 1
			}
		}
		return orig(L)
	}
}

// guardAll puts every function of a library behind recover.
func (b *Box) guardAll(t *lua.LTable) {
	ForEach(t, func(k, v lua.LValue) {
		if fn, ok := v.(*lua.LFunction); ok && fn.IsG {
			fn.GFunction = b.guard(fn.GFunction)
		}
	})
}

// strict makes the table of globals read only; what is not there is Unknown.
func (b *Box) strict(unknown lua.LValue) *lua.LTable {
	mt := b.L.NewTable()
	mt.RawSetString("__index", b.Func(func(L *lua.LState) int {
		L.Push(unknown)
		return 1
	}))
	mt.RawSetString("__newindex", b.Func(func(*lua.LState) int { return 0 }))
	mt.RawSetString("__metatable", lua.LString("protected"))
	return mt
}

// Set puts a global.
func (b *Box) Set(name string, v lua.LValue) {
	b.L.Get(lua.GlobalsIndex).(*lua.LTable).RawSetString(name, v)
}

func (b *Box) base(g *lua.LTable) {
	set := func(name string, fn lua.LGFunction) { g.RawSetString(name, b.L.NewFunction(fn)) }
	set("getmetatable", func(L *lua.LState) int {
		mt := L.GetMetatable(L.CheckAny(1))
		if t, ok := mt.(*lua.LTable); ok {
			if p := t.RawGetString("__metatable"); p != lua.LNil {
				mt = p
			}
		}
		L.Push(mt)
		return 1
	})
	next := g.RawGetString("next")
	for _, name := range []string{"pairs", "ipairs"} {
		orig, _ := g.RawGetString(name).(*lua.LFunction)
		set(name, func(L *lua.LState) int {
			if IsUnknown(L.Get(1)) { // nothing is in it, so that evaluation goes on
				L.Push(next)
				L.Push(L.NewTable())
				return 2
			}
			b.short(L, L.CheckTable(1))
			L.Push(orig)
			L.Push(L.Get(1))
			L.Call(1, 3)
			return 3
		})
	}
	setmt, _ := g.RawGetString("setmetatable").(*lua.LFunction)
	set("setmetatable", func(L *lua.LState) int {
		L.CheckTable(1)
		L.Push(setmt)
		L.Push(L.Get(1))
		L.Push(L.Get(2))
		L.Call(2, 1)
		return 1
	})
	set("tostring", func(L *lua.LState) int {
		L.Push(lua.LString(b.Text(L, L.CheckAny(1))))
		return 1
	})
	set("print", func(L *lua.LState) int {
		parts := make([]string, L.GetTop())
		for i := range parts {
			parts[i] = b.Text(L, L.Get(i+1))
		}
		line := strings.Join(parts, "\t")
		b.Made(L, len(line))
		if b.print == nil {
			L.RaiseError("print belongs inside function(run) … end")
		}
		b.print(line)
		return 0
	})
	unpack, _ := g.RawGetString("unpack").(*lua.LFunction)
	set("unpack", func(L *lua.LState) int {
		t := L.CheckTable(1)
		from, to := L.OptInt(2, 1), L.OptInt(3, t.Len())
		if to >= from && to-from >= 8000 || from < -1<<30 || to > 1<<30 {
			L.RaiseError("too many values to unpack")
		}
		L.SetTop(1)
		L.Push(lua.LNumber(from))
		L.Push(lua.LNumber(to))
		return unpack.GFunction(L)
	})
}

// SetPrint says where print goes; without it print is an error.
func (b *Box) SetPrint(f func(line string)) { b.print = f }

// SetRandom gives math.random its numbers in [0, 1); without it it is an error.
func (b *Box) SetRandom(f func(L *lua.LState) float64) { b.random = f }

// PseudoRandom is a source for SetRandom outside of runs: the same every time.
func PseudoRandom(seed uint64) func(*lua.LState) float64 {
	r := rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // repeatable on purpose
	return func(*lua.LState) float64 { return r.Float64() }
}

func (b *Box) mathRandom(L *lua.LState) int {
	if b.random == nil {
		L.RaiseError("math.random belongs inside function(run) … end: a page of a plan is the same every time")
	}
	f := b.random(L)
	low, high := 1, 0
	switch L.GetTop() {
	case 0:
		L.Push(lua.LNumber(f))
		return 1
	case 1:
		high = L.CheckInt(1)
	default:
		low, high = L.CheckInt(1), L.CheckInt(2)
	}
	if high < low {
		L.ArgError(1, "interval is empty")
	}
	L.Push(lua.LNumber(low + int(f*float64(high-low+1))))
	return 1
}

// Text is tostring without addresses: the same plan gives the same text.
func (b *Box) Text(L *lua.LState, v lua.LValue) string {
	if IsUnknown(v) {
		return "unknown"
	}
	switch v.Type() {
	case lua.LTTable, lua.LTUserData:
		if mm := L.GetMetaField(v, "__tostring"); mm.Type() == lua.LTFunction {
			L.Push(mm)
			L.Push(v)
			L.Call(1, 1)
			s := L.Get(-1)
			L.Pop(1)
			if str, ok := s.(lua.LString); ok {
				return string(str)
			}
			L.RaiseError("'tostring' must return a string")
		}
		return v.Type().String()
	case lua.LTFunction, lua.LTThread, lua.LTChannel:
		return v.Type().String()
	}
	return v.String()
}

func (b *Box) concat(L *lua.LState) int {
	t := L.CheckTable(1)
	sep := L.OptString(2, "")
	from, to := L.OptInt(3, 1), L.OptInt(4, t.Len())
	var out strings.Builder
	for i := from; i <= to; i++ {
		v := t.RawGetInt(i)
		if IsUnknown(v) {
			continue
		}
		if !lua.LVCanConvToString(v) {
			L.RaiseError("invalid value (%s) at index %d in table for concat", v.Type(), i)
		}
		out.WriteString(v.String())
		if i < to {
			out.WriteString(sep)
		}
		if out.Len() > b.limits.Text {
			break // Made refuses it
		}
		if i&1023 == 0 {
			b.check(L)
		}
	}
	b.Made(L, out.Len())
	L.Push(lua.LString(out.String()))
	return 1
}

// Cat is the function behind a .. b .. c.
func (b *Box) Cat(L *lua.LState) int {
	n := L.GetTop()
	acc := L.Get(n)
	for i := n - 1; i >= 1; i-- {
		l := L.Get(i)
		switch {
		case textual(l) && textual(acc):
			ls, rs := l.String(), acc.String()
			b.Made(L, len(ls)+len(rs))
			acc = lua.LString(ls + rs)
		default:
			acc = b.catMeta(L, l, acc)
		}
	}
	L.Push(acc)
	return 1
}

func textual(v lua.LValue) bool { return v.Type() == lua.LTString || v.Type() == lua.LTNumber }

func (b *Box) catMeta(L *lua.LState, l, r lua.LValue) lua.LValue {
	mm := L.GetMetaField(l, "__concat")
	if mm.Type() != lua.LTFunction {
		mm = L.GetMetaField(r, "__concat")
	}
	if mm.Type() != lua.LTFunction {
		bad := l
		if textual(l) {
			bad = r
		}
		L.RaiseError("attempt to concatenate a %s value", bad.Type())
	}
	L.Push(mm)
	L.Push(l)
	L.Push(r)
	L.Call(2, 1)
	v := L.Get(-1)
	L.Pop(1)
	return v
}

// List is the function behind a table constructor whose last item, after n
// others, is any number of values.
func (b *Box) List(L *lua.LState) int {
	n, t := L.CheckInt(1), L.CheckTable(2)
	for i := 3; i <= L.GetTop(); i++ {
		t.RawSetInt(n+i-2, L.Get(i))
	}
	L.Push(t)
	return 1
}

// Len is the function behind #value.
func (b *Box) Len(L *lua.LState) int {
	v := L.Get(1)
	if s, ok := v.(lua.LString); ok {
		L.Push(lua.LNumber(len(s)))
		return 1
	}
	if mm := L.GetMetaField(v, "__len"); mm.Type() == lua.LTFunction {
		L.Push(mm)
		L.Push(v)
		L.Call(1, 1)
		return 1
	}
	t, ok := v.(*lua.LTable)
	if !ok {
		L.RaiseError("attempt to get the length of a %s value", v.Type())
	}
	L.Push(lua.LNumber(b.short(L, t)))
	return 1
}

// short is the length of a list, and refuses what is over the limit.
func (b *Box) short(L *lua.LState, t *lua.LTable) int {
	n := t.Len()
	if n > MaxList {
		L.RaiseError("a list of more than %d items: use several lists, or keys that are no numbers", MaxList)
	}
	return n
}

// shortLists makes the functions of tables refuse lists that are too long.
func (b *Box) shortLists(tab *lua.LTable) {
	ForEach(tab, func(_, v lua.LValue) {
		fn, ok := v.(*lua.LFunction)
		if !ok {
			return
		}
		orig := fn.GFunction
		fn.GFunction = func(L *lua.LState) int {
			if t, ok := L.Get(1).(*lua.LTable); ok {
				b.short(L, t)
			}
			return orig(L)
		}
	})
}

// ForEach calls f with the keys and values of a table, in the order in which
// they were put there. The library's own ForEach has no order.
func ForEach(t *lua.LTable, f func(k, v lua.LValue)) {
	for k, v := t.Next(lua.LNil); k != lua.LNil; k, v = t.Next(k) {
		f(k, v)
	}
}
