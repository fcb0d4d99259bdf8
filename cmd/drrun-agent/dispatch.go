package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/logkit"
)

// version is set when a release is built.
var version = "0.1.0"

// subcommand is one command of the program.
type subcommand struct {
	name     string
	args     string // as the usage line shows them
	short    string
	long     string
	examples string
	exits    []int // that it can end with, beside 0 and 2
	make     func() action
}

// action is the options of a command together with what it does.
type action interface {
	flags(fs *pflag.FlagSet)
	run(ctx context.Context, c *cli, args []string) error
}

// commands lists the subcommands in the order of help.
func commands() []subcommand {
	return []subcommand{joinCommand, runCommand, statusCommand, permitCommand, confirmClockCommand}
}

// cli is one command line under way.
type cli struct {
	Env
	state string // flag --state
	help  bool
}

// usage is an error of the command line itself.
func usage(format string, args ...any) *fault.Error {
	return fault.Errorf(fault.Invalid, format, args...).WithHint("drrun-agent help shows the commands")
}

// Main runs one command line and returns its exit code.
func Main(env Env) int {
	c := &cli{Env: env}
	err := c.dispatch(context.Background())
	if err == nil {
		return fault.ExitOK
	}
	// When stderr is gone there is nobody left to tell.
	for line := range strings.SplitSeq(err.Error(), "\n") {
		_, _ = fmt.Fprintln(c.Stderr, "error: "+logkit.Clean(line))
	}
	if h := fault.Hint(err); h != "" {
		_, _ = fmt.Fprintln(c.Stderr, "hint: "+logkit.Clean(h))
	}
	return fault.ExitCode(err)
}

// printf writes the result.
func (c *cli) printf(format string, args ...any) error {
	if _, err := fmt.Fprintf(c.Stdout, format, args...); err != nil {
		return fault.Errorf(fault.Failed, "cannot write the result: %w", err)
	}
	return nil
}

func (c *cli) dispatch(ctx context.Context) error {
	if len(c.Args) == 0 || slices.Contains([]string{"help", "-h", "--help"}, c.Args[0]) {
		return c.showHelp(c.Args)
	}
	word := c.Args[0]
	if word == "version" || word == "--version" {
		return c.printf("drrun-agent %s\n", version)
	}
	if word == guardWord {
		return c.guard(ctx, c.Args[1:])
	}
	for _, cmd := range commands() {
		if cmd.name == word {
			return c.run(ctx, cmd, c.Args[1:])
		}
	}
	return usage("there is no command %q", word)
}

func (c *cli) run(ctx context.Context, cmd subcommand, args []string) error {
	act := cmd.make()
	fs := c.flagSet(cmd, act)
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return c.commandHelp(cmd)
		}
		return fault.Errorf(fault.Invalid, "%w", err).WithHint("drrun-agent %s --help shows its flags", cmd.name)
	}
	if c.help {
		return c.commandHelp(cmd)
	}
	return act.run(ctx, c, fs.Args())
}

func (c *cli) flagSet(cmd subcommand, act action) *pflag.FlagSet {
	fs := pflag.NewFlagSet(cmd.name, pflag.ContinueOnError)
	fs.Usage = func() {}
	fs.StringVar(&c.state, "state", "", "state folder (default $DRRUN_AGENT_STATE, /var/lib/drrun-agent for root, ~/.local/state/drrun-agent)")
	fs.BoolVarP(&c.help, "help", "h", false, "show this help")
	act.flags(fs)
	return fs
}

// wrongArgs says how a command is called.
func wrongArgs(cmd subcommand) error {
	return fault.Errorf(fault.Invalid, "usage: drrun-agent %s %s", cmd.name, cmd.args).WithHint("drrun-agent %s --help says more", cmd.name)
}
