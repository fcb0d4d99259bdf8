package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/cmd/internal/evidence"
	"github.com/drrun/drrun/cmd/internal/plantest"
	"github.com/drrun/drrun/cmd/internal/term"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/internal/vfs"
)

var testCommand = &command{
	name: "test", args: "[FILE|FOLDER…]", short: "run the tests of plans (NAME_test.lua) in a simulated world",
	long: `Runs the tests that stand beside plans, without arguments all of the working folder and below. The world is
simulated and its time virtual; the engine is the one that runs plans for real. drrun help test-file tells what a
test can say. A test fails with its file and line; with --coverage the steps, filters, answers and branches of the
plans are listed that no test has taken. -o json prints one object a line.`,
	examples: "drrun test\ndrrun test erp_test.lua --run 'failover|drill'\ndrrun test --coverage --junit build/plans.xml\ndrrun test --update",
	exits:    []int{fault.ExitFailed},
	make:     func() action { return &testOptions{} },
}

type testOptions struct {
	only     string
	junit    string
	update   bool
	coverage bool
	timeout  time.Duration
}

func (o *testOptions) flags(fs *pflag.FlagSet) {
	fs.StringVar(&o.only, "run", "", "only tests whose name matches this regular expression")
	fs.BoolVar(&o.update, "update", false, "write the golden timelines anew")
	fs.BoolVar(&o.coverage, "coverage", false, "list what of the plans no test has taken")
	fs.DurationVar(&o.timeout, "timeout", plantest.DefaultPatience, "a test of which nothing is heard for so long, in real time, has failed")
	fs.StringVar(&o.junit, "junit", "", "write the results as JUnit to this file, too")
}

func (o *testOptions) run(ctx context.Context, c *cli, args []string) error {
	tests, err := o.find(args)
	if err != nil {
		return err
	}
	var results []plantest.TestResult
	began := time.Now()
	var failed error
	file := ""
	job := plantest.Job{Tests: tests, Update: o.update, Coverage: o.coverage, Patience: o.timeout}
	figures, err := plantest.RunTests(ctx, job, func(r plantest.TestResult) {
		results = append(results, r)
		if err := o.tell(c, r, r.File != file); failed == nil {
			failed = err
		}
		file = r.File
	})
	if err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	if o.coverage {
		if figures, err = plantest.Untested(loader(), args, figures); err != nil {
			return err
		}
	}
	return o.finish(c, results, figures, time.Since(began))
}

// find lists the tests that are wanted.
func (o *testOptions) find(args []string) ([]plantest.TestID, error) {
	want, err := regexp.Compile(o.only)
	if err != nil {
		return nil, usage("--run %q: %v", o.only, err)
	}
	files, err := plantest.FindTests(args)
	if err != nil {
		return nil, err
	}
	for _, f := range args {
		own := strings.TrimSuffix(f, ".lua") + "_test.lua"
		if _, err := os.Stat(own); err == nil && strings.HasSuffix(f, ".lua") && !strings.HasSuffix(f, "_test.lua") {
			return nil, usage("%s is no test file", f).WithHint("its tests stand in %s: drrun test %[1]s", own)
		}
	}
	tests, err := plantest.ListTests(loader(), files)
	if err != nil {
		return nil, err
	}
	tests = slices.DeleteFunc(tests, func(t plantest.TestID) bool { return !want.MatchString(t.Name()) })
	if len(tests) == 0 {
		return nil, usage("there is no test to run").WithHint("tests of erp.lua stand beside it in erp_test.lua: drrun help test-file")
	}
	return tests, nil
}

func place(r plantest.TestResult) string {
	return fmt.Sprintf("%s:%d", r.Failure.Pos.File, r.Failure.Pos.Line)
}

func (o *testOptions) tell(c *cli, r plantest.TestResult, first bool) error {
	if c.output == "json" {
		return c.printLine(r)
	}
	if first {
		if err := c.printf("%s\n", r.File); err != nil {
			return err
		}
	}
	defer func() {
		for _, line := range r.Printed {
			_ = c.printf("        | %s\n", term.Escape(strings.ReplaceAll(line, "\t", "  "), false))
		}
	}()
	if r.Passed {
		took := time.Duration(r.Virtual * float64(time.Second)).Round(time.Second)
		return c.printf("  ok    %s  (%s in %.2f s)\n", term.Escape(r.Name(), false), quantity.FormatDuration(took), r.Seconds)
	}
	return c.printf("  %s  %s\n        %s: %s\n", c.Stdout.Paint(term.Red, "FAIL"), term.Escape(r.Name(), false), place(r), term.Escape(r.Failure.Message, true))
}

func (o *testOptions) finish(c *cli, results []plantest.TestResult, figures []plantest.PlanFigures, took time.Duration) error {
	bad := 0
	cases := make([]evidence.Case, len(results))
	for i, r := range results {
		cases[i] = evidence.Case{File: r.File, Name: r.Name(), Seconds: r.Seconds}
		if !r.Passed {
			bad++
			cases[i].Failure = place(r) + ": " + r.Failure.Message
		}
	}
	if o.junit != "" {
		b, err := evidence.TestsJUnit(cases)
		if err != nil {
			return err
		}
		if err := vfs.WriteFile(vfs.OS{}, o.junit, b, os.FileMode(0o644)); err != nil {
			return fault.Errorf(fault.Failed, "cannot write %s: %w", o.junit, err)
		}
	}
	if err := o.summary(c, len(results), bad, figures, took); err != nil {
		return err
	}
	if bad > 0 {
		return exitError{fault.ExitFailed}
	}
	return nil
}

func (o *testOptions) summary(c *cli, all, bad int, figures []plantest.PlanFigures, took time.Duration) error {
	if c.output == "json" {
		return c.printLine(map[string]any{"tests": all, "failed": bad, "seconds": took.Seconds(), "coverage": figures})
	}
	for _, f := range figures {
		branches := ""
		if f.Branches > 0 {
			branches = fmt.Sprintf(", %d of %d branches taken", f.Taken, f.Branches)
		}
		if err := c.printf("%s: %d of %d steps ran%s\n", f.File, f.Ran, f.Steps, branches); err != nil {
			return err
		}
		for _, g := range f.Gaps {
			name := ""
			if g.Step != "" {
				name = fmt.Sprintf("%q: ", g.Step)
			}
			if err := c.printf("  %s:%d: %s%s\n", g.File, g.Line, name, g.What); err != nil {
				return err
			}
		}
	}
	word := "ok"
	if bad > 0 {
		word = c.Stdout.Paint(term.Red, fmt.Sprintf("%d FAILED", bad))
	}
	return c.printf("%s, %s, %.1f s\n", quantity.Count(all, "test"), word, took.Seconds())
}
