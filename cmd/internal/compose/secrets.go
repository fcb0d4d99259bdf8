package compose

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/plans"
)

// Limits of a secret.
const (
	maxSecret    = 64 << 10         // bytes
	secretWithin = 30 * time.Second // of the program that prints it
)

// openSecret reads a secret of an estate where this process runs: from its
// file, its environment variable or the program that prints it. One newline at
// the end is not part of it. No error holds its text.
func openSecret(ctx context.Context, e *plans.Estate, name string) (string, error) {
	for _, s := range e.Secrets {
		if s.Name != name {
			continue
		}
		text, from, err := readSecret(ctx, s)
		if err == nil && len(text) > maxSecret {
			err = fmt.Errorf("it is longer than %d bytes", maxSecret)
		}
		if err == nil {
			text = strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
			if text == "" {
				err = errors.New("it is empty")
			}
		}
		if err != nil {
			return "", fault.Errorf(fault.Failed, "cannot open secret %q from %s: %w", name, from, err).
				WithHint("the runtime that does the run opens it: look on this host, as its user")
		}
		return text, nil
	}
	return "", fault.Errorf(fault.NotFound, "cannot open secret %q: the applied estate does not define it", name).
		WithHint("add it to the estate and apply it")
}

func readSecret(ctx context.Context, s plans.Secret) (text, from string, err error) {
	switch {
	case s.File != "":
		text, err = readFile(s.File)
		return text, "the file " + s.File, err
	case s.Env != "":
		text, ok := os.LookupEnv(s.Env)
		if !ok {
			err = errors.New("it is not set")
		}
		return text, "the environment variable " + s.Env, err
	case len(s.Exec) > 0:
		text, err = printed(ctx, s.Exec)
		return text, "the program " + s.Exec[0], err
	}
	return "", "nowhere", errors.New("the estate names no source")
}

func readFile(name string) (string, error) {
	info, err := os.Stat(name)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", errors.New("it is no regular file")
	}
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read
	raw, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	return string(raw), err
}

func printed(ctx context.Context, argv []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, secretWithin)
	defer cancel()
	out := &limited{}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...) //nolint:gosec // the estate names it
	cmd.Stdout, cmd.WaitDelay = out, time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return "", err
	}
	return out.text.String(), nil
}

// limited keeps a little more than a secret may be.
type limited struct{ text bytes.Buffer }

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	if room := maxSecret + 1 - l.text.Len(); room > 0 {
		l.text.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
