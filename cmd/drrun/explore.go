package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/cmd/internal/plantest"
	"github.com/drrun/drrun/cmd/internal/term"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/quantity"
)

var exploreCommand = &command{
	name: "explore", args: "PLAN", short: "try every single fault of a plan in a simulated world",
	long: `Runs a plan in the simulated world: planned with commit, with failback and with rollback, unplanned, and as a drill;
without faults, then with every single one: each step fails, its answer is lost, it does not end, its host falls
silent, its machine never answers, nobody answers a wait, and the runtime dies before and after each journal record.
Steps that only a failback has, or an unplanned run whose source answers, are tried in those.
In every run nothing may be lost or done twice, nothing may start before what it needs, and a success must be one;
and what the plan's world file (NAME_world.lua) states. Runs that end badly are told with the shortest of them.

Words of --table: ok, the run went well in spite of the fault; asked, a person had to answer; resumed, it stopped
and a resume brought it to its end; partial, it went to its end with errors; BAD, the fault broke something, see the
findings (what is broken without a fault does not count here); -, the fault does not go with the step.`,
	examples: "drrun explore erp.lua\ndrrun explore erp.lua --faults 2 --pairs 500 --seed 7\ndrrun explore erp.lua --table -o json",
	exits:    []int{fault.ExitFailed},
	make:     func() action { return &exploreOptions{} },
}

type exploreOptions struct {
	req   plantest.Request
	set   []string
	table bool
}

func (o *exploreOptions) flags(fs *pflag.FlagSet) {
	fs.IntVar(&o.req.Faults, "faults", 1, "faults at the same time: 0 none, 1 every single one, 2 some pairs, too")
	fs.IntVar(&o.req.Pairs, "pairs", 200, "how many pairs --faults 2 draws")
	fs.Uint64Var(&o.req.Seed, "seed", 1, "of the draw")
	fs.StringVar(&o.req.Estate, "estate", "", "estate file (default: the applied estate, else estate.lua beside the plan)")
	fs.StringArrayVar(&o.set, "set", nil, "KEY=VALUE: a parameter of the plan; may be given again")
	fs.BoolVar(&o.table, "table", false, "show what became of the run for each step and fault")
}

func (o *exploreOptions) run(ctx context.Context, c *cli, args []string) error {
	if err := c.wantArgs("explore", args, 1, 1); err != nil {
		return err
	}
	if o.req.Faults < 0 || o.req.Faults > 2 || o.req.Pairs < 0 {
		return usage("--faults is 0, 1 or 2, and --pairs is not negative")
	}
	if o.req.Faults < 2 {
		o.req.Pairs = 0
	}
	var err error
	if o.req.Set, err = keysAndValues(o.set); err != nil {
		return err
	}
	o.req.Plan = args[0]
	if raw, err := readSource(args[0]); err == nil { // that it is not there is said below
		if err := noPlan(args[0], string(raw)); err != nil {
			return err
		}
	}
	if o.req.Estate == "" {
		if o.req.In, _, err = c.estateFor(ctx, "explored in", args[0]); err != nil {
			return err
		}
	}
	if _, err := o.req.Load(loader()); err != nil {
		return err
	}
	r, err := plantest.RunExplore(ctx, o.req)
	if err != nil {
		return err
	}
	if c.output == "json" {
		err = c.printJSON(r)
	} else {
		err = o.tell(c, r)
	}
	if err == nil && len(r.Findings) > 0 {
		return exitError{fault.ExitFailed}
	}
	return err
}

// article puts a or an before a word.
func article(word string) string {
	if strings.ContainsAny(word[:min(1, len(word))], "aeiou") {
		return "an " + word
	}
	return "a " + word
}

// traceLines is how much of a trace is shown.
const traceLines = 12

func (o *exploreOptions) tell(c *cli, r *plantest.Report) error {
	var b strings.Builder
	for _, f := range r.Findings {
		at := r.Plan
		if f.Pos != nil {
			at = fmt.Sprintf("%s:%d", f.Pos.File, f.Pos.Line)
		}
		fmt.Fprintf(&b, "%s: %s\n", c.Stdout.Paint(term.Red, at), term.Escape(f.Text, true))
		when := "without any fault"
		if len(f.Faults) > 0 {
			when = "when " + strings.Join(f.Faults, ", and ")
		}
		fmt.Fprintf(&b, "    in %s run, %s (%d of the runs)\n", article(f.Scenario), term.Escape(when, false), f.Runs)
		if f.Hint != "" {
			fmt.Fprintf(&b, "    %s %s\n", c.Stdout.Paint(term.Cyan, "hint:"), term.Escape(f.Hint, false))
		}
		if left := len(f.Trace) - traceLines; left > 0 {
			fmt.Fprintf(&b, "      … %d lines before (-o json has them)\n", left)
			f.Trace = f.Trace[left:]
		}
		for _, line := range f.Trace {
			fmt.Fprintf(&b, "    %s\n", term.Escape(line, false))
		}
	}
	if o.table {
		b.WriteString(outcomeTable(r.Table))
	}
	word := "none ends badly"
	if n := len(r.Findings); n > 0 {
		word = c.Stdout.Paint(term.Red, quantity.Count(n, "finding"))
	}
	return c.printf("%s%s: %s in %.1f s, %s\n", b.String(), r.Plan, quantity.Count(r.Runs, "run"), r.Seconds, word)
}

// outcomeTable shows steps against faults.
func outcomeTable(rows []plantest.Row) string {
	columns := plantest.Columns(rows)
	t := newTable()
	scenario := ""
	for _, r := range rows {
		if r.Scenario != scenario {
			scenario = r.Scenario
			t.row(append([]string{strings.ToUpper(scenario)}, columns...)...)
		}
		cells := []string{r.Step}
		for _, col := range columns {
			cell := r.Outcomes[col]
			if cell == "" {
				cell = "-"
			}
			cells = append(cells, cell)
		}
		t.row(cells...)
	}
	return t.String()
}
