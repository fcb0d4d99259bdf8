package program

import (
	"fmt"
	"strings"

	"github.com/drrun/drrun/runtime/report"
)

// Explain renders the program as numbered steps in the order they begin;
// parallel branches are indented.
func (p *Program) Explain() report.Explain {
	out := report.Explain{Plan: p.Plan, Kind: report.KindFailover, Type: p.Type, Direction: p.Direction, From: p.From, To: p.To, Nothing: p.Nothing}
	if p.Section == SectionReverse {
		out.Kind = report.KindReverse
	}
	p.Root.walk(0, func(depth int, s *Step) {
		out.Steps = append(out.Steps, report.Listing{Number: len(out.Steps) + 1, ID: s.ID, Phase: s.Phase, Kind: string(s.Kind),
			Title: s.Title, Machine: s.Machine, Group: s.Group, Depth: depth, Skip: s.Skip, Pos: s.Pos})
	})
	out.Text = p.text(out.Steps)
	return out
}

// limits finds the first step under each node that limits its branches.
func (n *Node) limits(first map[string]int) {
	if n.Limit > 0 && n.Limit < len(n.Par) {
		steps := 0
		n.walk(0, func(_ int, s *Step) {
			if steps++; steps == 1 {
				first[s.ID] = n.Limit
			}
		})
	}
	for _, list := range [][]Node{n.Seq, n.Par} {
		for i := range list {
			list[i].limits(first)
		}
	}
}

func (p *Program) text(steps []report.Listing) string {
	var b strings.Builder
	what := string(p.Type)
	if p.Direction == Failback {
		what += " failback"
	} else {
		what += " failover"
	}
	if p.Section != SectionFailover {
		what = p.Section
	}
	fmt.Fprintf(&b, "plan %s: %s %s → %s\n", p.Plan, what, p.From, p.To)
	for _, m := range p.Machines {
		if m.Skip != "" {
			fmt.Fprintf(&b, "  %s is skipped: %s\n", m.Name, m.Skip)
		}
	}
	if p.Nothing != "" {
		fmt.Fprintf(&b, "nothing to do: %s\n", p.Nothing)
		return b.String()
	}
	phase, limits := "", map[string]int{}
	p.Root.limits(limits)
	for _, l := range steps {
		if l.Phase != phase {
			phase = l.Phase
			fmt.Fprintf(&b, "%s\n", phase)
		}
		if n := limits[l.ID]; n > 0 {
			fmt.Fprintf(&b, "     %s%d at a time:\n", strings.Repeat("  ", l.Depth), n)
		}
		fmt.Fprintf(&b, "%3d  %s%s", l.Number, strings.Repeat("  ", l.Depth), l.Title)
		if l.Skip != "" {
			fmt.Fprintf(&b, "  [skipped: %s]", l.Skip)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
