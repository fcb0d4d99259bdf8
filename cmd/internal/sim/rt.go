package sim

import (
	"context"
	"encoding/json"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/agent/client"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/store"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/rpc"
)

// control is a runtime with a state folder of its own.
type control struct {
	w    *world
	name string
	kept store.Store // survives its process

	// under world.mu:
	life    *life // nil: no process runs
	lives   int
	killIn  int           // what killOn names until its process dies; 0: none is counted
	killOn  string        // transactions, or what it does itself in the world outside
	killFor time.Duration // for so long
}

// life is one process of a runtime.
type life struct {
	c      *control
	medium *medium
	client *client.Client
	engine *runtime.Engine
	dead   bool // under world.mu
	ended  chan struct{}
}

// boot starts the runtime's process if none runs, and has it go on with what
// would go on by itself.
func (c *control) boot() {
	c.w.mu.Lock()
	if c.life != nil || c.w.over {
		c.w.mu.Unlock()
		return
	}
	c.lives++
	l := &life{c: c, ended: make(chan struct{}), medium: &medium{Medium: c.w.net.Medium(transport.Peer{Estate: estate, Runtime: c.name})}}
	l.client = client.New(l.medium, estate, c.w.addr, rpc.Options{Info: rpc.Info{Program: "drrun", Version: "sim"}})
	l.engine = runtime.New(runtime.Options{
		Store: &mortalStore{l: l, below: c.kept}, Caller: tap{l}, Catalogue: c.w, Scripts: l, Runner: hands{l},
		Clock: clock.Real{}, Log: c.w.logger(c.name), Controller: true, NewID: c.w.runID(c.name),
	})
	c.life = l
	first := c.lives == 1
	c.w.log(c.name, "the runtime starts")
	c.w.mu.Unlock()
	if !first {
		c.w.background(func(ctx context.Context) {
			ids, err := l.engine.Unfinished(ctx)
			for _, id := range ids {
				err = l.engine.Resume(ctx, id, runtime.ResumeOptions{By: "the controller"})
				c.w.said(c.name, "takes up run "+id, err)
			}
			if err != nil && len(ids) == 0 {
				c.w.said(c.name, "looks for its runs", err)
			}
		})
	}
}

// kill ends the process between two instructions; world.mu is held.
func (c *control) kill(d time.Duration) {
	l := c.life
	if l == nil {
		return
	}
	c.w.log(c.name, "the runtime is killed")
	c.life, c.killIn, l.dead = nil, 0, true
	l.medium.kill()
	go l.bury()
	c.w.after(d, c.boot)
}

// bury ends the goroutines of a dead process.
func (l *life) bury() {
	defer close(l.ended)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = l.engine.Close(ctx) // its store is dead
	_ = l.client.Close()
}

// leave ends the process in order; it is started again after d.
func (c *control) leave(d time.Duration) {
	c.w.mu.Lock()
	l := c.life
	c.w.mu.Unlock()
	if l == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err := l.engine.Close(ctx)
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if l.dead || c.life != l {
		return
	}
	c.w.log(c.name, "the runtime ends: %v", err)
	c.kill(d)
}

// engine returns the engine of the process that runs; nil: none does.
func (c *control) engine() *runtime.Engine {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if c.life == nil {
		return nil
	}
	return c.life.engine
}

// mortalStore is the runtime's store: what was committed survives its process.
type mortalStore struct {
	l     *life
	below store.Store
}

var _ store.Store = (*mortalStore)(nil)

func (s *mortalStore) lives() error {
	s.l.c.w.mu.Lock()
	defer s.l.c.w.mu.Unlock()
	if s.l.dead {
		return errDead
	}
	return nil
}

// Get implements store.Store.
func (s *mortalStore) Get(ctx context.Context, key string) (store.KV, error) {
	if err := s.lives(); err != nil {
		return store.KV{}, err
	}
	return s.below.Get(ctx, key)
}

// List implements store.Store.
func (s *mortalStore) List(ctx context.Context, prefix string) iter.Seq2[store.KV, error] {
	if err := s.lives(); err != nil {
		return func(yield func(store.KV, error) bool) { yield(store.KV{}, err) }
	}
	return s.below.List(ctx, prefix)
}

// Txn implements store.Store: the process may die before it or after it.
func (s *mortalStore) Txn(ctx context.Context, t store.Txn) (rev int64, ok bool, err error) {
	c := s.l.c
	if exact {
		<-time.After(c.w.draw(3 * time.Millisecond))
	}
	c.w.mu.Lock()
	if s.l.dead {
		c.w.mu.Unlock()
		return 0, false, errDead
	}
	last := false
	if c.killIn > 0 && c.killOn == atAny {
		c.killIn--
		last = c.killIn == 0
	}
	before := last && c.w.drawLocked(2) == 1
	if before {
		c.kill(c.killFor)
	}
	c.w.mu.Unlock()
	if before {
		return 0, false, errDead
	}
	rev, ok, err = s.below.Txn(ctx, t)
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	for _, op := range t.Then {
		c.w.count("txn", op.Key)
	}
	if last {
		c.kill(c.killFor)
		return 0, false, errDead
	}
	return rev, ok, err
}

// Watch implements store.Store.
func (s *mortalStore) Watch(ctx context.Context, prefix string, fromRev int64) iter.Seq2[store.Event, error] {
	return s.below.Watch(ctx, prefix, fromRev)
}

// Rev implements store.Store.
func (s *mortalStore) Rev(ctx context.Context) (int64, error) { return s.below.Rev(ctx) }

// Close implements store.Store.
func (s *mortalStore) Close() error { return nil }

// tap is the client of a runtime; the witness hears what is said.
type tap struct{ l *life }

// Call implements command.Caller.
func (t tap) Call(ctx context.Context, host, verb string, in, out any) error {
	w := t.l.c.w
	raw, err := json.Marshal(in)
	if err != nil {
		return err
	}
	var meta command.Meta
	_ = json.Unmarshal(raw, &meta) // a request without one has an empty one
	began := w.asked(t.l.c.name, host, verb, meta)
	err = t.l.client.Call(ctx, host, verb, in, out)
	w.answered(began, out, err)
	return err
}

// hands run what a plan has run beside the runtime.
type hands struct{ l *life }

// Run implements runtime.Runner.
func (h hands) Run(ctx context.Context, argv, env []string) (int, string, error) {
	run := ""
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "DRRUN_RUN="); ok {
			run = v
		}
	}
	if err := h.l.act(ctx, run, strings.Join(argv, " "), true); err != nil {
		return 0, "", err
	}
	return 0, "ok", nil
}

// AppliedEstate implements runtime.Catalogue.
func (w *world) AppliedEstate(context.Context) (*plans.Estate, uint64, error) {
	return w.estate, 1, nil
}

// AppliedPlan implements runtime.Catalogue.
func (w *world) AppliedPlan(_ context.Context, name string) (plans.Bundle, error) {
	if name != w.plan.Name {
		return plans.Bundle{}, fault.Errorf(fault.NotFound, "there is no plan %q", name)
	}
	return plans.Bundle{Main: name + ".lua", Files: map[string]string{name + ".lua": "-- " + name}}, nil
}

// Assignment implements runtime.Catalogue.
func (w *world) Assignment(_ context.Context, machine string) (recovery.Assignment, error) {
	i := slices.IndexFunc(w.assigned, func(a recovery.Assignment) bool { return a.Machine == machine })
	if i < 0 {
		return recovery.Assignment{}, fault.Errorf(fault.NotFound, "there is no machine %q", machine)
	}
	return w.assigned[i], nil
}

// LoadPlan implements runtime.Scripts.
func (l *life) LoadPlan(plans.Bundle, map[string]string) (*plans.Plan, error) {
	return l.c.w.plan, nil
}

// RunFunc implements runtime.Scripts: the one action of the plan does something
// that may be done again, and something that may not.
func (l *life) RunFunc(ctx context.Context, _ plans.Bundle, _ plans.FuncRef, info plans.RunInfo, h plans.HostCalls) (bool, string, error) {
	for _, op := range []struct {
		name  string
		class plans.OpClass
	}{{"dns.update", plans.OpIdempotent}, {"ticket", plans.OpUnsafe}} {
		_, err := h.Op(ctx, op.name, op.class, json.RawMessage(`"x"`), func(ctx context.Context, _ string) (json.RawMessage, error) {
			return json.RawMessage(`"done"`), l.act(ctx, info.ID, op.name, op.class == plans.OpUnsafe)
		})
		if err != nil {
			return false, "", err
		}
	}
	return true, "", nil
}

// act takes a moment, and has its effect unless the process is dead by then.
func (l *life) act(ctx context.Context, run, what string, counts bool) error {
	if err := pause(ctx, l.c.w.draw(15*time.Millisecond)); err != nil {
		return err
	}
	c := l.c
	c.w.mu.Lock()
	dead := l.dead
	c.w.mu.Unlock()
	if dead {
		return errDead
	}
	if counts {
		c.w.effect(run, "action", what)
	}
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if c.killIn == 0 || c.killOn != atEffect {
		return nil
	}
	if c.killIn--; c.killIn > 0 {
		return nil
	}
	c.kill(c.killFor)
	return errDead
}
