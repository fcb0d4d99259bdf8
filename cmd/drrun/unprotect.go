package main

import (
	"context"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/runtime/control"
)

var unprotectCommand = &command{
	name: "unprotect", args: "MACHINE", short: "end the protection of a machine",
	long: `Ends the replication of a machine at both sites. Its replica and recovery points stay in the store of their
host unless --delete-replica is given; the machine goes on running where it is. One that is still in the
estate's file is protected again by the next apply, if it was active at its home: one that was active at
the other site might run twice. With --runs-nowhere you state, of a machine that is not protected any more,
that it runs nowhere; then any site may start it.
Asks on a terminal for the machine's name; --yes does not, and is needed without a terminal.`,
	examples: "drrun unprotect db1\ndrrun unprotect db1 --delete-replica --yes\ndrrun unprotect db1 --runs-nowhere",
	exits:    askExits,
	make:     func() action { return &unprotectOptions{} },
}

type unprotectOptions struct{ yes, deleteReplica, runsNowhere bool }

func (o *unprotectOptions) flags(fs *pflag.FlagSet) {
	fs.BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	fs.BoolVar(&o.deleteReplica, "delete-replica", false, "delete the replica with all its recovery points")
	fs.BoolVar(&o.runsNowhere, "runs-nowhere", false, "of a machine that is not protected any more: you answer for it running nowhere")
}

func (o *unprotectOptions) run(ctx context.Context, c *cli, args []string) error {
	if err := c.wantArgs("unprotect", args, 1, 1); err != nil {
		return err
	}
	if o.runsNowhere && o.deleteReplica {
		return usage("--runs-nowhere and --delete-replica exclude each other: the first is for a machine that is not protected any more")
	}
	if !o.yes && !c.Asks {
		return usage("unprotect ends the protection of a machine: without a terminal it needs --yes")
	}
	return c.with(ctx, need{}, func(s *session) error {
		if !o.yes {
			what := "Ends the protection of " + args[0] + "; its recovery points stay."
			switch {
			case o.runsNowhere:
				what = "Forgets where " + args[0] + " was active: you state that it runs nowhere, and any site may start it."
			case o.deleteReplica:
				what = "Ends the protection of " + args[0] + " and deletes its replica with all recovery points."
			}
			ok, err := c.asker.Type(ctx, what, args[0])
			if err != nil || !ok {
				return errorsOr(err, fault.Errorf(fault.Refused, "not done: the machine's name was not typed"))
			}
		}
		res, err := s.Unprotect(ctx, control.UnprotectRequest{Machine: args[0], DeleteReplica: o.deleteReplica, RunsNowhere: o.runsNowhere})
		if err != nil {
			return err
		}
		c.pending(res.Pushes)
		if c.output == "json" {
			return c.printJSON(res)
		}
		switch {
		case res.Forgotten:
			return c.printf("machine %s was not protected any more; where it was active is forgotten\n", args[0])
		case res.Active == "":
			return c.printf("machine %s is not protected any more; no agent said where it was active\n", args[0])
		}
		return c.printf("machine %[1]s is not protected any more; %[1]s was active at %[2]s, where it goes on running\n", args[0], res.Active)
	})
}
