// Command detrt makes the Go runtime of the simulation: `go run
// ./cmd/internal/sim/detrt DIR` writes an overlay to DIR/overlay.json for `go
// test -overlay`. Under it everything that the runtime decides at random inside
// a testing/synctest bubble (which ready case a select takes, where a range over
// a map begins, which of two timers of one instant fires first) comes from the
// seed of the simulation, and no goroutine is preempted by the clock: with one
// P a seed runs the same way every time, in every process. A goroutine that
// waits for a mutex is idle to the bubble, so that disks may take their time.
//
// The changes are to source text of GOROOT and are refused where it is not as
// expected: a new Go version is looked at before it is trusted.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/drrun/drrun/internal/vfs"
)

// edit replaces one piece of text of a file, which must be there once.
type edit struct{ file, old, new string }

// edits are made in GOROOT/src.
var edits = []edit{
	{"runtime/proc.go", "const forcePreemptNS = 10 * 1000 * 1000", "const forcePreemptNS = 1 << 62"},
	// The seeds of hashes are drawn before main runs.
	{"runtime/rand.go", "globalRand.state.Init(*seed)", "*seed = [32]byte{1}\n\tglobalRand.state.Init(*seed)"},
	// A context ends its children in the order in which they came, not in that
	// of their addresses.
	{"context/context.go", "	children map[canceler]struct{} //", "	came     uint64\n	children map[canceler]uint64 //"},
	{"context/context.go", "p.children = make(map[canceler]struct{})", "p.children = make(map[canceler]uint64)"},
	{"context/context.go", "			p.children[child] = struct{}{}\n", "			p.came++\n			p.children[child] = p.came\n"},
	{"context/context.go", "	for child := range c.children {", "	for _, child := range inOrder(c.children) {"},
	{"runtime/rand.go", "func rand() uint64 {\n", "func rand() uint64 {\n\tif simulates() {\n\t\treturn simNext()\n\t}\n"},
	// Who waits for a mutex waits: time goes on for the one who holds it and
	// waits for a disk.
	{"runtime/runtime2.go", "	waitReasonSyncCondWait:          true,\n", "	waitReasonSyncCondWait:          true,\n	waitReasonSyncMutexLock: true, waitReasonSyncRWMutexRLock: true, waitReasonSyncRWMutexLock: true,\n"},
	{"runtime/sema.go", "func internal_sync_nanotime() int64 {\n", "func internal_sync_nanotime() int64 {\n	if simulates() {\n		return getg().m.curg.bubble.now\n	}\n"},
	// cheaprand serves caches of the process as well: only these three draws
	// decide what a program does.
	{"runtime/select.go", "j := cheaprandn(uint32(norder + 1))", "j := simrandn(uint32(norder + 1))"},
	{"runtime/sema.go", "s.ticket = cheaprand() | 1", "s.ticket = simrandn(1<<31) | 1"},
	{"runtime/time.go", "t.rand = cheaprand()", "t.rand = simrandn(1 << 31)"},
}

// addition is the end of rand.go.
const addition = `
// simSeed0 is the seed; 0: the seeded source is off.
var simSeed0, simState uint64
var simNow int64

//go:linkname simSeed github.com/drrun/drrun/cmd/internal/sim.seedRuntime
func simSeed(seed uint64) { simSeed0, simState, simNow = seed, seed, 0 }

// simulates reports whether a goroutine of a synctest bubble asks.
//
//go:nosplit
func simulates() bool {
	if simSeed0 == 0 {
		return false
	}
	gp := getg().m.curg
	return gp != nil && gp.bubble != nil
}

// simrandn is cheaprandn, seeded in a simulation.
//
//go:nosplit
func simrandn(n uint32) uint32 {
	if simulates() {
		return uint32((simNext() >> 32 * uint64(n)) >> 32)
	}
	return cheaprandn(n)
}

// simNext is splitmix64. It begins anew with each instant, so that a draw more
// (by what is set up once in a process) is forgotten with the instant.
//
//go:nosplit
func simNext() uint64 {
	if now := getg().m.curg.bubble.now; now != simNow {
		simNow = now
		simState = simSeed0 ^ uint64(now)*0x94d049bb133111eb
	}
	simState += 0x9e3779b97f4a7c15
	z := simState
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
`

// ordered is the end of context.go.
const ordered = `
// inOrder are the children in the order in which they came.
func inOrder(m map[canceler]uint64) []canceler {
	var out []canceler
	for c := range m {
		i := len(out)
		for i > 0 && m[out[i-1]] > m[c] {
			i--
		}
		out = append(out, nil)
		copy(out[i+1:], out[i:])
		out[i] = c
	}
	return out
}
`

func main() {
	if len(os.Args) != 2 {
		fail(fmt.Errorf("usage: detrt DIR"))
	}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err == nil {
		err = write(os.Args[1], filepath.Join(strings.TrimSpace(string(root)), "src"))
	}
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "detrt:", err)
	os.Exit(1)
}

// write makes the changed files and the overlay in dir.
func write(dir, src string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text := map[string]string{}
	for _, e := range edits {
		if text[e.file] == "" {
			b, err := os.ReadFile(filepath.Join(src, e.file))
			if err != nil {
				return err
			}
			text[e.file] = string(b)
		}
		if n := strings.Count(text[e.file], e.old); n != 1 {
			return fmt.Errorf("%s of %s has %q %d times, not once: look at what this Go version does there", e.file, runtime.Version(), e.old, n)
		}
		text[e.file] = strings.Replace(text[e.file], e.old, e.new, 1)
	}
	text["runtime/rand.go"] += addition
	text["context/context.go"] += ordered
	over := struct{ Replace map[string]string }{map[string]string{}}
	for file, s := range text {
		to := filepath.Join(dir, strings.ReplaceAll(file, "/", "_")+".txt") // no Go file: dir may lie in the module
		if err := vfs.WriteFile(vfs.OS{}, to, []byte(s), 0o644); err != nil {
			return err
		}
		over.Replace[filepath.Join(src, file)] = to
	}
	b, err := json.MarshalIndent(over, "", "\t")
	if err != nil {
		return err
	}
	return vfs.WriteFile(vfs.OS{}, filepath.Join(dir, "overlay.json"), b, 0o644)
}
