package program

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime/report"
)

// Explain renders the program as numbered steps in the order they begin;
// parallel branches are indented. est is what the run is expected to take; nil:
// nothing is known.
func (p *Program) Explain(est *Estimate) report.Explain {
	out := report.Explain{Plan: p.Plan, Kind: report.KindFailover, Type: p.Type, Direction: p.Direction, From: p.From, To: p.To, Nothing: p.Nothing}
	if p.Section == SectionReverse {
		out.Kind = report.KindReverse
	}
	p.Root.walk(0, func(depth int, s *Step) {
		out.Steps = append(out.Steps, report.Listing{Number: len(out.Steps) + 1, ID: s.ID, Phase: s.Phase, Kind: string(s.Kind),
			Title: s.Title, Machine: s.Machine, Group: s.Group, Depth: depth, Skip: s.Skip, Note: p.note(s), Pos: s.Pos})
	})
	if est != nil {
		out.Estimate = &report.Estimate{Ready: est.Ready.Seconds(), Ends: est.Ends.Seconds(), RTO: est.Aim.Seconds()}
		for i, l := range est.Steps {
			out.Steps[i].Estimate = &report.StepEstimate{Begin: l.Begin.Seconds(), Took: l.Figure.Took.Seconds(), Source: l.Figure.Source, Critical: l.Critical}
		}
	}
	out.Text = p.text(out.Steps) + est.text()
	return out
}

// note is what the title of a step does not say of it.
func (p *Program) note(s *Step) string {
	switch {
	case s.Plan == nil:
		return ""
	case s.Plan.Wait != nil:
		w := s.Plan.Wait
		note := "no answer within " + quantity.FormatDuration(s.Within) + ": "
		switch {
		case w.OnTimeout == OnFailContinue:
			note += "the run goes on"
		case s.OnFail == OnFailContinue:
			note += "the run goes on with an error"
		case s.OnFail == OnFailAsk:
			note += "a person is asked"
		default:
			note += "the run stops"
		}
		if w.Role != "" {
			note = "role " + w.Role + "; " + note
		}
		if p.Type == recovery.Test {
			note += "; a drill answers " + cmp.Or(w.Unattended, "stop")
		}
		return note
	case s.Plan.Check != nil && s.Plan.Check.Func == nil && s.Host == "":
		if active := p.Active(); len(active) > 0 {
			return "asked on " + active[0].ToHost
		}
	}
	return ""
}

// text is the last lines of an explained program.
func (e *Estimate) text() string {
	if e == nil {
		return ""
	}
	var critical, unknown []string
	waits := 0
	for i, l := range e.Steps {
		switch {
		case l.Step.Skip != "":
		case l.Step.Kind == Wait:
			waits++
		case l.Figure.Source == "":
			unknown = append(unknown, strconv.Itoa(i+1))
		}
		if l.Critical && l.Figure.Took > 0 {
			critical = append(critical, strconv.Itoa(i+1))
		}
	}
	var b strings.Builder
	b.WriteString("estimate\n")
	if e.Ready > 0 {
		fmt.Fprintf(&b, "     the machines are ready after %s%s\n", quantity.FormatDuration(e.Ready), e.against())
	}
	fmt.Fprintf(&b, "     the last step ends after %s\n", quantity.FormatDuration(e.Ends))
	if len(critical) > 0 {
		fmt.Fprintf(&b, "     the end waits for the steps marked *: %s\n", few(critical))
	}
	if len(unknown) > 0 {
		fmt.Fprintf(&b, "     nothing is known of %s: counted as nothing\n", few(unknown))
	}
	if waits > 0 {
		fmt.Fprintf(&b, "     what persons take to answer is not counted\n")
	}
	return b.String()
}

// Sum is the estimate in a line.
func (e *Estimate) Sum() string {
	ends := "the last step ends after " + quantity.FormatDuration(e.Ends)
	if e.Ready == 0 {
		return ends
	}
	return "the machines are ready after " + quantity.FormatDuration(e.Ready) + e.against() + ", " + ends
}

// against compares the estimate with its aim.
func (e *Estimate) against() string {
	switch aim := quantity.FormatDuration(e.Aim); {
	case e.Aim <= 0:
		return ""
	case e.Ready > e.Aim:
		return ": the plan's rto of " + aim + " is missed"
	default:
		return " (rto " + aim + ")"
	}
}

// few lists the first of many.
func few(numbers []string) string {
	const most = 12
	if len(numbers) <= most {
		return strings.Join(numbers, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(numbers[:most], ", "), len(numbers)-most)
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
		mark := "  "
		if e := l.Estimate; e != nil && e.Critical && e.Took > 0 {
			mark = "* "
		}
		fmt.Fprintf(&b, "%3d%s%s%s", l.Number, mark, strings.Repeat("  ", l.Depth), l.Title)
		if e := l.Estimate; e != nil && e.Source != "" {
			fmt.Fprintf(&b, "  [%s, %s]", quantity.FormatDuration(time.Duration(e.Took*float64(time.Second))), e.Source)
		}
		switch {
		case l.Skip != "":
			fmt.Fprintf(&b, "  [skipped: %s]", l.Skip)
		case l.Note != "":
			fmt.Fprintf(&b, "  [%s]", l.Note)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
