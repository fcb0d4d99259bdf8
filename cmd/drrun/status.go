package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	verb "github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/runtime/estate"
	"github.com/drrun/drrun/runtime/report"
)

var statusCommand = &command{
	name: "status", args: "[MACHINE]", short: "machines, hosts and plans: what is protected, how far behind",
	long: `Asks every agent (each for at most 3 seconds) and shows, for each machine, its state, the site that may
run it, the age of its newest recovery point against the objective, and what may be done with it now.
A plan is proven when its last test failover passed, met the plan's objectives, and was of the plan, the
estate and the policies of now; else it says since when it is not, and why.
With a machine's name it shows that one in full.`,
	examples: "drrun status\ndrrun status db1\ndrrun status -o json",
	exits:    askExits,
	make:     func() action { return &statusOptions{} },
}

type statusOptions struct{}

func (o *statusOptions) flags(*pflag.FlagSet) {}

func (o *statusOptions) run(ctx context.Context, c *cli, args []string) error {
	if err := c.wantArgs("status", args, 0, 1); err != nil {
		return err
	}
	machine := strings.Join(args, "")
	return c.with(ctx, need{}, func(s *session) error {
		st, err := s.Status(ctx, machine)
		if err != nil {
			return err
		}
		if c.output == "json" {
			return c.printJSON(st)
		}
		if machine != "" && len(st.Machines) == 1 {
			return c.printf("%s", machineText(&st.Machines[0]))
		}
		return c.printf("%s", statusText(&st))
	})
}

func statusText(st *estate.Status) string {
	var b strings.Builder
	fmt.Fprintf(&b, "estate %s, revision %d\n\n", st.Estate, st.Revision)
	t := newTable("MACHINE", "STATE", "ACTIVE", "POWER", "RPO NOW", "RPO", "POINTS", "REPLICATES", "REMARK")
	for i := range st.Machines {
		m := &st.Machines[i]
		t.row(m.Machine, stateWord(m), m.Active, string(m.Power), rpoNow(m), orDash(rpoAim(m)), fmt.Sprint(m.Points), direction(m), remark(m))
	}
	b.WriteString(t.String())
	t = newTable("HOST", "SITE", "AGENT", "VERSION", "FREE", "REMARK")
	for _, h := range st.Hosts {
		t.row(h.Host, h.Site, reachWord(h), orDash(h.Version), freeText(h), hostRemark(h))
	}
	b.WriteString("\n" + t.String())
	if len(st.Plans) > 0 {
		t = newTable("PLAN", "FROM", "TO", "DRILL", "PROVEN")
		for _, p := range st.Plans {
			t.row(p.Name, p.From, p.To, orDash(p.Drill), provenText(p.Proven))
		}
		b.WriteString("\n" + t.String())
	}
	return b.String()
}

// provenText says whether a plan is proven by its last test, and else since when it
// is not and why.
func provenText(p *report.Proven) string {
	text := "-"
	switch {
	case p == nil:
		return text
	case p.Proven:
		text = fmt.Sprintf("by %s, %s", p.Run, stamp(p.At))
	case p.Since.IsZero():
		text = "no: " + strings.Join(p.Why, "; ")
	default:
		text = fmt.Sprintf("not since %s: %s", stamp(p.Since), strings.Join(p.Why, "; "))
	}
	if p.Slower != "" {
		text += "; slower: " + p.Slower
	}
	return text
}

func stateWord(m *estate.MachineStatus) string {
	if !m.Known {
		return "unknown"
	}
	return string(m.State)
}

func rpoNow(m *estate.MachineStatus) string {
	if m.Newest == nil {
		return "-"
	}
	s := seconds(m.RPONow)
	if !m.RPOMet {
		s += " !"
	}
	return s
}

func rpoAim(m *estate.MachineStatus) string {
	if m.RPO == 0 {
		return ""
	}
	return seconds(m.RPO)
}

func direction(m *estate.MachineStatus) string {
	var parts []string
	for _, p := range m.Direction {
		parts = append(parts, p.From+" -> "+p.To)
	}
	return orDash(strings.Join(parts, ", "))
}

// remark is the one thing that matters most about a machine.
func remark(m *estate.MachineStatus) string {
	var parts []string
	if m.Left {
		parts = append(parts, "not in the estate any more: drrun unprotect "+m.Machine)
	}
	if m.Uncommitted {
		parts = append(parts, "uncommitted")
	}
	if len(m.Tests) > 0 {
		parts = append(parts, "test "+strings.Join(m.Tests, ", "))
	}
	if m.Reason != "" {
		parts = append(parts, m.Reason)
	}
	parts = append(parts, m.Notes...)
	if p := m.Progress; p != nil && p.Total > 0 {
		parts = append(parts, fmt.Sprintf("%s %d%%", p.Phase, 100*p.Done/p.Total))
	}
	if !m.Known {
		parts = append(parts, "no agent of the machine answers")
	}
	return strings.Join(parts, "; ")
}

func reachWord(h estate.HostStatus) string {
	switch {
	case h.Reachable:
		return "up"
	case !h.Joined:
		return "not joined"
	}
	return "unreachable"
}

func freeText(h estate.HostStatus) string {
	if h.Store == "" {
		return "-"
	}
	return quantity.FormatSize(h.Free)
}

func hostRemark(h estate.HostStatus) string {
	var parts []string
	if len(h.Pending) > 0 {
		parts = append(parts, "to be told about: "+strings.Join(h.Pending, ", "))
	}
	if h.Copies != "" {
		parts = append(parts, h.Copies)
	}
	if h.Error != "" {
		parts = append(parts, h.Error)
	}
	return strings.Join(parts, "; ")
}

func roleWord(role string) string {
	switch role {
	case "":
		return "-"
	case verb.RoleNone:
		return "does not replicate"
	}
	return role
}

// leaseText says how long a lease is and when it ends.
func leaseText(l *estate.Lease) string {
	if l == nil {
		return ""
	}
	if l.Length == 0 {
		return "none yet" + whyText(l.Why)
	}
	text := fmt.Sprintf("%s, renewed by %s %s ago", seconds(l.Length), l.Target, seconds(l.Age))
	switch {
	case l.Without != "":
		text += "; " + l.Without + " permitted " + l.Source + " to run the machine without it"
	case l.Closed != "":
		text += fmt.Sprintf("; renewed no more for run %s, which may count on the stop in %s", l.Closed, seconds(l.Left))
	case !l.Granted:
		text += fmt.Sprintf("; a run may count on the stop in %s", seconds(l.Left)) + whyText(l.Why)
	}
	return text
}

func whyText(why string) string {
	if why == "" {
		return ""
	}
	return " (" + why + ")"
}

// machineText shows one machine in full.
func machineText(m *estate.MachineStatus) string {
	t := newTable()
	add := func(name, value string) {
		if value != "" {
			t.row(name, value)
		}
	}
	add("machine", m.Machine)
	add("state", stateWord(m))
	add("active site", m.Active)
	add("power", string(m.Power))
	add("replicates", direction(m))
	add("epoch", fmt.Sprint(m.Epoch))
	add("rpo now", rpoNow(m))
	add("rpo", rpoAim(m))
	if p := m.Newest; p != nil {
		add("newest point", fmt.Sprintf("%d  %s  %s  %s", p.Seq, stamp(p.Instant), p.Kind, p.ID))
	}
	add("points", fmt.Sprint(m.Points))
	if cy := m.Cycle; cy != nil {
		add("last cycle", fmt.Sprintf("%s, took %s, held still %s, changed %s, sent %s", stamp(cy.At), seconds(cy.Took), seconds(cy.Frozen),
			quantity.FormatSize(cy.Changed), quantity.FormatSize(cy.Wire)))
		add("cycle error", cy.Error)
	}
	add("lease", leaseText(m.Lease))
	add("run", m.LiveRun)
	add("remark", remark(m))
	for _, h := range m.Hosts {
		words := []string{"does not answer"}
		if h.Reachable {
			words = []string{roleWord(h.Role), "power " + orDash(string(h.Power)), fmt.Sprintf("epoch %d", h.Epoch), quantity.Count(h.Points, "point")}
			if h.Locked {
				words = append(words, "locked")
			}
			if h.Reason != "" {
				words = append(words, h.Reason)
			}
		}
		add("host "+h.Host+" ("+h.Site+")", strings.Join(words, ", "))
	}
	add("allowed now", strings.Join(m.Allowed, ", "))
	return t.String()
}
