package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/agent"
	"github.com/drrun/drrun/internal/fault"
)

var confirmClockCommand = subcommand{
	name: "confirm-clock", args: "",
	short: "say that this host's clock is right, after it jumped",
	long: `Recovery points are dropped by their age on this host's clock. When that clock
jumps by more than an hour no point is dropped any more until somebody confirms
the time: a peer whose clock agrees does so by itself, else a person does with
this command. Look at the clock first (date -u): points that it makes look old
are dropped for good. Who confirmed it, and when, is recorded.`,
	examples: "date -u && drrun-agent confirm-clock",
	exits:    []int{fault.ExitFailed, fault.ExitUnreachable},
	make:     func() action { return &confirmClockAction{} },
}

type confirmClockAction struct{}

func (*confirmClockAction) flags(*pflag.FlagSet) {}

func (*confirmClockAction) run(ctx context.Context, c *cli, args []string) error {
	if len(args) != 0 {
		return wrongArgs(confirmClockCommand)
	}
	dir, err := c.stateFolder(c.state)
	if err != nil {
		return err
	}
	machines, err := agent.NewLocal(dir).ConfirmClock(ctx, c.User)
	if err != nil {
		return err
	}
	if len(machines) == 0 {
		return c.printf("nothing to confirm: the clock of this host is not in doubt\n")
	}
	return c.printf("the clock, %s, is recorded as confirmed by %s; points are thinned again of %s\n",
		time.Now().UTC().Format(time.RFC3339), c.User, strings.Join(machines, ", "))
}
