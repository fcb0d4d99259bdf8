package plantest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/scripts"
	"github.com/drrun/drrun/scripts/registry"
)

// runObject is a run in Lua, as it stood when it was looked at last.
type runObject struct {
	*stage
	run *report.Run
}

var _ scripts.Object = (*runObject)(nil)

// What implements scripts.Object.
func (*runObject) What() string { return "run" }

// Methods implements scripts.Object.
func (*runObject) Methods() []registry.Function { return registry.RunMethods }

// Fields implements scripts.Object.
func (*runObject) Fields() []registry.Function { return registry.RunResultFields }

// Field implements scripts.Object.
func (o *runObject) Field(name string) any {
	r := o.run
	switch name {
	case "id":
		return r.ID
	case "status":
		return string(r.Status)
	case "reason":
		return r.Reason
	case "type":
		return string(r.Type)
	case "direction":
		return r.Direction
	case "from":
		return r.From
	case "to":
		return r.To
	case "exit_code":
		return r.ExitCode
	case "rto":
		return measured(r.RTO)
	case "rpo":
		return measured(r.RPO)
	}
	out := []any{}
	switch name {
	case "errors":
		for _, f := range r.Errors {
			out = append(out, f.Step+": "+f.Error.Message)
		}
	case "waits":
		for _, w := range r.Waits {
			out = append(out, w.Name)
		}
	case "notes":
		for _, n := range r.Notes {
			out = append(out, n.Text)
		}
	case "steps":
		for i := range r.Steps {
			out = append(out, stepTable(r, &r.Steps[i]))
		}
	}
	return out
}

func measured(m *report.Measure) any {
	if m == nil {
		return nil
	}
	return m.Measured
}

func stepTable(r *report.Run, s *report.Step) map[string]any {
	t := map[string]any{"id": s.ID, "title": s.Title, "kind": s.Kind, "status": string(s.Status), "attempts": s.Attempts, "seconds": s.Seconds, "detail": s.Detail, "reason": s.Reason}
	if !s.Started.IsZero() {
		t["started"] = s.Started.Sub(r.Created).Seconds()
	}
	if !s.Ended.IsZero() {
		t["ended"] = s.Ended.Sub(r.Created).Seconds()
	}
	if s.Error != nil {
		t["error"] = s.Error.Message
	}
	if s.Pos != nil {
		t["at"] = fmt.Sprintf("%s:%d", s.Pos.File, s.Pos.Line)
	}
	return t
}

// find finds a step: by its id, as machine/verb, else by a part of its id or
// title.
func (o *runObject) find(name string) (*report.Step, error) {
	var exact, found []*report.Step // in the order of the run
	for i := range o.run.Steps {
		s := &o.run.Steps[i]
		machine, verb, _ := strings.Cut(name, "/")
		switch {
		case s.ID == name:
			return s, nil
		case s.Machine == machine && s.Machine != "" && (s.Kind == verb || strings.HasSuffix(s.ID, "/"+verb)):
			exact = append(exact, s)
		case strings.Contains(s.ID, name):
			found = append(found, s)
		}
	}
	if found = append(exact, found...); len(found) > 0 {
		return found[0], nil
	}
	var ids []string
	for _, s := range o.run.Steps {
		ids = append(ids, s.ID)
	}
	if near := plans.Nearest(name, ids); near != "" {
		return nil, errf("run %s has no step %q, did you mean %q?", o.run.ID, name, near)
	}
	return nil, errf("run %s has no step %q; it has %s", o.run.ID, name, strings.Join(ids, ", "))
}

// Call implements scripts.Object.
func (o *runObject) Call(ctx context.Context, _ plans.Pos, method string, args []any) (any, error) {
	a := &arguments{method: method, list: args}
	id := o.run.ID
	switch method {
	case "step":
		s, err := o.find(a.text(0, "a step"))
		if a.err != nil || err != nil {
			return nil, errors.Join(a.err, err)
		}
		return stepTable(o.run, s), nil
	case "before":
		return nil, o.before(a)
	case "golden":
		if name := a.text(0, "a name"); a.err == nil {
			return nil, o.golden(name, timeline(o.run))
		}
		return nil, a.err
	}
	var do func(e *runtime.Engine) error
	var ans *runtime.Answer
	switch method {
	case "commit":
		do = func(e *runtime.Engine) error { return e.Commit(ctx, id, "author") }
	case "rollback":
		do = func(e *runtime.Engine) error { return e.Rollback(ctx, id, "author") }
	case "cleanup":
		do = func(e *runtime.Engine) error { return e.Cleanup(ctx, id, "author") }
	case "cancel":
		do = func(e *runtime.Engine) error { return e.Cancel(ctx, id, "author") }
	case "answer":
		ans = &runtime.Answer{By: "author", Word: a.text(len(args)-1, "an answer")}
		if len(args) > 1 {
			ans.Step = a.text(0, "a wait")
		}
	case "resume":
		t := a.table(0, "as", "source_is_down")
		opt := runtime.ResumeOptions{By: "author", As: recovery.Type(word(t, "as")), SourceIsDown: flag(t, "source_is_down")}
		do = func(e *runtime.Engine) error { return e.Resume(ctx, id, opt) }
	}
	if a.err != nil {
		return nil, a.err
	}
	var r *report.Run
	var err error
	if ans != nil {
		r, err = o.rt.Answer(ctx, id, *ans)
	} else {
		r, err = o.rt.Do(ctx, id, do)
	}
	if err != nil {
		return nil, withHint(err)
	}
	o.run = r
	o.ran(r)
	return nil, nil
}

func (o *runObject) before(a *arguments) error {
	first, err1 := o.find(a.text(0, "a step"))
	second, err2 := o.find(a.text(1, "a step"))
	if err := errors.Join(a.err, err1, err2); err != nil {
		return err
	}
	at := func(t time.Time) string {
		if t.IsZero() {
			return "never"
		}
		return "at +" + quantity.FormatDuration(t.Sub(o.run.Created).Round(time.Millisecond))
	}
	if first.Ended.IsZero() || second.Started.IsZero() || second.Started.Before(first.Ended) {
		return errf("%s ended %s, %s began %s", first.ID, at(first.Ended), second.ID, at(second.Started))
	}
	return nil
}

// timeline is a run as a golden file holds it.
func timeline(r *report.Run) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s → %s: %s, exit %d\n", r.Plan, r.Type, r.From, r.To, r.Status, r.ExitCode)
	for _, s := range r.Steps {
		when := "-"
		if !s.Started.IsZero() {
			when = "+" + quantity.FormatDuration(s.Started.Sub(r.Created).Round(time.Second))
		}
		took := ""
		if !s.Ended.IsZero() && !s.Started.IsZero() {
			took = quantity.FormatDuration(s.Ended.Sub(s.Started).Round(time.Second))
		}
		fmt.Fprintf(&b, "%8s %7s  %-9s %s\n", when, took, s.Status, strings.TrimSpace(s.ID+"  "+s.Reason))
	}
	for _, f := range r.Errors {
		fmt.Fprintf(&b, "error: %s: %s\n", f.Step, f.Error.Message)
	}
	return b.String()
}
