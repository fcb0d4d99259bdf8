package e2e_test

import (
	"context"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/lab"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime/control"
	"github.com/drrun/drrun/runtime/report"
)

// writeTo sends n entries to every machine at a site and waits until all are
// acknowledged; it returns them by machine.
func (s *site) writeTo(ctx context.Context, where string, from uint64, n int) map[string][]lab.Entry {
	s.t.Helper()
	lists := map[string][]lab.Entry{}
	for i, m := range lab.Machines {
		ctx, cancel := context.WithCancel(ctx)
		c := lab.NewClient(m, from+uint64(i)*1_000_000, 1000, []string{s.URL(where, m)})
		done := make(chan struct{})
		go func() { c.Run(ctx); close(done) }()
		s.untilWritten(ctx, []*lab.Client{c}, n)
		cancel()
		<-done
		lists[m] = c.Acknowledged()
	}
	return lists
}

// diskSums are the SHA-256 of all disks at the home site.
func (s *site) diskSums() map[string]string {
	s.t.Helper()
	out := map[string]string{}
	for _, disks := range lab.Disks {
		for _, d := range disks {
			x, err := sum(filepath.Join(s.Root, d))
			s.no(err)
			out[d] = x
		}
	}
	return out
}

// labelled finds the newest point of a machine with a label at a site.
func (s *site) labelled(ctx context.Context, machine, where, label string) (found recovery.Point) {
	s.t.Helper()
	var res control.PointsResult
	s.no(json.Unmarshal([]byte(s.must(s.Drrun(ctx, "points", machine, "-o", "json"))), &res))
	for _, h := range res.Hosts {
		for _, p := range h.Points {
			if h.Site == where && slices.Contains(p.Labels, label) {
				found = p
			}
		}
	}
	if found.ID.IsZero() {
		s.t.Fatalf("%s has no point %q at %s: %+v", machine, label, where, res)
	}
	return found
}

// opened starts a test failover of one machine from a point and fails the test
// if an entry is missing there.
func (s *site) opened(ctx context.Context, machine string, p recovery.Point, want []lab.Entry) {
	s.t.Helper()
	f := s.follow(ctx, "failover", machine, "--test", "--point", p.ID.String())
	if code := f.wait(s.t); code != 0 {
		s.t.Fatalf("test failover of %s from %s: exit %d\n%s", machine, p.ID, code, &f.diag)
	}
	lost, err := lab.NewClient(machine, 0, 1, nil).Lost(ctx, s.URL("bubble", machine), want)
	s.no(err)
	if len(lost) > 0 || len(want) == 0 {
		s.t.Errorf("%s: %d of %d entries are not in point %s (%v)", machine, len(lost), len(want), p.ID, p.Labels)
	}
	s.must(s.Drrun(ctx, "cleanup", f.run))
}

// TestRollback takes a planned failover back after 1,000 writes at the new site.
// The disks of the old site are byte for byte those of the shutdown, the writes
// are in a labelled point that opens, and the same failover works again.
func TestRollback(t *testing.T) {
	t.Parallel()
	ctx := within(t, 2*time.Minute)
	s := newSite(t, lab.Options{Every: "500ms", Small: true}, true)
	s.protect(ctx, killPlan)
	before := s.writeTo(ctx, "paris", 1, 50)
	f := s.follow(ctx, "kill", "--planned", "--yes")
	if code := f.wait(t); code != 0 {
		t.Fatalf("planned: exit %d\n%s", code, &f.diag)
	}
	s.serving("lyon")
	atStop := s.diskSums()
	after := s.writeTo(ctx, "lyon", 10_000_000, 1000)

	s.must(s.Drrun(ctx, "rollback", f.run, "--yes"))
	if r := s.show(ctx, f.run); r.Status != report.RunRolledBack {
		t.Errorf("the run is %s: %s", r.Status, r.Reason)
	}
	s.serving("paris")
	s.neverTogether()
	s.untilState(ctx, "protected", "paris")
	for _, m := range lab.Machines {
		s.opened(ctx, m, s.labelled(ctx, m, "lyon", "rolled back"), after[m])
	}
	for d, x := range s.diskSums() { // nothing writes to an idle ledger's disk
		if atStop[d] != x {
			t.Errorf("%s is not what it was at the shutdown", d)
		}
	}
	s.must(s.Drrun(ctx, "kill", "--planned", "--yes", "--commit"))
	s.serving("lyon")
	for _, m := range lab.Machines {
		lost, err := lab.NewClient(m, 0, 1, nil).Lost(ctx, s.URL("lyon", m), before[m])
		s.no(err)
		if len(lost) > 0 {
			t.Errorf("%s lost %d entries", m, len(lost))
		}
	}
	s.neverTogether()
}

// TestChangePoint puts an unplanned failover to an old point on a newer one: the
// disk is byte for byte that of the point, and what was written on the old one is
// kept.
func TestChangePoint(t *testing.T) {
	t.Parallel()
	ctx := within(t, 2*time.Minute)
	s := newSite(t, lab.Options{Every: "300ms", Small: true}, true)
	s.protect(ctx, killPlan)
	s.writeTo(ctx, "paris", 1, 20)
	s.untilSettled(ctx)
	older := s.newest(ctx, "db1")
	want := s.writeTo(ctx, "paris", 10_000_000, 100)["db1"]
	s.untilSettled(ctx)
	newer, disks := s.newest(ctx, "db1"), s.diskSums()
	later := s.writeTo(ctx, "paris", 20_000_000, 20)["db1"]
	s.untilSettled(ctx)
	s.no(s.KillSite("par-1", "paris"))

	f := s.follow(ctx, "failover", "db1", "--unplanned", "--source-is-down", "--yes", "--point", older.ID.String())
	if code := f.wait(t); code != 0 {
		t.Fatalf("unplanned: exit %d\n%s", code, &f.diag)
	}
	client := lab.NewClient("db1", 30_000_000, 1000, []string{s.URL("lyon", "db1")})
	if lost, err := client.Lost(ctx, s.URL("lyon", "db1"), want); err != nil || len(lost) != len(want) {
		t.Errorf("the old point holds %d of %d entries that came after it: %v", len(want)-len(lost), len(want), err)
	}
	run, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { client.Run(run); close(done) }()
	s.untilWritten(ctx, []*lab.Client{client}, 50)
	cancel()
	<-done

	s.must(s.Drrun(ctx, "change-point", f.run, "--point", newer.ID.String(), "--yes"))
	for i, name := range []string{"log", "ledger"} {
		got, err := sum(filepath.Join(s.Root, "lyon/store/db1", name, "head.img"))
		s.no(err)
		if got != disks[lab.Disks["db1"][i]] {
			t.Errorf("disk %s is not that of point %s", name, newer.ID)
		}
	}
	lost, err := client.Lost(ctx, s.URL("lyon", "db1"), slices.Concat(want, later))
	s.no(err)
	if len(lost) != len(later) {
		t.Errorf("of %d entries of the point and %d later ones %d are missing", len(want), len(later), len(lost))
	}
	kept := s.labelled(ctx, "db1", "lyon", "point changed")
	s.must(s.Drrun(ctx, "points", "db1", "--verify", "--point", kept.ID.String()))
	s.neverTogether()
}

// newest is the newest point of a machine at lyon.
func (s *site) newest(ctx context.Context, machine string) recovery.Point {
	s.t.Helper()
	var res control.PointsResult
	s.no(json.Unmarshal([]byte(s.must(s.Drrun(ctx, "points", machine, "-o", "json"))), &res))
	for _, h := range res.Hosts {
		if h.Site == "lyon" && len(h.Points) > 0 {
			return h.Points[len(h.Points)-1]
		}
	}
	s.t.Fatalf("%s has no point at lyon: %+v", machine, res)
	return recovery.Point{}
}

// TestReverseKeepsWhatNeverLeft: writes that only the old primary acknowledged
// are kept as the point "as found" before anything is sent back, byte for byte,
// and open in a test there.
func TestReverseKeepsWhatNeverLeft(t *testing.T) {
	t.Parallel()
	ctx := within(t, 2*time.Minute)
	s := newSite(t, lab.Options{Every: "500ms", Small: true}, true)
	s.protect(ctx, killPlan)
	s.Kill("lyo-1")
	only := s.writeTo(ctx, "paris", 1, 200)
	s.no(s.KillSite("par-1", "paris"))
	disks := s.diskSums()
	s.no(s.StartAgent("lyo-1"))
	out, err := s.Drrun(ctx, "kill", "--unplanned", "--source-is-down", "--yes", "--commit")
	for err != nil && strings.Contains(out+err.Error(), "nothing listens there; nobody knows where") && ctx.Err() == nil {
		<-time.After(200 * time.Millisecond) // the agent is only starting
		out, err = s.Drrun(ctx, "kill", "--unplanned", "--source-is-down", "--yes", "--commit")
	}
	s.must(out, err)
	s.serving("lyon")
	s.writeTo(ctx, "lyon", 10_000_000, 100)

	s.no(s.StartAgent("par-1"))
	s.untilHost(ctx, "par-1", "that lyon has the machines", knows)
	s.must(s.Drrun(ctx, "reverse", "kill", "--yes"))
	s.untilState(ctx, "protected", "lyon")
	for _, m := range lab.Machines {
		p := s.labelled(ctx, m, "paris", "as found")
		if !p.Held {
			t.Errorf("%s: the point as found is not held", m)
		}
		f := s.follow(ctx, "failover", m, "--test", "--point", p.ID.String())
		if code := f.wait(t); code != 0 {
			t.Fatalf("test failover of %s from %s: exit %d\n%s", m, p.ID, code, &f.diag)
		}
		lost, err := lab.NewClient(m, 0, 1, nil).Lost(ctx, s.URL("bubble", m), only[m])
		s.no(err)
		if len(lost) > 0 {
			t.Errorf("%s: %d of %d entries that never left are not in the point as found", m, len(lost), len(only[m]))
		}
		for _, home := range lab.Disks[m] {
			s.oneWith(filepath.Join(s.Root, "paris/store", m, "*", "views", f.run, "disk.img"), disks[home])
		}
		s.must(s.Drrun(ctx, "cleanup", f.run))
	}
	s.neverTogether()
}

// oneWith fails the test unless one of the files has a sum.
func (s *site) oneWith(pattern, want string) {
	s.t.Helper()
	names, err := filepath.Glob(pattern)
	s.no(err)
	for _, name := range names {
		got, err := sum(name)
		s.no(err)
		if got == want {
			return
		}
	}
	s.t.Errorf("none of %v is byte for byte what the old primary had", names)
}
