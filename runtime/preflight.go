package runtime

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
)

// preflighted is the result of the preflight step.
type preflighted struct {
	Reached map[string]bool           `json:"reached"` // host → it answered
	Power   map[string]recovery.Power `json:"power"`   // machine → at the source
}

// objection is why a run may not start. Those that can be overridden become
// notes with --force.
type objection struct {
	text, hint string
	force      bool
}

// preflight looks at every machine and changes nothing. All objections come
// at once.
func (j *job) preflight(ctx context.Context) outcome {
	hosts := map[string]bool{}
	for _, h := range j.main.Hosts() {
		hosts[h] = true
	}
	l := j.d.e.look(ctx, hosts)
	data := preflighted{Reached: map[string]bool{}, Power: map[string]recovery.Power{}}
	for h := range hosts {
		data.Reached[h] = l.answers(h)
	}
	var no []objection
	room := rooms{}
	active := j.main.Active()
	objected, needs := make([][]objection, len(active)), make([]*command.RoomResult, len(active))
	sideBySide(len(active), atOnce, func(i int) { objected[i], needs[i] = j.object(ctx, l, active[i]) })
	for i, m := range active {
		data.Power[m.Name] = recovery.PowerUnknown
		if ms, ok := l.machine(m.FromHost, m.Name); ok && ms.Power != "" {
			data.Power[m.Name] = ms.Power
		}
		no = append(no, l.allowedNow(m, j.typ, j.run.Kind, objected[i])...)
		if needs[i] != nil {
			room.add(m.ToHost, m.Name, *needs[i])
		}
	}
	no = append(no, room.object("prepare")...)
	out := outcome{data: data, detail: "nothing speaks against it", notes: append(room.notes(), j.leaseNotes(l)...)}
	out.notes = append(out.notes, j.isolation(ctx)...)
	var texts []string
	hint := ""
	for _, o := range no {
		if o.force && j.run.Force {
			out.notes = append(out.notes, "overridden by --force: "+o.text)
			continue
		}
		texts = append(texts, o.text)
		if hint == "" {
			hint = o.hint
		}
	}
	if len(texts) > 0 {
		out.err = fault.Errorf(fault.Refused, "preflight: %s", strings.Join(texts, "; ")).WithHint("%s", hint)
	}
	return out
}

// isolation says of a test which machines drrun does not keep apart from the
// production network: of what it starts as programs that is up to them.
func (j *job) isolation(ctx context.Context) []string {
	if j.typ != recovery.Test {
		return nil
	}
	var names []string
	for _, m := range j.main.Active() {
		if a, err := j.d.e.cat.Assignment(ctx, m.Name); err != nil || a.Exec != nil {
			names = append(names, m.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return []string{"not isolated by drrun: " + strings.Join(names, ", ") + " (programs use the network that their start command chooses; it is given the test address)"}
}

// rooms is what the run takes in the store of each host.
type rooms map[string]*room

type room struct {
	needed, free int64
	machines     []string
	mode         string
	time         time.Duration // they are prepared side by side
}

func (r rooms) add(host, machine string, a command.RoomResult) {
	if r[host] == nil {
		r[host] = &room{}
	}
	h := r[host]
	h.needed, h.free, h.machines = h.needed+a.Needed, a.Free, append(h.machines, machine)
	h.mode, h.time = a.Mode, max(h.time, a.Time)
}

// notes say for each host on which kind of overlay the machines will start, its
// space and its time.
func (r rooms) notes() (out []string) {
	for _, host := range slices.Sorted(maps.Keys(r)) {
		h := r[host]
		out = append(out, fmt.Sprintf("overlay of %s on %s: %s, %s of %s free, about %s", strings.Join(h.machines, ", "), host, h.mode,
			quantity.FormatSize(h.needed), quantity.FormatSize(h.free), quantity.FormatDuration(h.time)))
	}
	return out
}

// object says where there is too little to do what is named.
func (r rooms) object(what string) []objection {
	var no []objection
	for _, host := range slices.Sorted(maps.Keys(r)) {
		if h := r[host]; h.needed > h.free {
			no = append(no, objection{text: fmt.Sprintf("%s needs %s to %s %s and has %s", host, quantity.FormatSize(h.needed),
				what, strings.Join(h.machines, ", "), quantity.FormatSize(h.free)), hint: "make room in the store of " + host, force: true})
		}
	}
	return no
}

// object says what speaks against one machine, and what room it needs where it is
// to run; nil where that was not asked.
func (j *job) object(ctx context.Context, l looked, m program.Machine) ([]objection, *command.RoomResult) {
	rec, err := l.newest(m.Name)
	if err != nil {
		return []objection{{text: err.Error(), hint: fault.Hint(err)}}, nil
	}
	if !l.answers(m.ToHost) {
		no := []objection{{text: fmt.Sprintf("%s, which holds the replica of %s, does not answer (%v)", m.ToHost, m.Name, l.failure(m.ToHost)),
			hint: "start the agent on " + m.ToHost}}
		if j.typ == recovery.Planned {
			no = append(no, objectPlanned(l, m, rec)...)
		}
		return no, nil
	}
	if _, ok := l.machine(m.ToHost, m.Name); !ok {
		return []objection{{text: fmt.Sprintf("%s does not know %s", m.ToHost, m.Name), hint: "drrun apply gives hosts their machines"}}, nil
	}
	if j.run.Kind == report.KindReverse {
		return j.objectReverse(l, m, rec), nil
	}
	var no []objection
	if rec.Uncommitted && j.typ != recovery.Test && j.run.Supersedes != rec.Run {
		no = append(no, objection{text: fmt.Sprintf("%s is failed over and not committed (run %s)", m.Name, rec.Run), hint: "drrun commit " + rec.Run})
	}
	switch j.typ {
	case recovery.Test:
		if ms, _ := l.machine(m.ToHost, m.Name); len(ms.Tests) > 0 && m.IP != "" {
			no = append(no, objection{text: fmt.Sprintf("test %s of %s stands at %s: both would answer there", strings.Join(ms.Tests, ", "), m.Name, m.IP), force: true,
				hint: "drrun cleanup " + ms.Tests[0]})
		}
	case recovery.Planned:
		no = append(no, objectPlanned(l, m, rec)...)
	case recovery.Unplanned:
		no = append(no, j.objectUnplanned(l, m)...)
	}
	bad, room := j.objectPoint(ctx, m)
	return append(no, bad...), room
}

func objectPlanned(l looked, m program.Machine, rec recovery.Authority) []objection {
	if !l.answers(m.FromHost) {
		return []objection{{text: fmt.Sprintf("%s, where %s runs, does not answer (%v)", m.FromHost, m.Name, l.failure(m.FromHost)),
			hint: "a planned failover needs both sites; if the site is lost: --unplanned"}}
	}
	ms, ok := l.machine(m.FromHost, m.Name)
	switch {
	case !ok:
		return []objection{{text: fmt.Sprintf("%s does not know %s", m.FromHost, m.Name), hint: "drrun apply gives hosts their machines"}}
	case len(rec.Direction) != 1 || rec.Direction[0] != recovery.Pair{From: m.FromHost, To: m.ToHost}:
		return []objection{{text: fmt.Sprintf("%s does not replicate %s → %s", m.Name, m.FromHost, m.ToHost),
			hint: fmt.Sprintf("look at: drrun status %s (after an unplanned failover: drrun reverse)", m.Name)}}
	case ms.State == recovery.Seeding || ms.State == recovery.Reseeding:
		return []objection{{text: fmt.Sprintf("%s is still %s: it has no complete point in this direction", m.Name, ms.State),
			hint: "wait for its first point: drrun status " + m.Name}}
	case ms.State == recovery.Degraded:
		return []objection{{text: fmt.Sprintf("%s is degraded (%s)", m.Name, ms.Reason), force: true,
			hint: "mend it, or override with --force: the drain decides whether it can be failed over"}}
	}
	return nil
}

func (j *job) objectUnplanned(l looked, m program.Machine) []objection {
	ms, known := l.machine(m.FromHost, m.Name)
	switch {
	case !l.answers(m.FromHost) && !j.run.SourceIsDown && l.lease(m) == nil:
		return []objection{{text: fmt.Sprintf("%s does not answer: nobody knows whether %s still runs there", m.FromHost, m.Name),
			hint: fmt.Sprintf("make sure that %s is down or isolated and say so with --source-is-down", m.FromSite)}}
	case known && ms.Power == recovery.PowerRunning && j.run.NoShutdown:
		return []objection{{text: fmt.Sprintf("%s is known to run on %s, and --no-shutdown leaves it running", m.Name, m.FromHost),
			hint: "leave --no-shutdown out"}}
	}
	return nil
}

// objectPoint looks for the point, and asks for the room to start on it. What a run
// drains first will exist later; some point must exist now all the same.
func (j *job) objectPoint(ctx context.Context, m program.Machine) ([]objection, *command.RoomResult) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	points, err := command.Points.Call(ctx, j.d.e.caller, m.ToHost, command.PointsRequest{Machine: m.Name})
	if err != nil {
		return []objection{{text: fmt.Sprintf("cannot read the points of %s on %s: %v", m.Name, m.ToHost, err), hint: fault.Hint(err)}}, nil
	}
	p, err := recovery.Select(points.Points, j.run.Point, j.fuzzy(m.Name))
	if err != nil {
		return []objection{{text: fmt.Sprintf("%s on %s: %v", m.Name, m.ToHost, err), hint: "list them with: drrun points " + m.Name}}, nil
	}
	meta := command.Meta{Machine: m.Name, Run: j.run.ID} // a question: no fence, no operation
	test := ""
	if j.typ == recovery.Test {
		test = j.run.ID
	}
	answer, err := command.Room.Call(ctx, j.d.e.caller, m.ToHost, command.PrepareRequest{Meta: meta, Point: p.ID, Test: test})
	if err != nil {
		return []objection{{text: fmt.Sprintf("%s cannot prepare %s: %v", m.ToHost, m.Name, err), hint: fault.Hint(err)}}, nil
	}
	return nil, &answer
}

func (j *job) objectReverse(l looked, m program.Machine, rec recovery.Authority) []objection {
	var no []objection
	if !l.answers(m.FromHost) {
		no = append(no, objection{text: fmt.Sprintf("%s, where %s runs, does not answer", m.FromHost, m.Name), hint: "start the agent on " + m.FromHost})
	}
	if rec.Uncommitted || len(rec.Direction) > 0 || rec.Active != m.FromSite {
		no = append(no, objection{text: fmt.Sprintf("the record of %s has changed: epoch %d, active at %s", m.Name, rec.Epoch, rec.Active),
			hint: "look at: drrun status " + m.Name})
	}
	return no
}

// claim raises the fencing number at both ends of every machine, and takes
// down the records they hold. A target must answer; a source of an unplanned
// run as far as it can.
func (j *job) claim(ctx context.Context) outcome {
	var p preflighted
	j.d.result("preflight", &p)
	reached := map[string]bool{}
	maps.Copy(reached, p.Reached)
	data := claimed{Fence: j.fence, Records: map[string]records{}}
	active := j.main.Active()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var mu sync.Mutex // of reached, data and bad
	var bad error
	sideBySide(len(active), atOnce, func(i int) {
		m := active[i]
		hold := make(records, 0, 2)
		for _, host := range []string{m.ToHost, m.FromHost} {
			optional := host == m.FromHost && j.typ != recovery.Planned && j.run.Kind == report.KindFailover
			mu.Lock()
			up, asked := reached[host]
			over := bad != nil
			mu.Unlock()
			if over || optional && asked && !up {
				continue
			}
			rec, err := j.claimOne(ctx, m.Name, host, optional)
			mu.Lock()
			switch {
			case err == nil:
				hold = append(hold, hostRecord{host, rec})
			case optional && fault.Is(err, fault.Unreachable) && bad == nil:
				reached[host] = false // it went away: do not try it for every machine
			case bad == nil:
				bad = fault.Errorf(fault.KindOf(err), "cannot claim %s on %s: %w", m.Name, host, err)
				stop()
			}
			mu.Unlock()
		}
		mu.Lock()
		defer mu.Unlock()
		data.Records[m.Name] = hold
	})
	if bad != nil {
		return failed(bad)
	}
	if err := j.notMoved(data); err != nil {
		return failed(err)
	}
	out := outcome{data: data, detail: fmt.Sprintf("fencing number %d", j.fence)}
	switch {
	case j.typ == recovery.Test:
		out.detail = "a test leaves the fencing numbers alone"
	case j.run.Kind == report.KindFailover:
		out.notes = j.d.e.clearTests(ctx, j.main, j.run.StartedBy)
		if err := j.d.e.supersede(ctx, j.run); err != nil {
			return failed(err)
		}
	}
	return out
}

// atOnce is how many machines a step that is for all of them asks for at a time.
const atOnce = 32

// sideBySide calls f for 0 to n-1, at most so many at a time, and returns when all
// have returned.
func sideBySide(n, most int, f func(i int)) {
	if n == 1 {
		f(0)
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(n, most) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}

// notMoved refuses to go on where another run has moved a machine between the look
// at it, which the program was made by, and its claim.
func (j *job) notMoved(c claimed) error {
	grants := j.main.Grants()
	for _, m := range j.main.Active() {
		site := m.FromSite
		if !grants[m.Name] {
			site = m.ToSite
		}
		if rec := c.newest(m.Name); j.typ != recovery.Test && rec.Active != site {
			return fault.Errorf(fault.Refused, "%s is active at %s by run %s since this run looked: it was to be active at %s", m.Name, rec.Active, rec.Run, site).
				WithHint("look at: drrun status %s; then start the run anew", m.Name)
		}
	}
	return nil
}

func (j *job) claimOne(ctx context.Context, machine, host string, optional bool) (recovery.Authority, error) {
	req := command.ClaimRequest{Meta: command.Meta{Machine: machine, Op: j.op() + "/" + machine, Fence: j.fence, Run: j.run.ID}}
	j.d.mu.Lock()
	req.Takeover = j.d.takesOver(machine, host)
	j.d.mu.Unlock()
	k := j
	if j.step.Optional != optional {
		k = j.with(func(s *program.Step) { s.Optional = optional })
	}
	var res command.ClaimResult
	err := k.try(ctx, func(ctx context.Context) (err error) {
		res, err = command.Claim.Call(ctx, j.d.e.caller, host, req)
		return err
	})
	return res.Authority, err
}

// claims reports whether the run has claimed its machines: tests never do.
func (d *driver) claims() bool {
	st := d.st.Steps["claim"]
	return st != nil && st.Status == report.StepDone && !isTest(d.st)
}

// asUnplanned compiles the run anew as an unplanned one; steps that are done
// stay done. Callers hold d.mu.
func (d *driver) asUnplanned(ctx context.Context, o ResumeOptions) (*program.Program, error) {
	if o.As != recovery.Unplanned || d.st.Type != recovery.Planned || d.st.Section() != program.SectionFailover {
		return nil, fault.Errorf(fault.Refused, "only a planned failover that is still on its way can go on as unplanned: run %s is a %s failover at its %s", d.id, d.st.Type, d.st.Section()).
			WithHint("allowed now: %s", strings.Join(d.st.Allowed(true), ", "))
	}
	facts := map[string]program.Fact{}
	for _, m := range d.st.Main().Machines {
		a, err := d.e.cat.Assignment(ctx, m.Name)
		if err != nil {
			return nil, err
		}
		facts[m.Name] = program.Fact{Hosts: a.Hosts, Active: m.FromSite}
		if m.Skip != "" {
			facts[m.Name] = program.Fact{Hosts: a.Hosts, Active: m.ToSite}
		}
	}
	req := program.Request{Type: recovery.Unplanned, Failback: d.st.Main().Direction == program.Failback}
	return program.Compile(d.src.plan, d.src.estate, req, facts)
}
