package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/drrun/drrun/agent"
	"github.com/drrun/drrun/agent/provider"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/internal/vfs/faultfs"
	"github.com/drrun/drrun/transport"
)

const (
	estate     = "acme"
	stateDir   = "/state"
	recordFile = "machine.json"
	storeDir   = "/store"
	port       = "7830"
)

// host is a host of a site: its disk, its machines and its agent's process.
type host struct {
	w    *world
	peer transport.Peer
	rng  *rand.Rand // of the disk

	// under world.mu:
	disk   *faultfs.Disk
	on     bool
	boots  int
	pids   int
	guests map[string]*guest // that run, by the token of their launch
	exits  map[string]string // how others ended
	proc   *proc             // the agent's process; nil: none
	offset time.Duration     // of the clock
	full   bool              // the file system has no room left
	broken int               // operations until one fails with EIO; 0: none will
	// killIn is the number of changes, of those that killOn names, after which
	// the process dies or the power goes; 0: none is counted.
	killIn int
	killOn string
	onKill func()
}

func (h *host) name() string { return h.peer.Host }

// now is the host's clock.
func (h *host) now() time.Time {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	return time.Now().Add(h.offset)
}

// proc is one life of an agent's process.
type proc struct {
	h      *host
	fs     *faultfs.FS
	medium *medium
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
	dead   bool         // under world.mu: nothing it does has an effect any more
	agent  *agent.Agent // under world.mu; nil until it is open
}

var errDead = errors.New("the process is dead")

// boot starts the agent's process if the host has power and none runs.
func (h *host) boot() {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	if !h.on || h.proc != nil || h.w.over {
		return
	}
	p := &proc{h: h, fs: faultfs.Over(h.disk), done: make(chan struct{})}
	p.fs.SetHook(p.hook)
	p.medium = &medium{Medium: h.w.net.Medium(h.peer)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	h.proc = p
	h.w.log(h.name(), "the agent starts")
	go p.main()
}

func (p *proc) main() {
	defer close(p.done)
	h := p.h
	ag, err := agent.Open(p.ctx, agent.Options{
		FS: p.fs, State: stateDir, Medium: p.medium, Listen: ":" + port,
		Self:  func() (transport.Peer, bool) { return h.peer, true },
		Clock: clock.Func(h.now), Log: h.w.logger(h.name()), Version: "sim", Boot: fmt.Sprintf("%s-%d", h.name(), h.boots),
		Provider: func(a recovery.Assignment, _ string) (provider.Provider, error) {
			return &machineProvider{p: p, m: h.w.models[a.Machine]}, nil
		},
		Programs: p.program, Embedded: true,
	})
	if err == nil {
		h.w.mu.Lock()
		p.agent = ag
		h.w.mu.Unlock()
		err = ag.Run(p.ctx)
		if cerr := ag.Close(); err == nil && p.lives() == nil {
			err = cerr
		}
	}
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	if p.dead {
		return
	}
	p.dead = true
	h.proc = nil
	if err != nil {
		h.w.log(h.name(), "the agent ended: %v", err)
	}
	p.medium.kill()
	h.w.after(5*time.Second, h.boot) // whatever supervises it
}

// lives reports that the process is dead.
func (p *proc) lives() error {
	p.h.w.mu.Lock()
	defer p.h.w.mu.Unlock()
	if p.dead {
		return errDead
	}
	return nil
}

// kill ends the process between two instructions; world.mu is held. The caller
// starts another one.
func (h *host) kill(why string) {
	p := h.proc
	if p == nil {
		return
	}
	h.w.log(h.name(), "%s", why)
	h.proc, h.killIn, p.dead = nil, 0, true
	p.fs.Kill()
	p.cancel()
	p.medium.kill()
}

// killAgent kills the agent, which is started again after d.
func (h *host) killAgent(d time.Duration) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.kill("the agent is killed")
	h.w.after(d, h.boot)
}

// powerCut takes the power from the host: what was not synced is as the disk
// draws it, and the machines are gone. It comes back after d.
func (h *host) powerCut(d time.Duration) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	if !h.on {
		return
	}
	h.on = false
	h.kill("the power goes")
	for _, g := range h.sorted() {
		g.end("power cut")
	}
	h.disk = h.disk.Cut(h.rng)
	h.w.isolate(h.name(), "power", true)
	h.w.after(d, func() {
		h.w.mu.Lock()
		h.on = true
		h.boots++
		h.w.log(h.name(), "the power is back")
		h.w.isolate(h.name(), "power", false)
		h.w.mu.Unlock()
		h.boot()
	})
}

// latency of a disk's operation.
const (
	slowest = 1500 * time.Microsecond
	readOne = 24 // of so many reads one takes time
	// slowRead is what a read of a machine's disk takes at most.
	slowRead = 150 * time.Millisecond
)

// hook is called before each operation of the agent on its file system.
func (p *proc) hook(op faultfs.Op, path string) error {
	h := p.h
	h.w.mu.Lock()
	if p.dead {
		h.w.mu.Unlock()
		return faultfs.ErrKilled
	}
	h.w.count(string(op), path)
	if dir, file := filepath.Split(path); op == faultfs.Rename && file == recordFile {
		h.w.holds(h, filepath.Base(dir), path+vfs.TempSuffix)
	}
	takes := time.Duration(0)
	if exact && (op.Changes() || h.rng.IntN(readOne) == 0) {
		takes = time.Duration(h.rng.Int64N(int64(slowest)))
	}
	if exact && op == faultfs.Read && strings.HasPrefix(path, "/vm") {
		takes = time.Duration(h.rng.Int64N(int64(slowRead))) // of a machine's disk: long enough for it to write meanwhile
	}
	err := error(nil)
	if op.Changes() {
		if h.full && (op == faultfs.Write || op == faultfs.Create || op == faultfs.Mkdir) && !strings.HasPrefix(path, "/vm") {
			err = errFull
		}
		if h.broken > 0 {
			if h.broken--; h.broken == 0 {
				h.w.log(h.name(), "%s %s fails", op, path)
				err = errBroken
			}
		}
	}
	h.w.mu.Unlock()
	if op.Changes() {
		class := atAny
		if op == faultfs.Rename {
			class = atRecord
		}
		if kill := p.tick(class, string(op)+" "+path); kill != nil {
			return kill
		}
	}
	if takes > 0 {
		<-time.After(takes)
	}
	return err
}

// tick counts a change that the process makes; the one that was waited for
// kills it.
func (p *proc) tick(class, what string) error {
	h := p.h
	h.w.mu.Lock()
	if p.dead {
		h.w.mu.Unlock()
		return faultfs.ErrKilled
	}
	if h.killIn == 0 || h.killOn != atAny && h.killOn != class {
		h.w.mu.Unlock()
		return nil
	}
	if h.killIn--; h.killIn > 0 {
		h.w.mu.Unlock()
		return nil
	}
	on := h.onKill
	h.w.log(h.name(), "at: %s", what)
	h.w.mu.Unlock()
	on()
	return faultfs.ErrKilled
}

// program is what a plan has run on the host.
func (p *proc) program(ctx context.Context, args []string, env map[string]string) (command.ExecResult, error) {
	if err := p.tick(atEffect, "run "+strings.Join(args, " ")); err != nil {
		return command.ExecResult{}, err
	}
	if err := pause(ctx, p.h.w.draw(20*time.Millisecond)); err != nil {
		return command.ExecResult{}, err
	}
	if err := p.lives(); err != nil {
		return command.ExecResult{}, err
	}
	if args[0] == "ready" {
		return p.ready(env), nil
	}
	p.h.w.effect(env["DRRUN_RUN"], p.h.name(), strings.Join(args, " "))
	if err := p.tick(atEffect, "has run "+strings.Join(args, " ")); err != nil {
		return command.ExecResult{}, err
	}
	return command.ExecResult{Output: "ok"}, nil
}

// ready answers a readiness check: the machine runs and is not held still.
func (p *proc) ready(env map[string]string) command.ExecResult {
	p.h.w.mu.Lock()
	defer p.h.w.mu.Unlock()
	for _, g := range p.h.sorted() {
		if g.m.name == env["DRRUN_MACHINE"] && !g.frozen {
			return command.ExecResult{}
		}
	}
	return command.ExecResult{Exit: 1}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// medium is the network as one process sees it: it can be taken from it.
type medium struct {
	transport.Medium

	mu        sync.Mutex
	dead      bool
	listeners []transport.Listener
	conns     []transport.Conn
}

// Dial implements transport.Medium.
func (m *medium) Dial(ctx context.Context, addr string, want transport.Want) (transport.Conn, error) {
	if m.gone() {
		return nil, errDead
	}
	c, err := m.Medium.Dial(ctx, addr, want)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return nil, errors.Join(errDead, c.Close("dead"))
	}
	m.conns = append(m.conns, c)
	return c, nil
}

// Listen implements transport.Medium.
func (m *medium) Listen(ctx context.Context, addr string) (transport.Listener, error) {
	if m.gone() {
		return nil, errDead
	}
	l, err := m.Medium.Listen(ctx, addr)
	if err == nil {
		m.mu.Lock()
		m.listeners = append(m.listeners, l)
		m.mu.Unlock()
	}
	return l, err
}

func (m *medium) gone() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dead
}

// kill closes all there is.
func (m *medium) kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dead = true
	for _, l := range m.listeners {
		_ = l.Close()
	}
	for _, c := range m.conns {
		_ = c.Close("the process ended")
	}
}

// logger records what the product logs, if the trace is wanted.
func (w *world) logger(who string) *slog.Logger {
	if !w.verbose {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(&logHandler{w: w, who: who})
}

type logHandler struct {
	w     *world
	who   string
	attrs []slog.Attr
}

func (l *logHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo
}

func (l *logHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Message)
	add := func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
		return true
	}
	for _, a := range l.attrs {
		add(a)
	}
	r.Attrs(add)
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	l.w.trace = append(l.w.trace, fmt.Sprintf("%10.4f  %-5s   | %s", time.Since(l.w.began).Seconds(), l.who, b.String()))
	return nil
}

func (l *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logHandler{w: l.w, who: l.who, attrs: append(append([]slog.Attr(nil), l.attrs...), attrs...)}
}

func (l *logHandler) WithGroup(string) slog.Handler { return l }
