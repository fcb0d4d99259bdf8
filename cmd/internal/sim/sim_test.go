package sim

import (
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
)

var (
	seeds   = flag.Int("seeds", 1, "how many seeds")
	from    = flag.Uint64("from", 1, "the first seed")
	part    = flag.Int("part", 1, "which share of the seeds this process runs")
	parts   = flag.Int("parts", 1, "how many processes share them")
	keep    = flag.String("keep", "", "run only these events of the scenario, by number: \"0,3\"")
	small   = flag.Bool("small", false, "run one machine with one disk")
	verbose = flag.Bool("trace", false, "print what happens")
)

// run simulates a scenario in a bubble of its own.
func run(t *testing.T, sc *Scenario, trace bool) (res *Result) {
	cryptotest.SetGlobalRandom(t, sc.Seed)
	seedRuntime(sc.Seed | 1<<63)
	defer seedRuntime(0)
	synctest.Test(t, func(*testing.T) { res = Run(sc, trace) })
	return res
}

// alone takes what would make a difference: other processors, and the garbage
// collector in the middle.
func alone(t *testing.T) {
	procs := runtime.GOMAXPROCS(1)
	gc := debug.SetGCPercent(-1)
	t.Cleanup(func() {
		runtime.GOMAXPROCS(procs)
		debug.SetGCPercent(gc)
	})
	runtime.MemProfileRate = 0
	for _, seed := range warmUp { // what a process sets up once draws, too
		run(t, New(seed), false)
	}
}

// warmUp are seeds that use a bit of everything.
var warmUp = []uint64{3, 7}

// mostHeap is what is left behind between two collections: fresh memory costs
// more than a collection of what is dead.
const mostHeap = 64 << 20

// collect collects garbage between two seeds.
func collect() {
	var m runtime.MemStats
	if runtime.ReadMemStats(&m); m.HeapAlloc > mostHeap {
		runtime.GC()
	}
}

// TestSim runs -seeds seeds from -from; what fails is shrunk.
func TestSim(t *testing.T) {
	alone(t)
	stats := map[string]int{}
	failed := 0
	for i := *part - 1; i < *seeds && failed < 10; i += *parts {
		seed := *from + uint64(i) //nolint:gosec // not negative
		if n := i / *parts; n > 0 && n%500 == 0 {
			t.Logf("%d seeds are done", n)
		}
		sc := chosen(t, seed)
		res := run(t, sc, *verbose)
		collect()
		for k, n := range res.Stats {
			stats[k] += n
		}
		if *verbose {
			fmt.Printf("%s\n%s\nhash %x\n", sc, strings.Join(res.Trace, "\n"), res.Hash)
		}
		if res.Violation == nil {
			continue
		}
		failed++
		if *verbose || *keep != "" {
			t.Errorf("seed %d: %s", seed, res.Violation)
			continue
		}
		short, how, res := shrink(sc, res, func(sc *Scenario, trace bool) *Result {
			defer collect()
			return run(t, sc, trace)
		})
		t.Errorf("seed %d: %s\n%s%s\nto see it again: bin/sim.test -test.run '^TestSim$' -from %d -seeds 1 %s -trace",
			seed, res.Violation, short, tail(res.Trace, 60), seed, how)
	}
	t.Log(stats)
}

// chosen is the scenario of a seed as the flags cut it down.
func chosen(t *testing.T, seed uint64) *Scenario {
	t.Helper()
	sc := New(seed)
	if *small {
		sc = sc.small()
	}
	if *keep == "" {
		return sc
	}
	var events []Event
	for _, word := range strings.Split(*keep, ",") {
		n, err := strconv.Atoi(word)
		if err == nil && n >= 0 && n < len(sc.Events) {
			events = append(events, sc.Events[n])
		}
	}
	sc.Events = events
	return sc
}

func tail(trace []string, n int) string {
	return strings.Join(trace[max(0, len(trace)-n):], "\n")
}
