package agent_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/agent"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
)

func TestChecks(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.as.Allow = map[string][]string{"par-1": {"/bin/sh"}}
	p.as.Ready = &recovery.Check{Exec: []string{"/bin/true"}}
	p.protect()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/away" {
			http.Redirect(w, r, "/", http.StatusFound)
			return
		}
		_, _ = w.Write([]byte("all is well\x1b[2J"))
	}))
	t.Cleanup(web.Close)
	_, port, err := net.SplitHostPort(strings.TrimPrefix(web.URL, "http://"))
	must(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	closed := l.Addr().String()
	must(t, l.Close())
	sh := func(s string) recovery.Check { return recovery.Check{Exec: []string{"/bin/sh", "-c", s}} }
	for name, c := range map[string]struct {
		check recovery.Check
		ok    bool
		want  string
	}{
		"tcp of the machine":      {recovery.Check{TCP: ":" + port}, true, "connected"},
		"tcp of another machine":  {recovery.Check{TCP: "db1:" + port}, true, "connected to 127.0.0.1"},
		"tcp, nobody there":       {recovery.Check{TCP: closed}, false, "refused"},
		"tcp, not an address":     {recovery.Check{TCP: "nonsense"}, false, "missing port"},
		"http of the machine":     {recovery.Check{HTTP: ":" + port + "/"}, true, "200"},
		"http, expected":          {recovery.Check{HTTP: "http://db1:" + port + "/away", Expect: 302}, true, "302"},
		"http, not expected":      {recovery.Check{HTTP: ":" + port + "/away"}, false, "302"},
		"http contains":           {recovery.Check{HTTP: ":" + port, Contains: "is well"}, true, ""},
		"http does not contain":   {recovery.Check{HTTP: ":" + port, Contains: "ill"}, false, `"ill"`},
		"exec, allowed":           {sh("exit 0"), true, "0"},
		"exec, fails":             {sh("printf 'not\\033[2J yet'; exit 4"), false, `4: not\u001b`},
		"exec, takes too long":    {sh("sleep 60"), false, "no answer within"},
		"exec, its own readiness": {recovery.Check{Exec: []string{"/bin/true"}}, true, "0"},
		"http, unknown scheme":    {recovery.Check{HTTP: "file:///etc/passwd"}, false, "scheme"},
	} {
		within := time.Minute
		if strings.Contains(name, "too long") {
			within = 500 * time.Millisecond
		}
		res := call(p, command.Check, "par-1", command.CheckRequest{
			Meta: p.meta("run-1"), Check: c.check, Self: "127.0.0.1", Addresses: map[string]string{"db1": "127.0.0.1"}, Timeout: within,
		})
		if res.OK != c.ok || !strings.Contains(res.Detail, c.want) {
			t.Errorf("%s: %+v, want %t and %q", name, res, c.ok, c.want)
		}
	}
	for name, check := range map[string]recovery.Check{"nothing": {}, "not allowed": {Exec: []string{"/bin/rm"}}} {
		_, err := try(p, command.Check, "par-1", command.CheckRequest{Meta: p.meta("run-1"), Check: check})
		if !fault.Is(err, fault.Invalid) && !fault.Is(err, fault.Refused) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A machine that is held still longer than freeze_max is let go, and its point
// is refused: it would be of several instants.
func TestFreezeMax(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	p.as.Revision++
	e := *p.as.Exec
	e.FreezeMax = time.Nanosecond
	p.as.Exec = &e
	for _, h := range []string{"lyo-1", "par-1"} {
		call(p, command.Assign, h, command.AssignRequest{Assignment: p.as, Authority: p.auth})
	}
	st := p.until("par-1", "cycles fail", func(st command.MachineStatus) bool { return st.State == recovery.Degraded })
	if !strings.Contains(st.Reason, "freeze_max") {
		t.Errorf("reason is %q", st.Reason)
	}
	n := promised(t, p.promises)
	p.until("par-1", "the machine writes on", func(command.MachineStatus) bool { return promised(t, p.promises) > n+10 })
	p.as.Revision--
	_, err := try(p, command.Assign, "par-1", command.AssignRequest{Assignment: p.as, Authority: p.auth})
	if !fault.Is(err, fault.Conflict) {
		t.Errorf("older revision: %v", err)
	}
}

func TestUnassign(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	for range 2 {
		call(p, command.Unassign, "par-1", command.UnassignRequest{Meta: command.Meta{Machine: "erp"}})
		call(p, command.Unassign, "lyo-1", command.UnassignRequest{Meta: command.Meta{Machine: "erp"}, DeleteReplica: true})
	}
	if st := call(p, command.Status, "lyo-1", command.StatusRequest{}); len(st.Machines) != 0 {
		t.Errorf("still there: %+v", st.Machines)
	}
	if _, err := os.Stat(p.as.Hosts[1].Store + "/erp"); !os.IsNotExist(err) {
		t.Errorf("the replica is still there: %v", err)
	}
	n := promised(t, p.promises)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for promised(t, p.promises) <= n { // the machine itself runs on
		<-tick.C
	}
	killMachines(t, p.promises)
	for _, h := range []string{"lyo-1", "par-1"} { // and it can be protected again: the agent starts it
		call(p, command.Assign, h, command.AssignRequest{Assignment: p.as, Authority: p.auth})
	}
	p.points("lyo-1", 1)
	p.until("par-1", "it runs", func(st command.MachineStatus) bool { return st.Power == recovery.PowerRunning })
}

func TestInitialWait(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 21, 30, 0, 0, time.UTC)
	for in, want := range map[string]time.Duration{
		"": 0, "now": 0, "existing": 0, "22:00": 30 * time.Minute, "21:00": 0, "07:30": 10 * time.Hour,
	} {
		if got := agent.InitialWait(in, now); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// A machine that ends at once is not one that was started.
func TestMachineThatEndsAtOnce(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	p.as.Revision++
	e := *p.as.Exec
	e.Start = []string{"/bin/sh", "-c", "echo no licence; exit 7"}
	p.as.Exec = &e
	for _, h := range []string{"lyo-1", "par-1"} {
		call(p, command.Assign, h, command.AssignRequest{Assignment: p.as, Authority: p.auth})
	}
	point := call(p, command.Points, "lyo-1", command.PointsRequest{Machine: "erp"}).Points[0]
	call(p, command.Prepare, "lyo-1", command.PrepareRequest{Meta: p.meta("drill"), Point: point.ID, Test: "drill-1"})
	_, err := try(p, command.Start, "lyo-1", command.StartRequest{Meta: p.meta("drill"), Test: "drill-1"})
	if !fault.Is(err, fault.Failed) || !strings.Contains(err.Error(), "ended at once: exit status 7") || !strings.Contains(fault.Hint(err), "output") {
		t.Errorf("%v (hint %s)", err, fault.Hint(err))
	}
}

// A status is of all machines, of one or of some.
func TestStatusOfSomeMachines(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	for _, c := range []struct {
		ask  command.StatusRequest
		want int
	}{{command.StatusRequest{}, 1}, {command.StatusRequest{Machine: "erp"}, 1}, {command.StatusRequest{Machine: "crm"}, 0},
		{command.StatusRequest{Machines: []string{"crm", "erp"}}, 1}, {command.StatusRequest{Machines: []string{"crm"}}, 0}} {
		if st := call(p, command.Status, "par-1", c.ask); len(st.Machines) != c.want {
			t.Errorf("asked %+v it tells of %d machines, want %d", c.ask, len(st.Machines), c.want)
		}
	}
}

// A store that is not made yet has the room of where it will lie.
func TestRoomOfAStoreToCome(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.as.Hosts[0].Store = t.TempDir() + "/not/yet"
	p.protect()
	if st := call(p, command.Status, "par-1", command.StatusRequest{}); st.Free <= 0 {
		t.Errorf("%d bytes are free in %s", st.Free, st.Store)
	}
}
