package sandbox

import lua "github.com/yuin/gopher-lua"

// unknown marks the value of a name that is not known. It takes part in
// everything without an error, so that evaluation goes on and the other
// mistakes of a file are found in the same pass.
type unknown struct{}

// IsUnknown reports whether v is, or came out of, an unknown name.
func IsUnknown(v lua.LValue) bool {
	ud, ok := v.(*lua.LUserData)
	if !ok {
		return false
	}
	_, is := ud.Value.(unknown)
	return is
}

// Unknown returns the recording value of this state.
func (b *Box) Unknown() *lua.LUserData {
	L := b.L
	ud := L.NewUserData()
	ud.Value = unknown{}
	mt := L.NewTable()
	self := b.Func(func(L *lua.LState) int {
		L.Push(ud)
		return 1
	})
	for _, event := range []string{"__index", "__call", "__add", "__sub", "__mul", "__div", "__mod", "__pow", "__unm", "__concat"} {
		mt.RawSetString(event, self)
	}
	mt.RawSetString("__newindex", b.Func(func(*lua.LState) int { return 0 }))
	mt.RawSetString("__len", b.Func(func(L *lua.LState) int {
		L.Push(lua.LNumber(0))
		return 1
	}))
	no := b.Func(func(L *lua.LState) int {
		L.Push(lua.LFalse)
		return 1
	})
	for _, event := range []string{"__lt", "__le"} {
		mt.RawSetString(event, no)
	}
	mt.RawSetString("__metatable", lua.LString("protected"))
	L.SetMetatable(ud, mt)
	return ud
}
