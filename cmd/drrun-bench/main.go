// Command drrun-bench measures replication of one 4 GiB disk with 1 GiB of
// data between two real agents on this machine, beside rsync doing the same
// in the same run: first copy, scattered deltas, bytes on the wire, CPU of both
// ends, memory; then a test failover, thinning, and a first copy whose source
// is killed at 90 %. With --plan it measures the engine instead: a plan of many
// machines in the simulated world. It prints ratios; times on a shared machine
// mean little.
//
// Wire bytes are what the loopback interface carried (all headers, both
// directions): run it on a machine that is otherwise quiet. It exits 1 when an
// agent took more memory, or the killed copy more bytes, than drrun allows.
package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/internal/quantity"
)

// Limits that the benchmark holds agents to.
const (
	maxMemory  = 96 << 20 // VmHWM of an agent, mapped files included
	maxResend  = 1.15     // wire bytes of a first copy killed at 90 %, to an undisturbed one
	deltaCount = 20
)

func main() {
	fs := pflag.NewFlagSet("drrun-bench", pflag.ContinueOnError)
	bin := fs.String("bin", "bin", "folder with drrun and drrun-agent")
	size := fs.String("size", "4GiB", "size of the disk")
	data := fs.String("data", "1GiB", "how much of it holds data")
	machines := fs.Int("plan", 0, "measure a plan of that many machines instead")
	groups := fs.Int("groups", 50, "groups of that plan")
	profile := fs.String("profile", "", "with --plan: write a profile of the processor there")
	if err := fs.Parse(os.Args[1:]); err != nil {
		os.Exit(2)
	}
	if *machines > 0 {
		largePlan(*machines, *groups, *profile)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *bin, *size, *data); err != nil {
		fmt.Fprintln(os.Stderr, "drrun-bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin, size, data string) error {
	n, err := quantity.ParseSize(size)
	if err != nil {
		return err
	}
	d, err := quantity.ParseSize(data)
	if err != nil {
		return err
	}
	undisturbed, err := against(ctx, bin, n, d)
	if err != nil {
		return err
	}
	return killed(ctx, bin, n, d, undisturbed)
}

// against runs drrun and rsync over the same disk and returns the wire bytes
// of drrun's first copy.
func against(ctx context.Context, bin string, size, data int64) (firstWire int64, err error) {
	p, err := newPair(ctx, bin, size, data)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	r, err := newRsync(p.Root)
	if err != nil {
		return 0, err
	}
	defer r.stop()

	fmt.Printf("%-24s %10s %12s %10s | %10s %12s %10s | %s\n", "", "drrun", "wire", "CPU", "rsync", "wire", "CPU", "time wire CPU (drrun/rsync)")
	first, err := p.measure(func() error { return p.protect(ctx) })
	if err != nil {
		return 0, err
	}
	peer, err := r.measure(ctx, p.disk)
	if err != nil {
		return 0, err
	}
	row("first copy", first, peer)

	rnd := rand.New(rand.NewPCG(1, 1)) //nolint:gosec // which blocks change
	var mine, theirs []cost
	for range deltaCount {
		if err := scatter(p.disk, rnd, data/100); err != nil {
			return 0, err
		}
		c, err := p.measure(func() error { return p.drain(ctx) })
		if err != nil {
			return 0, err
		}
		mine = append(mine, c)
		if len(theirs) < 3 { // rsync takes long; three are enough for a median
			c, err := r.measure(ctx, p.disk)
			if err != nil {
				return 0, err
			}
			theirs = append(theirs, c)
		}
	}
	row("1 % scattered (median)", median(mine), median(theirs))
	if _, err := r.measure(ctx, p.disk); err != nil { // the deltas it was spared
		return 0, err
	}
	if err := p.equal(filepath.Join(p.Root, "rsync", filepath.Base(p.disk))); err != nil {
		return 0, fmt.Errorf("rsync's copy: %w", err)
	}
	none, err := p.measure(func() error { return p.drain(ctx) })
	if err != nil {
		return 0, err
	}
	peer, err = r.measure(ctx, p.disk)
	if err != nil {
		return 0, err
	}
	row("no change", none, peer)
	return first.wire, p.testAndThin(ctx)
}

// killed measures a first copy whose source dies at 90 %.
func killed(ctx context.Context, bin string, size, data, undisturbed int64) (err error) {
	p, err := newPair(ctx, bin, size, data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	c, err := p.measure(func() error { return p.protectKilled(ctx, undisturbed*9/10) })
	if err != nil {
		return err
	}
	ratio := float64(c.wire) / float64(undisturbed)
	fmt.Printf("first copy, source killed at 90 %%: %s on the wire, %.3f of an undisturbed one (limit %.2f)\n",
		quantity.FormatSize(c.wire), ratio, maxResend)
	if ratio > maxResend {
		return fmt.Errorf("a killed first copy took %.3f of the bytes of an undisturbed one, the limit is %.2f", ratio, maxResend)
	}
	return nil
}

func row(what string, mine, peer cost) {
	fmt.Printf("%-24s %10s %12s %9.2fs | %10s %12s %9.2fs | %.2f %.2f %.2f\n", what,
		quantity.FormatDuration(mine.wall), quantity.FormatSize(mine.wire), mine.cpu.Seconds(),
		quantity.FormatDuration(peer.wall), quantity.FormatSize(peer.wire), peer.cpu.Seconds(),
		ratio(mine.wall, peer.wall), float64(mine.wire)/float64(max(peer.wire, 1)), ratio(mine.cpu, peer.cpu))
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(max(b, 1)) }
