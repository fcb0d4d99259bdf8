package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/drrun/drrun/agent"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/internal/vfs"
)

// guardWord is the command of the guard. The agent starts it, nobody else needs
// to: help does not list it.
const guardWord = "lease-guard"

const guardWithin = 5 * time.Second // for a guard to begin

// guards sees to it that a guard watches over the leases of a state folder: a
// process of its own, which goes on when the agent ends.
type guards struct {
	state  string
	log    *slog.Logger
	stderr io.Writer
	env    []string

	mu sync.Mutex
}

// ensure starts a guard if none watches.
func (g *guards) ensure(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	unlock, err := vfs.OS{}.Lock(filepath.Join(g.state, agent.GuardLock))
	if errors.Is(err, vfs.ErrLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := unlock(); err != nil {
		return err
	}
	return g.begin(ctx)
}

// begin starts a guard and waits for its word that it watches.
func (g *guards) begin(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	said, says, err := os.Pipe()
	if err != nil {
		return err
	}
	defer said.Close()
	cmd := exec.Command(self, guardWord, "--state", g.state) //nolint:noctx // it outlives the agent
	cmd.Dir, cmd.Env, cmd.Stdout = "/", g.env, says
	if f, ok := g.stderr.(*os.File); ok {
		cmd.Stderr = f
	}
	// A session of its own: what ends the agent's terminal does not end it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	if cerr := says.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("cannot start a guard: %w", err)
	}
	go func() { _ = cmd.Wait() }() // when it ends, the next renewal finds it missing
	watches := make(chan error, 1)
	go func() {
		_, err := bufio.NewReader(said).ReadString('\n')
		watches <- err
	}()
	select {
	case err = <-watches:
	case <-time.After(guardWithin):
		err = fault.Errorf(fault.Unreachable, "no word from it within %s", guardWithin)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("guard process %d does not watch: %w", cmd.Process.Pid, err)
	}
	g.log.Info("a guard watches over the leases of this host", logkit.KeyPID, cmd.Process.Pid)
	return nil
}

// guard is the command.
func (c *cli) guard(ctx context.Context, args []string) error {
	if len(args) != 2 || args[0] != "--state" || !filepath.IsAbs(args[1]) {
		return usage("%s is started by drrun-agent run", guardWord)
	}
	log, err := logkit.New(c.Stderr, logkit.Options{Level: "info", Format: "auto", Terminal: c.Terminal, NoColor: true})
	if err != nil {
		return err
	}
	// Signals that end the agent are received, and do not end it; nor does a log
	// that nobody reads any more.
	signal.Ignore(syscall.SIGPIPE)
	o := agent.Options{FS: vfs.OS{}, State: args[1], Clock: clock.Real{}, Log: log, Env: c.Environ}
	return agent.Guard(ctx, o, func() {
		_ = c.printf("watches\n") // the agent that waits for it may be gone
	})
}
