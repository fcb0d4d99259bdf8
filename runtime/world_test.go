package runtime_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
)

// world is two sites with fake agents that keep the contract of the verbs:
// they refuse old fences and epochs, and answer a repeated operation with its
// stored result. It outlives the engines that a test kills.
type world struct {
	mu     sync.Mutex
	hosts  map[string]*fakeHost
	trace  []string          // effects that really happened
	ops    map[string]string // operation id → effect, over all hosts
	faults map[string]int    // "host verb machine" → how often it fails (-1: always)
	lost   map[string]int    // the effect happens, its answer is lost
	slow   map[string]time.Duration
	broken []string // contract breaches
	kinds  map[string]fault.Kind
	sticky map[string]bool // an operation stores that a peer was not reached, and says so forever
	stored map[string]bool // operations that have stored that
	needs  int64           // room for one machine
	moving map[string]bool // "host machine": its progress moves with the clock
	// together counts the questions for the progress of several machines: "host machine machine…"
	together map[string]int
	drains   command.DrainResult // what a drain says beside its point
	back     map[string]int64    // room that a host needs to take a failover back
	source   string              // where a proof reads from; empty: the medium
	asked    int                 // calls of all hosts
}

type fakeHost struct {
	site     string
	down     bool
	machines map[string]*fakeMachine
}

type fakeMachine struct {
	rec     recovery.Authority
	fence   ident.Fence
	power   recovery.Power
	locked  bool
	points  []recovery.Point
	results map[string]json.RawMessage
	tests   []string
	overlay string
	found   bool
	full    bool                  // no room to keep its disks as found
	noStop  bool                  // it cannot be stopped
	live    string                // the point under the overlay
	life    recovery.MachineState // what its agents say, whatever it is
	lease   *fakeLease            // that it grants; nil: none
	taken   string                // run that takes it over to here
	missed  bool                  // its tracker missed a write: what is on the medium is not what was sent
}

var began = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // where a synctest bubble begins

func newWorld(machines ...string) *world {
	w := &world{hosts: map[string]*fakeHost{"par-1": {site: "paris", machines: map[string]*fakeMachine{}}, "lyo-1": {site: "lyon", machines: map[string]*fakeMachine{}}},
		ops: map[string]string{}, faults: map[string]int{}, lost: map[string]int{}, slow: map[string]time.Duration{}, kinds: map[string]fault.Kind{}, sticky: map[string]bool{}, stored: map[string]bool{}, moving: map[string]bool{}, together: map[string]int{}, needs: 10}
	for _, m := range machines {
		rec := recovery.Authority{Epoch: 1, Active: "paris", Direction: []recovery.Pair{{From: "par-1", To: "lyo-1"}}}
		p := testPoint(m, 1, began.Add(-30*time.Second))
		w.hosts["par-1"].machines[m] = &fakeMachine{rec: rec, fence: 3, power: recovery.PowerRunning, points: []recovery.Point{p}, results: map[string]json.RawMessage{}}
		w.hosts["lyo-1"].machines[m] = &fakeMachine{rec: rec, fence: 3, power: recovery.PowerStopped, points: []recovery.Point{p}, results: map[string]json.RawMessage{}}
	}
	return w
}

func testPoint(machine string, seq int, at time.Time) recovery.Point {
	var id ident.PointID
	copy(id.ID[:], fmt.Sprintf("%s-%d", machine, seq))
	return recovery.Point{Version: 1, ID: id, Seq: ident.Seq(seq), Machine: machine, Instant: at, Kind: recovery.App, //nolint:gosec // small
		Disks: []recovery.PointDisk{{Name: "root", Size: 1 << 20, Sum: uint64(seq * 1000)}}} //nolint:gosec // small
}

// Call implements command.Caller. Answers take some virtual milliseconds, a
// different number for each machine and host, so that traces have one order.
func (w *world) Call(ctx context.Context, host, verb string, in, out any) error {
	raw, err := json.Marshal(in)
	if err != nil {
		return err
	}
	var meta command.Meta
	if err := json.Unmarshal(raw, &meta); err != nil {
		return err
	}
	key := strings.TrimSpace(host + " " + verb + " " + meta.Machine)
	w.mu.Lock()
	w.asked++
	if verb == command.Status.Name {
		if some := into[command.StatusRequest](raw).Machines; len(some) > 0 {
			w.together[host+" "+strings.Join(some, " ")]++
		}
	}
	delay := 10*time.Millisecond + time.Duration(len(meta.Machine)*7+int(last(meta.Machine)))*time.Millisecond/10 + time.Duration(host[0])*time.Microsecond + w.slow[key]
	w.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return fault.Errorf(fault.Unreachable, "%s: %w", host, context.Cause(ctx))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.hosts[host]
	if h == nil || h.down {
		return fault.Errorf(fault.Unreachable, "host %s does not answer", host)
	}
	if n := w.faults[key]; n != 0 {
		w.faults[key] = n - 1
		kind := w.kinds[key]
		if kind == 0 {
			kind = fault.Failed
		}
		return fault.Errorf(kind, "%s breaks on %s", verb, host)
	}
	res, err := w.serve(h, host, verb, meta, raw)
	if err != nil {
		return err
	}
	if n := w.lost[key]; n != 0 {
		w.lost[key] = n - 1
		return fault.Errorf(fault.Unreachable, "the answer of %s was lost", host)
	}
	return json.Unmarshal(res, out)
}

func last(s string) byte {
	if s == "" {
		return 0
	}
	return s[len(s)-1]
}

// serve checks fence, epoch and operation id, then does the verb.
func (w *world) serve(h *fakeHost, host, verb string, meta command.Meta, raw []byte) (json.RawMessage, error) {
	if verb == command.Status.Name {
		return w.status(h, host), nil
	}
	m := h.machines[meta.Machine]
	if m == nil {
		return nil, fault.Errorf(fault.NotFound, "%s does not know %q", host, meta.Machine)
	}
	switch verb {
	case command.Points.Name:
		return mustJSON(command.PointsResult{Points: m.points}), nil
	case command.Written.Name, command.ProofRanges.Name:
		return w.do(h, host, verb, m, raw)
	case command.RoomBack.Name:
		if w.back[host] < 0 {
			return nil, fault.Errorf(fault.Invalid, "unknown verb %q", verb) // an older agent
		}
		return mustJSON(command.RoomResult{Mode: "copy", Needed: w.back[host], Free: 100}), nil
	case command.Room.Name:
		return mustJSON(command.RoomResult{Mode: "reflink", Needed: w.needs, Free: 100}), nil
	}
	if meta.Fence == 0 && !w.ofTest(verb, raw) {
		w.broken = append(w.broken, fmt.Sprintf("%s of %s on %s without a fencing number", verb, meta.Machine, host))
	}
	if meta.Fence != 0 && meta.Fence < m.fence {
		return nil, fault.Errorf(fault.Conflict, "%s has seen fencing number %d, this is %d", host, m.fence, meta.Fence)
	}
	m.fence = max(m.fence, meta.Fence)
	if verb != command.Claim.Name && verb != command.Grant.Name && meta.Epoch != 0 && meta.Epoch != m.rec.Epoch {
		return nil, fault.Errorf(fault.Conflict, "%s has epoch %d of %s, this is %d", host, m.rec.Epoch, meta.Machine, meta.Epoch)
	}
	if meta.Op == "" {
		return w.do(h, host, verb, m, raw)
	}
	if res, ok := m.results[verb+" "+meta.Op]; ok && verb != command.Claim.Name {
		return res, nil
	}
	if w.stored[meta.Op] || w.sticky[host+" "+verb+" "+meta.Machine] {
		w.stored[meta.Op] = true
		return nil, fault.Errorf(fault.Unreachable, "operation %s: the peer was not reached", meta.Op)
	}
	res, err := w.do(h, host, verb, m, raw)
	if err != nil {
		return nil, err
	}
	m.results[verb+" "+meta.Op] = res
	if verb != command.Claim.Name {
		effect := host + " " + verb + " " + meta.Machine
		if op := opWithout(meta.Op); w.ops[effect+" "+op] != "" && w.ops[effect+" "+op] != meta.Op {
			w.broken = append(w.broken, fmt.Sprintf("%s twice: %s and %s", effect, w.ops[effect+" "+op], meta.Op))
		} else {
			w.ops[effect+" "+op] = meta.Op
		}
	}
	return res, nil
}

// ofTest reports whether a command may be one of a test: those claim nothing.
func (w *world) ofTest(verb string, raw []byte) bool {
	switch verb {
	case command.Claim.Name, command.Check.Name, command.Exec.Name, command.Cleanup.Name:
		return true
	}
	return into[command.StartRequest](raw).Test != ""
}

// opWithout is an operation id without its attempt.
func opWithout(op string) string { return op[:strings.LastIndex(op, "/")] }

func mustJSON(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return raw
}

func (w *world) status(h *fakeHost, host string) json.RawMessage {
	st := command.AgentStatus{Host: host, Site: h.site, Estate: "acme"}
	for _, name := range slices.Sorted(maps.Keys(h.machines)) {
		m := h.machines[name]
		ms := command.MachineStatus{Machine: name, Host: host, Site: h.site, Authority: m.rec, Fence: m.fence,
			Power: m.power, Locked: m.locked, State: m.state(h.site), Tests: m.tests, Lease: m.lease.status()}
		if w.moving[host+" "+name] {
			ms.Progress = &command.Progress{Phase: "send", Done: time.Since(began).Milliseconds()}
		}
		st.Machines = append(st.Machines, ms)
	}
	return mustJSON(st)
}

// state is the machine's place in its life, as agents tell it.
func (m *fakeMachine) state(site string) recovery.MachineState {
	switch {
	case m.life != "":
		return m.life
	case m.rec.Uncommitted && m.rec.Active == site && m.power != recovery.PowerRunning:
		return recovery.FailingOver
	case m.rec.Uncommitted:
		return recovery.FailedOver
	case len(m.rec.Direction) == 0 && m.rec.Run != "":
		return recovery.Committed
	case len(m.rec.Direction) == 0:
		return recovery.Unprotected
	}
	return recovery.Protected
}

func (w *world) happened(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

func into[T any](raw []byte) T {
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		panic(err)
	}
	return v
}

func (w *world) do(h *fakeHost, host, verb string, m *fakeMachine, raw []byte) (json.RawMessage, error) {
	name := into[command.Meta](raw).Machine
	empty := mustJSON(command.Empty{})
	switch verb {
	case command.Claim.Name:
		m.claim(h.site, into[command.ClaimRequest](raw))
		return mustJSON(command.ClaimResult{Authority: m.rec, Fence: m.fence}), nil
	case command.Grant.Name:
		return w.grant(host, m, into[command.GrantRequest](raw))
	case command.Drain.Name:
		return w.drain(host, m, into[command.DrainRequest](raw))
	case command.Stop.Name:
		if m.noStop {
			return mustJSON(command.StopResult{Power: m.power}), nil
		}
		m.power, m.locked = recovery.PowerStopped, into[command.StopRequest](raw).Lock
		w.happened("%s stop %s", host, name)
		return mustJSON(command.StopResult{Power: m.power}), nil
	case command.Lease.Name:
		return w.doLease(host, m, into[command.LeaseRequest](raw))
	case command.Unlock.Name:
		m.locked = false
		w.happened("%s unlock %s", host, name)
		return empty, nil
	case command.Prepare.Name:
		req := into[command.PrepareRequest](raw)
		w.happened("%s prepare %s %s%s", host, name, pointName(req.Point), testMark(req.Test))
		if req.Test == "" {
			if m.power == recovery.PowerRunning {
				w.broken = append(w.broken, fmt.Sprintf("%s prepares %s while it runs", host, name))
			}
			if m.live != "" {
				w.happened("%s keeps what %s wrote", host, name)
			}
			m.live = pointName(req.Point)
		}
		if m.overlay = req.Run; req.Test != "" {
			if m.overlay = ""; req.TTL > 0 {
				w.happened("%s ends test of %s in %s", host, name, req.TTL.Round(time.Minute))
			}
			m.tests = append(m.tests, req.Test)
		}
		return mustJSON(command.PrepareResult{Mode: "reflink"}), nil
	case command.Start.Name:
		return w.start(host, h, m, into[command.StartRequest](raw))
	case command.Check.Name:
		req := into[command.CheckRequest](raw)
		return mustJSON(command.CheckResult{OK: true, Detail: "asked " + req.Self + req.Check.TCP + req.Check.HTTP}), nil
	case command.Exec.Name:
		req := into[command.ExecRequest](raw)
		w.happened("%s exec %s", host, strings.Join(req.Cmd, " "))
		return mustJSON(command.ExecResult{}), nil
	case command.Written.Name:
		return mustJSON(command.WrittenResult{Bytes: 8192, Blocks: 2, Since: began}), nil
	case command.Proof.Name:
		req := into[command.ProofRequest](raw)
		if m.power == recovery.PowerRunning && m.live != pointName(req.Point) || m.power == recovery.PowerStopped && m.rec.Active == h.site {
			return nil, fault.Errorf(fault.Refused, "the disks of %s on %s are not at %s", name, host, pointName(req.Point))
		}
		w.happened("%s proof %s", host, name)
		res := command.ProofResult{Disks: []command.ProofDisk{{Name: "root", Size: 10 << 20, Sum: 1, From: cmp.Or(w.source, "medium")}}, Bytes: 10 << 20}
		if m.missed {
			res.Disks[0].Sum = 2
		}
		return mustJSON(res), nil
	case command.ProofRanges.Name:
		sums := make([]byte, 3*8)
		if m.missed {
			sums[8] = 1
		}
		return mustJSON(command.RangesResult{Size: 10 << 20, Sums: sums}), nil
	case command.Commit.Name:
		m.rec.Uncommitted = false
		m.live = ""
		w.happened("%s commit %s", host, name)
		return empty, nil
	case command.Cleanup.Name:
		m.tests = nil
		w.happened("%s cleanup %s", host, name)
		return empty, nil
	case command.Found.Name:
		if m.power != recovery.PowerStopped || m.rec.Active == h.site {
			return nil, fault.Errorf(fault.Refused, "%s runs", name)
		}
		req := into[command.FoundRequest](raw)
		if req.Discard {
			m.found = true
			w.happened("%s discard %s by %s", host, name, req.By)
			return mustJSON(command.FoundResult{Discarded: true, Bytes: 8192, Blocks: 2, Since: began}), nil
		}
		if m.full {
			return nil, fault.Errorf(fault.NoSpace, "what only the disks of %s have cannot be kept", name).WithHint("or discard it")
		}
		m.found = true
		w.happened("%s found %s", host, name)
		return mustJSON(command.FoundResult{Point: testPoint(name, 90, began), Bytes: 8192, Blocks: 2, Since: began}), nil
	}
	return nil, fault.Errorf(fault.Invalid, "unknown verb %s", verb)
}

func testMark(test string) string {
	if test == "" {
		return ""
	}
	return " in a test"
}

func pointName(id ident.PointID) string { return strings.TrimRight(string(id.ID[:]), "\x00") }

// claim is the part of it that says whether the run takes the machine over.
func (m *fakeMachine) claim(site string, req command.ClaimRequest) {
	switch {
	case req.Fence == 0:
	case req.Takeover && m.rec.Active != site:
		m.taken = req.Run
	case req.LetGo, m.taken != req.Run:
		m.taken = ""
	}
}

func (w *world) grant(host string, m *fakeMachine, req command.GrantRequest) (json.RawMessage, error) {
	if m.rec.Same(req.Next) {
		return mustJSON(command.GrantResult{Authority: m.rec}), nil
	}
	if !m.rec.Same(req.Expect) || req.Next.Epoch <= m.rec.Epoch {
		return nil, fault.Errorf(fault.Conflict, "%s holds epoch %d active at %s by %q", host, m.rec.Epoch, m.rec.Active, m.rec.Run)
	}
	if n := &req.Next; n.Active == w.hosts[host].site && n.Uncommitted && len(n.Direction) == 0 && m.taken != req.Run {
		w.broken = append(w.broken, fmt.Sprintf("%s is granted %s by %s and has confirmed it to the old site meanwhile", host, req.Machine, req.Run))
	}
	m.rec, m.taken = req.Next, ""
	if m.power == recovery.PowerRunning && w.hosts[host].site != req.Next.Active {
		m.power = recovery.PowerStopped
		w.happened("%s fences %s", host, req.Machine)
	}
	if m.rec.Active == w.hosts[host].site {
		m.locked = false // the record gives the right back
	} else if m.live != "" {
		m.live = ""
		w.happened("%s keeps what %s wrote", host, req.Machine)
	}
	w.happened("%s epoch %d of %s: active %s, %v", host, m.rec.Epoch, req.Machine, m.rec.Active, m.rec.Direction)
	return mustJSON(command.GrantResult{Authority: m.rec}), nil
}

func (w *world) drain(host string, m *fakeMachine, req command.DrainRequest) (json.RawMessage, error) {
	if req.Final && m.power != recovery.PowerStopped {
		return nil, fault.Errorf(fault.Refused, "%s runs", req.Machine)
	}
	peer := w.hosts["lyo-1"]
	if host == "lyo-1" {
		peer = w.hosts["par-1"]
	}
	if peer.down {
		return nil, fault.Errorf(fault.Unreachable, "the target does not answer")
	}
	p := testPoint(req.Machine, len(m.points)+1, time.Now().UTC())
	m.points = append(m.points, p)
	peer.machines[req.Machine].points = append(peer.machines[req.Machine].points, p)
	kind := "drain"
	if req.Final {
		kind = "final drain"
	}
	w.happened("%s %s %s", host, kind, req.Machine)
	res := w.drains
	res.Point, res.Changed, res.Wire, res.Took = p, 4096, 1000, time.Second
	return mustJSON(res), nil
}

func (w *world) start(host string, h *fakeHost, m *fakeMachine, req command.StartRequest) (json.RawMessage, error) {
	if req.Test == "" {
		if m.rec.Active != h.site || m.locked {
			w.broken = append(w.broken, fmt.Sprintf("%s started %s without the right to", host, req.Machine))
		}
		for name, other := range w.hosts {
			if o := other.machines[req.Machine]; name != host && o.power == recovery.PowerRunning && !other.down {
				w.broken = append(w.broken, fmt.Sprintf("%s started %s while it runs on %s", host, req.Machine, name))
			}
		}
		m.power = recovery.PowerRunning
	}
	w.happened("%s start %s%s", host, req.Machine, testMark(req.Test))
	return mustJSON(command.StartResult{Power: recovery.PowerRunning, PID: 42}), nil
}

// set changes the world while engines work in it.
func (w *world) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// effects returns what happened, and forgets nothing.
func (w *world) effects() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.trace)
}

// summary is the end state, for comparison.
func (w *world) summary() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var b strings.Builder
	for _, host := range slices.Sorted(maps.Keys(w.hosts)) {
		for _, name := range slices.Sorted(maps.Keys(w.hosts[host].machines)) {
			m := w.hosts[host].machines[name]
			fmt.Fprintf(&b, "%s %s: epoch %d active %s %v uncommitted=%v power=%s locked=%v tests=%d points=%d\n", host, name,
				m.rec.Epoch, m.rec.Active, m.rec.Direction, m.rec.Uncommitted, m.power, m.locked, len(m.tests), len(m.points))
		}
	}
	return b.String()
}

// catalogue is a fixed estate.
type catalogue struct {
	estate *plans.Estate
	plan   *plans.Plan
}

func (c *catalogue) AppliedEstate(context.Context) (*plans.Estate, uint64, error) {
	return c.estate, 7, nil
}

func (c *catalogue) AppliedPlan(_ context.Context, name string) (plans.Bundle, error) {
	if c.plan == nil || name != c.plan.Name {
		return plans.Bundle{}, fault.Errorf(fault.NotFound, "there is no plan %q", name)
	}
	return plans.Bundle{Main: name + ".lua", Files: map[string]string{name + ".lua": "-- " + name}}, nil
}

func (c *catalogue) Assignment(_ context.Context, machine string) (recovery.Assignment, error) {
	if _, ok := c.estate.Machine(machine); !ok {
		return recovery.Assignment{}, fault.Errorf(fault.NotFound, "there is no machine %q", machine)
	}
	m, _ := c.estate.Machine(machine)
	return recovery.Assignment{Machine: machine, HomeSite: "paris", Exec: m.Exec, Hosts: []recovery.Host{
		{Name: "par-1", Site: "paris", Store: "/srv"}, {Name: "lyo-1", Site: "lyon", Store: "/srv"}}}, nil
}

// scripts runs Go functions in the place of Lua ones.
type scripts struct {
	plan  *plans.Plan
	funcs []func(ctx context.Context, info plans.RunInfo, h plans.HostCalls) (bool, string, error)
}

func (s *scripts) LoadPlan(plans.Bundle, map[string]string) (*plans.Plan, error) { return s.plan, nil }

func (s *scripts) RunFunc(ctx context.Context, _ plans.Bundle, ref plans.FuncRef, info plans.RunInfo, h plans.HostCalls) (bool, string, error) {
	return s.funcs[ref.Index](ctx, info, h)
}

// controllerHost counts what plans run on the controller.
type controllerHost struct{ w *world }

func (r controllerHost) Run(ctx context.Context, argv, _ []string) (int, string, error) {
	select {
	case <-time.After(5 * time.Millisecond):
	case <-ctx.Done():
		return 0, "", context.Cause(ctx)
	}
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	r.w.happened("controller %s", strings.Join(argv, " "))
	if argv[0] == "false" {
		return 1, "it said no\n", nil
	}
	return 0, "ok\n", nil
}

func testEstate() *plans.Estate {
	machine := func(name string, n int, tags ...string) plans.Machine {
		return plans.Machine{Name: name, Host: "par-1", Tags: tags, IP: map[string]plans.IP{"lan": {Number: n}}, Protected: true,
			Disks: []plans.Disk{{Name: "root", File: "/vm/" + name}}, Exec: &recovery.Exec{Start: []string{"/bin/" + name}},
			Ready: &recovery.Check{TCP: ":5432", Every: time.Second, Within: time.Minute}}
	}
	site := func(name, cidr, cloud, to, host string) plans.Site {
		return plans.Site{Name: name, Networks: []plans.Network{{Name: "lan", CIDR: cidr}, {Name: "bubble", CIDR: "10.99.0.0/24", Isolated: true}},
			Clouds: []plans.Cloud{{Name: cloud, To: to, Hosts: []plans.Host{{Name: host, Addr: "127.0.0.1:1", Store: "/srv", Allow: []string{"systemctl"}}}}}}
	}
	return &plans.Estate{Name: "acme", Allow: []string{"notify", "false"}, Sites: []plans.Site{site("paris", "10.10.0.0/24", "prod", "dr", "par-1"), site("lyon", "10.20.0.0/24", "dr", "prod", "lyo-1")},
		Machines: []plans.Machine{machine("db1", 11), machine("app1", 21, "app"), machine("app2", 22, "app")}}
}

// testPlan is the sample of the plan language in small: two groups, a wait, an
// action and programs at both ends and on the controller.
func testPlan() *plans.Plan {
	pos := func(line int) plans.Pos { return plans.Pos{File: "erp.lua", Line: line} }
	return &plans.Plan{Name: "erp", From: "paris", To: "lyon", RTO: 15 * time.Minute, RPO: time.Minute, Pos: pos(1),
		Shutdown: plans.Shutdown{ForceAfter: 2 * time.Minute, Phase: plans.Phase{Before: []plans.Step{{Kind: plans.StepExec, Name: "drain the pooler", Pos: pos(4),
			Within: time.Minute, Only: []recovery.Type{recovery.Planned}, Exec: &plans.ExecStep{On: "db1", Cmd: []string{"systemctl", "stop", "pooler"}}}}}},
		Failover: plans.Phase{Before: []plans.Step{{Kind: plans.StepExec, Name: "tell the desk", Pos: pos(8), Within: time.Minute,
			Only: plans.AllTypes(), Exec: &plans.ExecStep{Cmd: []string{"notify", "desk"}}}}},
		Items: []plans.Item{
			{Group: &plans.Group{Name: "databases", Pos: pos(10), Machines: []plans.MachineRef{{Name: "db1"}}, Phase: plans.Phase{After: []plans.Step{
				{Kind: plans.StepCheck, Name: "postgres answers", Within: time.Minute, Pos: pos(12), Check: &plans.CheckStep{Check: recovery.Check{TCP: "db1:5432"}}}}}}},
			{Wait: &plans.Step{Kind: plans.StepWait, Name: "business go/no-go", Within: 2 * time.Hour, Pos: pos(14), Skip: []recovery.Type{recovery.Test},
				Wait: &plans.WaitStep{Ask: "Finance confirms the ledger", Role: "approver", OnTimeout: "stop"}}},
			{Group: &plans.Group{Name: "application", Pos: pos(20), Machines: []plans.MachineRef{{Tag: "app"}}, Delay: 3 * time.Second,
				Phase: plans.Phase{After: []plans.Step{{Kind: plans.StepAction, Name: "point DNS", Within: time.Minute, Pos: pos(26),
					Skip: []recovery.Type{recovery.Test}, Action: &plans.FuncRef{Index: 0, Pos: pos(26)}}}}}},
		}}
}
