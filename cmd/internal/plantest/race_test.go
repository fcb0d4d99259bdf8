//go:build race

package plantest_test

// sample is which share of the mutants a test tries: the race detector makes them
// eight times as long.
const sample = 9
