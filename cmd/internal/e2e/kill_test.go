package e2e_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/lab"
)

// killPlan is the erp plan without its wait, so that nobody has to answer.
const killPlan = `
return plan "kill" {
  from = "paris", to = "lyon",
  shutdown = { force_after = "20s" },
  group "databases" { machine "db1" },
  group "application" { machines { tag = "erp-app" } },
}`

// TestKillRuntime kills the real drrun with SIGKILL at seeded moments of
// planned failovers of three machines under load, and resumes. The end is that
// of an undisturbed run.
func TestKillRuntime(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	rnd, s := moments(t), protect(t, ctx, false, killPlan)
	sites := []string{"lyon", "paris"}

	begin := time.Now()
	s.must(s.Drrun(ctx, "kill", "--planned", "--yes", "--commit"))
	whole := time.Since(begin)
	s.untilState(ctx, "protected", "lyon")
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
		s.neverTogether()
		s.noneLost(ctx, to, clients, lists)
		s.notePoints(ctx)
		if t.Failed() {
			t.Fatalf("kill %d after %v of a failover to %s", i, at, to)
		}
	}
	s.untilSettled(ctx)
	s.equalDisks(ctx)
	s.verifyPoints(ctx)
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

// newestRun returns the run that was created last.
func (s *site) newestRun(ctx context.Context) (last aRun) {
	s.t.Helper()
	var runs []aRun
	s.no(json.Unmarshal([]byte(s.must(s.Drrun(ctx, "runs", "-o", "json"))), &runs))
	for _, r := range runs {
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
	for range 5 {
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
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
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
