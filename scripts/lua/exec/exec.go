// Package exec is the Lua module drrun.exec: programs on the hosts of the
// estate, as far as a host allows them. Its operations are unsafe: nobody knows
// what a program did that a crash interrupted.
package exec

import (
	"context"
	"fmt"
	"slices"
	"time"

	lua "github.com/yuin/gopher-lua"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts/hostcall"
)

type result struct {
	Exit   int    `json:"exit"`
	Output string `json:"output"`
}

// Open returns the functions of the module.
func Open(e *hostcall.Env) map[string]lua.LGFunction {
	return map[string]lua.LGFunction{"run": func(L *lua.LState) int { return run(e, L) }}
}

var keys = []string{"on", "cmd", "within", "accept"}

func run(e *hostcall.Env, L *lua.LState) int {
	o := L.CheckTable(1)
	hostcall.Keys(L, "exec.run", o, keys)
	on, ok := o.RawGetString("on").(lua.LString)
	if !ok {
		L.RaiseError("exec.run: on is missing: the machine or host to run it on")
	}
	list, ok := o.RawGetString("cmd").(*lua.LTable)
	if !ok || list.Len() == 0 {
		L.RaiseError("exec.run: cmd is missing: a list of the program and its arguments")
	}
	cmd, shown := make([]lua.LValue, list.Len()), make([]string, list.Len())
	for i := range cmd {
		cmd[i] = list.RawGetInt(i + 1)
		if !hostcall.IsText(cmd[i]) {
			L.RaiseError("exec.run: argument %d of cmd is a %s", i+1, cmd[i].Type())
		}
		shown[i] = hostcall.Shown(cmd[i])
	}
	within := hostcall.Within(L, o.RawGetString("within"), plans.DefaultWithin)
	accept := accepted(L, o.RawGetString("accept"))
	var got result
	args := map[string]any{"on": string(on), "cmd": shown, "within": within.String()}
	e.Op(L, "exec.run", plans.OpUnsafe, args, &got, func(ctx context.Context, key string) (any, error) {
		return start(ctx, e, key, string(on), cmd, within)
	})
	if !slices.Contains(accept, got.Exit) {
		L.RaiseError("exec.run: %s on %s ended with %d: %s", shown[0], string(on), got.Exit, got.Output)
	}
	t := L.NewTable()
	t.RawSetString("exit", lua.LNumber(got.Exit))
	t.RawSetString("output", lua.LString(got.Output))
	L.Push(t)
	return 1
}

func start(ctx context.Context, e *hostcall.Env, key, on string, cmd []lua.LValue, within time.Duration) (any, error) {
	words := make([]string, len(cmd))
	for i, v := range cmd {
		w, err := e.Open(ctx, v)
		if err != nil {
			return nil, err
		}
		words[i] = w
	}
	limited, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	exit, output, err := e.Host.Exec(limited, key, on, words)
	switch {
	case err != nil && limited.Err() != nil && !decided(err):
		return nil, fault.Errorf(fault.Unknown, "exec.run: %s on %s did not end in time (within %s): what it did is unknown: %w", hostcall.Shown(cmd[0]), on, within, err)
	case err != nil:
		return nil, err
	}
	if len(output) > hostcall.MaxBody {
		output = output[len(output)-hostcall.MaxBody:]
	}
	return result{exit, output}, nil
}

// decided reports whether an error says that the program did not run, however
// late it came.
func decided(err error) bool {
	return slices.Contains([]fault.Kind{fault.Invalid, fault.Refused, fault.NotFound, fault.Conflict}, fault.KindOf(err))
}

// accepted reads the exit codes that are no error.
func accepted(L *lua.LState, v lua.LValue) []int {
	switch v := v.(type) {
	case *lua.LNilType:
		return []int{0}
	case lua.LNumber:
		return []int{int(v)}
	case *lua.LTable:
		var list []int
		for i := 1; i <= v.Len(); i++ {
			n, ok := v.RawGetInt(i).(lua.LNumber)
			if !ok {
				L.RaiseError("exec.run: accept is a list of exit codes")
			}
			list = append(list, int(n))
		}
		return list
	}
	L.RaiseError("exec.run: accept is an exit code or a list of them, not %s", fmt.Sprint(v.Type()))
	return nil
}
