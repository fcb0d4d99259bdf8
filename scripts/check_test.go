package scripts_test

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts"
)

func TestPlanAgainstEstate(t *testing.T) {
	t.Parallel()
	onEstate(t, "check", func(p *plans.Plan, e *plans.Estate) string {
		if err := plans.Check(p, e); err != nil {
			return err.Error()
		}
		return "no fault"
	})
}

func TestDoubts(t *testing.T) {
	t.Parallel()
	onEstate(t, "doubts", func(p *plans.Plan, e *plans.Estate) string { return plans.Doubts(p, e).Error() })
}

// onEstate compares what is said of each plan of a file, which all load, beside the
// estate of the rules.
func onEstate(t *testing.T, file string, say func(*plans.Plan, *plans.Estate) string) {
	t.Helper()
	e, err := loader().LoadEstate(page(t, "estate.lua"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join("testdata", "rules", file+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, c := range strings.Split(strings.TrimPrefix(string(raw), "== "), "\n== ") {
		name, src, _ := strings.Cut(c, "\n")
		p, err := loader().LoadPlan(one("p.lua", src), nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		fmt.Fprintf(&out, "== %s\n%s\n", name, say(p, e))
	}
	golden(t, "rules/"+file+".golden", out.String())
}

// A plan can be checked against two more estates that the pages do not show.
func TestPlanForOtherSites(t *testing.T) {
	t.Parallel()
	e, err := loader().LoadEstate(page(t, "estate.lua"))
	if err != nil {
		t.Fatal(err)
	}
	e.Sites = append(e.Sites, plans.Site{Name: "rome"})
	src := `return plan "p" { from = "paris", to = "rome", group "g" { machine "db1" } }`
	p, err := loader().LoadPlan(one("p.lua", src), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := plans.Check(p, e); err == nil || !strings.Contains(err.Error(), `"db1" is replicated to "lyon", the plan goes from "paris" to "rome"`) {
		t.Errorf("target elsewhere: %v", err)
	}
	p.From, p.To = "lyon", "rome"
	if err := plans.Check(p, e); err == nil || !strings.Contains(err.Error(), `"db1" lives at "paris", the plan goes from "lyon" to "rome"`) {
		t.Errorf("home elsewhere: %v", err)
	}
	p.From, p.To = "paris", "lyon"
	e.Machines[0].Protected = false
	if err := plans.Check(p, e); err == nil || !strings.Contains(err.Error(), `"db1" is not protected`) {
		t.Errorf("not protected: %v", err)
	}
}

func TestEstateDefaults(t *testing.T) {
	t.Parallel()
	e, err := loader().LoadEstate(one("e.lua", `return estate "e" {
  policy "p" {},
  site "a" { network "lan" { cidr = "10.1.0.0/24" }, network "t" { cidr = "10.9.0.0/24", isolated = true },
    cloud "x" { policy = "p", to = "y", host "h" { addr = "10.1.0.5", store = "/s", allow = "systemctl" } } },
  site "b" { network "lan" { cidr = "10.2.0.0/24" }, cloud "y" { host "i" { addr = "i.example.com:99", store = "/s" } } },
  machine "m" { host = "h", tags = "one", ip = { lan = 9 }, ready = { http = ":80/" },
    disk "d" { device = "/dev/sdb", at = { b = "/dev/sdc" } },
    exec = { start = "/bin/run --disk {disk.d}", stop = { "/bin/stop", "a b" } } },
}`))
	if err != nil {
		t.Fatal(err)
	}
	want := recovery.Policy{Name: "p", Every: 5 * time.Minute, Codec: "auto", Initial: "now", Consistency: recovery.Crash, Fence: "stop", StartAlone: "ask"}
	if got := e.PolicyOf("m"); !reflect.DeepEqual(got, want) {
		t.Errorf("policy %+v\nwant   %+v", got, want)
	}
	m, _ := e.Machine("m")
	x := recovery.Exec{Start: []string{"/bin/run", "--disk", "{disk.d}"}, Stop: []string{"/bin/stop", "a b"}, ForceAfter: 30 * time.Second, FreezeMax: 10 * time.Second}
	if !reflect.DeepEqual(*m.Exec, x) {
		t.Errorf("exec %+v\nwant %+v", *m.Exec, x)
	}
	if r := (recovery.Check{HTTP: ":80/", Every: 2 * time.Second, Within: 5 * time.Minute}); !reflect.DeepEqual(*m.Ready, r) || !m.Protected {
		t.Errorf("ready %+v, protected %v", *m.Ready, m.Protected)
	}
	if h, _ := e.Host("h"); h.Addr != "10.1.0.5:7830" || !slices.Equal(h.Allow, []string{"systemctl"}) {
		t.Errorf("host %+v", h)
	}
	if a, ok := e.AddressOf("m", "b", false); !ok || a.IP != "10.2.0.9" {
		t.Errorf("address at b: %v %v", a, ok)
	}
	if a, ok := e.AddressOf("m", "a", true); !ok || a.IP != "10.9.0.9" {
		t.Errorf("address in a test at a: %v %v", a, ok)
	}
}

func TestParams(t *testing.T) {
	t.Parallel()
	b := one("p.lua", `return plan "p" { from = "a", to = "b", group "g" { machine "m" },
  params = { zone = "example.com", ttl = 60, dry = false, wait = { type = "duration", default = "5m" }, size = { choices = { "s", "l" }, required = true } } }`)
	p, err := loader().LoadPlan(b, map[string]string{"ttl": "90", "dry": "true", "size": "l"})
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string]any{"zone": "example.com", "ttl": 90.0, "dry": true, "wait": "5m", "size": "l"}; !maps.Equal(p.Params, want) {
		t.Errorf("params %v, want %v", p.Params, want)
	}
	_, err = loader().LoadPlan(b, map[string]string{"ttl": "long", "dry": "maybe", "wait": "5", "size": "m", "zne": "x"})
	for _, want := range []string{"ttl: long is no number", "dry: maybe is neither true nor false", `wait: "5" is not a duration`, `size: it is m, want "s" or "l"`,
		`--set zne: the plan has no parameter of this name, did you mean "zone"?`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
	// What is not to be run now does not need what only --set can give.
	if _, err := loader().LoadPlan(b, nil); err != nil {
		t.Errorf("not to be run: %v", err)
	}
	if _, err := loader().LoadPlan(b, map[string]string{}); err == nil || !strings.Contains(err.Error(), "give it with --set size=") {
		t.Errorf("required: %v", err)
	}
}

func TestReadBundle(t *testing.T) {
	t.Parallel()
	files := map[string]string{
		"dir/p.lua":   `local lib = require "lib" require "drrun.http" require "gone" return plan "p" { from = lib.from, to = "b", lib.group(), group "h" { machine "n" } }`,
		"dir/lib.lua": `local deep = require "deep" return { from = deep.from, group = function() return group "g" { machine "m" } end }`,
		"dir/deep.lua": `require "lib"
return { from = "a" }`,
		"dir/other.lua": `error("not loaded")`,
	}
	read := func(name string) ([]byte, error) {
		if src, ok := files[name]; ok {
			return []byte(src), nil
		}
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	b, err := scripts.ReadBundle(read, "dir/p.lua")
	if got := slices.Sorted(maps.Keys(b.Files)); err != nil || !slices.Equal(got, []string{"dir/deep.lua", "dir/lib.lua", "dir/p.lua"}) {
		t.Fatalf("files %v, %v", got, err)
	}
	_, err = loader().LoadPlan(b, nil)
	for _, want := range []string{`dir/p.lua:1: module "gone" is not beside the file (dir/gone.lua)`, `dir/deep.lua:1: module "lib" loads itself in a circle`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
	b.Files["dir/deep.lua"] = `return { from = "a" }`
	b.Files["dir/p.lua"] = strings.ReplaceAll(b.Files["dir/p.lua"], `require "gone"`, "")
	p, err := loader().LoadPlan(b, nil)
	if err != nil || p.From != "a" || p.Items[0].Group.Pos.File != "dir/lib.lua" {
		t.Errorf("plan %+v, %v", p, err)
	}
	if _, err := scripts.ReadBundle(read, "dir/nothing.lua"); !fault.Is(err, fault.NotFound) {
		t.Errorf("missing main file: %v", err)
	}
	bad := errors.New("disk on fire")
	if _, err := scripts.ReadBundle(func(string) ([]byte, error) { return nil, bad }, "p.lua"); !errors.Is(err, bad) {
		t.Errorf("read error: %v", err)
	}
}

// The same page is the same plan, byte for byte.
func TestLoadIsRepeatable(t *testing.T) {
	t.Parallel()
	first := ""
	for range 5 {
		e, err := loader().LoadEstate(page(t, "estate.lua"))
		if err != nil {
			t.Fatal(err)
		}
		p, err := loader().LoadPlan(page(t, "erp.lua"), nil)
		if err != nil {
			t.Fatal(err)
		}
		h := plans.Hash(e) + plans.Hash(p)
		if first == "" {
			first = h
		}
		if h != first {
			t.Fatal("two loads differ")
		}
	}
}
