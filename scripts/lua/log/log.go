// Package log is the Lua module drrun.log: lines on the run's timeline. Values
// of secrets never reach it.
package log

import (
	"strings"

	lua "github.com/yuin/gopher-lua"

	"github.com/drrun/drrun/scripts/hostcall"
)

// Open returns the functions of the module.
func Open(e *hostcall.Env) map[string]lua.LGFunction {
	m := make(map[string]lua.LGFunction)
	for level, prefix := range map[string]string{"info": "", "debug": "debug: ", "warn": "warning: ", "error": "error: "} {
		m[level] = func(L *lua.LState) int {
			parts := make([]string, L.GetTop())
			for i := range parts {
				parts[i] = e.Box.Text(L, L.Get(i+1))
			}
			line := strings.Join(parts, " ")
			e.Box.Made(L, len(line))
			e.Note(prefix + line)
			return 0
		}
	}
	return m
}
