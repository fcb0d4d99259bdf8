package main

import "context"

var tokenCommand = &command{
	name: "token", args: "HOST", short: "a join token for a host of the estate",
	long: `Prints a token with which an agent joins the estate: once, within an hour, on that host. A new token replaces
one that is outstanding. On the host: drrun-agent join TOKEN, then drrun-agent run.`,
	examples: "drrun token par-1\ndrrun-agent join $(drrun token par-1)",
	exits:    askExits,
	make:     func() action { return noFlags{tokenRun} },
}

func tokenRun(ctx context.Context, c *cli, args []string) error {
	if err := c.wantArgs("token", args, 1, 1); err != nil {
		return err
	}
	return c.with(ctx, need{}, func(s *session) error {
		t, err := s.Token(ctx, args[0])
		if err != nil {
			return err
		}
		if c.output == "json" {
			return c.printJSON(t)
		}
		c.errorf("for host %s, once, until %s; on the host: drrun-agent join TOKEN, then drrun-agent run\n", t.Host, stamp(t.Expires))
		return c.printf("%s\n", t.Text)
	})
}
