package runtime

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/runtime/report"
)

// How often an agent is asked how far the work on its machines is: work that takes
// long is looked at less often.
const (
	pollEvery = time.Second
	pollLong  = 3 * time.Second
	longWork  = 15 * time.Second
)

// work is a step whose progress at an agent is shown, and which ends when nothing
// has moved for its time.
type work struct {
	job   *job
	last  command.Progress
	moved time.Time
	stall context.CancelCauseFunc
}

// asked is the work under way at one host: it is asked for all of it at once.
type asked struct {
	works map[*work]bool
	end   context.CancelFunc
}

// watched runs f while the agent's progress on the machine is shown; it ends f
// when nothing has moved for the step's time.
func (j *job) watched(ctx context.Context, host string, f func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	unwatch := j.d.watch(host, &work{job: j, moved: j.d.e.now(), stall: cancel})
	err := j.try(ctx, f)
	unwatch()
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, errStalled) {
		return fault.Errorf(fault.Unreachable, "%s: %w", j.step.Title, cause)
	}
	return err
}

var errStalled = errors.New("nothing moved in time")

// watch begins to show the progress of w, until the returned function is called.
func (d *driver) watch(host string, w *work) (unwatch func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.asked[host]
	if a == nil {
		ctx, end := context.WithCancel(d.e.ctx)
		a = &asked{works: map[*work]bool{}, end: end}
		d.asked[host] = a
		go d.poll(ctx, host, a)
	}
	a.works[w] = true
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if delete(a.works, w); len(a.works) == 0 {
			a.end()
			if d.asked[host] == a {
				delete(d.asked, host)
			}
		}
	}
}

// poll asks a host until no work is left there.
func (d *driver) poll(ctx context.Context, host string, a *asked) {
	began := d.e.now()
	for {
		every := pollEvery
		if d.e.now().Sub(began) >= longWork {
			every = pollLong
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
		d.moved(a, d.progressAt(ctx, host, a))
	}
}

// progressAt asks how the machines are that there is work on; a host that does not
// answer says nothing.
func (d *driver) progressAt(ctx context.Context, host string, a *asked) map[string]command.Progress {
	var req command.StatusRequest
	d.mu.Lock()
	for w := range a.works {
		req.Machines = append(req.Machines, w.job.step.Machine)
	}
	d.mu.Unlock()
	switch slices.Sort(req.Machines); len(req.Machines) {
	case 0:
		return nil
	case 1:
		req = command.StatusRequest{Machine: req.Machines[0]}
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	st, err := command.Status.Call(ctx, d.e.caller, host, req)
	if err != nil {
		return nil
	}
	at := make(map[string]command.Progress, len(st.Machines))
	for i := range st.Machines {
		if p := st.Machines[i].Progress; p != nil {
			at[st.Machines[i].Machine] = *p
		}
	}
	return at
}

// moved notes how far the work is, and ends what has not moved for its time.
func (d *driver) moved(a *asked, at map[string]command.Progress) {
	now := d.e.now()
	d.mu.Lock()
	defer d.mu.Unlock()
	shown := false
	for w := range a.works {
		step := &w.job.step
		if p, ok := at[step.Machine]; ok && p != w.last {
			rate := float64(max(0, p.Done-w.last.Done)) / max(now.Sub(w.moved), pollEvery).Seconds()
			w.last, w.moved, shown = p, now, true
			if d.flying[step.ID] != nil {
				d.progress[step.ID] = report.Progress{Phase: p.Phase, Done: p.Done, Total: p.Total, Rate: rate}
			}
		}
		if now.Sub(w.moved) >= step.Within {
			w.stall(fmt.Errorf("%w (%s)", errStalled, step.Within))
		}
	}
	if shown {
		d.tellWatchers()
	}
}
