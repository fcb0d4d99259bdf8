//go:build race

package plantest_test

// Which share a test tries without -full: the race detector makes all of it eight
// times as long, and make plans tries each without it.
const (
	mutantsOf  = 9
	mistakesOf = 4
	faultsOf   = 97 // single faults of the good plans
	deathsOf   = 9  // of crash_everywhere
)
