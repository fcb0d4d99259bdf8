// Command demo runs the erp example from its first copy to its way back: two
// sites of separate processes on loopback, three machines with real disks,
// clients that write all the time and keep their own list of what was
// acknowledged. After each failover the clients read their entries back over
// HTTP at the active site; one that is lost ends the demo with exit 1. What a
// rollback and a disaster leave behind is read from the points that keep it.
//
// It uses drrun as a user would: by its commands, from outside.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/internal/lab"
)

func main() {
	fs := pflag.NewFlagSet("demo", pflag.ContinueOnError)
	bin := fs.String("bin", "bin", "folder with drrun, drrun-agent and ledger")
	plant := fs.Bool("plant-loss", false, "let the service acknowledge an entry that it does not write: the demo must find it")
	keep := fs.Bool("keep", false, "keep the folder with states, disks and logs")
	if err := fs.Parse(os.Args[1:]); err != nil {
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if err := run(ctx, *bin, *plant, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		os.Exit(1)
	}
}

// errLost says that an acknowledged entry was lost.
var errLost = errors.New("acknowledged entries are lost")

func run(ctx context.Context, bin string, plant, keep bool) (err error) {
	lieAt := ""
	if plant {
		lieAt = "50" // db1's client starts at 1
	}
	l, err := lab.New(lab.Options{Bin: bin, Example: "examples/erp", LieAt: lieAt})
	if err != nil {
		return fmt.Errorf("%w (run the demo in the project's folder)", err)
	}
	d := &demo{Lab: l, start: time.Now()}
	defer func() {
		if keep {
			fmt.Println("kept, with what still runs:", l.Root)
			return
		}
		err = errors.Join(err, l.Close())
	}()
	defer func() {
		if err != nil && !errors.Is(err, errLost) {
			d.printLogs()
		}
	}()
	for _, step := range []func(context.Context) error{
		d.twoSites, d.firstCopy, d.testFailover, d.rollback, d.plannedFailover, d.failback,
		d.disaster, d.oldPrimary, d.reverse, d.asFound,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	d.summary()
	return nil
}

// demo is one run of the example.
type demo struct {
	*lab.Lab
	start     time.Time
	stop      context.CancelFunc // ends the clients' writing
	writing   sync.WaitGroup
	clients   []*lab.Client
	downAt    time.Time              // of the disaster
	takenBack map[uint64]bool        // ids of the entries that the rollback took from the machines
	behind    map[string][]lab.Entry // what it left at the old primary, by machine
	unplanned runShown
	results   []string
}

// say prints a line of the timeline.
func (d *demo) say(format string, args ...any) {
	fmt.Printf("%6.1fs  %s\n", time.Since(d.start).Seconds(), fmt.Sprintf(format, args...))
}

func (d *demo) result(format string, args ...any) {
	d.results = append(d.results, fmt.Sprintf(format, args...))
	d.say(format, args...)
}

func (d *demo) summary() {
	written := 0
	for _, c := range d.clients {
		written += len(c.Acknowledged())
	}
	fmt.Println("\nsummary")
	for _, r := range d.results {
		fmt.Println("  " + r)
	}
	fmt.Printf("  %d entries acknowledged in %.0f s; service gaps of the clients:\n", written, time.Since(d.start).Seconds())
	for _, c := range d.clients {
		for _, g := range c.Gaps() {
			fmt.Printf("    %-5s %5.1f s from %.1f s on\n", c.Machine, g.To.Sub(g.From).Seconds(), g.From.Sub(d.start).Seconds())
		}
	}
}
