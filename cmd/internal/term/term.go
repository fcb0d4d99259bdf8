// Package term is what the command line needs of a terminal: a block of lines
// that is redrawn in place, bars with rate and time left, questions, and the
// escaping of text that came from elsewhere. Plain writers work too: what would
// move the cursor is then left out.
//
// It knows no runs and no commands. A Painter and an Asker belong to one
// goroutine each.
package term

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	xterm "golang.org/x/term"

	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/internal/quantity"
)

// Escape makes text from outside safe to print: control characters and bytes
// that are no text become visible escapes. Line breaks stay only if lines is
// true.
func Escape(s string, lines bool) string {
	if !lines {
		return logkit.Clean(s)
	}
	all := strings.Split(s, "\n")
	for i := range all {
		all[i] = logkit.Clean(all[i])
	}
	return strings.Join(all, "\n")
}

// Terminal is a writer that may be a terminal.
type Terminal struct {
	io.Writer
	// Interactive says that lines may be redrawn.
	Interactive bool
	// Width in columns; nil: 80.
	Width func() int
	// Color says that colours are wanted.
	Color bool
}

// Of describes an open file; noColor switches colours off.
func Of(f *os.File, noColor bool) Terminal {
	fd := int(f.Fd()) //nolint:gosec // a file descriptor fits
	t := Terminal{Writer: f, Interactive: xterm.IsTerminal(fd)}
	t.Color = t.Interactive && !noColor
	t.Width = func() int {
		w, _, err := xterm.GetSize(fd)
		if err != nil || w < 20 {
			return 80
		}
		return w
	}
	return t
}

// Columns is how many columns a line may have: those of the terminal, else 80.
func (t Terminal) Columns() int {
	if t.Width == nil {
		return 80
	}
	return t.Width()
}

// The colours that are used: few, and with the terminal's own palette.
const (
	Red    = "31"
	Green  = "32"
	Yellow = "33"
	Cyan   = "36"
	Bold   = "1"
	Dim    = "2"
)

// Paint colours text if the terminal wants it.
func (t Terminal) Paint(color, s string) string {
	if !t.Color || s == "" || color == "" {
		return s
	}
	return "\x1b[" + color + "m" + s + "\x1b[0m"
}

// maxRate is the least time between two drawings.
const maxRate = 100 * time.Millisecond

// Painter keeps a block of lines at the bottom of a terminal. On a plain
// writer Draw does nothing and Print prints.
type Painter struct {
	out   Terminal
	drawn int // lines of the block on the screen
	last  time.Time
	block []string
}

// NewPainter makes a painter; Close it so that the cursor is seen again.
func NewPainter(t Terminal) *Painter {
	p := &Painter{out: t}
	if t.Interactive {
		p.write("\x1b[?25l") // hide the cursor
	}
	return p
}

// write sends to the terminal; one that has gone away is noticed by the
// command's own output, not here.
func (p *Painter) write(s string) { _, _ = io.WriteString(p.out, s) }

// Due reports whether a drawing at that time is not too early.
func (p *Painter) Due(now time.Time) bool { return now.Sub(p.last) >= maxRate }

// Draw replaces the block. Lines are cut at the terminal's width.
func (p *Painter) Draw(now time.Time, lines []string) {
	if !p.out.Interactive {
		return
	}
	p.last = now
	p.block = lines
	p.write(p.erase() + p.blockText())
}

// Replace changes what Draw has drawn, from the next Print on.
func (p *Painter) Replace(lines []string) {
	if p.drawn > 0 {
		p.block = lines
	}
}

// Print puts lines above the block, for good.
func (p *Painter) Print(lines ...string) {
	text := strings.Join(lines, "\n") + "\n"
	if !p.out.Interactive {
		p.write(text)
		return
	}
	p.write(p.erase() + text + p.blockText())
}

// Clear takes the block off the screen; the next Draw brings it back.
func (p *Painter) Clear() {
	if p.out.Interactive {
		p.write(p.erase())
		p.block = nil
	}
}

// Close leaves the screen as it is and shows the cursor again. Idempotent.
func (p *Painter) Close() {
	if p.out.Interactive {
		p.write("\x1b[?25h")
	}
	p.drawn = 0
}

func (p *Painter) erase() string {
	if p.drawn == 0 {
		return "\r"
	}
	s := fmt.Sprintf("\r\x1b[%dA\x1b[J", p.drawn)
	p.drawn = 0
	return s
}

func (p *Painter) blockText() string {
	var b strings.Builder
	w := p.out.Columns()
	for _, l := range p.block {
		b.WriteString(Cut(l, w-1))
		b.WriteByte('\n')
	}
	p.drawn = len(p.block)
	return b.String()
}

// Cut shortens a line to a number of columns; colour sequences take none.
func Cut(s string, columns int) string {
	n, esc := 0, false
	for i, r := range s {
		switch {
		case r == '\x1b':
			esc = true
		case esc:
			esc = r != 'm'
		case n == columns:
			return s[:i] + resetIfColored(s[:i])
		default:
			n++
		}
	}
	return s
}

func resetIfColored(s string) string {
	if strings.Contains(s, "\x1b[") {
		return "\x1b[0m"
	}
	return ""
}

// Pad fills a text up to a number of columns.
func Pad(s string, columns int) string {
	if n := columns - utf8.RuneCountInString(s); n > 0 {
		return s + strings.Repeat(" ", n)
	}
	return s
}

// Bar draws done of total as a bar of a number of columns.
func Bar(done, total int64, columns int) string {
	full := 0
	if total > 0 {
		full = int(float64(columns) * min(1, float64(done)/float64(total)))
	}
	return "[" + strings.Repeat("#", full) + strings.Repeat("-", columns-full) + "]"
}

// Rate shows bytes done of total, bytes per second and the time left:
// "12.0 MiB / 64.0 MiB  25.0 MiB/s  2s left".
func Rate(done, total int64, perSecond float64) string {
	s := quantity.FormatSize(done)
	if total > 0 {
		s += " / " + quantity.FormatSize(total)
	}
	if perSecond >= 1 {
		s += "  " + quantity.FormatSize(int64(perSecond)) + "/s"
		if total > done {
			left := time.Duration(float64(total-done) / perSecond * float64(time.Second))
			s += "  " + quantity.FormatDuration(left.Round(time.Second)) + " left"
		}
	}
	return s
}
