package scripts_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts"
)

// largeEstate and largePlan are 10,000 machines in 50 groups, and 1,000 steps.
const largeEstate = `
local function machines(from, to)
  local all = {}
  for i = from, to do
    all[#all + 1] = machine("m" .. i) {
      host = "par-" .. (i % 100), tags = { "all", "t" .. (i % 50) }, ip = { lan = i },
      disk "root" { file = "/vm/m" .. i .. ".img" },
      exec = { start = { "/bin/app", "{ip}" } }, ready = { tcp = ":80", within = "3m" },
    }
  end
  return all
end
local function hosts(prefix, store)
  local all = {}
  for i = 0, 99 do all[#all + 1] = host(prefix .. i) { addr = prefix .. i .. ".example.com", store = store, allow = { "systemctl" } } end
  return all
end
return estate "large" {
  policy "gold" { every = "30s", rpo = "1m" },
  site "paris" { network "lan" { cidr = "10.0.0.0/16" }, cloud "prod" { policy = "gold", to = "dr", hosts("par-", "/srv") } },
  site "lyon" { network "lan" { cidr = "10.1.0.0/16" }, cloud "dr" { policy = "gold", to = "prod", hosts("lyo-", "/srv") } },
  machines(1, 10000),
}
`

const largePlan = `
local function steps(g, n)
  local all = {}
  for i = 1, n do
    all[#all + 1] = i % 2 == 0 and check("c" .. g .. "-" .. i) { tcp = "m" .. (g * 200) .. ":80" }
      or action("a" .. g .. "-" .. i) { only = "any", function(run) return run:machine("m1").ip ~= nil end }
  end
  return all
end
local groups = {}
for g = 1, 50 do
  local ms = {}
  for i = (g - 1) * 200 + 1, g * 200 do ms[#ms + 1] = machine("m" .. i) { needs = i % 10 == 0 and { "m" .. (i - 1) } or {} } end
  groups[#groups + 1] = group("g" .. g) { parallel = 20, ms, after = steps(g, 20) }
end
return plan "large" { from = "paris", to = "lyon", groups }
`

// large loads an estate of n machines and a plan of 50 groups and 1000 steps,
// holds one against the other, and returns what that took of the processor: the
// clock goes on while others have it.
func large(t *testing.T, n int) time.Duration {
	t.Helper()
	resize := func(src string) string {
		return strings.NewReplacer("10000", fmt.Sprint(n), "200", fmt.Sprint(n/50)).Replace(src)
	}
	l := scripts.New(scripts.Options{PlanTime: time.Minute})
	begun := used(t)
	e, err := l.LoadEstate(one("estate.lua", resize(largeEstate)))
	if err != nil {
		t.Fatalf("%.2000v", err)
	}
	p, err := l.LoadPlan(one("p.lua", resize(largePlan)), nil)
	if err != nil {
		t.Fatalf("%.2000v", err)
	}
	if fs := plans.References(p, e); len(fs) > 0 {
		t.Fatal(fs[0])
	}
	took := used(t) - begun
	steps := 0
	p.Steps(func(string, *plans.Step) { steps++ })
	if len(e.Machines) != n || len(p.Items) != 50 || steps != 1000 {
		t.Errorf("%d machines, %d groups, %d steps", len(e.Machines), len(p.Items), steps)
	}
	return took
}

// used is the processor time of this process.
func used(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestLargePlan: ten times the machines take ten times as long, not a hundred
// times: half a second on a machine that does nothing else.
func TestLargePlan(t *testing.T) {
	small := min(large(t, 1000), large(t, 1000))
	all := large(t, 10000)
	t.Logf("1000 machines: %s, 10000 machines: %s", small, all)
	if all > 40*small {
		t.Errorf("10000 machines take %s, 1000 take %s", all, small)
	}
}
