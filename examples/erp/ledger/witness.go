package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// envWitness names the folder where each life of a ledger writes its own file.
const envWitness = "LEDGER_WITNESS"

// beatEvery is how often a life says that it still runs.
const beatEvery = 20 * time.Millisecond

// witness writes down, outside of drrun, when and where a machine ran: one file
// for each life of it.
//
//	life MACHINE SITE TYPE EPOCH RUN
//	NANOSECONDS start|beat|stop
type witness struct {
	f    *os.File
	end  chan struct{}
	done sync.WaitGroup
}

// startWitness begins a life, before the disks are touched. No folder in the
// environment: nobody wants to know.
func startWitness() (*witness, error) {
	dir := os.Getenv(envWitness)
	if dir == "" {
		return &witness{}, nil
	}
	word := func(name string) string {
		if v := os.Getenv(name); v != "" {
			return v
		}
		return "-"
	}
	now := time.Now()
	name := fmt.Sprintf("%s-%s-%d-%d.life", word("DRRUN_MACHINE"), word("DRRUN_SITE"), now.UnixNano(), os.Getpid())
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_EXCL|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot bear witness: %w", err)
	}
	w := &witness{f: f, end: make(chan struct{})}
	_, err = fmt.Fprintf(f, "life %s %s %s %s %s\n%d start\n", word("DRRUN_MACHINE"), word("DRRUN_SITE"), word("DRRUN_TYPE"),
		word("DRRUN_EPOCH"), word("DRRUN_RUN"), now.UnixNano())
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	w.done.Go(w.beat)
	return w, nil
}

func (w *witness) beat() {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		select {
		case <-w.end:
			return
		case <-tick.C:
		}
		if _, err := fmt.Fprintf(w.f, "%d beat\n", time.Now().UnixNano()); err != nil {
			return // a life that cannot be witnessed is shorter, never longer
		}
	}
}

// stop ends the life, after the disks were closed.
func (w *witness) stop() error {
	if w.f == nil {
		return nil
	}
	close(w.end)
	w.done.Wait()
	_, err := fmt.Fprintf(w.f, "%d stop\n", time.Now().UnixNano())
	return errors.Join(err, w.f.Close())
}
