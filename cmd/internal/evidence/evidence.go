// Package evidence writes the record of a run for people who were not there:
// one HTML file that needs nothing else (and prints), and JUnit for programs
// that read tests. What it says is the run's own report; it judges nothing.
package evidence

import (
	"bytes"
	_ "embed"
	"encoding/xml"
	"fmt"
	"html/template"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/runtime/report"
)

//go:embed run.html
var page string

var tmpl = template.Must(template.New("run").Funcs(template.FuncMap{
	"stamp": stamp, "seconds": seconds, "size": quantity.FormatSize,
	"aim": aim,
}).Parse(page))

// HTML writes the record as one page. at is when it was written, program who
// wrote it.
func HTML(r *report.Run, at time.Time, program string) ([]byte, error) {
	var b bytes.Buffer
	err := tmpl.Execute(&b, view{Run: r, At: at, Program: program, Lanes: lanes(r), Verdict: verdict(r), Good: good(r)})
	if err != nil {
		return nil, fault.Errorf(fault.Internal, "cannot write the report: %w", err)
	}
	return b.Bytes(), nil
}

type view struct {
	*report.Run
	At      time.Time
	Program string
	Lanes   timeline
	Verdict string
	Good    bool
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// Near is a time of the run, with its date only when that is not the day on
// which the run began.
func (v view) Near(t time.Time) string {
	if !t.IsZero() && t.UTC().Truncate(24*time.Hour).Equal(v.Created.UTC().Truncate(24*time.Hour)) {
		return t.UTC().Format("15:04:05")
	}
	return stamp(t)
}

func seconds(s float64) string {
	return quantity.FormatDuration(time.Duration(s * float64(time.Second)))
}

func aim(m *report.Measure) string {
	switch {
	case m.Aim == 0:
		return "no objective was set"
	case m.Met:
		return "objective " + seconds(m.Aim) + ", met"
	}
	return "objective " + seconds(m.Aim) + ", missed"
}

// good reports whether the run has reached its aim, with its objectives met.
func good(r *report.Run) bool {
	return r.ExitCode == fault.ExitOK && !missed(r.RTO) && !missed(r.RPO)
}

func missed(m *report.Measure) bool { return m != nil && m.Aim > 0 && !m.Met }

// verdict is the one line of how the run stands.
func verdict(r *report.Run) string {
	what := string(r.Status)
	if r.Uncommitted && r.Status != report.RunUncommitted {
		what += ", uncommitted"
	}
	if r.Reason != "" {
		what += ": " + r.Reason
	}
	var late []string
	if missed(r.RTO) {
		late = append(late, "RTO")
	}
	if missed(r.RPO) {
		late = append(late, "RPO")
	}
	if len(late) > 0 {
		what += " (" + strings.Join(late, " and ") + " missed)"
	}
	return what
}

// Sizes of the timeline, in the units of its drawing.
const (
	laneHeight = 14
	nameWidth  = 300
	barsWidth  = 600
)

// timeline is the drawing of what ran when.
type timeline struct {
	Width, Height int
	Bars          []bar
	Ticks         []tick
}

type bar struct {
	X, Y, W float64
	Name    string
	Status  report.StepStatus
	Text    string // shown under the pointer
}

type tick struct {
	X    float64
	Text string
}

// lanes draws the steps that were started, each on a line of its own.
func lanes(r *report.Run) timeline {
	var steps []report.Step
	for _, s := range r.Steps {
		if !s.Started.IsZero() {
			steps = append(steps, s)
		}
	}
	if len(steps) == 0 {
		return timeline{}
	}
	first, last := steps[0].Started, steps[0].Started
	for _, s := range steps {
		if s.Started.Before(first) {
			first = s.Started
		}
		for _, t := range []time.Time{s.Started, s.Ended} {
			if t.After(last) {
				last = t
			}
		}
	}
	whole := max(last.Sub(first), time.Second)
	at := func(t time.Time) float64 { return nameWidth + barsWidth*t.Sub(first).Seconds()/whole.Seconds() }
	out := timeline{Width: nameWidth + barsWidth + 30, Height: laneHeight * (len(steps) + 2)}
	for i, s := range steps {
		end := s.Ended
		if end.IsZero() {
			end = last
		}
		out.Bars = append(out.Bars, bar{X: at(s.Started), Y: float64(laneHeight * (i + 1)), W: max(at(end)-at(s.Started), 1.5), Name: cut(s.Title, 48), Status: s.Status,
			Text: fmt.Sprintf("%s: %s, %s", s.Title, s.Status, seconds(end.Sub(s.Started).Seconds()))})
	}
	for i := range 5 {
		d := whole * time.Duration(i) / 4
		out.Ticks = append(out.Ticks, tick{X: at(first.Add(d)), Text: "+" + quantity.FormatDuration(d.Round(time.Millisecond))})
	}
	return out
}

// cut shortens a text to so many characters.
func cut(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

// The elements of a JUnit file, as Jenkins and GitLab read them.
type (
	suites struct {
		XMLName xml.Name `xml:"testsuites"`
		Suites  []suite  `xml:"testsuite"`
	}
	suite struct {
		Name       string `xml:"name,attr"`
		Tests      int    `xml:"tests,attr"`
		Failures   int    `xml:"failures,attr"`
		Errors     int    `xml:"errors,attr"`
		Skipped    int    `xml:"skipped,attr"`
		Time       string `xml:"time,attr"`
		Timestamp  string `xml:"timestamp,attr,omitempty"`
		Properties *properties
		Cases      []testcase `xml:"testcase"`
	}
	properties struct {
		XMLName xml.Name   `xml:"properties"`
		List    []property `xml:"property"`
	}
	property struct {
		Name  string `xml:"name,attr"`
		Value string `xml:"value,attr"`
	}
	testcase struct {
		Class   string   `xml:"classname,attr"`
		Name    string   `xml:"name,attr"`
		Time    string   `xml:"time,attr"`
		Failure *problem `xml:"failure"`
		Error   *problem `xml:"error"`
		Skipped *problem `xml:"skipped"`
	}
	problem struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr,omitempty"` // of failures and errors
		Text    string `xml:",chardata"`
	}
)

// JUnit writes the record as one test suite: a case for each step, and one for
// each objective and for the end of the run. What is not known is an error, not
// a success.
func JUnit(r *report.Run) ([]byte, error) {
	s := suite{Name: "drrun." + r.Plan, Timestamp: r.Created.UTC().Format("2006-01-02T15:04:05"), Properties: &properties{List: []property{
		{"run", r.ID}, {"plan", r.Plan}, {"type", string(r.Type)}, {"status", string(r.Status)}, {"bundle", r.Bundle}, {"estate", r.EstateHash}}}}
	var whole float64
	if !r.Ended.IsZero() {
		whole = r.Ended.Sub(r.Created).Seconds()
	}
	s.Time = fmt.Sprintf("%.3f", whole)
	for i := range r.Steps {
		s.Cases = append(s.Cases, caseOf(r, &r.Steps[i]))
	}
	s.Cases = append(s.Cases, objective(r, "RTO", r.RTO)...)
	s.Cases = append(s.Cases, objective(r, "RPO", r.RPO)...)
	end := testcase{Class: r.Plan + ".run", Name: "run " + r.ID, Time: s.Time}
	if r.ExitCode != fault.ExitOK {
		end.Failure = &problem{Message: verdict(r), Type: string(r.Status), Text: r.Hint}
	}
	s.Cases = append(s.Cases, end)
	for _, c := range s.Cases {
		switch {
		case c.Failure != nil:
			s.Failures++
		case c.Error != nil:
			s.Errors++
		case c.Skipped != nil:
			s.Skipped++
		}
	}
	s.Tests = len(s.Cases)
	out, err := xml.MarshalIndent(suites{Suites: []suite{s}}, "", "  ")
	if err != nil {
		return nil, fault.Errorf(fault.Internal, "cannot write the report: %w", err)
	}
	return slices.Concat([]byte(xml.Header), out, []byte("\n")), nil
}

func caseOf(r *report.Run, st *report.Step) testcase {
	c := testcase{Class: r.Plan + "." + st.Section, Name: fmt.Sprintf("%d %s", st.Number, st.Title), Time: fmt.Sprintf("%.3f", st.Seconds)}
	text := st.Detail
	if st.Error != nil {
		if text = st.Error.Message; st.Pos != nil {
			text = fmt.Sprintf("%s\nat %s:%d", text, st.Pos.File, st.Pos.Line)
		}
	}
	switch st.Status {
	case report.StepDone:
	case report.StepFailed:
		c.Failure = &problem{Message: firstLine(text), Type: fault.KindOf(st.Error).String(), Text: text}
	case report.StepSkipped, report.StepGivenUp:
		c.Skipped = &problem{Message: st.Reason}
	default: // pending, running, waiting, unknown: nobody can call it done
		c.Error = &problem{Message: "the step is " + string(st.Status), Type: string(st.Status), Text: text}
	}
	return c
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

func objective(r *report.Run, name string, m *report.Measure) []testcase {
	if m == nil || m.Aim == 0 {
		return nil
	}
	c := testcase{Class: r.Plan + ".objectives", Name: name + " " + seconds(m.Aim), Time: fmt.Sprintf("%.3f", m.Measured)}
	if !m.Met {
		c.Failure = &problem{Type: "objective", Message: fmt.Sprintf("%s was %s, the objective is %s", name, seconds(m.Measured), seconds(m.Aim))}
	}
	return []testcase{c}
}
