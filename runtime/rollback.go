package runtime

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/state"
)

// writtenTimeout is how long counting what a machine has written may take
// before a rollback is asked about without the number.
const writtenTimeout = 2 * time.Minute

// Written says what the machines of an uncommitted failover have written at
// the new site: what a rollback takes from it and keeps as points. A machine
// whose number could not be had has Error set.
func (e *Engine) Written(ctx context.Context, id string) ([]report.Written, error) {
	st, err := e.peek(ctx, id)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, writtenTimeout)
	defer cancel()
	var out []report.Written
	granted := st.GrantedSet()
	for _, m := range st.Main().Active() {
		if !granted[m.Name] {
			continue
		}
		w := report.Written{Machine: m.Name, Host: m.ToHost}
		res, err := command.Written.Call(ctx, e.caller, m.ToHost, command.Meta{Machine: m.Name, Run: st.Run.ID}) // a question: no fence, no operation
		if w.Bytes, w.Blocks, w.Since = res.Bytes, res.Blocks, res.Since; err != nil {
			w.Error = asFault(err)
		}
		out = append(out, w)
	}
	return out, nil
}

// Rollback takes an uncommitted failover back: the machines are stopped at the
// new site, what they wrote there is kept as points, and they start at the old
// site from the disks they left there.
func (e *Engine) Rollback(ctx context.Context, id, by string) error {
	st, err := e.peek(ctx, id)
	if err != nil {
		return err
	}
	look := e.look(ctx, hostsOf(st)) // before the run is locked: hosts may take their time
	room := e.roomBack(ctx, st, look, nil)
	return e.withLetGo(ctx, st.Run.ID, by, report.OpRollback, func(d *driver) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		if err := d.mayRollBack(look, room); err != nil {
			return err
		}
		return d.beginSection(program.SectionRollback, by)
	})
}

// ChangePoint puts the machines of an uncommitted unplanned failover on another
// recovery point.
func (e *Engine) ChangePoint(ctx context.Context, id, point, by string) error {
	if point == "" {
		return fault.Errorf(fault.Invalid, "change-point needs the recovery point to change to").WithHint("list them with: drrun points MACHINE; then add --point")
	}
	st, err := e.peek(ctx, id)
	if err != nil {
		return err
	}
	var no []objection
	if st.PointChangeable() {
		if no, err = e.pointsThere(ctx, st, point); err != nil {
			return err
		}
	}
	return e.withLetGo(ctx, st.Run.ID, by, report.OpChangePoint, func(d *driver) error { return d.changePoint(point, by, no) })
}

// peek reads where a run stands now, without driving it.
func (e *Engine) peek(ctx context.Context, id string) (*state.State, error) {
	id, err := e.resolve(ctx, id)
	if err != nil {
		return nil, err
	}
	st, _, err := e.load(ctx, id)
	return st, err
}

func (d *driver) hosts() map[string]bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return hostsOf(d.st)
}

func hostsOf(st *state.State) map[string]bool {
	hosts := map[string]bool{}
	for _, h := range st.Main().Hosts() {
		hosts[h] = true
	}
	return hosts
}

// mayRollBack refuses a rollback that could not be done, before anything is
// changed. Both ends of every machine must answer: what runs at the new site
// has to be stopped there, and the old site must be known not to have moved on.
// Callers hold d.mu.
func (d *driver) mayRollBack(look looked, room []objection) error {
	if !d.st.Rollbackable() {
		return notAllowed(d.st, report.OpRollback)
	}
	var no []string
	hint := ""
	object := func(h, format string, args ...any) {
		no = append(no, fmt.Sprintf(format, args...))
		if hint == "" {
			hint = h
		}
	}
	over := d.ours(d.gone)
	for _, m := range d.st.Main().Active() {
		returned := slices.Contains(over, m.Name)
		if d.gone[m.Name] != "" || !returned && !slices.Contains(d.st.Held(), m.Name) {
			continue
		}
		if returned && !look.answers(m.ToHost) {
			object(fmt.Sprintf("start the agent on %s; if the site %s is lost, fail over from it: drrun %s --unplanned --failback --source-is-down", m.ToHost, m.ToSite, d.st.Main().Plan),
				"%s, where %s runs, does not answer: it could not be stopped (%v)", m.ToHost, m.Name, look.failure(m.ToHost))
		}
		ms, ok := look.machine(m.FromHost, m.Name)
		switch {
		case !look.answers(m.FromHost):
			object("start the agent on "+m.FromHost, "%s, where %s is to run again, does not answer (%v)", m.FromHost, m.Name, look.failure(m.FromHost))
		case !ok:
			object("drrun apply gives hosts their machines", "%s does not know %s", m.FromHost, m.Name)
		case ms.Authority.Epoch > d.authorityLocked(m.Name).Epoch && ms.Authority.Run != d.id:
			object("look at: drrun status "+m.Name, "%s has moved on to epoch %d by run %s", m.Name, ms.Authority.Epoch, ms.Authority.Run)
		case returned && ms.Power == recovery.PowerUnknown:
			object("look at the machine on "+m.FromHost, "nobody knows whether %s runs on %s", m.Name, m.FromHost)
		}
	}
	for _, o := range room {
		object(o.hint, "%s", o.text)
	}
	if len(no) == 0 {
		return nil
	}
	return fault.Errorf(fault.Refused, "rollback of run %s: %s; nothing was changed", d.id, strings.Join(no, "; ")).WithHint("%s", hint)
}

// roomBack says which hosts have too little room to end the failover: to keep
// what the machines wrote at the new site and, for a rollback, to give the old
// site its disks back; for a change, to start on the points to. Hosts read their
// disks for it; one that has not said it in time, or that an older program runs
// on, holds nothing up.
func (e *Engine) roomBack(ctx context.Context, st *state.State, look looked, to map[string]ident.PointID) []objection {
	ctx, cancel := context.WithTimeout(ctx, writtenTimeout)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	room := rooms{}
	ask := func(host, machine string) {
		wg.Go(func() {
			res, err := command.RoomBack.Call(ctx, e.caller, host, command.RoomBackRequest{Meta: command.Meta{Machine: machine, Run: st.Run.ID}, Point: to[machine]})
			if err != nil {
				e.log.Info("a host does not say which room it needs", "run", st.Run.ID, "host", host, "machine", machine, "cause", err.Error())
				return
			}
			mu.Lock()
			defer mu.Unlock()
			room.add(host, machine, res)
		})
	}
	granted := st.GrantedSet()
	for _, m := range st.Main().Active() {
		if !granted[m.Name] {
			continue
		}
		if to != nil || look.answers(m.ToHost) {
			ask(m.ToHost, m.Name)
		}
		if to == nil && look.answers(m.FromHost) {
			ask(m.FromHost, m.Name)
		}
	}
	wg.Wait()
	what := "roll back"
	if to != nil {
		what = "change the point of"
	}
	return room.object(what)
}

// pointsThere says which machines of a run do not have the point that is asked
// for, and which hosts no room to change to it.
func (e *Engine) pointsThere(ctx context.Context, st *state.State, selector string) (no []objection, err error) {
	src, err := e.sources(ctx, st.Run)
	if err != nil {
		return nil, err
	}
	to := map[string]ident.PointID{}
	granted := st.GrantedSet()
	for _, m := range st.Main().Active() {
		if !granted[m.Name] {
			continue
		}
		if to[m.Name], err = e.pointThere(ctx, src, m, selector); err != nil {
			no = append(no, objection{text: err.Error(), hint: "list them with: drrun points MACHINE"})
		}
	}
	if len(no) > 0 {
		return no, nil
	}
	return e.roomBack(ctx, st, looked{}, to), nil
}

func (e *Engine) pointThere(ctx context.Context, src sources, m program.Machine, selector string) (ident.PointID, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	res, err := command.Points.Call(ctx, e.caller, m.ToHost, command.PointsRequest{Machine: m.Name})
	if err != nil {
		return ident.PointID{}, fmt.Errorf("cannot read the points of %s on %s: %w", m.Name, m.ToHost, err)
	}
	p, err := recovery.Select(res.Points, selector, src.estate.PolicyOf(m.Name).Consistency == recovery.Fuzzy)
	if err != nil {
		return ident.PointID{}, fmt.Errorf("%s on %s: %w", m.Name, m.ToHost, err)
	}
	return p.ID, nil
}

func (d *driver) changePoint(point, by string, no []objection) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case !d.st.PointChangeable():
		return notAllowed(d.st, report.OpChangePoint)
	case len(no) > 0:
		var texts []string
		for _, o := range no {
			texts = append(texts, o.text)
		}
		return fault.Errorf(fault.Refused, "change of the recovery point of run %s: %s; nothing was changed", d.id, strings.Join(texts, "; ")).
			WithHint("%s", no[0].hint)
	}
	p := program.ChangePointOf(d.st.Main(), d.st.Granted(), point, len(d.st.Programs), d.readiness())
	d.waitAgain()
	return d.append(state.Record{Kind: state.Section, By: nobody(by), Program: p})
}

// readiness are the readiness questions of the estate that the run keeps.
func (d *driver) readiness() map[string]*recovery.Check {
	out := map[string]*recovery.Check{}
	for _, m := range d.st.Main().Active() {
		if em, ok := d.src.estate.Machine(m.Name); ok && em.Ready != nil {
			out[m.Name] = em.Ready
		}
	}
	return out
}

// rollbackProgram is the rollback of where the run stands. Callers hold d.mu.
func (d *driver) rollbackProgram() *program.Program {
	main := d.st.Main()
	addresses := map[string]string{}
	for _, m := range main.Active() {
		if a, ok := d.src.estate.AddressOf(m.Name, m.FromSite, false); ok {
			addresses[m.Name] = a.IP
		}
	}
	held := slices.DeleteFunc(d.st.Held(), func(m string) bool { return d.gone[m] != "" })
	var done []*program.Step
	for _, st := range d.st.Ordered() {
		if (st.Kind == program.Exec || st.Kind == program.Action) && st.Status == report.StepDone {
			done = append(done, st.Step)
		}
	}
	return program.RollbackOf(main, d.ours(d.gone), held, addresses, d.readiness(), done)
}

// windowRollback rolls back because the commit window ended: only if that can
// be done now and the source is still locked. Else a person decides.
func (d *driver) windowRollback() {
	look := d.e.look(d.e.ctx, d.hosts())
	var room []objection
	if st, err := d.e.peek(d.e.ctx, d.id); err == nil { // else the rollback says so itself
		room = d.e.roomBack(d.e.ctx, st, look, nil)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.nudge()
	d.deciding = false
	if d.dead != nil || d.parked || d.st.CommitDue().IsZero() || d.st.CommitDue().After(d.e.now()) {
		return // a person was quicker
	}
	err := d.mayRollBack(look, room)
	for _, m := range d.st.Main().Active() {
		if ms, ok := look.machine(m.FromHost, m.Name); err == nil && ok && !ms.Locked {
			err = fault.Errorf(fault.Refused, "%s is not locked on %s any more", m.Name, m.FromHost)
		}
	}
	if err != nil {
		d.noteDown(state.Record{Kind: state.Expired, Text: "the commit window ended, not rolled back: " + err.Error()})
		return
	}
	d.noteDown(state.Record{Kind: state.Noted, Text: "the commit window ended without a commit"})
	if err := d.beginSection(program.SectionRollback, "the plan's commit window"); err != nil {
		d.e.log.Error("cannot roll back", "run", d.id, "cause", err.Error())
	}
}

// noteDown appends a record whose failure the driver has dealt with already.
func (d *driver) noteDown(r state.Record) {
	if err := d.append(r); err != nil {
		d.e.log.Debug("not noted", "run", d.id, "cause", err.Error())
	}
}

func (j *job) haltRequest(m command.Meta) command.StopRequest {
	return command.StopRequest{Meta: m, Force: true, Lock: j.step.Lock}
}

// giveBack moves the authority record of a machine to the old site again.
func (j *job) giveBack(ctx context.Context) outcome {
	have, next, err := j.returning(ctx)
	if err != nil {
		return failed(j.at(err))
	}
	if have.Same(next) {
		return outcome{data: command.GrantResult{Authority: next}, detail: fmt.Sprintf("epoch %d, active at %s", next.Epoch, next.Active)}
	}
	return j.moveTo(ctx, &have, &next)
}

// returning reads the records that both hosts hold now. A record of this run
// that gives the old site its authority back is the one; else it is made.
func (j *job) returning(ctx context.Context) (have, next recovery.Authority, err error) {
	held := map[string]recovery.Authority{}
	for _, host := range []string{j.machine.FromHost, j.machine.ToHost} {
		if held[host], err = j.claimNow(ctx, host); err != nil {
			return have, next, fmt.Errorf("cannot read the record of %s on %s: %w", j.step.Machine, host, err)
		}
	}
	have = held[j.step.Host]
	mine := j.d.authority(j.step.Machine)
	last := mine.Epoch
	for host, rec := range held {
		switch {
		case rec.Run == j.run.ID && rec.Active == j.machine.FromSite && rec.Epoch > next.Epoch:
			next = rec
		case rec.Epoch > mine.Epoch && rec.Run != j.run.ID:
			return have, next, fault.Errorf(fault.Conflict, "%s holds epoch %d of %s by run %s", host, rec.Epoch, j.step.Machine, rec.Run)
		}
		last = max(last, rec.Epoch)
	}
	if next.Epoch > 0 {
		return have, next, nil
	}
	return have, j.home(last + 1), nil
}

// home is the record that a rollback grants.
func (j *job) home(epoch ident.Epoch) recovery.Authority {
	return recovery.Authority{Epoch: epoch, Active: j.machine.FromSite, Run: j.run.ID, By: j.run.StartedBy, At: j.step.First,
		Direction: []recovery.Pair{{From: j.machine.FromHost, To: j.machine.ToHost}}}
}

// claimNow reads the record that a host holds, with this run's fencing number.
func (j *job) claimNow(ctx context.Context, host string) (recovery.Authority, error) {
	op := fmt.Sprintf("%s/%s/%d.%d/%s", j.run.ID, j.step.ID, j.step.Attempt, j.life, host)
	var res command.ClaimResult
	err := j.try(ctx, func(ctx context.Context) (err error) {
		res, err = command.Claim.Call(ctx, j.d.e.caller, host,
			command.ClaimRequest{Meta: command.Meta{Machine: j.step.Machine, Op: op, Fence: j.fence, Run: j.run.ID}})
		return err
	})
	return res.Authority, err
}
