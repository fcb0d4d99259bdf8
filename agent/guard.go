package agent

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/drrun/drrun/agent/provider"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// GuardLock is the file in an agent's state folder that a guard has locked for
// as long as it watches.
const GuardLock = "guard.lock"

const (
	guardLook = 250 * time.Millisecond
	guardIdle = 10 * time.Second // with no lease to watch
)

// Guard watches over the leases of the machines of a state folder in a process
// of its own, and stops by force what its agent, which may be dead, has not
// stopped when its lease ended. It returns when there has been no lease for a
// while, when another guard watches, or when ctx ends. Of o it takes FS, State,
// Clock, Log, Env, Boot and Provider; ready, if any, is called when it watches.
func Guard(ctx context.Context, o Options, ready func()) error {
	if o.Clock == nil {
		o.Clock = clock.Real{}
	}
	if o.Log == nil {
		o.Log = logkit.Discard()
	}
	if o.Provider == nil {
		o.Provider = execProvider(o)
	}
	unlock, err := o.FS.Lock(filepath.Join(o.State, GuardLock))
	if errors.Is(err, vfs.ErrLocked) {
		return nil
	}
	if err != nil {
		return fault.Errorf(fault.Failed, "cannot lock %s: %w", filepath.Join(o.State, GuardLock), err)
	}
	g := guard{a: &Agent{o: o, log: o.Log}, done: map[string]leaseFile{}}
	if ready != nil {
		ready()
	}
	tick := time.NewTicker(guardLook)
	defer tick.Stop()
	for idle := time.Duration(0); idle < guardIdle; idle += guardLook {
		if g.look(ctx) {
			idle = 0
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return unlock()
		}
		if _, err := o.FS.Stat(o.State); errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return unlock()
}

// guard is one that watches.
type guard struct {
	a    *Agent
	done map[string]leaseFile // machines that were stopped, by the lease that ended
}

// look stops what is over; it reports whether there is a lease at all.
func (g *guard) look(ctx context.Context) (any bool) {
	dir := filepath.Join(g.a.o.State, "machines")
	entries, err := g.a.o.FS.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		l, err := readLease(g.a.o.FS, filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		any = true
		over := err == nil && !l.Free && l.Boot == g.a.boot() && clock.Boot(g.a.o.Clock) >= l.ends()
		if !over || g.done[e.Name()] == l {
			continue // one that cannot be read is being written: it is looked at again
		}
		if err := g.stop(ctx, e.Name()); err != nil {
			g.a.o.Log.Error("lease ended, and its machine cannot be stopped", logkit.KeyMachine, e.Name(), logkit.KeyError, err)
			continue
		}
		g.done[e.Name()] = l
	}
	return any
}

// stop ends the machine by force, as its agent would. What the agent knows of
// its process is in the record.
func (g *guard) stop(ctx context.Context, name string) error {
	m := newMachine(g.a, name)
	b, err := vfs.ReadFile(g.a.o.FS, filepath.Join(m.dir, recordName))
	if err != nil {
		return err
	}
	if m.rec, err = decodeRecord(filepath.Join(m.dir, recordName), b); err != nil {
		return err
	}
	if m.prov, err = g.a.o.Provider(m.rec.Assignment, m.dir); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, leaseStopMost)
	defer cancel()
	p, ours := m.process(&m.rec), true
	if m.rec.Process == nil && m.rec.Launch != nil {
		if p, ours, err = m.prov.Find(ctx, *m.rec.Launch); err != nil || !ours {
			return err
		}
	}
	if m.prov.Status(ctx, p).Power == recovery.PowerStopped {
		return nil
	}
	g.a.o.Log.Warn("lease ended and no agent stopped the machine: it is stopped by force", logkit.KeyMachine, name)
	_, err = m.prov.Stop(ctx, p, provider.Stop{Within: stopNow, Force: true})
	return err
}
