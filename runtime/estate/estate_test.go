package estate_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/estate"
	"github.com/drrun/drrun/runtime/store"
)

// world is a catalogue with agents that only remember.
type world struct {
	*estate.Catalogue
	t      *testing.T
	agents *agents
	now    time.Time
	estate *plans.Estate
	loader *loader
}

type loader struct {
	estate *plans.Estate
	plans  map[string]*plans.Plan
	err    error
}

func (l *loader) LoadEstate(plans.Bundle) (*plans.Estate, error) {
	if l.err != nil {
		return nil, l.err
	}
	return clone(l.estate), nil
}

func (l *loader) LoadPlan(b plans.Bundle, _ map[string]string) (*plans.Plan, error) {
	p, ok := l.plans[b.Main]
	if !ok {
		return nil, plans.Faults{{Pos: plans.Pos{File: b.Main, Line: 3}, Message: "no such plan"}}
	}
	return p, nil
}

func clone(e *plans.Estate) *plans.Estate {
	data, _ := json.Marshal(e)
	var out plans.Estate
	_ = json.Unmarshal(data, &out)
	return &out
}

type trust struct{ estate string }

func (t *trust) Ensure(name string) error {
	if t.estate != "" && t.estate != name {
		return errors.New("another estate")
	}
	t.estate = name
	return nil
}

func (t *trust) NewToken(host string) (string, string, error) {
	return "token-of-" + host, "hash-of-" + host, nil
}

// agents keep the assignments they get; a host in down does not answer.
type agents struct {
	mu       sync.Mutex
	down     map[string]bool
	assigned map[string]map[string]command.AssignRequest
	status   map[string]command.MachineStatus // "HOST MACHINE"
	free     map[string]int64
	calls    []string
	clock    fakeClock
}

func (a *agents) Call(_ context.Context, host, verb string, in, out any) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = append(a.calls, host+" "+verb)
	if a.down[host] {
		return fault.Errorf(fault.Unreachable, "host %s is down", host)
	}
	switch verb {
	case command.Assign.Name:
		req := in.(command.AssignRequest)
		if a.assigned[host] == nil {
			a.assigned[host] = map[string]command.AssignRequest{}
		}
		a.assigned[host][req.Assignment.Machine] = req
	case command.Clock.Name:
		return a.clock.answer(in.(command.ClockRequest), out.(*command.ClockResult))
	case command.Unassign.Name:
		delete(a.assigned[host], in.(command.UnassignRequest).Machine)
	case command.Status.Name:
		st := command.AgentStatus{Host: host, Free: a.free[host]}
		for name := range a.assigned[host] {
			s := a.status[host+" "+name]
			s.Machine, s.Host = name, host
			s.State = cmp.Or(s.State, recovery.Protected)
			st.Machines = append(st.Machines, s)
		}
		reflect.ValueOf(out).Elem().Set(reflect.ValueOf(st))
	}
	return nil
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, now: time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC), estate: twoSites(),
		agents: &agents{down: map[string]bool{}, assigned: map[string]map[string]command.AssignRequest{},
			status: map[string]command.MachineStatus{}, free: map[string]int64{}}}
	w.loader = &loader{estate: w.estate, plans: map[string]*plans.Plan{}}
	w.Catalogue = estate.New(estate.Options{Store: store.NewMemory(), Loader: w.loader, Trust: &trust{}, Caller: w.agents,
		Clock: clock.Func(func() time.Time { return w.now }), Log: slog.New(slog.DiscardHandler)})
	return w
}

func twoSites() *plans.Estate {
	return &plans.Estate{
		Name:     "acme",
		Policies: []recovery.Policy{{Name: "gold", Every: 30 * time.Second, RPO: time.Minute}},
		Sites: []plans.Site{
			{Name: "paris", Networks: []plans.Network{{Name: "lan", CIDR: "10.10.0.0/24"}},
				Clouds: []plans.Cloud{{Name: "prod", Policy: "gold", To: "dr", Hosts: []plans.Host{{Name: "par-1", Addr: "10.10.0.5", Store: "/srv/p"}}}}},
			{Name: "lyon", Networks: []plans.Network{{Name: "lan", CIDR: "10.20.0.0/24"}},
				Clouds: []plans.Cloud{{Name: "dr", Policy: "gold", To: "prod", Hosts: []plans.Host{
					{Name: "lyo-1", Addr: "10.20.0.5:9000", Store: "/srv/a"}, {Name: "lyo-2", Addr: "10.20.0.6", Store: "/srv/b"}}}}},
		},
		Machines: []plans.Machine{machine("db1", 11), machine("app1", 21)},
	}
}

func machine(name string, ip int) plans.Machine {
	return plans.Machine{Name: name, Host: "par-1", Protected: true, IP: map[string]plans.IP{"lan": {Number: ip}},
		Disks: []plans.Disk{{Name: "root", File: "/vm/" + name + ".img"}}, Exec: &recovery.Exec{Start: []string{"/bin/" + name}}}
}

var estateBundle = plans.Bundle{Main: "estate.lua", Files: map[string]string{"estate.lua": `return estate "acme" {}`}}

func (w *world) apply() *estate.ApplyResult {
	w.t.Helper()
	res, err := w.Apply(w.t.Context(), estate.ApplyRequest{Bundles: []plans.Bundle{estateBundle}, By: "ada"})
	if err != nil {
		w.t.Fatalf("apply: %v", err)
	}
	return res
}

func TestApplyGivesBothHostsTheirPart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.agents.free["lyo-2"] = 100
	res := w.apply()
	if !res.Applied || res.Diff.Next != 1 {
		t.Fatalf("applied %v revision %d, want revision 1", res.Applied, res.Diff.Next)
	}
	got := w.agents.assigned["par-1"]["db1"].Assignment
	if got.Hosts[0].Addr != "10.10.0.5:7830" || got.Hosts[0].Store != "/srv/p" || got.HomeSite != "paris" {
		t.Errorf("home host in the assignment: %+v", got.Hosts[0])
	}
	if got.Disks[0].Paths["paris"] != "/vm/db1.img" || got.Disks[0].ID.IsZero() {
		t.Errorf("disk in the assignment: %+v", got.Disks[0])
	}
	if got.Addresses["lyon"].IP != "10.20.0.11" || got.Addresses["paris"].IP != "10.10.0.11" {
		t.Errorf("addresses: %+v", got.Addresses)
	}
	replica := got.Hosts[1].Name
	other := w.agents.assigned[replica]["db1"]
	if !reflect.DeepEqual(other.Assignment, got) {
		t.Errorf("the two hosts have different assignments:\n%+v\n%+v", other.Assignment, got)
	}
	want := recovery.Authority{Epoch: 1, Active: "paris", Direction: []recovery.Pair{{From: "par-1", To: replica}}}
	if !other.Authority.Same(want) {
		t.Errorf("first authority %+v, want %+v", other.Authority, want)
	}
}

func TestApplyKeepsIdentities(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply()
	before := w.agents.assigned["par-1"]["db1"].Assignment
	w.agents.calls = nil
	if res := w.apply(); res.Applied || len(w.agents.calls) != 0 {
		t.Fatalf("applying the same estate again did something: %v", w.agents.calls)
	}
	w.estate.Policies[0].Every = 10 * time.Second
	res := w.apply()
	if !strings.Contains(res.Diff.Text(), "every: 30.0s -> 10.0s") {
		t.Errorf("difference does not show the policy's change:\n%s", res.Diff.Text())
	}
	after := w.agents.assigned["par-1"]["db1"].Assignment
	if after.Policy.Every != 10*time.Second || after.Revision != 2 {
		t.Errorf("a policy change was not pushed: every %v revision %d", after.Policy.Every, after.Revision)
	}
	if after.Disks[0].ID != before.Disks[0].ID || after.Disks[0].Key != before.Disks[0].Key || after.Hosts[1].Name != before.Hosts[1].Name {
		t.Errorf("a second apply changed identities: %+v -> %+v", before, after)
	}
}

func TestFirstProtectionStartsTheMachineOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	starts := func() (n int) {
		for _, call := range w.agents.calls {
			if call == "par-1 start" {
				n++
			}
		}
		return n
	}
	w.agents.down["par-1"] = true
	w.apply()
	w.agents.down["par-1"] = false
	for range 2 {
		if _, err := w.Push(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	w.estate.Policies[0].Every = 10 * time.Second
	w.apply()
	if starts() != 2 {
		t.Errorf("two machines were started %d times: %v", starts(), w.agents.calls)
	}
}

func TestUnreachableHostIsToldLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.agents.down["par-1"] = true
	res := w.apply()
	i := slices.IndexFunc(res.Pushes, func(p estate.Push) bool { return p.Host == "par-1" })
	if i < 0 || res.Pushes[i].Error == nil || !slices.Equal(res.Pushes[i].Pending, []string{"db1", "app1"}) && !slices.Equal(res.Pushes[i].Pending, []string{"app1", "db1"}) {
		t.Fatalf("pushes: %+v", res.Pushes)
	}
	w.agents.down["par-1"] = false
	if _, err := w.Status(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if len(w.agents.assigned["par-1"]) != 2 {
		t.Errorf("the next contact did not bring what was missing: %v", w.agents.assigned["par-1"])
	}
}

func TestMachineThatLeftStaysProtected(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply()
	w.estate.Machines = w.estate.Machines[:1]
	res := w.apply()
	if !strings.Contains(res.Diff.Text(), "- machine app1  (still protected: drrun unprotect app1)") {
		t.Errorf("difference:\n%s", res.Diff.Text())
	}
	if _, ok := w.agents.assigned["par-1"]["app1"]; !ok {
		t.Fatal("the machine that left the file lost its protection")
	}
	for _, h := range []string{"par-1", "lyo-1", "lyo-2"} {
		w.agents.status[h+" app1"] = command.MachineStatus{State: recovery.FailedOver}
	}
	if _, err := w.Unprotect(t.Context(), "app1", false); !fault.Is(err, fault.Refused) {
		t.Fatalf("unprotect of a machine that is failed over: %v", err)
	}
	clear(w.agents.status)
	w.agents.down["par-1"] = true
	if _, err := w.Unprotect(t.Context(), "app1", false); err != nil {
		t.Fatal(err)
	}
	w.agents.down["par-1"] = false
	if _, err := w.Push(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, ok := w.agents.assigned["par-1"]["app1"]; ok {
		t.Error("unprotect did not reach the host that was down")
	}
}

func TestMovesOfAProtectedMachineAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply()
	w.estate.Sites[0].Clouds[0].Hosts = append(w.estate.Sites[0].Clouds[0].Hosts, plans.Host{Name: "par-2", Addr: "10.10.0.6"})
	w.estate.Machines[0].Host = "par-2"
	_, err := w.Apply(t.Context(), estate.ApplyRequest{Bundles: []plans.Bundle{estateBundle}})
	if !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), "cannot move to par-2") {
		t.Fatalf("err = %v, want a refusal that names the move", err)
	}
	if r, err := w.Current(t.Context()); err != nil || r.Number != 1 {
		t.Errorf("a refused apply changed the estate: revision %d, %v", r.Number, err)
	}
}

func TestTokenIsForOneHostOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if _, err := w.NewToken(t.Context(), "par-1"); !fault.Is(err, fault.Refused) {
		t.Fatalf("a token before the first apply: %v", err)
	}
	w.apply()
	if _, err := w.NewToken(t.Context(), "par-9"); !fault.Is(err, fault.NotFound) {
		t.Fatalf("a token for a host that does not exist: %v", err)
	}
	if _, err := w.NewToken(t.Context(), "par-1"); err != nil {
		t.Fatal(err)
	}
	right := func(h string) bool { return h == "hash-of-par-1" }
	wrong := func(string) bool { return false }
	if err := w.SpendToken(t.Context(), "par-1", wrong); !fault.Is(err, fault.Refused) {
		t.Errorf("a wrong token: %v", err)
	}
	if err := w.SpendToken(t.Context(), "par-1", right); err != nil {
		t.Errorf("the right token: %v", err)
	}
	if err := w.SpendToken(t.Context(), "par-1", right); !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), "used") {
		t.Errorf("a used token: %v", err)
	}
	if _, err := w.NewToken(t.Context(), "par-1"); err != nil {
		t.Fatal(err)
	}
	w.now = w.now.Add(time.Hour)
	if err := w.SpendToken(t.Context(), "par-1", right); !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), "ended") {
		t.Errorf("an old token: %v", err)
	}
}

func TestStatusPutsBothHostsTogether(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply()
	replica := w.agents.assigned["par-1"]["db1"].Assignment.Hosts[1].Name
	old := w.agents.assigned["par-1"]["db1"].Authority
	next := recovery.Authority{Epoch: 2, Active: "lyon", Run: "r1", Uncommitted: true, Direction: []recovery.Pair{{From: replica, To: "par-1"}}}
	w.agents.status["par-1 db1"] = command.MachineStatus{Site: "paris", Authority: old, State: recovery.Protected, Locked: true, Power: recovery.PowerStopped}
	w.agents.status[replica+" db1"] = command.MachineStatus{Site: "lyon", Authority: next, State: recovery.FailedOver, Power: recovery.PowerRunning,
		Points: 7, Tip: &recovery.Point{Seq: 9}, TipAge: 3 * time.Second, Role: command.RoleSource}
	st, err := w.Status(t.Context(), "db1")
	if err != nil {
		t.Fatal(err)
	}
	m := st.Machines[0]
	if m.State != recovery.FailedOver || m.Active != "lyon" || m.Epoch != 2 || !m.Uncommitted || m.Power != recovery.PowerRunning || !m.Locked {
		t.Errorf("status of a failed-over machine: %+v", m)
	}
	if m.RPONow != 3 || !m.RPOMet || m.Points != 7 || m.Newest.Seq != 9 {
		t.Errorf("rpo of a failed-over machine: %+v", m)
	}
	w.agents.down["par-1"], w.agents.down[replica] = true, true
	if st, err = w.Status(t.Context(), "db1"); err != nil {
		t.Fatal(err)
	}
	if st.Machines[0].Known || st.Hosts[0].Reachable {
		t.Errorf("status with both hosts down: %+v", st)
	}
}

func TestForgetfulHostGetsItsPartAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply()
	delete(w.agents.assigned, "par-1")
	for range 2 { // the first status finds out, the next contact mends
		if _, err := w.Status(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
	}
	if len(w.agents.assigned["par-1"]) != 2 {
		t.Errorf("a host that lost its state was not told again: %v", w.agents.assigned["par-1"])
	}
}

func TestApplyIsRefusedWhenTheEstateMovedOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply()
	old := uint64(0)
	_, err := w.Apply(t.Context(), estate.ApplyRequest{Bundles: []plans.Bundle{estateBundle}, Base: &old})
	if !fault.Is(err, fault.Conflict) {
		t.Errorf("apply against revision 0 of an estate at 1: %v", err)
	}
	w.estate.Name = "other"
	if _, err := w.Apply(t.Context(), estate.ApplyRequest{Bundles: []plans.Bundle{estateBundle}}); !fault.Is(err, fault.Refused) {
		t.Errorf("apply of another estate: %v", err)
	}
}

func TestPlansAreAppliedByName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	bundle := func(text string) plans.Bundle {
		return plans.Bundle{Main: "erp.lua", Files: map[string]string{"erp.lua": text}}
	}
	plan := &plans.Plan{Name: "erp", From: "paris", To: "lyon", Items: []plans.Item{{Group: &plans.Group{Name: "g", Machines: []plans.MachineRef{{Name: "db1"}}}}}}
	w.loader.plans["erp.lua"] = plan
	apply := func(bundles ...plans.Bundle) (*estate.ApplyResult, error) {
		return w.Apply(t.Context(), estate.ApplyRequest{Bundles: bundles, By: "ada"})
	}
	if _, err := apply(bundle("1")); !fault.Is(err, fault.Refused) {
		t.Fatalf("a plan without an estate: %v", err)
	}
	if res, err := apply(estateBundle, bundle("1")); err != nil || !res.Applied {
		t.Fatalf("estate and plan: %+v, %v", res, err)
	}
	if res, err := apply(bundle("1")); err != nil || res.Applied {
		t.Errorf("the same plan again: %+v, %v", res, err)
	}
	res, err := apply(bundle("2"))
	if err != nil || !res.Applied || res.Diff.Next != 1 || !strings.Contains(res.Diff.Text(), "~ plan erp") || !strings.Contains(res.Diff.Text(), "    erp.lua:1: - 1\n    erp.lua:1: + 2\n") {
		t.Errorf("a changed plan: %+v, %v", res, err)
	}
	if b, err := w.AppliedPlan(t.Context(), "erp"); err != nil || b.Files["erp.lua"] != "2" {
		t.Errorf("the applied plan: %+v, %v", b, err)
	}
	w.estate.Machines = w.estate.Machines[1:]
	res, err = apply(estateBundle)
	if err != nil || len(res.Warnings) != 1 {
		t.Errorf("an estate that lacks a machine of the plan: %+v, %v", res, err)
	}
	plan.Items[0].Group.Machines[0].Name = w.estate.Machines[0].Name
	plan.Drill = &plans.Drill{Cron: "0 3 * * SUN"}
	res, err = apply(bundle("3"))
	if err != nil || len(res.Warnings) != 0 {
		t.Errorf("a plan with a drill: %+v, %v", res, err)
	}
	if _, err := w.AppliedPlan(t.Context(), "erq"); !fault.Is(err, fault.NotFound) || !strings.Contains(fault.Hint(err), "erp") {
		t.Errorf("a plan that is not applied: %v", err)
	}
}

func TestReplicaGoesWhereMostSpaceIs(t *testing.T) {
	t.Parallel()
	for _, free := range []map[string]int64{{"lyo-1": 5, "lyo-2": 9}, {"lyo-1": 9, "lyo-2": 5}} {
		w := newWorld(t)
		w.agents.free = free
		w.apply()
		want := "lyo-1"
		if free["lyo-2"] > free["lyo-1"] {
			want = "lyo-2"
		}
		if r, err := w.Record(t.Context(), "db1"); err != nil || r.Replica != want {
			t.Errorf("free %v: replica on %s, %v", free, r.Replica, err)
		}
	}
	w := newWorld(t)
	w.estate.Machines[0].Replica = "par-1"
	if _, err := w.Apply(t.Context(), estate.ApplyRequest{Bundles: []plans.Bundle{estateBundle}}); !fault.Is(err, fault.Invalid) {
		t.Errorf("a replica at the machine's own site: %v", err)
	}
}
