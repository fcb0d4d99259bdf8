//go:build !race

package plantest_test

// sample is which share of the mutants a test tries.
const sample = 3
