//go:build planted_tracker

package tracker

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
)

// plantedBlock is the block that this tracker never finds changed, as
// DRRUN_TRACKER_MISSES=PATH:BLOCK says.
var plantedBlock = sync.OnceValues(func() (path string, block int64) {
	s := os.Getenv("DRRUN_TRACKER_MISSES")
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", 0
	}
	block, err := strconv.ParseInt(s[i+1:], 10, 64)
	if err != nil {
		panic(fmt.Sprintf("internal error: DRRUN_TRACKER_MISSES=%s: %v", s, err))
	}
	return s[:i], block
})

// misses reports whether a changed block is one that goes unnoticed.
func misses(d *openDisk, block int64) bool {
	path, planted := plantedBlock()
	return d.Path == path && block == planted
}
