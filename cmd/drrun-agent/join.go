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
	exits:    []int{fault.ExitFailed, fault.ExitRefused, fault.ExitCorrupt},
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
	if err := mayJoin(dir, token); err != nil {
		return err
	}
	if err := pki.StoreToken(vfs.OS{}, identityDir(dir), token); err != nil {
		return fault.Wrap(fault.Failed, err)
	}
	return c.printf("host %s waits to join; drrun-agent run answers the runtime's call\n", token.Host)
}

// mayJoin refuses to take a host out of the estate it is in: its machines and
// replicas would be nobody's.
func mayJoin(state string, token pki.Token) error {
	id, err := pki.LoadIdentity(vfs.OS{}, identityDir(state))
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if p := id.Peer(); p.Host != token.Host || !id.Trusts(token.Pin) {
		return fault.Errorf(fault.Refused, "this agent is host %s of estate %s; the token is of host %s and CA pin %s", p.Host, p.Estate, token.Host, pki.ShortPin(token.Pin)).
			WithHint("an agent of another host or estate needs a state folder of its own: --state DIR (this one is %s)", state)
	}
	return nil
}

// identityDir is where key, certificates and a waiting token lie.
func identityDir(state string) string { return filepath.Join(state, "identity") }
