package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/runtime/journal"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/state"
	"github.com/drrun/drrun/runtime/store"
)

// Events yields what happened in a run after a record, and then what happens,
// until the run has ended for good or ctx ends (its cause is yielded last).
func (e *Engine) Events(ctx context.Context, id string, after uint64) iter.Seq2[report.Event, error] {
	return func(yield func(report.Event, error) bool) {
		id, err := e.resolve(ctx, id)
		if err == nil {
			f := &follower{e: e, id: id, after: after, yield: yield}
			err = f.follow(ctx)
		}
		if err != nil && !errors.Is(err, errEnough) {
			yield(report.Event{}, err)
		}
	}
}

var errEnough = errors.New("the reader has left")

// follower folds the journal of a run and tells the reader about each record.
type follower struct {
	e     *Engine
	id    string
	after uint64
	yield func(report.Event, error) bool
	st    *state.State
	told  map[string]report.Progress
}

func (f *follower) follow(ctx context.Context) error {
	for {
		rev, err := f.e.store.Rev(ctx)
		if err != nil {
			return err
		}
		_, records, err := journal.Load(ctx, f.e.store, f.id)
		if err != nil {
			return err
		}
		for _, r := range records {
			if err := f.tell(r); err != nil {
				return err
			}
		}
		err = f.live(ctx, rev+1)
		if !errors.Is(err, store.ErrCompacted) {
			return err
		}
	}
}

// live follows new records and the progress of steps in flight.
func (f *follower) live(ctx context.Context, rev int64) error {
	if f.st != nil && f.st.Status.Ended() {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errEnough)
	type item struct {
		rec journal.Record
		err error
	}
	records := make(chan item)
	go func() {
		defer close(records)
		for ev, err := range f.e.store.Watch(ctx, journal.Prefix(f.id), rev) {
			it := item{err: err}
			if err == nil {
				it.rec, it.err = journal.Decode(ev.Value)
			}
			select {
			case records <- it:
			case <-ctx.Done():
				return
			}
		}
	}()
	moved := make(chan struct{}, 1)
	defer f.e.unwatch(f.id, moved)
	f.e.watch(f.id, moved)
	for {
		select {
		case it, open := <-records:
			switch {
			case !open:
				return context.Cause(ctx)
			case it.err != nil:
				return it.err
			}
			if err := f.tell(it.rec); err != nil {
				return err
			}
			if f.st.Status.Ended() {
				return nil
			}
			f.e.watch(f.id, moved) // a run that was resumed has a new driver
		case <-moved:
			if err := f.tellProgress(); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// watch asks the run's driver to tell when progress changed.
func (e *Engine) watch(id string, ch chan struct{}) {
	e.mu.Lock()
	d := e.live[id]
	e.mu.Unlock()
	if d != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.watchers[ch] = true
	}
}

func (e *Engine) unwatch(id string, ch chan struct{}) {
	e.mu.Lock()
	d := e.live[id]
	e.mu.Unlock()
	if d != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.watchers, ch)
	}
}

// tell folds one record and yields its event.
func (f *follower) tell(j journal.Record) error {
	if f.st != nil && j.Seq <= f.st.Seq {
		return nil
	}
	r, err := fromJournal(j)
	if err != nil {
		return err
	}
	var before headline
	if f.st == nil {
		f.st = &state.State{Steps: map[string]*state.Step{}}
	} else {
		before = headlineOf(f.st)
	}
	if err := f.st.Apply(r); err != nil {
		return err
	}
	if r.Seq <= f.after {
		return nil
	}
	if !f.yield(f.event(r, before), nil) {
		return errEnough
	}
	return nil
}

func (f *follower) event(r state.Record, before headline) report.Event {
	st := f.st
	ev := report.Event{Run: f.id, Seq: r.Seq, Time: r.Time, Kind: report.EventRun}
	changed := before != headlineOf(st)
	if s := st.Steps[r.Step]; s != nil && r.Kind != state.Noted {
		ev.Kind, ev.Step, ev.Wait = report.EventStep, stepReport(s, s.Number), waitReport(st, s)
		if ev.Wait != nil {
			ev.Kind = report.EventWait
		}
		ev.Text = stepText(r, s)
	}
	if r.Kind == state.Noted {
		n := report.Note{Time: r.Time, Step: r.Step, Text: r.Text}
		ev.Kind, ev.Note, ev.Text = report.EventNote, &n, r.Text
	}
	if changed {
		ev.Head = headReport(st, true)
		if ev.Text == "" {
			ev.Text = runText(st)
		}
		if !st.Status.Busy() && len(st.Running()) == 0 && st.Follow() == "" {
			ev.Kind = report.EventEnd
		}
	}
	if ev.Text == "" {
		ev.Text = string(r.Kind)
	}
	return ev
}

func stepText(r state.Record, s *state.Step) string {
	switch r.Kind {
	case state.Started:
		return s.Title
	case state.OpStarted:
		return fmt.Sprintf("%s: %s", s.ID, r.Op.Name)
	case state.OpDone:
		if r.Op.Error != nil {
			return fmt.Sprintf("%s: %s failed: %s", s.ID, s.Ops[r.Op.Seq-1].Name, r.Op.Error.Message)
		}
		return fmt.Sprintf("%s: %s done", s.ID, s.Ops[r.Op.Seq-1].Name)
	case state.Answered:
		return fmt.Sprintf("%s: %s answers %s%s", s.ID, r.By, r.Word, colon(r.Text))
	}
	text := fmt.Sprintf("%s: %s", s.ID, s.Status)
	switch {
	case r.Error != nil:
		text += colon(r.Error.Message)
	case s.Status == report.StepDone:
		text += fmt.Sprintf(" in %s%s", quantity.FormatDuration(s.Ended.Sub(s.Started)), colon(s.Detail))
	case s.Reason != "":
		text += colon(s.Reason)
	}
	return text
}

func runText(st *state.State) string {
	return fmt.Sprintf("run %s: %s%s", st.Run.ID, st.Status, colon(st.Reason))
}

// tellProgress yields the progress of steps in flight that has changed.
func (f *follower) tellProgress() error {
	f.e.mu.Lock()
	d := f.e.live[f.id]
	f.e.mu.Unlock()
	if d == nil || f.st == nil {
		return nil
	}
	d.mu.Lock()
	now := maps.Clone(d.progress)
	d.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(now)) {
		p, s := now[id], f.st.Steps[id]
		if s == nil || f.told[id] == p {
			continue
		}
		step := stepReport(s, s.Number)
		step.Progress = &p
		ev := report.Event{Run: f.id, Seq: f.st.Seq, Time: f.e.now(), Kind: report.EventProgress, Step: step,
			Text: fmt.Sprintf("%s: %s %s of %s", id, p.Phase, quantity.FormatSize(p.Done), quantity.FormatSize(p.Total))}
		if !f.yield(ev, nil) {
			return errEnough
		}
	}
	f.told = now
	return nil
}

// Journal returns the records of a run as they are stored, for export.
func (e *Engine) Journal(ctx context.Context, id string) ([]json.RawMessage, error) {
	id, err := e.resolve(ctx, id)
	if err != nil {
		return nil, err
	}
	var out []json.RawMessage
	for kv, err := range e.store.List(ctx, journal.Prefix(id)) {
		if err != nil {
			return nil, err
		}
		out = append(out, kv.Value)
	}
	return out, nil
}
