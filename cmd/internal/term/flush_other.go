//go:build !linux

package term

import "os"

// flushInput drops what was typed on a terminal and not read yet, where the
// platform has a way that we know.
func flushInput(*os.File) {}
