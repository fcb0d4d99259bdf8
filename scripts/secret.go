package scripts

import (
	lua "github.com/yuin/gopher-lua"

	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts/sandbox"
)

// secret is the handle of a secret of the estate: only functions of modules
// open it, and it prints as ***.
type secretHandle struct{ name string }

func asSecret(v lua.LValue) (secretHandle, bool) {
	ud, ok := v.(*lua.LUserData)
	if !ok {
		return secretHandle{}, false
	}
	s, ok := ud.Value.(secretHandle)
	return s, ok
}

func (p *page) makeSecretMeta() {
	mt := p.box.L.NewTable()
	hide := p.box.Func(func(L *lua.LState) int {
		L.Push(lua.LString("***"))
		return 1
	})
	for _, event := range []string{"__tostring", "__concat"} {
		mt.RawSetString(event, hide)
	}
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
	if len(p.secrets) == 0 || p.secrets[string(name)] == (plans.Pos{}) {
		if p.secrets == nil {
			p.secrets = make(map[string]plans.Pos)
		}
		p.secrets[string(name)] = pos
	}
	ud := L.NewUserData()
	ud.Value = secretHandle{string(name)}
	L.SetMetatable(ud, p.secretMeta)
	L.Push(ud)
	return 1
}
