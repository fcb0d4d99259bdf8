package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/state"
)

// Times of the engine.
const (
	firstRetry    = 200 * time.Millisecond // after an agent was not reached
	maxRetry      = 5 * time.Second
	optionalTries = 15 * time.Second // how long a host that may be gone is called
	underWay      = 20 * time.Second // a call that took longer had reached the agent: none waits that long for a connection
	execGrace     = 10 * time.Second // for the agent's word that it ended a program
)

// job is one attempt of a step, with what it needs to know of the run.
type job struct {
	d       *driver
	step    state.Step
	life    int // how often the run was resumed
	resumed time.Time
	main    *program.Program
	machine *program.Machine            // of the step; a nameless one if it has none
	named   map[string]*program.Machine // of main; nobody changes it
	run     *state.Run                  // nor this
	typ     recovery.Type
	fence   ident.Fence
	change  string    // selector of a change of the point; else empty
	ends    time.Time // of a test; zero: a person ends it
}

// outcome is what became of a job.
type outcome struct {
	data     any
	detail   string
	skip     string // there was nothing to do, and why
	notes    []string
	err      error
	asks     bool // err, and a person decides, whatever the step's rule says
	unknown  bool // err, and nobody knows whether it was done
	diverged bool
	ask      *state.Op // a question to a person: no result yet
}

func failed(err error) outcome { return outcome{err: err} }

// job takes the snapshot. Callers hold d.mu.
func (d *driver) job(st *state.Step) *job {
	j := &job{d: d, step: *st, life: d.st.Resumes, resumed: d.st.ResumedAt, main: d.st.Main(), run: d.st.Run, typ: d.st.Type, fence: d.st.Fence, ends: d.st.TestEnds(), change: d.st.Program().Point}
	j.named = d.st.Machines()
	if j.machine = j.named[st.Machine]; j.machine == nil {
		j.machine = &program.Machine{}
	}
	if j.typ == recovery.Test { // it takes no machine away from a real run, which goes over it
		j.fence = 0
	}
	return j
}

// with is the job with another step; the step of the program, which the run
// goes by, stays as it is.
func (j *job) with(change func(*program.Step)) *job {
	k := *j
	step := *j.step.Step
	change(&step)
	k.step.Step = &step
	return &k
}

// op is the operation id: the same for every try whose predecessor may have
// reached the agent.
func (j *job) op() string { return j.run.ID + "/" + j.step.ID + "/" + strconv.Itoa(j.step.OpNumber) }

// meta goes with a command on a machine to a host. A test is cleaned up
// whatever epoch the machine has by then.
func (j *job) meta(machine, host string) command.Meta {
	m := command.Meta{Machine: machine, Op: j.op(), Epoch: j.d.epochAt(machine, host), Fence: j.fence, Run: j.run.ID}
	if j.step.Kind == program.Cleanup || j.step.Kind == program.Halt { // what runs is ended under any epoch; the fence holds
		m.Epoch = 0
	}
	return m
}

// claimed is the result of the claim step.
type claimed struct {
	Fence   ident.Fence        `json:"fence"`
	Records map[string]records `json:"records"` // by machine
}

// records are those of a machine at its hosts. It is stored as an object of records
// by host: in memory, where there may be 10,000, a map takes a kilobyte.
type records []hostRecord

type hostRecord struct {
	host string
	recovery.Authority
}

// at is the record of a host; false: it was not asked.
func (r records) at(host string) (recovery.Authority, bool) {
	i := slices.IndexFunc(r, func(h hostRecord) bool { return h.host == host })
	if i < 0 {
		return recovery.Authority{}, false
	}
	return r[i].Authority, true
}

// MarshalJSON implements json.Marshaler.
func (r records) MarshalJSON() ([]byte, error) {
	out := make(map[string]recovery.Authority, len(r))
	for _, h := range r {
		out[h.host] = h.Authority
	}
	return json.Marshal(out)
}

// UnmarshalJSON implements json.Unmarshaler.
func (r *records) UnmarshalJSON(raw []byte) error {
	var in map[string]recovery.Authority
	if err := json.Unmarshal(raw, &in); err != nil {
		return err
	}
	*r = nil
	for _, host := range slices.Sorted(maps.Keys(in)) {
		*r = append(*r, hostRecord{host, in[host]})
	}
	return nil
}

// newest is the record of a machine with the highest epoch.
func (c claimed) newest(machine string) recovery.Authority {
	var best recovery.Authority
	for _, h := range c.Records[machine] {
		a := h.Authority
		switch {
		case a.Epoch > best.Epoch:
			best = a
		case a.Epoch == best.Epoch:
			best.Uncommitted = best.Uncommitted && a.Uncommitted // cleared wins over set
		}
	}
	return best
}

// claimLocked is the result of the claim step, if it is done. Callers hold d.mu
// and only read it.
func (d *driver) claimLocked() (claimed, bool) {
	if d.claim.Records == nil {
		d.resultLocked("claim", &d.claim)
	}
	return d.claim, d.claim.Records != nil
}

// claimed is claimLocked for callers that do not hold d.mu.
func (d *driver) claimed() (claimed, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.claimLocked()
}

// authority is the record a machine has as far as this run knows: the one it
// was claimed with, or the one the run has granted since.
func (d *driver) authority(machine string) recovery.Authority {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.authorityLocked(machine)
}

// epochAt is the epoch of the record that a host holds as far as this run
// knows: agents refuse commands for any other. 0: not known.
func (d *driver) epochAt(machine, host string) ident.Epoch {
	d.mu.Lock()
	defer d.mu.Unlock()
	c, _ := d.claimLocked()
	held, _ := c.Records[machine].at(host)
	epoch := held.Epoch
	for _, st := range d.st.Of(machine) {
		if !grantsAuthority(st.Kind) || st.Host != host || st.Status != report.StepDone {
			continue
		}
		if g, ok := stored[command.GrantResult](st); ok {
			epoch = max(epoch, g.Authority.Epoch)
		}
	}
	return epoch
}

// grantsAuthority reports whether a step's result is an authority record.
func grantsAuthority(k program.Kind) bool {
	switch k {
	case program.Grant, program.GrantPeer, program.Learn, program.Return, program.ReturnPeer:
		return true
	}
	return false
}

func (d *driver) authorityLocked(machine string) recovery.Authority {
	c, _ := d.claimLocked()
	rec := c.newest(machine)
	for _, st := range d.st.Of(machine) {
		if st.Kind != program.Grant && st.Kind != program.Return || st.Status != report.StepDone {
			continue
		}
		if g, ok := stored[command.GrantResult](st); ok && g.Authority.Epoch > rec.Epoch {
			rec = g.Authority
		}
	}
	return rec
}

// timed does the step within its time. A host that was asked and did not answer
// in time stays fault.Unreachable: it may have done it.
func (j *job) timed(ctx context.Context, within time.Duration) outcome {
	ctx, cancel := context.WithTimeoutCause(ctx, within, errWithin)
	defer cancel()
	out := j.do(ctx)
	if j.step.Kind == program.Check || j.step.Kind == program.Ready { // it says so itself, with the last answer
		return out
	}
	if out.err != nil && errors.Is(context.Cause(ctx), errWithin) {
		kind := fault.KindOf(out.err)
		if kind == fault.Internal {
			kind = fault.Failed
		}
		out.err = fault.Errorf(kind, "%s: not done within %s: %w", j.step.Title, j.step.Within, out.err)
	}
	return out
}

var errWithin = errors.New("time is up")

// execute does the step. What copies data ends only by a stall, see watched.
func (j *job) execute(ctx context.Context) outcome {
	within := j.within()
	switch {
	case j.copies(), j.step.Kind == program.Right: // that one waits for as long as a lease lasts
		return j.do(ctx)
	case j.step.Kind == program.Delay:
		within += time.Minute // it ends by itself
	case j.step.Kind == program.Exec && j.step.Host != "":
		within += execGrace // the agent ends it in time, and says so
	}
	return j.timed(ctx, within)
}

// within is how long this attempt may take: the step's time is that of all its
// tries.
func (j *job) within() time.Duration { return j.step.Within - j.step.Started.Sub(j.step.Begun) }

// copies reports whether the step copies data: how long that takes nobody knows
// beforehand.
func (j *job) copies() bool {
	switch j.step.Kind {
	case program.DrainAhead, program.DrainFinal, program.Prepare, program.Found, program.Reseed, program.Cleanup, program.Proof,
		program.ReturnPeer: // what ran there is kept as a point
		return true
	}
	return false
}

func (j *job) do(ctx context.Context) outcome {
	if why := j.sourceGone(ctx); why != "" {
		return outcome{skip: why}
	}
	switch j.step.Kind {
	case program.Preflight:
		return j.preflight(ctx)
	case program.Claim:
		return j.claim(ctx)
	case program.Delay:
		return j.delay(ctx)
	case program.Points:
		return j.points(ctx)
	case program.Running:
		return j.running(ctx)
	case program.Right:
		return j.right(ctx)
	case program.Grant, program.GrantPeer:
		return j.grant(ctx)
	case program.Learn:
		return j.learn(ctx)
	case program.Return, program.ReturnPeer:
		return j.giveBack(ctx)
	case program.Proof:
		return j.proof(ctx)
	case program.Exec:
		return j.exec(ctx)
	case program.Check:
		return j.check(ctx, &j.step.Plan.Check.Check)
	case program.Ready:
		return j.check(ctx, j.step.Ready)
	case program.Action:
		return j.action(ctx)
	}
	return j.verb(ctx)
}

// sourceGone says why a step that is only tried if the source answers is not.
// Once a person has said that the source is down, one look at it is enough.
func (j *job) sourceGone(ctx context.Context) string {
	if !j.step.Source {
		return ""
	}
	var p preflighted
	if !j.d.result("preflight", &p) {
		return ""
	}
	if j.step.Host != "" {
		up, asked := p.Reached[j.step.Host]
		if up && j.d.statedDown() {
			up = j.d.e.look(ctx, map[string]bool{j.step.Host: true}).answers(j.step.Host)
		}
		if asked && !up && ctx.Err() == nil {
			return j.step.Host + " does not answer"
		}
		return ""
	}
	for _, m := range j.main.Active() {
		if p.Reached[m.FromHost] {
			return ""
		}
	}
	return "no host of the source site answers"
}

func (j *job) delay(ctx context.Context) outcome {
	left := j.step.Within - j.d.e.now().Sub(j.step.Started)
	if left <= 0 {
		return outcome{detail: "waited " + j.step.Within.String()}
	}
	select {
	case <-time.After(left):
		return outcome{detail: "waited " + j.step.Within.String()}
	case <-ctx.Done():
		return failed(context.Cause(ctx))
	}
}

// try calls f until the agent was reached, with growing pauses, under one
// operation id. ctx ends it, or that the agent was not reached for the step's
// time; where the host may be gone (optional steps), for a short one.
func (j *job) try(ctx context.Context, f func(context.Context) error) error {
	limit := j.step.Within
	if j.step.Optional {
		limit = optionalTries
		if j.step.Kind != program.Stop && !j.copies() { // those take their time once they are under way
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeoutCause(ctx, optionalTries, errWithin)
			defer cancel()
		}
	}
	closing := j.d.e.closing
	if j.step.Kind == program.Action { // its function would take the end of the runtime for an answer of the host
		closing = nil
	}
	pause := firstRetry
	lost := j.d.e.now() // since when the agent is not reached
	for {
		asked := j.d.e.now()
		err := f(ctx)
		again := fault.Is(err, fault.Unreachable) || fault.Is(err, fault.Interrupted) // the agent takes an interrupted operation up again
		if !again || ctx.Err() != nil {
			return err
		}
		now := j.d.e.now()
		if j.step.Host != "" {
			j.d.setProgress(j.step.ID, report.Progress{Phase: "waits for " + j.step.Host + ": " + err.Error()}, now)
		}
		if now.Sub(asked) > underWay {
			lost, pause = now, firstRetry
		}
		if now.Sub(lost) >= limit {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		case <-j.hurried():
			return leftError{err}
		case <-closing: // the next process asks again, under the same operation id
			return errLeaving
		}
		pause = min(2*pause, maxRetry)
	}
}
