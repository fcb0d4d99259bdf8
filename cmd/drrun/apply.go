package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/cmd/internal/term"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/estate"
	"github.com/drrun/drrun/scripts"
)

var applyCommand = &command{
	name: "apply", args: "FILE…", short: "make an estate and plans the applied ones; protects machines",
	long: `Reads an estate, plans, or both, shows what would change, and asks (on a terminal; else --yes is needed).
Then the estate is stored and the agents of both sites get their part. An agent that does not answer
is listed and gets its part at the next contact. Nothing is deleted: a machine that left the file stays
protected until drrun unprotect MACHINE.`,
	examples: "drrun apply estate.lua erp.lua\ndrrun apply estate.lua --dry-run\ndrrun apply estate.lua erp.lua --yes -o json",
	exits:    askExits,
	make:     func() action { return &applyOptions{} },
}

type applyOptions struct {
	dryRun, yes bool
}

func (o *applyOptions) flags(fs *pflag.FlagSet) {
	fs.BoolVar(&o.dryRun, "dry-run", false, "only show what would change")
	fs.BoolVarP(&o.yes, "yes", "y", false, "do not ask")
}

func (o *applyOptions) run(ctx context.Context, c *cli, args []string) error {
	if err := c.wantArgs("apply", args, 1, -1); err != nil {
		return err
	}
	bundles, err := readBundles(args)
	if err != nil {
		return err
	}
	// Mistakes in the files show before any state is made or asked for.
	if err := c.checkBundles(bundles); err != nil {
		return err
	}
	return c.with(ctx, need{makeState: true}, func(s *session) error {
		for i := range bundles {
			bundles[i] = portable(bundles[i])
		}
		req := estate.ApplyRequest{Bundles: bundles, By: c.User, DryRun: true}
		res, err := s.Apply(ctx, req)
		if err != nil {
			return err
		}
		if c.output == "table" {
			c.errorf("%s", term.Escape(res.Diff.Text(), true))
		}
		switch {
		case len(res.Diff.Blocked) > 0:
			return fault.Errorf(fault.Refused, "cannot apply: %s", res.Diff.Blocked[0]).WithHint("nothing was changed")
		case o.dryRun:
			return c.applied(res, true)
		case !res.Diff.Empty() && !o.yes:
			if !c.Asks {
				return usage("apply changes the estate: without a terminal it needs --yes")
			}
			ok, err := c.asker.Confirm(ctx, "Apply this?")
			if err != nil || !ok {
				return errorsOr(err, fault.Errorf(fault.Refused, "not applied: nobody said yes"))
			}
		}
		base := res.Diff.Base
		req.DryRun, req.Base = false, &base
		if res, err = s.Apply(ctx, req); err != nil {
			return err
		}
		return c.applied(res, false)
	})
}

func errorsOr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// applied prints the result, and on stderr what is not done yet.
func (c *cli) applied(res estate.ApplyResult, dryRun bool) error {
	c.pending(res.Pushes)
	c.warn(res.Warnings)
	if c.output == "json" {
		return c.printJSON(res)
	}
	switch {
	case dryRun:
		return nil
	case !res.Applied:
		return c.printf("estate %s: revision %d, nothing to apply\n", res.Diff.Estate, res.Diff.Base)
	}
	if res.Diff.Next == res.Diff.Base {
		return c.printf("estate %s: plans applied, the estate stays at revision %d\n", res.Diff.Estate, res.Diff.Base)
	}
	return c.printf("estate %s: revision %d applied\n", res.Diff.Estate, res.Diff.Next)
}

func (c *cli) warn(texts []string) {
	for _, w := range texts {
		c.errorf("%s %s\n", c.Stderr.Paint(term.Yellow, "warning:"), term.Escape(w, true))
	}
}

// pending warns of hosts that do not know everything yet.
func (c *cli) pending(pushes []estate.Push) {
	for _, p := range pushes {
		if p.Error == nil {
			continue
		}
		c.errorf("%s host %s has not been told about %s: %s\n", c.Stderr.Paint(term.Yellow, "warning:"), p.Host,
			strings.Join(p.Pending, ", "), term.Escape(p.Error.Message, false))
		if p.Error.Hint != "" {
			c.errorf("%s %s\n", c.Stderr.Paint(term.Cyan, "hint:"), term.Escape(p.Error.Hint, true))
		}
	}
}

// readBundles reads each file with the modules beside it.
func readBundles(files []string) ([]plans.Bundle, error) {
	var out []plans.Bundle
	for _, f := range files {
		b, err := readBundle(f)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

// readBundle reads a plan or an estate with the modules beside it, under the
// names that messages show: the main file as it was named.
func readBundle(file string) (plans.Bundle, error) {
	b, err := scripts.ReadBundle(readSource, filepath.Clean(file))
	if err != nil {
		return b, fault.Wrap(fault.Invalid, err)
	}
	return b, noPlan(file, b.Files[b.Main])
}

var returnsItem = regexp.MustCompile(`(?m)^\s*return\s*\(?\s*(plan|estate)\b`)

// noPlan refuses what stands beside a plan and is none: NAME_test.lua and
// NAME_world.lua.
func noPlan(file, text string) error {
	for suffix, what := range map[string]string{"_test.lua": "holds tests of a plan", "_world.lua": "says what the simulated world of a plan is like"} {
		name, is := strings.CutSuffix(file, suffix)
		if !is || returnsItem.MatchString(text) {
			continue
		}
		return usage("%s %s, and is no plan", file, what).WithHint("name the plan: %s.lua; drrun test %[1]s_test.lua runs its tests", name)
	}
	return nil
}

// readSource reads a file of a plan; a device or a pipe may never end.
func readSource(name string) ([]byte, error) {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("it is no regular file")
	case info.Size() > scripts.MaxFile:
		return nil, fmt.Errorf("it is longer than %d bytes", scripts.MaxFile)
	}
	return os.ReadFile(name)
}

// portable names the files of a bundle by their place beside the main file, so
// that its hash does not depend on the folder it was read from.
func portable(b plans.Bundle) plans.Bundle {
	dir := filepath.Dir(b.Main)
	out := plans.Bundle{Main: filepath.Base(b.Main), Files: map[string]string{}}
	for name, text := range b.Files {
		if rel, err := filepath.Rel(dir, name); err == nil {
			name = rel
		}
		out.Files[name] = text
	}
	return out
}
