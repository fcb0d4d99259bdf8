// Package sandbox makes Lua states in which a plan's code can do no harm: only
// base, table, string and math are there, no global can be made or replaced,
// strings and patterns have limits, a cancelled context ends everything, and a
// watchdog ends a state that takes too much memory.
//
// It knows no plan. A Box is for one goroutine at a time.
package sandbox
