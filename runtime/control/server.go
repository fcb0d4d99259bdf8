package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/runtime/estate"
	"github.com/drrun/drrun/runtime/report"
)

// Server answers the calls of command lines.
type Server struct {
	engine  Engine
	estate  *estate.Catalogue
	info    Info
	log     *slog.Logger
	mux     *http.ServeMux
	handler http.Handler
	backup  func(io.Writer) error
	drills  Drills
}

// NewServer makes a server; nothing listens yet.
func NewServer(engine Engine, catalogue *estate.Catalogue, info Info, log *slog.Logger) *Server {
	mux := http.NewServeMux()
	s := &Server{engine: engine, estate: catalogue, info: info, log: log, mux: mux}
	s.routeEstate(mux)
	s.routeRuns(mux)
	mux.HandleFunc("GET /v1/runs/{run}/events", s.events)
	mux.HandleFunc("GET /v1/state", s.state)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		reply(w, failure{fault.Errorf(fault.Invalid, "this runtime (drrun %s) knows no %s %s", info.Version, r.Method, r.URL.Path).
			WithHint("use the drrun of the same version as the controller")})
	})
	s.handler = s.guard(mux)
	return s
}

func (s *Server) routeEstate(mux *http.ServeMux) {
	handle(mux, verbInfo, func(context.Context, Empty) (Info, error) { return s.info, nil })
	handle(mux, verbEstate, func(ctx context.Context, _ Empty) (EstateResult, error) {
		r, err := s.estate.Current(ctx)
		if err != nil {
			return EstateResult{}, err
		}
		all, err := s.estate.Plans(ctx)
		out := EstateResult{Revision: r, Plans: []string{}}
		for _, p := range all {
			out.Plans = append(out.Plans, p.Name)
		}
		return out, err
	})
	handle(mux, verbApply, func(ctx context.Context, r estate.ApplyRequest) (estate.ApplyResult, error) {
		return deref(s.estate.Apply(ctx, r))
	})
	handle(mux, verbStatus, s.status)
	handle(mux, verbPoints, func(ctx context.Context, r MachineRequest) (PointsResult, error) {
		hosts, err := s.estate.Points(ctx, r.Machine)
		return PointsResult{Machine: r.Machine, Hosts: hosts}, err
	})
	handle(mux, verbVerify, func(ctx context.Context, r VerifyRequest) (VerifyResult, error) {
		hosts, err := s.estate.Verify(ctx, r.Machine, r.Point)
		return VerifyResult{Hosts: hosts}, err
	})
	handle(mux, verbHold, func(ctx context.Context, r HoldRequest) (HoldResult, error) {
		hosts, err := s.estate.Hold(ctx, r)
		return HoldResult{Hosts: hosts}, err
	})
	handle(mux, verbUnprotect, func(ctx context.Context, r UnprotectRequest) (UnprotectResult, error) {
		if r.RunsNowhere {
			return s.estate.Forget(ctx, r.Machine)
		}
		return s.estate.Unprotect(ctx, r.Machine, r.DeleteReplica)
	})
	handle(mux, verbToken, func(ctx context.Context, r TokenRequest) (estate.Token, error) {
		return s.estate.NewToken(ctx, r.Host)
	})
}

func (s *Server) routeRuns(mux *http.ServeMux) {
	handle(mux, verbStart, s.engine.Start)
	handle(mux, verbExplain, s.engine.Explain)
	handle(mux, verbReverse, s.engine.Reverse)
	handle(mux, verbExplainRv, s.engine.ExplainReverse)
	handle(mux, verbRuns, func(ctx context.Context, _ Empty) (RunsResult, error) {
		runs, err := s.engine.Runs(ctx)
		return RunsResult{Runs: runs}, err
	})
	handle(mux, verbRun, func(ctx context.Context, r RunRequest) (report.Run, error) { return s.engine.Run(ctx, r.Run) })
	handle(mux, verbAnswer, s.engine.Answer)
	handle(mux, verbPause, s.engine.Pause)
	handle(mux, verbResume, s.engine.Resume)
	handle(mux, verbCancel, s.engine.Cancel)
	handle(mux, verbCommit, s.engine.Commit)
	handle(mux, verbCleanup, s.engine.Cleanup)
	handle(mux, verbWritten, s.engine.Written)
	handle(mux, verbRollback, s.engine.Rollback)
	handle(mux, verbPoint, s.engine.ChangePoint)
}

func deref[T any](v *T, err error) (T, error) {
	if v == nil {
		var zero T
		return zero, err
	}
	return *v, err
}

// guard turns a panic of a handler into an internal error of that one call.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == http.ErrAbortHandler { //nolint:errorlint // the value net/http panics with
				panic(p) // the caller is to see that the answer is not whole
			}
			if p != nil {
				s.log.Error("a call ended in a panic", "path", r.URL.Path, "panic", fmt.Sprint(p))
				reply(w, failure{fault.Errorf(fault.Internal, "the runtime failed in %s: %v", r.URL.Path, p)})
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// events streams a run's events, one JSON object a line; an error is the last
// line.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	var after uint64
	if a := r.URL.Query().Get("after"); a != "" {
		var err error
		if after, err = strconv.ParseUint(a, 10, 64); err != nil {
			reply(w, failure{fault.Errorf(fault.Invalid, "after=%q is not a sequence number", a)})
			return
		}
	}
	run := r.PathValue("run")
	if _, err := s.engine.Run(r.Context(), run); err != nil {
		reply(w, failure{toFault(err)})
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	out := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	_ = out.Flush() // an error shows at the next write
	for ev, err := range s.engine.Events(r.Context(), run, after) {
		if err != nil {
			if r.Context().Err() == nil {
				_ = enc.Encode(failure{toFault(err)}) // the last line; nobody else to tell
			}
			return
		}
		if enc.Encode(ev) != nil || out.Flush() != nil {
			return // the watcher has gone
		}
	}
}

// Serve answers calls until ctx ends, then waits a moment for those under way
// and removes the socket.
func (s *Server) Serve(ctx context.Context, l net.Listener, path string) error {
	srv := &http.Server{Handler: s.handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: idle, MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelWarn)}
	calls, endCalls := context.WithCancel(context.WithoutCancel(ctx))
	defer endCalls()
	srv.BaseContext = func(net.Listener) context.Context { return calls }
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("cannot serve %s: %w", path, err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	late := time.AfterFunc(shutdownGrace/4, endCalls) // watchers hold their stream open
	defer late.Stop()
	err := srv.Shutdown(grace)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	<-done
	if rerr := os.Remove(path); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	return err
}

// idle is how long a connection without a call is kept.
const idle = 2 * time.Minute

// shutdownGrace is how long calls under way may go on when the runtime ends.
const shutdownGrace = 2 * time.Second
