// Package scripts is the Lua front end: it loads a file into a plan or an
// estate (package plans), and runs one function of a plan inside a run.
//
// A file is evaluated in a sandbox to data; nothing of Lua leaves this package.
// It starts no run, does no I/O of its own and knows neither runtime nor agents:
// what functions do to the world goes through plans.HostCalls.
//
// A Loader is safe for concurrent use. Every load and every function has a Lua
// state of its own.
package scripts
