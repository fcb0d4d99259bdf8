package plans

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/drrun/drrun/internal/recovery"
)

// Bundle is the source of a plan (or estate) and of every module it loads, as
// they were when it was read. A run keeps its bundle: it never changes because
// a file changed.
type Bundle struct {
	Main  string            `json:"main"`  // name of the main file in Files
	Files map[string]string `json:"files"` // content by name, as messages show it
}

// Hash is the content hash of the bundle: 64 hex digits.
func (b Bundle) Hash() string {
	h := sha256.New()
	fmt.Fprintf(h, "%q\n", b.Main)
	for _, name := range slices.Sorted(maps.Keys(b.Files)) {
		fmt.Fprintf(h, "%q %q\n", name, b.Files[name])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// RunInfo is what a plan's functions may know of the run (read-only).
type RunInfo struct {
	ID        string                 `json:"id"`
	Type      recovery.Type          `json:"type"`
	Direction string                 `json:"direction"` // failover, failback
	From      string                 `json:"from"`      // site
	To        string                 `json:"to"`        // site
	StartedBy string                 `json:"started_by"`
	Point     string                 `json:"point"` // selector
	Machines  map[string]MachineInfo `json:"machines"`
	Params    map[string]any         `json:"params,omitempty"` // of the plan, after --set
}

// MachineInfo is what run:machine(name) shows.
type MachineInfo struct {
	Name  string `json:"name"`
	IP    string `json:"ip"` // address in this run
	Site  string `json:"site"`
	State string `json:"state"`
}

// OpClass says what may be done with an operation whose outcome a crash hid.
type OpClass string

// The classes of host operations.
const (
	OpRead       OpClass = "read"       // do it again
	OpIdempotent OpClass = "idempotent" // do it again with the same key
	OpUnsafe     OpClass = "unsafe"     // ask a person: done, again or abort
)

// Outcome is the result of a module's operation as it is journaled: a value, or
// the words of an error that the function may handle.
type Outcome struct {
	Value  json.RawMessage `json:"value,omitempty"`
	Failed string          `json:"failed,omitempty"`
	Key    KeyUse          `json:"key,omitempty"`
}

// KeyUse is what has become of an idempotent operation's key, which decides the
// key of the same call (name and arguments) when it comes again. The words are
// stored.
type KeyUse string

// KeyUser is an error of an operation, or a value of a module, that says what has
// become of the key; without a word of it an error leaves it open, and a value
// says that it is done.
type KeyUser interface{ KeyUse() KeyUse }

// The uses of a key.
const (
	// KeyDone: it was done under this key. When the action is called again, its
	// call gets the key again, and is not done twice.
	KeyDone KeyUse = ""
	// KeyOpen: nobody knows whether it was done. The next such call gets the key
	// again, also in the same attempt.
	KeyOpen KeyUse = "open"
	// KeySpent: it is known how it ended, and the next such call is to be done
	// anew: under this key it would only get the old answer again.
	KeySpent KeyUse = "spent"
)

// Question is a manual wait inside an action.
type Question struct {
	WaitStep
	Within time.Duration `json:"within"`
}

// Reply is how a Question ended: a person said go, or nobody answered in time
// and the question says that the action goes on.
type Reply struct {
	Go   bool   `json:"go"`
	By   string `json:"by,omitempty"`
	Text string `json:"text,omitempty"`
}

// HostCalls is what a running function's calls go through: the runtime journals
// each one, answers from the journal on resume, and stops the run as diverged
// when a call is not the recorded one.
type HostCalls interface {
	// Op runs do unless its result is recorded. Of an idempotent operation key is
	// the same for the same call of every attempt, unless it is spent (KeyUse).
	// Times and random values are operations too.
	Op(ctx context.Context, name string, class OpClass, args json.RawMessage,
		do func(ctx context.Context, key string) (json.RawMessage, error)) (json.RawMessage, error)
	// Note puts a line on the run's timeline.
	Note(text string)
	// Now is the journaled time of the run.
	Now(ctx context.Context) (time.Time, error)
	// Set keeps a JSON value for the actions of this run, Get returns the one
	// that is kept; null: there is none. Both are operations.
	Set(ctx context.Context, name string, value json.RawMessage) error
	Get(ctx context.Context, name string) (json.RawMessage, error)
	// Ask puts a question to a person. Its error ends the function, which is
	// called again when there is an answer; Ask returns it then.
	Ask(ctx context.Context, q Question) (Reply, error)
	// Exec runs a program on the host of a machine or a host, or, where on is
	// empty, on the controller; journaled by its own Op around it.
	Exec(ctx context.Context, key, on string, cmd []string) (exit int, output string, err error)
}
