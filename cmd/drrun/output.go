package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/drrun/drrun/cmd/internal/term"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/quantity"
)

// printJSON writes a result as one indented JSON value.
func (c *cli) printJSON(v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fault.Errorf(fault.Internal, "cannot write the result: %w", err)
	}
	return c.printf("%s", b.String())
}

// printLine writes one JSON object on a line of its own.
func (c *cli) printLine(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fault.Errorf(fault.Internal, "cannot write an event: %w", err)
	}
	return c.printf("%s\n", data)
}

// table collects rows and lines their columns up.
type table struct {
	b bytes.Buffer
	w *tabwriter.Writer
}

func newTable(head ...string) *table {
	t := &table{}
	t.w = tabwriter.NewWriter(&t.b, 0, 8, 2, ' ', 0)
	if len(head) > 0 {
		t.row(head...)
	}
	return t
}

// row adds a row; what cells hold may come from anywhere.
func (t *table) row(cells ...string) {
	for i, s := range cells {
		cells[i] = strings.ReplaceAll(term.Escape(s, false), "\t", " ")
	}
	_, _ = t.w.Write([]byte(strings.Join(cells, "\t") + "\n")) // into memory
}

// String returns the rows, without blanks at the ends of lines.
func (t *table) String() string {
	_ = t.w.Flush() // into memory
	var out strings.Builder
	for line := range strings.Lines(t.b.String()) {
		out.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return out.String()
}

// seconds shows a number of seconds for a person.
func seconds(s float64) string {
	return quantity.FormatDuration(time.Duration(s * float64(time.Second)))
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// shellWord writes a word so that a shell takes it as one.
func shellWord(s string) string {
	s = term.Escape(s, false)
	if strings.ContainsAny(s, " '\"$`\\|&;<>()*?[]#~!") {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
