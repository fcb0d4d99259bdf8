package runtime

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/journal"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/state"
	"github.com/drrun/drrun/runtime/store"
)

// Keys of the engine in the store.
const (
	keyHead   = journal.HeadPrefix
	keyBlob   = journal.BlobPrefix
	keyClaims = journal.ClaimsKey
	keyFence  = journal.FenceKey
)

// head is what a list of runs shows without reading journals. It is written
// with the record that changes it.
type head struct {
	headline
	Machines []string `json:"machines"` // of its program
}

// headline is a head without its machines: what a record may change of it.
type headline struct {
	Version     int              `json:"version"`
	ID          string           `json:"id"`
	Kind        string           `json:"kind"`
	Plan        string           `json:"plan"`
	Type        recovery.Type    `json:"type,omitempty"`
	Direction   string           `json:"direction,omitempty"`
	From        string           `json:"from,omitempty"`
	To          string           `json:"to,omitempty"`
	By          string           `json:"by,omitempty"`
	Status      report.RunStatus `json:"status"`
	Section     string           `json:"section"`
	Reason      string           `json:"reason,omitempty"`
	Hint        string           `json:"hint,omitempty"`
	Exit        int              `json:"exit"`
	Created     time.Time        `json:"created"`
	Ended       time.Time        `json:"ended,omitzero"`
	Due         time.Time        `json:"due,omitzero"`        // when it goes on by itself: its commit window, the end of a test
	Follow      string           `json:"follow,omitempty"`    // the section that begins by itself now
	HandOver    bool             `json:"hand_over,omitempty"` // paused by the end of its controller
	Uncommitted bool             `json:"uncommitted,omitempty"`
	Lost        bool             `json:"lost,omitempty"` // recovered without its last records: see NoteRun
}

const headVersion = 1

func headOf(st *state.State) head { return head{headline: headlineOf(st), Machines: st.Names()} }

func headlineOf(st *state.State) headline {
	p := st.Main()
	return headline{Version: headVersion, ID: st.Run.ID, Kind: st.Run.Kind, Plan: p.Plan, Type: st.Type, Direction: p.Direction, From: p.From, To: p.To,
		By: st.Run.StartedBy, Status: st.Status, Section: st.Section(), Reason: reasonOf(st), Hint: st.Hint, Exit: st.ExitCode(),
		Created: st.Created, Ended: st.SectionEnd, Due: st.Due(), Follow: st.Follow(), HandOver: st.HandedOver(), Uncommitted: st.Uncommitted()}
}

// also is what is written together with a record: the head if it changed, and
// the release of the machines when the run has ended.
func (d *driver) also(ctx context.Context, before headline) ([]store.Op, []store.Cmp, error) {
	var ops []store.Op
	if before != headlineOf(d.st) {
		op, err := jsonOp(keyHead+d.id, headOf(d.st))
		if err != nil {
			return nil, nil, err
		}
		ops = append(ops, op)
	}
	if !d.st.Status.Ended() {
		return ops, nil, nil
	}
	if d.st.Section() == program.SectionFailover { // else its machines are let go
		machines, req := d.leaves()
		for _, text := range d.claimAway(ctx, machines, req) {
			d.e.log.Warn("a machine is not let go", "run", d.id, "cause", text)
		}
	}
	if err := d.e.standAgain(ctx, d.st); err != nil {
		return nil, nil, err
	}
	free, cmps, err := d.e.release(ctx, d.id, d.e.standingBefore(ctx, d.st.Run))
	return append(ops, free...), cmps, err
}

func jsonOp(key string, v any) (store.Op, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return store.Op{}, fault.Errorf(fault.Internal, "cannot write %s: %w", key, err)
	}
	return store.Op{Key: key, Value: raw}, nil
}

func getJSON(ctx context.Context, s store.Store, key string, v any) (rev int64, err error) {
	kv, err := s.Get(ctx, key)
	if err != nil {
		return 0, err
	}
	if err := json.Unmarshal(kv.Value, v); err != nil {
		return 0, fault.Errorf(fault.Corrupt, "cannot read %q in the state: %w", key, err)
	}
	return kv.ModRev, nil
}

// putBlob stores content once under its hash.
func putBlob(ctx context.Context, s store.Store, v any) (hash string, err error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return "", fault.Errorf(fault.Internal, "cannot store the sources of a run: %w", err)
	}
	sum := sha256.Sum256(raw)
	hash = hex.EncodeToString(sum[:])
	_, _, err = s.Txn(ctx, store.Txn{If: []store.Cmp{{Key: keyBlob + hash}}, Then: []store.Op{{Key: keyBlob + hash, Value: raw}}})
	return hash, err // a comparison that does not hold means that it is there
}

func getBlob(ctx context.Context, s store.Store, hash string, v any) error {
	kv, err := s.Get(ctx, keyBlob+hash)
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(kv.Value); hex.EncodeToString(sum[:]) != hash {
		return fault.Errorf(fault.Corrupt, "the stored sources of a run fail their checksum")
	}
	if err := json.Unmarshal(kv.Value, v); err != nil {
		return fault.Errorf(fault.Corrupt, "cannot read the stored sources of a run: %w", err)
	}
	return nil
}

// nextFence returns a fencing number above every one given out or seen.
func nextFence(ctx context.Context, s store.Store, seen ident.Fence) (ident.Fence, error) {
	for {
		var last ident.Fence
		rev, err := getJSON(ctx, s, keyFence, &last)
		if err != nil && !fault.Is(err, fault.NotFound) {
			return 0, err
		}
		next := max(last, seen) + 1
		op, err := jsonOp(keyFence, next)
		if err != nil {
			return 0, err
		}
		_, ok, err := s.Txn(ctx, store.Txn{If: []store.Cmp{{Key: keyFence, ModRev: rev}}, Then: []store.Op{op}})
		if err != nil || ok {
			return next, err
		}
	}
}

// claims is the table of active real runs.
type claims map[string]string

func readClaims(ctx context.Context, s store.Store) (claims, store.Cmp, error) {
	c := claims{}
	rev, err := getJSON(ctx, s, keyClaims, &c)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return nil, store.Cmp{}, err
	}
	return c, store.Cmp{Key: keyClaims, ModRev: rev}, nil
}

// createRun commits the first record of a run together with its head and, for
// a real run, its claim on the machines: all or nothing.
func (e *Engine) createRun(ctx context.Context, rec state.Record) (*state.State, *journal.Journal, error) {
	id := rec.Run.ID
	for {
		st, err := state.New([]state.Record{numbered(rec, 1)})
		if err != nil {
			return nil, nil, err
		}
		ops, cmps, err := e.birth(ctx, st)
		if err != nil {
			return nil, nil, err
		}
		j := journal.New(e.store, id, 1)
		j.Drrun = e.version
		stored, err := toJournal(rec)
		if err != nil {
			return nil, nil, err
		}
		_, ok, err := j.Append(ctx, stored, ops, cmps...)
		if err != nil {
			return nil, nil, err
		}
		if ok {
			return st, j, nil
		}
		if _, err := e.store.Get(ctx, journal.Key(id, 1)); err == nil {
			return nil, nil, fault.Errorf(fault.Conflict, "run %s exists already", id).WithHint("look at: drrun show %s", id)
		} else if !fault.Is(err, fault.NotFound) {
			return nil, nil, err
		}
		// Somebody else changed the claims in between: look again.
	}
}

func (e *Engine) birth(ctx context.Context, st *state.State) ([]store.Op, []store.Cmp, error) {
	op, err := jsonOp(keyHead+st.Run.ID, headOf(st))
	if err != nil {
		return nil, nil, err
	}
	ops := []store.Op{op}
	if st.Type == recovery.Test || st.Status.Ended() {
		return ops, nil, nil
	}
	c, cmp, err := readClaims(ctx, e.store)
	if err != nil {
		return nil, nil, err
	}
	for _, m := range st.Main().Active() {
		if other := c[m.Name]; other != "" && other != st.Run.Supersedes {
			return nil, nil, fault.Errorf(fault.Refused, "machine %s belongs to run %s, which has not ended", m.Name, other).
				WithHint("look at: drrun show %s; allowed for it now: %s", other, e.allowedFor(ctx, other))
		}
		c[m.Name] = st.Run.ID
	}
	op, err = jsonOp(keyClaims, c)
	return append(ops, op), []store.Cmp{cmp}, err
}

// release is the operation that gives a run's machines free again, or back to
// the run before it that it did not come to supersede.
func (e *Engine) release(ctx context.Context, run, before string) ([]store.Op, []store.Cmp, error) {
	c, cmp, err := readClaims(ctx, e.store)
	if err != nil {
		return nil, nil, err
	}
	held := false
	for m, r := range c {
		if r != run {
			continue
		}
		held = true
		if delete(c, m); before != "" {
			c[m] = before
		}
	}
	if !held {
		return nil, nil, nil
	}
	op, err := jsonOp(keyClaims, c)
	return []store.Op{op}, []store.Cmp{cmp}, err
}

func numbered(r state.Record, seq uint64) state.Record {
	r.Seq = seq
	return r
}

func toJournal(r state.Record) (journal.Record, error) {
	body, err := bodyOf(&r)
	if err != nil {
		return journal.Record{}, fault.Errorf(fault.Internal, "cannot write a record: %w", err)
	}
	return journal.Record{Time: r.Time, Kind: string(r.Kind), Body: body}, nil
}

// bodyOf is the JSON of a record. Most say that a step has begun, or what came of
// it, and are written without reflection.
func bodyOf(r *state.Record) ([]byte, error) {
	if r.Word != "" || r.By != "" || r.Error != nil || r.Unclear || r.Op != nil || r.Run != nil || r.Program != nil || r.Fence != 0 {
		return json.Marshal(r)
	}
	out := make([]byte, 0, 64+len(r.Step)+len(r.Data)+len(r.Text))
	field := func(name string) {
		out = append(append(append(out, `,"`...), name...), `":`...)
	}
	var err error
	if r.Step != "" {
		field("step")
		out, err = appendString(out, r.Step)
	}
	if r.Attempt != 0 {
		field("attempt")
		out = strconv.AppendInt(out, int64(r.Attempt), 10)
	}
	if len(r.Data) > 0 {
		field("data")
		out = append(out, r.Data...) // of json.Marshal
	}
	if r.Text != "" && err == nil {
		field("text")
		out, err = appendString(out, r.Text)
	}
	if len(out) == 0 {
		return []byte("{}"), err
	}
	out[0] = '{'
	return append(out, '}'), err
}

// appendString adds a JSON string, as json.Marshal writes it.
func appendString(out []byte, s string) ([]byte, error) {
	plain := func(r rune) bool {
		return r >= ' ' && r < utf8.RuneSelf && r != '"' && r != '\\' && r != '<' && r != '>' && r != '&' && r != 0x7f
	}
	if strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) >= 0 {
		raw, err := json.Marshal(s)
		return append(out, raw...), err
	}
	return append(append(append(out, '"'), s...), '"'), nil
}

func fromJournal(j journal.Record) (state.Record, error) {
	var r state.Record
	if len(j.Body) > 0 {
		if err := json.Unmarshal(j.Body, &r); err != nil {
			return r, fault.Errorf(fault.Corrupt, "cannot read record %d: %w", j.Seq, err)
		}
	}
	r.Seq, r.Time, r.Kind = j.Seq, j.Time, state.Kind(j.Kind)
	return r, nil
}

// load folds the journal of a run.
func (e *Engine) load(ctx context.Context, id string) (*state.State, *journal.Journal, error) {
	j, stored, err := journal.Load(ctx, e.store, id)
	if err != nil {
		return nil, nil, err
	}
	j.Drrun = e.version
	if len(stored) == 0 {
		return nil, nil, noRun(id)
	}
	records := make([]state.Record, len(stored))
	for i := range stored {
		if records[i], err = fromJournal(stored[i]); err != nil {
			return nil, nil, fault.Errorf(fault.KindOf(err), "run %s: %w", id, err)
		}
	}
	st, err := state.New(records)
	if err != nil {
		return nil, nil, fault.Errorf(fault.KindOf(err), "run %s: %w", id, err)
	}
	return st, j, nil
}

func noRun(id string) error {
	return fault.Errorf(fault.NotFound, "there is no run %q", id).WithHint("list them with: drrun runs")
}

// heads lists the runs, oldest first.
func (e *Engine) heads(ctx context.Context) ([]head, error) {
	var out []head
	for kv, err := range e.store.List(ctx, keyHead) {
		if err != nil {
			return nil, fmt.Errorf("cannot list the runs: %w", err)
		}
		var h head
		if err := json.Unmarshal(kv.Value, &h); err != nil { // of a newer drrun, or damaged: the others are not concerned
			h = head{headline: headline{ID: strings.TrimPrefix(kv.Key, keyHead), Status: report.RunStopped, Exit: fault.ExitStopped,
				Reason: "this drrun cannot read what the run is: " + err.Error(), Hint: "look at it with the drrun that wrote it, or a newer one"}}
		}
		out = append(out, h)
	}
	slices.SortStableFunc(out, func(a, b head) int {
		return a.Created.Compare(b.Created)
	})
	return out, nil
}

// resolve finds a run by its id or the only id that begins with the text.
func (e *Engine) resolve(ctx context.Context, text string) (string, error) {
	if text == "" {
		return "", fault.Errorf(fault.Invalid, "a run is missing").WithHint("list them with: drrun runs")
	}
	var found []string
	for kv, err := range e.store.List(ctx, keyHead+text) {
		if err != nil {
			return "", err
		}
		id := strings.TrimPrefix(kv.Key, keyHead)
		if id == text {
			return id, nil
		}
		found = append(found, id)
	}
	switch len(found) {
	case 0:
		return "", noRun(text)
	case 1:
		return found[0], nil
	}
	return "", fault.Errorf(fault.Invalid, "%d runs begin with %q: %s", len(found), text, strings.Join(found, ", "))
}

// works reports whether the run goes on by itself now, if a runtime drives it.
func (h *head) works() bool { return h.Status.Busy() || h.Follow != "" }

// sources are what a run was started with.
type sources struct {
	bundle plans.Bundle
	estate *plans.Estate
	plan   *plans.Plan
}

func (e *Engine) sources(ctx context.Context, r *state.Run) (sources, error) {
	src := sources{estate: &plans.Estate{}, plan: &plans.Plan{}}
	for hash, into := range map[string]any{r.Bundle: &src.bundle, r.Estate: src.estate, r.Plan: src.plan} {
		if hash == "" {
			continue
		}
		if err := getBlob(ctx, e.store, hash, into); err != nil {
			return src, fault.Errorf(fault.KindOf(err), "cannot read what run %s was started with: %w", r.ID, err)
		}
	}
	return src, nil
}
