package cron

import (
	"strings"
	"testing"
)

func TestParseDays(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"2026-12-24": "2026-12-24", "2026-12-20 to 2027-01-05": "2026-12-20 to 2027-01-05",
		"2026-02-30": "cannot read", "christmas": "cannot read", "2027-01-05 to 2026-12-20": "end before they begin", "": "cannot read", "2026-12-24 to": "cannot read",
	} {
		d, err := ParseDays(text)
		got := d.String()
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
