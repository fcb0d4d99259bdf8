package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/cmd/internal/compose"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/runtime/control"
)

var serveCommand = &command{
	name: "serve", short: "be the controller: serve the state folder to all other commands",
	long: `Holds the state folder and serves its socket until it is interrupted, so that runs, waits and joins go on
without a shell. Runs that were under way when the last runtime ended go on. Other commands find it by
the state folder. Agents replicate with or without it.`,
	examples: "drrun serve\ndrrun serve --state /srv/drrun --log-level debug",
	exits:    []int{fault.ExitUnreachable, fault.ExitCorrupt},
	logs:     "info",
	make:     func() action { return &serveOptions{} },
}

type serveOptions struct{ noResume bool }

func (o *serveOptions) flags(fs *pflag.FlagSet) {
	fs.BoolVar(&o.noResume, "no-resume", false, "leave runs that were under way as they are")
}

func (o *serveOptions) run(ctx context.Context, c *cli, args []string) error {
	if err := c.wantArgs("serve", args, 0, 0); err != nil {
		return err
	}
	if c.controller != "" {
		return usage("serve is the controller itself: --controller is not for it")
	}
	dir, err := c.stateFolder(c.state)
	if err != nil {
		return err
	}
	rt, err := c.openFolder(ctx, dir)
	if err != nil {
		return openError(err)
	}
	c.errorf("drrun serves %s\n", rt.Socket())
	if !o.noResume {
		err = rt.ResumeUnfinished(ctx, c.User)
	}
	if err != nil {
		return errors.Join(err, rt.Close())
	}
	drilling, stop := context.WithCancel(ctx)
	defer stop()
	drilled := make(chan struct{})
	go func() {
		defer close(drilled)
		rt.Drill(drilling)
	}()
	interrupts, giveBack := c.signals.take()
	defer giveBack()
	o.wait(ctx, rt, interrupts)
	stop()
	<-drilled
	c.errorf("ending after the steps in flight; interrupt again to end at once\n")
	rt.Hurry(interrupts)
	return rt.Close()
}

// openFolder makes this process the controller of a state folder. A command
// that is the runtime for a moment is waited for; a controller is not.
func (c *cli) openFolder(ctx context.Context, dir string) (*compose.Runtime, error) {
	giveUp := time.Now().Add(patience)
	for {
		rt, err := compose.Open(ctx, compose.Options{State: dir, Version: version, Clock: clock.Real{}, Log: c.log})
		if !fault.Is(err, fault.Unreachable) || time.Now().After(giveUp) {
			return rt, err
		}
		other := control.NewClient(filepath.Join(dir, control.SocketName), nil)
		info, askErr := other.Info(ctx)
		other.Close()
		if askErr == nil && !info.Embedded {
			return nil, err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// contactEvery is how often a controller brings agents up to date that missed
// something.
const contactEvery = 10 * time.Second

// wait works until the user ends it.
func (o *serveOptions) wait(ctx context.Context, rt *compose.Runtime, interrupts <-chan os.Signal) {
	tick := time.NewTicker(contactEvery)
	defer tick.Stop()
	for {
		select {
		case <-interrupts:
			return
		case <-tick.C:
			rt.Contact(ctx)
		}
	}
}
