package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
)

// The local socket: HTTP and JSON for the commands of drrun-agent on this
// host. Its file mode is the right to use it.
const (
	socketName  = "agent.sock"
	maxLocal    = 64 << 10 // bytes of a request
	maxAnswer   = 16 << 20 // bytes of an answer
	localStop   = 2 * time.Second
	maxAsk      = 2 * time.Minute // a permit asks all peers, and starts
	pathStatus  = "/v1/status"
	pathPermit  = "/v1/permit"
	pathClock   = "/v1/confirm-clock"
	headTimeout = 5 * time.Second
)

// permitRequest is the body of a permit.
type permitRequest struct {
	Machine string `json:"machine"`
	By      string `json:"by"`
	// WithoutLease: it may run although its lease is not renewed.
	WithoutLease bool `json:"without_lease,omitempty"`
}

// clockRequest is the body of a confirmed clock, clockAnswer its result.
type clockRequest struct {
	By string `json:"by"`
}

type clockAnswer struct {
	Machines []string `json:"machines"`
}

// listenLocal serves the socket until the returned function is called.
func (a *Agent) listenLocal() (stop func() error, err error) {
	name := filepath.Join(a.o.State, socketName)
	// The state folder is locked, so a socket that is there is a dead one's.
	if err := a.o.FS.Remove(name); err != nil {
		return nil, fmt.Errorf("cannot remove old socket: %w", err)
	}
	l, err := net.Listen("unix", name)
	if err != nil {
		return nil, fault.Errorf(fault.Failed, "cannot listen at %s: %w", name, err).
			WithHint("the path of a socket has at most 107 bytes; name a shorter state folder")
	}
	if err := os.Chmod(name, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot protect %s: %w", name, err), l.Close())
	}
	var asked sync.WaitGroup
	mux := http.NewServeMux()
	handle := func(pattern string, h func(*http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			defer asked.Done()
			out, err := h(r)
			reply(w, out, err)
		})
	}
	handle("GET "+pathStatus, func(r *http.Request) (any, error) {
		return a.Status(r.Context(), command.StatusRequest{Machine: r.URL.Query().Get("machine")})
	})
	handle("POST "+pathPermit, func(r *http.Request) (any, error) {
		var in permitRequest
		if err := json.NewDecoder(io.LimitReader(r.Body, maxLocal)).Decode(&in); err != nil {
			return nil, fault.Errorf(fault.Invalid, "cannot read request: %w", err)
		}
		return a.permit(r.Context(), in.Machine, in.By, in.WithoutLease)
	})
	handle("POST "+pathClock, func(r *http.Request) (any, error) {
		var in clockRequest
		if err := json.NewDecoder(io.LimitReader(r.Body, maxLocal)).Decode(&in); err != nil {
			return nil, fault.Errorf(fault.Invalid, "cannot read request: %w", err)
		}
		machines, err := a.ConfirmClock(in.By)
		return clockAnswer{machines}, err
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: headTimeout, BaseContext: func(net.Listener) context.Context { return a.life }}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), localStop)
		defer cancel()
		err := srv.Shutdown(ctx)
		if err != nil {
			err = srv.Close()
		}
		a.end(errEnds) // of what still is asked
		asked.Wait()
		if serr := <-done; !errors.Is(serr, http.ErrServerClosed) {
			err = errors.Join(err, serr)
		}
		return err
	}, nil
}

func reply(w http.ResponseWriter, out any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(http.StatusConflict)
		out = fault.Wrap(fault.Internal, err)
	}
	_ = json.NewEncoder(w).Encode(out) // a caller that went away does not matter
}

// Local talks to the agent that runs on this host, by its state folder.
type Local struct {
	name string
	http *http.Client
}

// NewLocal returns a client of the agent with that state folder.
func NewLocal(state string) *Local {
	name := filepath.Join(state, socketName)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", name)
	}
	return &Local{name: name, http: &http.Client{Timeout: maxAsk, Transport: &http.Transport{DialContext: dial}}}
}

// Status asks for the agent's report. fault.Unreachable: no agent runs.
func (l *Local) Status(ctx context.Context, machine string) (command.AgentStatus, error) {
	var st command.AgentStatus
	return st, l.ask(ctx, http.MethodGet, pathStatus+"?machine="+url.QueryEscape(machine), nil, &st)
}

// Permit lets a machine start without its peer; by is who takes the
// responsibility.
func (l *Local) Permit(ctx context.Context, machine, by string) (command.StartResult, error) {
	var res command.StartResult
	return res, l.ask(ctx, http.MethodPost, pathPermit, permitRequest{Machine: machine, By: by}, &res)
}

// PermitWithoutLease is Permit for a machine whose lease is not renewed; see
// Agent.PermitWithoutLease.
func (l *Local) PermitWithoutLease(ctx context.Context, machine, by string) (command.StartResult, error) {
	var res command.StartResult
	return res, l.ask(ctx, http.MethodPost, pathPermit, permitRequest{Machine: machine, By: by, WithoutLease: true}, &res)
}

// ConfirmClock says that the host's wall clock is right; by is who says so. It
// returns the machines whose points are thinned again.
func (l *Local) ConfirmClock(ctx context.Context, by string) ([]string, error) {
	var res clockAnswer
	return res.Machines, l.ask(ctx, http.MethodPost, pathClock, clockRequest{By: by}, &res)
}

func (l *Local) ask(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := l.http.Do(req)
	if err != nil {
		return fault.Errorf(fault.Unreachable, "no drrun-agent answers at %s: %w", l.name, errors.Unwrap(err)).
			WithHint("start it with drrun-agent run, or name its state folder with --state")
	}
	defer res.Body.Close()
	dec := json.NewDecoder(io.LimitReader(res.Body, maxAnswer))
	if res.StatusCode != http.StatusOK {
		var fe fault.Error
		if err := dec.Decode(&fe); err != nil || fe.Kind == 0 {
			return fault.Errorf(fault.Internal, "the agent answers %s", res.Status)
		}
		return &fe
	}
	return dec.Decode(out)
}
