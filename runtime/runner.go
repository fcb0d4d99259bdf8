package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// MaxOutput is how much of a program's output is kept: the last bytes.
const MaxOutput = 16 << 10

// LocalRunner runs programs as processes of this machine, each in a process
// group of its own: what it started ends with it when its time is up, and a
// Ctrl-C at the terminal is drrun's alone.
type LocalRunner struct{}

var _ Runner = LocalRunner{}

// Run implements Runner. env is added to the environment of this process.
func (LocalRunner) Run(ctx context.Context, argv, env []string) (int, string, error) {
	if len(argv) == 0 {
		return 0, "", errors.New("an empty command")
	}
	out := &tailWriter{limit: MaxOutput}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...) //nolint:gosec // a plan names its programs
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second // children that keep the pipe open do not hold us up
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return 0, out.String(), fmt.Errorf("ended: %w", context.Cause(ctx))
	case errors.As(err, &exit) && exit.Exited():
		return exit.ExitCode(), out.String(), nil
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return 0, out.String(), err
	}
	return 0, out.String(), nil
}

// tailWriter keeps the last bytes written to it.
type tailWriter struct {
	buf   []byte
	limit int
}

func (w *tailWriter) Write(p []byte) (int, error) {
	w.buf = append(w.buf, p...)
	if over := len(w.buf) - w.limit; over > 0 {
		w.buf = append(w.buf[:0], w.buf[over:]...)
	}
	return len(p), nil
}

func (w *tailWriter) String() string { return string(w.buf) }
