package main

import (
	"fmt"
	"strings"

	"github.com/drrun/drrun/cmd/internal/term"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/runtime/report"
)

// runTitle names a run in one line.
func runTitle(r *report.Run) string {
	what := r.Kind
	if r.Type != "" {
		what = string(r.Type) + " " + r.Direction
	}
	s := fmt.Sprintf("%s: %s of %s", r.ID, what, r.Plan)
	if r.From != "" {
		s += fmt.Sprintf(", %s -> %s", r.From, r.To)
	}
	return s
}

// runText shows a run: how it stands, its machines, what it could not do, what
// comes next; with steps, all of its timeline too.
func runText(r *report.Run, steps bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "run %s\n%s", term.Escape(runTitle(r), false), r.Status)
	if r.Uncommitted && r.Status != report.RunUncommitted {
		b.WriteString(", uncommitted")
	}
	if r.Reason != "" {
		b.WriteString(": " + term.Escape(r.Reason, true))
	}
	b.WriteByte('\n')
	b.WriteString(machinesText(r))
	if m := r.RTO; m != nil {
		fmt.Fprintf(&b, "RTO %s%s\n", seconds(m.Measured), aimText(m))
	}
	if m := r.RPO; m != nil {
		fmt.Fprintf(&b, "RPO %s%s\n", seconds(m.Measured), aimText(m))
	}
	b.WriteString(proofText(r))
	if steps {
		b.WriteString(stepsText(r))
	}
	for _, e := range r.Errors {
		if strings.Contains(r.Reason, e.Error.Message) {
			continue // said above
		}
		fmt.Fprintf(&b, "error: %s: %s\n", term.Escape(firstOf(e.Machine, e.Step), false), term.Escape(e.Error.Message, true))
	}
	for _, w := range r.Waits {
		fmt.Fprintf(&b, "waits: %s: %s\n  drrun answer %s %s %s\n", term.Escape(w.Name, false), term.Escape(w.Ask, true), r.ID, shellWord(w.Step), strings.Join(w.Answers, "|"))
	}
	if steps {
		for _, s := range r.Statements {
			fmt.Fprintf(&b, "stated: %s  %s by %s  %s\n", stamp(s.Time), s.What, term.Escape(s.By, false), term.Escape(s.Text, false))
		}
		for _, n := range r.Notes {
			fmt.Fprintf(&b, "note: %s  %s\n", stamp(n.Time), term.Escape(n.Text, false))
		}
	}
	if r.Hint != "" {
		fmt.Fprintf(&b, "next: %s\n", term.Escape(r.Hint, true))
	}
	if len(r.Allowed) > 0 {
		fmt.Fprintf(&b, "allowed now: %s\n", strings.Join(r.Allowed, ", "))
	}
	return b.String()
}

// proofText says whether a planned failover is proved to have lost nothing.
func proofText(r *report.Run) string {
	var not []string
	var bytes int64
	asked := false
	for _, m := range r.Machines {
		if m.Proof == nil {
			continue
		}
		asked = true
		if bytes += m.Proof.Bytes; !m.Proof.Proved {
			not = append(not, m.Name+": "+m.Proof.Text)
		}
	}
	switch {
	case !asked:
		return ""
	case len(not) > 0:
		return "proof " + term.Escape(strings.Join(not, "; "), false) + "\n"
	}
	return fmt.Sprintf("proof zero loss: %s read whole at both sites and equal\n", quantity.FormatSize(bytes))
}

func aimText(m *report.Measure) string {
	switch {
	case m.Aim == 0:
		return ""
	case m.Met:
		return fmt.Sprintf(" (aim %s, met)", seconds(m.Aim))
	}
	return fmt.Sprintf(" (aim %s, MISSED)", seconds(m.Aim))
}

func machinesText(r *report.Run) string {
	if len(r.Machines) == 0 {
		return ""
	}
	t := newTable("MACHINE", "STATE", "FROM", "TO", "ADDRESS", "POINT", "LOSS", "REMARK")
	for _, m := range r.Machines {
		point, loss := "-", "-"
		if m.Point != nil {
			point = fmt.Sprintf("%d %s %s", m.Point.Seq, stamp(m.Point.Instant), m.Point.Kind)
		}
		if m.Loss != nil {
			loss = seconds(*m.Loss)
		}
		remark := m.Reason
		if f := m.Found; f != nil {
			kept := "as found"
			if f.Discarded {
				kept = "discarded"
			}
			remark = strings.TrimSuffix(fmt.Sprintf("%s: %s in %d blocks never left the old site; %s", kept, quantity.FormatSize(f.Bytes), f.Blocks, remark), "; ")
		}
		t.row(m.Name, m.State, orDash(m.FromHost), orDash(m.ToHost), orDash(m.IP), point, loss, remark)
	}
	return t.String()
}

func stepsText(r *report.Run) string {
	t := newTable("", "STATUS", "STEP", "TOOK", "REMARK")
	for _, s := range r.Steps {
		took := "-"
		if !s.Ended.IsZero() {
			took = seconds(s.Seconds)
		}
		remark := firstOf(s.Reason, s.Detail)
		if s.Progress != nil {
			remark = s.Progress.Phase
		}
		if s.Error != nil {
			remark = s.Error.Message
		}
		t.row(fmt.Sprint(s.Number), string(s.Status), s.Title, took, remark)
	}
	return t.String()
}
