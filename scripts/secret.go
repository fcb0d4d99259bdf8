package scripts

import (
	lua "github.com/yuin/gopher-lua"

	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts/hostcall"
	"github.com/drrun/drrun/scripts/sandbox"
)

func asSecret(v lua.LValue) (hostcall.Secret, bool) { return hostcall.AsSecret(v) }

// makeSecretMeta makes the metatable of secrets: they print as ***.
func (p *page) makeSecretMeta() {
	mt := p.box.L.NewTable()
	hide := p.box.Func(func(L *lua.LState) int {
		L.Push(lua.LString(hostcall.Hidden))
		return 1
	})
	for _, event := range []string{"__tostring", "__concat"} {
		mt.RawSetString(event, hide)
	}
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
	ud := L.NewUserData()
	ud.Value = hostcall.Secret{Name: string(name)}
	L.SetMetatable(ud, p.secretMeta)
	L.Push(ud)
	return 1
}
