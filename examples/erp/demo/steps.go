package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/lab"
	"github.com/drrun/drrun/internal/quantity"
)

// status is the part of `drrun status -o json` that the demo looks at.
type status struct {
	Machines []struct {
		Machine string  `json:"machine"`
		State   string  `json:"state"`
		Active  string  `json:"active"`
		Reason  string  `json:"reason"`
		RPONow  float64 `json:"rpo_now"`
		Newest  struct {
			Seq uint64 `json:"seq"`
		} `json:"newest"`
		Hosts []struct {
			Host   string `json:"host"`
			Power  string `json:"power"`
			Reason string `json:"reason"`
		} `json:"hosts"`
	} `json:"machines"`
}

// runShown is the part of `drrun show RUN -o json` that the demo looks at.
type runShown struct {
	ID       string  `json:"id"`
	Status   string  `json:"status"`
	Created  string  `json:"created"`
	To       string  `json:"to"`
	RTO      measure `json:"rto"`
	Machines []struct {
		Name  string `json:"name"`
		Point *struct {
			Seq     uint64    `json:"seq"`
			Instant time.Time `json:"instant"`
			Kind    string    `json:"kind"`
		} `json:"point"`
	} `json:"machines"`
}

type measure struct {
	Measured float64 `json:"measured"`
}

// twoSites starts the controller and one agent for each site, and protects
// the machines.
func (d *demo) twoSites(ctx context.Context) error {
	d.say("two sites, Paris and Lyon; a controller and one agent each, as processes of their own")
	if err := d.Start("controller", "drrun", "serve"); err != nil {
		return err
	}
	if err := d.untilController(ctx); err != nil {
		return err
	}
	if _, err := d.Drrun(ctx, "apply", "estate.lua", "erp.lua", "--yes"); err != nil {
		return err
	}
	for _, host := range []string{"par-1", "lyo-1"} {
		if err := d.Join(ctx, host); err != nil {
			return err
		}
		if err := d.StartAgent(host); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) untilController(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	socket := filepath.Join(d.Root, "controller/drrun.sock")
	return lab.Until(ctx, "the controller", func() (bool, string, error) {
		c, err := net.Dial("unix", socket)
		if err != nil {
			return false, err.Error(), nil
		}
		return true, "", c.Close()
	})
}

// firstCopy waits for the first recovery points, starts the clients and lets
// deltas go over.
func (d *demo) firstCopy(ctx context.Context) error {
	if err := d.untilState(ctx, "first copy", "protected", "paris"); err != nil {
		return err
	}
	d.say("initial replication done: every machine is protected, %s of data went over", quantity.FormatSize(4*16<<20))
	for i, m := range lab.Machines {
		d.clients = append(d.clients, lab.NewClient(m, uint64(i*1_000_000+1), 80, []string{d.URL("paris", m), d.URL("lyon", m)}))
	}
	d.write(ctx)
	d.say("three clients write %d entries a second and keep their own lists", 3*80)
	return d.untilPoints(ctx, 2)
}

// write lets the clients write until pause.
func (d *demo) write(ctx context.Context) {
	ctx, d.stop = context.WithCancel(context.WithoutCancel(ctx))
	for _, c := range d.clients {
		d.writing.Go(func() { c.Run(ctx) })
	}
}

// pause stops the clients' writing and waits for the entries under way.
func (d *demo) pause() {
	d.stop()
	d.writing.Wait()
}

// untilState waits until every machine is in a state at a site.
func (d *demo) untilState(ctx context.Context, what, state, site string) error {
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	return lab.Until(ctx, what, func() (bool, string, error) {
		st, err := d.status(ctx)
		if err != nil {
			return false, "", err
		}
		var seen []string
		ok := len(st.Machines) == len(lab.Machines)
		for _, m := range st.Machines {
			ok = ok && m.State == state && m.Active == site
			seen = append(seen, fmt.Sprintf("%s %s at %s (%s)", m.Machine, m.State, m.Active, m.Reason))
		}
		return ok, strings.Join(seen, "; "), nil
	})
}

// untilPoints waits until every machine has made more points than now.
func (d *demo) untilPoints(ctx context.Context, more uint64) error {
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	first := map[string]uint64{}
	return lab.Until(ctx, "more recovery points", func() (bool, string, error) {
		st, err := d.status(ctx)
		if err != nil {
			return false, "", err
		}
		ok := true
		for _, m := range st.Machines {
			if _, seen := first[m.Machine]; !seen {
				first[m.Machine] = m.Newest.Seq
			}
			ok = ok && m.Newest.Seq >= first[m.Machine]+more
		}
		return ok, fmt.Sprint(st.Machines), nil
	})
}

func (d *demo) status(ctx context.Context) (status, error) {
	var st status
	out, err := d.Drrun(ctx, "status", "-o", "json")
	if err != nil {
		return st, err
	}
	return st, json.Unmarshal([]byte(out), &st)
}

// failover runs the plan until it ends, answers its wait from another
// command, and returns the run.
func (d *demo) failover(ctx context.Context, args ...string) (runShown, error) {
	_, err := d.Drrun(ctx, append([]string{"erp"}, args...)...)
	run, showErr := d.lastRun(ctx)
	if showErr != nil {
		return run, errors.Join(err, showErr)
	}
	var exit *lab.ExitError
	for errors.As(err, &exit) && exit.Code == 5 { // it waits for a person
		d.say("  the run waits for a person; answered: go")
		if _, err = d.Drrun(ctx, "answer", run.ID, "go", "-m", "checked by the demo"); err != nil {
			return run, err
		}
		exit = nil
		_, err = d.Drrun(ctx, "watch", run.ID)
	}
	if err != nil {
		return run, err
	}
	return d.show(ctx, run.ID)
}

func (d *demo) lastRun(ctx context.Context) (runShown, error) {
	out, err := d.Drrun(ctx, "runs", "-o", "json")
	if err != nil {
		return runShown{}, err
	}
	var runs []runShown
	if err := json.Unmarshal([]byte(out), &runs); err != nil {
		return runShown{}, fmt.Errorf("cannot read the list of runs: %w", err)
	}
	var last runShown
	for _, r := range runs {
		if r.Created > last.Created {
			last = r
		}
	}
	if last.ID == "" {
		return last, errors.New("there is no run")
	}
	return last, nil
}

func (d *demo) show(ctx context.Context, id string) (runShown, error) {
	var r runShown
	out, err := d.Drrun(ctx, "show", id, "-o", "json")
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal([]byte(out), &r)
}

// readBack reads every entry at a site. Entries acknowledged before the
// machine's recovery point must be there; with no such instant, all. It returns
// those that are not, by machine.
func (d *demo) readBack(ctx context.Context, site string, acked map[string][]lab.Entry, before map[string]time.Time) (map[string][]lab.Entry, error) {
	all, gone := 0, 0
	behind := map[string][]lab.Entry{}
	var oldest time.Time
	for _, c := range d.clients {
		want := acked[c.Machine]
		all += len(want)
		lost, err := c.Lost(ctx, d.URL(site, c.Machine), want)
		if err != nil {
			return nil, err
		}
		for _, e := range lost {
			if at, ok := before[c.Machine]; !ok || e.At.Before(at) {
				d.say("LOST: entry %d of %s, acknowledged %s", e.ID, c.Machine, e.At.UTC().Format(time.RFC3339Nano))
				return nil, fmt.Errorf("%w: entry %d of %s", errLost, e.ID, c.Machine)
			}
			if oldest.IsZero() || e.At.Before(oldest) {
				oldest = e.At
			}
		}
		gone, behind[c.Machine] = gone+len(lost), lost
	}
	switch {
	case before == nil:
		d.result("all %d acknowledged entries are at %s: none lost", all, site)
	case gone == 0:
		d.result("all %d acknowledged entries are at %s", all, site)
	default:
		d.result("of %d acknowledged entries %d are lost: all after the recovery points, the oldest %.1f s before the disaster",
			all, gone, d.downAt.Sub(oldest).Seconds())
	}
	return behind, nil
}

// acknowledged is what the clients' lists hold now, without what a rollback
// took back.
func (d *demo) acknowledged() map[string][]lab.Entry {
	lists := map[string][]lab.Entry{}
	for _, c := range d.clients {
		lists[c.Machine] = slices.DeleteFunc(slices.Clone(c.Acknowledged()), func(e lab.Entry) bool { return d.takenBack[e.ID] })
	}
	return lists
}

func (d *demo) testFailover(ctx context.Context) error {
	d.say("test failover at Lyon, on the isolated network; production goes on")
	run, err := d.failover(ctx, "--test")
	if err != nil {
		return err
	}
	for _, m := range lab.Machines {
		if !lab.Listening(net.JoinHostPort(d.IP("bubble", m), d.Port)) {
			return fmt.Errorf("the test's %s does not answer", m)
		}
	}
	if err := d.readBackTest(ctx, run); err != nil {
		return err
	}
	if _, err := d.Drrun(ctx, "cleanup", run.ID); err != nil {
		return err
	}
	d.result("test failover: three machines up in %.1f s, their entries complete, cleaned up", run.RTO.Measured)
	return nil
}

// readBackTest reads the entries of the test's machines: all that were
// acknowledged before their recovery point.
func (d *demo) readBackTest(ctx context.Context, run runShown) error {
	lists, before := d.acknowledged(), instants(run)
	for _, c := range d.clients {
		lost, err := c.Lost(ctx, d.URL("bubble", c.Machine), lists[c.Machine])
		if err != nil {
			return err
		}
		for _, e := range lost {
			if e.At.Before(before[c.Machine]) {
				return fmt.Errorf("%w: entry %d of %s is not in the test", errLost, e.ID, c.Machine)
			}
		}
	}
	return nil
}

func instants(run runShown) map[string]time.Time {
	at := map[string]time.Time{}
	for _, m := range run.Machines {
		if m.Point != nil {
			at[m.Name] = m.Point.Instant
		}
	}
	return at
}

func (d *demo) plannedFailover(ctx context.Context) error {
	d.say("planned failover, Paris to Lyon, under load")
	return d.planned(ctx, "lyon", "--planned", "--yes")
}

func (d *demo) failback(ctx context.Context) error {
	d.say("planned failback, Lyon to Paris, under load")
	if err := d.planned(ctx, "paris", "--planned", "--failback", "--yes"); err != nil {
		return err
	}
	return d.untilPoints(ctx, 2)
}

// planned fails over, reads back at the new site, commits, and waits until
// the machines are protected in the other direction.
func (d *demo) planned(ctx context.Context, to string, args ...string) error {
	run, err := d.failover(ctx, args...)
	if err != nil {
		return err
	}
	if _, err := d.readBack(ctx, to, d.acknowledged(), nil); err != nil {
		return err
	}
	if _, err := d.Drrun(ctx, "commit", run.ID); err != nil {
		return err
	}
	d.result("%s: machines up at %s %.1f s after the start of the run; committed", run.ID, to, run.RTO.Measured)
	return d.untilState(ctx, "protection in the other direction", "protected", to)
}

// disaster kills the whole primary site under load and fails over unplanned.
func (d *demo) disaster(ctx context.Context) error {
	d.say("DISASTER: Paris is gone (its agent and its machines are killed), entries are under way")
	if err := d.KillSite("par-1", "paris"); err != nil {
		return err
	}
	d.downAt = time.Now()
	lists := d.acknowledged()
	run, err := d.failover(ctx, "--unplanned", "--source-is-down", "--yes")
	if err != nil {
		return err
	}
	d.unplanned = run
	if d.behind, err = d.readBack(ctx, "lyon", lists, instants(run)); err != nil {
		return err
	}
	d.result("%s: machines up at lyon %.1f s after the start of the run", run.ID, run.RTO.Measured)
	return nil
}

// oldPrimary brings the killed site's agent back: it must refuse.
func (d *demo) oldPrimary(ctx context.Context) error {
	d.say("Paris comes back, with disks that think they are the primary")
	if err := d.StartAgent("par-1"); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	reason := ""
	err := lab.Until(wait, "the refusal of the old primary", func() (bool, string, error) {
		st, err := d.status(ctx)
		if err != nil {
			return false, "", err
		}
		refused := 0
		for _, m := range st.Machines {
			for _, h := range m.Hosts {
				if h.Host == "par-1" && h.Power == "stopped" && h.Reason != "" {
					refused++
					reason = h.Reason
				}
			}
		}
		return refused == len(lab.Machines), fmt.Sprint(st.Machines), nil
	})
	if err != nil {
		return err
	}
	for _, m := range lab.Machines {
		if lab.Listening(net.JoinHostPort(d.IP("paris", m), d.Port)) {
			return fmt.Errorf("%s runs at two sites", m)
		}
	}
	d.result("the old primary refuses: %s", reason)
	return nil
}

func (d *demo) reverse(ctx context.Context) error {
	if _, err := d.Drrun(ctx, "commit", d.unplanned.ID); err != nil {
		return err
	}
	if _, err := d.Drrun(ctx, "reverse", "erp", "--yes"); err != nil {
		return err
	}
	if err := d.untilState(ctx, "reverse replication", "protected", "lyon"); err != nil {
		return err
	}
	d.pause()
	if _, err := d.readBack(ctx, "lyon", d.since("lyon", d.downAt), nil); err != nil {
		return err
	}
	d.result("committed and reversed: Lyon is primary, Paris its replica")
	return nil
}

// since is what a site has acknowledged after an instant. An acknowledgement
// of the other site may arrive at the client after its end was noticed here.
func (d *demo) since(site string, at time.Time) map[string][]lab.Entry {
	lists := map[string][]lab.Entry{}
	for name, list := range d.acknowledged() {
		for _, e := range list {
			if e.At.After(at) && e.URL == d.URL(site, name) {
				lists[name] = append(lists[name], e)
			}
		}
	}
	return lists
}

// printLogs shows the end of what the processes printed, to explain a failure.
func (d *demo) printLogs() {
	for _, name := range []string{"controller.out", "par-1.out", "lyo-1.out", "drrun.out"} {
		text, err := os.ReadFile(filepath.Join(d.Root, name))
		if err != nil {
			continue
		}
		fmt.Fprintf(os.Stderr, "\n== %s (end)\n%s\n", name, text[max(0, len(text)-4000):])
	}
}
