// Package quantity reads and prints the durations, sizes and rates of plans
// and estates ("5m", "64MiB", "200Mbit/s"), and prints counts. Pure functions;
// no state.
package quantity

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

var durationUnits = map[string]time.Duration{
	"ms": time.Millisecond, "s": time.Second, "m": time.Minute, "h": time.Hour,
	"d": 24 * time.Hour, "w": 7 * 24 * time.Hour,
}

// ParseDuration reads "90s", "1h30m", "1d" (units ms s m h d w). A bare number,
// a negative value and one beyond 292 years are refused.
func ParseDuration(s string) (time.Duration, error) {
	bad := fmt.Errorf("%q is not a duration (write 90s, 5m, 1h30m or 7d)", s)
	rest, total := strings.TrimSpace(s), time.Duration(0)
	if rest == "" {
		return 0, bad
	}
	for rest != "" {
		n, unit, tail, err := numberAndUnit(rest)
		u, known := durationUnits[unit]
		if err != nil || !known {
			return 0, bad
		}
		d := math.Round(n * float64(u))
		if d >= float64(math.MaxInt64-total) { // the float may be rounded up, so not even equal
			return 0, fmt.Errorf("duration %q is too long", s)
		}
		total += time.Duration(d)
		rest = tail
	}
	return total, nil
}

var sizeUnits = map[string]float64{
	"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
	"kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
}

// ParseSize reads "64MiB", "4GiB", "10GB" into bytes. More than 4 EiB is refused.
func ParseSize(s string) (int64, error) {
	n, unit, tail, err := numberAndUnit(strings.TrimSpace(s))
	u, known := sizeUnits[unit]
	if err != nil || !known || tail != "" || n*u > math.MaxInt64/2 {
		return 0, fmt.Errorf("%q is not a size (write 64MiB, 4GiB or 10GB)", s)
	}
	return int64(n * u), nil
}

var rateUnits = map[string]float64{
	"bit/s": 1. / 8, "kbit/s": 1e3 / 8, "Kbit/s": 1e3 / 8, "Mbit/s": 1e6 / 8, "Gbit/s": 1e9 / 8,
	"B/s": 1, "kB/s": 1e3, "KB/s": 1e3, "MB/s": 1e6, "GB/s": 1e9, "KiB/s": 1 << 10, "MiB/s": 1 << 20, "GiB/s": 1 << 30,
}

// ParseRate reads "200Mbit/s" or "25MB/s" into bytes per second. Less than one
// is refused: 0 means "no limit" wherever a rate is kept.
func ParseRate(s string) (int64, error) {
	n, unit, tail, err := numberAndUnit(strings.TrimSpace(s))
	u, known := rateUnits[unit]
	if err != nil || !known || tail != "" || n*u > math.MaxInt64/2 || n*u < 1 {
		return 0, fmt.Errorf("%q is not a rate (write 200Mbit/s or 25MB/s)", s)
	}
	return int64(n * u), nil
}

// numberAndUnit splits "1.5GiB…" into its number, its unit and what follows.
func numberAndUnit(s string) (n float64, unit, tail string, err error) {
	i := 0
	for i < len(s) && (s[i] >= '0' && s[i] <= '9' || s[i] == '.') {
		i++
	}
	if n, err = strconv.ParseFloat(s[:i], 64); err != nil {
		return 0, "", "", err
	}
	j := i
	for j < len(s) && (s[j] < '0' || s[j] > '9') {
		j++
	}
	return n, strings.TrimSpace(s[i:j]), s[j:], nil
}

// FormatSize prints bytes for a person: "16.0 MiB".
func FormatSize(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	f, i := float64(n), 0
	for f >= 1023.95 && i < len(units)-1 { // what would print as 1024.0
		f, i = f/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}

// Count prints how many there are of what one is called: "1 point", "2 points".
func Count[N int | uint64](n N, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// FormatDuration prints a duration for a person: "850ms", "2.4s", "3m12s", "1d4h".
func FormatDuration(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + FormatDuration(d.Abs())
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute-50*time.Millisecond: // the rest would print as 60.0s
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Hour:
		d = max(d, time.Minute)
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
	}
}
