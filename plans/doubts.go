package plans

import (
	"fmt"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/recovery"
)

// shortCheck is less than services take to answer after a start.
const shortCheck = 5 * time.Second

// Doubts returns what a plan may say and its author hardly means. e may be nil:
// then only what the plan itself shows.
func Doubts(p *Plan, e *Estate) Faults {
	var fs Faults
	p.Steps(func(place string, s *Step) {
		if c := s.Check; c != nil && s.Within > 0 && (s.Within < shortCheck || s.Within < 2*c.Every) {
			fs.add(s.Pos, "%s %q: within is %s and every %s: it is asked %s, and a service that has just been started may take longer to answer",
				s.Kind, s.Name, written(s.Within), written(c.Every), times(1+int((s.Within-1)/max(c.Every, 1))))
		}
		if s.Wait != nil && s.Wait.Untimed {
			after := "the run stops"
			if s.Wait.OnTimeout == "continue" {
				after = "the run goes on without an answer"
			}
			fs.add(s.Pos, `%s %q: a person has %s to answer, then %s: write within = "…", the time that it may take`, s.Kind, s.Name, written(s.Within), after)
		}
		if p.Drill != nil && s.Wait != nil && s.Wait.Unattended == "stop" && s.RunsIn(place, recovery.Test) {
			fs.add(s.Pos, `%s %q: unattended = "stop": every drill stops here and fails, so no drill proves the plan: skip = "test", or unattended = "go"`, s.Kind, s.Name)
		}
	})
	if e == nil {
		return fs.Sorted()
	}
	inPlan := p.machinesOf(e)
	outside := func(name string) bool {
		_, known := e.Machine(name)
		return known && !contains(inPlan, name)
	}
	p.Steps(func(_ string, s *Step) {
		if s.Check == nil {
			return
		}
		host, _, _ := splitTarget(s.Check.TCP)
		if s.Check.HTTP != "" {
			host, _ = httpHost(s.Check.HTTP)
		}
		if outside(host) {
			fs.add(s.Pos, "%s %q: it asks machine %q, which is not in the plan: the run does not know its address", s.Kind, s.Name, host)
		}
	})
	for name, pos := range p.Machines {
		switch {
		case outside(name):
			fs.add(pos, "run:machine(%q): the machine is not in the plan, so the function ends with an error there", name)
		case !contains(inPlan, name):
			fs.addNear(pos, name, inPlan, "run:machine(%q): the machine is not in the plan, so the function ends with an error there", name)
		}
	}
	return fs.Sorted()
}

// written is a duration as authors write it: "10m", not "10m0s".
func written(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func times(n int) string {
	if n <= 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}
