package runtime

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/planted"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
)

// call sends a verb to the step's host until it was reached, and makes the
// outcome of it. in makes the request with the operation's meta.
func call[In, Out any](ctx context.Context, j *job, v command.Verb[In, Out], in func(command.Meta) In, tell func(*Out) outcome) outcome {
	out := new(Out)
	if err := send(ctx, j, v, in, out, j.try); err != nil {
		return failed(j.at(err))
	}
	return tell(out)
}

// long is call for verbs that copy data.
func long[In, Out any](ctx context.Context, j *job, v command.Verb[In, Out], in func(command.Meta) In, tell func(*Out) outcome) outcome {
	out := new(Out)
	err := send(ctx, j, v, in, out, func(ctx context.Context, f func(context.Context) error) error { return j.watched(ctx, j.step.Host, f) })
	if err != nil {
		return failed(j.at(err))
	}
	return tell(out)
}

// send keeps the operation id while nobody knows whether the agent was reached. It
// stands on the stack of every step under way, of which there may be thousands:
// what is large stays off it.
func send[In, Out any](ctx context.Context, j *job, v command.Verb[In, Out], in func(command.Meta) In, out *Out,
	try func(context.Context, func(context.Context) error) error) error {
	o := &sending{job: j, meta: j.meta(j.step.Machine, j.step.Host)}
	o.op = o.meta.Op
	request := func() any { return in(o.meta) }
	return try(ctx, func(ctx context.Context) error {
		err := j.d.e.caller.Call(ctx, j.step.Host, v.Name, request(), out)
		if fault.Is(err, fault.Unreachable) && ctx.Err() == nil {
			o.stored(ctx)
		}
		return err
	})
}

// sending is one command of a step to an agent, over all tries.
type sending struct {
	job            *job
	meta           command.Meta
	op             string
	again, further int
}

// stored takes a further operation id where the agent has stored that it did not
// reach another host: an agent that answers, and answers the operation twice with
// "unreachable". The verb, which may be repeated, is then asked for under an id that
// no earlier attempt or process has used: its result would only be the same again.
//
//go:noinline
func (s *sending) stored(ctx context.Context) {
	j := s.job
	if !j.d.e.lookAt(ctx, j.step.Host, j.step.Machine).answers(j.step.Host) {
		return
	}
	if s.again++; s.again%2 == 0 {
		s.further++
		s.meta.Op = fmt.Sprintf("%s.%d-%d.%d", s.op, j.step.Attempt, j.life, s.further)
	}
}

func asMeta(m command.Meta) command.Meta { return m }

// at says in the error what was tried where.
func (j *job) at(err error) error {
	f := fault.Errorf(fault.KindOf(err), "%scannot %s: %w", j.where(), j.step.Title, err)
	if f.Hint == "" && fault.Is(err, fault.Unreachable) {
		return f.WithHint("is the agent on %s running and reachable? then: drrun resume %s", j.step.Host, j.run.ID)
	}
	return f
}

// verb does the steps that are one command to one agent.
func (j *job) verb(ctx context.Context) outcome {
	plain := func(text string) func(*command.Empty) outcome {
		return func(*command.Empty) outcome { return outcome{detail: text} }
	}
	switch j.step.Kind {
	case program.DrainAhead, program.Reseed:
		return long(ctx, j, command.Drain, func(m command.Meta) command.DrainRequest { return command.DrainRequest{Meta: m} }, j.drained)
	case program.DrainFinal:
		return j.drainFinal(ctx)
	case program.Stop:
		return call(ctx, j, command.Stop, j.stopRequest, j.stopped)
	case program.Halt:
		return call(ctx, j, command.Stop, j.haltRequest, j.stopped)
	case program.Prepare:
		return j.prepare(ctx)
	case program.Start:
		return call(ctx, j, command.Start, j.startRequest, j.started)
	case program.Restart:
		return giveBackBy(ctx, j, command.Start, j.startRequest, j.started)
	case program.Commit:
		return call(ctx, j, command.Commit, asMeta, plain("committed"))
	case program.CommitPeer:
		if !j.peerKnows() {
			return outcome{skip: j.step.Host + " does not know of the failover yet; it learns of it from its peer"}
		}
		return call(ctx, j, command.Commit, asMeta, plain("committed"))
	case program.Lease:
		return call(ctx, j, command.Lease, func(m command.Meta) command.LeaseRequest { return command.LeaseRequest{Meta: m, Open: true} },
			func(*command.LeaseResult) outcome { return outcome{detail: "it may be renewed"} })
	case program.Unlock:
		if j.step.Section == program.SectionPoint { // it stays where it is
			return call(ctx, j, command.Unlock, asMeta, plain("unlocked"))
		}
		return giveBackBy(ctx, j, command.Unlock, asMeta, plain("unlocked"))
	case program.Cleanup:
		return long(ctx, j, command.Cleanup, func(m command.Meta) command.CleanupRequest {
			return command.CleanupRequest{Meta: m, Test: j.run.ID}
		}, plain("cleaned up"))
	case program.Found:
		return long(ctx, j, command.Found, func(m command.Meta) command.FoundRequest {
			req := command.FoundRequest{Meta: m, Discard: j.step.Discard}
			if req.Discard {
				req.By = nobody(j.run.StartedBy)
			}
			return req
		}, j.found)
	}
	return failed(fault.Errorf(fault.Internal, "this drrun does not know how to do a step of kind %q", j.step.Kind))
}

func (j *job) startRequest(m command.Meta) command.StartRequest {
	return command.StartRequest{Meta: m, Test: j.test()}
}

func (j *job) stopRequest(m command.Meta) command.StopRequest {
	req := command.StopRequest{Meta: m, Force: j.step.Force, Lock: true}
	if j.step.Force {
		req.Within = j.step.ForceAfter
	}
	return req
}

// peerKnows reports whether the other site holds the record of this run.
func (j *job) peerKnows() bool {
	return j.d.epochAt(j.step.Machine, j.step.Host) == j.d.authority(j.step.Machine).Epoch
}

func (j *job) test() string {
	if j.step.Test {
		return j.run.ID
	}
	return ""
}

func (j *job) drained(r *command.DrainResult) outcome {
	return outcome{data: r, detail: fmt.Sprintf("point %s, %s changed, %s sent in %s", r.Point.ID.Short(),
		quantity.FormatSize(r.Changed), quantity.FormatSize(r.Wire), quantity.FormatDuration(r.Took)) + j.expected(r)}
}

// expected is the downtime that a drain ahead of the stop lets expect.
func (j *job) expected(r *command.DrainResult) string {
	if j.step.Kind != program.DrainAhead || r.Expect <= 0 {
		return ""
	}
	text := "; to expect while it stands: its stop"
	if stop := j.stopBound(); stop > 0 {
		text += " (at most " + quantity.FormatDuration(stop) + ")"
	}
	text += ", then " + quantity.FormatDuration(r.Expect) + " for the final delta"
	if r.Scan {
		text += fmt.Sprintf(" (a scan: %s are read to find it)", quantity.FormatSize(r.Read))
	}
	return text + ", then its start"
}

// stopBound is how long the plan lets the machine take to stop; 0: it has no bound.
func (j *job) stopBound() time.Duration {
	j.d.mu.Lock()
	defer j.d.mu.Unlock()
	st := j.d.st.Steps["shutdown/"+j.step.Machine+"/stop"]
	if st == nil || !st.Force {
		return 0
	}
	return st.ForceAfter
}

func (j *job) stopped(r *command.StopResult) outcome {
	out := outcome{data: r, detail: string(r.Power)}
	if r.Forced {
		out.detail += " by force"
	}
	if r.Power != recovery.PowerStopped {
		out.err = fault.Errorf(fault.Failed, "%s on %s is %s after the stop", j.step.Machine, j.step.Host, r.Power).
			WithHint("stop it by hand, then: drrun resume %s", j.run.ID)
	}
	return out
}

func (j *job) started(r *command.StartResult) outcome {
	if r.Power != recovery.PowerRunning {
		return failed(fault.Errorf(fault.Failed, "%s on %s is %s after the start", j.step.Machine, j.step.Host, r.Power))
	}
	out := outcome{data: r, detail: "running"}
	if r.PID > 0 {
		out.detail = fmt.Sprintf("running, pid %d", r.PID)
	}
	return out
}

func (j *job) found(r *command.FoundResult) outcome {
	if r.Point.ID.IsZero() && !r.Discarded {
		return outcome{data: r, detail: fmt.Sprintf("the disks on %s are a replica already: nothing is only there", j.step.Host)}
	}
	text := fmt.Sprintf("%s (%d blocks) never left %s", quantity.FormatSize(r.Bytes), r.Blocks, j.step.Host)
	if !r.Since.IsZero() {
		text += " since " + r.Since.UTC().Format(time.RFC3339)
	}
	if r.Discarded {
		text += "; discarded by " + nobody(j.run.StartedBy)
		return outcome{data: r, detail: text, notes: []string{j.step.Machine + ": " + text}}
	}
	return outcome{data: r, detail: text, notes: []string{fmt.Sprintf("%s: %s; kept as point %s", j.step.Machine, text, r.Point.ID.Short())}}
}

// drainFinal sends what the stopped machine still has and then looks at the
// target: the point must be there with the same sums.
func (j *job) drainFinal(ctx context.Context) outcome {
	if j.step.Source {
		if p := j.power(); p != recovery.PowerStopped {
			return outcome{skip: fmt.Sprintf("%s is not known to be stopped on %s", j.step.Machine, j.step.Host)}
		}
	}
	request := func(m command.Meta) command.DrainRequest { return command.DrainRequest{Meta: m, Final: true} }
	return long(ctx, j, command.Drain, request, func(r *command.DrainResult) outcome {
		got, err := j.pointAt(ctx, j.machine.ToHost, &r.Point)
		if err == nil {
			err = samePoint(&r.Point, got)
		}
		if err != nil {
			return failed(fault.Errorf(fault.KindOf(err), "final delta of %s: %w", j.step.Machine, err).
				WithHint("resume the run: ranges that differ are sent again"))
		}
		return j.drained(r)
	})
}

func (j *job) pointAt(ctx context.Context, host string, want *recovery.Point) (*recovery.Point, error) {
	points, err := j.pointsAt(ctx, host, j.step.Machine)
	if err != nil {
		return nil, err
	}
	for i := range points {
		if p := &points[i]; p.ID == want.ID {
			if last := &points[len(points)-1]; last.Seq > p.Seq {
				return p, fault.Errorf(fault.Failed, "%s has a newer point (%d) than the final one (%d)", host, last.Seq, p.Seq)
			}
			return p, nil
		}
	}
	return nil, fault.Errorf(fault.Failed, "%s does not have point %s", host, want.ID.Short())
}

func (j *job) pointsAt(ctx context.Context, host, machine string) ([]recovery.Point, error) {
	var res command.PointsResult
	err := j.try(ctx, func(ctx context.Context) error {
		return j.d.e.caller.Call(ctx, host, command.Points.Name, command.PointsRequest{Machine: machine}, &res)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read the points of %s on %s: %w", machine, host, err)
	}
	return res.Points, nil
}

// samePoint compares the sums and sizes of all disks.
func samePoint(source, target *recovery.Point) error {
	if len(source.Disks) != len(target.Disks) {
		return fault.Errorf(fault.Corrupt, "the source has %d disks, the target %d", len(source.Disks), len(target.Disks))
	}
	for _, d := range source.Disks {
		t, ok := target.Disk(d.Name)
		switch {
		case !ok:
			return fault.Errorf(fault.Corrupt, "the target has no disk %s", d.Name)
		case t.Sum != d.Sum || t.Size != d.Size:
			return fault.Errorf(fault.Corrupt, "disk %s: the source's sum is %016x (%d bytes), the target's %016x (%d bytes)", d.Name, d.Sum, d.Size, t.Sum, t.Size)
		}
	}
	return nil
}

// power is what the stop step learned of the machine at the source.
func (j *job) power() recovery.Power {
	d := j.d
	d.mu.Lock()
	defer d.mu.Unlock()
	var r command.StopResult
	st := d.st.Steps["shutdown/"+j.step.Machine+"/stop"]
	known := st != nil && st.Data != nil && (st.Status == report.StepDone || st.Status == report.StepFailed)
	if !known || json.Unmarshal(st.Data, &r) != nil || r.Power == "" { // a result that cannot be read says nothing
		return recovery.PowerUnknown
	}
	return r.Power
}

// right decides whether the machine may run at the new site: its source is
// known to be stopped for good, or a person has said that the site is down. A
// source that was seen stopped and is not locked may be started by its agent
// the next moment: the peer has confirmed its right already.
func (j *job) right(ctx context.Context) outcome {
	power, free := j.power(), false
	if power != recovery.PowerStopped { // look again: it may be clear by now
		l := j.d.e.lookAt(ctx, j.machine.FromHost, j.step.Machine)
		if ms, ok := l.machine(j.machine.FromHost, j.step.Machine); ok && ms.Power != "" {
			power, free = ms.Power, !ms.Locked && !planted.Is(planted.StoppedIsLocked)
		}
	}
	switch {
	case power == recovery.PowerStopped && !free:
		return outcome{detail: "stopped on " + j.machine.FromHost}
	case power == recovery.PowerRunning:
		j.seenRunning()
		return failed(fault.Errorf(fault.Refused, "%s is known to run on %s and could not be stopped", j.step.Machine, j.machine.FromHost).
			WithHint("stop it there, then: drrun answer %s again", j.run.ID))
	}
	if planted.Is(planted.UnknownIsDown) {
		return outcome{detail: "taken for stopped"}
	}
	if by := j.d.downBy(); by != "" {
		return outcome{detail: fmt.Sprintf("%s states that %s is down or isolated", by, j.machine.FromSite)}
	}
	if out, has := j.waitForLease(ctx); has {
		return out
	}
	if power == recovery.PowerStopped {
		return failed(fault.Errorf(fault.Refused, "%s is stopped on %s and not locked: its agent may start it again", j.step.Machine, j.machine.FromHost).
			WithHint("cut %s off and answer %s, or: drrun cancel %s, and run it anew without --no-shutdown", j.machine.FromSite, SourceIsDown, j.run.ID))
	}
	return failed(fault.Errorf(fault.Refused, "nobody knows whether %s still runs on %s", j.step.Machine, j.machine.FromHost).
		WithHint("make sure that %s is down or isolated, then: drrun answer %s %s", j.machine.FromSite, j.run.ID, SourceIsDown))
}

// grant moves the authority record: from the one the host has to the next.
func (j *job) grant(ctx context.Context) outcome {
	have, next, err := j.turn(ctx)
	if err == nil {
		err = j.stillLocked(ctx)
	}
	if err != nil {
		return failed(err)
	}
	return j.moveTo(ctx, have, next)
}

// turn returns the record that the step's host is expected to hold, and the one it
// is to get.
func (j *job) turn(ctx context.Context) (have, next *recovery.Authority, err error) {
	c, ok := j.d.claimed()
	if !ok {
		return nil, nil, fault.Errorf(fault.Internal, "machine %s was not claimed", j.step.Machine)
	}
	newest := c.newest(j.step.Machine)
	held, known := c.Records[j.step.Machine].at(j.step.Host)
	if !known || j.step.Attempt > 1 && j.knowsNewest(ctx, c) {
		held = newest
	}
	var learnt command.GrantResult
	if j.d.result("reverse/"+j.step.Machine+"/learn", &learnt) && j.step.Kind == program.GrantPeer {
		held = learnt.Authority
	}
	to := j.next(newest)
	return &held, &to, nil
}

// knowsNewest reports whether the step's host, which had an older record when the
// run claimed its machines, has taken over the newest of them from its peer since.
func (j *job) knowsNewest(ctx context.Context, c claimed) bool {
	ms, ok := j.d.e.lookAt(ctx, j.step.Host, j.step.Machine).machine(j.step.Host, j.step.Machine)
	return ok && ms.Authority.Same(c.newest(j.step.Machine))
}

// learn tells an old site that comes back the record that the others hold.
func (j *job) learn(ctx context.Context) outcome {
	c, ok := j.d.claimed()
	if !ok {
		return failed(fault.Errorf(fault.Internal, "machine %s was not claimed", j.step.Machine))
	}
	next := c.newest(j.step.Machine)
	have, _ := c.Records[j.step.Machine].at(j.step.Host)
	return j.moveTo(ctx, &have, &next)
}

func (j *job) moveTo(ctx context.Context, have, next *recovery.Authority) outcome {
	request := func(m command.Meta) command.GrantRequest {
		m.Epoch = have.Epoch
		return command.GrantRequest{Meta: m, Expect: *have, Next: *next}
	}
	tell := func(r *command.GrantResult) outcome {
		if !r.Authority.Same(*next) {
			return failed(fault.Errorf(fault.Conflict, "%s holds another record of epoch %d after the grant", j.step.Host, r.Authority.Epoch))
		}
		return outcome{data: r, detail: fmt.Sprintf("epoch %d, active at %s", next.Epoch, next.Active)}
	}
	if j.copies() {
		return long(ctx, j, command.Grant, request, tell)
	}
	return call(ctx, j, command.Grant, request, tell)
}

// next is the record that the run grants for a machine. It is the same
// whenever it is made, but for its time.
func (j *job) next(last recovery.Authority) recovery.Authority {
	if g := j.granted(); g != nil {
		return *g // what the active site has stored is the record, whatever the run has become since
	}
	next := recovery.Authority{Epoch: last.Epoch + 1, Active: j.machine.ToSite, Run: j.run.ID, By: j.run.StartedBy,
		At: j.grantTime(), Uncommitted: true}
	switch {
	case j.run.Kind == report.KindReverse:
		next.Active, next.Uncommitted = j.machine.FromSite, false
		next.Direction = []recovery.Pair{{From: j.machine.FromHost, To: j.machine.ToHost}}
	case j.typ == recovery.Planned && j.machine.Back:
		next.Direction = []recovery.Pair{{From: j.machine.ToHost, To: j.machine.FromHost}}
	}
	return next
}

// granted is the record that the new active site has stored in this run.
func (j *job) granted() *recovery.Authority {
	rec := j.d.authority(j.step.Machine)
	if rec.Run != j.run.ID {
		return nil
	}
	return &rec
}

// grantTime is when the first attempt to grant the machine began.
func (j *job) grantTime() time.Time {
	d := j.d
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, st := range d.st.Of(j.step.Machine) {
		if st.Kind == program.Grant && !st.First.IsZero() {
			return st.First
		}
	}
	return j.step.First
}

// running looks whether the machines that this run started still run: one that
// has ended since is not recovered.
func (j *job) running(ctx context.Context) outcome {
	started := j.d.startedMachines()
	hosts := map[string]bool{}
	for _, m := range j.main.Active() {
		hosts[m.ToHost] = hosts[m.ToHost] || started[m.Name]
	}
	maps.DeleteFunc(hosts, func(_ string, ask bool) bool { return !ask })
	var l looked
	err := j.try(ctx, func(ctx context.Context) error {
		l = j.d.e.look(ctx, hosts)
		for _, h := range slices.Sorted(maps.Keys(hosts)) {
			if !l.answers(h) {
				return fault.Errorf(fault.Unreachable, "%s does not answer: nobody knows whether its machines run (%w)", h, l.failure(h))
			}
		}
		return nil
	})
	if err != nil {
		return failed(err)
	}
	var ended []string
	n := 0
	for _, m := range j.main.Active() {
		if !started[m.Name] {
			continue
		}
		n++
		if ms, _ := l.machine(m.ToHost, m.Name); ms.Power != recovery.PowerRunning {
			ended = append(ended, fmt.Sprintf("%s is %s on %s (%s)", m.Name, cmp.Or(ms.Power, recovery.PowerUnknown), m.ToHost, cmp.Or(ms.Reason, "no reason is known")))
		}
	}
	if len(ended) > 0 {
		return failed(fault.Errorf(fault.Failed, "%s", strings.Join(ended, "; ")).
			WithHint("find out why, start it (drrun-agent permit MACHINE on its host), then: drrun resume %s", j.run.ID))
	}
	return outcome{detail: fmt.Sprintf("%d of %d", n, n)}
}

// startedMachines are those whose start is done.
func (d *driver) startedMachines() map[string]bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[string]bool{}
	for _, st := range d.st.Ordered() {
		if st.Kind == program.Start && st.Status == report.StepDone {
			out[st.Machine] = true
		}
	}
	return out
}

// points fixes the recovery point of every machine that may get one.
func (j *job) points(ctx context.Context) outcome {
	chosen := map[string]recovery.Point{}
	var lines, lost []string
	active := j.main.Active()
	points, bad := make([]recovery.Point, len(active)), make([]error, len(active))
	sideBySide(len(active), atOnce, func(i int) {
		var prepared bool
		if points[i], prepared = j.d.preparedPoint(active[i].Name); !prepared {
			points[i], bad[i] = j.point(ctx, active[i])
		}
	})
	for i, m := range active {
		p, err := points[i], bad[i]
		if err != nil {
			lost = append(lost, fmt.Sprintf("%s: %v", m.Name, err))
			continue
		}
		chosen[m.Name] = p
		lines = append(lines, fmt.Sprintf("%s: %s of %s (%s)", m.Name, p.ID.Short(), instant(&p, j.run.Point), p.Kind))
	}
	if len(lost) > 0 && (j.typ != recovery.Unplanned || len(chosen) == 0) {
		return failed(fault.Errorf(fault.Failed, "cannot fix the recovery points: %s", strings.Join(lost, "; ")).
			WithHint("look at: drrun points MACHINE"))
	}
	return outcome{data: chosen, detail: strings.Join(lines, "; "), notes: lost}
}

func (j *job) point(ctx context.Context, m program.Machine) (recovery.Point, error) {
	var final command.DrainResult
	selector := j.run.Point
	if j.change != "" { // a change of the point
		selector = j.change
	}
	drained := j.d.result("shutdown/"+m.Name+"/drain", &final)
	if drained && j.change == "" && recovery.Drains(selector) {
		return final.Point, nil
	}
	if j.typ == recovery.Planned {
		return recovery.Point{}, fault.Errorf(fault.Internal, "no final point of %s", m.Name)
	}
	points, err := j.pointsAt(ctx, m.ToHost, m.Name)
	if err != nil {
		return recovery.Point{}, err
	}
	return recovery.Select(points, selector, j.fuzzy(m.Name))
}

func (j *job) fuzzy(machine string) bool {
	return j.d.src.estate.PolicyOf(machine).Consistency == recovery.Fuzzy
}

// left is how long the test may still stand: its agents end it then, also with
// no runtime; 0: it has no end.
func (j *job) left() time.Duration {
	if j.ends.IsZero() {
		return 0
	}
	return max(time.Second, j.ends.Sub(j.d.e.now()))
}

// chosen is the recovery point that the run fixed last for a machine.
func (d *driver) chosen(machine string) (*recovery.Point, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, ok := chosenPoint(d.st, machine)
	return &p, ok
}

func (j *job) prepare(ctx context.Context) outcome {
	p, ok := j.d.chosen(j.step.Machine)
	if !ok {
		return failed(fault.Errorf(fault.Failed, "%s has no recovery point in this run", j.step.Machine))
	}
	id := p.ID
	request := func(m command.Meta) command.PrepareRequest {
		return command.PrepareRequest{Meta: m, Point: id, Test: j.test(), TTL: j.left()}
	}
	return long(ctx, j, command.Prepare, request, func(r *command.PrepareResult) outcome {
		return outcome{data: r, detail: fmt.Sprintf("%s, %s in %s", r.Mode, quantity.FormatSize(r.Bytes), quantity.FormatDuration(r.Took))}
	})
}
