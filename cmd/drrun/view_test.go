package main

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/drrun/drrun/cmd/internal/term"
	"github.com/drrun/drrun/runtime/report"
)

// Bytes, rate and time left of a machine fit on the line, whatever the
// terminal's width; what is left over is the bar's.
func TestProgressFits(t *testing.T) {
	t.Parallel()
	s := report.Step{ID: "drain", Title: "drain the ledger while it runs, paris-1 → lyon-1", Machine: "ledger", Status: report.StepRunning,
		Progress: &report.Progress{Phase: "send", Done: 41 << 20, Total: 1960 << 20, Rate: 40 << 20}}
	begun := time.Now()
	for width, words := range map[int][]string{70: {"ledger"}, 100: {"ledger", "[-"}, 160: {s.Title, "[-"}} {
		v := newView(report.Run{}, term.Terminal{Width: func() int { return width }})
		v.since[s.ID] = begun
		line := v.stepLine(s, begun.Add(1200*time.Millisecond))
		if utf8.RuneCountInString(line) > width {
			t.Errorf("%d columns on a terminal of %d: %s", utf8.RuneCountInString(line), width, line)
		}
		for _, w := range append(words, "41.0 MiB / 1.9 GiB", "40.0 MiB/s", "48.0s left") {
			if !strings.Contains(line, w) {
				t.Errorf("%d columns: %q is not in %q", width, w, line)
			}
		}
	}
}

func TestArticle(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]string{"planned": "a planned", "unplanned": "an unplanned", "": "a "} {
		if got := article(word); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
