package scripts

import (
	"encoding/json"
	"errors"

	lua "github.com/yuin/gopher-lua"

	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts/hostcall"
)

// Limits of what actions keep for each other.
const (
	maxKeptName = 128     // bytes
	maxKept     = 1 << 16 // bytes of the JSON of a value
)

func keptName(L *lua.LState) string {
	name := L.CheckString(1)
	if name == "" || len(name) > maxKeptName {
		L.RaiseError("the name of a value has 1 to %d bytes", maxKeptName)
	}
	return name
}

// setValue is run:set(name, value).
func setValue(e *hostcall.Env, L *lua.LState) int {
	name := keptName(L)
	v, err := hostcall.FromLua(L.CheckAny(2), func(lua.LValue) (string, error) {
		return "", errors.New("a secret is not kept: name it where it is used")
	})
	if err != nil {
		L.RaiseError("run:set: %q: %v", name, err)
	}
	raw, err := e.Shown(v)
	if err != nil {
		L.RaiseError("run:set: %q: %v", name, err)
	}
	if len(raw) > maxKept {
		L.RaiseError("run:set: %q: a value of %d bytes as JSON, the limit is %d", name, len(raw), maxKept)
	}
	e.Call(L, func() error { return e.Host.Set(e.Box.Context(), name, raw) })
	return 0
}

// getValue is run:get(name).
func getValue(e *hostcall.Env, L *lua.LState) int {
	name := keptName(L)
	var v any
	e.Call(L, func() error {
		raw, err := e.Host.Get(e.Box.Context(), name)
		if err != nil {
			return err
		}
		return json.Unmarshal(raw, &v)
	})
	L.Push(hostcall.ToLua(L, v))
	return 1
}

// ask is run:ask(question, { … }): a manual wait. It returns whether a person
// said go, what they said, and who it was.
func ask(e *hostcall.Env, L *lua.LState) int {
	o := L.OptTable(2, L.NewTable())
	hostcall.Options(L, "run:ask", o)
	text := func(key string, words ...string) string {
		switch v := o.RawGetString(key).(type) {
		case *lua.LNilType:
			return ""
		case lua.LString:
			for _, w := range words {
				if string(v) == w {
					return w
				}
			}
			if len(words) == 0 {
				return string(v)
			}
			L.RaiseError("run:ask: %s is %q, want %s%s", key, string(v), oneOf(words), near(string(v), words))
		default:
			L.RaiseError("run:ask: %s is %s, want a string", key, describe(v))
		}
		return ""
	}
	q := plans.Question{Within: hostcall.Within(L, o.RawGetString("within"), plans.DefaultWithin), WaitStep: plans.WaitStep{
		Ask: e.Hide(hostcall.Shown(L.CheckAny(1))), Role: text("role"),
		OnTimeout: text("on_timeout", "stop", "continue"), Unattended: text("unattended", "go", "stop"),
	}}
	if !hostcall.IsText(L.CheckAny(1)) || q.Ask == "" {
		L.RaiseError("run:ask: the question is missing: run:ask(\"is the ledger consistent?\")")
	}
	var a plans.Reply
	e.Call(L, func() (err error) {
		a, err = e.Host.Ask(e.Box.Context(), q)
		return err
	})
	L.Push(lua.LBool(a.Go))
	L.Push(lua.LString(a.Text))
	L.Push(lua.LString(a.By))
	return 3
}
