package agent

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/drrun/drrun/agent/provider"
	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/agent/source"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/internal/recovery"
)

// The roles of a host, by their words in status.
const (
	roleSource = command.RoleSource
	roleTarget = command.RoleTarget
	roleNone   = command.RoleNone
)

// machine is one machine at this host.
type machine struct {
	a    *Agent
	name string
	dir  string // STATE/machines/NAME
	log  *slog.Logger
	ops  *opStore
	wake chan struct{} // the loop looks again
	// The loops of the lease look again.
	renewWake, leaseWake chan struct{}
	test                 chan struct{} // whoever ends tests looks again

	role  lock // uses and changes of the replication role
	power lock // start, stop, freeze
	proof lock // reads whole disks for a proof

	looping bool          // guarded by Agent.mu
	gone    chan struct{} // closed when the machine is no longer assigned

	lease leaseHeld

	mu     sync.Mutex
	rec    record
	prov   provider.Provider
	src    *source.Machine         // open while this host sends
	rep    *replica.Machine        // open where the host has a store that knows the machine
	cancel context.CancelCauseFunc // of the cycle under way
	prove  context.CancelCauseFunc // of the read proof under way
	// What status shows and no restart needs.
	sendErr  error         // why the last cycle failed
	applyErr error         // why the target does not apply or thin
	lastApp  time.Duration // newest app point, on the monotonic clock
	hadApp   bool
	roleErr  error             // why the role could not be taken
	startErr string            // why the machine was not started, or was stopped
	thawErr  error             // why the machine may stand still
	fencing  bool              // it is being stopped because another site may run it
	busyWith *command.Progress // prepare, found, …
	// The newest renewal granted to the source by this agent, on the monotonic clock.
	granted     time.Duration
	grantedOnce bool
}

// lock is a mutex whose taking ends with a context.
type lock chan struct{}

func newLock() lock { return make(lock, 1) }

func (l lock) take(ctx context.Context) (release func(), err error) {
	select {
	case l <- struct{}{}:
		return func() { <-l }, nil
	case <-ctx.Done():
		return nil, fault.Errorf(fault.Interrupted, "gave up waiting for another operation on the machine: %w", context.Cause(ctx))
	}
}

func newMachine(a *Agent, name string) *machine {
	dir := filepath.Join(a.o.State, "machines", name)
	return &machine{
		a: a, name: name, dir: dir, log: a.log.With(logkit.KeyMachine, name),
		ops:       a.newOps(filepath.Join(dir, "ops")),
		renewWake: make(chan struct{}, 1), leaseWake: make(chan struct{}, 1), lease: leaseHeld{renewing: newLock()},
		wake: make(chan struct{}, 1), test: make(chan struct{}, 1), role: newLock(), power: newLock(), proof: newLock(), gone: make(chan struct{}),
	}
}

// open takes over from an earlier agent: what runs is adopted. A store that
// cannot be opened is shown in status and tried again by the loop: the other
// machines of the host do not wait for it. So is the rest, which may take long
// (disks that turn into a replica).
func (m *machine) open(ctx context.Context) error {
	m.loadLease()
	if err := m.adoptProcesses(ctx); err != nil {
		return err
	}
	rec := m.snapshot()
	if err := m.openReplica(&rec, rec.role(m.a.host())); err != nil {
		m.log.Error("the replica cannot be opened", logkit.KeyError, err, "hint", fault.Hint(err))
		m.note(func(m *machine) { m.roleErr = err })
	}
	return nil
}

// ended reports whether the machine is no longer assigned to this host.
func (m *machine) ended() bool {
	select {
	case <-m.gone:
		return true
	default:
		return false
	}
}

func (m *machine) unassigned() error {
	return fault.Errorf(fault.NotFound, "machine %s is no longer assigned to host %s", m.name, m.a.host()).
		WithHint("drrun apply assigns it")
}

// takeRole takes the role lock of a machine that is still assigned.
func (m *machine) takeRole(ctx context.Context) (release func(), err error) {
	if release, err = m.role.take(ctx); err != nil {
		return nil, err
	}
	if m.ended() {
		release()
		return nil, m.unassigned()
	}
	return release, nil
}

func (m *machine) makeProvider() error {
	if err := m.a.o.FS.MkdirAll(filepath.Join(m.dir, "ops"), 0o700); err != nil {
		return fmt.Errorf("cannot make folder of machine %s: %w", m.name, err)
	}
	p, err := m.a.o.Provider(*m.assignment(), m.dir)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.prov = p
	m.mu.Unlock()
	return nil
}

// update changes the record durably.
func (m *machine) update(change func(*record)) error {
	return m.updateIf(func(r *record) error { change(r); return nil })
}

// updateIf changes the record durably unless change refuses. What change looks
// at is what it replaces: nobody comes in between.
func (m *machine) updateIf(change func(*record) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended() {
		return m.unassigned()
	}
	next := m.rec.clone()
	if err := change(&next); err != nil {
		return err
	}
	if err := next.write(m.a.o.FS, m.dir); err != nil {
		return err
	}
	m.rec = next
	return nil
}

// snapshot returns the record as it is.
func (m *machine) snapshot() record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rec.clone()
}

func (m *machine) assignment() *recovery.Assignment {
	rec := m.snapshot()
	return &rec.Assignment
}

func (m *machine) provider() provider.Provider {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.prov
}

func (m *machine) source() *source.Machine {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.src
}

func (m *machine) replica() *replica.Machine {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rep
}

// note sets one of the fields that only status shows.
func (m *machine) note(set func(*machine)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	set(m)
}

// busy shows what the machine is busy with until done is called; total is in
// bytes, 0 where it is not known.
func (m *machine) busy(phase string, total int64) (progress func(bytes int64), done func()) {
	set := func(p *command.Progress) { m.note(func(m *machine) { m.busyWith = p }) }
	set(&command.Progress{Phase: phase, Total: total})
	return func(n int64) { set(&command.Progress{Phase: phase, Done: n, Total: max(total, n)}) }, func() { set(nil) }
}

// nudge makes the loop look again.
func (m *machine) nudge() {
	for _, c := range []chan struct{}{m.wake, m.renewWake, m.leaseWake} {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// store is the folder of the machine's replica; empty: this host has none.
func (m *machine) store(a *recovery.Assignment) string {
	root := m.a.o.Store
	if h, ok := a.Host(m.a.host()); ok && root == "" {
		root = h.Store
	}
	if root == "" {
		return ""
	}
	return filepath.Join(root, m.name)
}

// diskPath is where a disk lies at this host.
func (m *machine) diskPath(a *recovery.Assignment, d recovery.Disk) (string, error) {
	if p := d.Paths[m.a.site()]; p != "" {
		return p, nil
	}
	if s := m.store(a); s != "" {
		return filepath.Join(s, d.Name, "head.img"), nil
	}
	return "", fault.Errorf(fault.Refused, "machine %s: disk %s has no path at site %s and host %s has no store",
		m.name, d.Name, m.a.site(), m.a.host()).WithHint("give the host a store, or the disk a path at that site, in the estate")
}

// diskPaths are the paths of all disks by name.
func (m *machine) diskPaths(a *recovery.Assignment) (map[string]string, error) {
	paths := map[string]string{}
	for _, d := range a.Disks {
		p, err := m.diskPath(a, d)
		if err != nil {
			return nil, err
		}
		paths[d.Name] = p
	}
	return paths, nil
}

// interrupt ends the cycle and the read proof under way, if any: the work of the
// cycle is not lost, the proof is asked for again.
func (m *machine) interrupt(cause error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cancel != nil {
		m.cancel(cause)
	}
	if m.prove != nil {
		m.prove(cause)
	}
}

// startLoop starts the machine's loop once; Agent.mu is held.
func (m *machine) startLoop() {
	if m.looping || m.a.life.Err() != nil {
		return
	}
	m.looping = true
	m.a.work.Go(func() { m.loop(m.a.life) })
	m.a.work.Go(func() { m.resumePower(m.a.life) })
	m.a.work.Go(func() { m.renewLoop(m.a.life) })
	m.a.work.Go(func() { m.watchLease(m.a.life) })
	m.a.work.Go(func() { m.watchTests(m.a.life) })
}

// jitter spreads d by a tenth, so that machines do not move in step.
func jitter(d time.Duration) time.Duration {
	if d < 10 {
		return d
	}
	return d - d/20 + randN(d/10)
}
