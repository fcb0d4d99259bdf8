package main

import (
	"runtime/debug"
	"slices"
)

// commands lists the subcommands in the order of help.
func commands() []*command {
	return []*command{
		initCommand, applyCommand, checkCommand, explainCommand, testCommand, exploreCommand,
		statusCommand, pointsCommand,
		failoverCommand, runsCommand, showCommand, watchCommand, reportCommand,
		answerCommand, pauseCommand, resumeCommand, cancelCommand, rollbackCommand, changePointCommand, commitCommand, cleanupCommand, reverseCommand,
		drillCommand,
		unprotectCommand, tokenCommand, serveCommand, recoverCommand, stateCommand, hrlCommand, versionCommand,
	}
}

func commandNamed(name string) (*command, bool) {
	all := commands()
	i := slices.IndexFunc(all, func(c *command) bool { return c.name == name })
	if i < 0 {
		return nil, false
	}
	return all[i], true
}

func commandNames() []string {
	names := []string{"help"}
	for _, c := range commands() {
		names = append(names, c.name)
	}
	return names
}

// version is set by the build; without it the module's version counts.
var version = "0.1.0"

func versionLine() string {
	line := "drrun " + version
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				line += " (" + s.Value[:12] + ")"
			}
		}
		line += " " + info.GoVersion
	}
	return line
}
