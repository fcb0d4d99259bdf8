package runtime_test

import (
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/report"
)

// TestDowntimeToExpect: the drain ahead of a planned stop says how long the
// machine will stand, and the final one, when it does stand, does not.
func TestDowntimeToExpect(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.w.drains = command.DrainResult{Expect: 4200 * time.Millisecond, Scan: true, Read: 20 << 30}
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		run := r.expect(id, report.RunWaiting)
		const want = "to expect while it stands: its stop (at most 2m00s), then 4.2s for the final delta (a scan: 20.0 GiB are read to find it), then its start"
		for _, s := range run.Steps {
			switch {
			case s.ID == "drain-ahead/db1" && !strings.HasSuffix(s.Detail, want):
				t.Errorf("%s says %q, want %q at its end", s.ID, s.Detail, want)
			case s.ID == "shutdown/db1/drain" && strings.Contains(s.Detail, "to expect"):
				t.Errorf("%s says %q", s.ID, s.Detail)
			}
		}
	})
}

// notes are the lines of a run's timeline.
func notes(run *report.Run) string {
	var lines []string
	for _, n := range run.Notes {
		lines = append(lines, n.Text)
	}
	return strings.Join(lines, "\n")
}
