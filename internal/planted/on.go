//go:build planted

package planted

import (
	"errors"
	"os"

	"github.com/drrun/drrun/internal/vfs"
)

var chosen = Fault(os.Getenv("DRRUN_PLANTED"))

// Is reports whether a rule is broken.
func Is(f Fault) bool { return chosen == f }

// Choose breaks a rule, and mends the one that was broken before.
func Choose(f Fault) { chosen = f }

// Unsynced writes a file and makes nothing of it durable.
func Unsynced(fsys vfs.FS, name string, data []byte) error {
	f, err := fsys.OpenFile(name, vfs.CreateTrunc, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}
