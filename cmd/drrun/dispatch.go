package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/cmd/internal/term"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/plans"
)

// command is one subcommand.
type command struct {
	name  string
	args  string // as the usage line shows them
	short string
	long  string // what it does, in a few sentences
	// examples are command lines, one a line.
	examples string
	exits    []int // that it can end with, beside 0, 2 and 10
	// logs is the least level its log shows unless --log-level says otherwise.
	logs string
	make func() action
}

// action is the options of a command together with what it does.
type action interface {
	flags(fs *pflag.FlagSet)
	run(ctx context.Context, c *cli, args []string) error
}

// globals are the flags that every command takes.
type globals struct {
	state      string
	controller string
	output     string
	logLevel   string
	help       bool
}

func (g *globals) flags(fs *pflag.FlagSet) {
	fs.StringVar(&g.state, "state", "", "state folder (default $DRRUN_STATE, /var/lib/drrun for root, ~/.local/state/drrun)")
	fs.StringVar(&g.controller, "controller", "", "socket of a running controller (default $DRRUN_CONTROLLER, else the state folder's)")
	fs.StringVarP(&g.output, "output", "o", "table", "table or json")
	fs.StringVar(&g.logLevel, "log-level", "", "debug, info, warn or error")
	fs.BoolVarP(&g.help, "help", "h", false, "show this help")
}

// cli is one command line under way.
type cli struct {
	Env
	globals
	log     *slog.Logger
	asker   *term.Asker
	signals *signals
}

// usage is an error of the command line itself.
func usage(format string, args ...any) *fault.Error {
	return fault.Errorf(fault.Invalid, format, args...)
}

// exitError ends a command with an exit code that is not that of a fault; what
// there is to say has been said.
type exitError struct{ code int }

func (e exitError) Error() string { return fmt.Sprintf("exit %d", e.code) }

// Main runs one command line and returns its exit code.
func Main(env Env) int {
	c := &cli{Env: env}
	c.asker = term.NewAsker(env.Stdin, env.Stderr)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	c.signals = &signals{cancel: cancel}
	go c.signals.route(ctx, env.Signals)
	err := c.guarded(ctx)
	var exit exitError
	switch {
	case err == nil:
		return fault.ExitOK
	case errors.As(err, &exit):
		return exit.code
	}
	c.printError(err)
	return fault.ExitCode(err)
}

// guarded is dispatch, with a report of a panic in place of its trace.
func (c *cli) guarded(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = c.crashReport(p, debug.Stack())
		}
	}()
	return c.dispatch(ctx)
}

// crashReport writes what is known of a bug to a file of its own.
func (c *cli) crashReport(p any, stack []byte) error {
	text := fmt.Sprintf("%s\ncommand: %q\n%v\n\n%s", versionLine(), c.Args, p, stack)
	e := fault.Errorf(fault.Internal, "internal error: %v", p)
	f, err := os.CreateTemp("", "drrun-report-*.txt")
	if err != nil {
		return e.WithHint("the report cannot be written (%v):\n%s", err, text)
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return e.WithHint("the report cannot be written (%v):\n%s", err, text)
	}
	return e.WithHint("this is a bug in drrun; the report is in %s", f.Name())
}

// printError writes an error and what can be done about it.
func (c *cli) printError(err error) {
	text := term.Escape(err.Error(), true)
	if strings.Contains(text, "\n") { // a list, such as all mistakes of a file
		c.errorf("%s\n", text)
	} else {
		c.errorf("%s %s\n", c.Stderr.Paint(term.Red, "error:"), text)
	}
	if h := fault.Hint(err); h != "" {
		c.errorf("%s %s\n", c.Stderr.Paint(term.Cyan, "hint:"), term.Escape(h, true))
	}
}

// errorf writes to stderr; when that fails there is nobody left to tell.
func (c *cli) errorf(format string, args ...any) {
	_, _ = fmt.Fprintf(c.Stderr, format, args...)
}

// printf writes the result.
func (c *cli) printf(format string, args ...any) error {
	if _, err := fmt.Fprintf(c.Stdout, format, args...); err != nil {
		return fault.Errorf(fault.Failed, "cannot write the result: %w", err)
	}
	return nil
}

// dispatch finds the command and runs it.
func (c *cli) dispatch(ctx context.Context) error {
	i := firstWord(c.Args)
	if i < 0 {
		return c.noCommand()
	}
	name := c.Args[i]
	if name == "help" {
		return c.help(append(slices.Clone(c.Args[:i]), c.Args[i+1:]...))
	}
	if cmd, ok := commandNamed(name); ok {
		return c.runCommand(ctx, cmd, append(slices.Clone(c.Args[:i]), c.Args[i+1:]...))
	}
	if !looksLikePlan(name, c.Args) {
		return c.unknownCommand(name)
	}
	return c.runCommand(ctx, planCommand, c.Args)
}

// noCommand handles a line of flags only.
func (c *cli) noCommand() error {
	switch {
	case slices.Contains(c.Args, "--version"):
		return c.printf("%s\n", versionLine())
	case len(c.Args) == 0, slices.Contains(c.Args, "--help"), slices.Contains(c.Args, "-h"):
		return c.help(nil)
	}
	return usage("no command given").WithHint("drrun help")
}

// unknownCommand explains a line that is neither a command nor a run: a
// mistyped command, a plan with a mistyped flag, or a plan without its type.
func (c *cli) unknownCommand(name string) error {
	e := usage("unknown command %q", name)
	if near := plans.Nearest(name, commandNames()); near != "" {
		return e.WithHint("did you mean %q? drrun help lists the commands; a plan needs --planned, --unplanned or --test", near)
	}
	fs := c.flagSet(planCommand, planCommand.make())
	c.globals.flags(fs)
	if err := fs.Parse(c.Args); err != nil {
		return flagError(planCommand, fs, err)
	}
	return e.WithHint("if %s is a plan, say which failover: --planned, --unplanned or --test; drrun help lists the commands", name)
}

// looksLikePlan tells a plan from a mistyped command: plans are files, or stand
// beside a flag that only a run has.
func looksLikePlan(name string, args []string) bool {
	if strings.HasSuffix(name, ".lua") || strings.ContainsRune(name, '/') {
		return true
	}
	for _, a := range args {
		switch a, _, _ := strings.Cut(a, "="); a {
		case "--planned", "--unplanned", "--test", "--dry-run", "--failback":
			return true
		}
	}
	return false
}

// valueFlags take a value that may stand in the next word.
var valueFlags = []string{"--state", "--controller", "--output", "-o", "--log-level", "--point", "--set", "--estate", "-m", "--message", "--passphrase-file", "--run", "--junit", "--timeout", "--faults", "--pairs", "--seed"}

// firstWord finds the first argument that is neither a flag nor its value.
func firstWord(args []string) int {
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case a == "--":
			if i+1 < len(args) {
				return i + 1
			}
			return -1
		case slices.Contains(valueFlags, a):
			i++
		case !strings.HasPrefix(a, "-") || a == "-":
			return i
		}
	}
	return -1
}

// flagSet makes the flags of a command with those of every command.
func (c *cli) flagSet(cmd *command, a action) *pflag.FlagSet {
	fs := pflag.NewFlagSet(cmd.name, pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	fs.SortFlags = false
	a.flags(fs)
	return fs
}

func (c *cli) runCommand(ctx context.Context, cmd *command, args []string) error {
	a := cmd.make()
	fs := c.flagSet(cmd, a)
	c.globals.flags(fs)
	if err := fs.Parse(args); err != nil {
		return flagError(cmd, fs, err)
	}
	if c.globals.help {
		return c.commandHelp(cmd)
	}
	if c.output != "table" && c.output != "json" {
		return usage("output %q is not known (table, json)", c.output)
	}
	level := c.logLevel
	if level == "" {
		level = cmd.logs
	}
	if level == "" {
		level = "error"
	}
	log, err := logkit.New(c.Stderr, logkit.Options{Level: level, Terminal: c.Stderr.Interactive, NoColor: !c.Stderr.Color})
	if err != nil {
		return err
	}
	c.log = log
	return a.run(ctx, c, fs.Args())
}

// flagError explains a flag that does not parse.
func flagError(cmd *command, fs *pflag.FlagSet, err error) error {
	e := usage("%s: %v", cmd.title(), err)
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		var names []string
		fs.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		e = usage("%s: unknown flag --%s", cmd.title(), unknown.GetSpecifiedName())
		if near := plans.Nearest(unknown.GetSpecifiedName(), names); near != "" {
			return e.WithHint("did you mean --%s?", near)
		}
	}
	return e.WithHint("drrun help %s", cmd.name)
}

func (cmd *command) title() string { return "drrun " + cmd.name }

// wantArgs checks the number of arguments of a command; at most < 0: any.
func (c *cli) wantArgs(name string, args []string, least, most int) error {
	switch {
	case len(args) < least:
		return usage("drrun %s: an argument is missing", name).WithHint("drrun help %s", name)
	case most >= 0 && len(args) > most:
		return usage("drrun %s: unexpected argument %q", name, args[most]).WithHint("drrun help %s", name)
	}
	return nil
}
