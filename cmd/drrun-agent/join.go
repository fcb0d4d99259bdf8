package main

import (
	"bufio"
	"context"
	"fmt"
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
token from standard input.
When the runtime's state was lost with its CA, "drrun recover" makes a new CA and
prints a token: --again lets a host that has joined join once more under it. Its
machines, points and records stay; its certificate and the CA whose runtimes it
obeys change. Hosts that have not joined again yet are still trusted as hosts.`,
	examples: "drrun-agent join drt1_3vJ...\ndrrun token lyo-1 | ssh lyo-1 drrun-agent join -\ndrrun-agent join --again drt1_3vJ...",
	exits:    []int{fault.ExitFailed, fault.ExitRefused, fault.ExitCorrupt},
	make:     func() action { return &joinAction{} },
}

type joinAction struct{ again bool }

func (a *joinAction) flags(fs *pflag.FlagSet) {
	fs.BoolVar(&a.again, "again", false, "a host that has joined: obey the runtime of the token's new CA from now on")
}

func (a *joinAction) run(_ context.Context, c *cli, args []string) error {
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
	changes, err := mayJoin(dir, token, a.again)
	if err != nil {
		return err
	}
	if err := pki.StoreToken(vfs.OS{}, identityDir(dir), token); err != nil {
		return fault.Wrap(fault.Failed, err)
	}
	return c.printf("%shost %s waits to join; drrun-agent run answers the runtime's call\n", changes, token.Host)
}

// mayJoin refuses to take a host out of the estate it is in: its machines and
// replicas would be nobody's. With again it says what a join under a new CA
// changes; that estate and site stay the same is checked when it joins.
func mayJoin(state string, token pki.Token, again bool) (changes string, err error) {
	id, err := pki.LoadIdentity(vfs.OS{}, identityDir(state))
	if fault.Is(err, fault.NotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	p := id.Peer()
	switch {
	case p.Host == token.Host && id.Trusts(token.Pin):
		return "", nil
	case p.Host == token.Host && again:
		return fmt.Sprintf("host %s of site %s, estate %s: its machines, points and records stay; when it has joined it obeys the runtime of the CA with pin %s, "+
			"and no other; hosts that have not joined again yet are still trusted as hosts\n", p.Host, p.Site, p.Estate, pki.ShortPin(token.Pin)), nil
	}
	e := fault.Errorf(fault.Refused, "this agent is host %s of estate %s; the token is of host %s and CA pin %s", p.Host, p.Estate, token.Host, pki.ShortPin(token.Pin))
	if p.Host == token.Host {
		return "", e.WithHint("if drrun recover printed the token, because the runtime's state was lost: drrun-agent join --again TOKEN; "+
			"else an agent of another estate needs a state folder of its own: --state DIR (this one is %s)", state)
	}
	return "", e.WithHint("an agent of another host or estate needs a state folder of its own: --state DIR (this one is %s)", state)
}

// identityDir is where key, certificates and a waiting token lie.
func identityDir(state string) string { return filepath.Join(state, "identity") }
