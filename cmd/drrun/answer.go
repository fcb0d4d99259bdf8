package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/control"
)

var answerCommand = &command{
	name: "answer", args: "RUN [WAIT] go|stop|done|again|abort", short: "answer what a run waits for",
	long: `Answers a run that waits for a person. A manual wait, and a question of an action
(run:ask), takes go or stop. An operation whose outcome nobody knows takes done (it was done), again (do it
again) or abort. That a site is down or isolated is said with source-is-down, or target-is-down where a machine
is to be given back. A step of the plan that stopped the run takes go (on without it) or again.
WAIT is needed when the run waits for more than one answer. Who answered is recorded.
Served by a controller, the command returns at once; else it becomes the runtime and follows the run.`,
	examples: "drrun answer erp-3f9a01 go -m \"ledger checked\"\ndrrun answer erp-3f9a01 stop\ndrrun answer erp-3f9a01 \"business go/no-go\" go\ndrrun answer erp-3f9a01 \"group:databases/after:postgres answers\" go -m \"known, port moved\"",
	exits:    runExits,
	make:     func() action { return &answerOptions{} },
}

type answerOptions struct {
	message string
	follow  bool
}

func (o *answerOptions) flags(fs *pflag.FlagSet) {
	fs.StringVarP(&o.message, "message", "m", "", "why; goes into the records")
	fs.BoolVar(&o.follow, "follow", false, "follow the run after the answer")
}

var answerWords = []string{"go", "stop", "done", "again", "abort", runtime.SourceIsDown, runtime.TargetIsDown}

func (o *answerOptions) run(ctx context.Context, c *cli, args []string) error {
	if err := c.wantArgs("answer", args, 2, 3); err != nil {
		return err
	}
	word := args[len(args)-1]
	if !slices.Contains(answerWords, word) {
		return usage("answer %q is not known (%s)", word, strings.Join(answerWords, ", "))
	}
	req := control.AnswerRequest{Run: args[0], Answer: word, Text: o.message, By: c.User}
	if len(args) == 3 {
		req.Wait = args[1]
	}
	return c.with(ctx, need{drive: true}, func(s *session) error {
		if word == runtime.SourceIsDown || word == runtime.TargetIsDown {
			if _, err := c.named(ctx, s, args[0], "answer"); err != nil {
				return err
			}
		}
		begin := time.Now()
		r, err := s.Answer(ctx, req)
		if err != nil {
			return err
		}
		if s.embedded() != nil || o.follow {
			return c.followSince(ctx, s, r, begin)
		}
		if c.output == "json" {
			return c.printJSON(r)
		}
		return c.printf("run %s: answered %s\n", r.ID, word)
	})
}

// cutWord splits a typed line into its first word and the rest.
func cutWord(line string) (word, rest string) {
	word, rest, _ = strings.Cut(strings.TrimSpace(line), " ")
	return word, strings.TrimSpace(rest)
}
