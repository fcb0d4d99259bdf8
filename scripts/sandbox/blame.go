package sandbox

import (
	"errors"
	"fmt"
	"strings"

	lua "github.com/yuin/gopher-lua"
)

// raised is an error on its way, as far as somebody said whose it is.
type raised struct {
	value   lua.LValue // what error() was called with, without a place
	mistake bool       // of the code, whatever it was told before
}

// Mistake says what an error of Call says of the code.
type Mistake int

// The kinds of mistake.
const (
	NoMistake   Mistake = iota // the code said so itself, by error or assert, or the world did
	Perhaps                    // an error of the language or a library: it may come of a value from outside
	SureMistake                // no value from outside has to do with it
)

// Raise is an error that is no mistake of the code: what the world has said.
func (b *Box) Raise(L *lua.LState, format string, args ...any) {
	text := lua.LString(fmt.Sprintf(format, args...))
	b.raised = raised{value: text}
	L.RaiseError("%s", string(text))
}

// Wrong is an error that is a mistake of the code, whatever it was told.
func (b *Box) Wrong(L *lua.LState, format string, args ...any) {
	text := lua.LString(fmt.Sprintf(format, args...))
	b.raised = raised{value: text, mistake: true}
	L.RaiseError("%s", string(text))
}

// Blame says whether an error of Call is a mistake of the code.
func (b *Box) Blame(err error) Mistake {
	var ae *lua.ApiError
	if !errors.As(err, &ae) || !b.raised.is(ae.Object) {
		return Perhaps
	}
	if b.raised.mistake {
		return SureMistake
	}
	return NoMistake
}

// is reports whether a function ended with what was raised; a text got its place
// in front.
func (r raised) is(v lua.LValue) bool {
	if r.value == nil {
		return false
	}
	text, isText := v.(lua.LString)
	if want, ok := r.value.(lua.LString); ok && isText {
		return text == want || strings.HasSuffix(string(text), " "+string(want))
	}
	return v == r.value
}

// deliberate puts error and assert there, which remember what the code has said
// itself.
func (b *Box) deliberate(g *lua.LTable) {
	orig, _ := g.RawGetString("error").(*lua.LFunction)
	g.RawSetString("error", b.L.NewFunction(func(L *lua.LState) int {
		b.raised = raised{value: L.CheckAny(1)}
		return orig.GFunction(L)
	}))
	g.RawSetString("assert", b.L.NewFunction(func(L *lua.LState) int {
		if L.ToBool(1) {
			return L.GetTop()
		}
		v := L.Get(2)
		if v == lua.LNil {
			v = lua.LString("assertion failed!")
		}
		b.raised = raised{value: v}
		L.Error(v, 1)
		return 0
	}))
}
