package sim

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/report"
)

const (
	rounds     = 60
	roundEvery = 20 * time.Second
)

// settle ends what was begun: runs are brought to their end, and all machines
// to a state in which they are protected. Where that does not come, the rules
// led into a dead end.
func (w *world) settle() {
	tries := map[string]int{}
	why := ""
	for range rounds {
		if !w.wait(roundEvery) {
			return
		}
		ctx, cancel := context.WithTimeout(w.ctx, 10*time.Minute)
		why = w.round(ctx, tries)
		cancel()
		if why == "" {
			break
		}
	}
	if why != "" {
		w.mu.Lock()
		w.violate(0, "%s", why)
		w.mu.Unlock()
		return
	}
	w.verify()
	w.allDone()
}

// round does what a person does to bring things in order; it returns what is
// left.
func (w *world) round(ctx context.Context, tries map[string]int) string {
	for _, name := range controlNames {
		c := w.controls[name]
		eng := c.engine()
		if eng == nil {
			return name + " does not run"
		}
		w.answer(ctx, c, eng, tries)
		runs, err := eng.Runs(ctx)
		if err != nil {
			return err.Error()
		}
		left := ""
		for _, r := range runs {
			if r.Status.Ended() {
				continue
			}
			run, err := eng.Show(ctx, r.ID)
			if err != nil {
				return err.Error()
			}
			left = fmt.Sprintf("run %s is %s (%s; %s), allowed: %v", run.ID, run.Status, run.Reason, run.Hint, run.Allowed)
			if what := w.next(run, tries); what != "" {
				err := w.do(ctx, eng, run.ID, what)
				w.said(name, fmt.Sprintf("settles: %s %s, which is %s", what, run.ID, run.Status), err)
				if strings.Contains(fault.Hint(err), "drrun cancel") { // it says what to do
					w.said(name, "settles: cancel "+run.ID, w.do(ctx, eng, run.ID, askCancel))
				}
				if strings.Contains(fault.Hint(err), "drrun rollback") {
					w.said(name, "settles: roll back "+run.ID, w.do(ctx, eng, run.ID, askRollback))
				}
			}
		}
		if left != "" {
			return left
		}
	}
	return w.protected(ctx, tries)
}

// next is what a person asks of a run that has not ended.
func (w *world) next(run *report.Run, tries map[string]int) string {
	has := func(op string) bool { return slices.Contains(run.Allowed, op) }
	key := "settle " + run.ID
	switch {
	case run.Status.Busy() || run.Status == report.RunWaiting:
		return ""
	case has(report.OpCleanup):
		return askCleanup
	case has(report.OpCommit) && (run.Status == report.RunUncommitted || tries[key] > 2):
		tries[key]++
		return askCommit
	case has(report.OpResume) && tries[key] < 4:
		tries[key]++
		return askResume
	case has(report.OpCancel):
		tries[key] = 0
		return askCancel
	case has(report.OpResume):
		tries[key]++
		if run.Type == recovery.Planned && tries[key] > 8 {
			return askUnplanned
		}
		return askResume
	case has(report.OpCommit):
		return askCommit
	}
	return ""
}

// protected looks whether every machine runs at its active site and was copied
// to the other since all was mended; it asks for what is missing.
func (w *world) protected(ctx context.Context, tries map[string]int) string {
	w.mu.Lock()
	l := w.controls[rtOne].life
	w.mu.Unlock()
	if l == nil {
		return "no runtime runs"
	}
	st := map[string]command.AgentStatus{}
	for _, h := range hostNames {
		s, err := command.Status.Call(ctx, tap{l}, h, command.StatusRequest{})
		if err != nil {
			return fmt.Sprintf("%s does not answer: %v", h, err)
		}
		st[h] = s
	}
	for _, name := range w.names {
		if why := w.protectedOne(ctx, l, name, st, tries); why != "" {
			return why
		}
	}
	return ""
}

func (w *world) protectedOne(ctx context.Context, l *life, name string, st map[string]command.AgentStatus, tries map[string]int) string {
	ms := map[string]command.MachineStatus{}
	for _, h := range hostNames {
		i := slices.IndexFunc(st[h].Machines, func(m command.MachineStatus) bool { return m.Machine == name })
		if i < 0 {
			return fmt.Sprintf("%s does not know %s", h, name)
		}
		ms[h] = st[h].Machines[i]
	}
	a, b := ms[par], ms[lyo]
	auth := a.Authority
	if b.Authority.Epoch > auth.Epoch || b.Authority.Same(auth) && !b.Authority.Uncommitted {
		auth = b.Authority // of one epoch, cleared wins over set
	}
	from, to := a, b
	if auth.Active == lyon {
		from, to = b, a
	}
	describe := func() string {
		return fmt.Sprintf("%s: %s is %s %s (%s), %s is %s (%s), record %+v", name, from.Host, from.State, from.Power, from.Reason, to.Host, to.State, to.Reason, auth)
	}
	switch {
	case len(auth.Direction) == 0 && !auth.Uncommitted:
		if tries["reverse "+name]++; tries["reverse "+name]%5 == 1 {
			id, err := l.engine.Reverse(ctx, runtime.ReverseRequest{Machines: []string{name}, By: "ann"})
			w.said(l.c.name, "settles: reverse "+id, err)
		}
		return describe()
	case !a.Authority.Same(b.Authority):
		return fmt.Sprintf("two records: %+v and %s", to.Authority, describe())
	case from.Power != recovery.PowerRunning:
		switch tries["permit "+name]++; {
		case tries["permit "+name] <= 6:
		case from.Locked: // as the hints of the run that stopped it say, and that of the permit
			req := runtime.Request{Machines: []string{name}, Type: recovery.Planned, Failback: auth.Active == paris, By: "ann"}
			id, err := l.engine.Start(ctx, req)
			w.said(l.c.name, "settles: starts "+name+" where it is: "+id, err)
		default:
			w.permit(ctx, w.hosts[from.Host])
		}
		return describe()
	case w.runs(to.Host, name):
		return fmt.Sprintf("%s runs on %s, too: %s", name, to.Host, describe())
	case from.State != recovery.Protected || to.Tip == nil:
		return describe()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.witness.reported[to.Host+" "+name][to.Tip.ID]
	if p == nil || p.state == nil || p.state.at.Before(w.witness.mended) {
		return "no point since all was mended: " + describe()
	}
	return ""
}

// runs reports whether a machine runs in production at a host.
func (w *world) runs(host, machine string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.hosts[host].production(w.models[machine]) != nil
}

// allDone checks at the end what runs say of themselves.
func (w *world) allDone() {
	for _, name := range controlNames {
		eng := w.controls[name].engine()
		if eng == nil {
			continue
		}
		runs, err := eng.Runs(w.ctx)
		if err != nil {
			continue
		}
		for _, r := range runs {
			run, err := eng.Show(w.ctx, r.ID)
			if err == nil {
				w.held(run)
			}
		}
	}
}

// held checks a run that says it reached its aim.
func (w *world) held(run *report.Run) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats["run "+string(run.Type)+" "+string(run.Status)]++
	if run.Status != report.RunCommitted || len(run.Errors) > 0 {
		return
	}
	for _, m := range run.Machines {
		if m.State != "ready" && m.State != "started" {
			continue
		}
		if !w.witness.ran[run.ID+" "+m.Name] {
			w.violate(7, "run %s is committed, and %s was never started by it", run.ID, m.Name)
		}
	}
	for _, s := range run.Steps {
		if s.Status != report.StepDone || !strings.HasPrefix(s.Title, "mark") && !strings.HasPrefix(s.Title, "notify") {
			continue
		}
		if w.witness.effects[run.ID+" "+s.Title] == 0 {
			w.violate(6, "run %s says that %q is done, and it never was", run.ID, s.Title)
		}
	}
}
