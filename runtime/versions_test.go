package runtime_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/journal"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/store"
)

// TestNewerJournalIsNotResumed: the run is refused with the drrun that can go
// on with it, and left as it is; it stays in the list, and the other runs work.
func TestNewerJournalIsNotResumed(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		r.expect(id, report.RunWaiting)
		r.close()
		const newer = `{"version":2,"drrun":"9.1.0","seq":3}`
		key := journal.Key(id, 3)
		if _, err := store.Put(t.Context(), r.store, key, []byte(newer)); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Put(t.Context(), r.store, "runs/odd-1", []byte(`{"version":2,"id":["odd"]}`)); err != nil {
			t.Fatal(err)
		}
		before, err := r.store.Rev(t.Context())
		r.must(err)
		r.open()
		err = r.engine.Answer(t.Context(), id, runtime.Answer{Word: "go"})
		if !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), "version 2") || !strings.Contains(err.Error(), id) || !strings.Contains(fault.Hint(err), "drrun 9.1.0") {
			t.Errorf("answer: %v (hint %q)", err, fault.Hint(err))
		}
		if after, err := r.store.Rev(t.Context()); err != nil || after != before {
			t.Errorf("the state was touched: revision %d, was %d (%v)", after, before, err)
		}
		runs, err := r.engine.Runs(t.Context())
		if err != nil || len(runs) != 2 || runs[0].ID != "odd-1" || runs[0].Status != report.RunStopped || runs[0].Hint == "" || runs[1].ID != id {
			t.Errorf("the list of runs: %+v, %v", runs, err)
		}
		if _, err := r.engine.Unfinished(t.Context()); err != nil {
			t.Errorf("what is unfinished: %v", err)
		}
		other := r.start(runtime.Request{Machines: []string{"db1"}, Type: recovery.Test, ID: "beside"})
		r.expect(other, report.RunUncommitted)
	})
}

// TestGoldenState opens a state folder as version 1 wrote it, in the middle of
// a run: the run is shown as it stood, goes on and is committed. The file stays
// usable for ever; a change that it does not survive needs a new version.
func TestGoldenState(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned}) // brings the world to where the golden run stands
		want := r.expect(id, report.RunWaiting)
		r.close()
		golden := filepath.Join("testdata", "state-v1.db")
		if *update {
			saveState(t, r.store, golden)
		}
		raw, err := os.ReadFile(golden)
		r.must(err)
		dir := t.TempDir()
		r.must(os.WriteFile(filepath.Join(dir, store.FileName), raw, 0o600))
		bolt, err := store.OpenBolt(vfs.OS{}, dir)
		r.must(err)
		r.store = bolt
		r.open()
		got, err := r.engine.Show(t.Context(), id)
		r.must(err)
		done := map[string]bool{}
		for _, s := range got.Steps {
			done[s.ID] = s.Status == report.StepDone
		}
		if got.Plan != want.Plan || got.Section != want.Section || len(got.Machines) != len(want.Machines) || !got.Created.Equal(want.Created) ||
			!done["drain-ahead/db1"] || !done["shutdown/db1/stop"] {
			t.Errorf("shown: %+v", got)
		}
		r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"}))
		r.expect(id, report.RunWaiting)
		r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "go", By: "ann"}))
		r.expect(id, report.RunUncommitted)
		r.must(r.engine.Commit(t.Context(), id, "ann"))
		r.expect(id, report.RunCommitted)
		r.close()
		r.must(bolt.Close())
		r.store = store.NewMemory()
		r.open()
	})
}

// saveState writes all that a store holds as a state file.
func saveState(t *testing.T, from store.Store, file string) {
	t.Helper()
	dir := t.TempDir()
	to, err := store.OpenBolt(vfs.OS{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	for kv, err := range from.List(t.Context(), "") {
		if err == nil {
			_, err = store.Put(t.Context(), to, kv.Key, kv.Value)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, store.FileName))
	if err == nil {
		err = os.WriteFile(file, raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
