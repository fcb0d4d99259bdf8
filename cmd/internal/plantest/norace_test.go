//go:build !race

package plantest_test

// Which share a test tries without -full.
const (
	mutantsOf  = 3
	mistakesOf = 1
	faultsOf   = 29 // single faults of the good plans
	deathsOf   = 1  // of crash_everywhere
)
