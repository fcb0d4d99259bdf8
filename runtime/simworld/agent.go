package simworld

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

var _ command.Caller = (*World)(nil)

// Call implements command.Caller: the agent of a host does a verb. Answers take
// some milliseconds, different ones for each machine and host, so that a run
// has one order.
func (w *World) Call(ctx context.Context, hostName, verb string, in, out any) error {
	c, takes := w.hear(hostName, verb, in)
	if err := pass(ctx, takes); err != nil {
		return fault.Errorf(fault.Unreachable, "%s: %w", hostName, err)
	}
	return w.answer(c, in, out)
}

// pass lets time pass. What is shorter than soon is not interrupted: most calls are,
// and need no timer and no channel of their own.
func pass(ctx context.Context, takes time.Duration) error {
	if takes < soon {
		time.Sleep(takes)
		return context.Cause(ctx)
	}
	select {
	case <-time.After(takes):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

const soon = 100 * time.Millisecond

// hear takes a call up and says how long it takes.
func (w *World) hear(hostName, verb string, in any) (*call, time.Duration) {
	c := &call{host: hostName, verb: verb, meta: metaOf(in), text: textOf(in)}
	c.machine, c.run = c.meta.Machine, c.meta.Run
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.step = w.stepOf(c.meta.Op); verb == command.Check.Name {
		c.step = w.question(c.run, c.text).step
	}
	c.trouble = w.trouble(c)
	if c.trouble.hang {
		return c, forever
	}
	if h := w.hosts[hostName]; h == nil || w.cut(h) {
		return c, time.Second
	}
	return c, latency(hostName, c.machine) + duration(in) + c.trouble.delay
}

// answer does what was asked for.
func (w *World) answer(c *call, in, out any) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.hosts[c.host]
	if h == nil || w.cut(h) {
		return fault.Errorf(fault.Unreachable, "host %s does not answer", c.host)
	}
	if c.trouble.err != nil {
		return c.trouble.err
	}
	res, err := w.serve(h, c, in)
	if err != nil {
		return err
	}
	if c.trouble.lost {
		return fault.Errorf(fault.Unreachable, "the answer of %s was lost", c.host)
	}
	hand(res, out)
	return nil
}

// forever is longer than any limit of a step.
const forever = 1000 * time.Hour

// cut reports whether a host cannot be reached. Callers hold w.mu.
func (w *World) cut(h *host) bool { return h.down || w.sites[h.site] || w.sites[h.name] }

// latency tells calls apart in time.
func latency(host, machine string) time.Duration {
	n := time.Duration(0)
	for _, b := range []byte(host + "/" + machine) {
		n = (n*31 + time.Duration(b)) % 9973
	}
	return 5*time.Millisecond + n*time.Microsecond
}

// duration is how long the work of a verb takes.
func duration(in any) time.Duration {
	switch r := in.(type) {
	case command.StopRequest:
		return stopTakes
	case command.StartRequest:
		return startTakes
	case command.DrainRequest:
		return drainTakes
	case command.PrepareRequest:
		if r.Op != "" { // else it is the question how much room it takes
			return copyTakes
		}
	case command.ProofRequest, command.FoundRequest:
		return readTakes
	case command.CleanupRequest:
		return stopTakes
	}
	return 0
}

// stepOf is the step of an operation id, RUN/STEP/NUMBER, with the number of an
// operation or the name of a machine or host behind it.
func (w *World) stepOf(op string) string {
	run, rest, ok := strings.Cut(op, "/")
	if !ok {
		return ""
	}
	if k := w.runs[run]; k != nil {
		for s := rest; s != ""; s = s[:max(0, strings.LastIndexByte(s, '/'))] {
			if k.steps[s] > 0 {
				return s
			}
		}
	}
	for i := strings.LastIndexByte(rest, '/'); i > 0; i = strings.LastIndexByte(rest, '/') { // of a section that came later
		number := rest[i+1:]
		rest = rest[:i]
		if strings.Trim(number, "0123456789.-") == "" {
			break
		}
	}
	return rest
}

// placeOf is where the step of a call stands in its program; 0: it is not known.
func (w *World) placeOf(c *call) int {
	if k := w.runs[c.run]; k != nil {
		return k.steps[c.step]
	}
	return 0
}

func metaOf(in any) command.Meta {
	switch r := in.(type) {
	case interface{ About() command.Meta }:
		return r.About()
	case command.PointsRequest:
		return command.Meta{Machine: r.Machine}
	case command.RangesRequest:
		return command.Meta{Machine: r.Machine}
	}
	return command.Meta{}
}

// textOf is what a check asks, or a program that is to run.
func textOf(in any) string {
	switch r := in.(type) {
	case command.CheckRequest:
		return r.Check.TCP + r.Check.HTTP + strings.Join(r.Check.Exec, " ")
	case command.ExecRequest:
		return lineOf(r)
	}
	return ""
}

// hand gives a result to the caller.
func hand(res, out any) {
	switch o := out.(type) {
	case *command.AgentStatus:
		*o = res.(command.AgentStatus)
	case *command.ClaimResult:
		*o = res.(command.ClaimResult)
	case *command.GrantResult:
		*o = res.(command.GrantResult)
	case *command.DrainResult:
		*o = res.(command.DrainResult)
	case *command.StopResult:
		*o = res.(command.StopResult)
	case *command.PointsResult:
		*o = res.(command.PointsResult)
	case *command.RoomResult:
		*o = res.(command.RoomResult)
	case *command.PrepareResult:
		*o = res.(command.PrepareResult)
	case *command.StartResult:
		*o = res.(command.StartResult)
	case *command.CheckResult:
		*o = res.(command.CheckResult)
	case *command.ExecResult:
		*o = res.(command.ExecResult)
	case *command.FoundResult:
		*o = res.(command.FoundResult)
	case *command.WrittenResult:
		*o = res.(command.WrittenResult)
	case *command.ProofResult:
		*o = res.(command.ProofResult)
	case *command.RangesResult:
		*o = res.(command.RangesResult)
	}
}

// serve checks fencing number, epoch and operation id, then does the verb.
func (w *World) serve(h *host, c *call, in any) (any, error) {
	meta := &c.meta
	if c.verb == command.Status.Name {
		return w.status(h, in.(command.StatusRequest)), nil
	}
	e := h.ends[meta.Machine]
	if x, ok := in.(command.ExecRequest); ok && e == nil && meta.Machine == "" { // a host outside of the run
		return w.exec(h, c, x)
	}
	if e == nil {
		return nil, fault.Errorf(fault.NotFound, "%s does not know %q", h.name, meta.Machine)
	}
	w.expire(e.machine)
	if r, ok := in.(command.CheckRequest); ok {
		return w.check(h, c, r)
	}
	w.replicate(e.machine)
	if res, asked := w.told(e, c, in); asked {
		return res, nil
	}
	if err := w.admit(h, e, c, in); err != nil {
		return nil, err
	}
	if meta.Op == "" {
		return w.do(h, e, c, in)
	}
	if i := slices.IndexFunc(e.results, func(r result) bool { return r.op == meta.Op && r.verb == c.verb }); i >= 0 {
		return e.results[i].res, nil
	}
	res, err := w.do(h, e, c, in)
	if err == nil {
		e.results = append(e.results, result{c.verb, meta.Op, res})
	}
	return res, err
}

// told answers a question about a machine; false: it is none.
func (w *World) told(e *end, c *call, in any) (any, bool) {
	const room = 1 << 20
	switch in.(type) {
	case command.PointsRequest:
		return command.PointsResult{Points: slices.Clip(e.machine.points)}, true // points never change
	case command.RangesRequest:
		return command.RangesResult{Size: 1 << 30}, true
	case command.RoomBackRequest:
		return command.RoomResult{Mode: "reflink", Needed: room, Free: 1 << 40}, true
	}
	switch c.verb {
	case command.Room.Name:
		return command.RoomResult{Mode: "reflink", Needed: room, Free: 1 << 40, Time: copyTakes}, true
	case command.Written.Name:
		return command.WrittenResult{Bytes: 1 << 20, Blocks: 256, Since: e.prod.started}, true
	}
	return nil, false
}

// admit refuses what is of an earlier claim or epoch.
func (w *World) admit(h *host, e *end, c *call, in any) error {
	meta := &c.meta
	if meta.Fence == 0 && !ofTest(c.verb, in) {
		w.violated(Violation{Rule: RulePoints, Step: c.step, Run: c.run, Text: c.verb + " of " + meta.Machine + " on " + h.name + " without a fencing number"})
	}
	if meta.Fence != 0 && meta.Fence < e.fence {
		return fault.Errorf(fault.Conflict, "%s has seen fencing number %d, this is %d", h.name, e.fence, meta.Fence)
	}
	e.fence = max(e.fence, meta.Fence)
	if c.verb != command.Claim.Name && c.verb != command.Grant.Name && meta.Epoch != 0 && meta.Epoch != e.rec.Epoch {
		return fault.Errorf(fault.Conflict, "%s has epoch %d of %s, this is %d", h.name, e.rec.Epoch, meta.Machine, meta.Epoch)
	}
	return nil
}

// ofTest reports whether a command may be one of a test: those claim nothing.
func ofTest(verb string, in any) bool {
	switch r := in.(type) {
	case command.StartRequest:
		return r.Test != ""
	case command.PrepareRequest:
		return r.Test != ""
	}
	return verb == command.Claim.Name || verb == command.Exec.Name || verb == command.Cleanup.Name
}

func (w *World) status(h *host, req command.StatusRequest) command.AgentStatus {
	st := command.AgentStatus{Host: h.name, Site: h.site, Estate: w.estate.Name, Now: time.Now(), Free: 1 << 40}
	names := h.order
	switch {
	case req.Machine != "":
		names = []string{req.Machine}
	case len(req.Machines) > 0:
		names = req.Machines
	}
	st.Machines = make([]command.MachineStatus, 0, len(names))
	moved := command.Progress{Phase: "work", Done: int64(w.since() / time.Second)} // of all: nobody changes it
	for _, name := range names {
		e := h.ends[name]
		if e == nil {
			continue
		}
		w.expire(e.machine)
		var moves *command.Progress
		if !e.machine.hung { // else nothing moves
			moves = &moved
		}
		st.Machines = append(st.Machines, command.MachineStatus{Machine: name, Host: h.name, Site: h.site, Authority: e.rec, Fence: e.fence,
			Power: e.power, Locked: e.locked, State: e.state(), Tests: slices.Clone(e.tests), LiveRun: e.liveRun, LivePoint: e.live,
			Progress: moves})
	}
	return st
}

// state is the machine's place in its life, as agents tell it.
func (e *end) state() recovery.MachineState {
	switch {
	case e.rec.Uncommitted && e.rec.Active == e.host.site && e.power != recovery.PowerRunning:
		return recovery.FailingOver
	case e.rec.Uncommitted:
		return recovery.FailedOver
	case len(e.rec.Direction) == 0 && e.rec.Run != "":
		return recovery.Committed
	case len(e.rec.Direction) == 0:
		return recovery.Unprotected
	}
	return recovery.Protected
}

// do does a verb. Each has its own function, so that the many calls that wait do
// not keep room for the requests of all.
func (w *World) do(h *host, e *end, c *call, in any) (any, error) {
	switch in.(type) {
	case command.Meta:
		return w.doPlain(h, e, c)
	case command.ClaimRequest:
		return command.ClaimResult{Authority: e.rec, Fence: e.fence}, nil
	case command.GrantRequest:
		return w.grant(h, e, c, in)
	case command.DrainRequest:
		return w.drain(h, e, c, in)
	case command.StopRequest:
		return w.stop(h, e, c, in)
	case command.LeaseRequest:
		return command.LeaseResult{}, nil
	case command.PrepareRequest:
		return w.prepare(h, e, c, in)
	case command.StartRequest:
		return w.start(h, e, c, in)
	case command.ExecRequest:
		x, _ := in.(command.ExecRequest)
		return w.exec(h, c, x)
	case command.ProofRequest:
		return w.proof(h, e, c)
	case command.CleanupRequest:
		return w.cleanup(h, e, c, in)
	case command.FoundRequest:
		return w.found(h, e, c, in)
	}
	return nil, fault.Errorf(fault.Invalid, "unknown verb %s", c.verb)
}

func (w *World) stop(h *host, e *end, c *call, in any) (any, error) {
	req, _ := in.(command.StopRequest)
	e.power, e.locked = recovery.PowerStopped, e.locked || req.Lock
	w.happened(c.step, c.run, c.verb, "%s stop %s", h.name, e.machine.name)
	return command.StopResult{Power: e.power}, nil
}

func (w *World) proof(h *host, e *end, c *call) (any, error) {
	w.happened(c.step, c.run, c.verb, "%s proof %s", h.name, e.machine.name)
	res := command.ProofResult{Took: readTakes}
	for _, d := range e.machine.disks {
		res.Disks = append(res.Disks, command.ProofDisk{Name: d, Size: 1 << 30, Sum: 1, From: "medium"})
		res.Bytes += 1 << 30
	}
	return res, nil
}

func (w *World) cleanup(h *host, e *end, c *call, in any) (any, error) {
	req, _ := in.(command.CleanupRequest)
	e.tests = slices.DeleteFunc(e.tests, func(t string) bool { return t == req.Test })
	e.machine.tests = slices.DeleteFunc(e.machine.tests, func(i *instance) bool { return i.test == req.Test })
	w.happened(c.step, c.run, c.verb, "%s cleanup %s", h.name, e.machine.name)
	return command.Empty{}, nil
}

func (w *World) found(h *host, e *end, c *call, in any) (any, error) {
	req, _ := in.(command.FoundRequest)
	name := e.machine.name
	if e.power != recovery.PowerStopped || e.rec.Active == h.site {
		return nil, fault.Errorf(fault.Refused, "%s runs", name)
	}
	w.happened(c.step, c.run, c.verb, "%s found %s", h.name, name)
	p := e.machine.points[len(e.machine.points)-1]
	p.ID = ident.PointID{ID: ident.ID{0: 'f', 1: byte(len(name))}}
	return command.FoundResult{Point: p, Bytes: 1 << 20, Blocks: 256, Since: p.Instant, Discarded: req.Discard}, nil
}

// doPlain does the verbs without a request of their own.
func (w *World) doPlain(h *host, e *end, c *call) (any, error) {
	switch c.verb {
	case command.Unlock.Name:
		e.locked = false
	case command.Commit.Name:
		e.rec.Uncommitted = false
		e.live, e.liveRun = ident.PointID{}, ""
	default:
		return nil, fault.Errorf(fault.Invalid, "unknown verb %s", c.verb)
	}
	w.happened(c.step, c.run, c.verb, "%s %s %s", h.name, c.verb, e.machine.name)
	return command.Empty{}, nil
}

func (w *World) grant(h *host, e *end, c *call, in any) (any, error) {
	req, _ := in.(command.GrantRequest)
	if e.rec.Same(req.Next) {
		return command.GrantResult{Authority: e.rec}, nil
	}
	if !e.rec.Same(req.Expect) || req.Next.Epoch <= e.rec.Epoch {
		return nil, fault.Errorf(fault.Conflict, "%s holds epoch %d active at %s by %q", h.name, e.rec.Epoch, e.rec.Active, e.rec.Run)
	}
	e.rec = req.Next
	if e.power == recovery.PowerRunning && h.site != req.Next.Active {
		e.power = recovery.PowerStopped
		w.happened(c.step, c.run, "fence", "%s fences %s", h.name, req.Machine)
	}
	if e.rec.Active == h.site {
		e.locked = false // the record gives the right back
	} else {
		e.live, e.liveRun = ident.PointID{}, ""
	}
	w.happened(c.step, c.run, c.verb, "%s epoch %d of %s: active %s", h.name, e.rec.Epoch, req.Machine, e.rec.Active)
	e.machine.cut = time.Now().UTC() // the first point of a new direction comes after a full interval
	return command.GrantResult{Authority: e.rec}, nil
}

func (w *World) drain(h *host, e *end, c *call, in any) (any, error) {
	req, _ := in.(command.DrainRequest)
	if req.Final && e.power != recovery.PowerStopped {
		return nil, fault.Errorf(fault.Refused, "%s runs", req.Machine)
	}
	for _, peer := range e.machine.ends {
		if peer != e && w.cut(peer.host) {
			return nil, fault.Errorf(fault.Unreachable, "%s does not answer", peer.host.name)
		}
	}
	kind := "drain"
	if req.Final {
		kind = "final drain"
	}
	w.happened(c.step, c.run, c.verb, "%s %s %s", h.name, kind, req.Machine)
	p := w.point(e.machine, time.Now())
	return command.DrainResult{Point: p, Changed: 4 << 20, Wire: 1 << 20, Took: drainTakes, Expect: drainTakes}, nil
}

func (w *World) prepare(h *host, e *end, c *call, in any) (any, error) {
	req, _ := in.(command.PrepareRequest)
	if !slices.ContainsFunc(e.machine.points, func(p recovery.Point) bool { return p.ID == req.Point }) {
		return nil, fault.Errorf(fault.NotFound, "%s has no point %s of %s", h.name, req.Point.Short(), req.Machine)
	}
	if req.Test == "" {
		if e.power == recovery.PowerRunning {
			w.violated(Violation{Rule: RuleRight, Step: c.step, Run: c.run, Text: h.name + " prepares " + req.Machine + " while it runs"})
		}
		e.live, e.liveRun = req.Point, req.Run
		w.happened(c.step, c.run, c.verb, "%s prepare %s", h.name, req.Machine)
		return command.PrepareResult{Mode: "reflink", Took: copyTakes}, nil
	}
	if !slices.Contains(e.tests, req.Test) {
		e.tests = append(e.tests, req.Test)
	}
	if req.TTL > 0 {
		m, test := e.machine, req.Test
		deadline := time.Now().Add(req.TTL)
		m.ttl = append(m.ttl, testEnd{test: test, at: deadline})
	}
	w.happened(c.step, c.run, c.verb, "%s prepare %s in a test", h.name, req.Machine)
	return command.PrepareResult{Mode: "reflink", Took: copyTakes}, nil
}

// testEnd is when an agent cleans up a test by itself.
type testEnd struct {
	test string
	at   time.Time
}

// expire ends the tests whose time is over.
func (w *World) expire(m *machine) {
	now := time.Now()
	m.ttl = slices.DeleteFunc(m.ttl, func(t testEnd) bool {
		if t.at.After(now) {
			return false
		}
		m.tests = slices.DeleteFunc(m.tests, func(i *instance) bool { return i.test == t.test })
		for _, e := range m.ends {
			e.tests = slices.DeleteFunc(e.tests, func(s string) bool { return s == t.test })
		}
		return true
	})
}

func (w *World) start(h *host, e *end, c *call, in any) (any, error) {
	req, _ := in.(command.StartRequest)
	m := e.machine
	v := Violation{Rule: RuleRight, Step: c.step, Run: c.run}
	if req.Test != "" {
		if !slices.Contains(e.tests, req.Test) {
			return nil, fault.Errorf(fault.NotFound, "%s has no test %s of %s", h.name, req.Test, m.name)
		}
		w.wantNeeds(m, req.Test, c)
		if !slices.ContainsFunc(m.tests, func(i *instance) bool { return i.test == req.Test }) {
			m.tests = append(m.tests, &instance{machine: m, site: h.site, test: req.Test, started: time.Now()})
		}
		w.happened(c.step, c.run, c.verb, "%s start %s in a test", h.name, m.name)
		return command.StartResult{Power: recovery.PowerRunning, PID: 42}, nil
	}
	if e.rec.Active != h.site || e.locked {
		v.Text = h.name + " started " + m.name + " without the right to"
		w.violated(v)
	}
	for _, other := range m.ends {
		if other != e && other.power == recovery.PowerRunning {
			v.Text = h.name + " started " + m.name + " while it runs on " + other.host.name
			if !w.cut(other.host) { // else a person has spoken for it
				w.violated(v)
			}
		}
	}
	w.wantNeeds(m, "", c)
	if e.power != recovery.PowerRunning {
		e.prod = instance{machine: m, site: h.site, started: time.Now()}
	}
	e.power = recovery.PowerRunning
	w.happened(c.step, c.run, c.verb, "%s start %s", h.name, m.name)
	return command.StartResult{Power: recovery.PowerRunning, PID: 42}, nil
}
