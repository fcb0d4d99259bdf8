package estate

import (
	"cmp"
	"context"
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
	"github.com/drrun/drrun/runtime/report"
)

// Status is what the agents of an estate report, put together.
type Status struct {
	Estate   string          `json:"estate"`
	Revision uint64          `json:"revision"`
	Now      time.Time       `json:"now"`
	Machines []MachineStatus `json:"machines"`
	Hosts    []HostStatus    `json:"hosts"`
	Plans    []PlanSummary   `json:"plans"`
}

// MachineStatus is one machine as its two agents see it.
type MachineStatus struct {
	Machine string                `json:"machine"`
	State   recovery.MachineState `json:"state"`
	// Known is false when no agent of the machine answered: State is then the
	// last thing that could be said, unprotected.
	Known     bool            `json:"known"`
	Active    string          `json:"active"` // site that may run it
	Direction []recovery.Pair `json:"direction"`
	Epoch     ident.Epoch     `json:"epoch"`
	Power     recovery.Power  `json:"power"` // at the active site
	Locked    bool            `json:"locked,omitempty"`
	// RPO is the objective, RPONow the age of the newest complete point, in
	// seconds; RPONow is meaningless without Newest.
	RPO    float64       `json:"rpo,omitempty"`
	RPONow float64       `json:"rpo_now,omitempty"`
	RPOMet bool          `json:"rpo_met"`
	Newest *report.Point `json:"newest,omitempty"`
	Points int           `json:"points"`
	Cycle  *Cycle        `json:"cycle,omitempty"` // the last one
	Reason string        `json:"reason,omitempty"`
	// Notes are what a person should look at although the machine is protected.
	Notes   []string `json:"notes,omitempty"`
	Tests   []string `json:"tests,omitempty"`
	LiveRun string   `json:"live_run,omitempty"`
	// Uncommitted: a failover that nobody has committed yet.
	Uncommitted bool              `json:"uncommitted,omitempty"`
	Progress    *command.Progress `json:"progress,omitempty"`
	// Lease is what the target has on record, or else what the source says.
	Lease *Lease `json:"lease,omitempty"`
	// Left says that the machine is not in the estate's file any more.
	Left bool `json:"left,omitempty"`
	// Allowed are the operations the machine's state allows now.
	Allowed []string `json:"allowed"`
	// Hosts are its two hosts, home first, with what each reports.
	Hosts []MachineHost `json:"hosts"`

	reports []command.MachineStatus
	lastSeq ident.Seq
}

// MachineHost is what one host says of a machine.
type MachineHost struct {
	Host      string         `json:"host"`
	Site      string         `json:"site"`
	Reachable bool           `json:"reachable"`
	Role      string         `json:"role,omitempty"`
	Epoch     ident.Epoch    `json:"epoch,omitempty"`
	Power     recovery.Power `json:"power,omitempty"`
	PID       int            `json:"pid,omitempty"`
	Locked    bool           `json:"locked,omitempty"`
	Points    int            `json:"points,omitempty"`
	TipSeq    ident.Seq      `json:"tip_seq,omitempty"`
	Applied   ident.Seq      `json:"applied_seq,omitempty"`
	Reason    string         `json:"reason,omitempty"`
}

// Lease is the word of a machine's source to stop it when the target did not
// renew it for so long. Times in seconds.
type Lease struct {
	Source  string  `json:"source"` // host
	Target  string  `json:"target"` // host
	Length  float64 `json:"length"` // 0: the policy asks for one and there is none yet
	Granted bool    `json:"granted"`
	Age     float64 `json:"age"` // since it was renewed last
	// Left is the time until a run may count on the stop, if it is not renewed any
	// more; of a lease that only the source told, until it stops the machine.
	Left    float64 `json:"left"`
	Closed  string  `json:"closed,omitempty"`  // the run for which it is renewed no more
	Without string  `json:"without,omitempty"` // who permitted the machine to run without it
	Why     string  `json:"why,omitempty"`     // it is not granted
}

// Cycle is the last replication cycle of a machine. Times in seconds, sizes in
// bytes.
type Cycle struct {
	At      time.Time `json:"at"`
	Took    float64   `json:"took"`
	Frozen  float64   `json:"frozen"` // how long the machine was held still
	Changed int64     `json:"changed"`
	Wire    int64     `json:"wire"`
	Error   string    `json:"error,omitempty"`
}

// HostStatus is one agent.
type HostStatus struct {
	Host      string   `json:"host"`
	Site      string   `json:"site"`
	Addr      string   `json:"addr"`
	Reachable bool     `json:"reachable"`
	Joined    bool     `json:"joined"`
	Version   string   `json:"version,omitempty"`
	Store     string   `json:"store,omitempty"`
	Free      int64    `json:"free,omitempty"`    // bytes
	Error     string   `json:"error,omitempty"`   // why it is not reachable
	Pending   []string `json:"pending,omitempty"` // machines it still has to be told about
	// Copies says how its copy of this runtime's state differs from it.
	Copies string `json:"copies,omitempty"`
}

// PlanSummary is one applied plan.
type PlanSummary struct {
	Name  string    `json:"name"`
	From  string    `json:"from"`
	To    string    `json:"to"`
	At    time.Time `json:"at"` // when it was applied
	Drill string    `json:"drill,omitempty"`
	// Proven is set where a runtime answers that knows its runs.
	Proven *report.Proven `json:"proven,omitempty"`
}

// Status asks every agent, each for at most three seconds, and puts the
// answers together. Agents that missed an assignment get it first. A machine's
// name limits it to that machine and its hosts.
func (c *Catalogue) Status(ctx context.Context, machine string) (*Status, error) {
	current, err := c.Current(ctx)
	if err != nil {
		return nil, err
	}
	records, err := c.Records(ctx)
	if err != nil {
		return nil, err
	}
	if machine != "" {
		r, err := c.Record(ctx, machine)
		if err != nil {
			return nil, err
		}
		records = map[string]Record{machine: r}
	}
	if err := c.pushUnlessBusy(ctx); err != nil {
		return nil, err
	}
	st := &Status{Estate: current.Estate.Name, Revision: current.Number, Now: c.clock.Now().UTC(),
		Machines: []MachineStatus{}, Plans: []PlanSummary{}}
	reports, err := c.hostStatuses(ctx, st, current, records, machine)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(records)) {
		r := records[name]
		st.Machines = append(st.Machines, machineStatus(&r, reports))
	}
	applied, err := c.Plans(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range applied {
		s := PlanSummary{Name: p.Name, From: p.Plan.From, To: p.Plan.To, At: p.At}
		if d := p.Plan.Drill; d != nil {
			s.Drill = cmp.Or(d.Cron, d.On)
		}
		st.Plans = append(st.Plans, s)
	}
	return st, nil
}

// hostStatuses asks the agents in parallel and notes machines they should have
// and do not.
func (c *Catalogue) hostStatuses(ctx context.Context, st *Status, current Revision, records map[string]Record, machine string) (map[string]command.AgentStatus, error) {
	pending, err := c.Pending(ctx)
	if err != nil {
		return nil, err
	}
	at := places(current.Estate)
	var names []string
	for _, h := range current.Estate.Hosts() {
		if machine == "" || slices.Contains(recordHosts(records), h.Name) {
			names = append(names, h.Name)
		}
	}
	st.Hosts = make([]HostStatus, len(names))
	answers := make([]command.AgentStatus, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			h := HostStatus{Host: name, Site: at[name].site, Addr: at[name].addr(), Pending: pending[name]}
			if rec, err := c.Host(ctx, name); err == nil {
				h.Joined = !rec.Joined.IsZero()
			}
			a, err := c.ask(ctx, name, machine)
			if err != nil {
				h.Error = err.Error()
			} else {
				h.Reachable, h.Joined = true, true
				h.Version, h.Store, h.Free = a.Version, a.Store, a.Free
				answers[i] = a
				if c.copies != nil {
					h.Copies = c.copies(ctx, name)
				}
				c.measureClock(ctx, name)
			}
			st.Hosts[i] = h
		})
	}
	wg.Wait()
	out := map[string]command.AgentStatus{}
	for i, h := range st.Hosts {
		if !h.Reachable {
			continue
		}
		out[h.Host] = answers[i]
		if lost := lostMachines(h, answers[i], records); len(lost) > 0 {
			c.log.Warn("a host does not know machines it was given", "host", h.Host, "machines", lost)
			if err := c.forgotten(ctx, h.Host, lost); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

func recordHosts(records map[string]Record) []string {
	var out []string
	for _, r := range records {
		out = append(out, r.hosts()...)
	}
	return out
}

// lostMachines are those the host acknowledged and does not report.
func lostMachines(h HostStatus, a command.AgentStatus, records map[string]Record) []string {
	var lost []string
	for name, r := range records {
		has := slices.ContainsFunc(a.Machines, func(m command.MachineStatus) bool { return m.Machine == name })
		if slices.Contains(r.hosts(), h.Host) && !has && !slices.Contains(h.Pending, name) {
			lost = append(lost, name)
		}
	}
	slices.Sort(lost)
	return lost
}

// machineStatus puts the reports of a machine's hosts together: authority is
// the highest record there is, what runs is the active site's word, points are
// the receiving host's.
func machineStatus(r *Record, reports map[string]command.AgentStatus) MachineStatus {
	m := MachineStatus{Machine: r.Machine, State: recovery.Unprotected, Power: recovery.PowerUnknown, Left: r.Left,
		RPO: r.Last.Policy.RPO.Seconds(), Active: r.First.Active, Direction: r.First.Direction, Epoch: r.First.Epoch}
	for _, host := range r.hosts() {
		at, _ := r.Last.Host(host)
		h := MachineHost{Host: host, Site: at.Site}
		_, h.Reachable = reports[host]
		i := slices.IndexFunc(reports[host].Machines, func(s command.MachineStatus) bool { return s.Machine == r.Machine })
		if i >= 0 {
			s := reports[host].Machines[i]
			m.reports = append(m.reports, s)
			h.Role, h.Epoch, h.Power, h.PID, h.Locked = s.Role, s.Authority.Epoch, s.Power, s.PID, s.Locked
			h.Points, h.Applied, h.Reason = s.Points, s.Applied, s.Reason
			if s.Tip != nil {
				h.TipSeq = s.Tip.Seq
			}
		}
		m.Hosts = append(m.Hosts, h)
	}
	m.Known = len(m.reports) > 0
	if m.Known {
		a, conflict := newestAuthority(m.reports)
		m.Active, m.Direction, m.Epoch, m.Uncommitted = a.Active, a.Direction, a.Epoch, a.Uncommitted
		if conflict {
			m.Reason = "two authority records of one epoch: its agents refuse both until a person decides"
		}
	}
	for _, s := range m.reports {
		m.merge(s)
	}
	m.settle()
	return m
}

// newestAuthority is the highest record the hosts have, and whether another
// one has the same number.
func newestAuthority(reports []command.MachineStatus) (a recovery.Authority, conflict bool) {
	for _, s := range reports {
		switch {
		case s.Authority.Epoch > a.Epoch:
			a, conflict = s.Authority, false
		case s.Authority.Epoch < a.Epoch || a.Epoch == 0:
		case !s.Authority.Same(a):
			conflict = true
		case !s.Authority.Uncommitted:
			a.Uncommitted = false // cleared wins over set
		}
	}
	return a, conflict
}

// merge adds one host's report: of what both hosts know, the one who knows it
// better wins.
func (m *MachineStatus) merge(s command.MachineStatus) {
	active := s.Site == m.Active
	if active {
		m.State, m.Power, m.LiveRun, m.Progress = s.State, s.Power, s.LiveRun, s.Progress
	}
	m.Locked = m.Locked || s.Locked
	m.Tests = append(m.Tests, s.Tests...)
	m.Notes = append(m.Notes, s.Notes...)
	if s.Cycle != nil && (m.Cycle == nil || active) {
		m.Cycle = &Cycle{At: s.Cycle.At, Took: s.Cycle.Took.Seconds(), Frozen: s.Cycle.Frozen.Seconds(),
			Changed: s.Cycle.Changed, Wire: s.Cycle.Wire, Error: s.Cycle.Error}
	}
	if s.Reason != "" && (m.Reason == "" || active) {
		m.Reason = s.Reason
	}
	if t := s.Tip; t != nil && (m.Newest == nil || t.Seq > m.lastSeq || t.Seq == m.lastSeq && s.Role == command.RoleTarget) {
		m.lastSeq = t.Seq
		m.Newest = &report.Point{ID: t.ID.String(), Seq: uint64(t.Seq), Instant: t.Instant, Kind: t.Kind, Labels: t.Labels, Suspect: t.Suspect}
		m.RPONow = s.TipAge.Seconds()
	}
	m.mergeLease(s.Host, s.Lease)
	m.Points = max(m.Points, s.Points)
	if m.Progress == nil {
		m.Progress = s.Progress
	}
}

// mergeLease takes in what a host says of the lease: what the target counts is
// what a run goes by, why it is not renewed the source knows.
func (m *MachineStatus) mergeLease(host string, l *command.LeaseStatus) {
	if l == nil {
		return
	}
	next := &Lease{Source: l.Source, Target: l.Target, Length: l.Length.Seconds(), Granted: l.Granted, Age: l.Age.Seconds(), Left: l.Left.Seconds(),
		Closed: l.Closed, Without: l.Without, Why: l.Why}
	if was := m.Lease; was != nil {
		if host != l.Target {
			was, next = next, was
		}
		next.Without, next.Why = cmp.Or(next.Without, was.Without), cmp.Or(next.Why, was.Why)
	}
	m.Lease = next
}

// settle fills what follows from the rest.
func (m *MachineStatus) settle() {
	answered := func(s command.MachineStatus) bool { return s.Site == m.Active }
	if m.Known && !slices.ContainsFunc(m.reports, answered) {
		m.State = m.reports[0].State // only the other site answers: its view is all there is
		m.Reason = cmp.Or(m.Reason, "no word from the active site "+m.Active)
	}
	m.RPOMet = m.Newest != nil && (m.RPO == 0 || m.RPONow <= m.RPO)
	m.Allowed = allowed(m)
}

// Points asks the hosts of a machine for its recovery points: those of the
// receiving host, and of the other one where it keeps some (points of an
// earlier direction). A host that does not answer is skipped if the other does.
func (c *Catalogue) Points(ctx context.Context, machine string) ([]HostPoints, error) {
	r, err := c.Record(ctx, machine)
	if err != nil {
		return nil, err
	}
	var out []HostPoints
	var last error
	answered := false
	for _, host := range r.hosts() {
		h, _ := r.Last.Host(host)
		res, err := command.Points.Call(ctx, c.caller, host, command.PointsRequest{Machine: machine})
		switch {
		case fault.Is(err, fault.NotFound):
			answered = true
		case err != nil:
			last = err
			out = append(out, HostPoints{Host: host, Site: h.Site, Error: err.Error()})
		default:
			answered = true
			if len(res.Points) > 0 {
				out = append(out, HostPoints{Host: host, Site: h.Site, Points: res.Points})
			}
		}
	}
	if !answered && last != nil {
		return nil, last
	}
	return out, nil
}

// HostPoints are the points one host keeps of a machine, oldest first; of a
// host that did not answer nothing is known but why.
type HostPoints struct {
	Host   string           `json:"host"`
	Site   string           `json:"site"`
	Points []recovery.Point `json:"points,omitempty"`
	Error  string           `json:"error,omitempty"`
}

// Verify reads points of a machine whole at every host that has them; a zero
// point means all of them.
func (c *Catalogue) Verify(ctx context.Context, machine string, point ident.PointID) (map[string]command.VerifyResult, error) {
	held, err := c.Points(ctx, machine)
	if err != nil {
		return nil, err
	}
	out := map[string]command.VerifyResult{}
	for _, h := range held {
		has := slices.ContainsFunc(h.Points, func(p recovery.Point) bool { return p.ID == point })
		if h.Error != "" || !point.IsZero() && !has {
			continue
		}
		res, err := command.Verify.Call(ctx, c.caller, h.Host, command.VerifyRequest{Machine: machine, Point: point})
		if err != nil {
			return nil, err
		}
		out[h.Host] = res
	}
	if len(out) == 0 {
		return nil, fault.Errorf(fault.NotFound, "machine %s has no such recovery point", machine).WithHint("drrun points %s", machine)
	}
	return out, nil
}

// Hold holds a point of a machine, or releases it, at every host that has it.
func (c *Catalogue) Hold(ctx context.Context, in command.HoldRequest) (map[string]recovery.Point, error) {
	held, err := c.Points(ctx, in.Machine)
	if err != nil {
		return nil, err
	}
	out := map[string]recovery.Point{}
	for _, h := range held {
		if !slices.ContainsFunc(h.Points, func(p recovery.Point) bool { return p.ID == in.Point }) {
			continue
		}
		res, err := command.Hold.Call(ctx, c.caller, h.Host, in)
		if err != nil {
			return nil, err
		}
		out[h.Host] = res.Point
	}
	if len(out) == 0 {
		return nil, fault.Errorf(fault.NotFound, "machine %s has no such recovery point", in.Machine).WithHint("drrun points %s", in.Machine)
	}
	return out, nil
}

// allowed lists the operations that the machine's state allows now.
func allowed(m *MachineStatus) []string {
	out := []string{}
	if !m.Known {
		return out
	}
	for _, op := range plans.Allowed(m.State) {
		switch op {
		case plans.OpChangePoint:
			if len(m.Direction) == 0 { // after an unplanned failover; a planned one has the latest point
				out = append(out, string(op))
			}
		case plans.OpProtect: // an apply, of the file
		case plans.OpCleanup:
			if len(m.Tests) > 0 {
				out = append(out, string(op))
			}
		default:
			out = append(out, string(op))
		}
	}
	return out
}

// mayUnprotect says why the protection of a machine cannot end now, or what is to
// be kept of it. What no agent tells cannot refuse it: the machine may be gone
// for good.
func (c *Catalogue) mayUnprotect(ctx context.Context, r *Record) (Ended, error) {
	reports := map[string]command.AgentStatus{}
	for _, host := range r.hosts() {
		if a, err := c.ask(ctx, host, r.Machine); err == nil {
			reports[host] = a
		}
	}
	e := Ended{Record: *r, At: c.clock.Now().UTC()}
	m := machineStatus(r, reports)
	if !m.Known {
		return e, nil
	}
	if len(m.Tests) > 0 {
		return e, fault.Errorf(fault.Refused, "machine %s: test %s stands on it", r.Machine, strings.Join(m.Tests, ", ")).
			WithHint("drrun cleanup %s first", m.Tests[0])
	}
	e.Active, e.Epoch = m.Active, m.Epoch
	return e, plans.Refusal(r.Machine, m.State, plans.OpUnprotect)
}
