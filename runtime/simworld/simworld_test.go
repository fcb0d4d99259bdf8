package simworld_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/simworld"
)

func estate() *plans.Estate {
	machine := func(name string, n int) plans.Machine {
		return plans.Machine{Name: name, Host: "par-1", IP: map[string]plans.IP{"lan": {Number: n}}, Protected: true,
			Disks: []plans.Disk{{Name: "root", File: "/vm/" + name}}, Exec: &recovery.Exec{Start: []string{"/bin/" + name}}}
	}
	site := func(name, cidr, cloud, to, host string) plans.Site {
		return plans.Site{Name: name, Networks: []plans.Network{{Name: "lan", CIDR: cidr}, {Name: "bubble", CIDR: "10.99.0.0/24", Isolated: true}},
			Clouds: []plans.Cloud{{Name: cloud, To: to, Hosts: []plans.Host{{Name: host, Addr: "127.0.0.1:1", Store: "/srv", Allow: []string{"systemctl"}}}}}}
	}
	return &plans.Estate{Name: "acme", Sites: []plans.Site{site("paris", "10.10.0.0/24", "prod", "dr", "par-1"), site("lyon", "10.20.0.0/24", "dr", "prod", "lyo-1")},
		Machines: []plans.Machine{machine("db1", 11), machine("app1", 21)}}
}

// lab is a world with the calls of a run.
type lab struct {
	*testing.T
	*simworld.World
}

func bubble(t *testing.T, f func(l lab)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, err := simworld.New(estate())
		if err != nil {
			t.Fatal(err)
		}
		f(lab{t, w})
	})
}

func meta(machine, op string, epoch, fence uint64) command.Meta {
	m := command.Meta{Machine: machine, Epoch: ident.Epoch(epoch), Fence: ident.Fence(fence), Run: "r"}
	if op != "" {
		m.Op = "r/" + op + "/1"
	}
	return m
}

func (l lab) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

func (l lab) wants(kind fault.Kind, err error) {
	l.Helper()
	if !fault.Is(err, kind) {
		l.Errorf("got %v", err)
	}
}

// grant moves db1 to Lyon at both agents.
func (l lab) grant() {
	l.Helper()
	next := recovery.Authority{Epoch: 2, Active: "lyon", Run: "r", Uncommitted: true}
	for _, host := range []string{"lyo-1", "par-1"} {
		st, err := command.Status.Call(l.Context(), l, host, command.StatusRequest{Machine: "db1"})
		l.must(err)
		_, err = command.Grant.Call(l.Context(), l, host, command.GrantRequest{Meta: meta("db1", "epoch/"+host, 0, 7), Expect: st.Machines[0].Authority, Next: next})
		l.must(err)
	}
}

// What is of an earlier claim or epoch is refused, and a repeated operation
// answers with its first result.
func TestAgentsRefuseWhatIsOld(t *testing.T) {
	bubble(t, func(l lab) {
		_, err := command.Claim.Call(l.Context(), l, "par-1", command.ClaimRequest{Meta: meta("db1", "claim", 0, 7)})
		l.must(err)
		_, err = command.Stop.Call(l.Context(), l, "par-1", command.StopRequest{Meta: meta("db1", "stop", 1, 6)})
		l.wants(fault.Conflict, err)
		_, err = command.Stop.Call(l.Context(), l, "par-1", command.StopRequest{Meta: meta("db1", "stop", 2, 7)})
		l.wants(fault.Conflict, err)
		for range 2 {
			_, err = command.Stop.Call(l.Context(), l, "par-1", command.StopRequest{Meta: meta("db1", "stop", 1, 7), Lock: true})
			l.must(err)
		}
		if n := l.Changes()["par-1 stop db1"]; n != 1 {
			l.Errorf("it was stopped %d times", n)
		}
		_, err = command.Grant.Call(l.Context(), l, "lyo-1", command.GrantRequest{Meta: meta("db1", "epoch", 0, 7), Expect: recovery.Authority{Epoch: 9}, Next: recovery.Authority{Epoch: 10}})
		l.wants(fault.Conflict, err)
		if v := l.Violations(); len(v) > 0 {
			l.Errorf("%+v", v)
		}
	})
}

// A machine that is started where it has no right to, or twice, is a violation.
func TestRightToRun(t *testing.T) {
	bubble(t, func(l lab) {
		_, err := command.Start.Call(l.Context(), l, "lyo-1", command.StartRequest{Meta: meta("db1", "start", 1, 7)})
		l.must(err)
		v := l.Violations()
		if len(v) != 2 || v[0].Rule != simworld.RuleRight || v[1].Rule != simworld.RuleRight {
			l.Errorf("%+v", v)
		}
	})
}

// Services answer 40 s after the start of their machine, those that need others
// after these; at the old address nobody answers.
func TestServicesAreSlow(t *testing.T) {
	bubble(t, func(l lab) {
		l.Needs("app1", "db1")
		l.grant()
		if p, _ := l.Where("db1"); p.Site != "lyon" || p.Power != recovery.PowerStopped {
			l.Fatalf("%+v", p)
		}
		_, err := command.Start.Call(l.Context(), l, "lyo-1", command.StartRequest{Meta: meta("db1", "start", 2, 7)})
		l.must(err)
		ask := func(tcp string) bool {
			r, err := command.Check.Call(l.Context(), l, "lyo-1", command.CheckRequest{Meta: meta("db1", "", 2, 7), Check: recovery.Check{TCP: tcp}, Addresses: map[string]string{"db1": "10.20.0.11"}})
			l.must(err)
			return r.OK
		}
		began := time.Now()
		for !ask("db1:5432") {
			<-time.After(time.Second)
		}
		if d := time.Since(began); d < 38*time.Second || d > 42*time.Second {
			l.Errorf("it answered after %s", d)
		}
		if ask("10.10.0.11:5432") {
			l.Error("the old address answers")
		}
	})
}

// A start before what the machine needs answers is a violation.
func TestNeeds(t *testing.T) {
	bubble(t, func(l lab) {
		l.Needs("db1", "app1")
		l.Silence("app1", true)
		l.grant()
		_, err := command.Start.Call(l.Context(), l, "lyo-1", command.StartRequest{Meta: meta("db1", "start", 2, 7)})
		l.must(err)
		if v := l.Violations(); len(v) != 1 || v[0].Rule != simworld.RuleNeeds || v[0].Step != "start" || v[0].Hint == "" {
			l.Errorf("%+v", v)
		}
	})
}

// Points come with time, while both sites are reached and the machine runs.
func TestPoints(t *testing.T) {
	bubble(t, func(l lab) {
		newest := func() time.Time {
			r, err := command.Points.Call(l.Context(), l, "lyo-1", command.PointsRequest{Machine: "db1"})
			l.must(err)
			return r.Points[len(r.Points)-1].Instant
		}
		<-time.After(time.Hour)
		if age := time.Since(newest()); age > 5*time.Minute {
			l.Errorf("the newest point is %s old", age)
		}
		l.Partition("par-1")
		cut := newest()
		<-time.After(time.Hour)
		if at := newest(); at != cut {
			l.Errorf("a point of %s came over a cut link", at)
		}
		l.Heal("par-1")
		<-time.After(10 * time.Minute)
		if newest() == cut {
			l.Error("no point after the partition")
		}
		l.Down("par-1")
		if p, _ := l.Where("db1"); p.Power != recovery.PowerStopped {
			l.Errorf("%+v", p)
		}
		_, err := command.Status.Call(l.Context(), l, "par-1", command.StatusRequest{})
		l.wants(fault.Unreachable, err)
		l.Up("par-1")
		if p, _ := l.Where("db1"); p.Power != recovery.PowerRunning {
			l.Errorf("its host is back, and %+v", p)
		}
	})
}

// A host that comes back learns of the newer record, and starts nothing.
func TestOldSiteComesBack(t *testing.T) {
	bubble(t, func(l lab) {
		l.Down("par-1")
		st, err := command.Status.Call(l.Context(), l, "lyo-1", command.StatusRequest{Machine: "db1"})
		l.must(err)
		_, err = command.Grant.Call(l.Context(), l, "lyo-1", command.GrantRequest{Meta: meta("db1", "epoch", 0, 7), Expect: st.Machines[0].Authority,
			Next: recovery.Authority{Epoch: 2, Active: "lyon", Run: "r"}})
		l.must(err)
		l.Up("par-1")
		back, err := command.Status.Call(l.Context(), l, "par-1", command.StatusRequest{Machine: "db1"})
		l.must(err)
		if ms := back.Machines[0]; ms.Power != recovery.PowerStopped || ms.Authority.Epoch != 2 {
			l.Errorf("%+v", ms)
		}
	})
}

// Faults: as often as they say, and what they say.
func TestFaults(t *testing.T) {
	bubble(t, func(l lab) {
		stop := func(n string) error {
			_, err := command.Stop.Call(l.Context(), l, "par-1", command.StopRequest{Meta: meta("db1", "stop"+n, 1, 7)})
			return err
		}
		f := l.Break(simworld.Fault{Verb: "stop", Times: 1})
		l.wants(fault.Failed, stop("a"))
		l.must(stop("b"))
		if f.Hits != 1 {
			l.Errorf("%d hits", f.Hits)
		}
		l.Break(simworld.Fault{Verb: "stop", Step: "stopc", Lost: true, Times: 1})
		l.wants(fault.Unreachable, stop("c"))
		l.must(stop("c")) // it was done
		if n := l.Changes()["par-1 stop db1"]; n != 2 {
			l.Errorf("it was stopped %d times", n)
		}
		l.Break(simworld.Fault{Verb: "stop", Cut: true})
		l.wants(fault.Unreachable, stop("d"))
		l.Mend()
		l.must(stop("d"))
	})
}

func operate(l lab, name string, class plans.OpClass, key string, args any) (any, error) {
	l.Helper()
	raw, err := json.Marshal(args)
	l.must(err)
	v, known, err := l.Operate(l.Context(), simworld.Operation{Name: name, Class: class, Key: key, Args: raw})
	if !known {
		l.Errorf("%s is not known", name)
	}
	return v, err
}

// What acts outside is judged: in a test, twice, and where a name points.
func TestOutside(t *testing.T) {
	bubble(t, func(l lab) {
		l.Know("r", recovery.Planned, "lyon", []string{"act"}, nil)
		l.Know("t", recovery.Test, "lyon", []string{"act"}, nil)
		post := func(key string, headers map[string]string) {
			_, err := operate(l, "http.post", plans.OpIdempotent, key, map[string]any{"method": "POST", "url": "https://desk.example.com/t", "headers": headers})
			l.must(err)
		}
		rules := func() (out []string) {
			for _, v := range l.Violations() {
				out = append(out, v.Rule+" "+v.Step)
			}
			return out
		}
		post("r/act/1/1", nil)
		post("r/act/1/1", nil) // the same operation: the server knows its key
		post("r/act/1/2", nil) // another one of the same attempt
		if got := rules(); got != nil {
			l.Errorf("%v", got)
		}
		post("r/act/2/1", nil)
		if got := rules(); !slices.Equal(got, []string{"twice act"}) {
			l.Errorf("%v", got)
		}
		own := map[string]string{"Idempotency-Key": "r-ticket"}
		before := len(l.Effects())
		post("r/act/3/1", own)
		post("r/act/4/1", own)
		if got := len(l.Effects()) - before; got != 1 {
			l.Errorf("%d effects under one key", got)
		}
		l.Serve(simworld.Server{HTTP: "https://desk", Status: 503})
		own["Idempotency-Key"], before = "r-other", len(l.Effects())
		post("r/act/5/1", own)
		l.Serve(simworld.Server{HTTP: "https://desk", Status: 200})
		post("r/act/6/1", own) // what was refused is not done
		post("r/act/7/1", own)
		if got := len(l.Effects()) - before; got != 2 {
			l.Errorf("%d effects of a refusal, a deed and its repetition", got)
		}
		post("t/act/1/1", nil)
		if got := rules(); !slices.Contains(got, "test act") {
			l.Errorf("%v", got)
		}
		_, err := operate(l, "dns.update", plans.OpIdempotent, "r/act/1/9", map[string]any{"name": "erp.example.com.", "server": "10.0.0.53", "values": map[string][]string{"A": {"10.20.0.11"}}})
		l.must(err)
		if got := l.Name("ERP.example.com", ""); !slices.Equal(got, []string{"10.20.0.11"}) {
			l.Errorf("%v", got)
		}
		l.CheckPlaces() // db1 runs in Paris
		if v := l.Violations(); v[len(v)-1].Rule != simworld.RulePlace || !strings.Contains(v[len(v)-1].Text, "db1 runs at paris") {
			l.Errorf("%+v", v[len(v)-1])
		}
	})
}

// Servers outside answer well unless they are told otherwise; addresses of the
// estate answer only where a machine runs.
func TestServers(t *testing.T) {
	bubble(t, func(l lab) {
		get := func(url string) (any, error) {
			return operate(l, "http.get", plans.OpRead, "r/act/1/1", map[string]any{"method": "GET", "url": url})
		}
		status := func(v any) any { return v.(map[string]any)["status"] }
		v, err := get("https://elsewhere.example.com/")
		l.must(err)
		if status(v) != 200 {
			l.Errorf("%v", v)
		}
		l.Serve(simworld.Server{HTTP: "https://elsewhere", Status: 503})
		if v, _ = get("https://elsewhere.example.com/"); status(v) != 503 {
			l.Errorf("%v", v)
		}
		l.Serve(simworld.Server{HTTP: "https://elsewhere", Down: true})
		if _, err = get("https://elsewhere.example.com/"); err == nil {
			l.Error("it answers")
		}
		if _, err = get("http://10.10.0.11:8080/"); err != nil {
			l.Error(err)
		}
		if _, err = get("http://10.20.0.11:8080/"); err == nil {
			l.Error("db1 answers at a site where it does not run")
		}
		if _, known, _ := l.Operate(l.Context(), simworld.Operation{Name: "smtp.send", Key: "r/act/1/1"}); known {
			l.Error("it knows everything")
		}
	})
}
