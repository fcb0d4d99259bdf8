package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime/control"
	"github.com/drrun/drrun/runtime/report"
)

var runsCommand = &command{
	name: "runs", short: "all runs, the newest last",
	long:     `Lists the runs of this runtime, the newest last, with what each waits for.`,
	examples: "drrun runs\ndrrun runs -o json",
	exits:    askExits,
	make:     func() action { return noFlags{runsRun} },
}

// noFlags is a command without flags of its own.
type noFlags struct {
	do func(ctx context.Context, c *cli, args []string) error
}

func (noFlags) flags(*pflag.FlagSet) {}

func (n noFlags) run(ctx context.Context, c *cli, args []string) error { return n.do(ctx, c, args) }

func runsRun(ctx context.Context, c *cli, args []string) error {
	if err := c.wantArgs("runs", args, 0, 0); err != nil {
		return err
	}
	return c.with(ctx, need{}, func(s *session) error {
		runs, err := s.Runs(ctx)
		if err != nil {
			return err
		}
		if c.output == "json" {
			if runs == nil {
				runs = []report.Run{}
			}
			return c.printJSON(runs)
		}
		t := newTable("RUN", "KIND", "PLAN", "DIRECTION", "STATUS", "STARTED", "BY", "REMARK")
		for _, r := range runs {
			kind := firstOf(string(r.Type), r.Kind)
			t.row(r.ID, kind, r.Plan, r.From+" -> "+r.To, string(r.Status), stamp(r.Created), orDash(r.StartedBy), r.Reason)
		}
		return c.printf("%s", t.String())
	})
}

var showCommand = &command{
	name: "show", args: "RUN", short: "one run: machines, steps, errors, what is allowed now",
	long: `Shows a run in full: how it stands, its machines with their recovery points, every step, errors, notes and who
answered for what. RUN is its name as drrun runs lists it, or the beginning of it.`,
	examples: "drrun show erp-3f9a01\ndrrun show erp-3f9a01 -o json",
	exits:    askExits,
	make:     func() action { return noFlags{showRun} },
}

func showRun(ctx context.Context, c *cli, args []string) error {
	if err := c.wantArgs("show", args, 1, 1); err != nil {
		return err
	}
	return c.with(ctx, need{}, func(s *session) error {
		r, err := s.Run(ctx, args[0])
		if err != nil {
			return err
		}
		if c.output == "json" {
			return c.printJSON(r)
		}
		return c.printf("%s", runText(&r, true))
	})
}

var watchCommand = &command{
	name: "watch", args: "RUN", short: "follow a run live, from its begin, and answer its questions",
	long: `Shows what happened in a run and follows it until nothing more happens by itself: it ended, stopped, or
waits for a person (on a terminal the question is asked there). Ctrl-C ends the watching, not the run.
With -o json each event is one line. The exit status is that of the run.`,
	examples: "drrun watch erp-3f9a01\ndrrun watch erp-3f9a01 -o json",
	exits:    runExits,
	make:     func() action { return noFlags{watchRun} },
}

func watchRun(ctx context.Context, c *cli, args []string) error {
	if err := c.wantArgs("watch", args, 1, 1); err != nil {
		return err
	}
	return c.with(ctx, need{}, func(s *session) error {
		r, err := s.Run(ctx, args[0])
		if err != nil {
			return err
		}
		return c.follow(ctx, s, r)
	})
}

// operation is a command that asks something of one run and follows it.
type operation struct {
	name string
	// call does it; the run it returns is the one to follow.
	call func(ctx context.Context, s *session, r control.RunRequest) (report.Run, error)
	// mayDetach says that with a controller the command need not wait.
	mayDetach bool
	// ends says that the command ends something of the run for good: the run's
	// whole name must be given.
	ends bool
	// question is what a terminal is asked first, and the word to type.
	question func(r *report.Run) (text, word string)

	as           string
	sourceIsDown bool
	detach       bool
	yes          bool
}

func (o *operation) flags(fs *pflag.FlagSet) {
	if o.name == "resume" {
		fs.StringVar(&o.as, "as", "", "unplanned: go on with a planned run whose source has died")
		fs.BoolVar(&o.sourceIsDown, "source-is-down", false, "with --as unplanned: you answer for the source site being down or isolated; recorded")
	}
	if o.question != nil {
		fs.BoolVarP(&o.yes, "yes", "y", false, "do not ask for the site's name")
	}
	if o.mayDetach {
		fs.BoolVar(&o.detach, "detach", false, "return at once (needs a controller)")
	}
}

func (o *operation) run(ctx context.Context, c *cli, args []string) error {
	if err := c.wantArgs(o.name, args, 1, 1); err != nil {
		return err
	}
	if o.as != "" && o.as != "unplanned" {
		return usage("--as %q: only unplanned is possible", o.as)
	}
	return c.with(ctx, need{drive: true}, func(s *session) error {
		if o.detach && s.embedded() != nil {
			return usage("--detach needs a controller to go on with the run").WithHint("drrun serve")
		}
		if err := o.mayEnd(ctx, c, s, args[0]); err != nil {
			return err
		}
		begin := time.Now()
		r, err := o.call(ctx, s, control.RunRequest{Run: args[0], By: c.User, As: o.as, SourceIsDown: o.sourceIsDown})
		if err != nil {
			return err
		}
		if o.detach {
			return c.printRunID(r)
		}
		return c.followSince(ctx, s, r, begin)
	})
}

// mayEnd refuses a command that ends something of a run for good, unless the
// person named what that is.
func (o *operation) mayEnd(ctx context.Context, c *cli, s *session, name string) error {
	if !o.ends && o.as == "" && !o.sourceIsDown {
		return nil
	}
	r, err := c.named(ctx, s, name, o.name)
	if err != nil || o.question == nil || o.yes || !c.Asks {
		return err
	}
	if !slices.Contains(r.Allowed, o.name) {
		return report.NotAllowed(r.ID, r.Status, r.Allowed, o.name)
	}
	text, word := o.question(&r)
	ok, err := c.asker.Type(ctx, text, word)
	if err != nil || !ok {
		return errorsOr(err, fault.Errorf(fault.Refused, "not done: the site's name was not typed"))
	}
	return nil
}

var pauseCommand = &command{
	name: "pause", args: "RUN", short: "let the steps in flight end and start no others",
	long:     `Pauses a run: steps that are under way end, no others start. drrun resume RUN goes on.`,
	examples: "drrun pause erp-3f9a01",
	exits:    runExits,
	make: func() action {
		return &operation{name: "pause", call: func(ctx context.Context, s *session, r control.RunRequest) (report.Run, error) {
			return s.Pause(ctx, r)
		}}
	},
}

var resumeCommand = &command{
	name: "resume", args: "RUN", short: "go on with a stopped run from the step where it stands",
	long: `Goes on with a run that an error, a pause or the end of its runtime stopped, from the step where it stands.
What is recorded as done is not done again. A planned run whose source has died goes on with --as unplanned:
what is locked, drained or raised stays so; RUN is then the whole name.`,
	examples: "drrun resume erp-3f9a01\ndrrun resume erp-3f9a01 --as unplanned --source-is-down",
	exits:    runExits,
	make: func() action {
		return &operation{name: "resume", mayDetach: true, call: func(ctx context.Context, s *session, r control.RunRequest) (report.Run, error) {
			return s.Resume(ctx, r)
		}}
	},
}

var cancelCommand = &command{
	name: "cancel", args: "RUN", short: "end a run; every machine is left in a state of its own",
	long: `Ends a run. What was not failed over yet is given back: locks are taken off and machines that the run
stopped are started again where they were. What was failed over and does not run yet is started at the
new site, without the plan's steps; it stays uncommitted. A test is cleaned up. RUN is the whole name.`,
	examples: "drrun cancel erp-3f9a01",
	exits:    runExits,
	make: func() action {
		return &operation{name: "cancel", mayDetach: true, ends: true, call: func(ctx context.Context, s *session, r control.RunRequest) (report.Run, error) {
			return s.Cancel(ctx, r)
		}}
	},
}

var commitCommand = &command{
	name: "commit", args: "RUN", short: "make a failover final",
	long: `Makes a failover final: the machines keep the disks they run on, and the old site applies what is sent back.
After an unplanned failover drrun reverse replicates to the old site again. From then on there is no rollback
and no change of the recovery point.

RUN is the whole name. On a terminal the name of the old site is asked for; --yes does not ask.`,
	examples: "drrun commit erp-3f9a01\ndrrun commit erp-3f9a01 --yes",
	exits:    runExits,
	make: func() action {
		return &operation{name: "commit", mayDetach: true, ends: true, question: commitQuestion, call: func(ctx context.Context, s *session, r control.RunRequest) (report.Run, error) {
			return s.Commit(ctx, r)
		}}
	},
}

// commitQuestion says what a commit ends. The old site's name is typed: it is
// what cannot be gone back to.
func commitQuestion(r *report.Run) (text, word string) {
	what := fmt.Sprintf("the disks at %s, as they were left, are overwritten with what %s sends back", r.From, r.To)
	if r.Type == recovery.Unplanned {
		what = "no other recovery point can be chosen"
	}
	return fmt.Sprintf("commit of run %s: the failover to %s is final. There is no rollback to %s from then on, and %s.", r.ID, r.To, r.From, what), r.From
}

var cleanupCommand = &command{
	name: "cleanup", args: "RUN", short: "end a test: stop its machines, drop its copies",
	long: `Ends a test failover: its machines are stopped and their throw-away disks dropped. Production does not notice.
RUN is the whole name.`,
	examples: "drrun cleanup erp-3f9a01",
	exits:    runExits,
	make: func() action {
		return &operation{name: "cleanup", mayDetach: true, ends: true, call: func(ctx context.Context, s *session, r control.RunRequest) (report.Run, error) {
			return s.Cleanup(ctx, r)
		}}
	},
}
