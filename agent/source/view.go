package source

import (
	"sync"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

// view is what screens see of a machine; it never waits for a disk.
type view struct {
	mu       sync.Mutex
	tip      *recovery.Point
	cut      time.Duration // begin of the tip's cut, on the monotonic clock
	guessed  bool          // cut was made of wall clocks: another process cut it
	pending  ident.PointID // cut that this process made last
	began    time.Duration // on the monotonic clock
	cycle    *command.CycleStatus
	progress *command.Progress
}

// Tip returns the newest point that the target acknowledged.
func (m *Machine) Tip() (recovery.Point, bool) {
	m.view.mu.Lock()
	defer m.view.mu.Unlock()
	if m.view.tip == nil {
		return recovery.Point{}, false
	}
	return *m.view.tip, true
}

// Report fills in what the sending side knows of the machine: Tip, TipAge,
// Cycle and Progress. It does not wait for a running cycle.
func (m *Machine) Report(st *command.MachineStatus) {
	v := &m.view
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.tip != nil {
		tip := *v.tip
		st.Tip, st.TipAge = &tip, clock.Mono(m.cfg.Clock)-v.cut
	}
	if v.cycle != nil {
		c := *v.cycle
		st.Cycle = &c
	}
	if v.progress != nil {
		p := *v.progress
		st.Progress = &p
	}
}

// cutBegan notes when the cut of a point began, on the monotonic clock.
func (v *view) cutBegan(id ident.PointID, at time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.pending, v.began = id, at
}

// age returns how long ago the cut of p began; by the wall clock, which is a
// guess, where another process cut it.
func (v *view) age(p *recovery.Point, clk clock.Clock) (age time.Duration, guessed bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.pending == p.ID:
		return clock.Mono(clk) - v.began, false
	case v.tip != nil && v.tip.ID == p.ID:
		return clock.Mono(clk) - v.cut, v.guessed
	}
	return max(0, clk.Now().Sub(p.Instant)), true
}

func (v *view) setTip(p *recovery.Point, clk clock.Clock) {
	if p == nil {
		v.mu.Lock()
		v.tip = nil
		v.mu.Unlock()
		return
	}
	age, guessed := v.age(p, clk)
	v.mu.Lock()
	defer v.mu.Unlock()
	tip := *p
	v.tip, v.cut, v.guessed = &tip, clock.Mono(clk)-age, guessed
}

// learnAge takes over how old the tip is from the target, which has counted
// since it got it, if this process only knows it by wall clocks.
func (v *view) learnAge(p *recovery.Point, age time.Duration, clk clock.Clock) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if p != nil && age > 0 && v.guessed && v.tip != nil && v.tip.ID == p.ID {
		v.cut, v.guessed = clock.Mono(clk)-age, false
	}
}

// phase starts a phase of work over total bytes; "" ends the work.
func (v *view) phase(name string, total int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.progress = nil
	if name != "" {
		v.progress = &command.Progress{Phase: name, Total: total}
	}
}

// advance counts bytes of a phase; those of another phase do not count.
func (v *view) advance(phase string, n int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.progress != nil && v.progress.Phase == phase {
		v.progress.Done = min(v.progress.Done+n, v.progress.Total)
	}
}

func (v *view) finished(c command.CycleStatus) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.cycle, v.progress = &c, nil
}
