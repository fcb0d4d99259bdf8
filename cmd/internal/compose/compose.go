package compose

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/control"
	"github.com/drrun/drrun/runtime/copies"
	"github.com/drrun/drrun/runtime/estate"
	"github.com/drrun/drrun/runtime/store"
	"github.com/drrun/drrun/scripts"
	"github.com/drrun/drrun/transport/quicnet"
)

// Options of a runtime.
type Options struct {
	State    string // folder; made if it is not there
	Embedded bool   // it lives as long as one command
	Drives   bool   // that command drives runs
	Version  string
	Clock    clock.Clock
	Log      *slog.Logger
}

// A runtime notices sooner than agents do that a host is gone: an unplanned
// failover begins with asking hosts that may be.
const (
	keepAlive = time.Second
	silence   = 4 * time.Second
)

// Runtime is a whole runtime that holds a state folder and serves its socket.
type Runtime struct {
	o         Options
	store     *store.Bolt
	agents    *agents
	medium    *quicnet.Medium
	catalogue *estate.Catalogue
	engine    *runtime.Engine
	copies    *copies.Keeper
	drills    *drills
	socket    string

	stop   context.CancelFunc
	served chan error
	copied chan struct{} // closed when no copies are made any more

	hurry     chan struct{} // closed: Close waits for no step any more
	hurryOnce sync.Once
	closed    chan struct{} // closed by Close
}

// Open locks the state folder and serves it; fault.Unreachable says who has it.
// No run is taken up by itself.
func Open(ctx context.Context, o Options) (_ *Runtime, err error) {
	r := &Runtime{o: o, socket: filepath.Join(o.State, control.SocketName), hurry: make(chan struct{}), closed: make(chan struct{})}
	fsys := vfs.OS{}
	if r.store, err = store.OpenBolt(fsys, o.State); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.closeParts())
		}
	}()
	tr, err := openTrust(fsys, o.State, o.Clock, o.Log)
	if err != nil {
		return nil, err
	}
	r.medium = quicnet.New(tr, quicnet.Options{Clock: o.Clock, Log: o.Log, KeepAlive: keepAlive, IdleTimeout: silence, HandshakeTimeout: silence})
	r.agents = newAgents(tr, r.medium, o.Version, o.Log)
	loader := scripts.New(scripts.Options{Log: o.Log, Secrets: func(ctx context.Context, name string) (string, error) {
		e, _, err := r.catalogue.AppliedEstate(ctx)
		if err != nil {
			return "", err
		}
		return openSecret(ctx, e, name)
	}})
	r.copies = copies.NewKeeper(copies.Options{Store: r.store, Caller: r.agents, Hosts: r.joinedHosts, CA: tr.certificate, Clock: o.Clock, Log: o.Log})
	r.catalogue = estate.New(estate.Options{Store: r.store, Loader: loader, Trust: tr, Caller: r.agents, Clock: o.Clock, Log: o.Log,
		Guard: r.copies.Check, Copies: r.copies.Behind})
	r.agents.catalogue = r.catalogue
	r.engine = runtime.New(runtime.Options{Store: r.store, Caller: r.agents, Catalogue: r.catalogue, Scripts: loader, Clock: o.Clock, Log: o.Log, Version: o.Version, Controller: !o.Embedded, Guard: r.copies.Check})
	info := control.Info{Version: o.Version, PID: os.Getpid(), State: o.State, Embedded: o.Embedded, Drives: o.Drives || !o.Embedded}
	served := &engine{r.engine, r.catalogue}
	r.drills = newDrills(r.store, r.catalogue, served, o.Clock, o.Log)
	server := control.NewServer(served, r.catalogue, info, o.Log)
	server.ServeDrills(r.drills)
	server.ServeState(r.store.Backup)
	l, err := control.Listen(r.socket)
	if err != nil {
		return nil, err
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	r.stop, r.served, r.copied = stop, make(chan error, 1), make(chan struct{})
	go func() { r.served <- server.Serve(serving, l, r.socket) }()
	go func() {
		defer close(r.copied)
		r.copies.Run(serving)
	}()
	return r, nil
}

// joinedHosts names the hosts of the estate that have joined.
func (r *Runtime) joinedHosts(ctx context.Context) ([]string, error) {
	return joinedHosts(ctx, r.catalogue)
}

func joinedHosts(ctx context.Context, c *estate.Catalogue) ([]string, error) {
	e, _, err := c.AppliedEstate(ctx)
	if fault.Is(err, fault.Refused) {
		return nil, nil // nothing is applied
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, h := range e.Hosts() {
		rec, err := c.Host(ctx, h.Name)
		if err != nil {
			return nil, err
		}
		if !rec.Joined.IsZero() {
			out = append(out, h.Name)
		}
	}
	return out, nil
}

// Socket is the path of the socket that it serves.
func (r *Runtime) Socket() string { return r.socket }

// ResumeUnfinished takes up the runs that were under way when the last runtime
// ended. A run that cannot be taken up stays stopped and is logged: it must not
// keep a controller from starting.
func (r *Runtime) ResumeUnfinished(ctx context.Context, by string) error {
	ids, err := r.engine.Unfinished(ctx)
	if err != nil {
		return fmt.Errorf("cannot look for unfinished runs: %w", err)
	}
	for _, id := range ids {
		if err := r.engine.Resume(ctx, id, runtime.ResumeOptions{By: by}); err != nil {
			r.o.Log.Error("cannot go on with a run", "run", id, "err", err)
			continue
		}
		r.o.Log.Info("going on with a run", "run", id)
	}
	return nil
}

// Drill starts the drills of the applied plans when they are due, until ctx
// ends.
func (r *Runtime) Drill(ctx context.Context) { r.drills.run(ctx) }

// Contact brings agents up to date that missed something, renews their
// certificates in time, and compares clocks; what still fails is logged and tried again the next
// time.
func (r *Runtime) Contact(ctx context.Context) {
	if _, err := r.catalogue.Push(ctx); err != nil {
		r.o.Log.Error("cannot bring the agents up to date", "err", err)
	}
	if err := r.catalogue.MeasureClocks(ctx); err != nil {
		r.o.Log.Error("cannot compare the clocks of hosts", "err", err)
	}
	if err := r.agents.renewAll(ctx); err != nil {
		r.o.Log.Error("cannot look after the certificates of hosts", "err", err)
	}
}

// Hurry lets a Close that waits for steps in flight give up on the next value
// of now.
func (r *Runtime) Hurry(now <-chan os.Signal) {
	go func() {
		select {
		case <-now:
			r.Leave()
		case <-r.closed:
		}
	}()
}

// Leave lets Close wait for nothing. Idempotent.
func (r *Runtime) Leave() { r.hurryOnce.Do(func() { close(r.hurry) }) }

// stepPatience is how long Close waits for steps in flight.
const stepPatience = 30 * time.Minute

// Close pauses the runs, waits for the steps in flight (see Leave), and gives
// the state folder back. Every run can be resumed.
func (r *Runtime) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), stepPatience)
	defer cancel()
	go func() {
		select {
		case <-r.hurry:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := r.engine.Close(ctx)
	close(r.closed)
	r.stop()
	served := <-r.served
	<-r.copied
	last, end := context.WithTimeout(context.Background(), lastCopies)
	defer end()
	r.copies.Flush(last)
	return errors.Join(err, served, r.closeParts())
}

// lastCopies is how long Close takes to copy what has changed to agents.
const lastCopies = 3 * time.Second

func (r *Runtime) closeParts() error {
	var errs []error
	if r.agents != nil {
		errs = append(errs, r.agents.close())
	}
	if r.medium != nil {
		errs = append(errs, r.medium.Close())
	}
	return errors.Join(append(errs, r.store.Close())...)
}
