package runtime_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/store"
)

// keys counts the keys of a store by the word before the first slash.
func keys(t *testing.T, s store.Store) map[string]int {
	t.Helper()
	out := map[string]int{}
	for kv, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		word, _, _ := strings.Cut(kv.Key, "/")
		out[word]++
	}
	return out
}

// txnStore fails every transaction from the n-th one on that deletes.
type txnStore struct {
	store.Store
	left int
}

func (s *txnStore) Txn(ctx context.Context, t store.Txn) (int64, bool, error) {
	for _, op := range t.Then {
		if op.Delete && s.left == 0 {
			return 0, false, errCrash
		}
		if op.Delete {
			s.left--
			break
		}
	}
	return s.Store.Txn(ctx, t)
}

// TestOldRunsAreDropped: the newest ended runs stay, and all that have not
// ended; a crash while old ones are dropped leaves nothing behind.
func TestOldRunsAreDropped(t *testing.T) {
	t.Parallel()
	for crash := range 8 {
		t.Run(fmt.Sprint(crash), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				const keep = 3
				open := func(s store.Store) {
					r.engine = runtime.New(runtime.Options{Store: s, Caller: r.w, Catalogue: r.cat, Scripts: r.lua, Runner: controllerHost{r.w}, KeepRuns: keep})
				}
				r.close()
				open(r.store)
				standing := r.start(runtime.Request{Machines: []string{"app1"}, Type: recovery.Test, ID: "standing"})
				r.expect(standing, report.RunUncommitted)
				one := func(n int) error {
					r.cat.estate.Machines[0].Tags = []string{fmt.Sprint("rev-", n)} // an estate of its own
					_, err := r.engine.Start(t.Context(), runtime.Request{Machines: []string{"db1"}, Type: recovery.Test, Cleanup: true, ID: fmt.Sprint("trial-", n)})
					if err == nil {
						r.expect(fmt.Sprint("trial-", n), report.RunDone)
					}
					return err
				}
				for n := range keep {
					r.must(one(n))
				}
				r.close()
				open(&txnStore{Store: r.store, left: crash})
				for n := keep; n < keep+3; n++ {
					r.must(one(n)) // what cannot be dropped holds up nothing
				}
				r.close()
				open(r.store)
				for n := 10; n < 13; n++ {
					r.must(one(n))
				}
				runs, err := r.engine.Runs(t.Context())
				r.must(err)
				if len(runs) != keep+2 || runs[0].ID != standing || runs[keep+1].ID != "trial-12" || runs[2].ID != "trial-10" {
					t.Errorf("runs: %v", runs)
				}
				for _, run := range runs {
					_, err := r.engine.Show(t.Context(), run.ID)
					r.must(err)
				}
				if _, err := r.engine.Show(t.Context(), "trial-0"); !fault.Is(err, fault.NotFound) {
					t.Errorf("a dropped run: %v", err)
				}
				n := keys(t, r.store)
				if n["dropped"] != 0 || n["gone"] == 0 || n["runs"] != keep+2 || n["blob"] > 2*(keep+2)+2 {
					t.Errorf("keys: %v", n)
				}
				r.must(r.engine.Cleanup(t.Context(), standing, "ann")) // its sources are there
				r.expect(standing, report.RunDone)
			})
		})
	}
}
