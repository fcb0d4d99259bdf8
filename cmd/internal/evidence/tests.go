package evidence

import (
	"encoding/xml"
	"fmt"
	"slices"

	"github.com/drrun/drrun/internal/fault"
)

// Case is one test of a plan, for programs that read tests.
type Case struct {
	File    string // its test file: the suite
	Name    string
	Seconds float64 // of real time
	Failure string  // why it failed, with its place; empty: it passed
}

// TestsJUnit writes tests as JUnit, a suite for each file.
func TestsJUnit(cases []Case) ([]byte, error) {
	var all suites
	for _, c := range cases {
		i := slices.IndexFunc(all.Suites, func(s suite) bool { return s.Name == c.File })
		if i < 0 {
			i = len(all.Suites)
			all.Suites = append(all.Suites, suite{Name: c.File})
		}
		s := &all.Suites[i]
		t := testcase{Class: c.File, Name: c.Name, Time: fmt.Sprintf("%.3f", c.Seconds)}
		if s.Tests++; c.Failure != "" {
			s.Failures++
			t.Failure = &problem{Message: firstLine(c.Failure), Type: fault.Failed.String(), Text: c.Failure}
		}
		s.Cases = append(s.Cases, t)
	}
	for i := range all.Suites {
		var whole float64
		for _, c := range cases {
			if c.File == all.Suites[i].Name {
				whole += c.Seconds
			}
		}
		all.Suites[i].Time = fmt.Sprintf("%.3f", whole)
	}
	out, err := xml.MarshalIndent(all, "", "  ")
	if err != nil {
		return nil, fault.Errorf(fault.Internal, "cannot write the tests: %w", err)
	}
	return slices.Concat([]byte(xml.Header), out, []byte("\n")), nil
}
