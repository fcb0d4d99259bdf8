package term

import (
	"os"

	"golang.org/x/sys/unix"
)

// flushInput drops what was typed on a terminal and not read yet.
func flushInput(f *os.File) {
	// What cannot be dropped is read as if it were typed now.
	_ = unix.IoctlSetInt(int(f.Fd()), unix.TCFLSH, unix.TCIFLUSH) //nolint:gosec // a file descriptor fits
}
