// Package exec is the Lua module drrun.exec: programs on the hosts of the
// estate and on the controller, as far as the estate allows them. Its operations are unsafe unless the
// plan says otherwise: nobody knows what a program did that a crash interrupted.
package exec

import (
	"context"
	"slices"
	"time"

	lua "github.com/yuin/gopher-lua"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts/hostcall"
)

// Open returns the functions of the module.
func Open(e *hostcall.Env) map[string]lua.LGFunction {
	return map[string]lua.LGFunction{"run": func(L *lua.LState) int { return run(e, L) }}
}

const name = "exec.run"

func run(e *hostcall.Env, L *lua.LState) int {
	o := L.CheckTable(1)
	hostcall.Options(L, name, o)
	on, place := "", "the controller"
	switch v := o.RawGetString("on").(type) {
	case *lua.LNilType:
	case lua.LString:
		on, place = string(v), string(v)
	default:
		L.RaiseError("exec.run: on is a %s, want the name of a machine or host", v.Type())
	}
	p := hostcall.ReadProgram(L, name, o)
	if len(p.Cmd) == 0 {
		L.RaiseError("exec.run: cmd is missing: a list of the program and its arguments")
	}
	within := hostcall.Within(L, o.RawGetString("within"), plans.DefaultWithin)
	var got hostcall.Result
	args := map[string]any{"on": on, "cmd": p.Shown(), "within": within.String()}
	e.Op(L, name, p.Class, args, &got, func(ctx context.Context, key string) (any, error) {
		res, err := start(ctx, e, key, on, p, within)
		if err != nil { // an agent has it for its answer to this key
			err = hostcall.Spent(err)
		}
		return res, err
	})
	return p.Ended(e, L, name, p.Shown()[0]+" on "+place, got)
}

func start(ctx context.Context, e *hostcall.Env, key, on string, p hostcall.Program, within time.Duration) (any, error) {
	words, err := p.Open(ctx, e)
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	exit, output, err := e.Host.Exec(limited, key, on, words)
	switch {
	case err != nil && limited.Err() != nil && !decided(err):
		return nil, p.Unclear("exec.run: %s did not end in time (within %s): what it did is unknown: %w", p.Shown()[0], within, err)
	case err != nil:
		return nil, err
	}
	if len(output) > hostcall.MaxBody {
		output = output[len(output)-hostcall.MaxBody:]
	}
	return hostcall.Result{Exit: exit, Output: output}, nil
}

// decided reports whether an error says that the program did not run, however
// late it came.
func decided(err error) bool {
	return slices.Contains([]fault.Kind{fault.Invalid, fault.Refused, fault.NotFound, fault.Conflict}, fault.KindOf(err))
}
