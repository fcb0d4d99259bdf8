package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime/control"
)

var pointsCommand = &command{
	name: "points", args: "MACHINE", short: "recovery points of a machine; --verify reads them",
	long: `Lists the recovery points of a machine, by the host that keeps them, the newest last. With --verify every
point (or the one of --point) is read whole and compared with its sums; a point that does not verify
ends the command with status 9, a host that does not answer with status 8.

--hold keeps the point of --point from being thinned, under a label if one is given. --release leaves it to the
retention again, which may delete it: asks on a terminal for the machine's name; --yes does not, and is needed
without a terminal.`,
	examples: "drrun points db1\ndrrun points db1 --verify\ndrrun points db1 --hold --point latest --label \"before the upgrade\"\n" +
		"drrun points db1 --release --point \"as found\"\ndrrun points db1 -o json",
	exits: askExits,
	make:  func() action { return &pointsOptions{} },
}

type pointsOptions struct {
	verify, hold, release, yes bool
	point, label               string
}

func (o *pointsOptions) flags(fs *pflag.FlagSet) {
	fs.BoolVar(&o.verify, "verify", false, "read the points whole and compare their sums")
	fs.BoolVar(&o.hold, "hold", false, "keep the point of --point from being thinned")
	fs.BoolVar(&o.release, "release", false, "leave the point of --point to the retention again")
	fs.StringVar(&o.label, "label", "", "with --hold: a word to find it by")
	fs.BoolVarP(&o.yes, "yes", "y", false, "with --release: do not ask")
	fs.StringVar(&o.point, "point", "", "only this point (an id or its begin, a label, a time, latest)")
}

func (o *pointsOptions) run(ctx context.Context, c *cli, args []string) error {
	if err := c.wantArgs("points", args, 1, 1); err != nil {
		return err
	}
	if err := o.check(c); err != nil {
		return err
	}
	return c.with(ctx, need{}, func(s *session) error {
		res, err := s.Points(ctx, args[0])
		if err != nil {
			return err
		}
		if o.verify {
			return o.verifyPoints(ctx, c, s, res)
		}
		if o.hold || o.release {
			return o.holdPoint(ctx, c, s, res)
		}
		if c.output == "json" {
			return c.printJSON(res)
		}
		return c.printf("%s", pointsText(res))
	})
}

// check finds flags that do not go together.
func (o *pointsOptions) check(c *cli) error {
	n := 0
	for _, set := range []bool{o.verify, o.hold, o.release} {
		if set {
			n++
		}
	}
	switch {
	case n > 1:
		return usage("--verify, --hold and --release exclude each other")
	case o.point != "" && n == 0:
		return usage("--point goes with --verify, --hold or --release").WithHint("drrun help points")
	case o.point == "" && (o.hold || o.release):
		return usage("--hold and --release need --point: which one?").WithHint("drrun help points")
	case o.label != "" && !o.hold:
		return usage("--label goes with --hold")
	case o.release && !o.yes && !c.Asks:
		return usage("a released point may be deleted by the retention: without a terminal --release needs --yes")
	}
	return nil
}

// holdPoint holds or releases the one point.
func (o *pointsOptions) holdPoint(ctx context.Context, c *cli, s *session, list control.PointsResult) error {
	id, err := o.selected(list)
	if err != nil {
		return err
	}
	if o.release && !o.yes {
		ok, err := c.asker.Type(ctx, fmt.Sprintf("Releases recovery point %s of %s: the retention may delete it.", id, list.Machine), list.Machine)
		if err != nil || !ok {
			return errorsOr(err, fault.Errorf(fault.Refused, "not done: the machine's name was not typed"))
		}
	}
	res, err := s.Hold(ctx, control.HoldRequest{Machine: list.Machine, Point: id, Held: o.hold, Label: o.label})
	if err != nil {
		return err
	}
	if c.output == "json" {
		return c.printJSON(res)
	}
	word := "released"
	if o.hold {
		word = "held"
	}
	for _, host := range slices.Sorted(maps.Keys(res.Hosts)) {
		p := res.Hosts[host]
		if err := c.printf("point %s of %s on %s is %s (%s)\n", p.ID, list.Machine, host, word, orDash(strings.Join(p.Labels, ", "))); err != nil {
			return err
		}
	}
	return nil
}

func pointsText(res control.PointsResult) string {
	var b strings.Builder
	if len(res.Hosts) == 0 {
		fmt.Fprintf(&b, "machine %s has no recovery point yet\n", res.Machine)
	}
	for _, h := range res.Hosts {
		if h.Error != "" {
			fmt.Fprintf(&b, "%s (%s) does not answer: %s\n", h.Host, h.Site, h.Error)
			continue
		}
		fmt.Fprintf(&b, "%s on %s (%s)\n", quantity.Count(len(h.Points), "point"), h.Host, h.Site)
		t := newTable("SEQ", "INSTANT", "CORRECTED", "KIND", "SIZE", "LOGS", "ID", "REMARK")
		for i := range h.Points {
			p := &h.Points[i]
			size, logs := pointSize(p)
			t.row(fmt.Sprint(p.Seq), stamp(p.Instant), corrected(p), string(p.Kind), quantity.FormatSize(size), quantity.FormatSize(logs), p.ID.String(), pointRemark(p))
		}
		b.WriteString(t.String())
	}
	return b.String()
}

// corrected is the instant on the controller's clock, and how right that is.
func corrected(p *recovery.Point) string {
	at, known := p.Corrected()
	if !known {
		return "-"
	}
	s := fmt.Sprintf("%s ±%s", stamp(at), quantity.FormatDuration(p.ClockError))
	if p.ClockOf != "" {
		s += " of " + p.ClockOf
	}
	return s
}

// pointSize is the size of a point's disks and of the logs that led to it.
func pointSize(p *recovery.Point) (size, logs int64) {
	for _, d := range p.Disks {
		size, logs = size+d.Size, logs+d.Bytes
	}
	return size, logs
}

func pointRemark(p *recovery.Point) string {
	words := slices.Clone(p.Labels)
	if p.Held {
		words = append(words, "held")
	}
	if !p.LockedUntil.IsZero() {
		words = append(words, "locked until "+stamp(p.LockedUntil))
	}
	if p.Suspect != "" {
		words = append(words, "suspect: "+p.Suspect)
	}
	return strings.Join(words, ", ")
}

// selected finds the one point of --point; the zero id means all.
func (o *pointsOptions) selected(list control.PointsResult) (ident.PointID, error) {
	if o.point == "" {
		return ident.PointID{}, nil
	}
	var all []recovery.Point
	for _, h := range list.Hosts {
		all = append(all, h.Points...)
	}
	p, err := recovery.Select(all, o.point, true)
	if err != nil {
		return ident.PointID{}, fault.Errorf(fault.NotFound, "--point: %w", err).WithHint("drrun points %s lists them", list.Machine)
	}
	return p.ID, nil
}

func (o *pointsOptions) verifyPoints(ctx context.Context, c *cli, s *session, list control.PointsResult) error {
	machine := list.Machine
	id, err := o.selected(list)
	if err != nil {
		return err
	}
	res, err := s.Verify(ctx, control.VerifyRequest{Machine: machine, Point: id})
	if err != nil {
		return err
	}
	if c.output == "json" {
		if err := c.printJSON(res); err != nil {
			return err
		}
	}
	faults := 0
	for _, host := range slices.Sorted(maps.Keys(res.Hosts)) {
		v := res.Hosts[host]
		faults += len(v.Faults)
		if c.output == "json" {
			continue
		}
		if err := c.printf("%s: %s, %s read, %s\n", host, quantity.Count(v.Points, "point"), quantity.FormatSize(v.Bytes), quantity.Count(len(v.Faults), "fault")); err != nil {
			return err
		}
		t := newTable()
		for _, f := range v.Faults {
			t.row("  " + f)
		}
		if err := c.printf("%s", t.String()); err != nil {
			return err
		}
	}
	if faults > 0 {
		return fault.Errorf(fault.Corrupt, "machine %s: recovery points do not verify: %s", machine, quantity.Count(faults, "fault")).
			WithHint("fail over to another point (drrun points %s lists them); replication goes on and makes new ones", machine)
	}
	for _, h := range list.Hosts {
		if h.Error != "" && o.point == "" {
			return fault.Errorf(fault.Unreachable, "machine %s: the points on %s were not read: %s", machine, h.Host, h.Error).
				WithHint("start the agent on %s and verify again", h.Host)
		}
	}
	return nil
}
