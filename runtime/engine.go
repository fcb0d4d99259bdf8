package runtime

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/state"
	"github.com/drrun/drrun/runtime/store"
)

// Options are the parts an engine is wired from.
type Options struct {
	Store     store.Store
	Caller    command.Caller
	Catalogue Catalogue
	Scripts   Scripts      // nil: plans without functions only
	Runner    Runner       // nil: LocalRunner
	Clock     clock.Clock  // nil: the real one
	Log       *slog.Logger // nil: discards
	// NewID gives runs their ids; nil: the plan's name and six random digits.
	NewID    func(plan string) string
	Version  string // of this program, noted in journals
	KeepRuns int    // how many ended runs stay in the store; 0: KeepRuns
	// Controller says that another runtime follows this one: runs that Close
	// pauses are for it to go on with (see Unfinished), not for a person.
	Controller bool
	Guard      Guard // nil: none
}

// Engine starts and drives runs. One engine has the state folder at a time.
type Engine struct {
	store   store.Store
	caller  command.Caller
	cat     Catalogue
	scripts Scripts
	runner  Runner
	clock   clock.Clock
	log     *slog.Logger
	newID   func(string) string

	version  string
	keepRuns int
	handOver bool
	guard    Guard
	births   sync.Mutex // from the sources of a new run to its first record; before mu

	ctx    context.Context // ends when Close has waited long enough
	cancel context.CancelCauseFunc

	closing chan struct{} // closed when Close begins: no step waits for an agent any more

	mu     sync.Mutex
	live   map[string]*driver
	taking map[string]chan struct{} // runs that are being taken over; closed when that has ended
	closed bool
}

// New returns an engine. It takes up no run by itself: see Unfinished and
// Resume.
func New(o Options) *Engine {
	ctx, cancel := context.WithCancelCause(context.Background())
	e := &Engine{store: o.Store, caller: o.Caller, cat: o.Catalogue, scripts: o.Scripts, runner: o.Runner, clock: o.Clock, log: o.Log,
		newID: o.NewID, version: o.Version, keepRuns: cmp.Or(o.KeepRuns, KeepRuns), handOver: o.Controller, guard: o.Guard, ctx: ctx, cancel: cancel, closing: make(chan struct{}), live: map[string]*driver{}, taking: map[string]chan struct{}{}}
	if e.runner == nil {
		e.runner = LocalRunner{}
	}
	if e.clock == nil {
		e.clock = clock.Real{}
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if e.newID == nil {
		e.newID = func(plan string) string {
			return plan[:min(len(plan), ident.MaxName-7)] + "-" + ident.NewID().String()[:6]
		}
	}
	return e
}

// prepared is a run that could start.
type prepared struct {
	src     sources
	plan    *plans.Plan
	rev     uint64
	program *program.Program
	seen    ident.Fence // highest fencing number that an agent reported
	look    looked      // what the agents of the machines said
	// supersedes is the uncommitted run whose machines this one takes on.
	supersedes string
}

// prepare loads plan and estate, looks where the machines are and compiles.
func (e *Engine) prepare(ctx context.Context, req *Request) (*prepared, error) {
	if err := req.check(); err != nil {
		return nil, err
	}
	est, rev, err := e.cat.AppliedEstate(ctx)
	if err != nil {
		return nil, err
	}
	p := &prepared{src: sources{estate: est}, rev: rev}
	if len(req.Machines) == 0 {
		if p.src.bundle, p.plan, err = e.loadPlan(ctx, req); err != nil {
			return nil, err
		}
		if err := plans.Check(p.plan, est); err != nil {
			return nil, fault.Wrap(fault.Invalid, err)
		}
	}
	names := req.Machines
	if p.plan != nil {
		for _, g := range p.plan.Resolve(est) {
			names = append(names, g.Names()...)
		}
	}
	facts, look, err := e.facts(ctx, names)
	if err != nil {
		return nil, err
	}
	p.seen, p.look = look.fence(), look
	if p.plan == nil {
		if p.plan, err = planOfMachines(est, req, facts); err != nil {
			return nil, err
		}
	}
	p.program, err = program.Compile(p.plan, est, program.Request{Type: req.Type, Failback: req.Failback, NoShutdown: req.NoShutdown, NoProof: req.NoProof}, facts)
	if err == nil && req.Type == recovery.Unplanned {
		p.supersedes, err = e.lostRun(ctx, p)
	}
	if err == nil && p.program.Nothing != "" && (req.Type == recovery.Planned || req.SourceIsDown) {
		if locked := look.locked(p.program); len(locked) > 0 {
			p.program = program.StartThere(p.program, locked)
		}
	}
	return p, err
}

func (e *Engine) loadPlan(ctx context.Context, req *Request) (b plans.Bundle, p *plans.Plan, err error) {
	if req.Bundle != nil {
		b = *req.Bundle
	} else if b, err = e.cat.AppliedPlan(ctx, req.Plan); err != nil {
		return b, nil, err
	}
	if e.scripts == nil {
		return b, nil, fault.Errorf(fault.Internal, "this engine has no script loader")
	}
	set := req.Set
	if set == nil {
		set = map[string]string{} // it is to be run: see LoadPlan
	}
	p, err = e.scripts.LoadPlan(b, set)
	if err != nil {
		return b, nil, fault.Wrap(fault.Invalid, err)
	}
	return b, p, nil
}

// planOfMachines is the plan of `failover MACHINE…`: one group, from the home
// site of the machines to the site of their replicas.
func planOfMachines(est *plans.Estate, req *Request, facts map[string]program.Fact) (*plans.Plan, error) {
	p := &plans.Plan{Name: "machines"}
	if len(req.Machines) == 1 {
		p.Name = req.Machines[0]
	}
	g := &plans.Group{Name: "machines"}
	for _, name := range req.Machines {
		home, ok := est.HomeSite(name)
		if !ok {
			return nil, fault.Errorf(fault.NotFound, "there is no machine %q in the estate", name).WithHint("list them with: drrun status")
		}
		to := ""
		for _, h := range facts[name].Hosts {
			if h.Site != home {
				to = h.Site
			}
		}
		if p.From != "" && (p.From != home || p.To != to) {
			return nil, fault.Errorf(fault.Invalid, "%s goes %s → %s and %s goes %s → %s: one run has one direction",
				req.Machines[0], p.From, p.To, name, home, to).WithHint("start one run for each direction")
		}
		p.From, p.To = home, to
		g.Machines = append(g.Machines, plans.MachineRef{Name: name})
	}
	p.Items = []plans.Item{{Group: g}}
	return p, nil
}

// facts asks the agents where machines are active, and returns what they said.
func (e *Engine) facts(ctx context.Context, machines []string) (map[string]program.Fact, looked, error) {
	facts := map[string]program.Fact{}
	hosts := map[string]bool{}
	for _, m := range machines {
		a, err := e.cat.Assignment(ctx, m)
		if err != nil {
			return nil, looked{}, err
		}
		facts[m] = program.Fact{Hosts: a.Hosts}
		for _, h := range a.Hosts {
			hosts[h.Name] = true
		}
	}
	look := e.look(ctx, hosts)
	var lost []string
	for _, m := range slices.Sorted(maps.Keys(facts)) {
		f := facts[m]
		rec, _ := look.newest(m) // a conflict is preflight's to refuse
		if f.Active = rec.Active; rec.Epoch == 0 {
			lost = append(lost, fmt.Sprintf("nobody knows where %s is active: %s", m, look.why(f.Hosts)))
		}
		facts[m] = f
	}
	if len(lost) > 0 {
		return nil, looked{}, fault.Errorf(fault.Unreachable, "%s", strings.Join(lost, "; ")).WithHint("start the agents, or look at: drrun status")
	}
	return facts, look, nil
}

// Start stores a run and begins it. It returns when the run exists; what
// happens to it is in Show and Events. Errors mean that nothing was started.
func (e *Engine) Start(ctx context.Context, req Request) (id string, err error) {
	guarded := e.askGuard(ctx, req.Type)
	p, err := e.prepare(ctx, &req)
	if gerr := guarded(); gerr != nil {
		return "", gerr
	}
	if err != nil {
		return "", err
	}
	if p.program.Nothing != "" && req.Type != recovery.Test {
		if err := e.standing(ctx, &req, p); err != nil {
			return "", err
		}
	}
	return e.begin(ctx, runOf(&req, p), p)
}

// runOf is what a run is started with.
func runOf(req *Request, p *prepared) *state.Run {
	rec := &state.Run{ID: req.ID, Kind: report.KindFailover, StartedBy: req.By, Params: p.plan.Params, Set: req.Set, EstateRev: p.rev,
		RTO: p.plan.RTO, RPO: p.plan.RPO, Commit: p.plan.Commit, Cleanup: req.Cleanup, TTL: req.TTL, SourceIsDown: req.SourceIsDown,
		Force: req.Force, NoShutdown: req.NoShutdown, NoProof: req.NoProof, Unattended: req.Unattended}
	rec.Point, rec.Supersedes = selectorOf(req, p.plan), p.supersedes
	if req.Commit {
		rec.Commit.Mode = "auto"
	}
	return rec
}

func selectorOf(req *Request, p *plans.Plan) string {
	switch {
	case req.Type == recovery.Planned:
		return recovery.SelectLatest
	case req.Point != "":
		return req.Point
	case p.Point != "":
		return p.Point
	}
	return recovery.SelectLatest
}

// begin stores the sources and the first record, and drives the run.
func (e *Engine) begin(ctx context.Context, run *state.Run, p *prepared) (string, error) {
	if run.ID == "" {
		run.ID = e.newID(p.program.Plan)
	}
	e.births.Lock()
	defer e.births.Unlock()
	if err := e.create(ctx, run, p); err != nil {
		return "", err
	}
	if err := e.retain(ctx); err != nil { // no reason to hold a failover up
		e.log.Error("cannot drop old runs", "cause", err.Error())
	}
	return run.ID, nil
}

// create commits the first record of a run and drives it.
func (e *Engine) create(ctx context.Context, run *state.Run, p *prepared) (err error) {
	if p.src.bundle.Main != "" {
		if run.Bundle, err = putBlob(ctx, e.store, p.src.bundle); err != nil {
			return err
		}
	}
	if run.Estate, err = putBlob(ctx, e.store, p.src.estate); err != nil {
		return err
	}
	if p.src.plan = p.plan; p.plan != nil {
		if run.Plan, err = putBlob(ctx, e.store, p.plan); err != nil {
			return err
		}
	}
	fence, err := nextFence(ctx, e.store, p.seen)
	if err != nil {
		return err
	}
	rec := state.Record{Kind: state.Created, Time: e.now(), Run: run, Program: p.program, Fence: fence}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errClosing()
	}
	st, j, err := e.createRun(ctx, rec)
	if err != nil {
		return err
	}
	e.log.Info("run started", "run", run.ID, "plan", p.program.Plan, "type", string(p.program.Type), "by", run.StartedBy)
	if !st.Status.Ended() {
		e.drive(newDriver(e, st, j, p.src))
	}
	return nil
}

func errClosing() error {
	return fault.Errorf(fault.Unreachable, "this runtime is ending").WithHint("ask again in a moment")
}

// drive starts the goroutine of a run. Callers hold e.mu.
func (e *Engine) drive(d *driver) {
	e.live[d.id] = d
	go func() {
		d.loop()
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.live[d.id] == d {
			delete(e.live, d.id)
		}
		close(d.done)
	}()
}

// clearTests cancels the tests that stand on the machines of a real run, which
// goes over them and does not wait for their cleanup. It returns what is to be
// noted: which were cancelled, and which could not be, and why.
func (e *Engine) clearTests(ctx context.Context, p *program.Program, by string) (left []string) {
	heads, err := e.heads(ctx)
	if err != nil {
		return []string{fmt.Sprintf("cannot look for tests: %v", err)}
	}
	by = nobody(by) + ", whose real run goes over the test"
	for _, h := range heads {
		shares := slices.ContainsFunc(p.Active(), func(m program.Machine) bool { return slices.Contains(h.Machines, m.Name) })
		if h.Type != recovery.Test || h.Status.Ended() || !shares || h.Section == program.SectionCleanup {
			continue
		}
		left = append(left, fmt.Sprintf("test %s stood on its machines and is cancelled", h.ID))
		err := e.with(ctx, h.ID, by, report.OpCancel, func(d *driver) error {
			if err := d.cancelRun(by); err == nil {
				return nil
			}
			return d.cleanup(by)
		})
		if err != nil {
			left[len(left)-1] = fmt.Sprintf("test %s goes on beside this run: %v", h.ID, err)
		}
	}
	return left
}

// with calls f with the driver of a run, for the operation op. A run that no
// one drives is taken over first: its machines are claimed with a fresh fencing
// number, and nothing of it starts before f has said what is wanted.
func (e *Engine) with(ctx context.Context, id, by, op string, f func(*driver) error) error {
	return e.withAsked(ctx, id, by, op, nil, f)
}

// withAsked is with for what has to ask agents before f: ask does, with no lock
// held.
func (e *Engine) withAsked(ctx context.Context, id, by, op string, ask, f func(*driver) error) error {
	id, err := e.resolve(ctx, id)
	if err != nil {
		return err
	}
	for {
		e.mu.Lock()
		if e.closed {
			e.mu.Unlock()
			return errClosing()
		}
		wait := e.taking[id]
		switch d := e.live[id]; {
		case d != nil && op == report.OpResume && d.rest():
			wait = d.done // whoever resumes a run claims its machines
		case d != nil && ask != nil:
			e.mu.Unlock()
			if err := ask(d); err != nil {
				return err
			}
			ask = nil
			continue
		case d != nil:
			defer e.mu.Unlock()
			return f(d)
		}
		if wait == nil {
			break
		}
		e.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	done := make(chan struct{})
	e.taking[id] = done
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		delete(e.taking, id)
		e.mu.Unlock()
		close(done)
	}()
	return e.take(ctx, id, by, op, ask, f)
}

// take takes a run over. It asks agents, which may take a while: e.mu is not
// held meanwhile.
func (e *Engine) take(ctx context.Context, id, by, op string, ask, f func(*driver) error) error {
	st, j, err := e.load(ctx, id)
	if err != nil {
		return err
	}
	if st.Status.Ended() {
		return notAllowed(st, op)
	}
	if err := e.askGuard(ctx, st.Type)(); err != nil {
		return err
	}
	src, err := e.sources(ctx, st.Run)
	if err != nil {
		return err
	}
	d := newDriver(e, st, j, src)
	if err := d.takeOver(ctx, by, op); err != nil {
		return err
	}
	if ask != nil {
		if err := ask(d); err != nil {
			return err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errClosing()
	}
	if err := f(d); err != nil {
		return err
	}
	e.drive(d)
	return nil
}

func notAllowed(st *state.State, op string) error {
	return report.NotAllowed(st.Run.ID, st.Status, st.Allowed(true), op)
}

// Resume lets a stopped, paused or orphaned run go on, from the step where it
// stopped.
func (e *Engine) Resume(ctx context.Context, id string, o ResumeOptions) error {
	resume := func(d *driver) error { return d.resume(ctx, o) }
	if o.As == "" {
		return e.with(ctx, id, o.By, report.OpResume, resume)
	}
	undo := func() {}
	takeover := func(d *driver) (err error) {
		undo, err = d.takeover(ctx, o)
		return err
	}
	err := e.withAsked(ctx, id, o.By, report.OpResume, takeover, resume)
	if err != nil {
		undo()
	}
	return err
}

// Answer answers a wait or a question of a run.
func (e *Engine) Answer(ctx context.Context, id string, a Answer) error {
	return e.with(ctx, id, a.By, report.OpAnswer, func(d *driver) error { return d.answer(a) })
}

// Pause lets the steps in flight end and starts no others.
func (e *Engine) Pause(ctx context.Context, id, by string) error {
	return e.with(ctx, id, by, report.OpPause, func(d *driver) error { return d.pause(by) })
}

// Cancel ends a run and takes back what can be: tests are cleaned up, machines
// that were stopped and not failed over are unlocked and started.
func (e *Engine) Cancel(ctx context.Context, id, by string) error {
	st, err := e.peek(ctx, id)
	if err != nil {
		return err
	}
	e.mu.Lock()
	driven := e.live[st.Run.ID] != nil && st.Cancellable()
	e.mu.Unlock()
	if !driven { // agents refuse what an overtaken run would take back
		if other := e.overBy(ctx, st); other != "" {
			return e.endAs(ctx, st.Run.ID, other, by)
		}
	}
	return e.with(ctx, id, by, report.OpCancel, func(d *driver) error { return d.cancelRun(by) })
}

// Commit makes a failover final.
func (e *Engine) Commit(ctx context.Context, id, by string) error {
	return e.withLetGo(ctx, id, by, report.OpCommit, func(d *driver) error { return d.commit(by) })
}

// Cleanup ends a test.
func (e *Engine) Cleanup(ctx context.Context, id, by string) error {
	return e.with(ctx, id, by, report.OpCleanup, func(d *driver) error { return d.cleanup(by) })
}

// Unfinished lists the runs that nobody drives and that would go on by
// themselves, at once or when somebody answers or a commit window ends: a
// controller resumes them when it starts.
func (e *Engine) Unfinished(ctx context.Context) ([]string, error) {
	heads, err := e.heads(ctx)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []string
	for _, h := range heads {
		if e.live[h.ID] == nil && !h.Lost && !h.Status.Ended() && (h.works() || h.HandOver || h.Status == report.RunWaiting || !h.Due.IsZero()) {
			out = append(out, h.ID)
		}
	}
	return out, nil
}

// Close pauses what is busy, waits for the steps in flight until ctx ends, and
// then leaves at once. A step whose agent is not reached is not in flight: the
// next process asks again. All runs can be resumed. Idempotent.
func (e *Engine) Close(ctx context.Context) error {
	e.mu.Lock()
	if !e.closed {
		close(e.closing)
	}
	e.closed = true
	drivers := make([]*driver, 0, len(e.live))
	for _, d := range e.live {
		drivers = append(drivers, d)
	}
	e.mu.Unlock()
	var errs []error
	for _, d := range drivers {
		if err := d.park(); err != nil {
			errs = append(errs, err)
		}
	}
	for _, d := range drivers {
		select {
		case <-d.done:
		case <-ctx.Done():
			e.cancel(errLeaving)
			<-d.done
		}
	}
	e.cancel(errLeaving)
	return errors.Join(errs...)
}

var errLeaving = fault.Errorf(fault.Interrupted, "the runtime ended")

// Store returns the store that the engine keeps its runs in.
func (e *Engine) Store() store.Store { return e.store }

func encode(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("internal error: cannot encode %T: %v", v, err))
	}
	return raw
}
