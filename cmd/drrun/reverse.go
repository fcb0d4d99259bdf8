package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/runtime/control"
)

var reverseCommand = &command{
	name: "reverse", args: "PLAN|MACHINE…", short: "replicate to the old site again, after a committed unplanned failover",
	long: `After an unplanned failover was committed, replicates the machines back to their old site. Before anything
is overwritten there, what only the old disks had is kept as the recovery point "as found", and how much
that is is shown. Asks on a terminal for the name of the old site; --yes does not, and is needed without a terminal.
Without room for that point reverse stops before anything is changed. --discard-diverged MACHINE (again for
each machine) gives up what only the old site has of it: it is counted, shown and lost, and the run records who said
so. On a terminal the machine's name is asked for too.`,
	examples: "drrun reverse erp\ndrrun reverse db1 app1 --yes\ndrrun reverse erp --discard-diverged db1",
	exits:    runExits,
	make:     func() action { return &reverseOptions{} },
}

type reverseOptions struct {
	yes, detach bool
	discard     []string
}

func (o *reverseOptions) flags(fs *pflag.FlagSet) {
	fs.BoolVarP(&o.yes, "yes", "y", false, "do not ask for the old site's name")
	fs.StringArrayVar(&o.discard, "discard-diverged", nil, "give up what only the old site has of `MACHINE` (may be repeated)")
	fs.BoolVar(&o.detach, "detach", false, "return when the run has started (needs a controller)")
}

func (o *reverseOptions) run(ctx context.Context, c *cli, args []string) error {
	if err := c.wantArgs("reverse", args, 1, -1); err != nil {
		return err
	}
	if !o.yes && !c.Asks {
		return usage("reverse overwrites the old site's disks: without a terminal it needs --yes")
	}
	req := control.ReverseRequest{By: c.User, Discard: o.discard}
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
			if err := o.ask(ctx, c, s, req); err != nil {
				return err
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

// ask lets the name of the site be typed whose disks are overwritten.
func (o *reverseOptions) ask(ctx context.Context, c *cli, s *session, req control.ReverseRequest) error {
	x, err := s.ExplainReverse(ctx, req)
	if err != nil || x.Nothing != "" {
		return err // with nothing to do, the run itself says so
	}
	ok, err := c.asker.Type(ctx, fmt.Sprintf("reverse of %s, %s -> %s: the disks at %[3]s are kept as the point \"as found\", then overwritten with those of %[2]s.",
		x.Plan, x.From, x.To), x.To)
	if err != nil || !ok {
		return errorsOr(err, fault.Errorf(fault.Refused, "not started: the site's name was not typed"))
	}
	for _, m := range o.discard {
		ok, err := c.asker.Type(ctx, fmt.Sprintf("What only the disks of %s at %s have is counted, and then it is LOST: no point of it is kept.", m, x.To), m)
		if err != nil || !ok {
			return errorsOr(err, fault.Errorf(fault.Refused, "not started: the machine's name was not typed"))
		}
	}
	return nil
}
