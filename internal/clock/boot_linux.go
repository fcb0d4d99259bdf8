package clock

import (
	"time"

	"golang.org/x/sys/unix"
)

func sinceBoot() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil { // every Linux since 2.6.39 has it
		panic("internal error: CLOCK_BOOTTIME: " + err.Error())
	}
	return time.Duration(t.Nano())
}
