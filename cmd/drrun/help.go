package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/internal/fault"
)

// exitTexts is the table of exit codes as help shows it.
var exitTexts = map[int]string{
	fault.ExitOK:          "done as asked",
	fault.ExitFailed:      "ended without reaching the aim",
	fault.ExitInvalid:     "bad input: usage, plan, estate, flag; nothing was started",
	fault.ExitRefused:     "refused: preflight, state, right, epoch; nothing was changed",
	fault.ExitStopped:     "stopped: drrun resume RUN, or drrun cancel RUN",
	fault.ExitWaiting:     "waits for a person (detached, or no terminal)",
	fault.ExitUnknown:     "outcome of an operation unknown, or replay diverged: a person decides",
	fault.ExitPartial:     "unplanned run went to its end with errors, which are listed",
	fault.ExitUnreachable: "controller or agent unreachable, state folder locked, port in use",
	fault.ExitCorrupt:     "corrupt: log, point, journal or state failed its check",
	fault.ExitInternal:    "internal error",
	fault.ExitInterrupted: "interrupted; resumable",
}

// runExits are the codes of commands that follow a run.
var runExits = []int{fault.ExitFailed, fault.ExitRefused, fault.ExitStopped, fault.ExitWaiting, fault.ExitUnknown,
	fault.ExitPartial, fault.ExitUnreachable, fault.ExitCorrupt, fault.ExitInterrupted}

// askExits are the codes of commands that ask a runtime.
var askExits = []int{fault.ExitRefused, fault.ExitUnreachable, fault.ExitCorrupt}

// help prints the list of commands, or one command's page.
func (c *cli) help(args []string) error {
	var words []string
	for _, a := range args {
		if !strings.HasPrefix(a, "-") {
			words = append(words, a)
		}
	}
	if len(words) == 0 {
		return c.printf("%s", overview())
	}
	if cmd, ok := commandNamed(words[0]); ok {
		if err := c.commandHelp(cmd); err != nil {
			return err
		}
		if places := constructorPlaces(words[0]); len(places) > 0 { // commit, in a plan
			return c.printf("\nIN A FILE\n%s", placesText(places))
		}
		return nil
	}
	if words[0] == planCommand.name || words[0] == "plan" {
		return c.commandHelp(planCommand)
	}
	if text, ok := helpPage(words[0]); ok {
		return c.printf("%s", text)
	}
	e := usage("there is no help on %q", words[0])
	if near := nearestHelp(words[0]); near != "" {
		return e.WithHint("did you mean drrun help %s?", near)
	}
	return e.WithHint("drrun help lists commands and pages; the words of plans and estates stand in drrun help plan-file, estate-file and functions")
}

func overview() string {
	var b strings.Builder
	b.WriteString("drrun runs recovery plans: machines of one site start at another, in order, on disks of one instant.\n\n")
	b.WriteString("  drrun PLAN --planned|--unplanned|--test    PLAN is a .lua file or an applied plan's name (drrun help PLAN)\n\nCOMMANDS\n")
	width := 0
	for _, cmd := range commands() {
		width = max(width, len(cmd.name+" "+cmd.args)+1)
	}
	for _, cmd := range commands() {
		fmt.Fprintf(&b, "  %-*s %s\n", width, strings.TrimSpace(cmd.name+" "+cmd.args), cmd.short)
	}
	fmt.Fprintf(&b, "  %-*s %s\n", width, "help [COMMAND|WORD]", "this list, a command with its flags, examples and exit status, or a word of plans and estates")
	b.WriteString("\nPAGES\n")
	for _, t := range topics() {
		fmt.Fprintf(&b, "  help %-*s %s\n", width-5, t.name, t.short)
	}
	b.WriteString("\nFLAGS OF EVERY COMMAND\n")
	var g globals
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	fs.SortFlags = false
	g.flags(fs)
	b.WriteString(fs.FlagUsages())
	b.WriteString("\nENVIRONMENT\n  DRRUN_STATE, DRRUN_CONTROLLER, NO_COLOR\n")
	return b.String()
}

func (c *cli) commandHelp(cmd *command) error {
	var b strings.Builder
	fmt.Fprintf(&b, "drrun %s\n\n%s\n", strings.TrimSpace(cmd.name+" "+cmd.args), strings.TrimSpace(cmd.long))
	if own := c.flagSet(cmd, cmd.make()).FlagUsages(); own != "" {
		b.WriteString("\nFLAGS\n" + own)
	}
	b.WriteString("  and --state, --controller, -o, --log-level (drrun help)\n\nEXAMPLES\n")
	for line := range strings.Lines(strings.TrimSpace(cmd.examples)) {
		b.WriteString("  " + strings.TrimSpace(line) + "\n")
	}
	b.WriteString("\nEXIT STATUS\n")
	codes := append(slices.Clone(cmd.exits), fault.ExitOK, fault.ExitInvalid, fault.ExitInternal)
	slices.Sort(codes)
	for _, code := range slices.Compact(codes) {
		fmt.Fprintf(&b, "  %-4d %s\n", code, exitTexts[code])
	}
	return c.printf("%s", b.String())
}
