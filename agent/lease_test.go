package agent_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drrun/drrun/agent"
	"github.com/drrun/drrun/agent/client"
	"github.com/drrun/drrun/agent/provider"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/rpc"
	"github.com/drrun/drrun/transport/simnet"
)

const leaseLength = 20 * time.Second

// leaseWorld is a machine under a lease: its two hosts, in virtual time.
type leaseWorld struct {
	t     *testing.T
	net   *simnet.Net
	par   *leaseHost // source
	lyo   *leaseHost // target
	vm    *deafMachine
	rt    *client.Client
	as    recovery.Assignment
	auth  recovery.Authority
	fence ident.Fence
}

type leaseHost struct {
	w      *leaseWorld
	peer   transport.Peer
	addr   string
	state  string
	boot   string
	clk    *clock.Skewed
	ag     *agent.Agent
	cancel context.CancelFunc
	done   chan struct{}
}

// deafMachine takes its time for a graceful stop; by force it ends at once.
type deafMachine struct {
	fakeProvider
	deaf time.Duration

	mu     sync.Mutex
	stopAt []time.Time
}

func (d *deafMachine) Stop(ctx context.Context, p provider.Process, s provider.Stop) (bool, error) {
	forced := s.Force && s.Within < d.deaf
	within := min(s.Within, d.deaf)
	if s.Within <= 0 {
		within = d.deaf
	}
	select {
	case <-time.After(within):
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
	if !s.Force && s.Within > 0 && s.Within < d.deaf {
		return false, fault.Errorf(fault.Failed, "it does not stop")
	}
	d.mu.Lock()
	d.stopAt = append(d.stopAt, time.Now())
	d.mu.Unlock()
	_, err := d.fakeProvider.Stop(ctx, p, s)
	return forced, err
}

func (d *deafMachine) runs() bool {
	return d.Status(context.Background(), provider.Process{}).Power == recovery.PowerRunning
}

// inLease runs a test of a machine under a lease, in a bubble.
func inLease(t *testing.T, length time.Duration, f func(t *testing.T, w *leaseWorld)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &leaseWorld{t: t, net: simnet.New(1), fence: 1, vm: &deafMachine{deaf: 300 * time.Millisecond}}
		w.net.SetDefault(simnet.Link{Delay: 5 * time.Millisecond})
		host := func(name, site, addr string) *leaseHost {
			return &leaseHost{w: w, peer: transport.Peer{Estate: "acme", Site: site, Host: name}, addr: addr, state: t.TempDir(), boot: name + "-1", clk: clock.NewSkewed(clock.Real{})}
		}
		w.par, w.lyo = host("par-1", "paris", "par-1:7831"), host("lyo-1", "lyon", "lyo-1:7832")
		disk := filepath.Join(t.TempDir(), "erp.img")
		must(t, os.WriteFile(disk, make([]byte, 4*blockSize), 0o600))
		w.as = recovery.Assignment{Version: 1, Revision: 1, Estate: "acme", Machine: "erp", HomeSite: "paris",
			Hosts: []recovery.Host{{Name: "par-1", Site: "paris", Addr: w.par.addr, Store: t.TempDir()},
				{Name: "lyo-1", Site: "lyon", Addr: w.lyo.addr, Store: t.TempDir()}},
			Disks:  []recovery.Disk{{Name: "data", ID: ident.NewDiskID(), Key: 42, Paths: map[string]string{"paris": disk}}},
			Policy: recovery.Policy{Name: "test", Every: time.Hour, Lease: length}, Exec: &recovery.Exec{Start: []string{"x"}}}
		w.auth = recovery.Authority{Epoch: 1, Active: "paris", Direction: []recovery.Pair{forward}}
		medium := w.net.Medium(transport.Peer{Estate: "acme", Runtime: "shell"})
		w.rt = client.New(medium, "acme", func(h string) (string, bool) {
			return map[string]string{"par-1": w.par.addr, "lyo-1": w.lyo.addr}[h], true
		}, rpc.Options{})
		w.par.start()
		w.lyo.start()
		defer func() {
			must(t, w.rt.Close())
			w.par.end()
			w.lyo.end()
		}()
		f(t, w)
	})
}

func (h *leaseHost) start() {
	h.w.t.Helper()
	ag, err := agent.Open(h.w.t.Context(), agent.Options{FS: vfs.OS{}, State: h.state, Medium: h.w.net.Medium(h.peer), Listen: h.addr,
		Self: func() (transport.Peer, bool) { return h.peer, true }, Clock: h.clk, Version: "test", Boot: h.boot, Embedded: true,
		Provider: func(recovery.Assignment, string) (provider.Provider, error) {
			if h == h.w.par {
				return h.w.vm, nil
			}
			return &fakeProvider{}, nil
		}})
	must(h.w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	h.ag, h.cancel, h.done = ag, cancel, make(chan struct{})
	go func() {
		defer close(h.done)
		if err := ag.Run(ctx); err != nil {
			h.w.t.Error(err)
		}
	}()
	ag.Addr(h.w.t.Context())
}

// end ends the agent; the machine runs on.
func (h *leaseHost) end() {
	h.w.t.Helper()
	if h.ag == nil {
		return
	}
	h.cancel()
	<-h.done
	must(h.w.t, h.ag.Close())
	h.ag = nil
}

func (h *leaseHost) status() command.MachineStatus {
	h.w.t.Helper()
	st, err := h.ag.Status(h.w.t.Context(), command.StatusRequest{Machine: "erp"})
	must(h.w.t, err)
	if len(st.Machines) != 1 {
		h.w.t.Fatalf("%s knows %d machines", h.peer.Host, len(st.Machines))
	}
	return st.Machines[0]
}

// lease is the lease at a host; a zero one if it has none.
func (h *leaseHost) lease() command.LeaseStatus {
	if l := h.status().Lease; l != nil {
		return *l
	}
	return command.LeaseStatus{}
}

func leaseAsk[In, Out any](w *leaseWorld, v command.Verb[In, Out], host string, in In) (Out, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	return v.Call(ctx, w.rt, host, in)
}

func (w *leaseWorld) meta() command.Meta {
	return command.Meta{Machine: "erp", Run: "run-1", Fence: w.fence, Epoch: w.auth.Epoch}
}

func (w *leaseWorld) assign(hosts ...string) {
	w.t.Helper()
	for _, h := range hosts {
		_, err := leaseAsk(w, command.Assign, h, command.AssignRequest{Assignment: w.as, Authority: w.auth})
		must(w.t, err)
	}
}

// protect assigns the machine and waits until it runs under its lease.
func (w *leaseWorld) protect() {
	w.t.Helper()
	w.assign("lyo-1", "par-1")
	_, err := leaseAsk(w, command.Start, "par-1", command.StartRequest{Meta: w.meta()})
	must(w.t, err)
	w.until(10*time.Second, "the lease is granted", func() bool { return w.vm.runs() && w.par.lease().Granted && w.lyo.lease().Granted })
}

// until looks every 50 ms; at each look the machine must not run where a run may
// count on its stop.
func (w *leaseWorld) until(within time.Duration, what string, ok func() bool) (took time.Duration) {
	w.t.Helper()
	began := time.Now()
	for !ok() {
		w.promise()
		if took = time.Since(began); took > within {
			w.t.Fatalf("%s: not within %s", what, within)
		}
		<-time.After(50 * time.Millisecond)
	}
	return time.Since(began)
}

// during checks for d that something holds.
func (w *leaseWorld) during(d time.Duration, what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		w.promise()
		if !ok() {
			w.t.Fatalf("%s: no more, %s before the end", what, time.Until(end))
		}
		<-time.After(50 * time.Millisecond)
	}
}

// promise fails the test if the machine runs although the target says that a run
// may count on its stop.
func (w *leaseWorld) promise() {
	w.t.Helper()
	if w.lyo.ag == nil {
		return
	}
	if l := w.lyo.lease(); l.Length > 0 && l.Left == 0 && w.vm.runs() {
		w.t.Fatalf("the target counts on the stop and the machine runs: %+v", l)
	}
}

func (w *leaseWorld) cut()  { w.net.Partition("par-1", "lyo-1") }
func (w *leaseWorld) heal() { w.net.Heal("par-1", "lyo-1") }

// TestLeaseEnds: cut off from its target the machine is stopped no later than its
// lease ends, and not much earlier; healed, it is started again by itself.
func TestLeaseEnds(t *testing.T) {
	inLease(t, leaseLength, func(t *testing.T, w *leaseWorld) {
		w.protect()
		w.during(2*leaseLength, "it runs while the lease is renewed", w.vm.runs)
		w.cut()
		took := w.until(leaseLength, "it is stopped", func() bool { return !w.vm.runs() })
		if took < leaseLength/2 {
			t.Errorf("it was stopped %s after the cut", took)
		}
		st := w.par.status()
		if !strings.Contains(st.Reason, "has not renewed its lease of 20.0s") || st.State != recovery.Degraded {
			t.Errorf("status: %s, %q", st.State, st.Reason)
		}
		w.during(leaseLength, "it stays stopped", func() bool { return !w.vm.runs() })
		if _, err := leaseAsk(w, command.Start, "par-1", command.StartRequest{Meta: w.meta()}); !fault.Is(err, fault.Unreachable) {
			t.Errorf("a start without the lease: %v", err)
		}
		w.heal()
		w.until(30*time.Second, "it runs again", func() bool { return w.vm.runs() && w.par.status().Reason == "" })
		if starts, _ := w.vm.counts(); starts != 2 {
			t.Errorf("%d starts", starts)
		}
	})
}

// TestLeaseAgainstADeafMachine: a machine that does not stop is killed in time,
// also when a command holds it meanwhile.
func TestLeaseAgainstADeafMachine(t *testing.T) {
	inLease(t, leaseLength, func(t *testing.T, w *leaseWorld) {
		w.vm.deaf = time.Hour
		w.protect()
		w.cut()
		w.until(leaseLength, "it is killed", func() bool { return !w.vm.runs() })
		w.heal()
		w.until(30*time.Second, "it runs again", w.vm.runs)
		go func() { // it waits for half an hour
			_, _ = leaseAsk(w, command.Stop, "par-1", command.StopRequest{Meta: w.meta(), Within: 30 * time.Minute})
		}()
		<-time.After(time.Second)
		w.cut()
		w.until(leaseLength, "it is killed in the middle of a stop", func() bool { return !w.vm.runs() })
		<-time.After(time.Hour)
		w.heal()
		w.during(time.Minute, "it was to be stopped, and stays so", func() bool { return !w.vm.runs() })
	})
}

// TestLeaseClosed: for a run the target grants no more, also after its restart;
// the machine is stopped before the run may count on it. Opened, it comes back.
func TestLeaseClosed(t *testing.T) {
	inLease(t, leaseLength, func(t *testing.T, w *leaseWorld) {
		w.protect()
		w.fence = 3
		res, err := leaseAsk(w, command.Lease, "lyo-1", command.LeaseRequest{Meta: w.meta()})
		must(t, err)
		if l := res.Lease; l == nil || l.Closed != "run-1" || l.Left < leaseLength || l.Source != "par-1" {
			t.Fatalf("closed: %+v", res.Lease)
		}
		for fence, kind := range map[ident.Fence]fault.Kind{0: fault.Invalid, 2: fault.Conflict} {
			other := w.meta()
			other.Fence = fence
			if _, err := leaseAsk(w, command.Lease, "lyo-1", command.LeaseRequest{Meta: other, Open: true}); !fault.Is(err, kind) {
				t.Errorf("opened with fencing number %d: %v", fence, err)
			}
		}
		<-time.After(leaseLength / 2)
		w.lyo.end()
		w.lyo.start()
		if l := w.lyo.lease(); l.Closed != "run-1" || l.Left < leaseLength {
			t.Errorf("after a restart of the target: %+v; the last grant counts as now", l)
		}
		w.until(leaseLength, "it is stopped", func() bool { return !w.vm.runs() })
		w.until(2*leaseLength, "the run may count on it", func() bool { return w.lyo.lease().Left == 0 })
		if why := w.par.lease().Why; !strings.Contains(why, "run run-1 takes the machine over") {
			t.Errorf("the source says: %q", why)
		}
		_, err = leaseAsk(w, command.Lease, "lyo-1", command.LeaseRequest{Meta: w.meta(), Open: true})
		must(t, err)
		w.until(time.Minute, "it runs again", w.vm.runs)

		_, err = leaseAsk(w, command.Lease, "lyo-1", command.LeaseRequest{Meta: w.meta()})
		must(t, err)
		for _, c := range []struct{ run, closed string }{{"run-1", "run-1"}, {"run-2", ""}} { // taken over, and overtaken
			w.fence++
			_, err = leaseAsk(w, command.Claim, "lyo-1", command.ClaimRequest{Meta: command.Meta{Machine: "erp", Run: c.run, Fence: w.fence}})
			must(t, err)
			if l := w.lyo.lease(); l.Closed != c.closed {
				t.Errorf("after a claim by %s: %+v", c.run, l)
			}
		}
	})
}

// TestLeaseOfAnEarlierEpoch: the target has granted the next record to itself.
func TestLeaseOfAnEarlierEpoch(t *testing.T) {
	inLease(t, leaseLength, func(t *testing.T, w *leaseWorld) {
		w.protect()
		w.cut()
		next := recovery.Authority{Epoch: 2, Active: "lyon", Run: "run-1", Uncommitted: true}
		_, err := leaseAsk(w, command.Grant, "lyo-1", command.GrantRequest{Meta: w.meta(), Expect: w.auth, Next: next})
		must(t, err)
		w.until(leaseLength, "it is stopped", func() bool { return !w.vm.runs() })
		w.heal()
		w.during(2*leaseLength, "it is not started again", func() bool { return !w.vm.runs() })
		if st := w.par.status(); st.Authority.Epoch != 2 || st.Lease != nil {
			t.Errorf("the source: epoch %d, %+v", st.Authority.Epoch, st.Lease)
		}
		as := client.New(w.net.Medium(w.par.peer), "acme", func(string) (string, bool) { return w.lyo.addr, true }, rpc.Options{})
		defer as.Close()
		out, err := command.Renew.Call(t.Context(), as, "lyo-1", command.RenewRequest{Machine: "erp", Authority: w.auth, Rev: 9, Length: time.Hour})
		if err != nil || out.Granted || out.Authority.Epoch != 2 {
			t.Errorf("a renewal of the epoch before: %+v, %v", out, err)
		}
	})
}

// TestLeaseAndSourceRestart: what an agent was granted counts from when the agent
// before it asked; and when that is not known, the lease has ended.
func TestLeaseAndSourceRestart(t *testing.T) {
	for name, c := range map[string]struct {
		between func(*leaseWorld)
		within  time.Duration // after the restart
	}{
		"at once": {func(*leaseWorld) {}, leaseLength},
		"late":    {func(*leaseWorld) { <-time.After(leaseLength * 3 / 4) }, leaseLength / 4},
		"no file": {func(w *leaseWorld) { must(w.t, os.Remove(filepath.Join(w.par.state, "machines/erp/lease"))) }, time.Second},
		"rotten file": {func(w *leaseWorld) {
			must(w.t, os.WriteFile(filepath.Join(w.par.state, "machines/erp/lease"), make([]byte, 512), 0o600))
		}, time.Second},
		"other boot": {func(w *leaseWorld) { w.par.boot = "par-1-2" }, time.Second},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			inLease(t, leaseLength, func(_ *testing.T, w *leaseWorld) {
				w.protect()
				w.cut()
				w.par.end()
				c.between(w)
				w.par.start()
				w.until(c.within, "it is stopped", func() bool { return !w.vm.runs() })
				w.heal()
				w.until(time.Minute, "it runs again", w.vm.runs)
			})
		})
	}
}

// TestGuardStopsWhatADeadAgentLeaves: nobody but the guard is there when the
// lease ends.
func TestGuardStopsWhatADeadAgentLeaves(t *testing.T) {
	inLease(t, leaseLength, func(t *testing.T, w *leaseWorld) {
		w.protect()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		o := agent.Options{FS: vfs.OS{}, State: w.par.state, Clock: w.par.clk, Boot: w.par.boot, Provider: func(recovery.Assignment, string) (provider.Provider, error) { return w.vm, nil }}
		go func() { ended <- agent.Guard(ctx, o, nil) }()
		w.during(2*leaseLength, "the guard leaves a machine alone whose lease is renewed", w.vm.runs)
		must(t, agent.Guard(ctx, o, func() { t.Error("a second guard watches") }))
		w.par.end()
		w.during(leaseLength/2, "the lease goes on for a while", w.vm.runs)
		w.until(leaseLength/2+time.Second, "the guard stops it", func() bool { return !w.vm.runs() })
		w.par.start()
		w.until(time.Minute, "the next agent starts it again", w.vm.runs)
		w.during(leaseLength, "and it runs", w.vm.runs)
		cancel()
		must(t, <-ended)
	})
}

// TestLeaseIsChanged: a longer lease holds when the target has it, a shorter one
// before, and none when the target has taken note.
func TestLeaseIsChanged(t *testing.T) {
	change := func(w *leaseWorld, length time.Duration) {
		w.as.Revision++
		w.as.Policy.Lease = length
		w.assign("par-1")
	}
	t.Run("grown", func(t *testing.T) {
		inLease(t, leaseLength, func(_ *testing.T, w *leaseWorld) {
			w.protect()
			w.cut()
			change(w, time.Hour)
			w.until(leaseLength, "it keeps the shorter one", func() bool { return !w.vm.runs() })
			w.heal()
			w.until(time.Minute, "both have the longer one", func() bool {
				return w.par.lease().Length == time.Hour && w.lyo.lease().Length == time.Hour && w.vm.runs()
			})
			w.cut()
			w.during(40*time.Minute, "it runs", w.vm.runs)
			w.until(20*time.Minute, "it is stopped", func() bool { return !w.vm.runs() })
		})
	})
	t.Run("shortened", func(t *testing.T) {
		inLease(t, time.Hour, func(t *testing.T, w *leaseWorld) {
			w.protect()
			w.cut()
			change(w, leaseLength)
			w.until(leaseLength, "it keeps the shorter one at once", func() bool { return !w.vm.runs() })
			if l := w.lyo.lease(); l.Length != time.Hour {
				t.Errorf("the target does not know: %+v", l)
			}
			w.heal()
			w.until(time.Minute, "both have it", func() bool { return w.lyo.lease().Length == leaseLength && w.vm.runs() })
		})
	})
	t.Run("ended", func(t *testing.T) {
		inLease(t, leaseLength, func(t *testing.T, w *leaseWorld) {
			w.protect()
			w.cut()
			change(w, 0)
			w.until(leaseLength, "it keeps it", func() bool { return !w.vm.runs() })
			if l := w.lyo.lease(); l.Length != leaseLength {
				t.Errorf("the target does not know: %+v", l)
			}
			w.heal()
			w.until(time.Minute, "both have none", func() bool { return w.par.status().Lease == nil && w.lyo.status().Lease == nil })
			w.until(time.Minute, "it runs", w.vm.runs)
			w.cut()
			w.during(3*leaseLength, "it runs on", w.vm.runs)
			res, err := leaseAsk(w, command.Lease, "lyo-1", command.LeaseRequest{Meta: w.meta()})
			if err != nil || res.Lease != nil {
				t.Errorf("a run finds %+v, %v", res.Lease, err)
			}
			w.heal()
			change(w, leaseLength)
			w.until(time.Minute, "both have it again", func() bool { return w.par.lease().Granted && w.lyo.lease().Granted })
		})
	})
}

// TestLateRenewal: a request that was late on its way brings no older word back.
func TestLateRenewal(t *testing.T) {
	inLease(t, leaseLength, func(t *testing.T, w *leaseWorld) {
		w.protect()
		w.as.Revision++
		w.as.Policy.Lease = time.Hour
		w.assign("par-1")
		w.until(time.Minute, "the target has the longer one", func() bool { return w.lyo.lease().Length == time.Hour })
		as := client.New(w.net.Medium(w.par.peer), "acme", func(string) (string, bool) { return w.lyo.addr, true }, rpc.Options{})
		defer as.Close()
		out, err := command.Renew.Call(t.Context(), as, "lyo-1", command.RenewRequest{Machine: "erp", Authority: w.auth, Rev: 1, Length: leaseLength, Stop: 5 * time.Second})
		if err != nil || out.Granted || !out.Stale || out.Rev < 2 {
			t.Errorf("an older request: %+v, %v", out, err)
		}
		if l := w.lyo.lease(); l.Length != time.Hour {
			t.Errorf("the target counts on %+v", l)
		}
	})
}

// TestLeaseAndWallClock: setting the wall clock of either host changes nothing.
func TestLeaseAndWallClock(t *testing.T) {
	for _, jump := range []time.Duration{10 * time.Hour, -10 * time.Hour} {
		t.Run(jump.String(), func(t *testing.T) {
			inLease(t, leaseLength, func(t *testing.T, w *leaseWorld) {
				w.protect()
				w.par.clk.Jump(jump)
				w.lyo.clk.Jump(-jump)
				w.during(leaseLength, "it runs", w.vm.runs)
				w.cut()
				w.par.clk.Jump(-2 * jump)
				w.lyo.clk.Jump(2 * jump)
				if took := w.until(leaseLength, "it is stopped", func() bool { return !w.vm.runs() }); took < leaseLength/2 {
					t.Errorf("it was stopped %s after the cut", took)
				}
			})
		})
	}
}

// TestLeaseAndSuspend: a host that slept for longer than the lease has lost it,
// though its monotonic clock stood still.
func TestLeaseAndSuspend(t *testing.T) {
	inLease(t, leaseLength, func(_ *testing.T, w *leaseWorld) {
		w.protect()
		w.cut()
		w.par.clk.Suspend(leaseLength)
		w.until(time.Second, "it is stopped at once", func() bool { return !w.vm.runs() })
		w.heal()
		w.until(time.Minute, "it runs again", w.vm.runs)
	})
}

// TestLeaseAndReboot: after a start of the host the right to run comes with the
// lease, or from a person who says so, and is recorded.
func TestLeaseAndReboot(t *testing.T) {
	inLease(t, leaseLength, func(t *testing.T, w *leaseWorld) {
		w.protect()
		w.cut()
		w.par.end()
		w.vm.set(recovery.PowerStopped)
		w.par.boot = "par-1-2"
		w.par.start()
		w.during(2*leaseLength, "it waits", func() bool { return !w.vm.runs() })
		if _, err := w.par.ag.Permit(t.Context(), "erp", "ann"); !fault.Is(err, fault.Refused) || !strings.Contains(fault.Hint(err), "--without-lease") {
			t.Errorf("a permit: %v (%s)", err, fault.Hint(err))
		}
		_, err := w.par.ag.PermitWithoutLease(t.Context(), "erp", "ann")
		must(t, err)
		if st := w.par.status(); !w.vm.runs() || st.Lease.Without != "ann" {
			t.Errorf("permitted: %+v", st.Lease)
		}
		for end := time.Now().Add(2 * leaseLength); time.Now().Before(end); <-time.After(time.Second) {
			if !w.vm.runs() {
				t.Fatal("a person has permitted it to run on")
			}
		}
		w.par.end()
		w.par.start()
		<-time.After(leaseLength)
		if !w.vm.runs() {
			t.Error("the next agent of the same boot stops it")
		}
		w.heal()
		<-time.After(30 * time.Second) // until then it runs against what the target counts on: a person has said so
		w.until(time.Minute, "the lease is granted", func() bool { return w.par.lease().Granted && w.par.lease().Without == "" })
		w.cut()
		w.until(leaseLength, "and kept", func() bool { return !w.vm.runs() })
	})
}

// TestLeaseTurnsWithTheRecord: the source keeps the word it gave under the record
// before until the target has the next one.
func TestLeaseTurnsWithTheRecord(t *testing.T) {
	inLease(t, leaseLength, func(t *testing.T, w *leaseWorld) {
		w.protect()
		w.cut()
		next := w.auth
		next.Epoch, next.Run = 2, "run-1"
		_, err := leaseAsk(w, command.Grant, "par-1", command.GrantRequest{Meta: w.meta(), Expect: w.auth, Next: next})
		must(t, err)
		w.until(leaseLength, "it is stopped", func() bool { return !w.vm.runs() })
		w.auth = next
		w.heal()
		w.until(time.Minute, "the lease goes on under the next record", func() bool {
			l := w.lyo.lease()
			return l.Epoch == 2 && l.Granted && w.par.lease().Granted
		})
	})
}

// TestUnassignUnderALease: a machine that runs on unprotected must not be counted
// on to stop.
func TestUnassignUnderALease(t *testing.T) {
	inLease(t, leaseLength, func(t *testing.T, w *leaseWorld) {
		w.protect()
		w.cut()
		meta := w.meta()
		if _, err := leaseAsk(w, command.Unassign, "par-1", command.UnassignRequest{Meta: meta}); !fault.Is(err, fault.Refused) {
			t.Errorf("unassigned while the target counts on the lease: %v", err)
		}
		w.heal()
		<-time.After(time.Minute)
		_, err := leaseAsk(w, command.Unassign, "par-1", command.UnassignRequest{Meta: meta})
		must(t, err)
		if l := w.lyo.lease(); l.Length != 0 {
			t.Errorf("the target counts on %+v", l)
		}
	})
}

// TestOldTargetGrantsNothing: the agent of the target does not know leases: there
// is none, and the machine runs as without.
func TestOldTargetGrantsNothing(t *testing.T) {
	inLease(t, leaseLength, func(t *testing.T, w *leaseWorld) {
		w.lyo.end()
		mux := rpc.NewMux()
		rpc.Handle(mux, command.Confirm.Name, func(context.Context, transport.Peer, command.ConfirmRequest) (command.ConfirmResult, error) {
			return command.ConfirmResult{Authority: w.auth, Power: recovery.PowerStopped}, nil
		})
		l, err := w.net.Medium(w.lyo.peer).Listen(t.Context(), w.lyo.addr)
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- rpc.Serve(ctx, l, mux, rpc.Info{}, logkit.Discard()) }()
		w.assign("par-1")
		w.until(time.Minute, "it runs", w.vm.runs)
		w.during(3*leaseLength, "it runs on", w.vm.runs)
		if st := w.par.status(); st.Lease == nil || st.Lease.Length != 0 || !strings.Contains(strings.Join(st.Notes, " "), "no lease yet") {
			t.Errorf("status: %+v, %q", st.Lease, st.Notes)
		}
		cancel()
		must(t, <-served)
	})
}

// FuzzDecodeLease: a file that a crash or another program left is refused or is
// what was written.
func FuzzDecodeLease(f *testing.F) {
	f.Add(agent.EncodeLease(time.Second, time.Minute))
	f.Add(make([]byte, 512))
	f.Fuzz(func(t *testing.T, b []byte) {
		sent, length, err := agent.DecodeLease(b)
		if err != nil {
			if !fault.Is(err, fault.Corrupt) {
				t.Errorf("kind: %v", err)
			}
			return
		}
		if length <= 0 || sent+length < sent {
			t.Errorf("sent %d, length %d", sent, length)
		}
	})
}
