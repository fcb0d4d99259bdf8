// Package execprov is the exec provider: a machine is a process that commands
// start and stop, with all of its session, all that carries the token of its
// launch in the environment and all that these started; or a systemd unit.
//
// The process is started in a session of its own with its output going to a
// file, so that it outlives the agent; a later agent adopts it by process id,
// start time and boot id. A crash of the agent while the machine is frozen
// leaves it frozen until the agent runs again: the agent marks every freeze
// durably before it begins and thaws what is marked when it starts, so a
// supervisor that restarts the agent bounds the stand-still. No shell is used.
//
// Safe for concurrent use, except as package provider says.
package execprov

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/drrun/drrun/agent/provider"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// Limits and defaults.
const (
	defaultForceAfter = 30 * time.Second
	killWait          = 10 * time.Second // after SIGKILL
	statusWait        = 10 * time.Second // for a status command
	pollFirst         = time.Millisecond
	pollMost          = 100 * time.Millisecond
	maxOutput         = 4 << 20   // bytes of the output file
	keepOutput        = 512 << 10 // of them, the last ones kept when it is full
)

// Options are what the provider needs of its host.
type Options struct {
	FS  vfs.FS
	Dir string   // folder for the machine's output, exists
	Env []string // environment of commands
	Log *slog.Logger
}

// Machine implements provider.Provider for one machine.
type Machine struct {
	cfg recovery.Exec
	o   Options

	mu   sync.Mutex
	exit map[int]string // how children of ours ended
}

var _ provider.Provider = (*Machine)(nil)

// New returns the provider of one machine.
func New(cfg recovery.Exec, o Options) *Machine {
	if cfg.ForceAfter <= 0 {
		cfg.ForceAfter = defaultForceAfter
	}
	return &Machine{cfg: cfg, o: o, exit: map[int]string{}}
}

// Start implements provider.Provider.
func (m *Machine) Start(ctx context.Context, l provider.Launch) (provider.Process, error) {
	if m.cfg.Unit != "" {
		return m.startUnit(ctx, l)
	}
	if len(m.cfg.Start) == 0 {
		return provider.Process{}, fault.Errorf(fault.Invalid, "machine %s has no start command", l.Machine)
	}
	boot, err := BootID()
	if err != nil {
		return provider.Process{}, err
	}
	args, err := expand(m.cfg.Start, l)
	if err != nil {
		return provider.Process{}, err
	}
	out, err := m.output(l)
	if err != nil {
		return provider.Process{}, err
	}
	defer out.Close()
	cmd := exec.Command(args[0], args[1:]...) //nolint:gosec // the estate's own command, no shell
	cmd.Dir, cmd.Env = "/", environment(m.o.Env, l)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return provider.Process{}, fault.Errorf(fault.Failed, "cannot start machine %s: %w", l.Machine, err).
			WithHint("check that %s exists on this host and may be executed", args[0])
	}
	m.mu.Lock()
	delete(m.exit, cmd.Process.Pid) // of an earlier process with that id
	m.mu.Unlock()
	// The child is not yet reaped, so its entry is there even if it ended.
	st, err := readStat(cmd.Process.Pid)
	go m.reap(cmd, l.Machine)
	if err != nil {
		return provider.Process{}, fault.Errorf(fault.Unknown, "machine %s was started, its process cannot be read: %w", l.Machine, err)
	}
	return provider.Process{PID: st.pid, Started: st.started, Boot: boot, Launch: l}, nil
}

// reap waits for a child of ours, so that it leaves no zombie.
func (m *Machine) reap(cmd *exec.Cmd, machine string) {
	err := cmd.Wait()
	how := "exit status 0"
	if err != nil {
		how = err.Error()
	}
	m.mu.Lock()
	m.exit[cmd.Process.Pid] = how
	m.mu.Unlock()
	m.o.Log.Info("machine process ended", logkit.KeyMachine, machine, logkit.KeyPID, cmd.Process.Pid, "exit", how)
}

// outputFile is where the machine's output goes.
func (m *Machine) outputFile(l provider.Launch) string {
	if l.Type == provider.Test {
		return filepath.Join(m.o.Dir, "output-test.log")
	}
	return filepath.Join(m.o.Dir, "output.log")
}

// turnOver keeps the end of a full output file beside it and empties the file:
// a machine that runs for years writes on at its end, and must not fill the
// disk on which the agent keeps its records.
func (m *Machine) turnOver(name string) error {
	fi, err := m.o.FS.Stat(name)
	if err != nil || fi.Size() <= maxOutput {
		return nil //nolint:nilerr // there is none yet, or it shows when it is opened
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("cannot turn over %s: %w", name, err)
	}
	end := make([]byte, keepOutput)
	n, err := f.ReadAt(end, fi.Size()-keepOutput)
	if err == nil || errors.Is(err, io.EOF) {
		err = vfs.WriteFile(m.o.FS, name+".1", end[:n], 0o640)
	}
	if err = errors.Join(err, f.Truncate(0), f.Close()); err != nil {
		return fmt.Errorf("cannot turn over %s: %w", name, err)
	}
	return nil
}

// output opens the file for what the machine prints.
func (m *Machine) output(l provider.Launch) (*os.File, error) {
	name := m.outputFile(l)
	if err := m.turnOver(name); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return nil, fmt.Errorf("cannot open machine output: %w", err)
	}
	return f, nil
}

// Find implements provider.Provider.
func (m *Machine) Find(ctx context.Context, l provider.Launch) (provider.Process, bool, error) {
	if m.cfg.Unit != "" {
		st := m.unitStatus(ctx)
		return provider.Process{Launch: l}, st.Power != recovery.PowerStopped, nil
	}
	boot, err := BootID()
	if err != nil {
		return provider.Process{}, false, err
	}
	var found provider.Process
	err = processes(func(st stat) {
		if st.dead() || !hasToken(st.pid, l.Token) {
			return
		}
		switch {
		case st.pid == st.session && found.Started != 0 && found.Started <= st.started:
			// a session that one of its processes made
		case st.pid == st.session:
			found = provider.Process{PID: st.pid, Started: st.started, Boot: boot, Launch: l}
		case found.PID == 0: // what is left of the session without its leader
			found = provider.Process{PID: st.session, Boot: boot, Launch: l}
		}
	})
	return found, found.PID != 0, err
}

// Status implements provider.Provider.
func (m *Machine) Status(ctx context.Context, p provider.Process) provider.State {
	if m.cfg.Unit != "" {
		return m.unitStatus(ctx)
	}
	if err := m.turnOver(m.outputFile(p.Launch)); err != nil {
		m.o.Log.Warn("the machine's output grows", logkit.KeyMachine, p.Launch.Machine, logkit.KeyError, err)
	}
	m.mu.Lock()
	exit := m.exit[p.PID]
	m.mu.Unlock()
	pids, err := m.members(p)
	switch {
	case err != nil:
		return provider.State{Power: recovery.PowerUnknown, Exit: exit, Why: err.Error()}
	case len(pids) > 0:
		return provider.State{Power: recovery.PowerRunning, PID: p.PID, Exit: exit}
	case len(m.cfg.Status) > 0:
		return m.ask(ctx, p)
	}
	return provider.State{Power: recovery.PowerStopped, Exit: exit}
}

// members lists the living processes of the machine. fault.Unknown: none is
// surely one, and some may be.
func (m *Machine) members(p provider.Process) ([]stat, error) {
	if p.PID == 0 {
		return nil, nil // never started
	}
	boot, err := BootID()
	if err != nil {
		return nil, err
	}
	if p.Boot != boot {
		return nil, nil
	}
	var all []stat
	if err := processes(func(st stat) { all = append(all, st) }); err != nil {
		return nil, err
	}
	ours, doubtful := members(all, p)
	if len(ours) == 0 && len(doubtful) > 0 {
		return nil, fault.Errorf(fault.Unknown, "process %d may be of machine %s: it is of session %d, whose leader is gone", doubtful[0].pid, p.Launch.Machine, p.PID).
			WithHint("look at the process, end it if it is the machine's")
	}
	return ours, nil
}

// ask runs the status command: 0 is running, 1 to 3 stopped (the words of
// init scripts), all else unknown.
func (m *Machine) ask(ctx context.Context, p provider.Process) provider.State {
	ctx, cancel := context.WithTimeoutCause(ctx, statusWait, fault.Errorf(fault.Unknown, "the status command took longer than %s", statusWait))
	defer cancel()
	err := m.run(ctx, m.cfg.Status, p.Launch)
	var ee *exec.ExitError
	switch {
	case err == nil:
		return provider.State{Power: recovery.PowerRunning}
	case errors.As(err, &ee) && ee.ExitCode() >= 1 && ee.ExitCode() <= 3:
		return provider.State{Power: recovery.PowerStopped}
	}
	return provider.State{Power: recovery.PowerUnknown, Why: "the status command gave no answer: " + err.Error()}
}

// run runs one of the configured commands to its end; what it prints goes to
// the machine's output.
func (m *Machine) run(ctx context.Context, command []string, l provider.Launch) error {
	args, err := expand(command, l)
	if err != nil {
		return err
	}
	out, err := m.output(l)
	if err != nil {
		return err
	}
	defer out.Close()
	l.Token = ""                                          // it is no process of the machine
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // the estate's own command, no shell
	cmd.Dir, cmd.Env = "/", environment(m.o.Env, l)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return nil
}

// Stop implements provider.Provider.
func (m *Machine) Stop(ctx context.Context, p provider.Process, s provider.Stop) (bool, error) {
	if s.Within <= 0 {
		s.Within = m.cfg.ForceAfter
	}
	if m.cfg.Unit != "" {
		return m.stopUnit(ctx, p.Launch, s)
	}
	if st := m.Status(ctx, p); st.Power == recovery.PowerStopped {
		return false, nil
	}
	grace, cancel := context.WithTimeoutCause(ctx, s.Within, errNotStopped)
	defer cancel()
	// What its leader leaves behind when it ends can no longer be told from
	// other processes: all that are there now are waited for.
	all, err := m.members(p)
	if err == nil {
		err = m.askToStop(grace, p, all)
	}
	if err == nil {
		err = m.waitStopped(grace, p, all)
	}
	if err == nil || ctx.Err() != nil {
		return false, err
	}
	if !s.Force {
		return false, fault.Errorf(fault.Failed, "machine %s did not stop within %s: %w", p.Launch.Machine, s.Within, err).
			WithHint("look at the machine, or allow a forced stop (force_after in the plan's shutdown)")
	}
	m.o.Log.Warn("machine does not stop, killing it", logkit.KeyMachine, p.Launch.Machine, logkit.KeyPID, p.PID, logkit.KeyError, err)
	hard, stop := context.WithTimeoutCause(ctx, killWait, errNotStopped)
	defer stop()
	return true, m.kill(hard, p, all)
}

var errNotStopped = errors.New("it still runs")

// askToStop runs the stop command or sends SIGTERM to all processes.
func (m *Machine) askToStop(ctx context.Context, p provider.Process, all []stat) error {
	if len(m.cfg.Stop) > 0 {
		return m.run(ctx, m.cfg.Stop, p.Launch)
	}
	if err := signal(all, syscall.SIGTERM); err != nil {
		return err
	}
	return signal(all, syscall.SIGCONT) // a stopped one would not see it
}

// kill ends all processes by force.
func (m *Machine) kill(ctx context.Context, p provider.Process, all []stat) error {
	return poll(ctx, func() (bool, error) {
		now, err := m.members(p)
		if err != nil {
			return false, err
		}
		left := append(living(all), now...)
		return len(left) == 0, signal(left, syscall.SIGKILL)
	})
}

func (m *Machine) waitStopped(ctx context.Context, p provider.Process, all []stat) error {
	return poll(ctx, func() (bool, error) {
		return len(living(all)) == 0 && m.Status(ctx, p).Power == recovery.PowerStopped, nil
	})
}

// stuckTries is after how many looks a freeze that does not come about begins
// again.
const stuckTries = 6

// Freeze implements provider.Provider.
func (m *Machine) Freeze(ctx context.Context, p provider.Process, app bool) (recovery.Consistency, error) {
	if m.byCommand(p, app) {
		if err := m.run(ctx, m.cfg.Freeze, p.Launch); err != nil {
			return "", fault.Errorf(fault.Failed, "cannot freeze machine %s: %w", p.Launch.Machine, err)
		}
		return recovery.App, nil
	}
	if m.cfg.Unit != "" {
		return recovery.Crash, systemctl(ctx, "freeze", m.cfg.Unit)
	}
	if p.PID == 0 {
		return "", fault.Errorf(fault.Refused, "machine %s was not started by drrun: its processes cannot be frozen", p.Launch.Machine).
			WithHint("give its exec provider freeze and thaw commands, or start it by drrun")
	}
	var before []stat
	tries := 0
	err := poll(ctx, func() (bool, error) {
		all, err := m.members(p)
		if err != nil {
			return false, err
		}
		// A parent in vfork(2) holds still only when its child has gone on to
		// exec: let all go for a moment and stop them again.
		if tries++; tries%stuckTries == 0 {
			before = nil
			return false, signal(all, syscall.SIGCONT)
		}
		// The same twice: nothing was being forked.
		still := slices.EqualFunc(all, before, func(a, b stat) bool { return a.pid == b.pid && a.started == b.started })
		before = all
		for _, st := range all {
			q, err := quiet(st.pid)
			if err != nil {
				return false, err
			}
			if !q {
				still = false
				if err := signal([]stat{st}, syscall.SIGSTOP); err != nil {
					return false, err
				}
			}
		}
		return still, nil
	})
	if err != nil {
		return "", fault.Errorf(fault.Failed, "cannot freeze machine %s: %w", p.Launch.Machine, err)
	}
	return recovery.Crash, nil
}

// byCommand reports whether the freeze is that of the configured commands.
func (m *Machine) byCommand(p provider.Process, app bool) bool {
	return len(m.cfg.Freeze) > 0 && (app || p.PID == 0 && m.cfg.Unit == "")
}

// Thaw implements provider.Provider.
func (m *Machine) Thaw(ctx context.Context, p provider.Process, app bool) error {
	var err error
	if m.cfg.Unit != "" {
		if m.unitFrozen(ctx) {
			err = systemctl(ctx, "thaw", m.cfg.Unit)
		}
	} else {
		var all []stat
		if all, err = m.members(p); err == nil {
			err = signal(all, syscall.SIGCONT)
		}
	}
	if len(m.cfg.Thaw) > 0 && m.byCommand(p, app) { // after the processes, which it may have to talk to
		err = errors.Join(err, m.run(ctx, m.cfg.Thaw, p.Launch))
	}
	if err != nil {
		return fault.Errorf(fault.Failed, "cannot thaw machine %s: %w", p.Launch.Machine, err).
			WithHint("see why, or let the machine go by hand; the agent tries again until it succeeds or the machine has ended")
	}
	return nil
}

// signal sends sig to each process; one that ended meanwhile is no error.
func signal(all []stat, sig syscall.Signal) error {
	var errs []error
	for _, st := range all {
		if err := syscall.Kill(st.pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("cannot send %s to process %d: %w", sig, st.pid, err))
		}
	}
	return errors.Join(errs...)
}

// poll asks f with growing pauses until it is done, fails or ctx ends.
func poll(ctx context.Context, f func() (bool, error)) error {
	for pause := pollFirst; ; pause = min(2*pause, pollMost) {
		done, err := f()
		if err != nil || done {
			return err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
	}
}
