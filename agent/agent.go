package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drrun/drrun/agent/client"
	"github.com/drrun/drrun/agent/hrl"
	"github.com/drrun/drrun/agent/provider"
	execprov "github.com/drrun/drrun/agent/provider/exec"
	"github.com/drrun/drrun/agent/tracker"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/rpc"
)

// Program is the agent's name in hellos and help.
const Program = "drrun-agent"

// Bounds of the machines that replicate at a time.
const (
	maxScanning = 2
	maxSeeding  = 1
)

// Options are what an agent works with. FS, State, Medium and Self are needed.
type Options struct {
	FS     vfs.FS
	State  string // folder of its state, absolute; made when missing
	Store  string // folder of replicas; empty: as the assignment says
	Medium transport.Medium
	Listen string // address to listen at, host:port
	// Self returns the names this agent has; false while it has not joined.
	Self    func() (transport.Peer, bool)
	Clock   clock.Clock
	Log     *slog.Logger
	Version string
	Env     []string // environment of the programs it runs
	// Boot is the boot id of the host; empty: read from the kernel.
	Boot string
	// Provider makes the provider of a machine; dir is a folder of its own.
	// nil: the exec provider.
	Provider func(a recovery.Assignment, dir string) (provider.Provider, error)
	// Programs runs what a runtime has run on the host, and the programs of
	// checks; nil: as processes of the host.
	Programs func(ctx context.Context, args []string, env map[string]string) (command.ExecResult, error)
	// Embedded says that the program that holds the agent has the host for it:
	// no local socket is made, and the processes of this machine are not looked
	// at (simulations).
	Embedded bool
	// Guard makes sure that a Guard of the state folder watches in a process of
	// its own; it is called before each renewal of a lease. nil: there is none
	// (simulations, where a process that is killed takes its machines with it).
	Guard func(ctx context.Context) error
}

// Agent is a running agent.
type Agent struct {
	o         Options
	log       *slog.Logger
	unlock    func() error
	tracker   tracker.Tracker
	ops       *opStore
	catalogue *catalogue
	// Slots for machines that replicate at a time: first copies have one of
	// their own, so that protected machines do not wait for them.
	scan, seed  lock
	started     time.Time
	startedMono time.Duration // the same, on the monotonic clock
	instance    string        // random at each start
	assigning   lock          // one new assignment at a time
	clocks      clocks        // of others

	ready chan struct{} // closed when it listens
	addr  net.Addr

	life context.Context // of the loops and of operations; ends with Close
	end  context.CancelCauseFunc
	work sync.WaitGroup

	mu        sync.Mutex
	peers     *client.Client    // made when the agent has joined
	renews    *client.Client    // sessions for renewals of leases alone
	instances map[string]string // of other agents, as they last said
	machines  map[string]*machine
	running   bool // the loops of machines have been started
}

var errEnds = fault.Errorf(fault.Interrupted, "the agent is shutting down")

// Open takes the state folder and loads what the agent knows: machines it had
// frozen are thawed and those that still run are adopted before it returns.
// fault.Unreachable: another agent has the folder.
func Open(ctx context.Context, o Options) (*Agent, error) {
	if o.Clock == nil {
		o.Clock = clock.Real{}
	}
	if o.Log == nil {
		o.Log = logkit.Discard()
	}
	if o.Provider == nil {
		o.Provider = execProvider(o)
	}
	if err := o.FS.MkdirAll(filepath.Join(o.State, "machines"), 0o700); err != nil {
		return nil, fault.Errorf(fault.Failed, "cannot make state folder %s: %w", o.State, err).
			WithHint("name another folder with --state or DRRUN_AGENT_STATE")
	}
	unlock, err := o.FS.Lock(filepath.Join(o.State, "lock"))
	switch {
	case errors.Is(err, vfs.ErrLocked):
		return nil, fault.Errorf(fault.Unreachable, "state folder %s is in use by another drrun-agent: %w", o.State, err).
			WithHint("end that one, or name another folder with --state")
	case err != nil:
		return nil, fault.Errorf(fault.Failed, "cannot lock %s: %w", o.State, err)
	}
	a := &Agent{
		o: o, log: o.Log, unlock: unlock, tracker: tracker.NewScan(o.FS, 0),
		scan: make(lock, maxScanning), seed: make(lock, maxSeeding), started: o.Clock.Now(), startedMono: clock.Mono(o.Clock), instance: ident.NewID().String(), instances: map[string]string{},
		ready: make(chan struct{}), assigning: newLock(), machines: map[string]*machine{},
	}
	a.life, a.end = context.WithCancelCause(context.Background())
	a.ops = a.newOps(filepath.Join(o.State, "ops"))
	a.catalogue = newCatalogue(o.FS, o.State)
	if err := a.load(ctx); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// newOps is a store of operations that Close waits for.
func (a *Agent) newOps(dir string) *opStore {
	return newOpStore(a.o.FS, dir, a.o.Clock.Now, func(f func(context.Context)) {
		a.work.Go(func() { f(a.life) })
	})
}

func (a *Agent) info() rpc.Info {
	return rpc.Info{Program: Program, Version: a.o.Version, Codecs: hrl.Codecs()}
}

// load opens every machine of the state folder. First of all those that an
// earlier agent left held still are let go, whatever is wrong with the others.
func (a *Agent) load(ctx context.Context) error {
	ms, err := a.readMachines()
	for _, m := range ms {
		if perr := m.makeProvider(); perr != nil {
			err = errors.Join(err, perr)
			continue
		}
		// What cannot be let go is shown, and tried again by the loop.
		if terr := m.letGo(ctx); terr != nil {
			m.log.Error("machine may stand still", logkit.KeyError, terr)
		}
	}
	if err != nil {
		return err
	}
	for _, m := range ms {
		if err := m.open(ctx); err != nil {
			return err
		}
		a.machines[m.name] = m
	}
	return nil
}

// readMachines reads the records of all machines; with an error, of those that
// can be read.
func (a *Agent) readMachines() (ms []*machine, err error) {
	dir := filepath.Join(a.o.State, "machines")
	entries, err := a.o.FS.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot list %s: %w", dir, err)
	}
	var errs []error
	for _, e := range entries {
		name := e.Name()
		if !e.IsDir() || ident.CheckName(name) != nil {
			continue
		}
		m := newMachine(a, name)
		b, err := vfs.ReadFile(a.o.FS, filepath.Join(m.dir, recordName))
		if errors.Is(err, fs.ErrNotExist) {
			continue // an assignment that a crash cut short, or one that ended
		}
		if err == nil {
			b, err = recordFormat.Admit(a.o.FS, filepath.Join(m.dir, recordName), b)
		}
		if err == nil {
			m.rec, err = decodeRecord(filepath.Join(m.dir, recordName), b)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot read machine %s: %w", name, err))
			continue
		}
		ms = append(ms, m)
	}
	return ms, errors.Join(errs...)
}

// Run listens, answers and replicates until ctx ends; then it ends what is
// under way, keeping machines running. fault.Unreachable: the port is taken.
func (a *Agent) Run(ctx context.Context) error {
	l, err := a.o.Medium.Listen(ctx, a.o.Listen)
	if err != nil {
		return fault.Errorf(fault.Unreachable, "cannot listen at %s: %w", a.o.Listen, err).
			WithHint("another drrun-agent or program may use the port; name another with --listen")
	}
	a.addr = l.Addr()
	local := func() error { return nil }
	if !a.o.Embedded {
		if local, err = a.listenLocal(); err != nil {
			return errors.Join(err, l.Close())
		}
	}
	close(a.ready)
	a.log.Info("agent listens", logkit.KeyAddr, a.addr.String(), logkit.KeyPath, a.o.State)
	a.mu.Lock()
	a.running = true
	for _, m := range a.machines {
		m.startLoop()
	}
	a.mu.Unlock()
	err = rpc.Serve(ctx, l, a.mux(), a.info(), a.log)
	return errors.Join(err, local())
}

// Addr waits until the agent listens and returns where; nil if ctx ends first.
func (a *Agent) Addr(ctx context.Context) net.Addr {
	select {
	case <-a.ready:
		return a.addr
	case <-ctx.Done():
		return nil
	}
}

// Close ends everything under way, waits for it and gives the state folder
// back. Machines go on running. Call it after Run returned.
func (a *Agent) Close() error {
	a.end(errEnds)
	a.work.Wait()
	var errs []error
	for _, m := range a.all() {
		errs = append(errs, m.closeRoles()) // nobody is left who could hold the role lock
	}
	for _, c := range []*client.Client{a.peers, a.renews} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	errs = append(errs, a.unlock())
	return errors.Join(errs...)
}

// all returns the machines in name order.
func (a *Agent) all() []*machine {
	a.mu.Lock()
	defer a.mu.Unlock()
	ms := make([]*machine, 0, len(a.machines))
	for _, m := range a.machines {
		ms = append(ms, m)
	}
	slices.SortFunc(ms, func(x, y *machine) int { return strings.Compare(x.name, y.name) })
	return ms
}

// machine returns the named machine. fault.NotFound: it is not assigned here.
func (a *Agent) machine(name string) (*machine, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	m, ok := a.machines[name]
	if !ok {
		return nil, fault.Errorf(fault.NotFound, "machine %q is not assigned to host %s", name, a.host()).
			WithHint("drrun apply assigns it")
	}
	return m, nil
}

// peer returns the session with another agent. fault.Refused: this agent has
// not joined an estate, so it has no name to call others with.
func (a *Agent) peer(host string) (*rpc.Client, error) {
	p, joined := a.o.Self()
	if !joined {
		return nil, fault.Errorf(fault.Refused, "this agent has not joined an estate").
			WithHint("run drrun-agent join TOKEN with a token of drrun token HOST")
	}
	a.mu.Lock()
	if a.peers == nil {
		a.peers = client.New(a.o.Medium, p.Estate, a.hostAddr, rpc.Options{Info: a.info(), Log: a.log})
	}
	c := a.peers
	a.mu.Unlock()
	return c.Session(host)
}

// renewals are the sessions for renewals of leases: no bulk is before them, and
// one that is dropped costs nothing else.
func (a *Agent) renewals() (*client.Client, error) {
	p, joined := a.o.Self()
	if !joined {
		return nil, fault.Errorf(fault.Refused, "this agent has not joined an estate")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.renews == nil {
		a.renews = client.New(a.o.Medium, p.Estate, a.hostAddr, rpc.Options{Info: a.info(), Log: a.log})
	}
	return a.renews, nil
}

// sawInstance ends the session with an agent that was started anew: what the
// old one left of it would have to time out first.
func (a *Agent) sawInstance(host, instance string) {
	a.mu.Lock()
	fresh := instance != "" && a.instances[host] != instance
	if fresh {
		a.instances[host] = instance
	}
	peers := a.peers
	a.mu.Unlock()
	if !fresh || peers == nil {
		return
	}
	if err := peers.Drop(host); err != nil {
		a.log.Debug("cannot close the session with an earlier agent", logkit.KeyHost, host, logkit.KeyError, err)
	}
}

// self returns the agent's own names; empty ones while it has not joined.
func (a *Agent) self() transport.Peer {
	p, _ := a.o.Self()
	return p
}

func (a *Agent) host() string   { return a.self().Host }
func (a *Agent) site() string   { return a.self().Site }
func (a *Agent) estate() string { return a.self().Estate }

// hostAddr finds the address of a host in the assignments: in the newest, where
// the estate is not applied to all machines yet.
func (a *Agent) hostAddr(name string) (addr string, ok bool) {
	var newest uint64
	for _, m := range a.all() {
		as := m.assignment()
		if h, has := as.Host(name); has && h.Addr != "" && (!ok || as.Revision > newest) {
			addr, ok, newest = h.Addr, true, as.Revision
		}
	}
	return addr, ok
}

// boot is the boot id of the host.
func (a *Agent) boot() string {
	if a.o.Boot != "" {
		return a.o.Boot
	}
	id, err := execprov.BootID()
	if err != nil {
		a.log.Debug("boot id is not known", logkit.KeyError, err)
	}
	return id
}

// execProvider makes exec providers with the agent's environment.
func execProvider(o Options) func(recovery.Assignment, string) (provider.Provider, error) {
	return func(a recovery.Assignment, dir string) (provider.Provider, error) {
		var cfg recovery.Exec
		if a.Exec != nil {
			cfg = *a.Exec
		}
		return execprov.New(cfg, execprov.Options{FS: o.FS, Dir: dir, Env: o.Env, Log: o.Log}), nil
	}
}
