package plantest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/journal"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/simworld"
	"github.com/drrun/drrun/runtime/state"
	"github.com/drrun/drrun/runtime/store"
)

// ErrDied is what a runtime gets that was told to die.
var ErrDied = errors.New("the runtime died")

// maxTurns is how often a person is asked about one run before it counts as
// one that does not end.
const maxTurns = 40

// Runtime is the engine of production over a simulated world, with a store that
// can die at a journal record, and the person who then starts it again.
type Runtime struct {
	World  *simworld.World
	plan   *plans.Plan
	bundle plans.Bundle
	lua    runtime.Scripts
	log    *slog.Logger
	store  *dyingStore
	engine *runtime.Engine
	number int
	last   map[string]runtime.Request
	// Deaths is how often a runtime has died.
	Deaths int
}

// NewRuntime starts a runtime in a world for one plan, which lua has loaded.
func NewRuntime(w *simworld.World, b plans.Bundle, p *plans.Plan, lua runtime.Scripts, log *slog.Logger) *Runtime {
	r := &Runtime{World: w, plan: p, bundle: b, lua: lua, log: log, store: &dyingStore{Store: store.NewMemory()}, last: map[string]runtime.Request{}}
	r.open()
	return r
}

func (r *Runtime) open() {
	r.engine = runtime.New(runtime.Options{Store: r.store, Caller: r.World, Catalogue: catalogue{r}, Scripts: r.lua, Runner: r.World, Log: r.log,
		NewID: func(plan string) string {
			r.number++
			return fmt.Sprintf("%s-%d", plan, r.number)
		}})
}

// Close ends the runtime.
func (r *Runtime) Close(ctx context.Context) error {
	if err := r.engine.Close(ctx); err != nil && !errors.Is(err, ErrDied) {
		return err
	}
	return nil
}

// DieAt lets the runtime die at the n-th journal record from now on: before it
// is committed, or right after.
func (r *Runtime) DieAt(n int, after bool) { r.store.dieAt(n, after) }

// Pending is at how many further records the runtime is to die; 0: at none.
func (r *Runtime) Pending() int { return r.store.pending() }

// Records is how many journal records were written.
func (r *Runtime) Records() int { return r.store.written() }

// OnRecord is called with the step of every journal record; for tables of what
// happened where. Empty: a record of the run as a whole.
func (r *Runtime) OnRecord(f func(n int, step, kind string)) { r.store.onRecord = f }

// Engine is the engine that lives now.
func (r *Runtime) Engine() *runtime.Engine { return r.engine }

// Start starts a run and waits until it does nothing by itself any more.
func (r *Runtime) Start(ctx context.Context, req runtime.Request) (*report.Run, error) {
	if req.ID == "" {
		r.number++
		req.ID = fmt.Sprintf("%s-%d", r.plan.Name, r.number)
	}
	if req.By == "" {
		req.By = "author"
	}
	if len(req.Machines) == 0 && req.Plan == "" {
		req.Bundle = &r.bundle
	}
	r.last[req.ID] = req
	if _, err := r.engine.Start(ctx, req); err != nil && !r.store.dead() {
		return nil, err
	}
	if err := r.know(ctx, req.ID); err != nil && !r.store.dead() {
		return nil, err
	}
	return r.Settle(ctx, req.ID)
}

// know tells the world of a run.
func (r *Runtime) know(ctx context.Context, id string) error {
	run, err := r.engine.Show(ctx, id)
	if err != nil {
		return err
	}
	steps := map[string]*plans.Step{}
	ids := make([]string, len(run.Steps))
	written := map[plans.Pos][]*report.Step{}
	for i := range run.Steps {
		s := &run.Steps[i]
		ids[i] = s.ID
		if s.Pos != nil {
			written[*s.Pos] = append(written[*s.Pos], s)
		}
	}
	r.plan.Steps(func(_ string, ps *plans.Step) {
		for _, s := range written[ps.Pos] {
			if s.Kind == string(ps.Kind) && strings.HasSuffix(strings.TrimRight(s.ID, "#0123456789"), strings.TrimRight(ps.Name, "#0123456789")) {
				steps[s.ID] = ps
			}
		}
	})
	r.World.Know(id, run.Type, run.To, ids, steps)
	return nil
}

// Do asks something of a run, and waits until it does nothing by itself.
func (r *Runtime) Do(ctx context.Context, id string, what func(*runtime.Engine) error) (*report.Run, error) {
	r.World.Person()
	if err := what(r.engine); err != nil {
		if !r.store.dead() {
			return nil, err
		}
		if _, err := r.Settle(ctx, id); err != nil { // the person asks again
			return nil, err
		}
		if err := what(r.engine); err != nil && !fault.Is(err, fault.Refused) { // it was done
			return nil, err
		}
	}
	return r.Settle(ctx, id)
}

// Answer gives a person's answer to a run. When the runtime dies over it, the
// person looks first: a word that was taken is not given to the next question.
func (r *Runtime) Answer(ctx context.Context, id string, ans runtime.Answer) (*report.Run, error) {
	was, err := r.given(ctx, id, ans.By)
	if err != nil {
		return nil, err
	}
	again := false
	return r.Do(ctx, id, func(e *runtime.Engine) error {
		if again && ans.Word != runtime.SourceIsDown && ans.Word != runtime.TargetIsDown { // those are one word for many questions
			if now, err := r.given(ctx, id, ans.By); err != nil || now > was {
				return err
			}
		}
		again = true
		return e.Answer(ctx, id, ans)
	})
}

// given counts the answers of a person that a run has on record.
func (r *Runtime) given(ctx context.Context, id, by string) (n int, err error) {
	run, err := r.engine.Show(ctx, id)
	if err != nil {
		return 0, err
	}
	for _, s := range run.Statements {
		if s.By == by && strings.HasPrefix(s.What, "answer ") {
			n++
		}
	}
	return n, nil
}

// Settle waits until a run does nothing by itself. A runtime that died is
// started again: the run goes on, and unknown outcomes are answered by whoever
// looks at the world.
func (r *Runtime) Settle(ctx context.Context, id string) (*report.Run, error) {
	for range maxTurns {
		run, err := r.rest(ctx, id)
		if err != nil {
			return nil, err
		}
		if !r.store.dead() {
			if r.Deaths == 0 || run.Status != report.RunWaiting || run.ExitCode != fault.ExitUnknown {
				return run, nil
			}
			if err := r.answerUnknown(ctx, run); err != nil && !r.store.dead() {
				return nil, err
			}
			continue
		}
		if err := r.restart(ctx, id); err != nil && !r.store.dead() {
			return nil, err
		}
	}
	return nil, fault.Errorf(fault.Failed, "run %s does not come to an end", id)
}

// rest waits until the run is still, or the runtime is dead.
func (r *Runtime) rest(ctx context.Context, id string) (*report.Run, error) {
	quiet, seen := 0, int64(-1)
	for range 4_000_000 {
		if r.store.dead() {
			return nil, nil //nolint:nilnil // the caller asks whether it is dead
		}
		rev, err := r.store.Rev(ctx)
		if err != nil {
			return nil, err
		}
		if quiet++; rev != seen {
			seen, quiet = rev, 0
		}
		if quiet == 1 || quiet > 0 && quiet%240 == 0 {
			if run, err := r.still(ctx, id); run != nil || err != nil {
				return run, err
			}
		}
		select {
		case <-time.After(250 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return nil, fault.Errorf(fault.Failed, "run %s does not come to rest", id)
}

// still returns a run that does nothing by itself; nil while it works.
func (r *Runtime) still(ctx context.Context, id string) (*report.Run, error) {
	if r.engine.Busy(id) {
		return nil, nil //nolint:nilnil // it works
	}
	run, err := r.engine.Show(ctx, id)
	if err != nil {
		return nil, err
	}
	works := func(s report.Step) bool { return s.Status == report.StepRunning }
	if run.Status == report.RunUncommitted && slices.ContainsFunc(run.Steps, works) { // the read proof
		return nil, nil //nolint:nilnil // it works
	}
	return run, nil
}

// restart is the next process: it takes up what the one before left.
func (r *Runtime) restart(ctx context.Context, id string) error {
	r.Deaths++
	if err := r.Close(ctx); err != nil {
		return err
	}
	r.store.revive()
	r.open()
	run, err := r.engine.Show(ctx, id)
	switch {
	case fault.Is(err, fault.NotFound): // it died before the run existed
		if _, err = r.engine.Start(ctx, r.last[id]); err == nil {
			err = r.know(ctx, id)
		}
		return err
	case err != nil:
		return err
	}
	if err := r.know(ctx, id); err != nil {
		return err
	}
	if run.Status.Ended() || !slices.Contains(run.Allowed, report.OpResume) {
		return nil
	}
	return r.engine.Resume(ctx, id, runtime.ResumeOptions{By: "author"})
}

// answerUnknown is the person who looks whether it was done.
func (r *Runtime) answerUnknown(ctx context.Context, run *report.Run) error {
	r.World.Person()
	word := state.Again
	if r.done(ctx, run) {
		word = state.OutcomeDone
	}
	return r.engine.Answer(ctx, run.ID, runtime.Answer{Step: run.Waits[0].Step, Word: word, By: "operator", Text: "looked"})
}

// done looks whether what a run asks about was done: the world has more programs
// of the step than the journal has ends of.
func (r *Runtime) done(ctx context.Context, run *report.Run) bool {
	step := run.Waits[0].Step
	recorded, err := r.recorded(ctx, run.ID, step)
	return err == nil && r.World.Programs(run.ID, step) > recorded
}

// programs are the operations that run one.
var programs = []string{"exec.run", "ssh.run"}

// recorded counts the programs of a step whose end is on record, without those
// that may just be run again.
func (r *Runtime) recorded(ctx context.Context, run, step string) (int, error) {
	raws, err := r.engine.Journal(ctx, run)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, raw := range raws {
		kind, body, err := read(raw)
		if err != nil {
			return 0, err
		}
		isOp := kind == state.OpDone && body.Op != nil && body.Op.Class == plans.OpUnsafe && slices.Contains(programs, body.Op.Name)
		isStep := (kind == state.Done || kind == state.Failed) && body.Data != nil
		if body.Step == step && (isOp || isStep) {
			n++
		}
	}
	return n, nil
}

// dyingStore is a store whose process dies at a journal record.
type dyingStore struct {
	store.Store
	mu       sync.Mutex
	left     int // records until it dies; 0: it does not
	after    bool
	isDead   bool
	count    int
	onRecord func(n int, step, kind string)
}

func (s *dyingStore) dieAt(n int, after bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left, s.after = n, after
}

func (s *dyingStore) dead() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.isDead
}

func (s *dyingStore) pending() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.left
}

func (s *dyingStore) written() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

func (s *dyingStore) revive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.isDead = false
}

// Txn implements store.Store.
func (s *dyingStore) Txn(ctx context.Context, t store.Txn) (int64, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isDead {
		return 0, false, ErrDied
	}
	if len(t.Then) == 0 || !strings.Contains(t.Then[0].Key, "/j/") {
		return s.Store.Txn(ctx, t)
	}
	s.count++
	s.tell(t.Then[0].Value)
	if s.left == 1 && !s.after {
		s.left, s.isDead = 0, true
		return 0, false, ErrDied
	}
	rev, ok, err := s.Store.Txn(ctx, t)
	if s.left == 1 {
		s.left, s.isDead = 0, true
		return 0, false, ErrDied
	}
	s.left = max(0, s.left-1)
	return rev, ok, err
}

func (s *dyingStore) tell(raw []byte) {
	if s.onRecord == nil {
		return
	}
	if kind, body, err := read(raw); err == nil {
		s.onRecord(s.count, body.Step, string(kind))
	}
}

// read is a journal record as the engine has written it.
func read(raw []byte) (kind state.Kind, body state.Record, err error) {
	rec, err := journal.Decode(raw)
	if err == nil && len(rec.Body) > 0 {
		err = json.Unmarshal(rec.Body, &body)
	}
	return state.Kind(rec.Kind), body, err
}

// catalogue is the estate of the world, applied once.
type catalogue struct{ r *Runtime }

var _ runtime.Catalogue = catalogue{}

// AppliedEstate implements runtime.Catalogue.
func (c catalogue) AppliedEstate(context.Context) (*plans.Estate, uint64, error) {
	return c.r.World.Estate(), 1, nil
}

// AppliedPlan implements runtime.Catalogue.
func (c catalogue) AppliedPlan(_ context.Context, name string) (plans.Bundle, error) {
	if name != c.r.plan.Name {
		return plans.Bundle{}, fault.Errorf(fault.NotFound, "there is no plan %q", name)
	}
	return c.r.bundle, nil
}

// Assignment implements runtime.Catalogue.
func (c catalogue) Assignment(_ context.Context, name string) (recovery.Assignment, error) {
	a, ok := c.r.World.Assignment(name)
	if !ok {
		return a, fault.Errorf(fault.NotFound, "there is no machine %q", name)
	}
	return a, nil
}
