package retention_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/drrun/drrun/agent/replica/retention"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

var now = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

func point(seq int, age time.Duration) retention.Point {
	return retention.Point{ID: ident.PointID{ID: ident.ID{byte(seq >> 8), byte(seq)}}, Seq: ident.Seq(seq), Received: now.Add(-age), Good: true}
}

func seqs(points []retention.Point, ids []ident.PointID) []int {
	var out []int
	for _, p := range points {
		if slices.Contains(ids, p.ID) {
			out = append(out, int(p.Seq))
		}
	}
	return out
}

func TestDrop(t *testing.T) {
	t.Parallel()
	lines := []recovery.Keep{{For: time.Hour}, {Every: time.Hour, For: 24 * time.Hour}}
	at := func(p retention.Point, change func(*retention.Point)) retention.Point {
		change(&p)
		return p
	}
	for name, c := range map[string]struct {
		points []retention.Point
		keep   []recovery.Keep
		want   []int
	}{
		"no policy keeps a day":     {[]retention.Point{point(1, 25*time.Hour), point(2, 24*time.Hour), point(3, 0)}, nil, []int{1}},
		"all for an hour":           {[]retention.Point{point(1, time.Hour), point(2, 59*time.Minute), point(3, 0)}, lines, nil},
		"one an hour after that":    {[]retention.Point{point(1, 119*time.Minute), point(2, 110*time.Minute), point(3, 90*time.Minute), point(4, 0)}, lines, []int{2, 3}},
		"older than every line":     {[]retention.Point{point(1, 25*time.Hour), point(2, 0)}, lines, []int{1}},
		"the newest stays":          {[]retention.Point{point(1, 50*time.Hour), point(2, 49*time.Hour)}, lines, []int{1}},
		"the last good stays":       {[]retention.Point{point(1, 50*time.Hour), at(point(2, 49*time.Hour), func(p *retention.Point) { p.Good = false })}, lines, nil},
		"pinned stays":              {[]retention.Point{at(point(1, 50*time.Hour), func(p *retention.Point) { p.Pinned = true }), point(2, 0)}, lines, nil},
		"preferred stands for them": {[]retention.Point{point(1, 119*time.Minute), at(point(2, 110*time.Minute), func(p *retention.Point) { p.Preferred = true }), point(3, 0)}, lines, []int{1}},
		"good before preferred":     {[]retention.Point{at(point(1, 119*time.Minute), func(p *retention.Point) { p.Good, p.Preferred = false, true }), point(2, 110*time.Minute), point(3, 0)}, lines, []int{1}},
		"a count, however old":      {[]retention.Point{point(1, 52*time.Hour), point(2, 51*time.Hour), at(point(3, 50*time.Hour), func(p *retention.Point) { p.Good = false }), point(4, 49*time.Hour)}, []recovery.Keep{{Last: 2}}, []int{1, 3}},
		"a count beside an age":     {[]retention.Point{point(1, 52*time.Hour), point(2, 30*time.Minute), point(3, 0)}, []recovery.Keep{{For: time.Hour}, {Last: 3}}, nil},
		"good stands for them":      {[]retention.Point{at(point(1, 119*time.Minute), func(p *retention.Point) { p.Good = false }), point(2, 110*time.Minute), point(3, 0)}, lines, []int{1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := seqs(c.points, retention.Drop(c.points, c.keep, now)); !slices.Equal(got, c.want) {
				t.Errorf("dropped %v, want %v", got, c.want)
			}
		})
	}
}

// TestDropIsStable: what was kept is not dropped by asking again, and thinning
// step by step as time goes by keeps at least one point an interval.
func TestDropIsStable(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	keep := []recovery.Keep{{For: 30 * time.Minute}, {Every: time.Hour, For: 12 * time.Hour}, {Every: 6 * time.Hour, For: 48 * time.Hour}}
	var points []retention.Point
	clock := now
	for seq := 1; seq < 800; seq++ {
		clock = clock.Add(time.Duration(1+rng.IntN(10)) * time.Minute)
		p := point(seq, 0)
		p.Received = clock
		p.Preferred = rng.IntN(9) == 0
		points = append(points, p)
		drop := retention.Drop(points, keep, clock)
		points = slices.DeleteFunc(points, func(p retention.Point) bool { return slices.Contains(drop, p.ID) })
		if again := retention.Drop(points, keep, clock); len(again) > 0 {
			t.Fatalf("after point %d: dropping again drops %v", seq, seqs(points, again))
		}
	}
	for age := time.Hour; age < 11*time.Hour; age += time.Hour {
		if !slices.ContainsFunc(points, func(p retention.Point) bool {
			a := clock.Sub(p.Received)
			return a >= age-time.Hour && a <= age+time.Hour
		}) {
			t.Errorf("no point is about %s old", age)
		}
	}
	if len(points) > 30 {
		t.Errorf("%d points are kept", len(points))
	}
}
