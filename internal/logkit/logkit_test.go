package logkit_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/logkit"
)

func TestHandlerChoice(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		o    logkit.Options
		want string
	}{
		"pipe is text":            {logkit.Options{}, "level=INFO msg=hello machine=erp"},
		"json asked":              {logkit.Options{Format: "json", Terminal: true}, `"msg":"hello","machine":"erp"`},
		"text asked on terminal":  {logkit.Options{Format: "text", Terminal: true}, "level=INFO msg=hello"},
		"terminal without colour": {logkit.Options{Terminal: true, NoColor: true}, "INF hello machine=erp"},
		"terminal with colour":    {logkit.Options{Terminal: true}, "\x1b["},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var b bytes.Buffer
			log, err := logkit.New(&b, c.o)
			if err != nil {
				t.Fatal(err)
			}
			log.Info("hello", logkit.KeyMachine, "erp")
			log.Debug("not shown")
			if got := b.String(); !strings.Contains(got, c.want) || strings.Contains(got, "not shown") {
				t.Errorf("log is %q, want %q in it", got, c.want)
			}
		})
	}
}

func TestBadOptions(t *testing.T) {
	t.Parallel()
	for _, o := range []logkit.Options{{Level: "loud"}, {Format: "xml"}} {
		if _, err := logkit.New(&bytes.Buffer{}, o); !fault.Is(err, fault.Invalid) {
			t.Errorf("%+v: error is %v, want kind invalid", o, err)
		}
	}
}

func TestHostileText(t *testing.T) {
	t.Parallel()
	hostile := "a\x1b[31mred\nfake=line \\x1b[2J \u202e \xff end"
	for _, o := range []logkit.Options{{Terminal: true, NoColor: true}, {Terminal: true}, {}, {Format: "json"}} {
		var b bytes.Buffer
		log, err := logkit.New(&b, o)
		if err != nil {
			t.Fatal(err)
		}
		log.With("bound", hostile).WithGroup("g").Info(hostile, "s", hostile, "err", errors.New(hostile),
			slog.Group("in", "s", hostile), "any", []string{hostile}, hostile, 1, "token", "abc123")
		got := b.String()
		for _, bad := range []string{"\x1b[31mred", "\x1b[2J", "\nfake", "\u202e", "\xff", "abc123"} {
			if strings.Contains(got, bad) {
				t.Errorf("%+v: log holds %q:\n%q", o, bad, got)
			}
		}
		if strings.Count(got, "\n") != 1 {
			t.Errorf("%+v: log is not one line: %q", o, got)
		}
	}
}

// TestBrokenValue: a value that panics when it is printed ends no program.
func TestBrokenValue(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	log, err := logkit.New(&b, logkit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	log.Error("broken", logkit.KeyError, (*fault.Error)(nil), "machine", "erp")
	if !strings.Contains(b.String(), "err=<nil> machine=erp") {
		t.Errorf("log is %q", b.String())
	}
}

func FuzzClean(f *testing.F) {
	f.Add("plain")
	f.Add("\x1b[0m\\x1b\x00\xfe\u2028")
	f.Fuzz(func(t *testing.T, s string) {
		got := logkit.Clean(s)
		if !utf8.ValidString(got) || strings.ContainsAny(got, "\x1b\n\r\x00\u2028") || strings.Contains(got, `\x1b`) {
			t.Errorf("Clean(%q) = %q", s, got)
		}
	})
}
