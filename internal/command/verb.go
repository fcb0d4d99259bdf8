package command

import (
	"context"

	"github.com/drrun/drrun/internal/ident"
)

// Verb is one command with its request and result types.
type Verb[In, Out any] struct{ Name string }

// Call sends the verb to a host and waits for its result.
func (v Verb[In, Out]) Call(ctx context.Context, c Caller, host string, in In) (Out, error) {
	var out Out
	err := c.Call(ctx, host, v.Name, in, &out)
	return out, err
}

// Meta goes with every command on a machine. An agent refuses an older epoch
// or fencing number (fault.Conflict) and answers a repeated operation id with
// the stored result of the first.
type Meta struct {
	Machine string      `json:"machine"`
	Op      string      `json:"op,omitempty"` // operation id: RUN/STEP/ATTEMPT
	Epoch   ident.Epoch `json:"epoch,omitempty"`
	Fence   ident.Fence `json:"fence,omitempty"`
	Run     string      `json:"run,omitempty"`
}

// About is the Meta of any request that has one, which has this method from it.
func (m Meta) About() Meta { return m }
