package runtime

import (
	"fmt"
	"testing"
	"time"

	"github.com/drrun/drrun/runtime/journal"
	"github.com/drrun/drrun/runtime/store"
)

// TestForgetsTheOldestNames of dropped runs, and no other.
func TestForgetsTheOldestNames(t *testing.T) {
	t.Parallel()
	s := store.NewMemory()
	e := &Engine{store: s}
	at := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	put := func(i int) {
		op, err := jsonOp(fmt.Sprintf("%srun-%03d", journal.DroppedPrefix, 999-i), gone{At: at.Add(time.Duration(i) * time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Txn(t.Context(), store.Txn{Then: []store.Op{op}}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 330 {
		put(i)
	}
	for _, keep := range []int{300, 100} {
		if err := e.forget(t.Context(), keep); err != nil {
			t.Fatal(err)
		}
		want := map[int]int{300: 330, 100: 100}[keep] // a tenth more stays
		n, newest := 0, false
		for kv, err := range s.List(t.Context(), journal.DroppedPrefix) {
			if err != nil {
				t.Fatal(err)
			}
			n++
			newest = newest || kv.Key == journal.DroppedPrefix+"run-670" // the last that was dropped
		}
		if n != want || !newest {
			t.Errorf("of 330 to keep %d: %d stay, the newest: %v", keep, n, newest)
		}
	}
}
