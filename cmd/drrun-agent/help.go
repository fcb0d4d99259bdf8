package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/drrun/drrun/internal/fault"
)

// exitTexts is the table of exit codes as help shows it.
var exitTexts = map[int]string{
	fault.ExitOK:          "done as asked",
	fault.ExitFailed:      "ended without reaching the aim",
	fault.ExitInvalid:     "bad input: usage, flag, token, machine; nothing was done",
	fault.ExitRefused:     "refused: not joined, state, right, epoch; nothing was changed",
	fault.ExitUnknown:     "it is not known whether the machine runs: a person decides",
	fault.ExitUnreachable: "no agent answers, state folder in use, port in use",
	fault.ExitCorrupt:     "corrupt: state failed its check",
	fault.ExitInternal:    "internal error",
}

func (c *cli) showHelp(args []string) error {
	if len(args) > 1 {
		for _, cmd := range commands() {
			if cmd.name == args[1] {
				return c.commandHelp(cmd)
			}
		}
		return usage("there is no command %q", args[1])
	}
	var b strings.Builder
	b.WriteString("drrun-agent runs beside the machines and the replicas of a host: it replicates, keeps recovery points, starts and stops machines.\n\nCOMMANDS\n")
	for _, cmd := range commands() {
		fmt.Fprintf(&b, "  %-18s %s\n", cmd.name+" "+cmd.args, cmd.short)
	}
	b.WriteString("  help [COMMAND]     show this, or the page of a command\n  version            print the version\n")
	b.WriteString("\nEXAMPLES\n  drrun-agent join drt1_...\n  drrun-agent run\n  drrun-agent status\n")
	b.WriteString("\nENVIRONMENT\n  DRRUN_AGENT_STATE  state folder\n  NO_COLOR           no colours in the log\n")
	b.WriteString("\nEXIT STATUS\n")
	for _, code := range []int{0, 1, 2, 3, 6, 8, 9, 10} {
		fmt.Fprintf(&b, "  %-4d %s\n", code, exitTexts[code])
	}
	return c.printf("%s", b.String())
}

func (c *cli) commandHelp(cmd subcommand) error {
	var b strings.Builder
	fmt.Fprintf(&b, "usage: drrun-agent %s %s\n\n%s\n\nFLAGS\n%s", cmd.name, cmd.args, cmd.long, c.flagSet(cmd, cmd.make()).FlagUsages())
	b.WriteString("\nEXAMPLES\n")
	for line := range strings.Lines(cmd.examples) {
		b.WriteString("  " + line)
	}
	b.WriteString("\n\nEXIT STATUS\n")
	codes := append([]int{fault.ExitOK, fault.ExitInvalid}, cmd.exits...)
	slices.Sort(codes)
	for _, code := range codes {
		fmt.Fprintf(&b, "  %-4d %s\n", code, exitTexts[code])
	}
	return c.printf("%s", b.String())
}
