package main

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/runtime/control"
)

var reverseCommand = &command{
	name: "reverse", args: "PLAN|MACHINE…", short: "replicate to the old site again, after a committed unplanned failover",
	long: `After an unplanned failover was committed, replicates the machines back to their old site. Before anything
is overwritten there, what only the old disks had is kept as the recovery point "as found", and how much
that is is shown. Asks on a terminal; --yes does not.`,
	examples: "drrun reverse erp\ndrrun reverse db1 app1 --yes",
	exits:    runExits,
	make:     func() action { return &reverseOptions{} },
}

type reverseOptions struct{ yes, detach bool }

func (o *reverseOptions) flags(fs *pflag.FlagSet) {
	fs.BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	fs.BoolVar(&o.detach, "detach", false, "return when the run has started (needs a controller)")
}

func (o *reverseOptions) run(ctx context.Context, c *cli, args []string) error {
	if err := c.wantArgs("reverse", args, 1, -1); err != nil {
		return err
	}
	if !o.yes && !c.Asks {
		return usage("reverse overwrites the old site's disks: without a terminal it needs --yes")
	}
	req := control.ReverseRequest{By: c.User}
	return c.with(ctx, need{drive: true}, func(s *session) error {
		if o.detach && s.embedded() != nil {
			return usage("--detach needs a controller to go on with the run").WithHint("drrun serve")
		}
		e, err := s.Estate(ctx)
		if err != nil {
			return err
		}
		req.Machines = args
		if len(args) == 1 && slices.Contains(e.Plans, args[0]) {
			req.Plan, req.Machines = args[0], nil
		}
		if !o.yes {
			ok, err := c.asker.Confirm(ctx, "Replicate "+strings.Join(args, ", ")+" back? The old site's disks are overwritten; what only they have is kept as a point.")
			if err != nil || !ok {
				return errorsOr(err, fault.Errorf(fault.Refused, "not started: nobody said yes"))
			}
		}
		r, err := s.Reverse(ctx, req)
		if err != nil {
			return err
		}
		if o.detach {
			return c.printRunID(r)
		}
		return c.follow(ctx, s, r)
	})
}
