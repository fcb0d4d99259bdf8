//go:build detrt

package sim

import _ "unsafe" // for the body in the runtime of detrt

// seedRuntime seeds what the runtime decides at random; 0 ends that.
func seedRuntime(seed uint64)

// exact says that a seed repeats exactly.
const exact = true
