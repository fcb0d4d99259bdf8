package state_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/state"
)

var update = flag.Bool("update", false, "write the golden files anew (never for an old version)")

// stored is a record with the fields that the journal keeps beside the body.
type stored struct {
	Kind state.Kind   `json:"kind"`
	Body state.Record `json:"body"`
}

func encodeAll(t *testing.T, records []state.Record) []byte {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for _, r := range records {
		if err := enc.Encode(stored{r.Kind, r}); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// decodeAll reads lines until the first that is none.
func decodeAll(raw []byte) []state.Record {
	var out []state.Record
	dec := json.NewDecoder(bytes.NewReader(raw))
	for {
		var s stored
		if dec.Decode(&s) != nil {
			return out
		}
		s.Body.Kind, s.Body.Seq, s.Body.Time = s.Kind, uint64(len(out)+1), t0 //nolint:gosec // small
		out = append(out, s.Body)
	}
}

// TestGoldenV1 folds a journal as version 1 wrote it. It stays readable forever.
func TestGoldenV1(t *testing.T) {
	t.Parallel()
	file := filepath.Join("testdata", "journal-v1.jsonl")
	ask := set("a", func(s *program.Step) { s.OnFail = program.OnFailAsk })
	want, records := play(t, recovery.Planned, ask, state.Run{Kind: report.KindFailover, StartedBy: "ann", Point: "latest"},
		"pre> pre. g> g. a> a? a:again a> a! a:again a> a. b> c1> pause b. c1~ resume c2> c2! resume c2> c2. w> w# resume w> w:go d> d. commit "+
			"commit/m1/lyo-1> commit/m1/lyo-1. commit/m1/par-1> commit/m1/par-1.")
	raw := encodeAll(t, records)
	if *update {
		if err := os.WriteFile(file, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(raw, golden) {
		t.Errorf("the stored form has changed:\n%s", raw)
	}
	got, err := state.New(decodeAll(golden))
	if err != nil || got.Status != report.RunCommitted || view(got) != view(want) {
		t.Fatalf("fold: %v\n%s\nwant\n%s", err, view(got), view(want))
	}
}

// FuzzFold folds whatever a state file may hold: an error, never a panic.
func FuzzFold(f *testing.F) {
	if golden, err := os.ReadFile(filepath.Join("testdata", "journal-v1.jsonl")); err == nil {
		f.Add(golden)
		for _, change := range [][2]string{{`"error":`, `"was":`}, {`"wait":{`, `"gone":{`}, {`"kind":"done"`, `"kind":"timed-out"`}, {`"program":`, `"none":`}, {`"version":1`, `"version":9`}} {
			f.Add(bytes.ReplaceAll(golden, []byte(change[0]), []byte(change[1])))
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		records := decodeAll(raw)
		if len(records) > 1000 {
			return
		}
		s, err := state.New(records)
		if err == nil {
			view(s)
			return
		}
		if k := fault.KindOf(err); k != fault.Corrupt && k != fault.Refused {
			t.Fatalf("kind %v: %v", k, err)
		}
	})
}

// TestGoesOnAsUnplannedWithItsOwnSteps: what only one type has is run, or not,
// by the type in force where the run stands.
func TestGoesOnAsUnplannedWithItsOwnSteps(t *testing.T) {
	t.Parallel()
	only := func(typ recovery.Type) *program.Program {
		return tree(typ, func(id string, s *program.Step) {
			switch {
			case (id == "d") && typ == recovery.Unplanned:
				s.Skip = "only for planned"
			case (id == "b" || id == "c1" || id == "g") && typ == recovery.Planned:
				s.Skip = "only for unplanned"
			}
		})
	}
	fold := func(steps string) *state.State {
		s, err := state.New([]state.Record{{Seq: 1, Time: t0, Kind: state.Created, Run: &state.Run{ID: "r1"}, Program: only(recovery.Planned)}})
		if err != nil {
			t.Fatal(err)
		}
		apply := func(r state.Record) {
			r.Seq, r.Time = s.Seq+1, t0
			if err := s.Apply(r); err != nil {
				t.Fatal(err)
			}
		}
		for _, id := range strings.Fields(steps) {
			apply(state.Record{Kind: state.Started, Step: id, Attempt: 1})
			apply(state.Record{Kind: state.Done, Step: id, Attempt: 1})
		}
		apply(state.Record{Kind: state.Paused, By: "ann"})
		apply(state.Record{Kind: state.Resumed, Program: only(recovery.Unplanned), By: "ann"})
		return s
	}
	s := fold("pre a")
	for id, want := range map[string]report.StepStatus{"g": report.StepSkipped, "b": report.StepPending, "c1": report.StepPending, "d": report.StepSkipped} {
		if s.Steps[id].Status != want {
			t.Errorf("after a: %s is %s, want %s", id, s.Steps[id].Status, want)
		}
	}
	s = fold("pre a c2")
	if got := s.Steps["c1"].Status; got != report.StepSkipped { // the branch has passed it
		t.Errorf("after c2: c1 is %s", got)
	}
	if got := s.Steps["b"].Status; got != report.StepPending { // the other branch has not begun
		t.Errorf("after c2: b is %s", got)
	}
}

func TestQuestionsOfALeftSectionAreClosed(t *testing.T) {
	t.Parallel()
	s, _ := play(t, recovery.Planned, nil, state.Run{}, upToW)
	if len(s.Open()) != 1 {
		t.Fatalf("open: %v", s.Open())
	}
	s, _ = play(t, recovery.Planned, nil, state.Run{}, upToW+"cancel giveback")
	if s.Status != report.RunPartial || len(s.Open()) != 0 {
		t.Errorf("after the cancel: %s, open: %v", s.Status, s.Open())
	}
}

func TestReverseCanBeCancelled(t *testing.T) {
	t.Parallel()
	m := program.Machine{Name: "m1", FromSite: "lyon", ToSite: "paris", FromHost: "lyo-1", ToHost: "par-1", Back: true}
	s, err := state.New([]state.Record{{Seq: 1, Time: t0, Kind: state.Created, Run: &state.Run{ID: "r1", Kind: report.KindReverse},
		Program: program.Reverse("reverse", []program.Machine{m})}})
	if err != nil {
		t.Fatal(err)
	}
	apply := func(r state.Record) {
		r.Seq, r.Time = s.Seq+1, t0
		if err := s.Apply(r); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"preflight", "claim", "reverse/m1/learn", "reverse/m1/stop", "reverse/m1/found", "reverse/m1/epoch/lyo-1"} {
		apply(state.Record{Kind: state.Started, Step: id, Attempt: 1})
		apply(state.Record{Kind: state.Done, Step: id, Attempt: 1})
	}
	apply(state.Record{Kind: state.Cancelled, By: "ann"})
	if got := s.Follow(); got != program.SectionCancel {
		t.Fatalf("follow: %q", got)
	}
	apply(state.Record{Kind: state.Section, By: "ann", Program: program.CancelOf(s.Main(), s.Held(), s.Down(), s.Leased(), s.UnclearGrants())})
	if !s.Status.Ended() || !strings.Contains(s.Reason, "m1") {
		t.Errorf("the run is %s: %s", s.Status, s.Reason)
	}
}

// TestStoredProgramsAreLookedAt: a program of a newer drrun, or an incomplete
// one, is refused before anything of it is taken in.
func TestStoredProgramsAreLookedAt(t *testing.T) {
	t.Parallel()
	newer := tree(recovery.Planned, nil)
	newer.Version = 2
	noAsk := tree(recovery.Planned, func(id string, s *program.Step) {
		if id == "w" {
			s.Plan = &plans.Step{Name: "w"}
		}
	})
	for want, p := range map[fault.Kind]*program.Program{fault.Refused: newer, fault.Corrupt: noAsk} {
		_, err := state.New([]state.Record{{Seq: 1, Time: t0, Kind: state.Created, Run: &state.Run{ID: "r1"}, Program: p}})
		if !fault.Is(err, want) {
			t.Errorf("%v, want kind %v", err, want)
		}
	}
}
