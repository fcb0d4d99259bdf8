// Package template is the Lua module drrun.template: texts with places that
// values go to. It has no loops and no conditions: Lua has them. It touches
// nothing outside of the state.
package template

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	lua "github.com/yuin/gopher-lua"

	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts/hostcall"
	"github.com/drrun/drrun/scripts/sandbox"
)

// Open returns the functions of the module.
func Open(e *hostcall.Env) map[string]lua.LGFunction {
	return map[string]lua.LGFunction{"render": func(L *lua.LState) int { return render(e, L) }}
}

// render pushes the text with {{name}} and {{a.b}} replaced. A place without a
// value is an error: a half-filled text must not go out. A secret makes the
// whole text a secret.
func render(e *hostcall.Env, L *lua.LState) int {
	text, values := L.CheckString(1), L.CheckTable(2)
	var parts []lua.LValue
	rest, line := text, 1
	for {
		before, after, open := strings.Cut(rest, "{{")
		parts = append(parts, lua.LString(before))
		if !open {
			break
		}
		line += strings.Count(before, "\n")
		name, tail, closed := strings.Cut(after, "}}")
		if name = strings.TrimSpace(name); !closed || strings.Contains(name, "\n") {
			L.RaiseError(`template.render: line %d: "{{" is not closed`, line)
		}
		v, err := lookup(values, name)
		if err != nil {
			L.RaiseError("template.render: line %d: {{%s}}: %v", line, name, err)
		}
		parts = append(parts, v)
		rest = tail
	}
	L.Push(join(e, L, parts))
	return 1
}

// join makes one text of its parts.
func join(e *hostcall.Env, L *lua.LState, parts []lua.LValue) lua.LValue {
	size, secret := 0, false
	for _, p := range parts {
		if _, ok := hostcall.AsSecret(p); ok {
			secret = true
			continue
		}
		size += len(p.String())
	}
	e.Box.Made(L, size)
	if !secret {
		var b strings.Builder
		for _, p := range parts {
			b.WriteString(p.String())
		}
		return lua.LString(b.String())
	}
	// Texts between secrets are one part each.
	out, plain := parts[:0:0], ""
	for _, p := range parts {
		if _, ok := hostcall.AsSecret(p); ok {
			out, plain = append(out, lua.LString(plain), p), ""
			continue
		}
		plain += p.String()
	}
	acc := out[1]
	for _, p := range append(out[2:], lua.LString(plain)) {
		s, ok := hostcall.Concat(acc, p)
		if !ok {
			L.RaiseError("template.render: the text has too many secrets")
		}
		acc = e.Handle(s)
	}
	s, ok := hostcall.Concat(out[0], acc)
	if !ok {
		L.RaiseError("template.render: the text has too many secrets")
	}
	return e.Handle(s)
}

// lookup finds the value of a dotted name.
func lookup(t *lua.LTable, name string) (lua.LValue, error) {
	if name == "" {
		return nil, errors.New("it names nothing")
	}
	var v lua.LValue = t
	for part := range strings.SplitSeq(name, ".") {
		in, ok := v.(*lua.LTable)
		if !ok {
			return nil, fmt.Errorf("there is nothing called %q in a %s", part, v.Type())
		}
		if v = in.RawGetString(part); v == lua.LNil {
			return nil, fmt.Errorf("there is no value %q%s", part, near(part, in))
		}
	}
	if v.Type() == lua.LTBool || hostcall.IsText(v) {
		return v, nil
	}
	return nil, fmt.Errorf("a %s has no text", v.Type())
}

func near(name string, t *lua.LTable) string {
	var known []string
	sandbox.ForEach(t, func(k, _ lua.LValue) {
		if s, ok := k.(lua.LString); ok {
			known = append(known, string(s))
		}
	})
	slices.Sort(known)
	if s := plans.Nearest(name, known); s != "" {
		return fmt.Sprintf(", did you mean %q?", s)
	}
	return ""
}
