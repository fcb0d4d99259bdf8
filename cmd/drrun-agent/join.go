package main

import (
	"bufio"
	"context"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/transport/pki"
)

var joinCommand = subcommand{
	name: "join", args: "TOKEN",
	short: "let this host join the estate that made the token",
	long: `Stores a token of "drrun token HOST" in the state folder: the agent waits with it
until the runtime calls and gives it its certificate. A token is good once and
for one hour. An agent that runs already sees it without a restart. "-" reads the
token from standard input.`,
	examples: "drrun-agent join drt1_3vJ...\ndrrun token lyo-1 | ssh lyo-1 drrun-agent join -",
	exits:    []int{fault.ExitFailed},
	make:     func() action { return &joinAction{} },
}

type joinAction struct{}

func (*joinAction) flags(*pflag.FlagSet) {}

func (*joinAction) run(_ context.Context, c *cli, args []string) error {
	if len(args) != 1 {
		return wrongArgs(joinCommand)
	}
	text := args[0]
	if text == "-" {
		s := bufio.NewScanner(c.Stdin)
		s.Scan()
		if err := s.Err(); err != nil {
			return fault.Errorf(fault.Invalid, "cannot read the token: %w", err)
		}
		text = s.Text()
	}
	token, err := pki.ParseToken(text)
	if err != nil {
		return err
	}
	dir, err := c.stateFolder(c.state)
	if err != nil {
		return err
	}
	if err := pki.StoreToken(vfs.OS{}, identityDir(dir), token); err != nil {
		return fault.Wrap(fault.Failed, err)
	}
	return c.printf("host %s waits to join; drrun-agent run answers the runtime's call\n", token.Host)
}

// identityDir is where key, certificates and a waiting token lie.
func identityDir(state string) string { return filepath.Join(state, "identity") }
