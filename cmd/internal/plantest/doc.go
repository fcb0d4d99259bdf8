// Package plantest runs plans in a simulated estate and in virtual time: the
// tests that authors write beside their plans (drrun test), and every single
// fault of a plan (drrun explore). It joins the Lua of package scripts, the
// engine, and the world of runtime/simworld; the engine, its journal and its
// program of steps are those of production.
//
// Virtual time is testing/synctest, which exists only in a process that runs
// tests: in the real program that is a child of drrun (Serve, Client). It
// decides nothing about plans that the loader or the engine would decide.
package plantest

import (
	"context"
)

// Bubble runs f in virtual time and returns when everything that it has started
// has ended.
type Bubble func(f func(ctx context.Context))
