package control_test

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/runtime/control"
	"github.com/drrun/drrun/runtime/estate"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/store"
)

// engine knows one run, "r1"; a call that a test does not expect panics, which
// the server has to survive.
type engine struct {
	control.Engine
	started control.StartRequest
	events  []report.Event
	end     error
}

func (e *engine) Run(_ context.Context, run string) (report.Run, error) {
	if run != "r1" {
		return report.Run{}, fault.Errorf(fault.NotFound, "no run %q", run).WithHint("drrun runs")
	}
	return report.Run{ID: run, Status: report.RunWaiting, ExitCode: fault.ExitWaiting}, nil
}

func (e *engine) Start(_ context.Context, r control.StartRequest) (report.Run, error) {
	e.started = r
	return report.Run{ID: "r1"}, nil
}

func (e *engine) Events(_ context.Context, _ string, after uint64) iter.Seq2[report.Event, error] {
	return func(yield func(report.Event, error) bool) {
		for _, ev := range e.events {
			if ev.Seq > after && !yield(ev, nil) {
				return
			}
		}
		if e.end != nil {
			yield(report.Event{}, e.end)
		}
	}
}

func serve(t *testing.T, e control.Engine, path string) *control.Client {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	cat := estate.New(estate.Options{Store: store.NewMemory(), Clock: clock.Real{}, Log: log})
	l, err := control.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	s := control.NewServer(e, cat, control.Info{Version: "1.2.3", PID: 7}, log)
	go func() { done <- s.Serve(ctx, l, path) }()
	c := control.NewClient(path, nil)
	t.Cleanup(func() {
		c.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is left behind: %v", err)
		}
	})
	return c
}

func TestFaultsCrossTheSocket(t *testing.T) {
	t.Parallel()
	c := serve(t, &engine{}, filepath.Join(t.TempDir(), control.SocketName))
	_, err := c.Run(t.Context(), "r9")
	if !fault.Is(err, fault.NotFound) || err.Error() != `no run "r9"` || fault.Hint(err) != "drrun runs" {
		t.Errorf("err = %v (%v, hint %q)", err, fault.KindOf(err), fault.Hint(err))
	}
	if _, err := c.Status(t.Context(), ""); !fault.Is(err, fault.Refused) {
		t.Errorf("status without an estate: %v", err)
	}
	r, err := c.Run(t.Context(), "r1")
	if err != nil || r.ExitCode != fault.ExitWaiting {
		t.Errorf("run r1: %+v, %v", r, err)
	}
}

func TestPanicIsOneCallsInternalError(t *testing.T) {
	t.Parallel()
	c := serve(t, &engine{}, filepath.Join(t.TempDir(), control.SocketName))
	if _, err := c.Runs(t.Context()); !fault.Is(err, fault.Internal) {
		t.Errorf("a call that panics: %v", err)
	}
	if info, err := c.Info(t.Context()); err != nil || info.Version != "1.2.3" {
		t.Errorf("the call after it: %+v, %v", info, err)
	}
}

func TestFieldsThatAreNotKnownAreRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), control.SocketName)
	serve(t, &engine{}, path)
	raw := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	for url, body := range map[string]string{
		"http://x/v1/start":  `{"type":"test","no_production":true}`,
		"http://x/v1/nosuch": `{}`,
		"http://x/v1/run":    `{`,
	} {
		resp, err := raw.Post(url, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("POST %s %s: %s, want 400", url, body, resp.Status)
		}
	}
	raw.CloseIdleConnections()
}

func TestEventsStreamToTheirEnd(t *testing.T) {
	t.Parallel()
	e := &engine{events: []report.Event{{Run: "r1", Seq: 1, Kind: report.EventNote}, {Run: "r1", Seq: 2, Kind: report.EventEnd}},
		end: fault.Errorf(fault.Corrupt, "the journal is damaged")}
	c := serve(t, e, filepath.Join(t.TempDir(), control.SocketName))
	var seqs []uint64
	var last error
	for ev, err := range c.Events(t.Context(), "r1", 1) {
		if err != nil {
			last = err
			break
		}
		seqs = append(seqs, ev.Seq)
	}
	if len(seqs) != 1 || seqs[0] != 2 || !fault.Is(last, fault.Corrupt) {
		t.Errorf("events after 1: %v, %v", seqs, last)
	}
	for _, err := range c.Events(t.Context(), "r9", 0) {
		if !fault.Is(err, fault.NotFound) {
			t.Errorf("events of a run that is not there: %v", err)
		}
	}
}

func TestLongPathsAndOldSockets(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), strings.Repeat("long-name/", 12))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, control.SocketName)
	if err := os.WriteFile(path, nil, 0o600); err != nil { // what a killed runtime leaves
		t.Fatal(err)
	}
	c := serve(t, &engine{}, path)
	if _, err := c.Info(t.Context()); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode of the socket: %v, %v", fi.Mode(), err)
	}
}

func TestNobodyServes(t *testing.T) {
	t.Parallel()
	_, err := control.NewClient(filepath.Join(t.TempDir(), "none.sock"), nil).Info(t.Context())
	if !fault.Is(err, fault.Unreachable) || !strings.Contains(err.Error(), "no drrun runtime serves") {
		t.Errorf("err = %v (%v)", err, fault.KindOf(err))
	}
}

func TestClientGoesOnWithTheNextRuntime(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), control.SocketName)
	asked := 0
	c := control.NewClient(path, func(context.Context) error {
		asked++
		serve(t, &engine{}, path)
		return nil
	})
	t.Cleanup(c.Close)
	if _, err := c.Info(t.Context()); err != nil || asked != 1 {
		t.Errorf("after %d times nobody: %v", asked, err)
	}
}
