package scripts

import (
	"maps"
	"slices"

	lua "github.com/yuin/gopher-lua"

	"github.com/drrun/drrun/scripts/hostcall"
	luatime "github.com/drrun/drrun/scripts/lua/time"
)

// readOnly makes a value whose fields can be read and nothing else.
func (p *page) readOnly(what string, fields map[string]lua.LValue) lua.LValue {
	L := p.box.L
	ud, mt := L.NewUserData(), L.NewTable()
	mt.RawSetString("__index", p.box.Func(func(L *lua.LState) int {
		key := L.Get(2).String()
		v, ok := fields[key]
		if !ok {
			p.box.Wrong(L, "%s has no field %q%s", what, key, near(key, slices.Sorted(maps.Keys(fields))))
		}
		L.Push(v)
		return 1
	}))
	mt.RawSetString("__newindex", p.box.Func(func(L *lua.LState) int {
		p.box.Wrong(L, "%s cannot be changed", what)
		return 0
	}))
	mt.RawSetString("__tostring", p.box.Func(func(L *lua.LState) int {
		L.Push(lua.LString(what))
		return 1
	}))
	mt.RawSetString("__metatable", lua.LString("protected"))
	L.SetMetatable(ud, mt)
	return ud
}

// runObject makes the value that a function of the plan gets. A parameter of
// the plan that has no value is nil.
func (p *page) runObject(env *hostcall.Env, names []string) lua.LValue {
	info, L := env.Info, p.box.L
	// Both run.note("…") and run:note("…") are taken.
	method := func(fn func(L *lua.LState) int) lua.LValue {
		return p.box.Func(func(L *lua.LState) int {
			if _, self := L.Get(1).(*lua.LUserData); self {
				L.Remove(1)
			}
			return fn(L)
		})
	}
	text := func(s string) lua.LValue { return lua.LString(s) }
	params := make(map[string]lua.LValue)
	for _, name := range names {
		params[name] = lua.LNil
	}
	for k, v := range info.Params {
		params[k] = hostcall.ToLua(L, v)
	}
	machines := make(map[string]lua.LValue)
	for name, m := range info.Machines {
		machines[name] = p.readOnly("machine "+name, map[string]lua.LValue{
			"name": text(m.Name), "ip": text(m.IP), "site": text(m.Site), "state": text(m.State),
		})
	}
	return p.readOnly("run", map[string]lua.LValue{
		"id": text(info.ID), "type": text(string(info.Type)), "direction": text(info.Direction), "from": text(info.From),
		"to": text(info.To), "started_by": text(info.StartedBy), "point": text(info.Point),
		"params": p.readOnly("run.params", params),
		"now":    method(func(L *lua.LState) int { return luatime.Now(env, L) }),
		"note": method(func(L *lua.LState) int {
			env.Note(env.Box.Text(L, L.CheckAny(1)))
			return 0
		}),
		"set": method(func(L *lua.LState) int { return setValue(env, L) }),
		"get": method(func(L *lua.LState) int { return getValue(env, L) }),
		"ask": method(func(L *lua.LState) int { return ask(env, L) }),
		"machine": method(func(L *lua.LState) int {
			name := L.CheckString(1)
			m, ok := machines[name]
			if !ok {
				p.box.Wrong(L, "machine %q is not in this run%s", name, near(name, slices.Sorted(maps.Keys(machines))))
			}
			L.Push(m)
			return 1
		}),
	})
}
