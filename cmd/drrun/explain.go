package main

import (
	"context"
	"errors"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/cmd/internal/term"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/control"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/program/drawing"
	"github.com/drrun/drrun/runtime/report"
)

var explainCommand = &command{
	name: "explain", args: "PLAN --planned|--unplanned|--test", short: "a run as text: its steps in order, who is touched",
	long: `Lists the steps of a run in the order they begin, parallel ones indented, without starting anything. With
an applied estate the machines' agents are asked where they are active; with --estate, or estate.lua
beside a plan that is not applied anywhere, every machine counts as being at home.
Where runs of the plan are on record, it says how long each step is expected to take and where that is
known from, when all machines are ready, and which steps (*) the end waits for.`,
	examples: "drrun explain erp.lua --planned\ndrrun explain erp --unplanned --failback\ndrrun explain erp.lua --test --estate estate.lua\ndrrun explain erp --planned --svg erp.svg",
	exits:    askExits,
	make:     func() action { return &explainOptions{} },
}

type explainOptions struct {
	failoverFlags
	estate, svg string
}

func (o *explainOptions) flags(fs *pflag.FlagSet) {
	fs.BoolVar(&o.planned, "planned", false, "planned failover")
	fs.BoolVar(&o.unplanned, "unplanned", false, "unplanned failover")
	fs.BoolVar(&o.test, "test", false, "test failover")
	fs.BoolVar(&o.failback, "failback", false, "the plan in the other direction")
	fs.BoolVar(&o.noShutdown, "no-shutdown", false, "unplanned: leave the source machines alone")
	fs.StringArrayVar(&o.set, "set", nil, "KEY=VALUE: a parameter of the plan; may be given again")
	fs.StringVar(&o.estate, "estate", "", "estate file; nothing and nobody else is asked")
	fs.StringVar(&o.svg, "svg", "", "write a drawing of the run to this file; - is stdout, without the text")
}

func (o *explainOptions) run(ctx context.Context, c *cli, args []string) error {
	if err := c.wantArgs("explain", args, 1, 1); err != nil {
		return err
	}
	r, err := o.request(c)
	if err != nil {
		return err
	}
	r.Drawing = o.svg != ""
	if !isFile(args[0]) {
		r.Plan = args[0]
		return offlineHint(c.with(ctx, need{}, func(s *session) error { return o.explain(ctx, c, s, r) }), args[0]+".lua", r)
	}
	b, err := readBundle(args[0])
	if err != nil {
		return err
	}
	if err := checkBundle(b, r.Set); err != nil {
		return err
	}
	if o.estate == "" {
		pb := portable(b)
		r.Bundle = &pb
		err := c.with(ctx, need{}, func(s *session) error {
			if e, err := s.Estate(ctx); err == nil {
				c.tellApplied("explained with", e.Revision, args[0])
			}
			return o.explain(ctx, c, s, r)
		})
		if !noEstate(err) {
			return err
		}
	}
	return o.offline(ctx, c, b, r, args[0])
}

// noEstate reports whether there is no state, or one without an estate.
func noEstate(err error) bool {
	return fault.Is(err, fault.Refused) && strings.HasPrefix(err.Error(), "no estate is applied")
}

// offlineHint says what shows the steps of a plan where nothing is applied.
func offlineHint(err error, file string, r control.StartRequest) error {
	var fe *fault.Error
	if !noEstate(err) || !errors.As(err, &fe) {
		return err
	}
	return fe.WithHint("%s; the steps alone, from files: drrun explain %s --%s --estate FILE", fe.Hint, shellWord(file), r.Type)
}

func (o *explainOptions) explain(ctx context.Context, c *cli, s *session, r control.StartRequest) error {
	ex, err := s.Explain(ctx, r)
	if err != nil {
		return err
	}
	return o.show(c, ex)
}

// show prints an explained run, and writes its drawing where it was asked for.
func (o *explainOptions) show(c *cli, ex report.Explain) error {
	if o.svg == "-" {
		return c.printf("%s", ex.Drawing)
	}
	if o.svg != "" {
		name, err := filepath.Abs(o.svg)
		if err == nil {
			err = vfs.WriteFile(vfs.OS{}, name, []byte(ex.Drawing), 0o644)
		}
		if err != nil {
			return fault.Errorf(fault.Failed, "cannot write the drawing: %w", err)
		}
	}
	return c.printExplain(ex)
}

func (c *cli) printExplain(ex report.Explain) error {
	if c.output == "json" {
		return c.printJSON(ex)
	}
	return c.printf("%s", term.Escape(ex.Text, true))
}

// offline explains a plan from files alone, every machine at home.
func (o *explainOptions) offline(ctx context.Context, c *cli, b plans.Bundle, r control.StartRequest, file string) error {
	p, err := loader().LoadPlan(b, r.Set)
	if err != nil {
		return err
	}
	var e *plans.Estate
	if o.estate != "" {
		eb, err := readBundle(o.estate)
		if err != nil {
			return err
		}
		if e, err = loader().LoadEstate(eb); err != nil {
			return err
		}
	} else if e, _, err = c.estateFor(ctx, "explained with", file); err != nil {
		return err
	}
	if e == nil {
		return usage("there is no estate to explain %s with", file).WithHint("drrun explain %s --estate FILE", file)
	}
	if err := withSource(plans.Check(p, e), b); err != nil {
		return err
	}
	prog, err := program.Compile(p, e, program.Request{Type: r.Type, Failback: r.Failback, NoShutdown: r.NoShutdown}, atHome(e, r.Failback))
	if err != nil {
		return err
	}
	ex := prog.Explain(nil)
	if r.Drawing {
		ex.Drawing = drawing.SVG(prog, nil)
	}
	return o.show(c, ex)
}

// atHome are the facts of an estate in which every machine is where it should
// be before the run.
func atHome(e *plans.Estate, failback bool) map[string]program.Fact {
	facts := map[string]program.Fact{}
	for _, m := range e.Machines {
		var f program.Fact
		home, _ := e.HomeSite(m.Name)
		f.Active = home
		add := func(name string) {
			if h, ok := e.Host(name); ok {
				site, _ := e.HostSite(name)
				f.Hosts = append(f.Hosts, recovery.Host{Name: name, Site: site, Addr: h.AddrPort(), Store: h.Store})
			}
		}
		add(m.Host)
		if t, ok := e.Target(m.Name); ok {
			add(t.Name)
			if site, _ := e.HostSite(t.Name); failback {
				f.Active = site
			}
		}
		facts[m.Name] = f
	}
	return facts
}
