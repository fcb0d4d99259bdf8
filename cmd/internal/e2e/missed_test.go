package e2e_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/lab"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime/report"
)

// missedAt is where a write goes that the tracker misses: near the end of a disk
// of 20 MiB, in the last of the read proof's ranges of 4 MiB.
const missedAt = 19 << 20

// TestTrackerMissesBlock fails a machine over whose tracker misses one changed
// block. Source and target then agree in every table and sum; only the read proof
// sees it, and names the disk and the range. The run is not committed, a rollback
// gives the old site its disks as they were, and with a tracker that sees the
// block the same failover is proved.
func TestTrackerMissesBlock(t *testing.T) {
	t.Parallel()
	ctx := within(t, 2*time.Minute)
	dir := t.TempDir()
	err := build(dir, "cmd/drrun-agent", "-tags", "planted_tracker")
	for _, p := range []string{"drrun", "ledger"} {
		err = errors.Join(err, os.Symlink(filepath.Join(bin, p), filepath.Join(dir, p)))
	}
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, lab.Options{Bin: dir, Every: "500ms", Small: true}, false)
	s.protect(ctx, killPlan)
	home := lab.Disks["db1"][1]
	s.Kill("par-1")
	s.no(s.StartAgent("par-1", fmt.Sprintf("DRRUN_TRACKER_MISSES=%s:%d", filepath.Join(s.Root, home), missedAt/blocksum.BlockSize)))
	s.untilHost(ctx, "par-1", "machines that run on", func(m command.MachineStatus) bool { return m.Power == recovery.PowerRunning })
	before := s.writeTo(ctx, "paris", 1, 50)
	s.writeAt(home, missedAt, []byte("a write that the tracker does not see"))

	f := s.follow(ctx, "kill", "--planned", "--yes")
	code := f.wait(t)
	r := s.show(ctx, f.run)
	atStop := s.diskSums()
	s.serving("lyon") // nothing that can be compared without reading differs
	if said := s.must(s.Drrun(ctx, "show", f.run)); code != fault.ExitStopped ||
		!strings.Contains(said, "read proof of db1") || !strings.Contains(said, "disk ledger differs in 1 of 5 ranges") ||
		!strings.Contains(said, "bytes 16777216 to 20971520") || !strings.Contains(said, "drrun rollback "+f.run) {
		t.Fatalf("exit %d, the run is %s: %s\n%s", code, r.Status, r.Reason, said)
	}
	code, said := s.exit(ctx, "commit", f.run)
	if code != fault.ExitRefused || !strings.Contains(said, "rollback") {
		t.Errorf("commit: exit %d: %s", code, said)
	}

	s.must(s.Drrun(ctx, "rollback", f.run, "--yes"))
	if r := s.show(ctx, f.run); r.Status != report.RunRolledBack {
		t.Errorf("the run is %s: %s", r.Status, r.Reason)
	}
	s.serving("paris")
	for d, x := range s.diskSums() { // nothing writes to an idle ledger's disk
		if atStop[d] != x {
			t.Errorf("%s is not what it was at the shutdown", d)
		}
	}

	s.Kill("par-1")
	s.no(s.StartAgent("par-1")) // its tracker misses nothing
	s.untilState(ctx, "protected", "paris")
	s.must(s.Drrun(ctx, "kill", "--planned", "--yes", "--commit"))
	s.serving("lyon")
	s.neverTogether()
	for _, m := range lab.Machines {
		lost, err := lab.NewClient(m, 0, 1, nil).Lost(ctx, s.URL("lyon", m), before[m])
		s.no(err)
		if len(lost) > 0 {
			t.Errorf("%s lost %d entries", m, len(lost))
		}
	}
}
