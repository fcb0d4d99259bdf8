package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/drrun/drrun/cmd/internal/compose"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/runtime/control"
	"github.com/drrun/drrun/runtime/store"
)

// session is a runtime that answers, for as long as a command lasts.
type session struct {
	*control.Client
	embedded *compose.Runtime // nil: a controller, or another command's runtime
	signals  *signals
}

// close ends what the command started. Idempotent.
func (s *session) close() error {
	s.Client.Close()
	if s.embedded == nil {
		return nil
	}
	interrupts, giveBack := s.signals.take()
	defer giveBack()
	s.embedded.Hurry(interrupts)
	err := s.embedded.Close()
	s.embedded = nil
	return err
}

// with connects to a runtime, runs f, and closes what it opened. make says
// whether a state folder may be made: a command that only looks makes none.
func (c *cli) with(ctx context.Context, makeState bool, f func(s *session) error) error {
	s, err := c.connect(ctx, makeState)
	if err != nil {
		return err
	}
	return errors.Join(f(s), s.close())
}

// connect finds the runtime: the controller that was named, the one that serves
// the state folder, else this process becomes it.
func (c *cli) connect(ctx context.Context, makeState bool) (*session, error) {
	path := c.controller
	if path == "" {
		path = c.Getenv("DRRUN_CONTROLLER")
	}
	if path != "" {
		return reach(ctx, path)
	}
	dir, err := c.stateFolder(c.state)
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, control.SocketName)
	if s, err := reach(ctx, socket); err == nil {
		return s, nil
	}
	if _, err := os.Stat(filepath.Join(dir, store.FileName)); errors.Is(err, fs.ErrNotExist) && !makeState {
		return nil, fault.Errorf(fault.Refused, "no estate is applied yet: there is no state in %s", dir).
			WithHint("drrun apply estate.lua, or name another state folder with --state")
	}
	return c.embed(ctx, dir, socket)
}

// reach connects to a socket that somebody serves.
func reach(ctx context.Context, path string) (*session, error) {
	client := control.NewClient(path)
	if _, err := client.Info(ctx); err != nil {
		client.Close()
		return nil, err
	}
	return &session{Client: client}, nil
}

// lockPatience is how long a command waits for one that has the lock and does
// not serve yet, or does not any more.
const lockPatience = 3 * time.Second

// embed makes this process the runtime. When another one is just starting or
// ending, it waits a moment for either.
func (c *cli) embed(ctx context.Context, dir, socket string) (*session, error) {
	giveUp := time.Now().Add(lockPatience)
	for {
		rt, err := compose.Open(ctx, compose.Options{State: dir, Embedded: true, Version: version, Clock: clock.Real{}, Log: c.log})
		if err == nil {
			return &session{Client: control.NewClient(socket), embedded: rt, signals: c.signals}, nil
		}
		if !fault.Is(err, fault.Unreachable) || time.Now().After(giveUp) {
			return nil, err
		}
		if s, rerr := reach(ctx, socket); rerr == nil {
			return s, nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
