package sim

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/recovery"
)

// Run simulates a scenario. It must be called in a testing/synctest bubble.
func Run(sc *Scenario, verbose bool) *Result {
	w := newWorld(sc, verbose)
	w.live()
	w.end()
	return &Result{Violation: w.failed, Hash: w.hash.Sum64(), Trace: w.trace, Stats: w.stats}
}

// live is the simulation until a rule is broken or the end is reached.
func (w *world) live() {
	if err := w.build(); err != nil {
		panic(fmt.Sprintf("internal error: %v", err))
	}
	for _, name := range hostNames {
		w.hosts[name].boot()
	}
	for _, name := range controlNames {
		w.controls[name].boot()
	}
	if err := w.protect(); err != nil {
		w.mu.Lock()
		w.violate(0, "the machines cannot be protected: %v", err)
		w.mu.Unlock()
		return
	}
	w.background(w.watch)
	for _, name := range controlNames {
		w.background(func(ctx context.Context) { w.attend(ctx, w.controls[name]) })
	}
	begin := time.Since(w.began)
	for _, e := range w.sc.Events {
		w.after(e.At-begin, func() { w.happen(e) })
	}
	if !w.wait(w.sc.Horizon - begin) {
		return
	}
	w.mend()
	w.settle()
}

// wait lets time pass; false: a rule was broken meanwhile.
func (w *world) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-w.alarm:
		return false
	}
	select {
	case <-w.alarm:
		return false
	default:
		return true
	}
}

// protect gives the agents their machines, the target first.
func (w *world) protect() error {
	ctx, cancel := context.WithTimeout(w.ctx, 20*time.Second)
	defer cancel()
	for _, a := range w.assigned {
		auth := recovery.Authority{Epoch: 1, Active: paris, Direction: []recovery.Pair{{From: par, To: lyo}}, At: time.Now().UTC()}
		for _, h := range []string{lyo, par} {
			for {
				_, err := command.Assign.Call(ctx, w.controls[rtOne].life.client, h, command.AssignRequest{Assignment: a, Authority: auth})
				if err == nil {
					break
				}
				if ctx.Err() != nil {
					return err
				}
				<-time.After(100 * time.Millisecond)
			}
		}
	}
	return nil
}

// end stops everything and waits for it.
func (w *world) end() {
	w.mu.Lock()
	w.over = true
	var procs []*proc
	for _, name := range hostNames {
		h := w.hosts[name]
		for _, g := range h.sorted() {
			g.running = false
			g.closeFiles()
		}
		if h.proc != nil {
			procs = append(procs, h.proc)
			h.kill("the end")
		}
	}
	var lives []*life
	for _, name := range controlNames {
		c := w.controls[name]
		if c.life != nil {
			lives = append(lives, c.life)
			c.kill(time.Hour)
		}
	}
	w.mu.Unlock()
	w.cancel()
	w.work.Wait()
	for _, p := range procs {
		<-p.done
	}
	for _, l := range lives {
		<-l.ended
	}
}

// mend ends all that is broken.
func (w *world) mend() {
	w.mu.Lock()
	w.log("", "everything is mended")
	w.witness.mended = time.Now()
	for _, name := range hostNames {
		h := w.hosts[name]
		h.full, h.broken, h.killIn = false, 0, 0
	}
	for _, c := range w.controls {
		c.killIn = 0
	}
	for _, a := range hostNames {
		for _, b := range w.peers(a) {
			for why := range w.cuts[min(a, b)+" "+max(a, b)] {
				if !strings.HasPrefix(why, "power") {
					delete(w.cuts[min(a, b)+" "+max(a, b)], why)
				}
			}
			if !w.apart(a, b) {
				w.net.Heal(a, b)
			}
		}
	}
	w.mu.Unlock()
	for _, name := range slices.Clone(controlNames) {
		w.controls[name].boot()
	}
}
