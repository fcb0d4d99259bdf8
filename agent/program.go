package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
)

const (
	maxOutput         = 64 << 10 // bytes of a program's output that are kept, the last ones
	defaultExecWithin = 5 * time.Minute
	shell             = "/bin/sh"
)

// exec runs an allowed program. What it does is not known here, so that a call
// that a crash cut short is never made again by itself: fault.Unknown.
func (a *Agent) exec(ctx context.Context, in command.ExecRequest) (command.ExecResult, error) {
	args := in.Cmd
	if in.Sh != "" {
		args = []string{shell, "-c", in.Sh}
	}
	if len(args) == 0 {
		return command.ExecResult{}, fault.Errorf(fault.Invalid, "there is no program to run")
	}
	ops, may := a.ops, a.allowedPrograms()
	admit := func(command.Meta) error { return nil } // of no machine: the program is the host's
	if in.Machine != "" {
		m, err := a.machine(in.Machine)
		if err != nil {
			return command.ExecResult{}, err
		}
		admit = m.admit
		rec := m.snapshot()
		if err := m.checkFence(&rec, in.Meta); err != nil {
			return command.ExecResult{}, err
		}
		ops, may = m.ops, rec.Assignment.Allow[a.host()]
	}
	if err := allowed(may, args[0], a.host()); err != nil {
		return command.ExecResult{}, err
	}
	if in.Within <= 0 {
		in.Within = defaultExecWithin
	}
	return once(ctx, ops, in.Op, command.Exec.Name, ask, func(ctx context.Context) (command.ExecResult, error) {
		// As for every operation on a machine: a first call is held to the epoch.
		if err := admit(in.Meta); err != nil {
			return command.ExecResult{}, err
		}
		ctx, cancel := context.WithTimeoutCause(ctx, in.Within, errTooLong)
		defer cancel()
		res, err := a.runProgram(ctx, args, in.Env)
		if errors.Is(err, errTooLong) {
			return res, fault.Errorf(fault.Failed, "%s took longer than %s and was ended", args[0], in.Within)
		}
		return res, err
	})
}

var errTooLong = errors.New("it took too long")

// allowedPrograms is what the estate allows at this host.
func (a *Agent) allowedPrograms() []string {
	var all []string
	for _, m := range a.all() {
		all = append(all, m.assignment().Allow[a.host()]...)
	}
	return all
}

// allowed refuses programs that the estate does not list for the host. A shell
// line needs "sh" or "/bin/sh".
func allowed(list []string, program, host string) error {
	if slices.Contains(list, program) || program == shell && slices.Contains(list, "sh") {
		return nil
	}
	return fault.Errorf(fault.Refused, "program %q may not be run at host %s", program, host).
		WithHint("add it to the host's allow list in the estate and apply it")
}

// runProgram runs a program to its end. A program that ended, however, is a
// result; one that could not be started is an error.
func (a *Agent) runProgram(ctx context.Context, args []string, env map[string]string) (command.ExecResult, error) {
	if a.o.Programs != nil {
		return a.o.Programs(ctx, args, env)
	}
	out := &tail{max: maxOutput}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // allowed by the estate, no shell but where asked
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", out, out
	cmd.Env = slices.Clone(a.o.Env)
	for _, k := range slices.Sorted(maps.Keys(env)) {
		cmd.Env = append(cmd.Env, k+"="+env[k])
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // children that keep the output open
	err := cmd.Run()
	res := command.ExecResult{Output: out.String()}
	var ee *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return res, context.Cause(ctx)
	case errors.As(err, &ee):
		res.Exit = ee.ExitCode()
		if res.Exit < 0 {
			res.Output += fmt.Sprintf("\n(%s)", ee)
		}
		return res, nil
	case errors.Is(err, exec.ErrWaitDelay):
		return res, nil
	case err != nil:
		return res, fault.Errorf(fault.Failed, "cannot run %s: %w", args[0], err)
	}
	return res, nil
}

// tail keeps the last max bytes that are written to it. Safe for concurrent use.
type tail struct {
	mu  sync.Mutex
	max int
	b   []byte
}

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if over := len(t.b) - t.max; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

// String returns what was kept, as valid text.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(string(t.b), "\uFFFD")
}
