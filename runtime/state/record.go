package state

import (
	"encoding/json"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/program"
)

// Kind is the kind of a record. The words are stored: append only.
type Kind string

// The kinds of record.
const (
	Created   Kind = "created"   // first record of every run
	Resumed   Kind = "resumed"   // a runtime takes the run over, or a person lets it go on
	Started   Kind = "started"   // an effect begins
	Done      Kind = "done"      // … and its result
	Failed    Kind = "failed"    //
	Skipped   Kind = "skipped"   // it turned out that there is nothing to do
	Unknown   Kind = "unknown"   // the outcome is not known and nothing may be guessed
	Answered  Kind = "answered"  // a person answered
	TimedOut  Kind = "timed-out" // nobody answered in time
	OpStarted Kind = "op-started"
	OpDone    Kind = "op-done"
	Asked     Kind = "asked" // the operation is a question to a person; its action is called again with the answer
	Noted     Kind = "noted"
	Paused    Kind = "paused"
	Cancelled Kind = "cancelled"
	Section   Kind = "section"   // commit, cleanup, cancel: more program
	Statement Kind = "statement" // a person took a responsibility
	// Expired: the commit window ended and nothing was done by itself; Text says why.
	Expired Kind = "expired"
	// Superseded: run Word took the uncommitted machines on; without a word, run By
	// has ended and not moved the machines of Text.
	Superseded Kind = "superseded"
)

// Record is one change of a run, the body of a journal record. Which fields
// are set depends on Kind.
type Record struct {
	Seq     uint64           `json:"-"`
	Time    time.Time        `json:"-"`
	Kind    Kind             `json:"-"`
	Step    string           `json:"step,omitempty"`
	Attempt int              `json:"attempt,omitempty"`
	Data    json.RawMessage  `json:"data,omitempty"`    // result
	Text    string           `json:"text,omitempty"`    // detail, reason, note
	Word    string           `json:"word,omitempty"`    // answer; what a statement says
	By      string           `json:"by,omitempty"`      // person or program
	Error   *fault.Error     `json:"error,omitempty"`   // Failed, Unknown
	Unclear bool             `json:"unclear,omitempty"` // Failed: it may have been done
	Op      *Op              `json:"op,omitempty"`
	Run     *Run             `json:"run,omitempty"`     // Created
	Program *program.Program `json:"program,omitempty"` // Created, Section; Resumed as another type
	Fence   ident.Fence      `json:"fence,omitempty"`   // Created, Resumed
}

// Run is what a run was started with.
type Run struct {
	ID           string             `json:"id"`
	Kind         string             `json:"kind"` // report.KindFailover …
	StartedBy    string             `json:"started_by,omitempty"`
	Point        string             `json:"point,omitempty"`
	Params       map[string]any     `json:"params,omitempty"`
	Set          map[string]string  `json:"set,omitempty"`
	Bundle       string             `json:"bundle,omitempty"` // hash
	Estate       string             `json:"estate,omitempty"` // hash
	Plan         string             `json:"plan,omitempty"`   // hash of the plan as data
	EstateRev    uint64             `json:"estate_rev,omitempty"`
	RTO          time.Duration      `json:"rto,omitempty"`
	RPO          time.Duration      `json:"rpo,omitempty"`
	Commit       plans.CommitPolicy `json:"commit,omitzero"`
	Cleanup      bool               `json:"cleanup,omitempty"` // a test cleans up by itself
	SourceIsDown bool               `json:"source_is_down,omitempty"`
	Discard      []string           `json:"discard,omitempty"` // machines of a reverse whose diverged writes are given up
	Force        bool               `json:"force,omitempty"`
	NoShutdown   bool               `json:"no_shutdown,omitempty"`
	NoProof      bool               `json:"no_proof,omitempty"`
	// TTL is how long a test may stand, from the begin of the run; 0: until a
	// person cleans it up.
	TTL time.Duration `json:"ttl,omitempty"`
	// Supersedes is the uncommitted run whose machines this one takes on, because
	// their new site is lost.
	Supersedes string `json:"supersedes,omitempty"`
	Unattended bool   `json:"unattended,omitempty"` // a drill: waits answer themselves
}

// Op is one journaled operation of an action.
type Op struct {
	Seq   int           `json:"seq"` // within the step, from 1
	Name  string        `json:"name"`
	Class plans.OpClass `json:"class"`
	Args  string        `json:"args"` // as JSON, cut; for the message
	Hash  string        `json:"hash"` // of the arguments
	// Key of an idempotent operation is what it is known by where it is done; its
	// OpDone has none when no other call is to have it.
	Key    string          `json:"key,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  *fault.Error    `json:"error,omitempty"`
	// Ask is the question that the operation is; its result is a plans.Reply.
	Ask *plans.Question `json:"ask,omitempty"`
	// Set names the value of the run that the result is.
	Set string `json:"set,omitempty"`

	Spent bool `json:"-"` // its OpDone had no key

	asked time.Time
}

// Type of a run after a resume as another one.
func typeOf(p *program.Program) recovery.Type { return p.Type }
