package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/drrun/drrun/agent/provider"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// guest is a machine that runs: it writes to its disks, survives the agent, and
// dies with its host. All fields are under world.mu.
type guest struct {
	h         *host
	m         *model
	launch    provider.Launch
	pid       int
	started   time.Time
	rng       *rand.Rand
	files     []vfs.File
	from      *write // what was on its disks when it was started
	head      *write // its last write
	frozen    bool
	hangs     bool // it does not stop by itself
	running   bool
	permitted bool // a person on its host had it started
}

func (g *guest) test() bool { return g.launch.Type == provider.Test }

func (g *guest) String() string {
	s := g.m.name + " on " + g.h.name()
	if g.test() {
		s += " in a test"
	}
	return s
}

// sorted are the machines that run on the host, in the order of their start.
func (h *host) sorted() []*guest {
	return slices.SortedFunc(maps.Values(h.guests), func(a, b *guest) int { return a.pid - b.pid })
}

// find returns the machine of a launch, or for one that never was, the
// production machine that runs.
func (h *host) find(m *model, p provider.Process) *guest {
	if g := h.guests[p.Launch.Token]; g != nil {
		return g
	}
	if p.PID == 0 && p.Launch.Type != provider.Test {
		return h.production(m)
	}
	return nil
}

// production returns the machine that runs in production here; nil: none.
func (h *host) production(m *model) *guest {
	for _, g := range h.sorted() {
		if g.m == m && !g.test() {
			return g
		}
	}
	return nil
}

// launchGuest starts a machine; world.mu is held.
func (h *host) launchGuest(m *model, l provider.Launch) (*guest, error) {
	h.pids++
	g := &guest{h: h, m: m, launch: l, pid: 100*(h.boots+1) + h.pids, started: time.Now(), running: true,
		rng: h.w.rand(fmt.Sprintf("guest %s %s %d.%d", m.name, h.name(), h.boots, h.pids))}
	g.hangs = g.rng.IntN(6) == 0
	for _, d := range m.disks {
		f, err := h.disk.OpenFile(l.Disks[d.Name], vfs.ReadWrite, 0)
		if err != nil {
			g.closeFiles()
			return nil, fmt.Errorf("cannot open disk %s: %w", d.Name, err)
		}
		g.files = append(g.files, f)
	}
	var err error
	if g.from, err = m.decode(g.read); err != nil {
		h.w.violate(7, "%s is started on disks that are no state it ever had: %v", g, err)
		g.closeFiles()
		return nil, err
	}
	g.head = g.from
	h.guests[l.Token] = g
	h.w.log(h.name(), "machine %s starts (epoch %d, run %q) on %s", g, l.Epoch, l.Run, g.head)
	h.w.started(g)
	h.w.after(g.interval(), g.write)
	return g, nil
}

func (g *guest) read(disk, block int, b []byte) error {
	_, err := g.files[disk].ReadAt(b, int64(block)*blockSize)
	return err
}

func (g *guest) closeFiles() {
	for _, f := range g.files {
		_ = f.Close()
	}
}

func (g *guest) interval() time.Duration {
	every := g.h.w.sc.WriteEvery
	return every/2 + time.Duration(g.rng.Int64N(int64(every)))
}

// write makes one write, durable and acknowledged before the next instant.
func (g *guest) write() {
	g.h.w.mu.Lock()
	defer g.h.w.mu.Unlock()
	if !g.running {
		return
	}
	defer g.h.w.after(g.interval(), g.write)
	if g.frozen {
		return
	}
	g.writeNow()
}

// writeNow is one write; world.mu is held.
func (g *guest) writeNow() {
	var blocks []int
	zero := map[int]bool{}
	for range 1 + g.rng.IntN(3) {
		n := 1 + g.rng.IntN(g.m.total-1)
		if slices.Contains(blocks, n) {
			continue
		}
		blocks = append(blocks, n)
		zero[n] = g.rng.IntN(6) == 0
	}
	next := g.m.change(g.head, blocks, zero, g.test())
	b := make([]byte, blockSize)
	for _, n := range append(blocks, 0) {
		disk, block := g.m.place(n)
		content(next.image[n], n, b)
		if _, err := g.files[disk].WriteAt(b, int64(block)*blockSize); err != nil {
			g.h.w.violate(7, "%s cannot write its disk: %v", g, err)
			return
		}
	}
	for _, f := range g.files {
		if err := f.Sync(); err != nil {
			g.h.w.violate(7, "%s cannot sync its disk: %v", g, err)
			return
		}
	}
	next.at, next.host = time.Now(), g.h.name()
	g.head = next
}

// end stops the machine; world.mu is held.
func (g *guest) end(how string) {
	if !g.running {
		return
	}
	g.running = false
	delete(g.h.guests, g.launch.Token)
	g.h.exits[g.launch.Token] = how
	g.h.w.log(g.h.name(), "machine %s ends (%s) at %s", g, how, g.head)
	g.h.w.stopped(g)
	g.closeFiles()
}

// machineProvider is the hypervisor as an agent's process uses it.
type machineProvider struct {
	p *proc
	m *model
}

var _ provider.Provider = (*machineProvider)(nil)

// begin takes the time of an operation and fails for the dead.
func (v *machineProvider) begin(ctx context.Context, what string) error {
	if err := v.p.tick(atEffect, what+" "+v.m.name); err != nil {
		return err
	}
	if exact {
		if err := pause(ctx, v.p.h.w.draw(30*time.Millisecond)); err != nil {
			return err
		}
	}
	return v.p.lives()
}

// Start implements provider.Provider.
func (v *machineProvider) Start(ctx context.Context, l provider.Launch) (provider.Process, error) {
	if err := v.begin(ctx, "start"); err != nil {
		return provider.Process{}, err
	}
	h := v.p.h
	h.w.mu.Lock()
	g, err := h.launchGuest(v.m, l)
	h.w.mu.Unlock()
	if err != nil {
		return provider.Process{}, fault.Errorf(fault.Failed, "cannot start machine %s: %w", v.m.name, err)
	}
	if err := v.p.tick(atEffect, "has started "+v.m.name); err != nil {
		return provider.Process{}, err
	}
	return provider.Process{PID: g.pid, Started: uint64(g.pid), Boot: fmt.Sprint(h.boots), Launch: l}, nil //nolint:gosec // small
}

// Find implements provider.Provider.
func (v *machineProvider) Find(ctx context.Context, l provider.Launch) (provider.Process, bool, error) {
	if err := v.p.lives(); err != nil {
		return provider.Process{}, false, err
	}
	h := v.p.h
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	g := h.guests[l.Token]
	if g == nil {
		return provider.Process{}, false, nil
	}
	return provider.Process{PID: g.pid, Started: uint64(g.pid), Boot: fmt.Sprint(h.boots), Launch: l}, true, ctx.Err() //nolint:gosec // small
}

// Status implements provider.Provider.
func (v *machineProvider) Status(_ context.Context, p provider.Process) provider.State {
	h := v.p.h
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	if v.p.dead {
		return provider.State{Power: recovery.PowerUnknown, Why: errDead.Error()}
	}
	if g := h.find(v.m, p); g != nil {
		return provider.State{Power: recovery.PowerRunning, PID: g.pid}
	}
	return provider.State{Power: recovery.PowerStopped, Exit: h.exits[p.Launch.Token]}
}

// Stop implements provider.Provider.
func (v *machineProvider) Stop(ctx context.Context, p provider.Process, s provider.Stop) (bool, error) {
	if err := v.begin(ctx, "stop"); err != nil {
		return false, err
	}
	h := v.p.h
	h.w.mu.Lock()
	g := h.find(v.m, p)
	hangs := g != nil && (g.hangs || g.frozen)
	takes := h.w.drawLocked(900 * time.Millisecond)
	h.w.mu.Unlock()
	if g == nil {
		return false, nil
	}
	if hangs {
		if takes = s.Within; takes <= 0 {
			takes = 2 * time.Second
		}
	}
	if err := pause(ctx, takes); err != nil {
		return false, err
	}
	if err := v.p.lives(); err != nil {
		return false, err
	}
	h.w.mu.Lock()
	forced := hangs || g.frozen
	if !forced || s.Force {
		if !forced {
			g.writeNow() // what it flushes at its end
		}
		g.end("stopped")
	}
	h.w.mu.Unlock()
	if forced && !s.Force {
		return false, fault.Errorf(fault.Failed, "machine %s did not stop", v.m.name)
	}
	return forced, v.p.tick(atEffect, "has stopped "+v.m.name)
}

var errNotRunning = errors.New("it does not run")

// Freeze implements provider.Provider.
func (v *machineProvider) Freeze(ctx context.Context, p provider.Process, app bool) (recovery.Consistency, error) {
	if err := v.begin(ctx, "freeze"); err != nil {
		return "", err
	}
	h := v.p.h
	h.w.mu.Lock()
	g := h.find(v.m, p)
	if g != nil {
		g.frozen = true
	}
	h.w.mu.Unlock()
	if g == nil {
		return "", errNotRunning
	}
	kind := recovery.Crash
	if app {
		kind = recovery.App
	}
	return kind, v.p.tick(atEffect, "has frozen "+v.m.name)
}

// Thaw implements provider.Provider.
func (v *machineProvider) Thaw(ctx context.Context, p provider.Process, _ bool) error {
	if err := v.begin(ctx, "thaw"); err != nil {
		return err
	}
	h := v.p.h
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	g := h.find(v.m, p)
	if g == nil {
		return errNotRunning
	}
	g.frozen = false
	return nil
}
