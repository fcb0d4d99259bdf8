// Package tcp is the Lua module drrun.tcp: does an address accept connections,
// asked from the controller.
package tcp

import (
	"context"
	"net"

	lua "github.com/yuin/gopher-lua"

	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts/hostcall"
)

type answer struct {
	OK  bool   `json:"ok"`
	Why string `json:"why,omitempty"`
}

// Open returns the functions of the module.
func Open(e *hostcall.Env) map[string]lua.LGFunction {
	return map[string]lua.LGFunction{"connect": func(L *lua.LState) int { return connect(e, L) }}
}

func connect(e *hostcall.Env, L *lua.LState) int {
	target := L.CheckString(1)
	within := hostcall.DefaultWithin
	if o := L.OptTable(2, nil); o != nil {
		hostcall.Options(L, "tcp.connect", o)
		within = hostcall.Within(L, o.RawGetString("within"), within)
	}
	if _, _, err := net.SplitHostPort(target); err != nil {
		L.RaiseError("tcp.connect: %q is no host:port", target)
	}
	addr := e.Address(target)
	var got answer
	e.Op(L, "tcp.connect", plans.OpRead, map[string]any{"address": addr, "within": within.String()}, &got,
		func(ctx context.Context, _ string) (any, error) {
			dialing, cancel := context.WithTimeout(ctx, within)
			defer cancel()
			c, err := e.Dial(dialing, "tcp", addr)
			if err != nil {
				if ctx.Err() != nil {
					return nil, context.Cause(ctx)
				}
				return answer{Why: err.Error()}, nil //nolint:nilerr // not answering is an answer
			}
			_ = c.Close() // nothing was sent
			return answer{OK: true}, nil
		})
	L.Push(lua.LBool(got.OK))
	if got.OK {
		return 1
	}
	L.Push(lua.LString(got.Why))
	return 2
}
