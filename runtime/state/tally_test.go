package state_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/state"
)

// anyProgram is any tree of steps, with what they need and require among those
// before them. Some are left out of a program of another type.
func anyProgram(r *rand.Rand, typ recovery.Type, section string, without float64) *program.Program {
	var ids []string
	var grow func(depth int) program.Node
	some := func() (out []string) {
		for _, id := range ids {
			if r.IntN(4*len(ids)) == 0 {
				out = append(out, id)
			}
		}
		return out
	}
	grow = func(depth int) (n program.Node) {
		n.Needs = some()
		if depth == 0 || r.IntN(5) == 0 {
			s := &program.Step{ID: fmt.Sprintf("%s/%d", section, len(ids)), Within: time.Minute, Machine: fmt.Sprint("m", r.IntN(3)),
				Kind:   []program.Kind{program.Start, program.Grant, program.Wait, program.Exec, program.Points, program.Prepare}[r.IntN(6)],
				OnFail: []string{program.OnFailStop, program.OnFailContinue, program.OnFailAsk}[r.IntN(3)], Requires: some(), Optional: r.IntN(5) == 0}
			if r.IntN(4) == 0 {
				s.Retry = plans.Retry{Times: 1, Every: time.Second}
			}
			if r.IntN(9) == 0 {
				s.Skip = "not here"
			}
			switch s.Kind {
			case program.Wait:
				s.Plan = &plans.Step{Kind: plans.StepWait, Name: s.ID, Wait: &plans.WaitStep{Ask: "?", OnTimeout: []string{"stop", "continue"}[r.IntN(2)]}}
			case program.Exec:
				s.Plan = &plans.Step{Kind: plans.StepExec, Name: s.ID, Exec: &plans.ExecStep{Cmd: []string{"true"}}}
			}
			ids = append(ids, s.ID)
			if r.Float64() < without {
				s.ID += "-else"
			}
			return program.Node{Step: s, Needs: n.Needs}
		}
		var list []program.Node
		for range 1 + r.IntN(4) {
			list = append(list, grow(depth-1))
		}
		if r.IntN(2) == 0 {
			n.Seq = list
		} else {
			n.Par, n.Limit = list, r.IntN(3)
		}
		return n
	}
	return &program.Program{Version: 1, Section: section, Plan: "any", Type: typ, From: "paris", To: "lyon", Root: grow(4)}
}

// TestCountsAreRight: whatever happens to whatever program, the state knows the
// same as when it looks at every step.
func TestCountsAreRight(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		now := t0
		run := state.Run{ID: "r1"}
		planned := rand.NewPCG(seed, 2)
		rec := state.Record{Seq: 1, Time: now, Kind: state.Created, Run: &run, Program: anyProgram(rand.New(planned), recovery.Planned, program.SectionFailover, 0)}
		records := []state.Record{rec}
		s, err := state.New(records)
		if err != nil {
			t.Fatal(err)
		}
		did := 0
		for range 150 {
			rec, ok := anyRecord(r, s, seed)
			if !ok {
				continue
			}
			did++
			now = now.Add(time.Duration(r.IntN(2000)) * time.Millisecond)
			rec.Seq, rec.Time, rec.By = s.Seq+1, now, "ann"
			records = append(records, rec)
			if err := s.Apply(rec); err != nil {
				t.Fatalf("seed %d: %s of %q: %v", seed, rec.Kind, rec.Step, err)
			}
			if err := s.Check(); err != nil {
				t.Fatalf("seed %d, after record %d (%s of %q): %v", seed, rec.Seq, rec.Kind, rec.Step, err)
			}
		}
		if did == 0 {
			t.Errorf("seed %d: nothing happened", seed)
		}
	}
}

// anyRecord is something that may be next.
func anyRecord(r *rand.Rand, s *state.State, seed uint64) (rec state.Record, ok bool) {
	no := fault.Errorf(fault.Failed, "no")
	switch r.IntN(12) {
	case 0:
		return state.Record{Kind: []state.Kind{state.Paused, state.Cancelled, state.Statement}[r.IntN(3)], Word: "x"}, r.IntN(4) == 0
	case 1:
		if s.Type == recovery.Planned && s.Section() == program.SectionFailover && r.IntN(3) == 0 { // most of its steps are the same
			return state.Record{Kind: state.Resumed, Program: anyProgram(rand.New(rand.NewPCG(seed, 2)), recovery.Unplanned, program.SectionFailover, 0.2)}, true
		}
		return state.Record{Kind: state.Resumed, Word: []string{"", state.WordAttach}[r.IntN(2)]}, true
	case 2:
		if len(s.Programs) > 3 || len(s.Running()) > 0 || r.IntN(8) > 0 {
			return rec, false
		}
		section := []string{program.SectionCommit, program.SectionRollback, program.SectionCancel}[len(s.Programs)-1]
		return state.Record{Kind: state.Section, Program: anyProgram(r, s.Type, section, 0)}, true
	case 3, 4, 5, 6:
		next := slices.DeleteFunc(s.Next(), func(e state.Effect) bool { return e.Step == "" || e.Timeout })
		if len(next) == 0 {
			return rec, false
		}
		e := next[r.IntN(len(next))]
		return state.Record{Kind: state.Started, Step: e.Step, Attempt: e.Attempt}, true
	case 7:
		open := s.Open()
		if len(open) == 0 {
			return rec, false
		}
		st := open[r.IntN(len(open))]
		if st.Status == report.StepWaiting && r.IntN(3) == 0 {
			return state.Record{Kind: state.TimedOut, Step: st.ID, Attempt: st.Attempt}, true
		}
		words := []string{state.Go, state.Stop, state.Again}
		if st.Status == report.StepUnknown {
			words = []string{state.OutcomeDone, state.Again, state.Abort}
		}
		return state.Record{Kind: state.Answered, Step: st.ID, Word: words[r.IntN(3)]}, true
	case 8:
		if all := s.Passable(); len(all) > 0 {
			return state.Record{Kind: state.Answered, Step: all[0].ID, Word: []string{state.Go, state.Again}[r.IntN(2)]}, true
		}
	}
	var running []*state.Step // also those that only the planned run had
	for _, st := range s.Steps {
		if st.Status == report.StepRunning {
			running = append(running, st)
		}
	}
	if len(running) == 0 {
		return rec, false
	}
	slices.SortFunc(running, func(a, b *state.Step) int { return slices.Compare([]byte(a.ID), []byte(b.ID)) })
	st := running[r.IntN(len(running))]
	rec = state.Record{Kind: state.Done, Step: st.ID, Attempt: st.Attempt}
	switch r.IntN(7) {
	case 0, 1:
		rec.Kind, rec.Error, rec.Unclear = state.Failed, no, r.IntN(2) == 0
		rec.Word = []string{"", state.WordLeft, state.WordAsk}[r.IntN(3)]
	case 2:
		rec.Kind, rec.Error = state.Unknown, no
	case 3:
		rec.Kind, rec.Text = state.Skipped, "needless"
	}
	return rec, true
}

// TestAnswerAfterACancel: a question is answered after a cancel that waits for
// another step: the cancel stands.
func TestAnswerAfterACancel(t *testing.T) {
	t.Parallel()
	for _, word := range []string{state.Go, state.Again, state.Stop} {
		s, records := play(t, recovery.Planned, set("b", askA), state.Run{}, "pre> pre. g> g. a> a. b> c1> b! cancel")
		for _, rec := range []state.Record{{Kind: state.Answered, Step: "b", Word: word}, {Kind: state.Done, Step: "c1", Attempt: 1}} {
			rec.Seq, rec.Time, rec.By = s.Seq+1, t0.Add(time.Hour), "ann"
			records = append(records, rec)
			if err := s.Apply(rec); err != nil {
				t.Fatalf("%s: %v", word, err)
			}
		}
		if s.Follow() != program.SectionCancel || !s.Cancelling() || len(s.Next()) > 0 {
			t.Errorf("%s: the run is %s, follows %q, starts %v", word, s.Status, s.Follow(), s.Next())
		}
		foldsTheSame(t, word, s, records)
	}
}
