package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/cmd/internal/term"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/estate"
	"github.com/drrun/drrun/scripts"
)

var checkCommand = &command{
	name: "check", args: "FILE…", short: "find every mistake of plans and estates without running anything",
	long: `Reads plans and estates and reports every mistake at once, with file and line. A plan is checked against
the estate of --estate, else the one among the files, else the applied one, else estate.lua beside it.`,
	examples: "drrun check erp.lua\ndrrun check estate.lua erp.lua\ndrrun check erp.lua --estate estate.lua",
	exits:    []int{fault.ExitUnreachable},
	make:     func() action { return &checkOptions{} },
}

type checkOptions struct {
	estate string
	set    []string
}

func (o *checkOptions) flags(fs *pflag.FlagSet) {
	fs.StringVar(&o.estate, "estate", "", "estate file to check plans against")
	fs.StringArrayVar(&o.set, "set", nil, "KEY=VALUE: a parameter of the plans; may be given again")
}

func (o *checkOptions) run(ctx context.Context, c *cli, args []string) error {
	if err := c.wantArgs("check", args, 1, -1); err != nil {
		return err
	}
	files := args
	if o.estate != "" {
		files = append([]string{o.estate}, args...)
	}
	bundles, err := readBundles(files)
	if err != nil {
		return err
	}
	var set map[string]string // none given: what a run would have to give is no mistake
	if len(o.set) > 0 {
		if set, err = keysAndValues(o.set); err != nil {
			return err
		}
	}
	l := loadAll(bundles, set)
	of := ""
	if l.estate == nil && len(l.faults) == 0 && len(l.plans) > 0 {
		var fs plans.Faults
		if l.estate, of, err = c.estateFor(ctx, "checked against", args[0]); errors.As(err, &fs) {
			l.faults = append(l.faults, err) // with those of the plans
		} else if err != nil {
			return err
		}
	}
	if err := l.check(); err != nil {
		return err
	}
	if l.estate == nil {
		c.errorf("no estate to check against: only the plans themselves were checked (--estate FILE)\n")
	}
	warnings := l.doubts()
	c.warn(warnings)
	if c.output == "json" {
		out := map[string]any{"checked": files, "warnings": warnings}
		if of != "" {
			out["estate"] = of
		}
		return c.printJSON(out)
	}
	for _, f := range files {
		if err := c.printf("%s: ok\n", f); err != nil {
			return err
		}
	}
	return nil
}

// estateFor finds the estate of a plan that came without one: the applied one,
// else estate.lua beside the plan; nil if there is neither. of says in words
// which one it is; where another could be meant the user is told what was done
// with it ("checked against").
func (c *cli) estateFor(ctx context.Context, done, planFile string) (e *plans.Estate, of string, err error) {
	var rev estate.Revision
	err = c.with(ctx, need{}, func(s *session) error {
		e, err := s.Estate(ctx)
		rev = e.Revision
		return err
	})
	if err == nil {
		c.tellApplied(done, rev, planFile)
		return rev.Estate, appliedEstate(rev), nil
	}
	if !fault.Is(err, fault.Refused) {
		return nil, "", err
	}
	beside, ok := estateBeside(planFile)
	if !ok {
		return nil, "", nil
	}
	b, err := readBundle(beside)
	if err != nil {
		return nil, "", err
	}
	e, err = loader().LoadEstate(b)
	return e, beside, err
}

// estateBeside is the estate file in the folder of a plan, if there is one.
func estateBeside(planFile string) (file string, ok bool) {
	file = filepath.Join(filepath.Dir(planFile), "estate.lua")
	_, err := os.Stat(file)
	return file, err == nil
}

func appliedEstate(rev estate.Revision) string {
	return fmt.Sprintf("the applied estate %q, revision %d", rev.Estate.Name, rev.Number)
}

// tellApplied says that the applied estate was taken, where the one beside the
// plan is another: an author may mean that.
func (c *cli) tellApplied(done string, rev estate.Revision, planFile string) {
	beside, ok := estateBeside(planFile)
	if !ok {
		return
	}
	if b, err := readBundle(beside); err == nil && portable(b).Hash() == rev.Bundle.Hash() {
		return
	}
	c.errorf("%s %s; %s beside the plan was not used (use it with --estate %s)\n", done, term.Escape(appliedEstate(rev), false),
		term.Escape(beside, false), shellWord(beside))
}

// loader reads plans and estates in this process.
func loader() *scripts.Loader { return scripts.New(scripts.Options{}) }

// loadedFiles is what files hold.
type loadedFiles struct {
	estate *plans.Estate // nil: there is none, or it has mistakes
	plans  []loadedPlan
	faults []error // of estates
}

type loadedPlan struct {
	*plans.Plan // of one with mistakes what could be read, or nil
	source      plans.Bundle
	err         error
}

// loadAll loads bundles, whatever mistakes they have: check tells them.
func loadAll(bundles []plans.Bundle, set map[string]string) loadedFiles {
	var l loadedFiles
	for _, b := range bundles {
		if estate.IsEstate(b) {
			e, err := loader().LoadEstate(b)
			if err != nil {
				l.faults = append(l.faults, err)
			}
			l.estate = e
			continue
		}
		p, err := loader().LoadPlan(b, set)
		l.plans = append(l.plans, loadedPlan{p, b, err})
	}
	return l
}

// check returns all mistakes of all files, with those that show only where the
// plans are held against the estate.
func (l *loadedFiles) check() error {
	errs := l.faults
	for _, p := range l.plans {
		var fs plans.Faults
		if p.err != nil && !errors.As(p.err, &fs) {
			return p.err
		}
		if p.Plan != nil && l.estate != nil {
			fs = append(fs, plans.References(p.Plan, l.estate)...)
		}
		errs = append(errs, withSource(fs.Sorted().Err(), p.source))
	}
	return joinFaults(errs)
}

// doubts returns what plans may say and hardly mean, each on lines of its own.
func (l *loadedFiles) doubts() []string {
	texts := []string{}
	for _, p := range l.plans {
		if p.Plan == nil {
			continue
		}
		for _, f := range plans.Doubts(p.Plan, l.estate).WithSource(p.source) {
			texts = append(texts, plans.Faults{f}.Error())
		}
	}
	return texts
}

// withSource adds the lines of the files to mistakes.
func withSource(err error, b plans.Bundle) error {
	var fs plans.Faults
	if errors.As(err, &fs) {
		return fs.WithSource(b).Err()
	}
	return err
}

// joinFaults puts lists of mistakes together.
func joinFaults(errs []error) error {
	var all plans.Faults
	for _, err := range errs {
		var fs plans.Faults
		switch {
		case err == nil:
		case errors.As(err, &fs):
			all = append(all, fs...)
		default:
			return err
		}
	}
	if len(all) > 1 {
		return fault.Errorf(fault.Invalid, "%w\n%d mistakes", all, len(all))
	}
	return all.Err()
}

// checkBundles reports the mistakes of files, and warns of what is doubtful.
func (c *cli) checkBundles(bundles []plans.Bundle) error {
	l := loadAll(bundles, nil)
	err := l.check()
	if err == nil {
		c.warn(l.doubts())
	}
	return err
}

func checkBundle(b plans.Bundle, set map[string]string) error {
	if estate.IsEstate(b) {
		return usage("%s is an estate: drrun apply %s", b.Main, b.Main)
	}
	l := loadAll([]plans.Bundle{b}, set)
	return l.check()
}
