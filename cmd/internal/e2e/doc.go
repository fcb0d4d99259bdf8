// Package e2e is the tests of the real programs as processes: runtime and
// agents killed with SIGKILL at seeded moments, machines failed over under
// load, disks compared from outside of drrun. Programs built with the tag
// crashtest are killed at each point of internal/crash as well. It has no code
// outside of tests.
//
// DRRUN_SEED chooses the moments, DRRUN_KILLS how many (default 4); with DRRUN_LONG
// the primary site dies at every step of a planned failover, not at some.
package e2e
