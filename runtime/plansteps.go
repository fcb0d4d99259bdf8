package runtime

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/planted"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
)

// askTimeout bounds one question of a check.
const askTimeout = 10 * time.Second

// exec runs a plan's program, on a host by its agent or on the controller.
func (j *job) exec(ctx context.Context) outcome {
	x := j.step.Plan.Exec
	if j.step.Host == "" {
		return j.execHere(ctx, x)
	}
	req := command.ExecRequest{Meta: j.meta(j.machineOn(x.On), j.step.Host), Cmd: x.Cmd, Sh: x.Sh, Env: j.env(), Within: j.within()}
	res, err := j.runAt(ctx, j.step.Host, req)
	switch {
	case fault.Is(err, fault.Unknown) && !planted.Is(planted.UnknownIsDone):
		return outcome{err: j.at(err), unknown: true}
	case err != nil && !fault.Is(err, fault.Unknown):
		return failed(j.at(err))
	}
	return j.ended(res.Exit, res.Output)
}

// runAt has an agent run a program, always under one operation id: it may not be
// repeated. A refusal says nothing of an earlier try that had no answer, as of one
// before another run has claimed the machine: that is fault.Unknown.
func (j *job) runAt(ctx context.Context, host string, req command.ExecRequest) (res command.ExecResult, err error) {
	asked := j.step.OpNumber != j.step.Attempt || j.step.Started.Before(j.resumed) // by an earlier attempt or process
	err = j.try(ctx, func(ctx context.Context) (err error) {
		res, err = command.Exec.Call(ctx, j.d.e.caller, host, req)
		asked = asked || fault.Is(err, fault.Unreachable) || fault.Is(err, fault.Interrupted)
		return err
	})
	switch fault.KindOf(err) {
	case fault.Conflict, fault.Refused, fault.NotFound, fault.Invalid:
		if asked {
			err = fault.Errorf(fault.Unknown, "an earlier try had no answer, nobody knows whether it was done, and now: %w", err).
				WithHint("find out, then: drrun answer %s done|again|abort", j.run.ID)
		}
	}
	return res, err
}

// machineOn names a machine of the run by which the host knows the command:
// the one named, or one that lives on the host named.
func (j *job) machineOn(on string) string {
	if _, ok := j.named[on]; ok {
		return on
	}
	for _, m := range j.main.Machines {
		if m.ToHost == on || m.FromHost == on {
			return m.Name
		}
	}
	return ""
}

func (j *job) execHere(ctx context.Context, x *plans.ExecStep) outcome {
	argv := x.Cmd
	if x.Sh != "" {
		argv = []string{"sh", "-c", x.Sh}
	}
	exit, output, err := j.d.e.runner.Run(ctx, argv, j.environ())
	if err != nil {
		return failed(fault.Wrap(fault.Failed, fmt.Errorf("cannot run %s: %w", argv[0], err)))
	}
	return j.ended(exit, output)
}

func (j *job) ended(exit int, output string) outcome {
	if exit != 0 {
		return outcome{err: fault.Errorf(fault.Failed, "%s%s: exit code %d%s", j.where(), j.step.Title, exit, colon(lastLines(output, 3))),
			data: command.ExecResult{Exit: exit, Output: output}}
	}
	return outcome{data: command.ExecResult{Output: output}, detail: "exit code 0" + colon(lastLines(output, 1))}
}

// where is the place of the step in the plan, for messages.
func (j *job) where() string {
	if j.step.Pos == nil || j.step.Pos.File == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d: ", j.step.Pos.File, j.step.Pos.Line)
}

func colon(s string) string {
	if s == "" {
		return ""
	}
	return ": " + s
}

// lastLines is the end of what a program printed, on one line.
func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	lines = lines[max(0, len(lines)-n):]
	for i, line := range lines {
		text := []rune(strings.TrimSpace(line))
		if len(text) > 200 {
			text = append(text[:199], '…')
		}
		lines[i] = string(text)
	}
	return strings.Join(lines, " | ")
}

// env is what programs of a plan are told.
func (j *job) env() map[string]string {
	typ := "production"
	if j.typ == recovery.Test {
		typ = "test"
	}
	from, to := j.way()
	return map[string]string{"DRRUN_RUN": j.run.ID, "DRRUN_STEP": j.step.ID, "DRRUN_TYPE": typ, "DRRUN_FAILOVER": string(j.typ), "DRRUN_FROM": from, "DRRUN_TO": to}
}

// backHome reports whether the step runs behind a rollback: its machines are back
// at their old site.
func (j *job) backHome() bool { return j.step.Section == program.SectionRollback }

// way is where the machines come from and go to, as steps of the plan see it.
func (j *job) way() (from, to string) {
	if j.backHome() {
		return j.main.To, j.main.From
	}
	return j.main.From, j.main.To
}

// addressOf is a machine's address in this run.
func (j *job) addressOf(m program.Machine) string {
	if j.backHome() {
		a, _ := j.d.src.estate.AddressOf(m.Name, m.FromSite, false)
		return a.IP
	}
	return m.IP
}

// addressAsked is where a check of this step asks a machine: one that is done at
// the source, as before the shutdown, asks it where it still runs.
func (j *job) addressAsked(m program.Machine) string {
	if m.Skip == "" && j.step.Site != "" && j.step.Site == m.FromSite {
		a, _ := j.d.src.estate.AddressOf(m.Name, m.FromSite, false)
		return a.IP
	}
	return j.addressOf(m)
}

// environ is env as a process has it.
func (j *job) environ() (list []string) {
	vars := j.env()
	for _, k := range slices.Sorted(maps.Keys(vars)) {
		list = append(list, k+"="+vars[k])
	}
	return list
}

// check asks until the answer is good.
func (j *job) check(ctx context.Context, c *recovery.Check) outcome {
	every := c.Every
	if every <= 0 {
		every = plans.DefaultCheckEvery
	}
	ask := j.question(c)
	said := "nobody was asked yet"
	pause := time.NewTimer(every)
	defer pause.Stop()
	for n := 1; ; n++ {
		ok, detail, err := ask(ctx, n)
		again := fault.Is(err, fault.Unreachable) || fault.Is(err, fault.Interrupted)
		switch {
		case err != nil && !again && ctx.Err() == nil:
			return failed(j.planFault(err))
		case err != nil && ctx.Err() == nil:
			said = err.Error()
		case err == nil && ok:
			return outcome{detail: detail}
		case err == nil:
			said = detail
		}
		pause.Reset(every)
		select {
		case <-pause.C:
		case <-ctx.Done():
			why := context.Cause(ctx)
			if errors.Is(why, errWithin) {
				why = fmt.Errorf("not done within %s", j.step.Within)
			}
			return failed(fault.Errorf(fault.Failed, "%s%s: %w; the last answer: %s", j.where(), j.step.Title, why, said).
				WithHint("look at the machine; then: drrun resume %s", j.run.ID))
		}
	}
}

// question returns what puts the question of a check once, for the n-th time: at
// the agent that runs the machine, or to the plan's function.
func (j *job) question(c *recovery.Check) func(ctx context.Context, n int) (ok bool, detail string, err error) {
	if ps := j.step.Plan; ps != nil && ps.Check.Func != nil {
		return func(ctx context.Context, n int) (bool, string, error) {
			host := &askCalls{job: j, ask: n}
			ok, detail, err := j.d.e.scripts.RunFunc(ctx, j.d.src.bundle, *ps.Check.Func, j.info(), host)
			if err == nil && !ok && detail == "" {
				detail = "the function returned false or nil, and no reason as its second value"
			}
			return ok, detail, err
		}
	}
	host, machine := j.step.Host, j.step.Machine
	if host == "" && len(j.main.Active()) > 0 {
		host = j.main.Active()[0].ToHost // an address outside the estate: asked from the new site
	}
	if machine == "" {
		machine = j.machineOn(host)
	}
	meta := j.meta(machine, host)
	meta.Op = "" // a question may be put again and must not get an old answer
	req := command.CheckRequest{Meta: meta, Check: *c, Addresses: map[string]string{}, Timeout: askTimeout}
	for _, name := range []string{program.CheckMachine(c), machine} {
		if m, ok := j.named[name]; ok && j.addressAsked(*m) != "" {
			req.Addresses[name] = j.addressAsked(*m)
		}
	}
	req.Self = cmp.Or(j.step.IP, req.Addresses[machine])
	var in any = req // of all questions
	var p patience
	return func(ctx context.Context, _ int) (bool, string, error) {
		ctx = p.begin(ctx)
		defer p.end()
		var res command.CheckResult
		err := j.d.e.caller.Call(ctx, host, command.Check.Name, in, &res)
		if err != nil && ctx.Err() != nil {
			err = fault.Wrap(fault.Unreachable, err)
		}
		return res.OK, res.Detail, err
	}
}

// patience bounds each question of a check: there may be hundreds, and one context
// and timer serve for all that are answered in time. It ends with its parent.
type patience struct {
	ctx   context.Context
	timer *time.Timer
}

func (p *patience) begin(parent context.Context) context.Context {
	if p.ctx != nil && p.ctx.Err() == nil {
		p.timer.Reset(askTimeout + time.Second)
		return p.ctx
	}
	ctx, cancel := context.WithCancelCause(parent)
	p.ctx, p.timer = ctx, time.AfterFunc(askTimeout+time.Second, func() { cancel(context.DeadlineExceeded) })
	return ctx
}

func (p *patience) end() { p.timer.Stop() }

func (j *job) planFault(err error) error {
	f := fault.Errorf(fault.KindOf(err), "%s%s: %w", j.where(), j.step.Title, err)
	if f.Kind == fault.Internal {
		f.Kind = fault.Failed
	}
	return f
}

// action runs a plan's function; its host calls go through the journal.
func (j *job) action(ctx context.Context) outcome {
	if j.d.e.scripts == nil {
		return failed(fault.Errorf(fault.Internal, "this engine runs no functions"))
	}
	calls := &hostCalls{job: j, recorded: slices.Clone(j.step.Ops), keys: keysOf(j.step.Kept)}
	ok, detail, err := j.d.e.scripts.RunFunc(ctx, j.d.src.bundle, *j.step.Plan.Action, j.info(), calls)
	bad := calls.verdict()
	if bad == nil && ctx.Err() == nil {
		bad = calls.rest()
	}
	switch {
	case bad == nil:
	case !bad.unknown && bad.ask == nil && errors.Is(err, bad.err): // with the line of the call
		return failed(j.planFault(err))
	default:
		return *bad // whatever the function made of it
	}
	if err == nil && !ok {
		err = fault.Errorf(fault.Failed, "the action says no%s", colon(detail))
	}
	if err != nil {
		return failed(j.planFault(err))
	}
	return outcome{detail: detail}
}

// info is the run as plan functions see it.
func (j *job) info() plans.RunInfo {
	from, to := j.way()
	info := plans.RunInfo{ID: j.run.ID, Type: j.typ, Direction: j.main.Direction, From: from, To: to,
		StartedBy: j.run.StartedBy, Point: j.run.Point, Params: j.run.Params, Machines: map[string]plans.MachineInfo{}}
	d := j.d
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range j.main.Machines {
		mi := plans.MachineInfo{Name: m.Name, IP: j.addressOf(m), Site: m.FromSite, State: "source"}
		switch {
		case m.Skip != "":
			mi.Site, mi.State = m.ToSite, "ready"
		default:
			mi.State = machineState(d.st, m.Name)
			if st := d.st.Steps["prepare/"+m.Name]; !j.backHome() && st != nil && st.Status == report.StepDone {
				mi.Site = m.ToSite
			}
		}
		info.Machines[m.Name] = mi
	}
	return info
}

// hostOf is the host that runs a machine at this point of the run, or the host
// of that name.
func (j *job) hostOf(on string) (string, error) {
	m, ok := j.named[on]
	if !ok {
		if _, known := j.d.src.estate.Host(on); known {
			return on, nil
		}
		return "", fault.Errorf(fault.Invalid, "%q is no machine of the run and no host", on)
	}
	if (j.step.Phase == "shutdown" || j.backHome()) && m.Skip == "" {
		return m.FromHost, nil
	}
	return m.ToHost, nil
}

func encodeArgs(args json.RawMessage) (text, hash string) {
	text = string(args)
	if r := []rune(text); len(r) > 500 {
		text = string(r[:499]) + "…"
	}
	return text, hashOf(args)
}

// isPlanStep reports whether a step was written in the plan.
func isPlanStep(k program.Kind) bool {
	return k == program.Exec || k == program.Check || k == program.Wait || k == program.Action
}
