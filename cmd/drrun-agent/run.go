package main

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/agent"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/pki"
	"github.com/drrun/drrun/transport/quicnet"
)

var runCommand = subcommand{
	name: "run", args: "",
	short: "run the agent until it is told to stop",
	long: `Listens for the runtime and for other agents, replicates what is assigned to this
host, and starts and stops its machines. Machines go on running when the agent
ends, and the next one adopts them; run it under a supervisor that restarts it
and that leaves its children alone (systemd: KillMode=process, Restart=always).
A restart also lets go on what a killed agent had held still.`,
	examples: "drrun-agent run\ndrrun-agent run --listen 10.0.0.5:7830 --store /srv/replicas\ndrrun-agent run --listen 127.0.0.1:0 --state /tmp/agent-a",
	exits:    []int{fault.ExitFailed, fault.ExitRefused, fault.ExitUnreachable, fault.ExitCorrupt, fault.ExitInternal},
	make:     func() action { return &runAction{} },
}

type runAction struct {
	listen, store, level, format string
}

func (a *runAction) flags(fs *pflag.FlagSet) {
	fs.StringVar(&a.listen, "listen", ":7830", "address to listen at (udp); port 0 takes any and prints it")
	fs.StringVar(&a.store, "store", "", "folder of replicas (default: the host's store in the estate)")
	fs.StringVar(&a.level, "log-level", "info", "debug, info, warn or error")
	fs.StringVar(&a.format, "log-format", "auto", "auto, text or json")
}

func (a *runAction) run(ctx context.Context, c *cli, args []string) error {
	if len(args) != 0 {
		return wrongArgs(runCommand)
	}
	log, err := logkit.New(c.Stderr, logkit.Options{Level: a.level, Format: a.format, Terminal: c.Terminal, NoColor: c.Getenv("NO_COLOR") != ""})
	if err != nil {
		return err
	}
	state, err := c.stateFolder(c.state)
	if err != nil {
		return err
	}
	if a.store != "" {
		if a.store, err = filepath.Abs(a.store); err != nil {
			return usage("store %q: %v", a.store, err)
		}
	}
	keeper, err := pki.OpenKeeper(vfs.OS{}, identityDir(state), clock.Real{})
	if err != nil {
		return err
	}
	if err := mayRun(keeper, log); err != nil {
		return err
	}
	medium := quicnet.New(keeper, quicnet.Options{Log: log})
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case s := <-c.Signals:
			log.Info("signal received, the agent ends; machines go on running", "signal", s.String())
			cancel(fault.Errorf(fault.Interrupted, "signal %s", s))
		case <-ctx.Done():
		}
	}()
	ag, err := agent.Open(ctx, agent.Options{
		FS: vfs.OS{}, State: state, Store: a.store, Medium: medium, Listen: a.listen, Self: selfOf(keeper),
		Clock: clock.Real{}, Log: log, Version: version, Env: c.Environ,
		Guard: (&guards{state: state, log: log, stderr: c.Stderr, env: c.Environ}).ensure,
	})
	if err != nil {
		return errors.Join(err, medium.Close())
	}
	go func() {
		if addr := ag.Addr(ctx); addr != nil {
			_ = c.printf("drrun-agent listens at %s\n", addr) // nobody may read it; the log has it too
		}
	}()
	return errors.Join(ag.Run(ctx), ag.Close(), medium.Close())
}

// mayRun refuses to run an agent that nobody could ever talk to.
func mayRun(k *pki.Keeper, log *slog.Logger) error {
	if id := k.Identity(); id != nil {
		p := id.Peer()
		log.Info("this host is", logkit.KeyHost, p.Host, logkit.KeySite, p.Site, "estate", p.Estate)
		return nil
	}
	if t, ok := k.Token(); ok {
		log.Info("waits to join: the runtime calls when it needs this host", logkit.KeyHost, t.Host)
		return nil
	}
	if err := k.JoinError(); err != nil {
		return err
	}
	return fault.Errorf(fault.Refused, "this host has not joined an estate").
		WithHint("run drrun-agent join TOKEN with a token of drrun token HOST")
}

// selfOf returns the names of the identity that is in force.
func selfOf(k *pki.Keeper) func() (transport.Peer, bool) {
	return func() (transport.Peer, bool) {
		id := k.Identity()
		if id == nil {
			return transport.Peer{}, false
		}
		return id.Peer(), true
	}
}
