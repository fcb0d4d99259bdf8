package runtime

import (
	"context"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime/state"
	"github.com/drrun/drrun/runtime/store"
)

// Guard says why this state may not act now: agents hold something newer. nil:
// nothing speaks against it.
type Guard func(ctx context.Context) error

// askGuard asks beside what comes next whether this state may act, and returns
// how to have the answer. Tests take no machine from anybody.
func (e *Engine) askGuard(ctx context.Context, typ recovery.Type) (answer func() error) {
	if e.guard == nil || typ == recovery.Test {
		return func() error { return nil }
	}
	done := make(chan error, 1)
	go func() { done <- e.guard(ctx) }()
	return func() error { return <-done }
}

// NoteRun adds a remark to a run that nobody drives. With lost it is not taken
// up by itself: what it did last is not in its journal, a person resumes it.
func NoteRun(ctx context.Context, s store.Store, id, text string, lost bool, now time.Time) error {
	e := New(Options{Store: s})
	st, j, err := e.load(ctx, id)
	if err != nil {
		return err
	}
	r := state.Record{Seq: j.Next(), Kind: state.Noted, Time: now.UTC().Round(0), Text: text}
	if err := st.Apply(r); err != nil {
		return err
	}
	h := headOf(st)
	h.Lost = lost
	op, err := jsonOp(keyHead+id, h)
	if err != nil {
		return err
	}
	rec, err := toJournal(r)
	if err != nil {
		return err
	}
	_, ok, err := j.Append(ctx, rec, []store.Op{op})
	if err == nil && !ok {
		err = fault.Errorf(fault.Conflict, "run %s was changed by somebody else", id)
	}
	return err
}
