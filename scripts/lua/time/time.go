// Package time is the Lua module drrun.time. Every reading of a clock is an
// operation of the run, so a resumed function sees the times it saw before.
package time

import (
	"context"
	"time"

	lua "github.com/yuin/gopher-lua"

	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts/hostcall"
)

// Open returns the functions of the module.
func Open(e *hostcall.Env) map[string]lua.LGFunction {
	return map[string]lua.LGFunction{
		"now":      func(L *lua.LState) int { return Now(e, L) },
		"sleep":    func(L *lua.LState) int { return sleep(e, L) },
		"duration": duration,
		"format":   format,
	}
}

// Now pushes the run's time in seconds since 1970; run.now() is it too.
func Now(e *hostcall.Env, L *lua.LState) int {
	var at time.Time
	e.Call(L, func() (err error) {
		at, err = e.Host.Now(e.Box.Context())
		return err
	})
	L.Push(lua.LNumber(float64(at.UnixMilli()) / 1000))
	return 1
}

func sleep(e *hostcall.Env, L *lua.LState) int {
	d := hostcall.Within(L, L.CheckAny(1), 0)
	e.Op(L, "time.sleep", plans.OpRead, map[string]any{"for": d.String()}, nil, func(ctx context.Context, _ string) (any, error) {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
			return true, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	})
	return 0
}

func duration(L *lua.LState) int {
	d, err := quantity.ParseDuration(L.CheckString(1))
	if err != nil {
		L.RaiseError("time.duration: %v", err)
	}
	L.Push(lua.LNumber(d.Seconds()))
	return 1
}

func format(L *lua.LState) int {
	s := float64(L.CheckNumber(1))
	if s != s || s > 253402300799 || s < -62135596800 {
		L.RaiseError("time.format: %v seconds are no time of this calendar", s)
	}
	L.Push(lua.LString(time.UnixMilli(int64(s * 1000)).UTC().Format(time.RFC3339)))
	return 1
}
