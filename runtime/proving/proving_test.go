package proving_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/proving"
	"github.com/drrun/drrun/runtime/report"
)

var t0 = time.Date(2026, 11, 1, 3, 0, 0, 0, time.UTC)

func day(n int) time.Time { return t0.AddDate(0, 0, n) }

// estate has a machine of the plan, one that it only names, and one that it does
// not know.
func estate(change ...func(*plans.Estate)) *plans.Estate {
	e := &plans.Estate{Name: "acme", Policies: []recovery.Policy{{Name: "gold", Every: time.Minute}},
		Sites: []plans.Site{
			{Name: "paris", Networks: []plans.Network{{Name: "lan", CIDR: "10.10.0.0/24"}}, Clouds: []plans.Cloud{{Name: "prod", Policy: "gold", Hosts: []plans.Host{{Name: "par-1", Addr: "10.10.0.5"}}}}},
			{Name: "lyon", Clouds: []plans.Cloud{{Name: "dr", Hosts: []plans.Host{{Name: "lyo-1"}}}}}},
		Machines: []plans.Machine{{Name: "db1", Host: "par-1", Tags: []string{"erp"}}, {Name: "ldap1", Host: "par-1"}, {Name: "web9", Host: "par-1"}}}
	for _, f := range change {
		f(e)
	}
	return e
}

func plan(e *plans.Estate) proving.Plan {
	return proving.Plan{Name: "erp", Hash: "h1", Text: `check "ldap" { tcp = "ldap1:389" }`, Applied: day(-9), Estate: e, Changed: day(5),
		Plan: &plans.Plan{Name: "erp", Items: []plans.Item{{Group: &plans.Group{Name: "all", Machines: []plans.MachineRef{{Tag: "erp"}}}}}}}
}

// tested is a test on a day that took so many seconds.
func tested(n int, took float64, change ...func(*report.Run)) proving.Test {
	r := &report.Run{ID: "erp-drill-" + day(n).Format("0102"), Status: report.RunDone, Ended: day(n),
		RTO: &report.Measure{Aim: 900, Measured: took, Met: took <= 900}, RPO: &report.Measure{Aim: 60, Measured: 5, Met: true}}
	for _, f := range change {
		f(r)
	}
	return proving.Test{Run: r, Hash: "h1", Estate: estate()}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	failed := func(r *report.Run) { r.Status, r.Reason = report.RunFailed, "check health: no answer" }
	for name, c := range map[string]struct {
		change func(*plans.Estate)
		hash   string
		tests  []proving.Test
		why    string // empty: proven
		since  int
	}{
		"never tested":                 {why: "it was never tested", since: -9},
		"passed":                       {tests: []proving.Test{tested(1, 200)}},
		"passed after a failure":       {tests: []proving.Test{tested(1, 200, failed), tested(2, 200)}},
		"failed since":                 {tests: []proving.Test{tested(1, 200), tested(2, 200, failed)}, why: "test erp-drill-1103 did not pass: check health: no answer", since: 2},
		"failing for days":             {tests: []proving.Test{tested(1, 200, failed), tested(2, 200), tested(3, 200, failed), tested(4, 1000), tested(5, 200, failed)}, why: "test erp-drill-1106 did not pass: check health: no answer", since: 3},
		"refused":                      {tests: []proving.Test{tested(1, 200), tested(2, 0, func(r *report.Run) { r.Status, r.RTO, r.Created, r.Ended = report.RunRefused, nil, day(2), time.Time{} })}, why: "test erp-drill-1103 did not pass: it is refused", since: 2},
		"done with an error":           {tests: []proving.Test{tested(1, 200, func(r *report.Run) { r.Errors = []report.Failure{{Step: "x", Error: fault.Errorf(fault.Failed, "no")}} })}, why: "test erp-drill-1102 did not pass: x: no", since: 1},
		"not every machine ready":      {tests: []proving.Test{tested(1, 0, func(r *report.Run) { r.RTO = nil })}, why: "in test erp-drill-1102 not every machine became ready", since: 1},
		"too slow, too old":            {tests: []proving.Test{tested(1, 1000, func(r *report.Run) { r.RPO.Measured, r.RPO.Met = 90, false })}, why: "test erp-drill-1102 missed the rpo of 1m00s: 1m30s; test erp-drill-1102 missed the rto of 15m00s: 16m40s", since: 1},
		"another plan":                 {hash: "h2", tests: []proving.Test{tested(1, 200)}, why: "the plan has changed", since: -9},
		"a moved line":                 {tests: []proving.Test{tested(1, 200)}, change: func(e *plans.Estate) { e.Machines[0].Pos.Line, e.Pos.Line = 7, 3 }},
		"another machine":              {tests: []proving.Test{tested(1, 200)}, change: func(e *plans.Estate) { e.Machines[2].Host = "par-2" }},
		"a new machine elsewhere":      {tests: []proving.Test{tested(1, 200)}, change: func(e *plans.Estate) { e.Machines = append(e.Machines, plans.Machine{Name: "web10"}) }},
		"its machine":                  {tests: []proving.Test{tested(1, 200)}, change: func(e *plans.Estate) { e.Machines[0].Host = "par-2" }, why: "changed in the estate: machine db1", since: 5},
		"a machine that it names":      {tests: []proving.Test{tested(1, 200)}, change: func(e *plans.Estate) { e.Machines[1].Host = "par-2" }, why: "changed in the estate: machine ldap1", since: 5},
		"a machine that its tag takes": {tests: []proving.Test{tested(1, 200)}, change: func(e *plans.Estate) { e.Machines[2].Tags = []string{"erp"} }, why: "changed in the estate: machine web9 is new", since: 5},
		"a machine that is gone":       {tests: []proving.Test{tested(1, 200)}, change: func(e *plans.Estate) { e.Machines = e.Machines[1:] }, why: "changed in the estate: machine db1 is gone", since: 5},
		"policy, host, network, allow": {tests: []proving.Test{tested(1, 200)}, change: func(e *plans.Estate) {
			e.Policies[0].Every, e.Sites[0].Clouds[0].Hosts[0].Addr, e.Sites[0].Networks[0].CIDR, e.Allow = time.Hour, "10.10.0.7", "10.11.0.0/24", []string{"curl"}
		}, why: "changed in the estate: allow, host par-1, network paris/lan, policy gold", since: 5},
		"plan and estate": {hash: "h2", tests: []proving.Test{tested(1, 200)}, change: func(e *plans.Estate) { e.Machines[0].Host = "par-2" }, why: "the plan has changed; changed in the estate: machine db1", since: -9},
	} {
		e := estate()
		if c.change != nil {
			c.change(e)
		}
		p := plan(e)
		if c.hash != "" {
			p.Hash = c.hash
		}
		got := proving.Judge(p, c.tests)
		if why := strings.Join(got.Why, "; "); why != c.why || got.Proven != (c.why == "") {
			t.Errorf("%s: proven %v, why %q, want %q", name, got.Proven, why, c.why)
		}
		if c.why != "" && !got.Since.Equal(day(c.since)) {
			t.Errorf("%s: since %s, want %s", name, got.Since, day(c.since))
		}
		green := slices.ContainsFunc(c.tests, func(t proving.Test) bool { return len(proving.Faults(t.Run)) == 0 })
		if (got.Run != "") != green || len(got.Tests) > len(c.tests) {
			t.Errorf("%s: by %q, %d times", name, got.Run, len(got.Tests))
		}
	}
}

// TestSlower: a test that took much longer than those before it is an alarm, one
// among few, by little, or short is not.
func TestSlower(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		took []float64
		want string
	}{
		"as ever":         {[]float64{200, 210, 190, 205}, ""},
		"much longer":     {[]float64{200, 210, 190, 300}, "the last test took 5m00s, the median of the 3 before it is 3m20s"},
		"longer by a few": {[]float64{10, 11, 10, 15}, ""},
		"few before":      {[]float64{200, 210, 400}, ""},
		"faster":          {[]float64{400, 410, 390, 200}, ""},
	} {
		var tests []proving.Test
		for i, took := range c.took {
			tests = append(tests, tested(i, took))
		}
		got := proving.Judge(plan(estate()), tests)
		if got.Slower != c.want || len(got.Tests) != len(c.took) {
			t.Errorf("%s: %q, %d times; want %q", name, got.Slower, len(got.Tests), c.want)
		}
	}
}
