package agent_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drrun/drrun/agent"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/transport"
)

// An agent that comes back while its machine still runs learns that another
// site has it, and stops it.
func TestOldPrimaryStillRunningIsStopped(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	p.a.end() // cut off: the machine runs on
	next := recovery.Authority{Epoch: 2, Active: "lyon", Run: "erp-1", Uncommitted: true}
	call(p, command.Grant, "lyo-1", command.GrantRequest{Meta: p.meta("erp-1"), Expect: p.auth, Next: next})
	p.auth = next
	p.a.start()
	st := p.until("par-1", "the machine is stopped", func(st command.MachineStatus) bool {
		return st.Power == recovery.PowerStopped && st.Authority.Epoch == 2
	})
	if st.Role != command.RoleNone || !strings.Contains(st.Reason, "epoch 2 (active site lyon, run erp-1)") {
		t.Errorf("old primary: %+v", st)
	}
}

func TestRightToRun(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.as.Policy.StartAlone = "ask"
	p.protect()
	p.a.end()
	killMachines(t, p.promises) // as a power cut does
	p.b.end()
	p.a.start()
	local := agent.NewLocal(p.a.state)
	p.until("par-1", "it waits for its peer", func(st command.MachineStatus) bool {
		return st.Power == recovery.PowerStopped && strings.Contains(st.Reason, "drrun-agent permit erp")
	})
	res, err := local.Permit(t.Context(), "erp", "ann")
	if err != nil || res.Power != recovery.PowerRunning {
		t.Fatalf("permit: %+v, %v", res, err)
	}
	b, err := os.ReadFile(filepath.Join(p.a.state, "machines/erp/machine.json"))
	if err != nil || !strings.Contains(string(b), `"by": "ann"`) {
		t.Errorf("the permit is not recorded: %v", err)
	}
	p.a.end()
	killMachines(t, p.promises)
	p.b.start()
	p.a.start() // now the peer confirms
	p.until("par-1", "it runs again", func(st command.MachineStatus) bool { return st.Power == recovery.PowerRunning && st.Reason == "" })
}

func TestMachineThatEndsIsNotRestarted(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	killMachines(t, p.promises)
	ended := func(st command.MachineStatus) bool {
		return st.Power == recovery.PowerStopped && st.Reason == "the machine ended by itself: signal: killed"
	}
	p.until("par-1", "the end is shown", ended)
	if st := p.points("par-1", 1); !ended(st) {
		t.Errorf("ended machine: %+v", st)
	}
}

// An agent that died while it held the machine still: the next one lets it go.
func TestFrozenByADeadAgent(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	p.a.end()
	name := filepath.Join(p.a.state, "machines/erp/machine.json")
	b, err := os.ReadFile(name)
	must(t, err)
	marked := strings.Replace(string(b), `"fence"`, `"frozen": {"app": false}, "fence"`, 1)
	if marked == string(b) {
		marked = strings.Replace(string(b), `"desired"`, `"frozen": {"app": false}, "desired"`, 1)
	}
	must(t, os.WriteFile(name, []byte(marked), 0o600))
	signalMachines(t, p.promises, syscall.SIGSTOP)
	n := promised(t, p.promises)
	p.a.start()
	p.until("par-1", "it writes again", func(command.MachineStatus) bool { return promised(t, p.promises) > n+10 })
	p.until("par-1", "the mark goes between cycles", func(command.MachineStatus) bool {
		b, err := os.ReadFile(name)
		return err == nil && !strings.Contains(string(b), "frozen")
	})
}

func TestFencing(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	claim := func(run string, fence uint64) error {
		_, err := try(p, command.Claim, "par-1", command.ClaimRequest{Meta: command.Meta{Machine: "erp", Run: run, Fence: ident.Fence(fence)}})
		return err
	}
	must(t, claim("run-1", 7))
	must(t, claim("run-1", 7)) // again
	for name, err := range map[string]error{"older number": claim("run-2", 6), "same number, another run": claim("run-2", 7)} {
		if !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "run-1") {
			t.Errorf("%s: %v", name, err)
		}
	}
	stop := func(fence, epoch uint64) error {
		m := p.meta("run-2")
		m.Fence, m.Epoch = ident.Fence(fence), ident.Epoch(epoch)
		_, err := try(p, command.Stop, "par-1", command.StopRequest{Meta: m})
		return err
	}
	for name, err := range map[string]error{"older number": stop(6, 1), "other epoch": stop(8, 2)} {
		if !fault.Is(err, fault.Conflict) {
			t.Errorf("stop with %s: %v", name, err)
		}
	}
	if st := p.status("par-1"); st.Power != recovery.PowerRunning || st.Fence != 7 {
		t.Errorf("after refused commands: %+v", st)
	}
	p.fence = 7
	next := recovery.Authority{Epoch: 2, Active: "lyon", Run: "run-1"}
	wrong := p.auth
	wrong.Active = "lyon"
	for name, in := range map[string]command.GrantRequest{
		"wrong expectation": {Expect: wrong, Next: next},
		"number not higher": {Expect: p.auth, Next: recovery.Authority{Epoch: 1, Active: "lyon", Run: "x"}},
		"unknown site":      {Expect: p.auth, Next: recovery.Authority{Epoch: 2, Active: "nice", Run: "x"}},
	} {
		in.Meta = p.meta("run-1")
		if _, err := try(p, command.Grant, "lyo-1", in); !fault.Is(err, fault.Conflict) && !fault.Is(err, fault.Invalid) {
			t.Errorf("grant with %s: %v", name, err)
		}
	}
}

func TestRepeatedOperation(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.as.Allow = map[string][]string{"par-1": {"/bin/sh"}}
	p.protect()
	in := command.ExecRequest{Meta: p.meta("run-1"), Sh: "echo x >> " + p.promises + ".count; echo done; exit 3"}
	for range 2 {
		res := call(p, command.Exec, "par-1", in)
		if res.Exit != 3 || res.Output != "done\n" {
			t.Errorf("exec: %+v", res)
		}
	}
	b, err := os.ReadFile(p.promises + ".count")
	if err != nil || string(b) != "x\n" {
		t.Errorf("the program ran %d times: %v", len(b)/2, err)
	}
	in = command.ExecRequest{Meta: p.meta("run-1"), Cmd: []string{"/bin/rm", "x"}}
	if _, err := try(p, command.Exec, "par-1", in); !fault.Is(err, fault.Refused) || fault.Hint(err) == "" {
		t.Errorf("program that is not allowed: %v", err)
	}
	in = command.ExecRequest{Meta: p.meta("run-1"), Sh: "sleep 60", Within: 50 * time.Millisecond}
	if _, err := try(p, command.Exec, "par-1", in); !fault.Is(err, fault.Failed) {
		t.Errorf("program that takes too long: %v", err)
	}
	if _, err := try(p, command.Drain, "par-1", command.DrainRequest{Meta: in.Meta}); !fault.Is(err, fault.Conflict) {
		t.Errorf("one id, two verbs: %v", err)
	}
	old := command.ExecRequest{Meta: p.meta("run-1"), Sh: "echo x >> " + p.promises + ".old"}
	old.Op, old.Epoch = "run-1/old/1", p.auth.Epoch+1
	if _, err := try(p, command.Exec, "par-1", old); !fault.Is(err, fault.Conflict) {
		t.Errorf("a program of another epoch: %v", err)
	}
	if _, err := os.Stat(p.promises + ".old"); err == nil {
		t.Error("it ran")
	}
}

func TestStrangersAreRefused(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	other := newNode(t, p.ca, "nice", "nic-1") // of the estate, not of the assignment
	other.start()
	t.Cleanup(other.end)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	cl := clientOf(t, other.id, p.a.listen)
	var out command.ConfirmResult
	if err := cl.Call(ctx, "par-1", command.Confirm.Name, command.ConfirmRequest{Machine: "erp"}, &out); !fault.Is(err, fault.Refused) {
		t.Errorf("confirm by a host without part: %v", err)
	}
	if err := cl.Call(ctx, "par-1", command.Stop.Name, command.StopRequest{Meta: command.Meta{Machine: "erp"}}, nil); !fault.Is(err, fault.Refused) {
		t.Errorf("stop by a host: %v", err)
	}
	peer := clientOf(t, p.b.id, p.a.listen) // the target tries to send to the source
	var tip command.TipResult
	if err := peer.Call(ctx, "par-1", command.Tip.Name, command.TipRequest{Machine: "erp", Authority: p.auth}, &tip); !fault.Is(err, fault.Refused) {
		t.Errorf("tip by the target: %v", err)
	}
	if err := peer.Call(ctx, "par-1", command.Accept.Name, command.AcceptRequest{Point: recovery.Point{Machine: "erp"}}, nil); !fault.Is(err, fault.Conflict) {
		t.Errorf("accept under an older epoch: %v", err)
	}
}

func TestBadStart(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	open := func(state, listen string) error {
		ag, err := agent.Open(t.Context(), agent.Options{
			FS: vfs.OS{}, State: state, Medium: p.a.medium, Listen: listen, Self: func() (transport.Peer, bool) { return p.a.id.Peer(), true },
		})
		if err != nil {
			return err
		}
		err = ag.Run(t.Context())
		must(t, ag.Close())
		return err
	}
	if err := open(p.a.state, "127.0.0.1:0"); fault.ExitCode(err) != fault.ExitUnreachable || !strings.Contains(err.Error(), "in use by another drrun-agent") {
		t.Errorf("folder in use: %v", err)
	}
	if err := open(t.TempDir(), p.a.listen); fault.ExitCode(err) != fault.ExitUnreachable || fault.Hint(err) == "" {
		t.Errorf("port in use: %v", err)
	}
	if _, err := agent.NewLocal(t.TempDir()).Status(t.Context(), ""); fault.ExitCode(err) != fault.ExitUnreachable {
		t.Errorf("no agent: %v", err)
	}
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "machines/erp"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "machines/erp/machine.json"), []byte(`{"version":9,"must":["x"]}`), 0o600))
	if err := open(dir, "127.0.0.1:0"); !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), "version 9") {
		t.Errorf("record of a newer program: %v", err)
	}
}

// Two records of one epoch: both hosts refuse until a person grants the next.
func TestTwoRecordsOfOneEpoch(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	base := p.auth
	here := recovery.Authority{Epoch: 2, Active: "paris", Direction: base.Direction, Run: "run-a"}
	there := recovery.Authority{Epoch: 2, Active: "lyon", Run: "run-b", Uncommitted: true}
	p.a.end() // so that the two cannot talk while both are granted
	call(p, command.Grant, "lyo-1", command.GrantRequest{Meta: p.meta("run-b"), Expect: base, Next: there})
	p.b.end()
	p.a.start()
	grant := command.GrantRequest{Meta: p.meta("run-a"), Expect: base, Next: here}
	p.until("par-1", "it answers", func(command.MachineStatus) bool { return true })
	call(p, command.Grant, "par-1", grant)
	p.b.start()
	for host, other := range map[string]string{"par-1": "run-b", "lyo-1": "run-a"} {
		st := p.until(host, "the conflict is shown", func(st command.MachineStatus) bool { return strings.Contains(st.Reason, "two records of epoch 2") })
		if !strings.Contains(st.Reason, other) {
			t.Errorf("%s: reason is %q", host, st.Reason)
		}
	}
	p.auth = there
	if _, err := try(p, command.Start, "lyo-1", command.StartRequest{Meta: p.meta("run-b")}); !fault.Is(err, fault.Refused) {
		t.Errorf("start in a conflict: %v", err)
	}
	next := recovery.Authority{Epoch: 3, Active: "paris", Direction: base.Direction, Run: "run-c"}
	m := p.meta("run-c")
	m.Epoch = 0
	call(p, command.Grant, "par-1", command.GrantRequest{Meta: m, Expect: here, Next: next})
	p.until("lyo-1", "the next record ends it", func(st command.MachineStatus) bool { return st.Authority.Epoch == 3 && st.Reason == "" })
	p.points("lyo-1", 1)
}

// TestStoppedWhileItIsToBeStartedAgain: an agent that was started asks its peers
// whether it may start the machine again; a stop in between counts.
func TestStoppedWhileItIsToBeStartedAgain(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	call(p, command.Stop, "par-1", command.StopRequest{Meta: p.meta("erp-1")})
	if !p.a.ag.ResumeStale(t.Context(), "erp") {
		t.Error("it is asked again")
	}
	if st := p.status("par-1"); st.Power != recovery.PowerStopped {
		t.Errorf("the machine was stopped, and is %s", st.Power)
	}
}

// A peer says that another site may run the machine while this host still waits
// for an answer to its own question: the reason is what the peer has said.
func TestLateSilenceHidesNoReason(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	p.a.end()
	killMachines(t, p.promises)
	p.b.end()
	deaf, err := net.ListenPacket("udp", p.b.listen) // lyo-1 is there, and answers nothing
	must(t, err)
	defer deaf.Close()
	p.a.start()
	_, _, err = deaf.ReadFrom(make([]byte, 1<<16)) // par-1 has asked
	must(t, err)
	var out command.ConfirmResult
	next := recovery.Authority{Epoch: 2, Active: "lyon", Run: "erp-1", Uncommitted: true}
	must(t, clientOf(t, p.b.id, p.a.listen).Call(t.Context(), "par-1", command.Confirm.Name, command.ConfirmRequest{Machine: "erp", Authority: next}, &out))
	for asked := time.Now(); time.Since(asked) < 7*time.Second; <-time.After(100 * time.Millisecond) { // until its question is given up
		if st := p.status("par-1"); !strings.Contains(st.Reason, "host lyo-1 holds epoch 2") {
			t.Fatalf("%s after the answer the reason is %q", time.Since(asked), st.Reason)
		}
	}
}
