package main

import (
	"context"

	"github.com/spf13/pflag"
)

var versionCommand = &command{
	name: "version", short: "the version of this program",
	long:     `Prints the version of this program.`,
	examples: "drrun version",
	make:     func() action { return versionOptions{} },
}

type versionOptions struct{}

func (versionOptions) flags(*pflag.FlagSet) {}

func (versionOptions) run(_ context.Context, c *cli, args []string) error {
	if err := c.wantArgs("version", args, 0, 0); err != nil {
		return err
	}
	if c.output == "json" {
		return c.printJSON(map[string]string{"version": version})
	}
	return c.printf("%s\n", versionLine())
}
