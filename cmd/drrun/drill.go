package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/control"
	"github.com/drrun/drrun/runtime/report"
)

var drillCommand = &command{
	name: "drill", args: "list|add|remove|run|pause|resume [PLAN]", short: "scheduled tests of plans: when, what came of them, now",
	long: `A drill is a test failover that nobody attends: it starts by the calendar, answers its waits as the plan says, is
ended when its time to live is over, and is always cleaned up. A plan has one when it says drill = { … }, or by
drill add, which goes before what the plan says. Drills start by themselves while drrun serve runs.

list    the drills: when the next five start, and what became of the last ones (all of them with a PLAN)
add     schedules an applied plan: --cron or --on, and the fields of drill as flags
remove  ends what add began
run     starts a drill now and follows it
pause   nothing starts until resume; what is due meanwhile is skipped, and on record`,
	examples: "drrun drill list\ndrrun drill add erp --cron \"0 3 * * SUN\" --tz Europe/Paris\ndrrun drill run erp\ndrrun drill pause erp -m \"storage moves\"",
	exits:    runExits,
	make:     func() action { return &drillOptions{} },
}

type drillOptions struct {
	drill   plans.Drill
	message string
	detach  bool
	set     *pflag.FlagSet
}

func (o *drillOptions) flags(fs *pflag.FlagSet) {
	o.set = fs
	d := &o.drill
	fs.StringVar(&d.Cron, "cron", "", `add: when, as "0 3 * * SUN"`)
	fs.StringVar(&d.On, "on", "", `add: when, as "first sunday" or "last friday 22:30"`)
	fs.StringVar(&d.TZ, "tz", "", "add: time zone of the two (UTC)")
	fs.StringVar(&d.Point, "point", "", "add: selector of the recovery point (the plan's)")
	fs.DurationVar(&d.TTL, "ttl", 0, "add: a drill that still stands after this is ended (4h)")
	fs.StringVar(&d.Missed, "missed", "", "add: what was missed while no controller ran: skip or once (skip)")
	fs.StringVar(&d.Overlap, "overlap", "", "add: when the one before still runs: skip or queue (skip)")
	fs.DurationVar(&d.Deadline, "deadline", 0, "add: how late a missed or queued drill may begin")
	fs.DurationVar(&d.Jitter, "jitter", 0, "add: start up to this much later")
	fs.StringArrayVar(&d.Blackout, "blackout", nil, `add: days without drills, "2026-12-24", "2026-12-20 to 2027-01-05" or "first sunday"`)
	fs.StringVarP(&o.message, "message", "m", "", "pause: why")
	fs.BoolVar(&o.detach, "detach", false, "run: return when it has started (needs a controller)")
}

// flagsOf are the flags that belong to a word.
func flagsOf(word string) []string {
	switch word {
	case "add":
		return []string{"cron", "on", "tz", "point", "ttl", "missed", "overlap", "deadline", "jitter", "blackout"}
	case "run":
		return []string{"detach"}
	case "pause":
		return []string{"message"}
	}
	return nil
}

func (o *drillOptions) run(ctx context.Context, c *cli, args []string) error {
	words := []string{"list", "add", "remove", "run", "pause", "resume"}
	if len(args) == 0 || !slices.Contains(words, args[0]) {
		return usage("drrun drill: say one of %s", strings.Join(words, ", ")).WithHint("drrun help drill")
	}
	word, least := args[0], 2
	if word == "list" {
		least = 1
	}
	if err := c.wantArgs("drill", args, least, 2); err != nil {
		return err
	}
	if err := o.check(word); err != nil {
		return err
	}
	plan := strings.Join(args[1:], "")
	return c.with(ctx, need{drive: word == "run"}, func(s *session) error {
		r := control.DrillRequest{Plan: plan, By: c.User, Text: o.message}
		switch word {
		case "add":
			r.Drill = &o.drill
			return o.changed(ctx, c, s)(s.AddDrill(ctx, r))
		case "remove":
			if _, err := s.RemoveDrill(ctx, r); err != nil {
				return err
			}
			return c.printf("plan %s has no drill beside what it says itself\n", plan)
		case "pause", "resume":
			r.Resume = word == "resume"
			return o.changed(ctx, c, s)(s.PauseDrill(ctx, r))
		case "run":
			return o.now(ctx, c, s, r)
		}
		return o.list(ctx, c, s, plan)
	})
}

// check refuses what is said in vain, all of it at once.
func (o *drillOptions) check(word string) error {
	var vain, bad []string
	o.set.Visit(func(f *pflag.Flag) {
		if !slices.Contains(flagsOf(word), f.Name) && slices.Contains(slices.Concat(flagsOf("add"), flagsOf("run"), flagsOf("pause")), f.Name) {
			vain = append(vain, "--"+f.Name)
		}
	})
	if len(vain) > 0 {
		return usage("drill %s takes no %s", word, strings.Join(vain, ", "))
	}
	if word != "add" {
		return nil
	}
	d := &o.drill
	if (d.Cron == "") == (d.On == "") {
		bad = append(bad, "one of --cron and --on is needed, and only one")
	}
	if d.Missed != "" && d.Missed != "skip" && d.Missed != "once" {
		bad = append(bad, fmt.Sprintf("--missed %q is not skip or once", d.Missed))
	}
	if d.Overlap != "" && d.Overlap != "skip" && d.Overlap != "queue" {
		bad = append(bad, fmt.Sprintf("--overlap %q is not skip or queue", d.Overlap))
	}
	for name, v := range map[string]time.Duration{"ttl": d.TTL, "deadline": d.Deadline, "jitter": d.Jitter} {
		if v < 0 {
			bad = append(bad, fmt.Sprintf("--%s %s is less than nothing", name, v))
		}
	}
	slices.Sort(bad)
	if len(bad) > 0 {
		return usage("drill add: %s", strings.Join(bad, "; "))
	}
	return nil
}

// changed shows a drill that was changed.
func (o *drillOptions) changed(ctx context.Context, c *cli, s *session) func(report.Drill, error) error {
	return func(d report.Drill, err error) error {
		if err != nil {
			return err
		}
		if c.output == "json" {
			return c.printJSON(d)
		}
		noController(ctx, c, s)
		return c.printf("%s", drillText(&d, false))
	}
}

// noController says that drills do not start by themselves now.
func noController(ctx context.Context, c *cli, s *session) {
	if info, err := s.Info(ctx); err == nil && info.Embedded {
		c.errorf("no controller runs: drills start by themselves only while drrun serve does\n")
	}
}

func (o *drillOptions) now(ctx context.Context, c *cli, s *session, r control.DrillRequest) error {
	if o.detach && s.embedded() != nil {
		return usage("--detach needs a controller to go on with the run").WithHint("drrun serve")
	}
	run, err := s.RunDrill(ctx, r)
	if err != nil {
		return err
	}
	if o.detach {
		return c.printRunID(run)
	}
	return c.follow(ctx, s, run)
}

func (o *drillOptions) list(ctx context.Context, c *cli, s *session, plan string) error {
	all, err := s.Drills(ctx)
	if err != nil {
		return err
	}
	if plan != "" {
		all = slices.DeleteFunc(all, func(d report.Drill) bool { return d.Plan != plan })
		if len(all) == 0 {
			return usage("plan %s has no drill, or is not applied", plan).WithHint("drrun drill list")
		}
	}
	if c.output == "json" {
		return c.printJSON(control.DrillsResult{Drills: all})
	}
	noController(ctx, c, s)
	if plan != "" {
		return c.printf("%s", drillText(&all[0], true))
	}
	t := newTable("PLAN", "WHEN", "ZONE", "NEXT", "LAST", "RESULT")
	for i := range all {
		d := &all[i]
		last, result := "-", "-"
		if n := len(d.Events); n > 0 {
			last, result = stamp(d.Events[n-1].Due), d.Events[n-1].Result()
		}
		t.row(d.Plan, d.When, d.TZ, nextWord(d), last, result)
	}
	return c.printf("%s", t)
}

func nextWord(d *report.Drill) string {
	switch {
	case d.Broken != "":
		return "cannot be scheduled"
	case d.Paused != nil:
		return "paused by " + d.Paused.By
	case len(d.Next) == 0:
		return "never"
	}
	return stamp(d.Next[0])
}

// drillText shows one drill; whole: with what became of the last ones.
func drillText(d *report.Drill, whole bool) string {
	var b strings.Builder
	by := "the plan"
	if d.Added {
		by = "drill add"
	}
	fmt.Fprintf(&b, "drill of plan %s: %s (%s), said by %s; ended after %s\n", d.Plan, d.When, d.TZ, by, seconds(d.TTL))
	switch {
	case d.Broken != "":
		fmt.Fprintf(&b, "cannot be scheduled: %s\n", d.Broken)
	case d.Paused != nil:
		fmt.Fprintf(&b, "paused since %s by %s%s\n", stamp(d.Paused.At), d.Paused.By, because(d.Paused.Text))
	default:
		for _, at := range d.Next {
			fmt.Fprintf(&b, "next     %s\n", stamp(at))
		}
	}
	if p := d.Proven; p != nil {
		fmt.Fprintf(&b, "proven   %s\n", provenText(p))
		if whole {
			b.WriteString(trendText(p.Tests))
		}
	}
	if whole && len(d.Events) > 0 {
		t := newTable("DUE", "RESULT", "RUN", "WHY")
		for _, e := range d.Events {
			why := e.Why
			if why == "" {
				why = e.Reason
			}
			if e.Also > 0 {
				why += fmt.Sprintf(" (and %d before it)", e.Also)
			}
			t.row(stamp(e.Due), e.Result(), orDash(e.Run), orDash(why))
		}
		b.WriteString("\n" + t.String())
	}
	return b.String()
}

// trendText is how long the last tests took until every machine was ready.
func trendText(tests []report.TestTime) string {
	if len(tests) == 0 {
		return ""
	}
	longest := slices.MaxFunc(tests, func(a, b report.TestTime) int { return cmp.Compare(a.RTO, b.RTO) }).RTO
	t := newTable("TEST", "ENDED", "READY AFTER", "")
	for _, one := range tests {
		bar := ""
		if longest > 0 {
			bar = strings.Repeat("=", int(30*one.RTO/longest))
		}
		if !one.Passed {
			bar += " not passed"
		}
		t.row(one.Run, stamp(one.Ended), seconds(one.RTO), strings.TrimSpace(bar))
	}
	return "\n" + t.String()
}

func because(text string) string {
	if text == "" {
		return ""
	}
	return ": " + text
}
