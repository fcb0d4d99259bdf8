package estate

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/drrun/drrun/plans"
)

// patched is a with the lines of a difference taken away and added.
func patched(a []string, diff []Line) []string {
	var out []string
	at := 0
	for _, l := range diff {
		if !l.Added {
			for at < l.Line-1 {
				out = append(out, a[at])
				at++
			}
			at++ // taken away
			continue
		}
		for len(out) < l.Line-1 {
			out = append(out, a[at])
			at++
		}
		out = append(out, l.Text)
	}
	return append(out, a[at:]...)
}

func join(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	return strings.Join(lines, "\n") + "\n"
}

// TestDiffLines: the lines that are shown make the one text of the other, and
// are not more than needed.
func TestDiffLines(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	text := func() (out []string) {
		for range rnd.IntN(12) {
			out = append(out, string(rune('a'+rnd.IntN(4))))
		}
		return out
	}
	for range 2000 {
		a, b := text(), text()
		diff := diffLines("p.lua", join(a), join(b))
		if got := patched(a, diff); !slices.Equal(got, b) {
			t.Fatalf("%q to %q: %v gives %q", a, b, diff, got)
		}
		if slices.Equal(a, b) != (len(diff) == 0) {
			t.Fatalf("%q to %q: %v", a, b, diff)
		}
	}
	got := diffLines("p.lua", "x\na\nb\nc\ny\n", "x\nb\nd\nc\ny")
	if want := []Line{{File: "p.lua", Line: 2, Text: "a"}, {File: "p.lua", Line: 3, Added: true, Text: "d"}}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestDiffSources: a file that is new, gone or much changed is shown, and the
// text for a person has an end.
func TestDiffSources(t *testing.T) {
	t.Parallel()
	var long, other strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&long, "old %d\n", i)
		fmt.Fprintf(&other, "new %d\n", i)
	}
	old := plans.Bundle{Files: map[string]string{"erp.lua": long.String(), "gone.lua": "one\ntwo\n", "same.lua": "x\n"}}
	next := plans.Bundle{Files: map[string]string{"erp.lua": other.String(), "new.lua": "three", "same.lua": "x\n"}}
	got := diffSources(old, next)
	if len(got) != 6003 {
		t.Fatalf("%d lines", len(got))
	}
	if tail := got[6000:]; !slices.Equal(tail, []Line{{"gone.lua", 1, false, "one"}, {"gone.lua", 2, false, "two"}, {"new.lua", 1, true, "three"}}) {
		t.Errorf("%v", tail)
	}
	d := Diff{Changes: []Change{{Kind: "plan", Name: "erp", Action: Changed, Lines: got}}}
	if text := d.Text(); strings.Count(text, "\n") > mostLines+10 || !strings.Contains(text, "    erp.lua:1: - old 0\n") || !strings.Contains(text, "… and 5943 more lines") {
		t.Errorf("%s", text)
	}
}
