package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/drrun/drrun/internal/fault"
)

// lockState takes the state folder for this process, for as long as it lives.
func lockState(dir string) (unlock func() error, err error) {
	name := filepath.Join(dir, "lock")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fault.Errorf(fault.Failed, "cannot lock %s: %w", dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { //nolint:gosec // a descriptor fits
		who := make([]byte, 20)
		n, _ := f.ReadAt(who, 0) // best effort: it only names the other process
		_ = f.Close()
		return nil, fault.Errorf(fault.Unreachable, "state folder %s is in use by another drrun-agent (process %s)", dir, strings.TrimSpace(string(who[:n]))).
			WithHint("end that one, or name another folder with --state")
	}
	// The content is for people: the lock is the kernel's.
	if err := errors.Join(f.Truncate(0), writeAll(f, fmt.Sprintln(os.Getpid()))); err != nil {
		return nil, errors.Join(fault.Errorf(fault.Failed, "cannot lock %s: %w", dir, err), f.Close())
	}
	return func() error {
		// A child between fork and exec may have the descriptor still.
		return errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.Close()) //nolint:gosec // a descriptor fits
	}, nil
}

func writeAll(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}
