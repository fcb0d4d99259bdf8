package agent_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/drrun/drrun/agent"
	"github.com/drrun/drrun/agent/client"
	"github.com/drrun/drrun/agent/provider"
	"github.com/drrun/drrun/agent/tracker"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/pki"
	"github.com/drrun/drrun/transport/quicnet"
	"github.com/drrun/drrun/transport/rpc"
)

// TestMain makes this binary the protected machine as well.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "ledger" {
		ledger(os.Args[2], os.Args[3])
		return
	}
	os.Exit(m.Run())
}

const (
	diskBlocks = 256
	blockSize  = 4096
)

// ledger is the machine: it counts on its disk, block after block, and notes
// in a file outside of it what it has promised.
func ledger(disk, promises string) {
	d, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	p, err := os.OpenFile(promises, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	block := make([]byte, blockSize)
	if _, err := d.ReadAt(block, 0); err != nil {
		os.Exit(1)
	}
	// Often enough to write in the middle of everything; the agents need the rest.
	tick := time.NewTicker(time.Millisecond)
	// A test that was killed leaves its machine behind: it does not run for ever.
	limit := time.Now().Add(10 * time.Minute)
	for n := binary.LittleEndian.Uint64(block) + 1; time.Now().Before(limit); n++ {
		for i := 0; i < blockSize; i += 8 {
			binary.LittleEndian.PutUint64(block[i:], n)
		}
		for _, off := range []int64{blockSize * (1 + int64(n%(diskBlocks-1))), 0} {
			if _, err := d.WriteAt(block, off); err != nil {
				os.Exit(1)
			}
		}
		fmt.Fprintln(p, n)
		<-tick.C
	}
}

// counted returns the last number on a disk, and fails if the blocks behind it
// are not what was written.
func counted(t *testing.T, disk string) uint64 {
	t.Helper()
	b, err := os.ReadFile(disk)
	if err != nil || len(b) < diskBlocks*blockSize {
		t.Fatalf("disk %s has %d bytes: %v", disk, len(b), err)
	}
	n := binary.LittleEndian.Uint64(b)
	for k := n; k > 0 && n-k < diskBlocks-2; k-- {
		off := blockSize * (1 + int(k%(diskBlocks-1)))
		if got := binary.LittleEndian.Uint64(b[off:]); got != k && got != k+diskBlocks-1 {
			t.Fatalf("disk %s counts %d, and holds %d where %d was written", disk, n, got, k)
		}
	}
	return n
}

// written returns the last number on a disk that is being written.
func written(t *testing.T, disk string) uint64 {
	t.Helper()
	f, err := os.Open(disk)
	must(t, err)
	defer f.Close()
	var b [8]byte
	_, err = f.ReadAt(b[:], 0)
	must(t, err)
	return binary.LittleEndian.Uint64(b[:])
}

// promised returns the last number that the machine promised.
func promised(t *testing.T, file string) uint64 {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	lines := strings.Fields(string(b))
	if len(lines) == 0 {
		return 0
	}
	n, err := strconv.ParseUint(lines[len(lines)-1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// pair is two hosts at two sites, joined to one estate, and a runtime.
type pair struct {
	t        *testing.T
	ca       *pki.CA
	a, b     *node
	rt       *client.Client
	as       recovery.Assignment
	auth     recovery.Authority // the record in force, as the test knows it
	fence    ident.Fence
	disk     string // at a
	promises string
	ops      int
	between  func() // two steps of a run; may be nil
}

// step is called between two steps of a run.
func (p *pair) step() {
	if p.between != nil {
		p.between()
	}
}

// restart ends both agents and starts them again; machines run on.
func (p *pair) restart() {
	p.t.Helper()
	for _, n := range []*node{p.a, p.b} {
		n.end()
		n.start()
	}
	for _, h := range []string{"par-1", "lyo-1"} {
		p.status(h)
	}
}

// node is one host; its agent can be ended and started again.
type node struct {
	t      *testing.T
	id     *pki.Identity
	state  string
	listen string
	boot   string
	log    *slog.Logger
	fake   *fakeProvider // nil: the exec provider
	fs     vfs.FS        // nil: the machine's own
	clk    *clock.Skewed // its wall clock can be set
	// tracker finds what changed; nil: the agent's own.
	tracker tracker.Tracker

	ag     *agent.Agent
	cancel context.CancelFunc
	done   chan error
	medium *quicnet.Medium
	ended  func() // the agent has ended; may be nil
}

var nodes atomic.Uint32

// ownAddress is a loopback address of one node alone, with a port that the
// kernel hands out to nobody: while an agent is down its port stays free.
func ownAddress() string {
	n, pid := nodes.Add(1), os.Getpid()
	return fmt.Sprintf("127.%d.%d.%d:%d", 100+pid%100, 1+n/250%250, 1+n%250, 20000+pid/100%10000)
}

func newNode(t *testing.T, ca *pki.CA, site, host string) *node {
	t.Helper()
	req, err := pki.NewRequest()
	must(t, err)
	chain, err := ca.SignHost(req.CSR(), site, host)
	must(t, err)
	id, err := req.Identity(chain, ca.CertPEM())
	must(t, err)
	return &node{
		t: t, id: id, state: t.TempDir(), listen: ownAddress(), clk: clock.NewSkewed(clock.Real{}),
		log: slog.New(slog.NewTextHandler(&testLog{t: t, host: host}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

// testLog writes a log to the test's, while it runs.
type testLog struct {
	t    *testing.T
	host string
	mu   sync.Mutex
	over bool
}

func (l *testLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.t.Context().Err() == nil && !l.over {
		l.t.Logf("%s %s", l.host, bytes.TrimSpace(p))
	}
	return len(p), nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v (hint: %s)", err, fault.Hint(err))
	}
}

func (n *node) start() {
	n.t.Helper()
	n.medium = quicnet.New(quicnet.Fixed(n.id), quicnet.Options{})
	fsys := n.fs
	if fsys == nil {
		fsys = vfs.OS{}
	}
	var fake func(recovery.Assignment, string) (provider.Provider, error)
	if n.fake != nil {
		fake = func(recovery.Assignment, string) (provider.Provider, error) { return n.fake, nil }
	}
	ag, err := agent.Open(n.t.Context(), agent.Options{
		Provider: fake,
		FS:       fsys, State: n.state, Medium: n.medium, Listen: n.listen,
		Self:  func() (transport.Peer, bool) { return n.id.Peer(), true },
		Clock: n.clk, Log: n.log, Version: "test", Env: os.Environ(), Boot: n.boot,
	})
	must(n.t, err)
	if n.tracker != nil {
		ag.SetTracker(n.tracker)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.ag, n.cancel, n.done = ag, cancel, make(chan error, 1)
	listens, gaveUp := context.WithCancel(n.t.Context())
	go func() {
		err := ag.Run(ctx)
		gaveUp()
		n.done <- err
	}()
	addr := ag.Addr(listens)
	if addr == nil {
		n.t.Fatalf("the agent does not listen: %v", <-n.done)
	}
	n.listen = addr.String() // the same again after a restart
}

// freed waits until nobody has the node's port: after an agent has ended, a program
// that is just being started may hold its socket for a moment, until it is executed.
func (n *node) freed() {
	n.t.Helper()
	for {
		port, err := net.ListenPacket("udp", n.listen)
		if err == nil {
			must(n.t, port.Close())
			return
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			n.t.Fatal(err)
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-n.t.Context().Done(): // nobody starts it again
			return
		}
	}
}

// end ends the agent as a shutdown does: machines go on running.
func (n *node) end() {
	n.t.Helper()
	if n.ag == nil {
		return
	}
	n.cancel()
	if err := <-n.done; err != nil {
		n.t.Errorf("run: %v", err)
	}
	if err := n.ag.Close(); err != nil {
		n.t.Errorf("close: %v", err)
	}
	if err := n.medium.Close(); err != nil {
		n.t.Errorf("close medium: %v", err)
	}
	n.ag = nil
	n.freed()
	if n.ended != nil {
		n.ended()
	}
}

func newPair(t *testing.T) *pair {
	t.Helper()
	ca, err := pki.CreateCA(vfs.OS{}, t.TempDir(), "acme", clock.Real{})
	must(t, err)
	rtID, err := ca.IssueRuntime("shell")
	must(t, err)
	p := &pair{t: t, ca: ca, a: newNode(t, ca, "paris", "par-1"), b: newNode(t, ca, "lyon", "lyo-1"), fence: 1}
	p.a.start()
	p.b.start()
	dir := t.TempDir()
	p.disk, p.promises = filepath.Join(dir, "erp.img"), filepath.Join(dir, "promises")
	must(t, os.WriteFile(p.disk, make([]byte, diskBlocks*blockSize), 0o600))
	p.as = recovery.Assignment{
		Version: 1, Revision: 1, Estate: "acme", Machine: "erp", HomeSite: "paris",
		Hosts: []recovery.Host{
			{Name: "par-1", Site: "paris", Addr: p.a.listen, Store: filepath.Join(t.TempDir(), "store")},
			{Name: "lyo-1", Site: "lyon", Addr: p.b.listen, Store: filepath.Join(t.TempDir(), "store")},
		},
		Disks:  []recovery.Disk{{Name: "data", ID: ident.NewDiskID(), Key: 42, Paths: map[string]string{"paris": p.disk}}},
		Policy: recovery.Policy{Name: "test", Every: 100 * time.Millisecond},
		Exec:   &recovery.Exec{Start: []string{os.Args[0], "ledger", "{disk.data}", p.promises}, ForceAfter: 5 * time.Second},
	}
	p.auth = recovery.Authority{Epoch: 1, Active: "paris", Direction: []recovery.Pair{{From: "par-1", To: "lyo-1"}}, At: time.Now()}
	medium := quicnet.New(quicnet.Fixed(rtID), quicnet.Options{})
	p.rt = client.New(medium, "acme", func(h string) (string, bool) {
		addr, ok := map[string]string{"par-1": p.a.listen, "lyo-1": p.b.listen}[h]
		return addr, ok
	}, rpc.Options{})
	p.a.ended = func() { _ = p.rt.Drop("par-1") } // it may not have heard yet that its session ended
	p.b.ended = func() { _ = p.rt.Drop("lyo-1") }
	t.Cleanup(func() {
		must(t, p.rt.Close())
		must(t, medium.Close())
		p.a.end()
		p.b.end()
		killMachines(t, p.promises)
	})
	return p
}

// killMachines ends every process that writes to the promises of a test.
func killMachines(t *testing.T, promises string) { signalMachines(t, promises, syscall.SIGKILL) }

func signalMachines(t *testing.T, promises string, sig syscall.Signal) {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil || !bytes.Contains(b, []byte(promises)) {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(n, "/")[2])
		must(t, err)
		_ = syscall.Kill(pid, sig) // it may be gone by now
	}
}

// call sends a verb and fails the test on an error.
func call[In, Out any](p *pair, v command.Verb[In, Out], host string, in In) Out {
	p.t.Helper()
	out, err := try(p, v, host, in)
	until := time.Now().Add(20 * time.Second)
	for n := 0; p.between != nil && fault.Is(err, fault.Unreachable) && time.Now().Before(until); n++ {
		// Agents that were started anew dial each other again: asked again, as
		// the next attempt of the step.
		s, serr := p.rt.Session(host)
		must(p.t, serr)
		if rerr := s.Ready(p.t.Context()); !fault.Is(rerr, fault.Unreachable) {
			must(p.t, rerr)
		}
		if op := reflect.ValueOf(&in).Elem().FieldByName("Op"); op.IsValid() && op.String() != "" {
			op.SetString(fmt.Sprintf("%s.%d", op, n))
		}
		<-time.After(20 * time.Millisecond)
		out, err = try(p, v, host, in)
	}
	if err != nil {
		p.t.Fatalf("%s at %s: %v (hint: %s)", v.Name, host, err, fault.Hint(err))
	}
	return out
}

func try[In, Out any](p *pair, v command.Verb[In, Out], host string, in In) (Out, error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), 30*time.Second)
	defer cancel()
	return v.Call(ctx, p.rt, host, in)
}

// meta is what every command carries; each with an operation of its own.
func (p *pair) meta(run string) command.Meta {
	p.ops++
	return command.Meta{Machine: "erp", Run: run, Fence: p.fence, Epoch: p.auth.Epoch, Op: fmt.Sprintf("%s/%d", run, p.ops)}
}

// protect assigns the machine to both hosts and starts it at home.
func (p *pair) protect() {
	p.t.Helper()
	for _, h := range []string{"lyo-1", "par-1"} {
		call(p, command.Assign, h, command.AssignRequest{Assignment: p.as, Authority: p.auth})
	}
	call(p, command.Start, "par-1", command.StartRequest{Meta: p.meta("protect")})
	p.points("lyo-1", 2)
}

func (p *pair) status(host string) command.MachineStatus {
	p.t.Helper()
	var st command.AgentStatus
	var err error
	for range 5 { // a session that a restart cut is dialled again
		if st, err = try(p, command.Status, host, command.StatusRequest{Machine: "erp"}); !fault.Is(err, fault.Unreachable) {
			break
		}
		s, serr := p.rt.Session(host)
		must(p.t, serr)
		if rerr := s.Ready(p.t.Context()); !fault.Is(rerr, fault.Unreachable) {
			must(p.t, rerr)
		}
	}
	must(p.t, err)
	if len(st.Machines) != 1 {
		p.t.Fatalf("host %s knows %d machines", host, len(st.Machines))
	}
	return st.Machines[0]
}

// until polls the status of the machine at a host.
func (p *pair) until(host, what string, ok func(command.MachineStatus) bool) command.MachineStatus {
	p.t.Helper()
	tick := time.NewTicker(40 * time.Millisecond) // each look costs the agents something
	defer tick.Stop()
	deadline := time.After(time.Minute) // CI may be busy
	for {
		st := p.status(host)
		if ok(st) {
			return st
		}
		select {
		case <-tick.C:
		case <-deadline:
			p.t.Fatalf("%s: not within a minute at %s: %+v", what, host, st)
		}
	}
}

// points waits until a host has n more points than now.
func (p *pair) points(host string, n ident.Seq) command.MachineStatus {
	p.t.Helper()
	seq := func(st command.MachineStatus) ident.Seq {
		if st.Tip == nil {
			return 0
		}
		return st.Tip.Seq
	}
	from := seq(p.status(host))
	return p.until(host, fmt.Sprintf("%d more points", n), func(st command.MachineStatus) bool { return seq(st) >= from+n })
}

// grant moves the record at both hosts, the new active site's first.
func (p *pair) grant(run, active string, uncommitted bool, dir ...recovery.Pair) {
	p.t.Helper()
	next := recovery.Authority{Epoch: p.auth.Epoch + 1, Active: active, Direction: dir, Run: run, By: "test", At: time.Now().UTC(), Uncommitted: uncommitted}
	hosts := []string{"lyo-1", "par-1"}
	if active == "paris" {
		hosts = []string{"par-1", "lyo-1"}
	}
	for _, h := range hosts {
		call(p, command.Grant, h, command.GrantRequest{Meta: p.meta(run), Expect: p.auth, Next: next})
		p.step()
	}
	p.auth = next
}

var (
	forward = recovery.Pair{From: "par-1", To: "lyo-1"}
	back    = recovery.Pair{From: "lyo-1", To: "par-1"}
)

// hand moves the machine as a planned run does, from one host to the other.
func (p *pair) hand(run, from, to, active string, dir recovery.Pair) command.PrepareResult {
	p.t.Helper()
	p.fence++
	for _, h := range []string{from, to} {
		call(p, command.Claim, h, command.ClaimRequest{Meta: command.Meta{Machine: "erp", Run: run, Fence: p.fence}})
	}
	call(p, command.Drain, from, command.DrainRequest{Meta: p.meta(run)})
	st := call(p, command.Stop, from, command.StopRequest{Meta: p.meta(run), Lock: true})
	if st.Power != recovery.PowerStopped {
		p.t.Fatalf("power is %s after the stop", st.Power)
	}
	final := call(p, command.Drain, from, command.DrainRequest{Meta: p.meta(run), Final: true})
	if final.Point.Kind != recovery.App {
		p.t.Errorf("final point is %s, want app: the stop was graceful", final.Point.Kind)
	}
	p.grant(run, active, true, dir)
	res := call(p, command.Prepare, to, command.PrepareRequest{Meta: p.meta(run), Point: final.Point.ID})
	// The machine writes before it promises: one write more may be there.
	if got, want := counted(p.t, res.Paths["data"]), promised(p.t, p.promises); got != want && got != want+1 {
		p.t.Errorf("prepared disk counts %d, the machine promised %d", got, want)
	}
	p.step()
	call(p, command.Start, to, command.StartRequest{Meta: p.meta(run)})
	p.step()
	return res
}

func mustRuntime(t *testing.T, ca *pki.CA) *pki.Identity {
	t.Helper()
	id, err := ca.IssueRuntime("other")
	must(t, err)
	return id
}

// clientOf calls the host at addr in the name of an identity.
func clientOf(t *testing.T, id *pki.Identity, addr string) *client.Client {
	t.Helper()
	medium := quicnet.New(quicnet.Fixed(id), quicnet.Options{})
	c := client.New(medium, "acme", func(string) (string, bool) { return addr, true }, rpc.Options{})
	t.Cleanup(func() {
		must(t, c.Close())
		must(t, medium.Close())
	})
	return c
}
