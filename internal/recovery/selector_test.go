package recovery_test

import (
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

func TestSelect(t *testing.T) {
	t.Parallel()
	base := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	point := func(seq int, id string, kind recovery.Consistency) recovery.Point {
		pid, err := ident.ParsePointID(id + strings.Repeat("0", 32-len(id)))
		if err != nil {
			t.Fatal(err)
		}
		return recovery.Point{ID: pid, Seq: ident.Seq(seq), Kind: kind, Instant: base.Add(time.Duration(seq) * time.Minute)} //nolint:gosec // small
	}
	points := []recovery.Point{
		point(1, "aaaaaaa1", recovery.App), point(2, "aaaaaaa2", recovery.Crash), point(3, "bbbbbbb3", recovery.App),
		point(4, "ccccccc4", recovery.Crash), point(5, "ddddddd5", recovery.Fuzzy), point(6, "eeeeeee6", recovery.Crash),
		point(7, "fffffff7", recovery.App), // what a rollback left behind
	}
	points[6].Diverged, points[6].Labels = true, []string{"rolled back"}
	points[1].Labels = []string{"before upgrade"}
	points[5].Suspect = "entropy"
	points[2].Group = "erp"
	points[3].Instant = points[3].Instant.Add(time.Hour) // this source's clock was an hour ahead
	points[3].ClockOffset = time.Hour
	for _, c := range []struct {
		selector string
		fuzzy    bool
		want     int
		err      string
	}{
		{"", false, 4, ""},
		{"latest", false, 4, ""},
		{"latest", true, 5, ""},
		{"latest-processed", false, 4, ""},
		{"latest-app", false, 3, ""},
		{"latest-group", false, 3, ""},
		{"2026-03-01T12:02:30Z", false, 2, ""},
		{"2026-03-01 12:04", false, 4, ""}, // corrected instants
		{"2026-03-01 12:00", false, 0, "no point of the 7 is as old"},
		{"before upgrade", false, 2, ""},
		{"bbbbbb", false, 3, ""},
		{"fffffff7", false, 7, ""},
		{"rolled back", false, 7, ""},
		{"2026-03-01 13:04", false, 4, ""},
		{"ddddddd5", false, 5, ""}, // by name even a fuzzy one
		{"aaaaaa", false, 0, "2 points have ids"},
		{"aaa", false, 0, "no point has the label or id"},
		{"nonsense", false, 0, "no point has the label or id"},
	} {
		got, err := recovery.Select(points, c.selector, c.fuzzy)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: error %v, want %q", c.selector, err, c.err)
			}
			continue
		}
		if err != nil || got.Seq != ident.Seq(c.want) { //nolint:gosec // small
			t.Errorf("%q: got %d, %v, want %d", c.selector, got.Seq, err, c.want)
		}
	}
	if _, err := recovery.Select(nil, "latest", false); err == nil {
		t.Error("no points: no error")
	}
}
