// Package retention decides which recovery points a policy no longer keeps.
//
// It is not for removing them: package replica merges and deletes. Pure
// functions.
package retention

import (
	"cmp"
	"slices"
	"time"

	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/planted"
	"github.com/drrun/drrun/internal/recovery"
)

// DefaultFor is how long every point is kept when a policy says nothing.
const DefaultFor = 24 * time.Hour

// Point is a recovery point as retention sees it.
type Point struct {
	ID        ident.PointID
	Seq       ident.Seq
	Received  time.Time // when it became durable at this site
	Preferred bool      // application-consistent or of a group: stands for its interval before others
	Good      bool      // neither fuzzy nor suspect nor diverged
	Pinned    bool      // in use, labelled, held or locked: never dropped
}

// Of returns the points as retention sees them at an instant; pinned names
// those in use.
func Of(points []recovery.Point, now time.Time, pinned func(ident.PointID) bool) []Point {
	out := make([]Point, 0, len(points))
	for _, p := range points {
		out = append(out, Point{
			ID: p.ID, Seq: p.Seq, Received: p.Received,
			Preferred: p.Kind == recovery.App || p.Group != "",
			Good:      p.Kind != recovery.Fuzzy && p.Suspect == "" && !p.Diverged,
			Pinned:    !planted.Is(planted.ThinHeld) && (p.Held || len(p.Labels) > 0) || p.LockedUntil.After(now) || p.Received.IsZero() || pinned(p.ID),
		})
	}
	return out
}

// Drop returns the points that no line of keep keeps at now. A line of an age
// divides time (of receipt) into intervals of Every and keeps one point of each
// while it is not older than For: a good one if there is one, of these a
// preferred one if there is one, else the first. A line of a count keeps the
// newest good points. Kept in any case: pinned points, the newest point and the
// newest good one.
func Drop(points []Point, keep []recovery.Keep, now time.Time) []ident.PointID {
	if len(keep) == 0 {
		keep = []recovery.Keep{{For: DefaultFor}}
	}
	sorted := slices.SortedFunc(slices.Values(points), func(a, b Point) int { return cmp.Compare(a.Seq, b.Seq) })
	kept := map[ident.PointID]bool{}
	for i := len(sorted) - 1; i >= 0; i-- {
		if i == len(sorted)-1 {
			kept[sorted[i].ID] = true
		}
		if sorted[i].Good {
			kept[sorted[i].ID] = true
			break
		}
	}
	for _, k := range keep {
		keepLine(sorted, k, now, kept)
	}
	var drop []ident.PointID
	for _, p := range sorted {
		if !p.Pinned && !kept[p.ID] {
			drop = append(drop, p.ID)
		}
	}
	return drop
}

// keepLine marks what one line keeps.
func keepLine(sorted []Point, k recovery.Keep, now time.Time, kept map[ident.PointID]bool) {
	if k.Last > 0 {
		n := 0
		for i := len(sorted) - 1; i >= 0 && n < k.Last; i-- {
			if sorted[i].Good {
				kept[sorted[i].ID] = true
				n++
			}
		}
		return
	}
	best := map[int64]Point{} // by interval
	for _, p := range sorted {
		if now.Sub(p.Received) > k.For {
			continue
		}
		if k.Every <= 0 {
			kept[p.ID] = true
			continue
		}
		i := p.Received.UnixNano() / int64(k.Every)
		have, ok := best[i]
		if !ok || better(p, have) {
			best[i] = p
		}
	}
	for _, p := range best {
		kept[p.ID] = true
	}
}

// better reports whether p stands for the interval of an earlier point: a good
// point does before one that is not, then a preferred one.
func better(p, have Point) bool {
	if p.Good != have.Good {
		return p.Good
	}
	return p.Preferred && !have.Preferred
}
