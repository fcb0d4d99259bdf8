package agent_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// atOnce calls f n times at the same time and returns the errors.
func atOnce(n int, f func(i int) error) []error {
	errs := make([]error, n)
	begin := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-begin
			errs[i] = f(i)
		})
	}
	close(begin)
	wg.Wait()
	return errs
}

// onlyOne returns which call went through; the others were refused as conflicts.
func onlyOne(t *testing.T, what string, errs []error) int {
	t.Helper()
	won := -1
	for i, err := range errs {
		switch {
		case err == nil && won < 0:
			won = i
		case err == nil:
			t.Fatalf("%s: both %d and %d went through", what, won, i)
		case !fault.Is(err, fault.Conflict):
			t.Fatalf("%s: %v", what, err)
		}
	}
	if won < 0 {
		t.Fatalf("%s: none went through", what)
	}
	return won
}

// Runtimes that ask at the same time: one gets the epoch, and the number.
func TestOneOfManyIsGranted(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	const many = 16
	for round := range ident.Epoch(4) {
		metas := make([]command.Meta, many)
		for i := range metas {
			metas[i] = p.meta(fmt.Sprintf("run-%d-%d", round, i))
		}
		next := func(i int) recovery.Authority {
			a := p.auth
			a.Epoch, a.Run = a.Epoch+1, metas[i].Run
			return a
		}
		won := onlyOne(t, "grant", atOnce(many, func(i int) error {
			return p.a.ag.Grant(t.Context(), command.GrantRequest{Meta: metas[i], Expect: p.auth, Next: next(i)})
		}))
		if st := p.status("par-1"); !st.Authority.Same(next(won)) {
			t.Fatalf("%s was granted, %s is in force", next(won).Run, st.Authority.Run)
		}
		p.auth = next(won)
		p.fence++
		onlyOne(t, "claim", atOnce(many, func(i int) error {
			return p.a.ag.Claim(command.ClaimRequest{Meta: command.Meta{Machine: "erp", Run: metas[i].Run, Fence: p.fence}})
		}))
	}
	p.points("lyo-1", 1)
}

func TestUnassignedByManyAtOnce(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	for i, err := range atOnce(8, func(int) error {
		_, err := try(p, command.Unassign, "par-1", command.UnassignRequest{Meta: command.Meta{Machine: "erp"}})
		return err
	}) {
		if err != nil {
			t.Errorf("unassign %d: %v", i, err)
		}
	}
	if _, err := os.Stat(filepath.Join(p.a.state, "machines/erp")); !os.IsNotExist(err) {
		t.Errorf("the folder of the machine is still there: %v", err)
	}
}

// fakePair is a pair whose machine at par-1 is f.
func fakePair(t *testing.T, f *fakeProvider) *pair {
	t.Helper()
	p := newPair(t)
	p.a.end()
	p.a.fake = f
	p.a.start()
	return p
}

// assignBoth assigns the machine; it is not started.
func (p *pair) assignBoth() {
	p.t.Helper()
	for _, h := range []string{"lyo-1", "par-1"} {
		call(p, command.Assign, h, command.AssignRequest{Assignment: p.as, Authority: p.auth})
	}
}

// An agent that is ended in the middle of an operation waits for it: nothing
// writes its state folder afterwards, and the machine is let go.
func TestCloseWaitsForOperations(t *testing.T) {
	t.Parallel()
	frozen, thawed := make(chan struct{}, 100), make(chan struct{})
	var held, over atomic.Bool
	f := &fakeProvider{
		onFreeze: func(ctx context.Context) error {
			if !held.Load() {
				return nil
			}
			frozen <- struct{}{}
			<-ctx.Done()
			return context.Cause(ctx)
		},
		onThaw: func() {
			if held.Load() {
				<-thawed
				over.Store(true)
			}
		},
	}
	p := fakePair(t, f)
	p.as.Policy.Every = time.Hour
	p.assignBoth()
	p.until("lyo-1", "the first point", func(st command.MachineStatus) bool { return st.Tip != nil })
	held.Store(true)
	meta := p.meta("run-1")
	asked := make(chan error, 1)
	go func() {
		_, err := try(p, command.Drain, "par-1", command.DrainRequest{Meta: meta})
		asked <- err
	}()
	<-frozen
	p.a.cancel()
	if err := <-p.a.done; err != nil { // Run has ended, the operation has not
		t.Error(err)
	}
	if err := <-asked; err == nil {
		t.Error("the operation that was cut short has a result")
	}
	ended := make(chan error, 1)
	go func() { ended <- p.a.ag.Close() }()
	close(thawed)
	if err := <-ended; err != nil || !over.Load() {
		t.Errorf("close: %v; the machine was let go before: %t", err, over.Load())
	}
	must(t, p.a.medium.Close())
	p.a.ag = nil
}

// A machine that another site may run is stopped, even if that takes more than
// one try.
func TestFenceTriesAgain(t *testing.T) {
	t.Parallel()
	var tries atomic.Int32
	f := &fakeProvider{onStop: func() error {
		if tries.Add(1) == 1 {
			return fault.Errorf(fault.Failed, "it is deaf")
		}
		return nil
	}}
	p := fakePair(t, f)
	p.protect()
	next := recovery.Authority{Epoch: 2, Active: "lyon", Direction: []recovery.Pair{back}, Run: "run-1", Uncommitted: true}
	call(p, command.Grant, "lyo-1", command.GrantRequest{Meta: p.meta("run-1"), Expect: p.auth, Next: next})
	st := p.until("par-1", "it is stopped", func(st command.MachineStatus) bool {
		return st.Power == recovery.PowerStopped && strings.HasPrefix(st.Reason, "stopped: epoch 2")
	})
	if _, stops := f.counts(); stops != 2 || st.Role != command.RoleTarget {
		t.Errorf("%d stops: %+v", stops, st)
	}
}

// A crash between learning that another site has the machine, and stopping it.
func TestFenceAfterACrash(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	p.a.end()
	next := recovery.Authority{Epoch: 2, Active: "lyon", Direction: []recovery.Pair{back}, Run: "run-1", Uncommitted: true}
	call(p, command.Grant, "lyo-1", command.GrantRequest{Meta: p.meta("run-1"), Expect: p.auth, Next: next})
	name := filepath.Join(p.a.state, "machines/erp/machine.json")
	b, err := os.ReadFile(name)
	must(t, err)
	learned := strings.NewReplacer(
		`"epoch": 1`, `"epoch": 2`, `"active": "paris"`, `"active": "lyon", "run": "run-1", "uncommitted": true`,
		`"from": "par-1"`, `"from": "lyo-1"`, `"to": "lyo-1"`, `"to": "par-1"`,
	).Replace(string(b))
	must(t, os.WriteFile(name, []byte(learned), 0o600))
	p.a.start()
	st := p.until("par-1", "it is stopped", func(st command.MachineStatus) bool { return st.Power == recovery.PowerStopped })
	if st.Authority.Epoch != 2 || st.Role != command.RoleTarget {
		t.Errorf("after the start: %+v", st)
	}
}

// fullFS takes no record any more while it is full.
type fullFS struct {
	vfs.FS
	full atomic.Bool
}

func (f *fullFS) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	if f.full.Load() && strings.HasSuffix(name, "machine.json"+vfs.TempSuffix) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.ENOSPC}
	}
	return f.FS.OpenFile(name, flag, perm)
}

// A full disk does not keep an old primary running.
func TestFenceWithAFullDisk(t *testing.T) {
	t.Parallel()
	f := &fakeProvider{}
	p := newPair(t)
	p.a.end()
	disk := &fullFS{FS: vfs.OS{}}
	p.a.fake, p.a.fs = f, disk
	p.a.start()
	p.protect()
	disk.full.Store(true)
	next := recovery.Authority{Epoch: 2, Active: "lyon", Run: "run-1", Uncommitted: true}
	var confirmed command.ConfirmResult
	must(t, clientOf(t, p.b.id, p.a.listen).Call(t.Context(), "par-1", command.Confirm.Name, command.ConfirmRequest{Machine: "erp", Authority: next}, &confirmed))
	if confirmed.Authority.Epoch != 1 {
		t.Errorf("a record that is not stored is confirmed: %+v", confirmed)
	}
	p.until("par-1", "it is stopped", func(st command.MachineStatus) bool { return st.Power == recovery.PowerStopped })
	disk.full.Store(false)
	meta := p.meta("run-x")
	meta.Epoch = 0
	if _, err := try(p, command.Start, "par-1", command.StartRequest{Meta: meta}); !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), "epoch 2") {
		t.Errorf("start: %v", err)
	}
	call(p, command.Grant, "lyo-1", command.GrantRequest{Meta: p.meta("run-1"), Expect: p.auth, Next: next})
	p.until("par-1", "it learns", func(st command.MachineStatus) bool {
		return st.Authority.Epoch == 2 && st.Power == recovery.PowerStopped
	})
}

// A start whose outcome the provider could not tell is looked for, not made
// again.
func TestUnknownStartIsLookedFor(t *testing.T) {
	t.Parallel()
	f := &fakeProvider{onStart: func() error { return fault.Errorf(fault.Unknown, "its process cannot be read") }}
	p := fakePair(t, f)
	p.as.Policy.StartAlone = "never"
	p.b.end() // nobody confirms: it is not started by itself
	call(p, command.Assign, "par-1", command.AssignRequest{Assignment: p.as, Authority: p.auth})
	if _, err := try(p, command.Start, "par-1", command.StartRequest{Meta: p.meta("run-1")}); !fault.Is(err, fault.Unknown) {
		t.Fatalf("start: %v", err)
	}
	if st := p.status("par-1"); st.Power != recovery.PowerUnknown {
		t.Errorf("after a start of unknown outcome it is %s", st.Power)
	}
	res := call(p, command.Start, "par-1", command.StartRequest{Meta: p.meta("run-1")})
	if starts, _ := f.counts(); starts != 1 || res.Power != recovery.PowerRunning {
		t.Errorf("%d starts, then %+v", starts, res)
	}
	if st := call(p, command.Stop, "par-1", command.StopRequest{Meta: p.meta("run-1")}); st.Power != recovery.PowerStopped {
		t.Errorf("stop: %+v", st)
	}
}

// A cycle that a new assignment interrupts is made again at once, not after
// the policy's interval.
func TestInterruptedCycleIsStillDue(t *testing.T) {
	t.Parallel()
	frozen := make(chan struct{}, 100)
	var cycles atomic.Int32
	f := &fakeProvider{onFreeze: func(ctx context.Context) error {
		frozen <- struct{}{}
		if cycles.Add(1) > 1 {
			return nil
		}
		<-ctx.Done()
		return context.Cause(ctx)
	}}
	f.set(recovery.PowerRunning)
	p := fakePair(t, f)
	p.as.Policy.Every = time.Hour
	p.as.Exec.FreezeMax = time.Hour
	p.assignBoth()
	<-frozen
	p.as.Revision++
	p.as.Policy.RPO = time.Minute
	p.assignBoth()
	p.until("lyo-1", "the first point", func(st command.MachineStatus) bool { return st.Tip != nil })
}

// A thaw that fails is tried again until the machine goes on.
func TestThawIsTriedAgain(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	heals := filepath.Join(t.TempDir(), "heals")
	must(t, os.WriteFile(heals, nil, 0o600))
	count := filepath.Join(t.TempDir(), "count")
	p.as.Exec.Freeze = []string{"true"}
	p.as.Exec.Thaw = []string{"sh", "-c", `echo x >> "$1"; test -e "$0"`, heals, count}
	p.protect()
	must(t, os.Remove(heals))
	p.until("par-1", "the failure is shown", func(st command.MachineStatus) bool {
		return strings.HasPrefix(st.Reason, "may stand still: cannot thaw machine erp")
	})
	tries := func() int {
		b, err := os.ReadFile(count)
		must(t, err)
		return len(b) / 2
	}
	before, began := tries(), time.Now()
	p.until("par-1", "two more", func(command.MachineStatus) bool { return tries() >= before+2 })
	if took := time.Since(began); took < 900*time.Millisecond { // a second at least lies between two
		t.Errorf("two tries in %s: it does not pause", took)
	}
	must(t, os.WriteFile(heals, nil, 0o600))
	p.until("par-1", "it goes on", func(st command.MachineStatus) bool { return st.Reason == "" })
	p.points("lyo-1", 1)
}

// A host that lost its power while a machine was held still by a command: no
// thaw can succeed any more, and the agent starts all the same.
func TestFrozenMachineIsGone(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.as.Exec.Freeze, p.as.Exec.Thaw = []string{"true"}, []string{"true"}
	p.as.Policy.StartAlone = "never"
	p.protect()
	p.a.end()
	p.b.end()
	killMachines(t, p.promises)
	name := filepath.Join(p.a.state, "machines/erp/machine.json")
	b, err := os.ReadFile(name)
	must(t, err)
	marked := strings.Replace(string(b), `"desired"`, `"frozen": {"app": true}, "desired"`, 1)
	marked = strings.Replace(marked, `"true"`, `"false"`, -1)
	must(t, os.WriteFile(name, []byte(marked), 0o600))
	p.a.start()
	if b, err := os.ReadFile(name); err != nil || strings.Contains(string(b), "frozen") {
		t.Errorf("the mark is still there: %v", err)
	}
}

// A store that cannot be read does not keep the agent from its other work, and
// heals when it can be read again.
func TestDamagedReplicaIsShown(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	p.b.end()
	name := filepath.Join(p.as.Hosts[1].Store, "erp/replica.json")
	b, err := os.ReadFile(name)
	must(t, err)
	must(t, os.WriteFile(name, []byte("{"), 0o600))
	p.b.start()
	st := p.until("lyo-1", "the damage is shown", func(st command.MachineStatus) bool { return st.State == recovery.Degraded })
	if !strings.Contains(st.Reason, "replica.json") {
		t.Errorf("reason is %q", st.Reason)
	}
	must(t, os.WriteFile(name, b, 0o600))
	p.points("lyo-1", 2)
}

// A disk that is mounted later than the agent starts.
func TestDiskComesLate(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	p.a.end()
	killMachines(t, p.promises)
	must(t, os.Rename(p.disk, p.disk+".unmounted"))
	p.a.start()
	p.until("par-1", "it is shown", func(st command.MachineStatus) bool {
		return st.Power == recovery.PowerStopped && strings.Contains(st.Reason, p.disk)
	})
	must(t, os.Rename(p.disk+".unmounted", p.disk))
	p.until("par-1", "it runs", func(st command.MachineStatus) bool { return st.Power == recovery.PowerRunning && st.Reason == "" })
	p.points("lyo-1", 1)
}

// The right to start that a host gave up comes back with the record, whoever
// brings it.
func TestLockEndsWithTheRecord(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	call(p, command.Stop, "par-1", command.StopRequest{Meta: p.meta("run-1"), Lock: true})
	if _, err := try(p, command.Start, "par-1", command.StartRequest{Meta: p.meta("run-1")}); !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), "locked") {
		t.Errorf("start of a locked machine: %v", err)
	}
	p.a.end() // it learns of the record from its peer
	next := p.auth
	next.Epoch, next.Run = 2, "run-1-back"
	call(p, command.Grant, "lyo-1", command.GrantRequest{Meta: p.meta("run-1-back"), Expect: p.auth, Next: next})
	p.auth = next
	p.a.start()
	p.until("par-1", "it learns", func(st command.MachineStatus) bool { return st.Authority.Epoch == 2 })
	call(p, command.Grant, "par-1", command.GrantRequest{Meta: p.meta("run-1-back"), Expect: p.auth, Next: next})
	call(p, command.Start, "par-1", command.StartRequest{Meta: p.meta("run-1-back")})
}

// A store that is not mounted is not taken for an empty one.
func TestStoreIsNotMounted(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	tip := p.status("lyo-1").Tip
	p.b.end()
	store := p.as.Hosts[1].Store
	must(t, os.Rename(store, store+".unmounted"))
	p.b.start()
	p.until("lyo-1", "it is shown", func(st command.MachineStatus) bool {
		return strings.Contains(st.Reason, "the replica of machine erp is gone")
	})
	p.until("par-1", "the sender says why", func(st command.MachineStatus) bool { return strings.Contains(st.Reason, "is gone") })
	if _, err := os.Stat(store); !os.IsNotExist(err) {
		t.Errorf("another replica was begun: %v", err)
	}
	must(t, os.Rename(store+".unmounted", store))
	p.until("lyo-1", "it goes on", func(st command.MachineStatus) bool { return st.Tip != nil && st.Tip.Seq > tip.Seq })
	if points := call(p, command.Points, "lyo-1", command.PointsRequest{Machine: "erp"}).Points; points[0].Seq > tip.Seq {
		t.Errorf("the points of before are gone: the oldest is %d", points[0].Seq)
	}
	p.b.end()
	must(t, os.RemoveAll(filepath.Join(store, "erp"))) // lost for good
	must(t, os.Mkdir(filepath.Join(store, "erp"), 0o700))
	p.b.start()
	p.until("lyo-1", "it is copied anew", func(st command.MachineStatus) bool { return st.Tip != nil })
}

// A host that stays the source and gets another target.
func TestNewTarget(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	c := newNode(t, p.ca, "nice", "nic-1")
	c.start()
	t.Cleanup(c.end)
	p.as.Hosts = append(p.as.Hosts, recovery.Host{Name: "nic-1", Site: "nice", Addr: c.listen, Store: filepath.Join(t.TempDir(), "store")})
	p.protect()
	next := p.auth
	next.Epoch, next.Run, next.Direction = 2, "move", []recovery.Pair{{From: "par-1", To: "nic-1"}}
	cl := clientOf(t, mustRuntime(t, p.ca), c.listen)
	must(t, cl.Call(t.Context(), "nic-1", command.Assign.Name, command.AssignRequest{Assignment: p.as, Authority: next}, nil))
	p.grant("move", "paris", false, next.Direction...)
	p.until("par-1", "a point at the new target", func(st command.MachineStatus) bool { return st.Tip != nil && st.Tip.Epoch == 2 })
	var points command.PointsResult
	must(t, cl.Call(t.Context(), "nic-1", command.Points.Name, command.PointsRequest{Machine: "erp"}, &points))
	if len(points.Points) == 0 {
		t.Error("the new target has no point")
	}
}
