package sim

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/fnv"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/internal/vfs/faultfs"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/store"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/simnet"
)

var (
	errFull   = syscall.ENOSPC
	errBroken = syscall.EIO
)

// Violation is a rule that did not hold.
type Violation struct {
	Rule int // of section 4; 0: the end was not reached
	At   time.Duration
	Text string
}

func (v *Violation) String() string {
	if v.Rule == 0 {
		return fmt.Sprintf("no good end: %s", v.Text)
	}
	return fmt.Sprintf("rule %d, after %.3f s: %s", v.Rule, v.At.Seconds(), v.Text)
}

// Result is what became of a scenario.
type Result struct {
	Violation *Violation // the first; nil: all rules held
	Hash      uint64     // of all that happened
	Trace     []string   // what happened, if it was to be kept
	Stats     map[string]int
}

// world is one simulation under way.
type world struct {
	sc       *Scenario
	verbose  bool
	began    time.Time
	net      *simnet.Net
	hosts    map[string]*host
	controls map[string]*control
	models   map[string]*model
	names    []string // of the models, in order
	estate   *plans.Estate
	plan     *plans.Plan
	assigned []recovery.Assignment

	ctx    context.Context // of what is done in the background
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu        sync.Mutex
	over      bool
	rng       *rand.Rand
	hash      hash.Hash64
	line      []byte // of count
	trace     []string
	failed    *Violation
	alarm     chan struct{}                // closed with the first violation
	cuts      map[string]map[string]string // of links: why, and whose words are lost; "": of both
	witness   witness
	manifests manifests
	stats     map[string]int
}

func (w *world) rand(purpose string) *rand.Rand { return stream(w.sc.Seed, purpose) }

// draw is a time up to most, from the seed.
func (w *world) draw(most time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.drawLocked(most)
}

func (w *world) drawLocked(most time.Duration) time.Duration {
	return time.Duration(w.rng.Int64N(int64(most)))
}

// count makes something part of what has to repeat; w.mu is held.
func (w *world) count(what, which string) {
	b := binary.LittleEndian.AppendUint64(w.line[:0], uint64(time.Since(w.began))) //nolint:gosec // not negative
	b = append(append(append(b, what...), ' '), which...)
	_, _ = w.hash.Write(b) // never fails
	w.line = b
}

// log records what happened; w.mu is held.
func (w *world) log(who, format string, args ...any) {
	line := fmt.Sprintf("%10.4f  %-5s %s", time.Since(w.began).Seconds(), who, fmt.Sprintf(format, args...))
	_, _ = w.hash.Write([]byte(line)) // never fails
	if w.verbose {
		w.trace = append(w.trace, line)
	}
}

func (w *world) note(who, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log(who, format, args...)
}

// said records how something that was asked for ended.
func (w *world) said(who, what string, err error) {
	if err == nil {
		w.note(who, "%s: ok", what)
		return
	}
	w.note(who, "%s: %v", what, err)
}

// violate records a breach of a rule; w.mu is held. The first one counts.
func (w *world) violate(rule int, format string, args ...any) {
	if w.failed != nil || w.over {
		return
	}
	w.failed = &Violation{Rule: rule, At: time.Since(w.began), Text: fmt.Sprintf(format, args...)}
	w.log("", "VIOLATION %s", w.failed)
	close(w.alarm)
}

// after calls f in the virtual time; not when all is over.
func (w *world) after(d time.Duration, f func()) {
	time.AfterFunc(d, func() {
		w.mu.Lock()
		over := w.over
		w.mu.Unlock()
		if !over {
			f()
		}
	})
}

// background runs f on its own until it ends; all is waited for.
func (w *world) background(f func(ctx context.Context)) {
	if w.ctx.Err() == nil {
		w.work.Go(func() { f(w.ctx) })
	}
}

func (w *world) addr(host string) (string, bool) { return host + ":" + port, w.hosts[host] != nil }

// peers are all that have a link with a host or a runtime.
func (w *world) peers(of string) []string {
	var all []string
	for _, n := range hostNames {
		if n != of {
			all = append(all, n)
		}
	}
	if w.hosts[of] != nil {
		all = append(all, controlNames...)
	}
	return all
}

// isolate cuts a host off from all, or ends that; why tells several cuts of
// one link apart. w.mu is held.
func (w *world) isolate(name, why string, cut bool) {
	for _, p := range w.peers(name) {
		w.part(name, p, why, "", cut)
	}
}

// part cuts the link between a and b, or the way from mute to the other only,
// or ends that; why tells several cuts of one link apart. w.mu is held.
func (w *world) part(a, b, why, mute string, cut bool) {
	key := min(a, b) + " " + max(a, b)
	if w.cuts[key] == nil {
		w.cuts[key] = map[string]string{}
	}
	why += " " + a
	switch {
	case cut && mute == "":
		w.cuts[key][why] = mute
		w.net.Partition(a, b)
	case cut:
		w.cuts[key][why] = mute
		w.net.Silence(mute, otherOf(a, b, mute))
	default:
		delete(w.cuts[key], why)
		if len(w.cuts[key]) == 0 { // else the link stays as it is
			w.net.Heal(a, b)
		}
	}
}

func otherOf(a, b, name string) string {
	if name == a {
		return b
	}
	return a
}

// apart reports whether something does not arrive over a link; w.mu is held.
func (w *world) apart(a, b string) bool { return len(w.cuts[min(a, b)+" "+max(a, b)]) > 0 }

// cutOff reports whether a host is without power or reached by nobody, and
// reaches nobody; w.mu is held.
func (w *world) cutOff(name string) bool {
	for _, p := range w.peers(name) {
		whole := false
		for _, mute := range w.cuts[min(name, p)+" "+max(name, p)] {
			whole = whole || mute == ""
		}
		if !whole {
			return false
		}
	}
	return true
}

func newWorld(sc *Scenario, verbose bool) *world {
	w := &world{sc: sc, verbose: verbose, began: time.Now(), hosts: map[string]*host{}, controls: map[string]*control{}, models: map[string]*model{},
		rng: stream(sc.Seed, "world"), hash: fnv.New64a(), alarm: make(chan struct{}), cuts: map[string]map[string]string{}, stats: map[string]int{}}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	w.witness, w.manifests = newWitness(), manifests{}
	w.net = simnet.New(sc.Seed)
	w.net.SetDefault(simnet.Link{Delay: sc.Delay, Jitter: sc.Jitter})
	for i, name := range hostNames {
		h := &host{w: w, peer: transport.Peer{Estate: estate, Site: []string{paris, lyon}[i], Host: name}, rng: w.rand("disk " + name),
			disk: faultfs.New(), on: true, guests: map[string]*guest{}, exits: map[string]string{}}
		h.disk.SetReflink(!sc.NoReflink)
		w.hosts[name] = h
	}
	w.hosts[lyo].offset = sc.Offset
	for _, name := range controlNames {
		w.controls[name] = &control{w: w, name: name, kept: store.NewMemory()}
	}
	return w
}

// build makes the estate and the disks of its machines.
func (w *world) build() error {
	r := w.rand("estate")
	mk := func(site, host string) plans.Site {
		return plans.Site{Name: site, Clouds: []plans.Cloud{{Name: site, Hosts: []plans.Host{{Name: host, Addr: host, Store: storeDir, Allow: []string{"mark", "ready"}}}}},
			Networks: []plans.Network{{Name: "lan", CIDR: "10.0.0.0/24"}, {Name: "bubble", CIDR: "10.9.0.0/24", Isolated: true}}}
	}
	policy := recovery.Policy{Name: "sim", Every: w.sc.Every, AppEvery: 3 * w.sc.Every, Keep: w.sc.Keep, Codec: w.sc.Codec}
	w.estate = &plans.Estate{Name: estate, Allow: []string{"notify"}, Policies: []recovery.Policy{policy}, Sites: []plans.Site{mk(paris, par), mk(lyon, lyo)}}
	for i, blocks := range w.sc.Machines {
		name := fmt.Sprintf("m%d", i+1)
		m := plans.Machine{Name: name, Host: par, Replica: lyo, Policy: "sim", Protected: true, Exec: &recovery.Exec{Start: []string{"run"}, ForceAfter: 2 * time.Second},
			Ready: &recovery.Check{Exec: []string{"ready"}, Every: time.Second, Within: time.Minute}}
		a := recovery.Assignment{Version: recovery.FormatVersion, Revision: 1, Estate: estate, Machine: name, HomeSite: paris, Policy: policy, Exec: m.Exec, Ready: m.Ready,
			Hosts:     []recovery.Host{{Name: par, Site: paris, Addr: par + ":" + port, Store: storeDir}, {Name: lyo, Site: lyon, Addr: lyo + ":" + port, Store: storeDir}},
			Addresses: map[string]recovery.Address{}, Allow: map[string][]string{par: {"mark", "ready"}, lyo: {"mark", "ready"}}}
		for j, n := range blocks {
			d := recovery.Disk{Name: fmt.Sprintf("d%d", j+1), Key: r.Uint64(), Paths: map[string]string{paris: fmt.Sprintf("/vm/%s-d%d", name, j+1)}}
			d.ID = ident.DiskID{ID: ident.NewID()}
			if w.sc.Outside {
				d.Paths[lyon] = d.Paths[paris]
			}
			m.Disks = append(m.Disks, plans.Disk{Name: d.Name, File: d.Paths[paris]})
			a.Disks = append(a.Disks, d)
			if err := w.makeDisk(w.hosts[par].disk, d.Paths[paris], int64(n)*blockSize); err != nil {
				return err
			}
		}
		if err := w.hosts[lyo].disk.MkdirAll("/vm", 0o755); err != nil {
			return err
		}
		w.estate.Machines = append(w.estate.Machines, m)
		w.assigned = append(w.assigned, a)
		w.models[name] = newModel(name, a.Disks, blocks)
		w.names = append(w.names, name)
	}
	w.plan = w.makePlan()
	return plans.Check(w.plan, w.estate)
}

func (w *world) makeDisk(fsys vfs.FS, path string, size int64) error {
	if err := fsys.MkdirAll("/vm", 0o755); err != nil {
		return err
	}
	f, err := fsys.OpenFile(path, vfs.CreateTrunc, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Sync(), f.Close(), fsys.SyncDir("/vm"))
}

// makePlan is a plan with a program beside the runtime, one on the hosts and
// an action: each has an effect that happens once.
func (w *world) makePlan() *plans.Plan {
	pos := func(line int) plans.Pos { return plans.Pos{File: "all.lua", Line: line} }
	run := func(line int, name, on string) plans.Step {
		return plans.Step{Kind: plans.StepExec, Name: name, Within: time.Minute, Only: plans.AllTypes(), Pos: pos(line), Exec: &plans.ExecStep{Cmd: strings.Fields(name), On: on}}
	}
	p := &plans.Plan{Name: "all", From: paris, To: lyon, Pos: pos(1), Shutdown: plans.Shutdown{ForceAfter: 20 * time.Second},
		Failover: plans.Phase{Before: []plans.Step{run(3, "notify desk", "")}}}
	for i, name := range w.names {
		p.Items = append(p.Items, plans.Item{Group: &plans.Group{Name: "g-" + name, Pos: pos(10 * (i + 1)), Machines: []plans.MachineRef{{Name: name}},
			Phase: plans.Phase{After: []plans.Step{run(10*(i+1)+1, "mark "+name, name)}}}})
	}
	last := &p.Items[len(p.Items)-1].Group.Phase.After
	*last = append(*last, plans.Step{Kind: plans.StepAction, Name: "ticket", Within: time.Minute, Only: plans.AllTypes(), Pos: pos(90), Action: &plans.FuncRef{Pos: pos(90)}})
	return p
}

// runID names the runs of a runtime after each other.
func (w *world) runID(rt string) func(string) string {
	return func(plan string) string {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.witness.runs++
		return fmt.Sprintf("%s-%s-%d", rt, plan, w.witness.runs)
	}
}
