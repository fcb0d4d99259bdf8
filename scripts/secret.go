package scripts

import (
	lua "github.com/yuin/gopher-lua"

	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts/hostcall"
	"github.com/drrun/drrun/scripts/sandbox"
)

func asSecret(v lua.LValue) (hostcall.Secret, bool) { return hostcall.AsSecret(v) }

// makeSecretMeta makes the metatable of secrets: they print as ***, and a text
// that is joined with one is a secret too.
func (p *page) makeSecretMeta() {
	mt := p.box.L.NewTable()
	mt.RawSetString("__tostring", p.box.Func(func(L *lua.LState) int {
		s, _ := asSecret(L.Get(1))
		L.Push(lua.LString(s.String()))
		return 1
	}))
	mt.RawSetString("__concat", p.box.Func(func(L *lua.LState) int {
		a, b := L.Get(1), L.Get(2)
		if sandbox.IsUnknown(a) || sandbox.IsUnknown(b) {
			L.Push(p.unknown)
			return 1
		}
		s, ok := hostcall.Concat(a, b)
		if !ok {
			L.RaiseError("a secret is joined only with strings, numbers and a few other secrets")
		}
		L.Push(p.handle(s))
		return 1
	}))
	mt.RawSetString("__call", p.box.Func(func(L *lua.LState) int {
		s, _ := asSecret(L.Get(1))
		p.fault(p.here(L), "secret %q: a plan only refers to it, so it has no body here; it is defined in the estate", s.Name)
		L.Push(L.Get(1))
		return 1
	}))
	mt.RawSetString("__metatable", lua.LString("protected"))
	p.secretMeta = mt
}

// secret is the function behind secret "name" in a plan.
func (p *page) secret(L *lua.LState, pos plans.Pos) int {
	name, ok := L.Get(1).(lua.LString)
	if !ok || L.GetTop() > 1 {
		if !sandbox.IsUnknown(L.Get(1)) {
			p.fault(pos, "secret: want secret \"name\", a name the estate defines")
		}
		L.Push(p.unknown)
		return 1
	}
	if _, known := p.secrets[string(name)]; !known {
		p.secrets[string(name)] = pos
	}
	L.Push(p.handle(hostcall.NewSecret(string(name))))
	return 1
}

// handle is the value of a secret in Lua.
func (p *page) handle(s hostcall.Secret) lua.LValue {
	ud := p.box.L.NewUserData()
	ud.Value = s
	p.box.L.SetMetatable(ud, p.secretMeta)
	return ud
}
