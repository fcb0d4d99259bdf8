package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/runtime/control"
	"github.com/drrun/drrun/runtime/report"
)

var rollbackCommand = &command{
	name: "rollback", args: "RUN", short: "take an uncommitted failover back: the machines run at the old site again",
	long: `Takes a failover back that is not committed. The machines are stopped at the new site, and what they wrote
there is kept as a recovery point labelled "rolled back". The old site gets its authority back, and the machines
start there from the disks they left, which nothing has changed. Nothing is copied. To keep what the new site
wrote, commit and fail back instead.

Says first how much that is and since when, and asks for the name of the new site; --yes does not ask, and is
needed without a terminal.`,
	examples: "drrun rollback erp-3f9a01\ndrrun rollback erp-3f9a01 --yes",
	exits:    runExits,
	make:     func() action { return &turnOptions{turn: turnRollback} },
}

var changePointCommand = &command{
	name: "change-point", args: "RUN --point SEL", short: "put an uncommitted unplanned failover on another recovery point",
	long: `Puts the machines of an unplanned failover that is not committed on another recovery point. They are stopped,
what they wrote is kept as a recovery point labelled "point changed", and they start again from the other point, in
the order of their groups; the plan's own steps are not run again.

Says first how much was written and since when, and asks for the name of the site; --yes does not ask, and is
needed without a terminal.`,
	examples: "drrun change-point erp-3f9a01 --point 2026-11-24T03:00:00Z\ndrrun change-point erp-3f9a01 --point latest --yes",
	exits:    runExits,
	make:     func() action { return &turnOptions{turn: turnPoint} },
}

// turn is what a command does to an uncommitted failover that gives up what
// the machines wrote since.
type turn int

const (
	turnRollback turn = iota
	turnPoint
)

type turnOptions struct {
	turn        turn
	point       string
	yes, detach bool
}

func (o *turnOptions) flags(fs *pflag.FlagSet) {
	if o.turn == turnPoint {
		fs.StringVar(&o.point, "point", "", "recovery point to change to: a time, an id, a label, latest-processed, latest-app")
	}
	fs.BoolVarP(&o.yes, "yes", "y", false, "do not ask for the site's name")
	fs.BoolVar(&o.detach, "detach", false, "return at once (needs a controller)")
}

func (o *turnOptions) name() string {
	if o.turn == turnPoint {
		return report.OpChangePoint
	}
	return report.OpRollback
}

func (o *turnOptions) run(ctx context.Context, c *cli, args []string) error {
	if err := c.wantArgs(o.name(), args, 1, 1); err != nil {
		return err
	}
	if o.turn == turnPoint && o.point == "" {
		return usage("change-point needs --point: the recovery point to change to").WithHint("list them with: drrun points MACHINE")
	}
	if !o.yes && !c.Asks {
		return usage("%s stops the machines and gives up what they wrote since: without a terminal it needs --yes", o.name())
	}
	return c.with(ctx, need{drive: true}, func(s *session) error {
		if o.detach && s.embedded() != nil {
			return usage("--detach needs a controller to go on with the run").WithHint("drrun serve")
		}
		r, err := c.named(ctx, s, args[0], o.name())
		if err != nil {
			return err
		}
		req := control.RunRequest{Run: r.ID, By: c.User, Point: o.point}
		if !slices.Contains(r.Allowed, o.name()) {
			return report.NotAllowed(r.ID, r.Status, r.Allowed, o.name())
		}
		if !o.yes {
			if err := o.ask(ctx, c, s, r, req); err != nil {
				return err
			}
		}
		begin := time.Now()
		if o.turn == turnPoint {
			r, err = s.ChangePoint(ctx, req)
		} else {
			r, err = s.Rollback(ctx, req)
		}
		if err != nil {
			return err
		}
		if o.detach {
			return c.printRunID(r)
		}
		return c.followSince(ctx, s, r, begin)
	})
}

// named returns the run that a command which cannot be taken back names. Its
// whole name must be typed; a beginning that fits may be another run's.
func (c *cli) named(ctx context.Context, s *session, name, op string) (report.Run, error) {
	r, err := s.Run(ctx, name)
	if err != nil {
		return r, err
	}
	if r.ID != name {
		return r, usage("%s needs the whole name of the run: %q begins %s", op, name, r.ID).WithHint("drrun show %s, then: drrun %s %[1]s", r.ID, op)
	}
	return r, nil
}

// ask says what is given up and lets the site's name be typed.
func (o *turnOptions) ask(ctx context.Context, c *cli, s *session, r report.Run, req control.RunRequest) error {
	w, err := s.Written(ctx, req)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("rollback of run %s: the machines go back to %s", r.ID, r.From)
	if o.turn == turnPoint {
		what = fmt.Sprintf("change of the recovery point of run %s to %s", r.ID, o.point)
	}
	ok, err := c.asker.Type(ctx, what+writtenText(w.Machines, r.To, time.Now()), r.To)
	if err != nil || !ok {
		return errorsOr(err, fault.Errorf(fault.Refused, "not started: the site's name was not typed"))
	}
	return nil
}

// writtenText says how much the new site has written, and what becomes of it.
func writtenText(machines []report.Written, site string, now time.Time) string {
	var b strings.Builder
	for _, w := range machines {
		switch {
		case w.Error != nil:
			fmt.Fprintf(&b, "\n  %s: nobody knows what it has written at %s (%s)", w.Machine, site, w.Error.Message)
		case w.Since.IsZero():
			fmt.Fprintf(&b, "\n  %s has written nothing at %s", w.Machine, site)
		default:
			fmt.Fprintf(&b, "\n  %s has written %s (%d blocks) at %s in %s", w.Machine, quantity.FormatSize(w.Bytes), w.Blocks, site,
				quantity.FormatDuration(now.Sub(w.Since).Round(time.Second)))
		}
	}
	b.WriteString("\nThe machines are stopped there. What they wrote is kept as a recovery point, and is not in the disks they start from.")
	return b.String()
}
