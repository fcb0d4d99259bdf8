package recovery

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/fault"
)

// The words of a point selector. Anything else is a time (RFC 3339, or
// "2006-01-02 15:04" in UTC), a label, or the begin of a point's id.
const (
	SelectLatest          = "latest"           // what is in flight is drained first
	SelectLatestProcessed = "latest-processed" // what is durable now
	SelectLatestApp       = "latest-app"
	SelectLatestGroup     = "latest-group"
)

// minIDPrefix is the shortest begin of an id that selects, in digits.
const minIDPrefix = 6

// Drains reports whether a selector asks for what is in flight as well.
func Drains(selector string) bool { return selector == "" || selector == SelectLatest }

// Select returns the point that a selector chooses. Order is the sequence
// number. A fuzzy point is chosen only by its id or label, unless fuzzy is set
// (the policy says consistency = "fuzzy"); a suspect or diverged one never by latest. No such
// point, or several, is fault.NotFound.
func Select(points []Point, selector string, fuzzy bool) (Point, error) {
	if len(points) == 0 {
		return Point{}, noPoint("there is no recovery point")
	}
	sorted := slices.Clone(points)
	slices.SortFunc(sorted, func(a, b Point) int { return cmp.Compare(b.Seq, a.Seq) })
	clean := func(p Point) bool { return (fuzzy || p.Kind != Fuzzy) && p.Suspect == "" && !p.Diverged }
	switch selector {
	case "", SelectLatest, SelectLatestProcessed:
		return firstPoint(sorted, clean, "no point of the %d is crash- or app-consistent and clean", len(points))
	case SelectLatestApp:
		return firstPoint(sorted, func(p Point) bool { return clean(p) && p.Kind == App }, "no point of the %d is app-consistent", len(points))
	case SelectLatestGroup:
		return firstPoint(sorted, func(p Point) bool { return clean(p) && p.Group != "" }, "no point of the %d belongs to a consistency group", len(points))
	}
	if at, ok := ParseInstant(selector); ok {
		usable := func(p Point) bool {
			corrected, _ := p.Corrected()
			return clean(p) && !corrected.After(at)
		}
		return firstPoint(sorted, usable, "no point of the %d is as old as %s", len(points), at.UTC().Format(time.RFC3339))
	}
	return selectByName(sorted, selector)
}

func noPoint(format string, args ...any) error {
	return fault.Errorf(fault.NotFound, format, args...).WithHint("drrun points lists the recovery points of a machine")
}

func firstPoint(sorted []Point, ok func(Point) bool, format string, args ...any) (Point, error) {
	if i := slices.IndexFunc(sorted, ok); i >= 0 {
		return sorted[i], nil
	}
	return Point{}, noPoint(format, args...)
}

func selectByName(sorted []Point, name string) (Point, error) {
	for _, p := range sorted {
		if slices.Contains(p.Labels, name) {
			return p, nil // the newest of that label
		}
	}
	var found []Point
	if len(name) >= minIDPrefix {
		for _, p := range sorted {
			if strings.HasPrefix(p.ID.String(), strings.ToLower(name)) {
				found = append(found, p)
			}
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Point{}, noPoint("no point has the label or id %q", name)
	}
	return Point{}, noPoint("%d points have ids that begin with %q", len(found), name)
}

// ParseInstant reads the time of a selector.
func ParseInstant(s string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02T15:04"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}
