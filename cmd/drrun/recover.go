package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/cmd/internal/compose"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/runtime/copies"
)

var recoverCommand = &command{
	name: "recover", args: "[HOST=ADDRESS…]", short: "take estate, plans and runs back from the agents when the state is lost or old",
	long: `The agents of both sites keep copies of what the runtime knows; one of them is enough. In a state folder
that is older than those (a restored backup, a copy) it takes what is newer: estate, plans, runs, the fencing
number. In an empty one it first makes a new certificate authority and prints, for each HOST that is named,
a token for "drrun-agent join --again TOKEN" on that host; once one has joined, the same command without
arguments goes on. It shows what was found where and what was taken, keeps a copy of the state as it was,
and may be run again. Machines, points and who may run what are at the agents and stay as they are.`,
	examples: "drrun recover --dry-run\ndrrun recover\ndrrun recover --estate acme lyo-1=10.20.0.5:7830",
	exits:    []int{fault.ExitRefused, fault.ExitWaiting, fault.ExitUnreachable, fault.ExitCorrupt},
	logs:     "warn",
	make:     func() action { return &recoverOptions{} },
}

type recoverOptions struct {
	estate         string
	dryRun, tokens bool
}

func (o *recoverOptions) flags(fs *pflag.FlagSet) {
	fs.StringVar(&o.estate, "estate", "", "name of the estate, where the state folder does not say it")
	fs.BoolVar(&o.dryRun, "dry-run", false, "show what was found and would be taken, change nothing")
	fs.BoolVar(&o.tokens, "tokens", false, "print new tokens also for hosts that have one")
}

func (o *recoverOptions) run(ctx context.Context, c *cli, args []string) error {
	if c.controller != "" {
		return usage("recover works on a state folder that nobody serves: --controller is not for it")
	}
	hosts, err := parseHosts(args)
	if err != nil {
		return err
	}
	if o.estate != "" {
		if err := ident.CheckName(o.estate); err != nil {
			return usage("--estate: %v", err)
		}
	}
	dir, err := c.stateFolder(c.state)
	if err != nil {
		return err
	}
	if o.dryRun && !exists(dir) {
		return fault.Errorf(fault.Refused, "there is no state folder %s: nothing says which hosts to ask", dir).
			WithHint("drrun recover --estate NAME HOST=ADDRESS makes one")
	}
	res, err := compose.Recover(ctx, compose.RecoverOptions{State: dir, Estate: o.estate, Hosts: hosts, NewTokens: o.tokens, DryRun: o.dryRun,
		Version: version, Clock: clock.Real{}, Log: c.log})
	if perr := o.print(c, &res); perr != nil && err == nil {
		err = perr
	}
	return openError(err)
}

// parseHosts reads HOST=ADDRESS words; the port is the agent's usual one unless
// it is given.
func parseHosts(args []string) (map[string]string, error) {
	out := map[string]string{}
	for _, a := range args {
		name, addr, ok := strings.Cut(a, "=")
		if !ok || addr == "" || ident.CheckName(name) != nil {
			return nil, usage("drrun recover: %q is not HOST=ADDRESS", a).WithHint("for example lyo-1=10.20.0.5:7830")
		}
		if _, _, err := net.SplitHostPort(addr); err != nil {
			addr = net.JoinHostPort(strings.Trim(addr, "[]"), "7830")
		}
		out[name] = addr
	}
	return out, nil
}

func (o *recoverOptions) print(c *cli, res *compose.Recovered) error {
	if c.output == "json" {
		return c.printJSON(res)
	}
	var b strings.Builder
	if len(res.Rows) > 0 {
		b.WriteString(recoveredText(res) + "\n")
	}
	for _, m := range res.Missing {
		fmt.Fprintf(&b, "missing: %s\n", m)
	}
	for _, t := range res.Tokens {
		fmt.Fprintf(&b, "on host %s, once, until %s:\n  drrun-agent join --again %s\n", t.Host, stamp(t.Expires), t.Text)
	}
	for _, h := range res.Rejoin {
		fmt.Fprintf(&b, "host %s has not joined the new certificate authority yet: drrun token %[1]s, and there drrun-agent join --again TOKEN\n", h)
	}
	if res.Kept != "" {
		fmt.Fprintf(&b, "the state as it was before is in %s\n", res.Kept)
	}
	switch {
	case res.Estate == "" || len(res.Rows) == 0:
	case res.DryRun && res.Changed:
		b.WriteString("nothing was changed: drrun recover takes this\n")
	case res.Changed:
		fmt.Fprintf(&b, "estate %s is recovered; look at: drrun status, drrun runs\n", res.Estate)
	default:
		b.WriteString("nothing to take: this state is as new as what the agents that answer hold\n")
	}
	return c.printf("%s", b.String())
}

// recoveredText is the table of what was found where.
func recoveredText(res *compose.Recovered) string {
	var hosts []string
	for _, h := range res.Hosts {
		if h.Error == "" {
			hosts = append(hosts, h.Host)
		}
	}
	head := []string{"WHAT", "HERE"}
	for _, h := range hosts {
		head = append(head, strings.ToUpper(h))
	}
	t := newTable(append(head, "TAKEN", "REMARK")...)
	for _, r := range collapse(res.Rows) {
		cells := []string{r.What, orDash(r.Here)}
		for _, h := range hosts {
			cells = append(cells, orDash(r.Found[h]))
		}
		t.row(append(cells, orDash(r.Taken), r.Remark)...)
	}
	return t.String()
}

// collapse leaves out runs that stay as they are, but says how many there are.
func collapse(rows []copies.Row) []copies.Row {
	same := func(r copies.Row) bool {
		return strings.HasPrefix(r.What, "run ") && r.Taken == "as it is here" && r.Remark == ""
	}
	n := 0
	for _, r := range rows {
		if same(r) {
			n++
		}
	}
	if n < 4 {
		return rows
	}
	rows = slices.DeleteFunc(slices.Clone(rows), same)
	return append(rows, copies.Row{What: fmt.Sprintf("%d other runs", n), Taken: "as they are here"})
}
