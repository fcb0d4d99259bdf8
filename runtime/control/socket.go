package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/drrun/drrun/internal/fault"
)

// SocketName is the name of the socket in the state folder.
const SocketName = "drrun.sock"

// maxSocketPath is the longest path that a socket address holds (Linux: 108
// bytes with the final zero).
const maxSocketPath = 107

// Listen makes the socket, mode 0600. The caller holds the lock of the state
// folder, so a socket that is there belongs to a dead runtime and is replaced.
func Listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fault.Errorf(fault.Unreachable, "cannot replace the socket of an earlier runtime: %w", err)
	}
	name, done, err := shortName(path)
	if err != nil {
		return nil, err
	}
	defer done()
	l, err := net.Listen("unix", name)
	if err != nil {
		return nil, fault.Errorf(fault.Unreachable, "cannot listen on %s: %w", path, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // the name may be a short one: Close of Server removes path
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot protect the socket %s: %w", path, err), l.Close())
	}
	return l, nil
}

// dial connects to the socket; fault.Unreachable when nobody serves it.
func dial(ctx context.Context, path string) (net.Conn, error) {
	name, done, err := shortName(path)
	if err != nil {
		return nil, err
	}
	defer done()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", name)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fault.Errorf(fault.Unreachable, "no drrun runtime serves %s", path).WithHint("drrun serve, or leave out --controller")
	case err != nil:
		return nil, fault.Errorf(fault.Unreachable, "cannot reach the runtime at %s: %w", path, err)
	}
	return c, nil
}

// shortName returns a name for path that fits a socket address: longer ones go
// through the open folder.
func shortName(path string) (name string, done func(), err error) {
	if len(path) <= maxSocketPath {
		return path, func() {}, nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", nil, fault.Errorf(fault.Unreachable, "cannot open the state folder: %w", err)
	}
	name = filepath.Join("/proc/self/fd", strconv.Itoa(int(dir.Fd())), filepath.Base(path)) //nolint:gosec // a file descriptor fits
	return name, func() { _ = dir.Close() }, nil                                            // only read
}
