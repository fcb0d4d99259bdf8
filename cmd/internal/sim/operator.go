package sim

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/transport/simnet"
)

// What persons ask for, and what breaks.
const (
	askRun       = "run"
	askCommit    = "commit"
	askCancel    = "cancel"
	askPause     = "pause"
	askResume    = "resume"
	askUnplanned = "resume as unplanned"
	askCleanup   = "cleanup"
	askReverse   = "reverse"
	askPermit    = "permit"
	askRollback  = "rollback"
	askPoint     = "change the point"

	runPlanned    = "planned"
	runUnplanned  = "unplanned"
	runNoShutdown = "unplanned without shutdown"
	runTest       = "test"

	faultKill    = "kill the agent"
	faultStop    = "stop the agent"
	faultPower   = "power cut"
	faultPart    = "partition"
	faultMute    = "one-way loss" // what On sends does not arrive
	faultFlaky   = "connections die"
	faultSlow    = "slow link"
	faultRuntime = "kill the runtime"
	faultFull    = "full disk"
	faultIO      = "EIO"
	faultClock   = "clock jump"
)

// What a kill may wait for (Event.Word); each time Event.N counts one down.
const (
	atAny    = ""       // any change
	atEffect = "effect" // the start or the end of a machine or of a program, and what is known right after it
	atRecord = "record" // a file that takes the place of another: something becomes durable
)

const patience = time.Minute // of a person for one command

// happen does an event.
func (w *world) happen(e Event) {
	w.note("", "EVENT %s", strings.TrimSpace(e.String()))
	if c := w.controls[e.On]; c != nil && e.What != faultRuntime {
		w.background(func(ctx context.Context) {
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			w.person(ctx, c, e)
		})
		return
	}
	switch e.What {
	case faultRuntime:
		w.breakRuntime(w.controls[e.On], e)
	case faultPart, faultMute, faultFlaky, faultSlow:
		w.breakLink(e)
	case askPermit:
		w.background(func(ctx context.Context) { w.permit(ctx, w.hosts[e.On]) })
	default:
		w.breakHost(w.hosts[e.On], e)
	}
}

func (w *world) breakRuntime(c *control, e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.N > 0 {
		c.killIn, c.killOn, c.killFor = e.N, e.Word, e.For
		return
	}
	c.kill(e.For)
}

func (w *world) breakHost(h *host, e Event) {
	do := func() { h.killAgent(e.For) }
	if e.What == faultPower {
		do = func() { h.powerCut(e.For) }
	}
	if (e.What == faultKill || e.What == faultPower) && e.N == 0 {
		do()
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch e.What {
	case faultKill, faultPower:
		h.killIn, h.killOn, h.onKill = e.N, e.Word, do
	case faultStop:
		if h.proc != nil {
			h.proc.cancel() // main starts another one
		}
	case faultFull:
		h.full = true
		w.after(e.For, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			h.full = false
		})
	case faultIO:
		h.broken = e.N
	case faultClock:
		h.offset += e.For
	}
}

func (w *world) breakLink(e Event) {
	others := []string{e.To}
	if e.To == "" {
		others = w.peers(e.On)
	}
	if e.What == faultFlaky {
		w.background(func(ctx context.Context) { w.flaky(ctx, e, others) })
		return
	}
	set := func(on bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, o := range others {
			switch l := (simnet.Link{Delay: w.sc.Delay, Jitter: w.sc.Jitter}); {
			case e.What == faultPart:
				w.part(e.On, o, fmt.Sprint("event ", e.At), "", on)
			case e.What == faultMute:
				w.part(e.On, o, fmt.Sprint("event ", e.At), e.On, on)
			case on:
				w.net.SetLink(e.On, o, simnet.Link{Delay: 20 * l.Delay, Jitter: 40 * l.Delay, Loss: 0.2})
			default:
				w.net.SetLink(e.On, o, l)
			}
		}
	}
	set(true)
	w.after(e.For, func() { set(false) })
}

// flaky lets the connections of links die again and again: requests that were
// served lose their answers.
func (w *world) flaky(ctx context.Context, e Event, others []string) {
	for end := time.Now().Add(min(e.For, w.sc.Horizon-e.At)); time.Now().Before(end) && pause(ctx, w.draw(600*time.Millisecond)) == nil; {
		for _, o := range others {
			w.net.Cut(e.On, o)
		}
	}
}

// permit is a person's word on a host that its machines may start alone: given
// when the other site is cut off or runs nothing.
func (w *world) permit(ctx context.Context, h *host) {
	for _, name := range w.names {
		w.mu.Lock()
		var p *proc
		if h.proc != nil && h.proc.agent != nil && w.other(h.name()).production(w.models[name]) == nil {
			p = h.proc
			w.witness.permits[h.name()+" "+name] = time.Now()
		}
		w.mu.Unlock()
		if p == nil {
			continue
		}
		_, err := p.agent.Permit(ctx, name, "ann")
		w.said(h.name(), "permit "+name, err)
	}
}

// person does what somebody asks of a runtime.
func (w *world) person(ctx context.Context, c *control, e Event) {
	eng := c.engine()
	if eng == nil {
		w.note(c.name, "no runtime runs")
		return
	}
	switch e.What {
	case askRun:
		w.startRun(ctx, c, eng, e.Word)
	case askReverse:
		w.reverse(ctx, c, eng)
	default:
		if id := w.openRun(ctx, eng); id != "" {
			w.said(c.name, e.What+" "+id, w.do(ctx, eng, id, e.What))
		}
	}
}

// do gives an order to a run.
func (w *world) do(ctx context.Context, eng *runtime.Engine, id, what string) error {
	const by = "ann"
	switch what {
	case askCommit:
		return eng.Commit(ctx, id, by)
	case askCancel:
		return eng.Cancel(ctx, id, by)
	case askPause:
		return eng.Pause(ctx, id, by)
	case askResume:
		return eng.Resume(ctx, id, runtime.ResumeOptions{By: by})
	case askUnplanned:
		w.mu.Lock()
		w.witness.kinds[id] = recovery.Unplanned // at the latest now
		w.mu.Unlock()
		return eng.Resume(ctx, id, runtime.ResumeOptions{By: by, As: recovery.Unplanned})
	case askCleanup:
		return eng.Cleanup(ctx, id, by)
	case askRollback:
		return eng.Rollback(ctx, id, by)
	case askPoint:
		w.mu.Lock()
		w.witness.changed[id] = true
		w.mu.Unlock()
		return eng.ChangePoint(ctx, id, w.olderPoint(), by)
	}
	return fmt.Errorf("nobody knows how to %s", what)
}

// olderPoint selects what the machines were some time ago.
func (w *world) olderPoint() string {
	return time.Now().Add(-w.draw(90 * time.Second)).UTC().Format(time.RFC3339)
}

// openRun is the newest run that has not ended.
func (w *world) openRun(ctx context.Context, eng *runtime.Engine) string {
	runs, err := eng.Runs(ctx)
	if err != nil {
		return ""
	}
	for _, r := range slices.Backward(runs) {
		if !r.Status.Ended() {
			return r.ID
		}
	}
	return ""
}

func (w *world) startRun(ctx context.Context, c *control, eng *runtime.Engine, kind string) {
	w.mu.Lock()
	active := w.newest(w.names[0]).Active
	source := w.hosts[par]
	if active == lyon {
		source = w.hosts[lyo]
	}
	down := w.cutOff(source.name())
	w.witness.runs++
	id := fmt.Sprintf("%s-%s-%d", c.name, strings.Fields(kind)[0], w.witness.runs)
	w.mu.Unlock()
	req := runtime.Request{ID: id, By: "ann", Plan: "all", Failback: active == lyon}
	if w.sc.NoPlan {
		req.Plan, req.Machines = "", w.names
	}
	switch kind {
	case runPlanned:
		req.Type = recovery.Planned
	case runTest:
		req.Type = recovery.Test
	default:
		req.Type, req.NoShutdown, req.SourceIsDown = recovery.Unplanned, kind == runNoShutdown, down
		if down {
			w.state(w.names, source.peer.Site)
		}
	}
	w.mu.Lock()
	w.witness.kinds[id], w.witness.targets[id] = req.Type, w.other(source.name()).name()
	w.mu.Unlock()
	_, err := eng.Start(ctx, req)
	w.said(c.name, fmt.Sprintf("start %s (failback %v, source is down %v)", id, req.Failback, req.SourceIsDown), err)
}

func (w *world) reverse(ctx context.Context, c *control, eng *runtime.Engine) {
	id, err := eng.Reverse(ctx, runtime.ReverseRequest{Machines: w.names, By: "ann"})
	w.said(c.name, "reverse "+id, err)
}

// attend answers what a runtime asks, as far as a person can know it.
func (w *world) attend(ctx context.Context, c *control) {
	tries := map[string]int{}
	for pause(ctx, 8*time.Second+w.draw(15*time.Second)) == nil {
		if eng := c.engine(); eng != nil {
			w.answer(ctx, c, eng, tries)
		}
	}
}

func (w *world) answer(ctx context.Context, c *control, eng *runtime.Engine, tries map[string]int) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	runs, err := eng.Runs(ctx)
	if err != nil {
		return
	}
	for _, r := range runs {
		if r.Status != report.RunWaiting {
			continue
		}
		run, err := eng.Show(ctx, r.ID)
		if err != nil {
			continue
		}
		for _, q := range run.Waits {
			word := w.word(run, q, tries)
			if word == "" {
				continue
			}
			err := eng.Answer(ctx, run.ID, runtime.Answer{Step: q.Step, Word: word, By: "ann"})
			w.said(c.name, fmt.Sprintf("answer %s %q %s (%s)", run.ID, q.Step, word, q.Ask), err)
			if strings.Contains(fault.Hint(err), "drrun cancel") { // it says what to do
				w.said(c.name, "cancel "+run.ID, w.do(ctx, eng, run.ID, askCancel))
			}
		}
	}
}

// word is what a person answers, knowing what there is to see.
func (w *world) word(run *report.Run, q report.Wait, tries map[string]int) string {
	key := run.ID + " " + q.Step
	tries[key]++
	has := func(word string) bool { return slices.Contains(q.Answers, word) }
	switch {
	case has(runtime.SourceIsDown) && tries[key] < 5:
		return w.sourceDown(run, q)
	case has(runtime.TargetIsDown) && tries[key] < 5:
		return w.targetDown(run, q)
	case has("done"):
		if w.wasDone(run, q) {
			return "done"
		}
		return "again"
	case has("again") && tries[key] < 6:
		return "again"
	case has("go"):
		return "go"
	}
	return ""
}

// targetDown answers whether the site that a machine is not given back to may be
// taken for down: only if it is.
func (w *world) targetDown(run *report.Run, q report.Wait) string {
	for _, m := range run.Machines {
		if !strings.Contains(q.Step, "/"+m.Name+"/") {
			continue
		}
		w.mu.Lock()
		down := w.cutOff(m.ToHost)
		site := w.hosts[m.ToHost].peer.Site
		w.mu.Unlock()
		if down {
			w.state(w.names, site)
			return runtime.TargetIsDown
		}
	}
	return "again"
}

// sourceDown answers whether the source may be taken for down: only if it is.
func (w *world) sourceDown(run *report.Run, q report.Wait) string {
	for _, m := range run.Machines {
		if !strings.HasSuffix(q.Step, "/"+m.Name) {
			continue
		}
		w.mu.Lock()
		down := w.cutOff(m.FromHost)
		site := w.hosts[m.FromHost].peer.Site
		w.mu.Unlock()
		if down {
			w.state([]string{m.Name}, site)
			return runtime.SourceIsDown
		}
	}
	return "again"
}

// wasDone looks whether something of unknown outcome was done.
func (w *world) wasDone(run *report.Run, q report.Wait) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, n := range w.witness.effects {
		if what, ok := strings.CutPrefix(key, run.ID+" "); ok && n > 0 && (strings.Contains(q.Step, what) || strings.Contains(q.Name, what) || strings.Contains(strings.ReplaceAll(q.Step, "-", " "), what)) {
			return true
		}
	}
	return false
}
