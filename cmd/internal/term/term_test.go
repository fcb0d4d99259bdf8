package term

import (
	"strings"
	"testing"
	"time"
)

func TestEscapeLeavesNothingThatDrivesATerminal(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want string }{
		{"plain text, é and 世界", "plain text, é and 世界"},
		{"\x1b[2J", `\u001b[2J`},
		{"a\nb", `a\nb`},
		{"a\u202eb", `a\u202eb`},
		{"\x9b31m", `\u009b31m`},
		{"\u009b31m", `\u009b31m`},
		{"\ufffd", "\ufffd"},
	} {
		if got := Escape(c.in, false); got != c.want {
			t.Errorf("Escape(%q) = %q, want %q", c.in, got, c.want)
		}
	}
	if got := Escape("a\nb\r", true); got != "a\nb\\r" {
		t.Errorf("with lines kept: %q", got)
	}
}

func FuzzEscape(f *testing.F) {
	f.Add("a\x1b[31mb\n\xff")
	f.Fuzz(func(t *testing.T, s string) {
		out := Escape(s, false)
		for _, r := range out {
			if r < 0x20 && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
				t.Fatalf("Escape(%q) = %q holds %q", s, out, r)
			}
		}
	})
}

func TestPainterRedrawsInPlace(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	p := NewPainter(Terminal{Writer: &b, Interactive: true, Width: func() int { return 20 }})
	now := time.Unix(100, 0)
	p.Draw(now, []string{"one", "two"})
	if p.Due(now.Add(50 * time.Millisecond)) {
		t.Error("a second drawing is due after 50 ms")
	}
	b.Reset()
	p.Print("done")
	if got, want := b.String(), "\r\x1b[2A\x1b[Jdone\none\ntwo\n"; got != want {
		t.Errorf("Print over a block: %q, want %q", got, want)
	}
	b.Reset()
	p.Close()
	if b.String() != "\x1b[?25h" {
		t.Errorf("Close does not restore the cursor: %q", b.String())
	}
}

func TestPlainWriterGetsNoControl(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	p := NewPainter(Terminal{Writer: &b})
	p.Draw(time.Unix(1, 0), []string{"block"})
	p.Print("line")
	p.Clear()
	p.Close()
	if b.String() != "line\n" {
		t.Errorf("plain output: %q", b.String())
	}
}

func TestCutCountsColumnsNotColours(t *testing.T) {
	t.Parallel()
	if got := Cut("\x1b[31mabcdef\x1b[0m", 3); got != "\x1b[31mabc\x1b[0m" {
		t.Errorf("Cut: %q", got)
	}
	if got := Cut("abc", 3); got != "abc" {
		t.Errorf("Cut of a line that fits: %q", got)
	}
}

func TestBarAndRate(t *testing.T) {
	t.Parallel()
	if got := Bar(5, 10, 10); got != "[#####-----]" {
		t.Errorf("Bar: %q", got)
	}
	if got := Bar(20, 10, 4); got != "[####]" {
		t.Errorf("Bar beyond its end: %q", got)
	}
	if got := Rate(1<<20, 3<<20, 1<<20); got != "1.0 MiB / 3.0 MiB  1.0 MiB/s  2.0s left" {
		t.Errorf("Rate: %q", got)
	}
}

func TestAskerTakesNothingForYes(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]bool{"y\n": true, "Yes\n": true, "\n": false, "yeah\n": false, "": false} {
		var out strings.Builder
		got, err := NewAsker(strings.NewReader(in), &out).Confirm(t.Context(), "Apply?")
		if err != nil || got != want {
			t.Errorf("Confirm with %q = %v, %v", in, got, err)
		}
	}
	var out strings.Builder
	if ok, _ := NewAsker(strings.NewReader("Lyon\n"), &out).Type(t.Context(), "Fail over?", "lyon"); ok {
		t.Error("the typed name is not compared exactly")
	}
}
