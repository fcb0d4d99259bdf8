package quantity_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/quantity"
)

func TestParseDuration(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "1h30m": 90 * time.Minute, "7d": 168 * time.Hour, "1w": 168 * time.Hour,
		"850ms": 850 * time.Millisecond, "1.5h": 90 * time.Minute, " 1h 30m ": 90 * time.Minute, "0s": 0,
		"0.29s": 290 * time.Millisecond, "106751d": 106751 * 24 * time.Hour,
	} {
		if got, err := quantity.ParseDuration(in); err != nil || got != want {
			t.Errorf("%q is %v, %v; want %v", in, got, err, want)
		}
	}
	for in, text := range map[string]string{
		"": "is not a duration", "5": "is not a duration", "s": "is not a duration", "-5s": "is not a duration", "5x": "is not a duration",
		"1..5s": "is not a duration", "5m3": "is not a duration", "1e3s": "is not a duration", "5ms5": "is not a duration",
		"106752d": "is too long", "9223372036854.775808ms": "is too long", "106751d106751d": "is too long",
		strings.Repeat("9", 400) + "s": "is not a duration",
	} {
		if got, err := quantity.ParseDuration(in); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%.40q is %v, %v; want an error with %q", in, got, err, text)
		}
	}
}

func TestParseSizeAndRate(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int64{
		"64MiB": 64 << 20, "4GiB": 4 << 30, "10GB": 10e9, "1.5KiB": 1536, "64 MiB": 64 << 20, "0B": 0, "4194304TiB": 1 << 62,
	} {
		if got, err := quantity.ParseSize(in); err != nil || got != want {
			t.Errorf("size %q is %d, %v; want %d", in, got, err, want)
		}
	}
	for in, want := range map[string]int64{"200Mbit/s": 25e6, "25MB/s": 25e6, "8bit/s": 1, "1MiB/s": 1 << 20} {
		if got, err := quantity.ParseRate(in); err != nil || got != want {
			t.Errorf("rate %q is %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "5", "-1B", "5M", "64MiBx", "1KiB1KiB", "8388608TiB", "1e9B", strings.Repeat("9", 400) + "B"} {
		if got, err := quantity.ParseSize(in); err == nil {
			t.Errorf("size %.40q is %d", in, got)
		}
	}
	for _, in := range []string{"", "5", "0B/s", "7bit/s", "0.5B/s", "5B", "-1B/s", "99999999999GB/s"} {
		if got, err := quantity.ParseRate(in); err == nil { // 0 would mean: no limit
			t.Errorf("rate %q is %d", in, got)
		}
	}
}

func TestCount(t *testing.T) {
	t.Parallel()
	for n, want := range []string{"0 points", "1 point", "2 points"} {
		if got := quantity.Count(n, "point"); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

func TestFormat(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 16 << 20: "16.0 MiB", 1<<20 - 1: "1.0 MiB", math.MaxInt64: "8192.0 PiB",
	} {
		if got := quantity.FormatSize(n); got != want {
			t.Errorf("%d bytes print as %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0ms", 850 * time.Millisecond: "850ms", 2400 * time.Millisecond: "2.4s", 59990 * time.Millisecond: "1m00s",
		192 * time.Second: "3m12s", 2*time.Hour + 5*time.Minute: "2h05m", 28 * time.Hour: "1d4h", -90 * time.Second: "-1m30s",
		math.MinInt64: "-106751d23h",
	} {
		if got := quantity.FormatDuration(d); got != want {
			t.Errorf("%d ns print as %q, want %q", d, got, want)
		}
	}
}

// FuzzParse: what is read is never negative, and a rate never the 0 that means
// "no limit".
func FuzzParse(f *testing.F) {
	for _, s := range []string{"1h30m", "64MiB", "200Mbit/s", "9223372036854.775808ms", "0.1bit/s", "1d 1d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := quantity.ParseDuration(s); err == nil && d < 0 {
			t.Errorf("duration %q is %d", s, d)
		}
		if n, err := quantity.ParseSize(s); err == nil && n < 0 {
			t.Errorf("size %q is %d", s, n)
		}
		if n, err := quantity.ParseRate(s); err == nil && n < 1 {
			t.Errorf("rate %q is %d", s, n)
		}
	})
}
