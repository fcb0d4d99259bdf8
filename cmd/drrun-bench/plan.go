package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/pprof"
	"slices"
	"syscall"
	"time"

	"github.com/drrun/drrun/cmd/internal/plantest"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/journal"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/simworld"
	"github.com/drrun/drrun/runtime/store"
	"github.com/drrun/drrun/scripts"
)

// Limits of a large plan.
const (
	maxLoad    = time.Second
	maxPlanRun = 10 * time.Second // of real time, in the simulated world
	maxPlanMem = 512 << 20        // VmHWM
	maxStretch = 1.01             // length of a run to its critical path
)

// largePlan measures a plan of many machines: loading, and a planned failover in
// the simulated world with every record journaled. It does not return.
func largePlan(machines, groups int, profile string) {
	plantest.InVirtualTime(func(bubble plantest.Bubble) {
		plantest.OneAfterTheOther()
		if err := profiled(profile, func() error { return measurePlan(bubble, machines, groups) }); err != nil {
			fmt.Fprintln(os.Stderr, "drrun-bench:", err)
			if h := fault.Hint(err); h != "" {
				fmt.Fprintln(os.Stderr, "hint:", h)
			}
			os.Exit(1)
		}
		os.Exit(0)
	})
}

// profiled writes a profile of the processor while f runs.
func profiled(file string, f func() error) error {
	if file == "" {
		return f()
	}
	w, err := os.Create(file) //nolint:gosec // as the caller says
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(w); err != nil {
		return errors.Join(err, w.Close())
	}
	err = f()
	pprof.StopCPUProfile()
	return errors.Join(err, w.Close())
}

const largeEstate = `
local function hosts(site, net)
  local out = {}
  for i = 1, %[3]d do
    out[i] = host(site .. i) { addr = "10." .. net .. ".255." .. i, store = "/srv/drrun" }
  end
  return out
end
local machines = {}
for i = 1, %[1]d do
  machines[i] = machine("m" .. i) {
    host = "par" .. (i %% %[3]d + 1), tags = "g" .. (i %% %[2]d + 1), ip = { lan = i },
    disk "root" { file = "/vm/m" .. i .. ".img" }, exec = { unit = "m" }, ready = { tcp = ":80", within = "5m" },
  }
end
return estate "large" {
  policy "gold" { every = "1h", rpo = "2h" },
  site "paris" { network "lan" { cidr = "10.1.0.0/16" }, cloud "prod" { policy = "gold", to = "dr", hosts("par", 1) } },
  site "lyon" { network "lan" { cidr = "10.2.0.0/16" }, cloud "dr" { policy = "gold", to = "prod", hosts("lyo", 2) } },
  machines,
}`

const largePlanText = `
local groups = {}
for g = 1, %[2]d do
  local checks = {}
  for c = 1, math.min(20, math.floor(%[1]d / %[2]d) - 1) do
    checks[c] = check("check " .. g .. "." .. c) { tcp = "m" .. (c * %[2]d + g - 1) .. ":80", within = "2m" }
  end
  groups[g] = group("g" .. g) { machines { tag = "g" .. g }, after = checks }
end
return plan "large" { from = "paris", to = "lyon", rto = "2h", groups }`

func bundle(name, format string, args ...any) plans.Bundle {
	return plans.Bundle{Main: name, Files: map[string]string{name: fmt.Sprintf(format, args...)}}
}

func measurePlan(bubble plantest.Bubble, machines, groups int) error {
	hosts := max(1, machines/100)
	began := time.Now()
	s, err := plantest.LoadBundles(scripts.New(scripts.Options{}), bundle("plan.lua", largePlanText, machines, groups, hosts),
		bundle("estate.lua", largeEstate, machines, groups, hosts), nil)
	if err != nil {
		return err
	}
	load := time.Since(began)
	fmt.Printf("plan of %d machines in %d groups: loaded and checked in %s (limit %s)\n", machines, groups, quantity.FormatDuration(load), maxLoad)
	began, cpu := time.Now(), processor()
	var run *report.Run
	var records int
	facts := map[string]program.Fact{}
	bubble(func(ctx context.Context) { run, records, err = simulate(ctx, s, facts) })
	if err != nil {
		return err
	}
	took, used := time.Since(began), processor()-cpu
	memory, err := peakMemory(os.Getpid())
	if err != nil {
		return err
	}
	critical, err := criticalPath(s, facts, run)
	if err != nil {
		return err
	}
	length := lengthOf(run)
	fmt.Printf("planned failover: %d steps, %d records, %s of real time (limit %s), memory %s (limit %s)\n",
		len(run.Steps), records, quantity.FormatDuration(took), maxPlanRun,
		quantity.FormatSize(memory), quantity.FormatSize(maxPlanMem))
	commit, err := commitCost()
	if err != nil {
		return err
	}
	perStep := float64(records) / float64(len(run.Steps))
	fmt.Printf("a record is committed to the disk in %.1f µs, the median of %d: with %.1f records a step takes %.1f µs of the engine's processor and waits %.1f µs for its journal\n",
		micros(commit), commits, perStep, micros(used)/float64(len(run.Steps)), perStep*micros(commit))
	stretch := float64(length) / float64(critical)
	fmt.Printf("length of the run: %s, its critical path %s, ratio %.4f (limit %.2f)\n", quantity.FormatDuration(length), quantity.FormatDuration(critical), stretch, maxStretch)
	switch {
	case run.Status != report.RunUncommitted:
		return fmt.Errorf("the run is %s: %s", run.Status, run.Reason)
	case load > maxLoad, took > maxPlanRun, memory > maxPlanMem, stretch > maxStretch:
		return errors.New("a limit was missed")
	}
	return nil
}

const commits = 500

// commitCost is the median time that the journal of a controller takes for one
// record: its store, with fsync, on this machine.
func commitCost() (_ time.Duration, err error) {
	dir, err := os.MkdirTemp("", "drrun-bench-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := store.OpenBolt(vfs.OS{}, dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	j := journal.New(s, "bench", 1)
	body := []byte(`{"seq":1,"time":"2026-11-27T20:00:00.123456789Z","kind":"started","step":"group:databases/db1/start","attempt":1}`)
	took := make([]time.Duration, commits)
	for i := range took {
		began := time.Now()
		if _, ok, err := j.Append(context.Background(), journal.Record{Time: began, Kind: "started", Body: body}, nil); err != nil || !ok {
			return 0, errors.Join(err, errors.New("cannot append to the journal"))
		}
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	return took[commits/2], nil
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// criticalPath is how long the run takes at least, by what each of its steps took.
func criticalPath(s *plantest.Subject, facts map[string]program.Fact, run *report.Run) (time.Duration, error) {
	p, err := program.Compile(s.Plan, s.Estate, program.Request{Type: recovery.Planned}, facts)
	if err != nil {
		return 0, err
	}
	took := map[string]time.Duration{}
	for i := range run.Steps {
		took[run.Steps[i].ID] = run.Steps[i].Ended.Sub(run.Steps[i].Started)
	}
	return p.Estimate(func(s *program.Step) program.Figure { return program.Figure{Took: took[s.ID]} }).Ends, nil
}

// simulate runs the failover in a world of its own, and fills in where the machines
// were at its begin.
func simulate(ctx context.Context, s *plantest.Subject, facts map[string]program.Fact) (run *report.Run, records int, err error) {
	w, err := simworld.New(s.Estate)
	if err != nil {
		return nil, 0, err
	}
	for _, name := range w.Names() {
		a, _ := w.Assignment(name)
		facts[name] = program.Fact{Active: a.HomeSite, Hosts: a.Hosts}
	}
	r := plantest.NewRuntime(w, s.Bundle, s.Plan, s.Scripts(w), nil)
	defer func() {
		if cerr := r.Close(ctx); err == nil {
			err = cerr
		}
	}()
	run, err = r.Start(ctx, runtime.Request{Type: recovery.Planned})
	return run, r.Records(), err
}

// lengthOf is from the begin of the first step to the end of the last.
func lengthOf(run *report.Run) time.Duration {
	first, last := run.Steps[0].Started, run.Steps[0].Ended
	for _, s := range run.Steps {
		if !s.Started.IsZero() && s.Started.Before(first) {
			first = s.Started
		}
		if s.Ended.After(last) {
			last = s.Ended
		}
	}
	return last.Sub(first)
}

func processor() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
