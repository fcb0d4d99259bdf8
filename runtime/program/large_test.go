package program_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/program"
)

// largest compiles a planned failover of n machines in as many groups as asked
// for, where each machine needs the next one of its group.
func largest(t *testing.T, n, groups int) time.Duration {
	t.Helper()
	e, p, at := estate(), wide(), map[string]program.Fact{}
	p.Items = nil
	one := e.Machines[0]
	e.Machines = nil
	for i := range n {
		m := one
		m.Name, m.IP = fmt.Sprint("m", i), nil
		e.Machines = append(e.Machines, m)
		at[m.Name] = program.Fact{Active: "paris", Hosts: []recovery.Host{{Name: "par-1", Site: "paris", Store: "/srv"}, {Name: "lyo-1", Site: "lyon", Store: "/srv"}}}
	}
	p.Shutdown, p.Failover = plans.Shutdown{}, plans.Phase{}
	size := n / groups
	for g := range groups {
		group := &plans.Group{Name: fmt.Sprint("g", g)}
		for i := range size {
			r := plans.MachineRef{Name: fmt.Sprint("m", g*size+i)}
			if i+1 < size {
				r.Needs = []string{fmt.Sprint("m", g*size+i+1)}
			}
			group.Machines = append(group.Machines, r)
		}
		p.Items = append(p.Items, plans.Item{Group: group})
	}
	e.Index()
	begun := used(t)
	prog, err := program.Compile(p, e, program.Request{Type: recovery.Planned}, at)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(prog.Explain(nil).Steps); got < 8*n {
		t.Errorf("%d steps", got)
	}
	return used(t) - begun
}

// used is the processor time of this process: the clock goes on while others
// have the processor.
func used(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestLargeProgram: in one group or in fifty, ten times the machines take ten
// times as long, not a hundred times.
func TestLargeProgram(t *testing.T) {
	small := min(largest(t, 1000, 50), largest(t, 1000, 50))
	many, one := largest(t, 10000, 50), largest(t, 10000, 1)
	t.Logf("1000 machines: %s; 10000 in 50 groups: %s, in one: %s", small, many, one)
	if most := 40 * small; many > most || one > most {
		t.Errorf("10000 machines take %s and %s, 1000 take %s", many, one, small)
	}
}

// TestFewDisksOfAHostAreReadAtOnce: production runs while disks are read whole.
func TestFewDisksOfAHostAreReadAtOnce(t *testing.T) {
	t.Parallel()
	const most = program.ProofsAtOnce
	for _, c := range []struct {
		machines, hosts, rounds int
	}{{most, 1, 1}, {most + 1, 1, 2}, {most + 1, 2, 1}, {2 * most, 2, 1}, {2*most + 1, 2, 2}, {9 * most, 3, 3}} {
		e, p, at := estate(), wide(), map[string]program.Fact{}
		one := e.Machines[0]
		e.Machines, p.Items, p.Shutdown, p.Failover = nil, nil, plans.Shutdown{}, plans.Phase{}
		group := &plans.Group{Name: "all"}
		for i := range c.machines {
			m := one
			m.Name, m.IP = fmt.Sprint("m", i), nil
			e.Machines = append(e.Machines, m)
			from := fmt.Sprint("par-", i%c.hosts)
			at[m.Name] = program.Fact{Active: "paris", Hosts: []recovery.Host{{Name: from, Site: "paris", Store: "/srv"}, {Name: "lyo-1", Site: "lyon", Store: "/srv"}}}
			group.Machines = append(group.Machines, plans.MachineRef{Name: m.Name})
		}
		p.Items = []plans.Item{{Group: group}}
		e.Index()
		prog, err := program.Compile(p, e, program.Request{Type: recovery.Planned}, at)
		if err != nil {
			t.Fatal(err)
		}
		course := prog.Estimate(func(s *program.Step) (f program.Figure) {
			if s.Kind == program.Proof {
				f.Took = time.Minute
			}
			return f
		})
		if want := time.Duration(c.rounds) * time.Minute; course.Ends != want {
			t.Errorf("%d machines of %d hosts are read in %s, want %s", c.machines, c.hosts, course.Ends, want)
		}
	}
}
