package runtime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
)

// lookTimeout is how long an agent may take to say how it is; a host that does
// not answer in time counts as unreachable.
const lookTimeout = 10 * time.Second

// seenHost is the answer of one agent.
type seenHost struct {
	status command.AgentStatus
	err    error
}

// told is what a host that was reached said of a machine.
type told struct {
	host string
	ms   *command.MachineStatus
}

// looked is what agents said.
type looked struct {
	hosts    map[string]*seenHost
	machines map[string][]told // in the order of the hosts' names
}

// look asks hosts for their status, all at once.
func (e *Engine) look(ctx context.Context, hosts map[string]bool) looked {
	return e.lookFor(ctx, hosts, "")
}

// lookAt asks one host how one of its machines is: what that costs the host does
// not grow with its other machines.
func (e *Engine) lookAt(ctx context.Context, host, machine string) looked {
	return seen([]string{host}, []*seenHost{e.see(ctx, host, machine)})
}

// lookFor asks for one machine, or for all if its name is empty.
func (e *Engine) lookFor(ctx context.Context, hosts map[string]bool, machine string) looked {
	names := slices.Sorted(maps.Keys(hosts))
	answers := make([]*seenHost, len(names))
	sideBySide(len(names), len(names), func(i int) { answers[i] = e.see(ctx, names[i], machine) })
	return seen(names, answers)
}

func seen(names []string, answers []*seenHost) looked {
	l := looked{hosts: map[string]*seenHost{}, machines: map[string][]told{}}
	for i, s := range answers {
		l.hosts[names[i]] = s
		if s.err != nil {
			continue
		}
		for j := range s.status.Machines {
			ms := &s.status.Machines[j]
			l.machines[ms.Machine] = append(l.machines[ms.Machine], told{names[i], ms})
		}
	}
	return l
}

// see asks one host.
func (e *Engine) see(ctx context.Context, host, machine string) *seenHost {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	s := &seenHost{}
	s.err = e.status(ctx, host, machine, &s.status)
	return s
}

// status asks one host. The connection may be to an agent that is gone while
// another runs in its place: what fails at once is asked again, and so is what
// was sent on a connection that died, which takes longer to show.
func (e *Engine) status(ctx context.Context, host, machine string, st *command.AgentStatus) error {
	asked := e.now()
	err := e.caller.Call(ctx, host, command.Status.Name, command.StatusRequest{Machine: machine}, st)
	var sent interface{ OutcomeUnknown() bool }
	within := lookTimeout / 3
	if errors.As(err, &sent) && sent.OutcomeUnknown() {
		within = 2 * lookTimeout / 3
	}
	if fault.Is(err, fault.Unreachable) && ctx.Err() == nil && e.now().Sub(asked) < within {
		err = e.caller.Call(ctx, host, command.Status.Name, command.StatusRequest{Machine: machine}, st)
	}
	return err
}

// machine returns what a host knows of a machine; nobody changes it.
func (l looked) machine(host, machine string) (*command.MachineStatus, bool) {
	for _, t := range l.machines[machine] {
		if t.host == host {
			return t.ms, true
		}
	}
	return &nothingKnown, false
}

var nothingKnown command.MachineStatus

// fence is the highest fencing number that a machine of the hosts has seen.
func (l looked) fence() ident.Fence {
	var highest ident.Fence
	for _, list := range l.machines {
		for _, t := range list {
			highest = max(highest, t.ms.Fence)
		}
	}
	return highest
}

// answers reports whether a host was reached.
func (l looked) answers(host string) bool {
	s, ok := l.hosts[host]
	return ok && s.err == nil
}

// failure is why a host was not reached; nil also for one that was not asked.
func (l looked) failure(host string) error {
	if s := l.hosts[host]; s != nil {
		return s.err
	}
	return nil
}

// newest returns the record of a machine with the highest epoch. Two records
// of one epoch that differ are a conflict that a person decides.
func (l looked) newest(machine string) (recovery.Authority, error) {
	var best recovery.Authority
	at := ""
	var err error
	for _, t := range l.machines[machine] {
		switch rec := &t.ms.Authority; {
		case rec.Epoch > best.Epoch:
			best, at, err = *rec, t.host, nil
		case rec.Epoch == best.Epoch && best.Epoch > 0:
			if !rec.Same(best) {
				err = fault.Errorf(fault.Conflict, "machine %s: %s and %s hold different records of epoch %d (%s by run %q, %s by run %q)",
					machine, at, t.host, best.Epoch, best.Active, best.Run, rec.Active, rec.Run).
					WithHint("decide which site is right; stop the machine at the other one")
			}
			best.Uncommitted = best.Uncommitted && rec.Uncommitted // cleared wins over set
		}
	}
	return best, err
}

// operations are the words of the table state × operation for runs.
var operations = map[recovery.Type]plans.Operation{recovery.Test: plans.OpTestRun, recovery.Planned: plans.OpPlannedRun, recovery.Unplanned: plans.OpUnplanned}

// state is a machine's place in its life: the word of the active site, or of
// the other one where that is all there is.
func (l looked) state(m program.Machine) (recovery.MachineState, bool) {
	rec, _ := l.newest(m.Name)
	hosts := []string{m.FromHost, m.ToHost}
	if rec.Active == m.ToSite {
		slices.Reverse(hosts)
	}
	for _, host := range hosts {
		if ms, ok := l.machine(host, m.Name); ok && ms.State != "" {
			return ms.State, true
		}
	}
	return "", false
}

// allowedNow adds to the objections against a machine what its state allows,
// and objects where nothing else did and the state does not allow the run.
func (l looked) allowedNow(m program.Machine, typ recovery.Type, kind string, no []objection) []objection {
	state, known := l.state(m)
	op := operations[typ]
	if kind == report.KindReverse {
		op = plans.OpReverse
	}
	if !known {
		return no
	}
	if err := plans.Refusal(m.Name, state, op); len(no) == 0 && err != nil {
		return []objection{{text: err.Error(), hint: fault.Hint(err)}}
	}
	for i := range no {
		if allowed := "allowed now: " + plans.Words(state); no[i].hint == "" {
			no[i].hint = allowed
		} else if !strings.Contains(no[i].hint, allowed) {
			no[i].hint += fmt.Sprintf(" (%s is %s; %s)", m.Name, state, allowed)
		}
	}
	return no
}

func (l looked) why(hosts []recovery.Host) string {
	var out []string
	for _, h := range hosts {
		switch s, asked := l.hosts[h.Name]; {
		case asked && s.err != nil:
			out = append(out, fmt.Sprintf("%s: %v", h.Name, s.err))
		default:
			out = append(out, h.Name+" has no record of it")
		}
	}
	return strings.Join(out, "; ")
}

// standing refuses to say that there is nothing to do when machines that are
// active where the run would take them do not run there.
func (e *Engine) standing(ctx context.Context, req *Request, p *prepared) error {
	texts, hint, err := e.held(ctx, p.program)
	if err != nil {
		return err
	}
	whole := len(texts)
	for _, m := range p.program.Machines {
		ms, ok := p.look.machine(m.ToHost, m.Name)
		switch {
		case ok && ms.Power == recovery.PowerRunning:
			continue
		case ok:
			texts = append(texts, fmt.Sprintf("%s is active at %s and is %s there (%s)", m.Name, m.ToSite, cmp.Or(ms.Power, recovery.PowerUnknown), cmp.Or(ms.Reason, "no reason is known")))
			hint = cmp.Or(hint, fmt.Sprintf("see drrun status %s; to start it on %s: drrun-agent permit %[1]s", m.Name, m.ToHost))
		default:
			other := "add --failback"
			if req.Failback {
				other = "leave --failback out"
			}
			texts = append(texts, fmt.Sprintf("%s is active at %s, and nobody knows whether it runs there: %s does not answer", m.Name, m.ToSite, m.ToHost))
			hint = cmp.Or(hint, fmt.Sprintf("start the agent on %s; if %s is lost, its machines go to %s: %s", m.ToHost, m.ToSite, m.FromSite, other))
		}
	}
	if len(texts) == whole { // all run
		if whole > 0 {
			p.program.Nothing += "; " + strings.Join(texts, "; ")
		}
		return nil
	}
	return fault.Errorf(fault.Refused, "%s", strings.Join(texts, "; ")).WithHint("%s", hint)
}

// locked lists the machines that are where a run would take them, and that a run
// has left stopped and locked there.
func (l looked) locked(p *program.Program) (names []string) {
	for _, m := range p.Machines {
		ms, ok := l.machine(m.ToHost, m.Name)
		rec, err := l.newest(m.Name)
		if ok && err == nil && ms.Locked && ms.Power == recovery.PowerStopped && ms.Authority.Same(rec) && !rec.Uncommitted {
			names = append(names, m.Name)
		}
	}
	return names
}

// held names the real runs that have not ended and have machines of a program.
func (e *Engine) held(ctx context.Context, p *program.Program) (texts []string, hint string, err error) {
	heads, err := e.heads(ctx)
	if err != nil {
		return nil, "", err
	}
	for _, h := range heads {
		if h.Type != recovery.Test && !h.Status.Ended() && slices.ContainsFunc(p.Machines, func(m program.Machine) bool { return slices.Contains(h.Machines, m.Name) }) {
			texts = append(texts, fmt.Sprintf("run %s is %s", h.ID, h.Status))
			hint = fmt.Sprintf("look at it first: drrun show %s", h.ID)
		}
	}
	return texts, hint, nil
}
