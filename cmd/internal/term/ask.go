package term

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	xterm "golang.org/x/term"
)

// Asker asks questions on a terminal and reads lines. Reading goes on in a
// goroutine that ends with the input, since a read from a terminal cannot be
// broken off.
type Asker struct {
	out   io.Writer
	in    io.Reader
	lines chan string
}

// NewAsker asks on out and reads from in.
func NewAsker(in io.Reader, out io.Writer) *Asker { return &Asker{in: in, out: out} }

// Line prints a prompt and returns the next line without its end; io.EOF when
// the input has ended, the cause of ctx when that ended first.
func (a *Asker) Line(ctx context.Context, prompt string) (string, error) {
	a.Forget()
	if _, err := io.WriteString(a.out, prompt); err != nil {
		return "", err
	}
	return a.next(ctx)
}

// Forget drops what was typed on a terminal before a question is shown: it
// cannot be its answer. Other inputs, which nobody types, stay as they are.
func (a *Asker) Forget() {
	f, ok := a.in.(*os.File)
	if !ok || !xterm.IsTerminal(int(f.Fd())) { //nolint:gosec // a file descriptor fits
		return
	}
	flushInput(f)
	for a.lines != nil {
		select {
		case _, open := <-a.lines:
			if !open {
				return
			}
		default:
			return
		}
	}
}

// next waits for a line that is typed.
func (a *Asker) next(ctx context.Context) (string, error) {
	select {
	case l, ok := <-a.Lines():
		if !ok {
			return "", io.EOF
		}
		return l, nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// Lines is what is typed, line by line; closed at the end of the input.
func (a *Asker) Lines() <-chan string {
	if a.lines == nil {
		a.lines = make(chan string)
		go func() {
			defer close(a.lines)
			s := bufio.NewScanner(a.in)
			for s.Scan() {
				a.lines <- strings.TrimSpace(s.Text())
			}
		}()
	}
	return a.lines
}

// Confirm asks a question that needs a plain yes.
func (a *Asker) Confirm(ctx context.Context, question string) (bool, error) {
	l, err := a.Line(ctx, question+" [y/N] ")
	if err == io.EOF {
		return false, nil
	}
	return strings.EqualFold(l, "y") || strings.EqualFold(l, "yes"), err
}

// Type asks for a word to be typed, which shows that the question was read.
func (a *Asker) Type(ctx context.Context, question, word string) (bool, error) {
	l, err := a.Line(ctx, fmt.Sprintf("%s\nType %s to go on: ", question, word))
	if err == io.EOF {
		return false, nil
	}
	return l == word, err
}

// Secret asks for a line that is not shown while it is typed.
func (a *Asker) Secret(ctx context.Context, prompt string) (string, error) {
	f, ok := a.in.(*os.File)
	if !ok || !xterm.IsTerminal(int(f.Fd())) { //nolint:gosec // a file descriptor fits
		return a.Line(ctx, prompt)
	}
	fd := int(f.Fd()) //nolint:gosec // a file descriptor fits
	shown, err := xterm.GetState(fd)
	if err != nil {
		return "", err
	}
	if _, err := io.WriteString(a.out, prompt); err != nil {
		return "", err
	}
	type answer struct {
		line []byte
		err  error
	}
	typed := make(chan answer, 1)
	go func() {
		line, err := xterm.ReadPassword(fd)
		typed <- answer{line, err}
	}()
	select {
	case t := <-typed:
		_, _ = io.WriteString(a.out, "\n") // the line end that was typed does not show
		return string(t.line), t.err
	case <-ctx.Done(): // the read ends with the process
		return "", errors.Join(context.Cause(ctx), xterm.Restore(fd, shown))
	}
}
