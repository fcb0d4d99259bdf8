// Command drrun-agent is the agent of one host: it replicates machines, keeps
// recovery points, starts and stops machines. Its work is in package agent; here
// are its command line and the wiring: files, QUIC, certificates, clock, log.
//
// What belongs to the operating system (arguments, environment, standard
// streams, signals) comes in through one Env, so that tests run whole commands
// in their own process. One goroutine per process runs a command.
package main

import (
	"os"
	"runtime/debug"
)

// An agent lives beside what it protects: its memory is bounded.
const (
	memoryLimit = 64 << 20 // bytes, of the Go heap and stacks
	gcPercent   = 50
)

func main() {
	debug.SetMemoryLimit(memoryLimit)
	debug.SetGCPercent(gcPercent)
	os.Exit(Main(osEnv()))
}
