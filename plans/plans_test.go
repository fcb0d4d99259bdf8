package plans_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
)

// The table state × operation, cell by cell: + is allowed. The columns are
// plans.Operations.
const table = `
unprotected   + . . . . . . . . . . +
seeding       . + . . . . . . . . . +
protected     . + + + + . . . . . . +
degraded      . + + + + . . . . . . +
failing-over  . . . . . . . + . + + +
failed-over   . . + . + + + + . . . +
committed     . + . . . . . . + . . +
reseeding     . + . . + . . . . . . +
`

func TestAllowedCellByCell(t *testing.T) {
	t.Parallel()
	rows := strings.Split(strings.TrimSpace(table), "\n")
	if len(rows) != len(plans.MachineStates) {
		t.Fatalf("%d rows, %d states", len(rows), len(plans.MachineStates))
	}
	for i, s := range plans.MachineStates {
		cells := strings.Fields(rows[i])
		if cells[0] != string(s) || len(cells)-1 != len(plans.Operations) {
			t.Fatalf("row %q does not fit state %s", rows[i], s)
		}
		for j, op := range plans.Operations {
			err := plans.Refusal("db1", s, op)
			if want := cells[j+1] == "+"; (err == nil) != want || slices.Contains(plans.Allowed(s), op) != want {
				t.Errorf("%s in state %s: %v, want allowed %v", op, s, err, want)
			}
			if err != nil && (!fault.Is(err, fault.Refused) || !strings.HasPrefix(fault.Hint(err), "allowed now: ")) {
				t.Errorf("%s in state %s: %v, hint %q", op, s, err, fault.Hint(err))
			}
		}
	}
	if err := plans.Refusal("db1", "melted", plans.OpCommit); err == nil {
		t.Error("an unknown state allows")
	}
}

func estate() *plans.Estate {
	cloud := func(name, to string, hosts ...plans.Host) plans.Cloud {
		return plans.Cloud{Name: name, To: to, Policy: "gold", Hosts: hosts}
	}
	site := func(name, lan, six string, c plans.Cloud) plans.Site {
		return plans.Site{Name: name, Clouds: []plans.Cloud{c}, Networks: []plans.Network{
			{Name: "lan", CIDR: lan}, {Name: "six", CIDR: six}, {Name: "bubble", CIDR: "10.99.0.0/24", Isolated: true},
		}}
	}
	e := &plans.Estate{Name: "acme", Policies: []recovery.Policy{{Name: "gold", Every: 30 * time.Second}},
		Sites: []plans.Site{
			site("paris", "10.10.0.0/24", "2001:db8:1::/64", cloud("prod", "dr", plans.Host{Name: "par-1", Addr: "10.10.0.5", Store: "/s"})),
			site("lyon", "10.20.0.0/24", "2001:db8:2::/64", cloud("dr", "prod", plans.Host{Name: "lyo-0", Addr: "[2001:db8::5]"},
				plans.Host{Name: "lyo-1", Addr: "10.20.0.5:99", Store: "/s"}, plans.Host{Name: "lyo-2", Addr: "h", Store: "/s"})),
		},
		Machines: []plans.Machine{
			{Name: "db1", Host: "par-1", Protected: true, Tags: []string{"erp"}, IP: map[string]plans.IP{"lan": {Number: 11}},
				Disks: []plans.Disk{{Name: "root", File: "/vm/db1"}}, Exec: &recovery.Exec{Start: []string{"/bin/db", "{disk.root}"}}},
			{Name: "app1", Host: "par-1", Protected: true, Tags: []string{"erp", "app"}, Replica: "lyo-2",
				IP:    map[string]plans.IP{"six": {Number: 0x21}, "lan": {BySite: map[string][]string{"lyon": {"10.20.0.77/24"}}}, "bubble": {Number: 200}},
				Disks: []plans.Disk{{Name: "root", File: "/vm/app1"}}, Exec: &recovery.Exec{Unit: "app"}},
		},
	}
	plans.FillDefaults(e)
	return e
}

func TestLookups(t *testing.T) {
	t.Parallel()
	e := estate()
	if err := plans.ValidateEstate(e); err != nil {
		t.Fatal(err)
	}
	if site, ok := e.HostSite("lyo-2"); site != "lyon" || !ok {
		t.Errorf("site %q %v", site, ok)
	}
	if c, ok := e.CloudOf("lyo-1"); !ok || c.Name != "dr" {
		t.Errorf("cloud %v %v", c, ok)
	}
	for host, want := range map[string]string{"par-1": "10.10.0.5:7830", "lyo-0": "[2001:db8::5]:7830", "lyo-1": "10.20.0.5:99", "lyo-2": "h:7830"} {
		if h, _ := e.Host(host); h.Addr != want {
			t.Errorf("address of %s is %q, want %q", host, h.Addr, want)
		}
	}
	if h, ok := e.Target("db1"); !ok || h.Name != "lyo-1" || len(e.Targets("db1")) != 2 {
		t.Errorf("target of db1: %v %v", h, ok)
	}
	if h, ok := e.Target("app1"); !ok || h.Name != "lyo-2" {
		t.Errorf("target of app1: %v %v", h, ok)
	}
	if p := e.PolicyOf("db1"); p.Name != "gold" || p.Every != 30*time.Second || p.StartAlone != "ask" || p.Codec != "auto" {
		t.Errorf("policy %+v", p)
	}
	if p := e.PolicyOf("nobody"); p.Name != "default" || p.Every != 5*time.Minute {
		t.Errorf("default policy %+v", p)
	}
	for _, c := range []struct {
		machine, site string
		test          bool
		want          string
	}{
		{"db1", "paris", false, "lan 10.10.0.11"}, {"db1", "lyon", false, "lan 10.20.0.11"}, {"db1", "lyon", true, "bubble 10.99.0.11"},
		{"app1", "paris", false, "six 2001:db8:1::21"}, {"app1", "lyon", false, "lan 10.20.0.77"}, {"app1", "lyon", true, "bubble 10.99.0.200"},
		{"db1", "rome", false, ""}, {"nobody", "lyon", false, ""},
	} {
		a, ok := e.AddressOf(c.machine, c.site, c.test)
		if got := strings.TrimSpace(a.Network + " " + a.IP); got != c.want || ok != (c.want != "") {
			t.Errorf("address of %s at %s (test %v) is %q, want %q", c.machine, c.site, c.test, got, c.want)
		}
	}
}

func TestHostAddress(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cidr string
		n    int
		want string
	}{
		{"10.0.0.0/24", 1, "10.0.0.1"}, {"10.0.0.0/24", 254, "10.0.0.254"}, {"10.0.0.0/24", 255, ""}, {"10.0.0.0/24", 256, ""},
		{"10.0.0.0/16", 300, "10.0.1.44"}, {"255.255.255.0/24", 300, ""}, {"10.0.0.0/24", 0, ""}, {"10.0.0.0/24", -1, ""},
		{"10.0.0.0/31", 1, "10.0.0.1"}, {"2001:db8::/64", 16, "2001:db8::10"}, {"2001:db8::/127", 2, ""},
	} {
		a, ok := plans.HostAddress(netip.MustParsePrefix(c.cidr), c.n)
		if ok != (c.want != "") || ok && a.String() != c.want {
			t.Errorf("number %d of %s is %v %v, want %q", c.n, c.cidr, a, ok, c.want)
		}
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	p := &plans.Plan{Name: "erp", From: "paris", To: "lyon", Items: []plans.Item{
		{Group: &plans.Group{Name: "db", Machines: []plans.MachineRef{{Name: "db1"}}}},
		{Wait: &plans.Step{Kind: plans.StepWait, Name: "w", Wait: &plans.WaitStep{Ask: "?"}}},
		{Group: &plans.Group{Name: "rest", Machines: []plans.MachineRef{{Tag: "erp", Except: []string{"db1"}}}}},
	}}
	if err := plans.Check(p, estate()); err != nil {
		t.Fatal(err)
	}
	gs := p.Resolve(estate())
	if len(gs) != 2 || gs[1].Item != 2 || !slices.Equal(gs[0].Names(), []string{"db1"}) || !slices.Equal(gs[1].Names(), []string{"app1"}) {
		t.Errorf("groups %+v", gs)
	}
	p.Items[2].Group.Machines[0].Except = nil
	if err := plans.Check(p, estate()); err == nil || !strings.Contains(err.Error(), `"db1" is selected twice`) {
		t.Errorf("a machine in two groups: %v", err)
	}
}

func TestCanonicalHash(t *testing.T) {
	t.Parallel()
	a, b := estate(), estate()
	if plans.Hash(a) != plans.Hash(b) {
		t.Error("equal estates have two hashes")
	}
	b.Machines[0].Tags = append(b.Machines[0].Tags, "x")
	if plans.Hash(a) == plans.Hash(b) {
		t.Error("two estates have one hash")
	}
	got, err := plans.CanonicalJSON(map[string]any{"b": 1, "a": []any{"<&>", nil, int64(9007199254740993)}})
	if want := `{"a":["<&>",null,9007199254740993],"b":1}`; err != nil || string(got) != want {
		t.Errorf("got %s %v, want %s", got, err, want)
	}
}

func TestFaultsAreInvalid(t *testing.T) {
	t.Parallel()
	fs := plans.Faults{
		{Pos: plans.Pos{File: "b.lua", Line: 2}, Message: "second"},
		{Pos: plans.Pos{File: "a.lua", Line: 12}, Message: `exec: unknown key "onn"`, Suggestion: "on", SourceLine: `  onn = "x",`},
		{Pos: plans.Pos{File: "b.lua", Line: 2}, Message: "second"},
	}.Sorted()
	want := "a.lua:12: exec: unknown key \"onn\", did you mean \"on\"?\n    onn = \"x\",\nb.lua:2: second"
	if fs.Error() != want {
		t.Errorf("got\n%s\nwant\n%s", fs.Error(), want)
	}
	var back plans.Faults
	if err := fs.Err(); !fault.Is(err, fault.Invalid) || fault.ExitCode(err) != fault.ExitInvalid || !errors.As(err, &back) {
		t.Errorf("kind %v", fault.KindOf(err))
	}
	if err := (plans.Faults{}).Err(); err != nil {
		t.Errorf("no faults are an error: %v", err)
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	known := []string{"on", "only", "cmd", "within", "direction"}
	for name, want := range map[string]string{"onn": "on", "onyl": "only", "witin": "within", "Within": "within", "direktion": "direction", "zzz": "", "": "", "cmd": "",
		"timeout": "within", "tiemout": "within", "host": "on", "interval": ""} {
		if got := plans.Nearest(name, known); got != want {
			t.Errorf("nearest of %q is %q, want %q", name, got, want)
		}
	}
}
