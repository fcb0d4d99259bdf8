package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/drrun/drrun/cmd/internal/term"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/runtime/report"
)

// view is the live picture of a run: what is under way now, group by group,
// redrawn in place; and the lines that stay above it.
type view struct {
	out   term.Terminal
	run   report.Run
	steps map[string]report.Step // by id
	order []string
	since map[string]time.Time
	open  []report.Wait
}

func newView(run report.Run, out term.Terminal) *view {
	return &view{out: out, run: run, steps: map[string]report.Step{}, since: map[string]time.Time{}}
}

// apply takes an event in and returns the lines that it leaves on the screen.
func (v *view) apply(ev report.Event) []string {
	var lines []string
	if ev.Step != nil {
		lines = v.step(ev)
	}
	if ev.Note != nil {
		lines = append(lines, "  note: "+term.Escape(ev.Note.Text, false))
	}
	if ev.Wait != nil {
		lines = append(lines, v.wait(*ev.Wait)...)
	}
	return append(lines, v.head(ev)...)
}

func (v *view) head(ev report.Event) []string {
	if ev.Head == nil {
		return nil
	}
	before := v.run
	v.run = *ev.Head
	if v.run.Status != report.RunWaiting {
		v.open = nil
	}
	if before.Status == v.run.Status && before.Section == v.run.Section && before.Reason == v.run.Reason {
		return nil
	}
	line := fmt.Sprintf("run %s: %s", v.run.ID, v.out.Paint(statusColor(v.run.Status), string(v.run.Status)))
	if v.run.Reason != "" {
		line += ": " + term.Escape(v.run.Reason, false)
	}
	return []string{line}
}

func statusColor(s report.RunStatus) string {
	switch s {
	case report.RunCommitted, report.RunDone, report.RunUncommitted:
		return term.Green
	case report.RunFailed, report.RunPartial, report.RunRefused, report.RunCancelled, report.RunStopped:
		return term.Red
	case report.RunWaiting, report.RunPaused:
		return term.Yellow
	}
	return term.Bold
}

var stepSigns = map[report.StepStatus]string{
	report.StepDone: "ok", report.StepFailed: "FAILED", report.StepSkipped: "skipped", report.StepUnknown: "UNKNOWN", report.StepGivenUp: "given up",
}

// step keeps a step's newest form; one that has ended leaves a line.
func (v *view) step(ev report.Event) []string {
	s := *ev.Step
	old, known := v.steps[s.ID]
	if !known {
		v.order = append(v.order, s.ID)
	}
	if s.Status == report.StepRunning && (!known || old.Status != report.StepRunning) {
		v.since[s.ID] = ev.Time
	}
	if ev.Kind == report.EventProgress && known && old.Status != report.StepRunning {
		return nil // late: the step has ended
	}
	v.steps[s.ID] = s
	if s.Status != report.StepWaiting {
		v.open = slices.DeleteFunc(v.open, func(w report.Wait) bool { return w.Step == s.ID })
	}
	sign, ended := stepSigns[s.Status]
	if !ended || known && old.Status == s.Status {
		return nil
	}
	color := map[report.StepStatus]string{report.StepDone: term.Green, report.StepSkipped: term.Dim}[s.Status]
	if color == "" {
		color = term.Red
	}
	line := fmt.Sprintf("%3d  %s  %s", s.Number, v.out.Paint(color, term.Pad(sign, 8)), term.Escape(s.Title, false))
	if s.Seconds >= 0.05 {
		line += "  " + seconds(s.Seconds)
	}
	if t := firstOf(s.Reason, s.Detail); t != "" && s.Error == nil {
		line += "  " + term.Escape(t, false)
	}
	lines := []string{line}
	if s.Error != nil {
		lines = append(lines, "       "+term.Escape(s.Error.Message, false))
		if s.Error.Hint != "" {
			lines = append(lines, "       hint: "+term.Escape(s.Error.Hint, false))
		}
		if s.Pos != nil && s.Pos.File != "" {
			lines = append(lines, fmt.Sprintf("       %s:%d", term.Escape(s.Pos.File, false), s.Pos.Line))
		}
	}
	return lines
}

func firstOf(words ...string) string {
	for _, w := range words {
		if w != "" {
			return w
		}
	}
	return ""
}

// wait shows a question once.
func (v *view) wait(w report.Wait) []string {
	if v.waits(w.Step) {
		return nil
	}
	v.open = append(v.open, w)
	line := fmt.Sprintf("%s  %s: %s", v.out.Paint(term.Yellow, "waits for a person"), term.Escape(w.Name, false), term.Escape(w.Ask, false))
	if w.Role != "" {
		line += " (" + term.Escape(w.Role, false) + ")"
	}
	lines := []string{line, fmt.Sprintf("  drrun answer %s %s %s", v.run.ID, shellWord(w.Step), strings.Join(w.Answers, "|"))}
	if !w.Deadline.IsZero() {
		lines = append(lines, fmt.Sprintf("  until %s, then: %s", stamp(w.Deadline), orDash(w.Timeout)))
	}
	return lines
}

func (v *view) waits(step string) bool {
	return slices.ContainsFunc(v.open, func(w report.Wait) bool { return w.Step == step })
}

func (v *view) setWaits(all []report.Wait) { v.open = slices.Clone(all) }

// maxLines bounds the block that is redrawn.
const maxLines = 14

// lines is the block: what runs now, under its group.
func (v *view) lines(now time.Time) []string {
	var out []string
	group := ""
	running := 0
	for _, id := range v.order {
		s := v.steps[id]
		if s.Status != report.StepRunning {
			continue
		}
		running++
		if len(out) >= maxLines {
			continue
		}
		if g := firstOf(s.Group, s.Phase); g != group {
			group = g
			out = append(out, v.out.Paint(term.Bold, "-- "+term.Escape(group, false)))
		}
		out = append(out, v.stepLine(s, now))
	}
	if running == 0 && v.run.Status.Busy() {
		out = append(out, "   "+string(v.run.Status)+" …")
	}
	return out
}

func (v *view) stepLine(s report.Step, now time.Time) string {
	spent := quantity.FormatDuration(max(0, now.Sub(v.since[s.ID])).Truncate(100 * time.Millisecond))
	title := term.Escape(s.Title, false)
	p := s.Progress
	if p == nil {
		return fmt.Sprintf("   %s %s", term.Pad(title, 34), spent)
	}
	if p.Done == 0 && p.Total == 0 {
		return fmt.Sprintf("   %s %s  %s", title, spent, term.Escape(p.Phase, false))
	}
	phase, rate := term.Escape(p.Phase, false), term.Rate(p.Done, p.Total, p.Rate)
	left := v.out.Columns() - len("    ") - len(spent) - len(phase) - len(rate) - len("  []  ") - utf8.RuneCountInString(title)
	if left < minBar && s.Machine != "" { // bytes, rate and time left matter more than the step's words
		left += utf8.RuneCountInString(title) - utf8.RuneCountInString(s.Machine)
		title = term.Escape(s.Machine, false)
	}
	if left < minBar {
		return fmt.Sprintf("   %s %s  %s %s", title, spent, phase, rate)
	}
	pad := min(max(0, left-maxBar), max(0, 34-utf8.RuneCountInString(title)))
	return fmt.Sprintf("   %s %s  %s %s %s", title+strings.Repeat(" ", pad), spent, phase, term.Bar(p.Done, p.Total, min(maxBar, left)), rate)
}

// The columns of a bar.
const (
	minBar = 5
	maxBar = 20
)
