// Package json is the Lua module drrun.json: texts to values and back. It
// touches nothing outside of the state.
package json

import (
	"bytes"
	"encoding/json"

	lua "github.com/yuin/gopher-lua"

	"github.com/drrun/drrun/scripts/hostcall"
)

// Open returns the functions of the module.
func Open(e *hostcall.Env) map[string]lua.LGFunction {
	return map[string]lua.LGFunction{
		"encode": func(L *lua.LState) int { return encode(e, L) },
		"decode": func(L *lua.LState) int { return decode(e, L) },
	}
}

func encode(e *hostcall.Env, L *lua.LState) int {
	v, err := hostcall.FromLua(L.CheckAny(1), func(v lua.LValue) (string, error) { return hostcall.Shown(v), nil })
	if err != nil {
		L.RaiseError("json.encode: %v", err)
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		L.RaiseError("json.encode: %v", err)
	}
	e.Box.Made(L, out.Len())
	L.Push(lua.LString(bytes.TrimRight(out.Bytes(), "\n")))
	return 1
}

func decode(e *hostcall.Env, L *lua.LState) int {
	text := L.CheckString(1)
	if len(text) > hostcall.MaxBody { // as tables it is a hundred times as large
		L.RaiseError("json.decode: the text is longer than %d bytes", hostcall.MaxBody)
	}
	e.Box.Made(L, len(text))
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		e.Box.Raise(L, "json.decode: %v", err) // what the world has said is no JSON
	}
	L.Push(hostcall.ToLua(L, v))
	return 1
}
