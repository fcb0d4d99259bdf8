package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/lab"
)

// rollback fails over as planned, lets Lyon acknowledge entries, and takes the
// failover back: Paris goes on from the disks it left, byte by byte, and what
// Lyon wrote is read from the point that keeps it.
func (d *demo) rollback(ctx context.Context) error {
	d.say("planned failover, Paris to Lyon, that will be taken back")
	begin := time.Now()
	run, err := d.failover(ctx, "--planned", "--yes")
	if err != nil {
		return err
	}
	left, err := d.parisDisks()
	if err != nil {
		return err
	}
	if err := d.untilAcknowledged(ctx, "lyon", begin, 40); err != nil {
		return err
	}
	d.pause()
	lyon := d.since("lyon", begin)
	d.say("%s: runs at lyon, not committed; %d entries were acknowledged there. Now: drrun rollback %[1]s", run.ID, count(lyon))
	if _, err := d.Drrun(ctx, "rollback", run.ID, "--yes"); err != nil {
		return err
	}
	now, err := d.parisDisks()
	if err != nil {
		return err
	}
	for path, sum := range left {
		if !bytes.Equal(sum, now[path]) {
			return fmt.Errorf("the rollback changed disk %s of Paris", path)
		}
	}
	if err := d.onlyParis(ctx, lyon); err != nil {
		return err
	}
	d.result("rolled back: the machines run at paris on %d disks that are byte for byte as they left them (SHA-256)", len(left))
	if err := d.inPoint(ctx, "lyon", "rolled back", lyon); err != nil {
		return err
	}
	d.takenBack = map[uint64]bool{}
	for _, list := range lyon {
		for _, e := range list {
			d.takenBack[e.ID] = true
		}
	}
	d.result("the %d entries of lyon are not lost: they were read from the point \"rolled back\" there", count(lyon))
	d.write(ctx)
	return d.untilState(ctx, "protection after the rollback", "protected", "paris")
}

// parisDisks is the SHA-256 of every disk of the home site.
func (d *demo) parisDisks() (map[string][]byte, error) {
	sums := map[string][]byte{}
	for _, disks := range lab.Disks {
		for _, path := range disks {
			f, err := os.Open(filepath.Join(d.Root, path))
			if err != nil {
				return nil, err
			}
			h := sha256.New()
			_, err = io.Copy(h, f)
			if err := errors.Join(err, f.Close()); err != nil {
				return nil, err
			}
			sums[path] = h.Sum(nil)
		}
	}
	return sums, nil
}

// untilAcknowledged waits until every machine has acknowledged so many entries
// at a site.
func (d *demo) untilAcknowledged(ctx context.Context, site string, begin time.Time, entries int) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return lab.Until(ctx, "entries acknowledged at "+site, func() (bool, string, error) {
		lists := d.since(site, begin)
		ok := true
		for _, m := range lab.Machines {
			ok = ok && len(lists[m]) >= entries
		}
		return ok, fmt.Sprintf("%d entries", count(lists)), nil
	})
}

// onlyParis looks at the machines after the rollback: they run at Paris alone,
// with all that Paris acknowledged and nothing of what Lyon did.
func (d *demo) onlyParis(ctx context.Context, lyon map[string][]lab.Entry) error {
	for _, c := range d.clients {
		if lab.Listening(d.IP("lyon", c.Machine) + ":" + d.Port) {
			return fmt.Errorf("%s still runs at lyon after the rollback", c.Machine)
		}
		url := d.URL("paris", c.Machine)
		lost, err := c.Lost(ctx, url, d.since("paris", d.start)[c.Machine])
		if err != nil {
			return err
		}
		if len(lost) > 0 {
			return fmt.Errorf("%w: entry %d of %s after the rollback", errLost, lost[0].ID, c.Machine)
		}
		absent, err := c.Lost(ctx, url, lyon[c.Machine])
		if err != nil {
			return err
		}
		if len(absent) != len(lyon[c.Machine]) {
			return fmt.Errorf("entries of lyon are on the disks of %s at paris", c.Machine)
		}
	}
	return nil
}

// asFound opens the point that was kept of the old primary and reads from it
// what never left it.
func (d *demo) asFound(ctx context.Context) error {
	if count(d.behind) == 0 {
		d.result("nothing was left at the old primary: the last entries had gone over")
		return nil
	}
	if err := d.inPoint(ctx, "paris", "as found", d.behind); err != nil {
		return err
	}
	d.result("the %d entries that the disaster took are in the point \"as found\" at paris, read in a test failover there:", count(d.behind))
	for _, m := range slices.Sorted(maps.Keys(d.behind)) {
		d.result("  %-5s %s", m, ranges(d.behind[m]))
	}
	return nil
}

// inPoint starts a test failover from a point, at the site that keeps it, and
// fails unless every entry of the lists is there.
func (d *demo) inPoint(ctx context.Context, site, point string, lists map[string][]lab.Entry) error {
	d.say("  opened: drrun erp --test --point %q", point)
	run, err := d.failover(ctx, "--test", "--point", point)
	if err != nil {
		return err
	}
	if run.To != site {
		return fmt.Errorf("the point %q was opened at %s, not at %s", point, run.To, site)
	}
	for _, c := range d.clients {
		lost, err := c.Lost(ctx, d.URL("bubble", c.Machine), lists[c.Machine])
		if err != nil {
			return err
		}
		if len(lost) > 0 {
			return fmt.Errorf("%w: %d entries of %s are not in the point %q, the first is %d", errLost, len(lost), c.Machine, point, lost[0].ID)
		}
	}
	_, err = d.Drrun(ctx, "cleanup", run.ID)
	return err
}

func count(lists map[string][]lab.Entry) int {
	n := 0
	for _, list := range lists {
		n += len(list)
	}
	return n
}

// ranges lists the ids of entries: "31 entries, 812-840 843 844".
func ranges(entries []lab.Entry) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d entries,", len(entries))
	for i := 0; i < len(entries); {
		j := i
		for j+1 < len(entries) && entries[j+1].ID == entries[j].ID+1 {
			j++
		}
		fmt.Fprintf(&b, " %d", entries[i].ID)
		if j > i {
			fmt.Fprintf(&b, "-%d", entries[j].ID)
		}
		i = j + 1
	}
	return b.String()
}
