//go:build !detrt

package sim

// seedRuntime needs the runtime of detrt.
func seedRuntime(uint64) {}

// exact says that a seed repeats exactly: here only as far as the runtime
// decides alike.
const exact = false
