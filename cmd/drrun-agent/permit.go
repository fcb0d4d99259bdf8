package main

import (
	"context"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/agent"
	"github.com/drrun/drrun/internal/fault"
)

var permitCommand = subcommand{
	name: "permit", args: "MACHINE",
	short: "let a machine start although no peer confirms its right",
	long: `After a restart an agent starts a machine only when a peer confirms that no other
site may run it. On a host that is cut off nobody can: then a person who knows
that the machine runs nowhere else takes the responsibility. Who did, and when,
is recorded. A peer that answers and knows better wins: it is refused.

A machine with a lease needs it renewed. With --without-lease it runs on until the
target renews it: you answer for it that nobody begins an unplanned run meanwhile,
which would wait for the end of the lease, ask nobody, and start the machine there.`,
	examples: "drrun-agent permit erp\ndrrun-agent permit erp --without-lease",
	exits:    []int{fault.ExitFailed, fault.ExitRefused, fault.ExitUnknown, fault.ExitUnreachable},
	make:     func() action { return &permitAction{} },
}

type permitAction struct{ withoutLease bool }

func (a *permitAction) flags(fs *pflag.FlagSet) {
	fs.BoolVar(&a.withoutLease, "without-lease", false, "let it run on although its lease is not renewed; recorded")
}

func (a *permitAction) run(ctx context.Context, c *cli, args []string) error {
	if len(args) != 1 {
		return wrongArgs(permitCommand)
	}
	dir, err := c.stateFolder(c.state)
	if err != nil {
		return err
	}
	permit := agent.NewLocal(dir).Permit
	if a.withoutLease {
		permit = agent.NewLocal(dir).PermitWithoutLease
	}
	res, err := permit(ctx, args[0], c.User)
	if err != nil {
		return err
	}
	return c.printf("machine %s is %s (process %d); recorded as permitted by %s\n", args[0], res.Power, res.PID, c.User)
}
