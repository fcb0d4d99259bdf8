package main

import (
	"context"
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/agent"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/internal/quantity"
)

var statusCommand = subcommand{
	name: "status", args: "[MACHINE]",
	short: "show what the agent of this host knows",
	long: `Asks the agent that runs on this host. It shows this host's side only; drrun
status shows all hosts.`,
	examples: "drrun-agent status\ndrrun-agent status erp -o json",
	exits:    []int{fault.ExitRefused, fault.ExitUnreachable},
	make:     func() action { return &statusAction{} },
}

type statusAction struct{ output string }

func (a *statusAction) flags(fs *pflag.FlagSet) {
	fs.StringVarP(&a.output, "output", "o", "table", "table or json")
}

func (a *statusAction) run(ctx context.Context, c *cli, args []string) error {
	if len(args) > 1 {
		return wrongArgs(statusCommand)
	}
	if a.output != "table" && a.output != "json" {
		return usage("output %q is not known (table, json)", a.output)
	}
	name := ""
	if len(args) == 1 {
		name = args[0]
	}
	dir, err := c.stateFolder(c.state)
	if err != nil {
		return err
	}
	st, err := agent.NewLocal(dir).Status(ctx, name)
	if err != nil {
		return err
	}
	if name != "" && len(st.Machines) == 0 {
		return fault.Errorf(fault.NotFound, "machine %q is not assigned to host %s", name, st.Host)
	}
	if a.output == "json" {
		b, err := json.Marshal(st)
		if err != nil {
			return err
		}
		return c.printf("%s\n", b)
	}
	return c.statusTable(st)
}

func (c *cli) statusTable(st command.AgentStatus) error {
	host := st.Host
	if host == "" {
		host = "(not joined)"
	}
	if err := c.printf("host %s, site %s, estate %s, version %s\n", logkit.Clean(host), logkit.Clean(st.Site), logkit.Clean(st.Estate), st.Version); err != nil {
		return err
	}
	if st.Store != "" {
		if err := c.printf("store %s, %s free\n", logkit.Clean(st.Store), quantity.FormatSize(st.Free)); err != nil {
			return err
		}
	}
	if len(st.Machines) == 0 {
		return c.printf("no machines are assigned\n")
	}
	w := tabwriter.NewWriter(c.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MACHINE\tROLE\tSTATE\tPOWER\tEPOCH\tPOINTS\tNEWEST\tREASON")
	for i := range st.Machines {
		m := &st.Machines[i]
		newest := "-"
		if m.Tip != nil {
			newest = quantity.FormatDuration(m.TipAge) + " old"
		}
		power := string(m.Power)
		if m.Locked {
			power += ", locked"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\n", m.Machine, m.Role, m.State, power, m.Authority.Epoch, m.Points, newest, logkit.Clean(m.Reason))
	}
	for i := range st.Machines {
		for _, n := range st.Machines[i].Notes {
			fmt.Fprintf(w, "note: %s: %s\n", st.Machines[i].Machine, logkit.Clean(n))
		}
	}
	if err := w.Flush(); err != nil {
		return fault.Errorf(fault.Failed, "cannot write the result: %w", err)
	}
	return nil
}
