package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/drrun/drrun/cmd/internal/compose"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/runtime/control"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/store"
)

// session is a runtime that answers, for as long as a command lasts.
type session struct {
	*control.Client
	cli   *cli
	dir   string // state folder; empty: a controller that was named
	drive bool

	mu sync.Mutex
	rt *compose.Runtime // nil: a controller, or another command's runtime
}

// need is what a command needs of a runtime.
type need struct {
	// makeState: a state folder may be made; a command that only looks makes
	// none.
	makeState bool
	// drive: the command starts work and stays until it has settled. It goes to
	// a controller, to a command that drives too, or becomes the runtime; never
	// to a look-up, which is gone in a moment.
	drive bool
}

// embedded is the runtime in this process, nil if there is none.
func (s *session) embedded() *compose.Runtime {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rt
}

// close ends what the command started. An embedded runtime that drives runs of
// other commands goes on until they have settled, or the user interrupts.
func (s *session) close(ctx context.Context, linger bool) error {
	defer s.Client.Close()
	rt := s.embedded()
	if rt == nil {
		return nil
	}
	interrupts, giveBack := s.cli.signals.take()
	defer giveBack()
	if linger && s.drive {
		s.linger(ctx, interrupts)
	}
	rt.Hurry(interrupts)
	return rt.Close()
}

// linger waits for the runs of other commands.
func (s *session) linger(ctx context.Context, interrupts <-chan os.Signal) {
	told := false
	for {
		runs, err := s.Runs(ctx)
		if err != nil {
			return // closing says what is wrong
		}
		i := slices.IndexFunc(runs, func(r report.Run) bool { return r.Live && r.Status.Busy() })
		if i < 0 {
			return
		}
		if !told {
			told = true
			s.cli.errorf("run %s of another command goes on here; interrupt to pause it\n", runs[i].ID)
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-interrupts:
			return
		}
	}
}

// with connects to a runtime, runs f, and closes what it opened.
func (c *cli) with(ctx context.Context, n need, f func(s *session) error) error {
	s, err := c.connect(ctx, n)
	if err != nil {
		return err
	}
	err = f(s)
	var exit exitError
	interrupted := errors.As(err, &exit) && exit.code == fault.ExitInterrupted || fault.Is(err, fault.Interrupted)
	return errors.Join(err, s.close(context.WithoutCancel(ctx), !interrupted))
}

// connect finds the runtime: the controller that was named, the one that serves
// the state folder, else this process becomes it.
func (c *cli) connect(ctx context.Context, n need) (*session, error) {
	s := &session{cli: c, drive: n.drive}
	path := c.controller
	if path == "" {
		path = c.Getenv("DRRUN_CONTROLLER")
	}
	if path != "" {
		s.Client = control.NewClient(path, nil)
		_, err := s.Info(ctx)
		return s, err
	}
	var err error
	if s.dir, err = c.stateFolder(c.state); err != nil {
		return nil, err
	}
	s.Client = control.NewClient(filepath.Join(s.dir, control.SocketName), s.embed)
	if !n.makeState && !exists(filepath.Join(s.dir, store.FileName)) {
		return nil, fault.Errorf(fault.Refused, "no estate is applied yet: there is no state in %s", s.dir).
			WithHint("drrun apply estate.lua, or name another state folder with --state")
	}
	return s, s.settle(ctx)
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return !errors.Is(err, fs.ErrNotExist)
}

// patience is how long a command waits for one that has the state folder and is
// only starting or ending.
const patience = 5 * time.Second

// settle calls the runtime until it is one that suits this command; the call
// makes this process the runtime when nobody is.
func (s *session) settle(ctx context.Context) error {
	giveUp := time.Now().Add(patience)
	for {
		info, err := s.Info(ctx)
		switch {
		case err == nil && (s.embedded() != nil || info.Drives || !s.drive):
			return nil
		case err != nil && !fault.Is(err, fault.Unreachable):
			return err
		case time.Now().After(giveUp) && err == nil:
			return fault.Errorf(fault.Unreachable, "process %d uses the state folder %s and does not end", info.PID, s.dir).
				WithHint("wait for it, or keep a controller: drrun serve")
		case time.Now().After(giveUp):
			return err
		}
		s.Client.Close() // or an idle connection would keep the other one
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// embed makes this process the runtime of the state folder.
func (s *session) embed(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rt != nil {
		return nil
	}
	rt, err := compose.Open(ctx, compose.Options{State: s.dir, Embedded: true, Drives: s.drive, Version: version, Clock: clock.Real{}, Log: s.cli.log})
	if err != nil {
		return openError(err)
	}
	s.rt = rt
	return nil
}

// openError gives what the file system refuses its kind.
func openError(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fault.Errorf(fault.Refused, "%w", err).WithHint("run drrun as the user who owns the state folder, or choose another one with --state")
	}
	return err
}
