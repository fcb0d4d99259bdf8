package e2e_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/lab"
	"github.com/drrun/drrun/runtime/report"
)

// killPlan is the erp plan without its wait, so that nobody has to answer.
const killPlan = `
return plan "kill" {
  from = "paris", to = "lyon",
  shutdown = { force_after = "20s" },
  group "databases" { machine "db1" },
  group "application" { machines { tag = "erp-app" } },
}`

// notedPlan is killPlan with a program on the controller and one on a host that
// leave a line each time they run.
const notedPlan = `
local programs = require "drrun.exec"

return plan "kill" {
  from = "paris", to = "lyon",
  shutdown = { force_after = "20s" },
  failover = { before = exec "note here" { cmd = { "NOTE", "here" }, within = "10s", only = "any" } },
  group "databases" { machine "db1" },
  group "application" {
    machines { tag = "erp-app" },
    after = action "note there" { only = "any",
      function() programs.run { on = "db1", cmd = { "NOTE", "there" } } end,
    },
  },
}`

// TestKillRuntime kills the real drrun with SIGKILL at seeded moments of
// planned failovers of three machines under load, and resumes. The end is that
// of an undisturbed run: epochs, sites, points and whole disks. The machines and
// the plan's programs bear witness that each start, stop and action that is
// recorded has happened once.
func TestKillRuntime(t *testing.T) {
	t.Parallel()
	ctx := within(t, 40*time.Minute)
	rnd := moments(t)
	s := newSite(t, lab.Options{Every: "300ms", Small: !long()}, false)
	note := filepath.Join(s.Root, "note")
	s.write("note", "#!/bin/sh\necho \"$DRRUN_RUN\" >>\""+s.Root+"/noted-$1\"\n")
	s.no(os.Chmod(note, 0o700)) //nolint:gosec // a program
	s.edit("estate.lua", `return estate "erp-example" {`, `return estate "erp-example" { allow = { "`+note+`" },`)
	s.edit("estate.lua", "/store\" }", "/store\", allow = { \""+note+"\" } }")
	s.protect(ctx, strings.ReplaceAll(notedPlan, "NOTE", note))
	sites := []string{"lyon", "paris"}

	begin := time.Now()
	s.must(s.Drrun(ctx, "kill", "--planned", "--yes", "--commit"))
	whole := time.Since(begin)
	s.untilState(ctx, "protected", "lyon")
	epoch := s.status(ctx)[0].Epoch
	grows := epoch - 1 // by an undisturbed run
	s.witnessed(ctx)
	t.Logf("an undisturbed run takes %v", whole)

	for i := range kills(t) {
		to := sites[(i+1)%2]
		stop, clients := s.load(ctx, uint64(i+1)*10_000_000)
		args := []string{"kill", "--planned", "--yes", "--commit"}
		if to == "paris" {
			args = append(args, "--failback")
		}
		at := time.Duration(rnd.Int64N(int64(whole)))
		s.killRun(ctx, at, args)
		s.finish(ctx, args)
		s.untilState(ctx, "protected", to)
		lists := stop()
		s.onePower(ctx)
		s.noneLost(ctx, to, clients, lists)
		epoch += grows
		for _, m := range s.status(ctx) {
			if m.Epoch != epoch {
				t.Errorf("%s has epoch %d, after undisturbed runs it is %d", m.Machine, m.Epoch, epoch)
			}
		}
		s.witnessed(ctx)
		s.notePoints(ctx)
		if t.Failed() {
			t.Fatalf("kill %d after %v of a failover to %s", i, at, to)
		}
	}
	s.untilSettled(ctx)
	s.equalDisks(ctx)
	s.verifyPoints(ctx)
}

// witnessed holds what machines and programs wrote down against the runs: every
// run that had something to do is committed and proved, and each of its starts, stops and actions happened
// once. Of each machine's lives only the last is not over, and none overlap.
func (s *site) witnessed(ctx context.Context) {
	s.t.Helper()
	starts := map[string]int{} // by run and machine
	last := map[string]lab.Life{}
	for _, l := range s.neverTogether() {
		if before, ok := last[l.Machine]; ok && !before.Stopped {
			s.t.Errorf("it did not end in order: %s", before)
		}
		last[l.Machine] = l
		starts[l.Run+" "+l.Machine]++
	}
	want := map[string]int{}
	for _, m := range lab.Machines {
		want["- "+m] = 1 // by the agent, when the machine was protected
	}
	noted := s.noted()
	for _, r := range s.runs(ctx) {
		run := s.show(ctx, r.ID)
		if run.Status == report.RunDone && strings.HasPrefix(run.Reason, "nothing to do") {
			continue // and nothing was done: what it had done would be too much below
		}
		if run.Status != report.RunCommitted || len(run.Machines) != len(lab.Machines) {
			s.t.Errorf("run %s is %s (%s), with %d machines", r.ID, run.Status, run.Reason, len(run.Machines))
		}
		for _, m := range run.Machines {
			if m.Proof == nil || !m.Proof.Proved {
				s.t.Errorf("run %s, %s: proof %+v", r.ID, m.Name, m.Proof)
			}
			want[r.ID+" "+m.Name] = 1
		}
		for _, file := range []string{"noted-here", "noted-there"} {
			if n := noted[file+" "+r.ID]; n != 1 {
				s.t.Errorf("run %s: its program wrote %d times to %s", r.ID, n, file)
			}
			delete(noted, file+" "+r.ID)
		}
	}
	if !maps.Equal(starts, want) || len(noted) > 0 {
		s.t.Errorf("starts by run and machine: %v, want %v; programs of no run: %v", starts, want, noted)
	}
}

// noted counts the lines of the plan's programs, by file and run.
func (s *site) noted() map[string]int {
	s.t.Helper()
	n := map[string]int{}
	for _, file := range []string{"noted-here", "noted-there"} {
		b, err := os.ReadFile(filepath.Join(s.Root, file))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			s.t.Fatal(err)
		}
		for run := range strings.FieldsSeq(string(b)) {
			n[file+" "+run]++
		}
	}
	return n
}

// lookAndAnswer does what an operator does whose run does not know whether a
// program ran: looks, and says it.
func (s *site) lookAndAnswer(ctx context.Context, id string) {
	s.t.Helper()
	run := s.show(ctx, id)
	if len(run.Waits) != 1 || run.ExitCode != fault.ExitUnknown {
		s.t.Fatalf("run %s waits for %+v (exit %d)", id, run.Waits, run.ExitCode)
	}
	pause(ctx, 500*time.Millisecond) // a program outlives the drrun that started it
	file, word := "noted-there", "again"
	if strings.Contains(run.Waits[0].Step, "note here") {
		file = "noted-here"
	}
	if s.noted()[file+" "+id] > 0 {
		word = "done"
	}
	s.t.Logf("run %s does not know the outcome of %s: %s", id, run.Waits[0].Step, word)
	if code, said := s.exit(ctx, "answer", id, run.Waits[0].Step, word); code != 0 {
		s.t.Logf("answer: exit %d: %s", code, said)
	}
}

// killRun starts a run and kills it after a time, if it still runs.
func (s *site) killRun(ctx context.Context, at time.Duration, args []string) {
	s.t.Helper()
	cmd := s.Command(ctx, args...)
	s.no(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	timer := time.NewTimer(at)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
		if err := cmd.Process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
			s.t.Fatal(err)
		}
		<-ended
	}
}

// aRun is the part of `drrun runs -o json` that the tests look at.
type aRun struct {
	ID, Status, Created string
	Uncommitted         bool
}

func (s *site) runs(ctx context.Context) (all []aRun) {
	s.t.Helper()
	s.no(json.Unmarshal([]byte(s.must(s.Drrun(ctx, "runs", "-o", "json"))), &all))
	return all
}

// newestRun returns the run that was created last.
func (s *site) newestRun(ctx context.Context) (last aRun) {
	s.t.Helper()
	for _, r := range s.runs(ctx) {
		if r.Created > last.Created {
			last = r
		}
	}
	return last
}

// finish resumes the newest run until it is committed; when the kill came
// before there was a run, it starts one.
func (s *site) finish(ctx context.Context, args []string) {
	s.t.Helper()
	for range 8 {
		r := s.newestRun(ctx)
		switch r.Status {
		case "", "committed", "done":
			// The kill may have come before this command's own run existed.
			_, err := s.Drrun(ctx, args...)
			s.no(err)
			if r2 := s.newestRun(ctx); r2.Status == "committed" || r2.Status == "done" {
				return
			}
		case "uncommitted":
			_, err := s.Drrun(ctx, "commit", r.ID)
			s.no(err)
		case "waiting":
			s.lookAndAnswer(ctx, r.ID)
		default:
			_, err := s.Drrun(ctx, "resume", r.ID)
			var exit *lab.ExitError
			if err != nil && !errors.As(err, &exit) {
				s.t.Fatal(err)
			}
		}
	}
	s.t.Fatalf("the run does not end: %+v", s.newestRun(ctx))
}

// TestKillAgents kills agents with SIGKILL at seeded moments of replication
// under load. Every point that was reported verifies by reading, and source and
// replica end equal.
func TestKillAgents(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Minute)
	defer cancel()
	rnd, s := moments(t), protect(t, ctx, true, "")
	stop, clients := s.load(ctx, 1)
	for _, host := range []string{"par-1", "lyo-1"} {
		for range kills(t) {
			pause(ctx, time.Duration(rnd.Int64N(int64(700*time.Millisecond))))
			s.notePoints(ctx)
			s.Kill(host)
			pause(ctx, time.Duration(rnd.Int64N(int64(100*time.Millisecond))))
			s.no(s.StartAgent(host))
		}
	}
	lists := stop()
	s.untilState(ctx, "protected", "paris")
	s.untilSettled(ctx)
	s.onePower(ctx)
	s.noneLost(ctx, "paris", clients, lists)
	s.equalDisks(ctx)
	s.verifyPoints(ctx)
}

// pause lets replication go on until the seeded moment.
func pause(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-ctx.Done()
}

// TestKillBetweenDisks kills the source when the log of a machine's first
// disk is durable at the target and that of the second is not: the failover
// gives the earlier point on both disks.
func TestKillBetweenDisks(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	s := protect(t, ctx, true, killPlan)
	s.untilSettled(ctx)
	s.notePoints(ctx)

	// Every round changes both disks of db1, the second so much that its log
	// takes a while to cross.
	stop, clients := s.load(ctx, 1)
	logs := filepath.Join(s.Root, "lyon/store/db1/log/logs")
	second := filepath.Join(s.Root, "lyon/store/db1/ledger/logs")
	noise := make([]byte, 36<<20)
	rnd := rand.NewChaCha8([32]byte{1})
	round := uint64(0)
	for between := false; !between; {
		round++
		_, err := rnd.Read(noise)
		s.no(err)
		binary.LittleEndian.PutUint64(noise, round)
		s.overwrite(lab.Disks["db1"][1], noise)
		s.overwrite(lab.Disks["db1"][0], noise[:8])
		for end := time.Now().Add(3 * time.Second); !between && time.Now().Before(end); {
			done, _ := filepath.Glob(filepath.Join(logs, "*.hrl"))
			part, _ := filepath.Glob(filepath.Join(second, "*.part"))
			between = len(done) > 0 && len(part) > 0
		}
		if ctx.Err() != nil {
			t.Fatal("never saw the first disk's log whole and the second's in part")
		}
	}
	s.no(s.KillSite("par-1", "paris"))
	if part, _ := filepath.Glob(filepath.Join(second, "*.part")); len(part) == 0 {
		t.Fatal("the second disk's log was whole before the source died: the test shows nothing")
	}
	stop()

	s.must(s.Drrun(ctx, "kill", "--unplanned", "--source-is-down", "--yes"))
	for _, c := range clients {
		if !lab.Listening(s.IP("lyon", c.Machine) + ":" + s.Port) {
			t.Errorf("%s does not serve at lyon", c.Machine)
		}
	}
	// A cut may fall between the two writes of an earlier round: then the second
	// disk is one round ahead, and never the other way round.
	first, then := s.roundOn("log"), s.roundOn("ledger")
	if first >= round || then >= round || then != first && then != first+1 {
		t.Errorf("round %d was cut off, but the first disk has round %d and the second round %d", round, first, then)
	}
	s.verifyPoints(ctx, "par-1")
}

// markAt is where rounds are written: the last 36 MiB of a disk of 64 MiB,
// which the entries of a test never reach.
const markAt = 28 << 20

// overwrite changes a disk at markAt.
func (s *site) overwrite(disk string, p []byte) {
	s.t.Helper()
	s.writeAt(disk, markAt, p)
}

// writeAt changes a disk at its home behind the machine's back.
func (s *site) writeAt(disk string, off int64, p []byte) {
	s.t.Helper()
	f, err := os.OpenFile(filepath.Join(s.Root, disk), os.O_WRONLY, 0)
	s.no(err)
	_, err = f.WriteAt(p, off)
	s.no(errors.Join(err, f.Close()))
}

// roundOn reads the round that a disk of db1 has at lyon.
func (s *site) roundOn(disk string) uint64 {
	s.t.Helper()
	f, err := os.Open(filepath.Join(s.Root, "lyon/store/db1", disk, "head.img"))
	s.no(err)
	p := make([]byte, 8)
	_, err = f.ReadAt(p, markAt)
	s.no(errors.Join(err, f.Close()))
	return binary.LittleEndian.Uint64(p)
}
