// Package logkit sets up the log of both programs: coloured lines when stderr
// is a terminal, else text or JSON; and it is the place of the attribute keys.
// Messages and values are cleaned before a handler sees them, so that a hostile
// host name or guest output can neither drive a terminal nor fake a line.
//
// It is not the operator's record: that is what status, show and the journal
// print. Loggers are safe for concurrent use.
package logkit

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/lmittmann/tint"
	"golang.org/x/term"

	"github.com/drrun/drrun/internal/fault"
)

// The attribute keys. A fact has one name everywhere.
const (
	KeyError   = "err"
	KeyMachine = "machine"
	KeyHost    = "host"
	KeySite    = "site"
	KeyPeer    = "peer"
	KeyRun     = "run"
	KeyOp      = "op"
	KeyVerb    = "verb"
	KeyDisk    = "disk"
	KeyPoint   = "point"
	KeySeq     = "seq"
	KeyEpoch   = "epoch"
	KeyPID     = "pid"
	KeyAddr    = "addr"
	KeyBytes   = "bytes"
	KeyTook    = "took"
	KeyPath    = "path"
)

// Options choose the handler. The zero value logs info and above as text.
type Options struct {
	Level    string // debug, info (default), warn, error
	Format   string // auto (default: tint on a terminal, else text), text, json
	Terminal bool   // the writer is a terminal
	NoColor  bool
}

// IsTerminal reports whether f is a terminal.
func IsTerminal(f *os.File) bool {
	return term.IsTerminal(int(f.Fd())) //nolint:gosec // a file descriptor fits
}

// ParseLevel reads a level's word; an empty one is info.
func ParseLevel(s string) (slog.Level, error) {
	switch strings.ToLower(s) {
	case "debug":
		return slog.LevelDebug, nil
	case "", "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fault.Errorf(fault.Invalid, "log level %q is not known (debug, info, warn, error)", s)
}

// New returns a logger that writes to w. Errors are of kind fault.Invalid.
func New(w io.Writer, o Options) (*slog.Logger, error) {
	level, err := ParseLevel(o.Level)
	if err != nil {
		return nil, err
	}
	var h slog.Handler
	switch {
	case o.Format == "json":
		h = slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})
	case o.Format == "text", (o.Format == "" || o.Format == "auto") && !o.Terminal:
		h = slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})
	case o.Format == "" || o.Format == "auto":
		h = tint.NewTextHandler(w, &tint.Options{Level: level, NoColor: o.NoColor, TimeFormat: time.TimeOnly})
	default:
		return nil, fault.Errorf(fault.Invalid, "log format %q is not known (auto, text, json)", o.Format)
	}
	return slog.New(cleaner{h}), nil
}

// Discard returns a logger that drops everything.
func Discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// Clean makes s safe for a terminal and a line: control and format characters
// and invalid bytes become \u escapes. A written-out \x1b is changed too,
// since the coloured handler would turn it into the real one.
func Clean(s string) string {
	if !dirty(s) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)):
			fmt.Fprintf(&b, `\u00%02x`, s[i])
		case unsafeRune(r):
			q := strconv.QuoteRuneToASCII(r)
			q = q[1 : len(q)-1]
			if strings.HasPrefix(q, `\x`) || q == `\a` || q == `\b` || q == `\f` || q == `\v` {
				q = fmt.Sprintf(`\u%04x`, r)
			}
			b.WriteString(q)
		default:
			b.WriteRune(r)
		}
	}
	return strings.ReplaceAll(b.String(), `\x1b`, `\u001b`)
}

func dirty(s string) bool {
	return !utf8.ValidString(s) || strings.Contains(s, `\x1b`) || strings.ContainsFunc(s, unsafeRune)
}

func unsafeRune(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029'
}

// cleaner is a handler that cleans records for the next one.
type cleaner struct{ next slog.Handler }

// Enabled implements slog.Handler.
func (c cleaner) Enabled(ctx context.Context, l slog.Level) bool { return c.next.Enabled(ctx, l) }

// Handle implements slog.Handler.
func (c cleaner) Handle(ctx context.Context, r slog.Record) error {
	out := slog.NewRecord(r.Time, r.Level, Clean(r.Message), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		out.AddAttrs(cleanAttr(a))
		return true
	})
	return c.next.Handle(ctx, out)
}

// WithAttrs implements slog.Handler.
func (c cleaner) WithAttrs(as []slog.Attr) slog.Handler {
	out := make([]slog.Attr, len(as))
	for i, a := range as {
		out[i] = cleanAttr(a)
	}
	return cleaner{c.next.WithAttrs(out)}
}

// WithGroup implements slog.Handler.
func (c cleaner) WithGroup(name string) slog.Handler { return cleaner{c.next.WithGroup(Clean(name))} }

func cleanAttr(a slog.Attr) slog.Attr {
	key := Clean(a.Key)
	if secret(key) {
		return slog.String(key, "(hidden)")
	}
	v := a.Value.Resolve()
	switch v.Kind() {
	case slog.KindString:
		return slog.String(key, Clean(v.String()))
	case slog.KindGroup:
		group := v.Group()
		out := make([]slog.Attr, len(group))
		for i, g := range group {
			out[i] = cleanAttr(g)
		}
		return slog.Attr{Key: key, Value: slog.GroupValue(out...)}
	case slog.KindAny:
		return slog.String(key, Clean(fmt.Sprint(v.Any()))) // of an error its text, and a panic in that is caught
	}
	return slog.Attr{Key: key, Value: v}
}

// secret reports whether a key names something that no log may hold.
func secret(key string) bool {
	switch strings.ToLower(key) {
	case "password", "token", "secret":
		return true
	}
	return false
}
