//go:build !planted

package planted

import "github.com/drrun/drrun/internal/vfs"

// Is reports whether a rule is broken: never, and the compiler knows it.
func Is(Fault) bool { return false }

// Choose needs the build tag planted.
func Choose(Fault) {}

// Unsynced is not for programs that are shipped.
func Unsynced(vfs.FS, string, []byte) error { panic("internal error: no fault is planted here") }
