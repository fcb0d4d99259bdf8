package program_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/program"
)

var update = flag.Bool("update", false, "write the golden files anew")

func estate() *plans.Estate {
	machine := func(name string, n int, tags ...string) plans.Machine {
		return plans.Machine{Name: name, Host: "par-1", Tags: tags, IP: map[string]plans.IP{"lan": {Number: n}}, Protected: true,
			Ready: &recovery.Check{HTTP: ":8080/health", Expect: 200, Within: 3 * time.Minute}}
	}
	e := &plans.Estate{Name: "acme", Machines: []plans.Machine{machine("db1", 11), machine("app1", 21, "app"), machine("app2", 22, "app"), machine("lb1", 10)}}
	for _, s := range [][4]string{{"paris", "10.10.0.0/24", "prod", "par-1"}, {"lyon", "10.20.0.0/24", "dr", "lyo-1"}} {
		e.Sites = append(e.Sites, plans.Site{Name: s[0], Networks: []plans.Network{{Name: "lan", CIDR: s[1]}, {Name: "bubble", CIDR: "10.99.0.0/24", Isolated: true}},
			Clouds: []plans.Cloud{{Name: s[2], Hosts: []plans.Host{{Name: s[3]}, {Name: s[3] + "b"}}}}})
	}
	return e
}

func step(kind plans.StepKind, name string, change ...func(*plans.Step)) plans.Step {
	s := plans.Step{Kind: kind, Name: name, Within: time.Minute, Pos: plans.Pos{File: "erp.lua", Line: len(name)}}
	switch kind {
	case plans.StepExec:
		s.Exec = &plans.ExecStep{Cmd: []string{"true"}}
	case plans.StepCheck:
		s.Check = &plans.CheckStep{Check: recovery.Check{TCP: "db1:5432"}}
	case plans.StepWait:
		s.Wait = &plans.WaitStep{Ask: "go on?"}
	case plans.StepAction:
		s.Action = &plans.FuncRef{}
	}
	for _, f := range change {
		f(&s)
	}
	return s
}

func on(host, at string) func(*plans.Step) {
	return func(s *plans.Step) { s.Exec.On, s.At = host, at }
}

func only(types ...recovery.Type) func(*plans.Step) { return func(s *plans.Step) { s.Only = types } }

func wide() *plans.Plan {
	wait := step(plans.StepWait, "business go/no-go", func(s *plans.Step) { s.Skip = []recovery.Type{recovery.Test} })
	return &plans.Plan{Name: "erp", From: "paris", To: "lyon",
		Shutdown: plans.Shutdown{ForceAfter: 10 * time.Minute, Phase: plans.Phase{
			Before: []plans.Step{step(plans.StepExec, "drain the pooler", on("lb1", ""), only(recovery.Planned))},
			After:  []plans.Step{step(plans.StepExec, "lamp off"), step(plans.StepExec, "lamp off", on("par-1b", ""))}}},
		Failover: plans.Phase{Before: []plans.Step{step(plans.StepExec, "tell the desk", func(s *plans.Step) { s.Direction = "failback" })},
			After: []plans.Step{step(plans.StepExec, "look back", on("db1", "source"))}},
		Items: []plans.Item{
			{Group: &plans.Group{Name: "databases", Machines: []plans.MachineRef{{Name: "db1", Phase: plans.Phase{After: []plans.Step{step(plans.StepCheck, "postgres answers")}}}}}},
			{Group: &plans.Group{Name: "application", Parallel: 2, Delay: 5 * time.Second, Phase: plans.Phase{Before: []plans.Step{step(plans.StepAction, "warm up")}},
				Machines: []plans.MachineRef{{Name: "app2", Needs: []string{"app1"}, Delay: time.Second}, {Tag: "app"}}}},
			{Wait: &wait},
			{Group: &plans.Group{Name: "edge", Machines: []plans.MachineRef{{Name: "lb1"}}}},
		}}
}

func facts(active map[string]string) map[string]program.Fact {
	out := map[string]program.Fact{}
	for _, m := range []string{"db1", "app1", "app2", "lb1"} {
		f := program.Fact{Active: "paris", Hosts: []recovery.Host{{Name: "par-1", Site: "paris", Store: "/srv"}, {Name: "lyo-1", Site: "lyon", Store: "/srv"}}}
		if a := active[m]; a != "" {
			f.Active = a
		}
		out[m] = f
	}
	return out
}

func compile(t *testing.T, req program.Request, active map[string]string) *program.Program {
	t.Helper()
	p, err := program.Compile(wide(), estate(), req, facts(active))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var there = map[string]string{"db1": "lyon", "app1": "lyon", "app2": "lyon", "lb1": "lyon"}

// TestNotes: what the titles of waits and checks do not say.
func TestNotes(t *testing.T) {
	t.Parallel()
	wait := func(change func(*plans.Step)) plans.Step { return step(plans.StepWait, "go", change) }
	plan := &plans.Plan{Name: "erp", From: "paris", To: "lyon", Items: []plans.Item{{Group: &plans.Group{Name: "g", Machines: []plans.MachineRef{{Name: "db1"}},
		Phase: plans.Phase{After: []plans.Step{
			step(plans.StepCheck, "here", func(s *plans.Step) { s.Check.Check = recovery.Check{Exec: []string{"alive"}} }),
			step(plans.StepCheck, "there"),
			step(plans.StepCheck, "outside", func(s *plans.Step) { s.Check.Check = recovery.Check{HTTP: "http://desk.example.com/"} }),
			step(plans.StepCheck, "a function", func(s *plans.Step) { s.Check = &plans.CheckStep{Func: &plans.FuncRef{}} }),
			wait(func(s *plans.Step) { s.Within, s.Wait.Role = 2*time.Hour, "approver" }),
			wait(func(s *plans.Step) { s.Wait.OnTimeout, s.Wait.Unattended = "continue", "go" }),
			wait(func(s *plans.Step) { s.OnFail = "continue" }),
			wait(func(s *plans.Step) { s.OnFail = "ask" }),
		}}}}}}
	for typ, want := range map[recovery.Type][]string{
		recovery.Planned: {"asked on lyo-1", "", "asked on lyo-1", "", "role approver; no answer within 2h00m: the run stops", "no answer within 1m00s: the run goes on",
			"no answer within 1m00s: the run goes on with an error", "no answer within 1m00s: a person is asked"},
		recovery.Test: {"asked on lyo-1", "", "asked on lyo-1", "", "role approver; no answer within 2h00m: the run stops; a drill answers stop", "no answer within 1m00s: the run goes on; a drill answers go",
			"no answer within 1m00s: the run goes on with an error; a drill answers stop", "no answer within 1m00s: a person is asked; a drill answers stop"},
	} {
		p, err := program.Compile(plan, estate(), program.Request{Type: typ}, facts(nil))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		x := p.Explain(nil)
		for _, l := range x.Steps {
			if (l.Kind == "check" || l.Kind == "wait") && l.Pos != nil {
				got = append(got, l.Note)
			} else if l.Note != "" {
				t.Errorf("%s: %q", l.ID, l.Note)
			}
			if l.Note != "" && !strings.Contains(x.Text, "  ["+l.Note+"]\n") {
				t.Errorf("the text does not say %q:\n%s", l.Note, x.Text)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q\nwant %q", typ, got, want)
		}
	}
}

// TestListings holds the order of every type of run: the tables of the
// recovery semantics, as text.
func TestListings(t *testing.T) {
	t.Parallel()
	planned := compile(t, program.Request{Type: recovery.Planned}, nil)
	all := []string{"db1", "app1", "app2", "lb1"}
	back := []program.Machine{{Name: "db1", FromSite: "lyon", FromHost: "lyo-1", ToSite: "paris", ToHost: "par-1"}, {Name: "app1", Skip: "replicates already"}}
	for name, p := range map[string]*program.Program{
		"planned":            planned,
		"unplanned":          compile(t, program.Request{Type: recovery.Unplanned}, nil),
		"unplanned-no-stop":  compile(t, program.Request{Type: recovery.Unplanned, NoShutdown: true}, nil),
		"test":               compile(t, program.Request{Type: recovery.Test}, nil),
		"test-at-home":       compile(t, program.Request{Type: recovery.Test}, there),
		"failback":           compile(t, program.Request{Type: recovery.Planned, Failback: true}, there),
		"partly-there":       compile(t, program.Request{Type: recovery.Planned}, map[string]string{"db1": "lyon"}),
		"nothing-to-do":      compile(t, program.Request{Type: recovery.Planned}, there),
		"commit":             program.CommitOf(planned, all[:2]),
		"cleanup":            program.CleanupOf(compile(t, program.Request{Type: recovery.Test}, nil)),
		"cancel":             program.CancelOf(planned, []string{"app1", "lb1"}, []string{"db1"}, nil, nil),
		"reverse":            program.Reverse("erp", back),
		"reverse-of-nothing": program.Reverse("erp", back[1:]),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join("testdata", name+".txt")
			got := p.Explain(nil).Text
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil || got != string(want) {
				t.Errorf("%s (%v): got\n%s", file, err, got)
			}
			wellFormed(t, p)
		})
	}
}

// wellFormed checks what the engine relies on: unique ids, names that exist,
// and a stored form that reads back the same.
func wellFormed(t *testing.T, p *program.Program) {
	t.Helper()
	var ids []string
	for _, s := range p.Steps() {
		if slices.Contains(ids, s.ID) {
			t.Errorf("step id %q twice", s.ID)
		}
		for _, need := range s.Requires {
			if !slices.Contains(ids, need) {
				t.Errorf("%q requires %q, which does not come before it", s.ID, need)
			}
		}
		ids = append(ids, s.ID)
		if s.OnFail == "" || s.Within <= 0 || s.Title == "" || s.Phase == "" {
			t.Errorf("step %q is not filled: %+v", s.ID, s)
		}
	}
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var back program.Program
	if err := json.Unmarshal(raw, &back); err != nil || back.Explain(nil).Text != p.Explain(nil).Text {
		t.Errorf("the stored form differs (%v)", err)
	}
}

func TestIDsStayWhenTheSourceDies(t *testing.T) {
	t.Parallel()
	var planned, unplanned []string
	for _, s := range compile(t, program.Request{Type: recovery.Planned}, nil).Steps() {
		planned = append(planned, s.ID)
	}
	for _, s := range compile(t, program.Request{Type: recovery.Unplanned}, nil).Steps() {
		unplanned = append(unplanned, s.ID)
	}
	for _, id := range planned {
		if !slices.Contains(unplanned, id) && !strings.HasPrefix(id, "drain-ahead/") && !strings.HasPrefix(id, "proof/") { // those need the source
			t.Errorf("step %q is not in the unplanned program", id)
		}
	}
	for _, id := range unplanned {
		if !slices.Contains(planned, id) && !strings.HasPrefix(id, "right-to-run/") {
			t.Errorf("step %q is not in the planned program", id)
		}
	}
}

// TestNeedsWaitForWhatStandsBehind: a machine that another needs is there when
// its own after steps are done.
func TestNeedsWaitForWhatStandsBehind(t *testing.T) {
	t.Parallel()
	p := wide()
	p.Items = []plans.Item{{Group: &plans.Group{Name: "all", Machines: []plans.MachineRef{{Name: "app1", Needs: []string{"db1", "lb1"}}, {Name: "lb1"},
		{Name: "db1", Phase: plans.Phase{After: []plans.Step{step(plans.StepCheck, "postgres answers"), step(plans.StepAction, "warm up")}}}}}}}
	prog, err := program.Compile(p, estate(), program.Request{Type: recovery.Planned}, facts(nil))
	if err != nil {
		t.Fatal(err)
	}
	needs := map[string][]string{}
	var walk func(n *program.Node)
	walk = func(n *program.Node) {
		if len(n.Needs) > 0 {
			needs[n.Seq[0].Step.ID] = n.Needs
		}
		for i := range n.Seq {
			walk(&n.Seq[i])
		}
		for i := range n.Par {
			walk(&n.Par[i])
		}
	}
	walk(&prog.Root)
	want := []string{"group:all/db1/after:warm up", "group:all/lb1/ready"}
	if got := needs["group:all/app1/start"]; len(needs) != 1 || !slices.Equal(got, want) {
		t.Errorf("needs %v, want of app1 %v", needs, want)
	}
}

func TestCompileRefuses(t *testing.T) {
	t.Parallel()
	homeless := facts(nil)
	homeless["app1"] = program.Fact{Active: "paris", Hosts: homeless["app1"].Hosts[:1]}
	_, err := program.Compile(wide(), estate(), program.Request{Type: recovery.Planned}, homeless)
	if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "app1") || fault.Hint(err) == "" {
		t.Errorf("no replica: %v", err)
	}
	_, err = program.Compile(wide(), estate(), program.Request{Type: recovery.Unplanned}, facts(map[string]string{"db1": "nice"}))
	if !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), "nice") {
		t.Errorf("third site: %v", err)
	}
}
