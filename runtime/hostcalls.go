package runtime

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/state"
)

// Limits of one attempt of an action; a check has that of notes for each time
// it is asked.
const (
	MaxOps     = 10_000
	MaxResults = 32 << 20 // bytes of all results: they stay in the journal and in memory
	MaxNotes   = 1000     // further ones are left out
)

// hostCalls journals the operations of one attempt of an action. On resume it
// answers from the journal; a call that is not the recorded one ends the
// action as diverged.
type hostCalls struct {
	*job
	mu       sync.Mutex
	recorded []*state.Op // of an earlier process, in order
	next     int
	size     int // bytes of the results so far
	keys     callKeys
	notes    noteLimit
	bad      *outcome // set once: the action has no result of its own any more
}

// callKeys finds the keys of idempotent calls. A call is known by its name and
// its arguments, not by its place alone: a plan that takes another way the next
// time must not have another request answered as if it were this one.
type callKeys struct {
	kept map[string][]string // of earlier attempts, not used in this one yet
	open map[string]string   // of this attempt: nobody knows whether it was done
}

func keysOf(kept []state.KeptKey) callKeys {
	k := callKeys{kept: map[string][]string{}, open: map[string]string{}}
	for _, old := range kept {
		call := old.Name + " " + old.Hash
		k.kept[call] = append(k.kept[call], old.Key)
	}
	return k
}

// take returns the key of the next such call; fresh is that of a new one.
func (k *callKeys) take(call, fresh string) string {
	if key, ok := k.open[call]; ok {
		return key
	}
	if old := k.kept[call]; len(old) > 0 {
		k.kept[call] = old[1:]
		return old[0]
	}
	return fresh
}

// used notes what became of the key of an operation that is done.
func (k *callKeys) used(op *state.Op) {
	call := op.Name + " " + op.Hash
	if op.Spent || op.Error == nil && useOf(op.Result) != plans.KeyOpen {
		delete(k.open, call)
	} else {
		k.open[call] = op.Key
	}
}

// useOf is what the result of an operation says of its key.
func useOf(result json.RawMessage) plans.KeyUse {
	var o plans.Outcome
	if json.Unmarshal(result, &o) != nil { // not of a module: it says nothing
		return plans.KeyDone
	}
	return o.Key
}

// noteLimit counts notes; its owner's lock is held.
type noteLimit int

// pass returns what is to be noted in the place of a further note.
func (n *noteLimit) pass(text string) (_ string, ok bool) {
	*n++
	if *n == MaxNotes {
		text = fmt.Sprintf("more than %d notes: the rest is left out", MaxNotes-1)
	}
	return text, *n <= MaxNotes
}

var _ plans.HostCalls = (*hostCalls)(nil)

func hashOf(args json.RawMessage) string {
	sum := sha256.Sum256(args)
	return hex.EncodeToString(sum[:8])
}

func (h *hostCalls) verdict() *outcome {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.bad
}

// condemn ends the action; h.mu is held.
func (h *hostCalls) condemn(o outcome) error {
	if h.bad == nil {
		h.bad = &o
	}
	return h.bad.err
}

// Op implements plans.HostCalls.
func (h *hostCalls) Op(ctx context.Context, name string, class plans.OpClass, args json.RawMessage,
	do func(ctx context.Context, key string) (json.RawMessage, error)) (json.RawMessage, error) {
	return h.call(ctx, name, "", class, args, do)
}

// call is Op; set names the value of the run that the result is.
func (h *hostCalls) call(ctx context.Context, name, set string, class plans.OpClass, args json.RawMessage,
	do func(ctx context.Context, key string) (json.RawMessage, error)) (json.RawMessage, error) {
	h.mu.Lock()
	if h.bad != nil {
		defer h.mu.Unlock()
		return nil, h.bad.err
	}
	op := h.following(name, class, args)
	op.Set = set
	old, err := h.match(op)
	h.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if old != nil && !old.Open() {
		h.used(old)
		h.took(old)
		if old.Error != nil {
			return nil, old.Error
		}
		return old.Result, nil
	}
	if old == nil {
		if err := h.record(state.OpStarted, op); err != nil {
			return nil, err
		}
	}
	return h.perform(ctx, op, do)
}

// following is the next operation; h.mu is held.
func (h *hostCalls) following(name string, class plans.OpClass, args json.RawMessage) *state.Op {
	h.next++
	text, hash := encodeArgs(args)
	op := &state.Op{Seq: h.next, Name: name, Class: class, Args: text, Hash: hash}
	if class == plans.OpIdempotent {
		op.Key = h.keys.take(name+" "+hash, h.opKey(op))
	}
	return op
}

// opKey is the key of an operation that has none of an earlier attempt.
func (h *hostCalls) opKey(op *state.Op) string { return fmt.Sprintf("%s/%d", h.op(), op.Seq) }

// took counts the result of an operation, and returns the size of all.
func (h *hostCalls) took(op *state.Op) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.size += len(op.Result)
	return h.size
}

func (h *hostCalls) used(op *state.Op) {
	if op.Key != "" || op.Spent {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.keys.used(op)
	}
}

// match compares a call with the journal; h.mu is held.
func (h *hostCalls) match(op *state.Op) (*state.Op, error) {
	if op.Seq > MaxOps {
		return nil, h.condemn(failed(fault.Errorf(fault.Failed, "more than %d operations", MaxOps).
			WithHint("an action makes up to %d calls: make several actions of it", MaxOps)))
	}
	if op.Seq > len(h.recorded) {
		return nil, nil //nolint:nilnil // nothing recorded is no error
	}
	old := h.recorded[op.Seq-1]
	if old.Name != op.Name || old.Hash != op.Hash {
		return nil, h.condemn(h.diverged(old, fmt.Sprintf("it is %s %s", op.Name, op.Args)))
	}
	if old.Open() && old.Class == plans.OpUnsafe {
		return nil, h.condemn(outcome{unknown: true, err: fault.Errorf(fault.Unknown,
			"%s%s: the runtime ended during %s %s: nobody knows whether it was done", h.where(), h.step.Title, old.Name, old.Args).
			WithHint("find out, then: drrun answer %s done|again|abort", h.run.ID)})
	}
	return old, nil
}

// rest is called when the action has ended: what it did before and has not done
// now is a divergence; nil when there is none.
func (h *hostCalls) rest() *outcome {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.next >= len(h.recorded) {
		return nil
	}
	old := h.recorded[h.next]
	_ = h.condemn(h.diverged(old, "the action ends before it"))
	return h.bad
}

func (h *hostCalls) diverged(old *state.Op, now string) outcome {
	return outcome{unknown: true, diverged: true, err: fault.Errorf(fault.Unknown,
		"%s%s diverged: operation %d was %s %s, now %s", h.where(), h.step.Title, old.Seq, old.Name, old.Args, now).
		WithHint("the action must make the same calls each time; then: drrun answer %s done|again|abort", h.run.ID)}
}

func (h *hostCalls) perform(ctx context.Context, op *state.Op, do func(ctx context.Context, key string) (json.RawMessage, error)) (json.RawMessage, error) {
	res, err := do(ctx, cmp.Or(op.Key, h.opKey(op)))
	if err != nil && context.Cause(ctx) == errLeaving { //nolint:errorlint // exactly this cause
		return nil, err // no result: it is taken up again on resume
	}
	if err != nil && ctx.Err() != nil && op.Class == plans.OpUnsafe {
		err = fault.Errorf(fault.Unknown, "%s %s was cut short, nobody knows whether it was done: %w", op.Name, op.Args, err).
			WithHint("find out, then: drrun answer %s done|again|abort", h.run.ID)
	}
	if err != nil && fault.Is(err, fault.Unknown) {
		h.mu.Lock()
		defer h.mu.Unlock()
		return nil, h.condemn(outcome{unknown: true, err: h.planFault(err)})
	}
	done := *op
	use := useOf(res)
	if err != nil {
		done.Error = asFault(err)
		if u := plans.KeyUser(nil); errors.As(err, &u) {
			use = u.KeyUse()
		}
	} else if done.Result = res; res == nil {
		done.Result = json.RawMessage("null")
	}
	over := h.took(&done) > MaxResults
	if over {
		err = fault.Errorf(fault.Failed, "the results of its operations take more than %d MiB", MaxResults>>20).
			WithHint("ask for less, so that answers are shorter, or make several actions of it: each may take %d MiB", MaxResults>>20)
		done.Result, done.Error = nil, asFault(err)
	}
	if use == plans.KeySpent {
		done.Key, done.Spent = "", true
	}
	if err := h.record(state.OpDone, &done); err != nil {
		return nil, err
	}
	h.used(&done)
	if over {
		h.mu.Lock()
		defer h.mu.Unlock()
		return nil, h.condemn(failed(err))
	}
	if done.Error != nil {
		return nil, err
	}
	return done.Result, nil
}

// record journals one side of an operation; the action must not go on when
// that is not possible.
func (h *hostCalls) record(kind state.Kind, op *state.Op) error {
	d := h.d
	d.mu.Lock()
	err := d.append(state.Record{Kind: kind, Step: h.step.ID, Attempt: h.step.Attempt, Op: op})
	d.mu.Unlock()
	if err != nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.condemn(failed(err))
	}
	return nil
}

// Note implements plans.HostCalls. Notes before the first new operation of a
// resumed action were made already.
func (h *hostCalls) Note(text string) {
	h.mu.Lock()
	replay := h.next < len(h.recorded)
	text, ok := h.notes.pass(text)
	h.mu.Unlock()
	if !replay && ok {
		h.d.note(h.step.ID, text)
	}
}

// Now implements plans.HostCalls.
func (h *hostCalls) Now(ctx context.Context) (time.Time, error) {
	raw, err := h.Op(ctx, "now", plans.OpRead, nil, func(context.Context, string) (json.RawMessage, error) {
		return json.Marshal(h.d.e.now())
	})
	if err != nil {
		return time.Time{}, err
	}
	var at time.Time
	err = json.Unmarshal(raw, &at)
	return at, err
}

// MaxValues is how many values the actions of a run may keep.
const MaxValues = 1000

// Set implements plans.HostCalls.
func (h *hostCalls) Set(ctx context.Context, name string, value json.RawMessage) error {
	args, err := json.Marshal(map[string]any{"name": name, "value": value})
	if err != nil {
		return err
	}
	_, err = h.call(ctx, "run.set", name, plans.OpIdempotent, args, func(context.Context, string) (json.RawMessage, error) {
		h.d.mu.Lock()
		defer h.d.mu.Unlock()
		if _, has := h.d.st.Values[name]; !has && len(h.d.st.Values) >= MaxValues {
			return nil, fault.Errorf(fault.Failed, "the run keeps %d values already", MaxValues)
		}
		return value, nil
	})
	return err
}

// Get implements plans.HostCalls.
func (h *hostCalls) Get(ctx context.Context, name string) (json.RawMessage, error) {
	args, err := json.Marshal(name)
	if err != nil {
		return nil, err
	}
	return h.Op(ctx, "run.get", plans.OpRead, args, func(context.Context, string) (json.RawMessage, error) { return h.d.value(name), nil })
}

// value is what an action has kept; null: nothing.
func (d *driver) value(name string) json.RawMessage {
	d.mu.Lock()
	defer d.mu.Unlock()
	if v, ok := d.st.Values[name]; ok {
		return v
	}
	return json.RawMessage("null")
}

var errAsks = errors.New("the action waits for a person")

// Ask implements plans.HostCalls. The action ends here, and holds nothing while
// it waits; with the answer in the journal it is called again, as on a resume.
func (h *hostCalls) Ask(_ context.Context, q plans.Question) (plans.Reply, error) {
	args, err := json.Marshal(q)
	if err != nil {
		return plans.Reply{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.bad != nil {
		return plans.Reply{}, h.bad.err
	}
	op := h.following("run.ask", plans.OpRead, args)
	old, err := h.match(op)
	if err != nil {
		return plans.Reply{}, err
	}
	if old == nil || old.Open() {
		op.Ask = &q
		return plans.Reply{}, h.condemn(outcome{ask: op, err: errAsks})
	}
	var a plans.Reply
	if err := json.Unmarshal(old.Result, &a); err != nil {
		return a, h.condemn(failed(fault.Errorf(fault.Corrupt, "cannot read the recorded answer to %q: %w", q.Ask, err)))
	}
	return a, nil
}

// Exec implements plans.HostCalls.
func (h *hostCalls) Exec(ctx context.Context, key, on string, cmd []string) (int, string, error) {
	return h.job.execOn(ctx, key, on, cmd)
}

func (j *job) execOn(ctx context.Context, key, on string, cmd []string) (int, string, error) {
	if on == "" {
		if !plans.Allows(j.d.src.estate.Allow, cmd[0]) {
			return 0, "", fault.Errorf(fault.Refused, "the estate does not allow the program %q on the controller", cmd[0]).
				WithHint("estate %q { allow = { %q }, … } lets plans run it, in runs that begin after it is applied", j.d.src.estate.Name, cmd[0])
		}
		return j.d.e.runner.Run(ctx, cmd, j.environ())
	}
	host, err := j.hostOf(on)
	if err != nil {
		return 0, "", err
	}
	meta := j.meta(j.machineOn(on), host)
	meta.Op = key
	res, err := j.runAt(ctx, host, command.ExecRequest{Meta: meta, Cmd: cmd, Env: j.env(), Within: j.within()})
	if err != nil {
		return 0, "", fmt.Errorf("cannot run %v on %s: %w", cmd, host, err)
	}
	return res.Exit, res.Output, nil
}

// askCalls are the host calls of a check: a question is put again from the
// start, so nothing of it is journaled.
type askCalls struct {
	*job
	ask   int // number of the question
	mu    sync.Mutex
	seq   int
	notes noteLimit
}

// Op implements plans.HostCalls.
func (a *askCalls) Op(ctx context.Context, name string, class plans.OpClass, _ json.RawMessage,
	do func(ctx context.Context, key string) (json.RawMessage, error)) (json.RawMessage, error) {
	if class != plans.OpRead {
		return nil, fault.Errorf(fault.Invalid, "%s changes something: a check only asks", name).WithHint("put it into an action")
	}
	a.mu.Lock()
	a.seq++
	key := fmt.Sprintf("%s/ask-%d/%d", a.op(), a.ask, a.seq)
	a.mu.Unlock()
	return do(ctx, key)
}

// Note implements plans.HostCalls; a check that is asked every two seconds
// would flood the timeline, so only its first notes stay.
func (a *askCalls) Note(text string) {
	a.mu.Lock()
	text, ok := a.notes.pass(text)
	a.mu.Unlock()
	if a.ask == 1 && ok {
		a.d.note(a.step.ID, text)
	}
}

// Now implements plans.HostCalls.
func (a *askCalls) Now(context.Context) (time.Time, error) { return a.d.e.now(), nil }

func onlyAsks(what string) error {
	return fault.Errorf(fault.Invalid, "%s: a check only asks the world", what).WithHint("put it into an action")
}

// Set implements plans.HostCalls.
func (a *askCalls) Set(context.Context, string, json.RawMessage) error { return onlyAsks("run:set") }

// Get implements plans.HostCalls.
func (a *askCalls) Get(_ context.Context, name string) (json.RawMessage, error) {
	return a.d.value(name), nil
}

// Ask implements plans.HostCalls.
func (a *askCalls) Ask(context.Context, plans.Question) (plans.Reply, error) {
	return plans.Reply{}, onlyAsks("run:ask")
}

// Exec implements plans.HostCalls.
func (a *askCalls) Exec(ctx context.Context, key, on string, cmd []string) (int, string, error) {
	return a.execOn(ctx, key, on, cmd)
}

// note puts a line on the timeline. A journal that cannot be written stops the
// run by itself.
func (d *driver) note(step, text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := []rune(text); len(n) > MaxNote {
		text = string(n[:MaxNote-1]) + "…"
	}
	_ = d.append(state.Record{Kind: state.Noted, Step: step, Text: text})
}

// MaxNote is the longest line of the timeline, in characters.
const MaxNote = 2000

// machineState is a machine's place in the run, in a word.
func machineState(st *state.State, name string) string {
	word := "pending"
	words := map[program.Kind]string{program.Stop: "stopped", program.Grant: "granted", program.Prepare: "prepared",
		program.Start: "started", program.Ready: "ready", program.Restart: "given back", program.Halt: "stopped", program.Return: "returned", program.Cleanup: "cleaned up",
		program.Commit: "committed", program.Reseed: "replicating"}
	for _, s := range st.Of(name) {
		switch {
		case s.Status == report.StepDone && s.Section == program.SectionRollback && s.Kind == program.Ready: // at the old site
		case s.Status == report.StepDone && words[s.Kind] != "":
			word = words[s.Kind]
		case (s.Status == report.StepFailed || s.Status == report.StepGivenUp) && !s.Optional && !isPlanStep(s.Kind):
			word = "failed"
		}
	}
	return word
}
