// Package runtime is the engine of drrun: it starts runs of plans, journals
// what they do before and after they do it, asks agents and scripts for the
// effects, and takes a run up again where another process left it.
//
// What may start next is decided by runtime/state, in which order by
// runtime/program; agents are reached through a command.Caller and Lua
// functions through Scripts, so the engine knows no network and no Lua. An
// Engine is safe for concurrent use; each run has one goroutine that starts
// its steps, and one more for each step in flight.
//
// The newest ended runs stay in the store (KeepRuns); a run that has not ended
// stays, holds its machines, and can always be resumed, committed or cancelled.
package runtime
