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
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime/control"
	"github.com/drrun/drrun/runtime/estate"
	"github.com/drrun/drrun/runtime/report"
)

// planCommand is what a line without a command's name does: it runs a plan.
var planCommand = &command{
	name: "PLAN", args: "--planned|--unplanned|--test", short: "run a recovery plan",
	long: `Runs a recovery plan: a .lua file, or the name of an applied plan. A real run goes from the plan's "from" to
its "to", or back with --failback; run again where the machines are already it says "nothing to do".

--planned    every machine is stopped and drained first: nothing acknowledged is lost
--unplanned  the source site is lost or given up: goes on to its end and lists errors
--test       throw-away copies on the isolated network; production and replication are not touched

A real failover asks on a terminal for the name of the site it goes to; --yes does not ask, and is needed
without a terminal. Manual waits are asked on the terminal, or answered elsewhere with drrun answer.
Ctrl-C detaches from a controller; without one it pauses after the steps in flight.`,
	examples: `drrun erp.lua --planned --dry-run
drrun erp.lua --test
drrun erp --planned --commit
drrun erp --planned --failback
drrun erp --unplanned --point "2026-11-24T03:00:00Z" --source-is-down`,
	exits: runExits,
	make:  func() action { return &planOptions{} },
}

// failoverFlags are those of every command that starts a failover.
type failoverFlags struct {
	planned, unplanned, test         bool
	failback, commit, dryRun, detach bool
	noShutdown, sourceIsDown, force  bool
	yes, noProof                     bool
	point                            string
	ttl                              time.Duration
	set                              []string
}

func (o *failoverFlags) flags(fs *pflag.FlagSet) {
	fs.BoolVar(&o.planned, "planned", false, "planned failover: stop and drain the source first")
	fs.BoolVar(&o.unplanned, "unplanned", false, "unplanned failover: the source site is lost")
	fs.BoolVar(&o.test, "test", false, "test failover, at the site that is not active")
	fs.BoolVar(&o.failback, "failback", false, "run the plan in the other direction")
	fs.StringVar(&o.point, "point", "", "recovery point: latest, latest-processed, latest-app, a time, an id, a label (default the plan's)")
	fs.StringArrayVar(&o.set, "set", nil, "KEY=VALUE: a parameter of the plan; may be given again")
	fs.BoolVar(&o.commit, "commit", false, "commit at the end, if the run reached its aim")
	fs.BoolVar(&o.dryRun, "dry-run", false, "what preflight says now, and the steps in order; start nothing")
	fs.BoolVar(&o.noShutdown, "no-shutdown", false, "unplanned: do not try to stop the source machines")
	fs.BoolVar(&o.sourceIsDown, "source-is-down", false, "unplanned: you answer for the source site being down or isolated; recorded")
	fs.BoolVar(&o.force, "force", false, "override what preflight lists as overridable")
	fs.DurationVar(&o.ttl, "ttl", 0, "test: how long it may stand (2h); then it is cleaned up, by the agents themselves if need be")
	fs.BoolVar(&o.noProof, "no-proof", false, "planned: do not read both disks whole and compare them; recorded as not proved")
	fs.BoolVarP(&o.yes, "yes", "y", false, "do not ask for the target site's name")
	fs.BoolVar(&o.detach, "detach", false, "return when the run has started (needs a controller)")
}

// failoverType is the one type that was asked for.
func (o *failoverFlags) failoverType() (recovery.Type, error) {
	var types []recovery.Type
	for t, asked := range map[recovery.Type]bool{recovery.Planned: o.planned, recovery.Unplanned: o.unplanned, recovery.Test: o.test} {
		if asked {
			types = append(types, t)
		}
	}
	switch len(types) {
	case 1:
		return types[0], nil
	case 0:
		return "", usage("say which failover: --planned, --unplanned or --test").WithHint("drrun help PLAN")
	}
	return "", usage("--planned, --unplanned and --test exclude each other")
}

// request makes the request but for what it is a run of.
func (o *failoverFlags) request(c *cli) (control.StartRequest, error) {
	t, err := o.failoverType()
	if err != nil {
		return control.StartRequest{}, err
	}
	r := control.StartRequest{Type: t, Failback: o.failback, Point: o.point, Commit: o.commit, NoShutdown: o.noShutdown,
		SourceIsDown: o.sourceIsDown, Force: o.force, NoProof: o.noProof, TTL: o.ttl, By: c.User}
	r.Set, err = keysAndValues(o.set)
	return r, err
}

// keysAndValues reads what --set was given.
func keysAndValues(list []string) (map[string]string, error) {
	set := map[string]string{}
	for _, kv := range list {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return nil, usage("--set %q is not KEY=VALUE", kv)
		}
		set[k] = v
	}
	return set, nil
}

type planOptions struct{ failoverFlags }

func (o *planOptions) run(ctx context.Context, c *cli, args []string) error {
	if err := c.wantArgs("PLAN", args, 1, 1); err != nil {
		return err
	}
	r, err := o.request(c)
	if err != nil {
		return err
	}
	if isFile(args[0]) {
		b, err := readBundle(args[0])
		if err != nil {
			return err
		}
		if err := checkBundle(b, r.Set); err != nil {
			return err
		}
		pb := portable(b)
		r.Bundle = &pb
	} else {
		r.Plan = args[0]
	}
	err = o.start(ctx, c, r)
	if o.dryRun {
		return offlineHint(err, strings.TrimSuffix(args[0], ".lua")+".lua", r)
	}
	return err
}

func isFile(arg string) bool {
	return strings.HasSuffix(arg, ".lua") || strings.ContainsRune(arg, '/')
}

var failoverCommand = &command{
	name: "failover", args: "MACHINE…", short: "the same for single machines, as a plan of one group",
	long: `Fails machines over without a plan of their own: as a plan of one group, all at once. The flags are
those of a plan (drrun help PLAN). The machines must have the same home and target site.`,
	examples: "drrun failover db1 --test\ndrrun failover db1 app1 --planned",
	exits:    runExits,
	make:     func() action { return &failoverOptions{} },
}

type failoverOptions struct{ failoverFlags }

func (o *failoverOptions) run(ctx context.Context, c *cli, args []string) error {
	if err := c.wantArgs("failover", args, 1, -1); err != nil {
		return err
	}
	r, err := o.request(c)
	if err != nil {
		return err
	}
	r.Machines = args
	return o.start(ctx, c, r)
}

// start asks, starts the run and follows it.
func (o *failoverFlags) start(ctx context.Context, c *cli, r control.StartRequest) error {
	if !o.dryRun && r.Type != recovery.Test && !o.yes && !c.Asks {
		return usage("a real failover asks for the target site's name: without a terminal it needs --yes")
	}
	return c.with(ctx, need{drive: !o.dryRun}, func(s *session) error {
		if o.detach && s.embedded() != nil {
			return usage("--detach needs a controller to go on with the run").WithHint("drrun serve")
		}
		if o.dryRun || r.Type != recovery.Test && !o.yes {
			r.DryRun = o.dryRun
			ex, err := s.Explain(ctx, r)
			if err != nil {
				return err
			}
			if o.dryRun {
				return c.dryRun(ex)
			}
			if ok, err := c.confirmSite(ctx, ex); err != nil || !ok {
				return errorsOr(err, fault.Errorf(fault.Refused, "not started: the site's name was not typed"))
			}
			if err := c.askSourceIsDown(ctx, s, &r, ex); err != nil {
				return err
			}
		}
		run, err := s.Start(ctx, r)
		if err != nil {
			return err
		}
		if o.detach {
			c.errorf("run %s goes on in the controller: drrun watch %s\n", run.ID, run.ID)
			return c.printRunID(run)
		}
		return c.follow(ctx, s, run)
	})
}

// dryRun prints what would happen; it ends as the run would that preflight
// refuses.
func (c *cli) dryRun(ex report.Explain) error {
	if err := c.printExplain(ex); err != nil || ex.Refused == nil {
		return err
	}
	return ex.Refused
}

// confirmSite asks for the name of the site that machines go to.
func (c *cli) confirmSite(ctx context.Context, ex report.Explain) (bool, error) {
	if ex.Nothing != "" {
		return true, nil // the run itself says so
	}
	what := string(ex.Type) + " failover"
	if ex.Direction == "failback" {
		what = string(ex.Type) + " failback"
	}
	return c.asker.Type(ctx, fmt.Sprintf("%s of %s, %s -> %s: %s", what, ex.Plan, ex.From, ex.To, quantity.Count(len(ex.Steps), "step")), ex.To)
}

// askSourceIsDown asks, when hosts of the source site do not answer an unplanned
// failover, for the statement that --source-is-down makes. Without it the run
// itself refuses or asks where it has to.
func (c *cli) askSourceIsDown(ctx context.Context, s *session, r *control.StartRequest, ex report.Explain) error {
	if r.Type != recovery.Unplanned || r.SourceIsDown || ex.Nothing != "" {
		return nil
	}
	st, err := s.Status(ctx, "")
	if err != nil {
		return err
	}
	var silent []string
	for _, h := range st.Hosts {
		if h.Site == ex.From && !h.Reachable {
			silent = append(silent, h.Host)
		}
	}
	if len(silent) == 0 || allLeased(&st, &ex, silent) {
		return nil
	}
	r.SourceIsDown, err = c.asker.Type(ctx, fmt.Sprintf("%s of site %s does not answer. If you know that the site is down or isolated, state it:\n"+
		"its machines must not run there any more; that you said so is recorded.", strings.Join(silent, ", "), ex.From), ex.From)
	return err
}

// allLeased reports whether every machine of the run that lives on a silent host
// has a lease that the run waits out: then nobody is asked.
func allLeased(st *estate.Status, ex *report.Explain, silent []string) bool {
	in := map[string]bool{}
	for i := range ex.Steps {
		in[ex.Steps[i].Machine] = true
	}
	for i := range st.Machines {
		m := &st.Machines[i]
		lives := slices.ContainsFunc(m.Hosts, func(h estate.MachineHost) bool { return h.Site == ex.From && slices.Contains(silent, h.Host) })
		if in[m.Machine] && lives && (m.Lease == nil || m.Lease.Length == 0) {
			return false
		}
	}
	return true
}

func (c *cli) printRunID(run report.Run) error {
	if c.output == "json" {
		return c.printJSON(run)
	}
	return c.printf("%s\n", run.ID)
}
