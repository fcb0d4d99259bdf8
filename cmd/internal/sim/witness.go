package sim

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// witness is what was seen from outside. All fields are under world.mu.
type witness struct {
	runs     int
	mended   time.Time
	kinds    map[string]recovery.Type // of runs, as they are now
	targets  map[string]string        // of runs: the host they take machines to
	stated   []statement
	permits  map[string]time.Time                        // by host and machine
	effects  map[string]int                              // by run and what was done
	last     map[string]*guest                           // by machine: what ended last in production
	reported map[string]map[ident.PointID]*reportedPoint // by host and machine
	claims   map[string]claimed                          // by host and machine: the highest that was answered
	epochs   map[string]ident.Epoch                      // by host and machine: the highest that was answered
	begun    map[string]bool                             // operations that were asked for
	changed  map[string]bool                             // runs: their point was to be changed
	ran      map[string]bool                             // by run and machine: it was started by it
	held     map[string]heldRecord                       // by host and machine: its authority record
	both     map[string]time.Time                        // machines that run at two sites, since when somebody could tell
}

// statement is a person's word that a site is down or isolated.
type statement struct {
	machine, site string
	at            time.Time
}

type claimed struct {
	fence ident.Fence
	run   string
}

// heldRecord is an authority record of a host, and since when it has it.
type heldRecord struct {
	epoch ident.Epoch
	since time.Time
}

// reportedPoint is a point that somebody was told of.
type reportedPoint struct {
	recovery.Point
	state *write
	at    time.Time
}

func newWitness() witness {
	return witness{kinds: map[string]recovery.Type{}, targets: map[string]string{}, permits: map[string]time.Time{}, effects: map[string]int{}, last: map[string]*guest{},
		reported: map[string]map[ident.PointID]*reportedPoint{}, claims: map[string]claimed{}, epochs: map[string]ident.Epoch{}, begun: map[string]bool{},
		held: map[string]heldRecord{}, both: map[string]time.Time{}, ran: map[string]bool{}, changed: map[string]bool{}}
}

// record is what the product keeps of a machine on a host's disk.
type record struct {
	Authority recovery.Authority  `json:"authority"`
	Conflict  *recovery.Authority `json:"conflict"`
	Locked    bool                `json:"locked"`
	Own       bool                `json:"own"`
	Desired   recovery.Power      `json:"desired"`
}

// record reads machine.json; false: there is none.
func (h *host) record(machine string) (r record, ok bool) {
	return h.recordIn(filepath.Join(stateDir, "machines", machine, recordFile))
}

func (h *host) recordIn(file string) (r record, ok bool) {
	b, err := vfs.ReadFile(h.disk, file)
	return r, err == nil && json.Unmarshal(b, &r) == nil
}

// newest is the record of a machine with the highest epoch.
func (w *world) newest(machine string) (r recovery.Authority) {
	for _, name := range hostNames {
		if got, ok := w.hosts[name].record(machine); ok && got.Authority.Epoch > r.Epoch {
			r = got.Authority
		}
	}
	return r
}

// points reads the manifests of a machine on a host's disk.
func (h *host) points(machine string) map[ident.PointID]recovery.Point {
	dir := filepath.Join(storeDir, machine, "points")
	entries, err := h.disk.ReadDir(dir)
	if err != nil {
		return nil
	}
	all := map[ident.PointID]recovery.Point{}
	for _, e := range entries {
		b, err := vfs.ReadFile(h.disk, filepath.Join(dir, e.Name()))
		if err != nil || strings.HasSuffix(e.Name(), vfs.TempSuffix) {
			continue
		}
		if p, ok := h.w.manifests.read(b); ok {
			all[p.ID] = p
		}
	}
	return all
}

// other is the host of the other site.
func (w *world) other(name string) *host {
	if name == par {
		return w.hosts[lyo]
	}
	return w.hosts[par]
}

// started checks a machine that has just been started.
func (w *world) started(g *guest) {
	w.stats["starts"]++
	if g.test() {
		w.stats["test starts"]++
		w.startedTest(g)
		return
	}
	g.permitted = w.permitted(g)
	for _, o := range g.h.sorted() {
		if o != g && o.m == g.m && !o.test() {
			w.violate(6, "%s is started although it runs there already", g)
		}
	}
	if o := w.other(g.h.name()).production(g.m); o != nil && !w.mayOverlap(g, o) {
		w.violate(1, "%s is started (epoch %d, run %q) while it runs on %s, and nobody said that this site is down", g, g.launch.Epoch, g.launch.Run, o.h.name())
	}
	if now := w.newest(g.m.name); now.Active != g.h.peer.Site && !w.permitted(g) && !w.overtaken(g, now.Epoch) {
		w.violate(1, "%s is started (epoch %d) although epoch %d gives the right to %s", g, g.launch.Epoch, now.Epoch, now.Active)
	}
	w.pointsStay(g.h, g.m, g.h.points(g.m.name))
	if rec, ok := g.h.record(g.m.name); !ok || rec.Authority.Epoch != g.launch.Epoch {
		w.violate(9, "%s is started for epoch %d and its host holds epoch %d", g, g.launch.Epoch, rec.Authority.Epoch)
	}
	w.startedOn(g)
	w.witness.last[g.m.name] = g
	w.witness.ran[g.launch.Run+" "+g.m.name] = true
}

// startedOn checks what is on the disks of a machine that was started.
func (w *world) startedOn(g *guest) {
	last := w.witness.last[g.m.name]
	switch {
	case last == nil:
		if g.from.id != 0 {
			w.violate(7, "%s is started for the first time on %s", g, g.from)
		}
	case w.witness.targets[g.launch.Run] != "" && w.witness.targets[g.launch.Run] != g.h.name(): // the run is taken back
		w.stats["starts back"]++
		if own := w.lastAt(g); own != nil && g.from != own {
			w.violate(8, "%s is started again by the run that had stopped it, %s, on %s, and its last acknowledged write there is %s", g, g.launch.Run, g.from, own)
		}
	case last.h == g.h && last.launch.Run == g.launch.Run && !w.witness.changed[g.launch.Run]:
		if g.from != last.head {
			w.violate(7, "%s is started again on %s, and its last acknowledged write there is %s", g, g.from, last.head)
		}
	case last.h == g.h && last.launch.Run != g.launch.Run && g.from == last.head: // its own, still
	case w.witness.kinds[g.launch.Run] == recovery.Planned && last.h != g.h:
		w.stats["planned starts"]++
		if g.from != last.head {
			w.violate(2, "%s is started by the planned run %s on %s, and its last acknowledged write is %s", g, g.launch.Run, g.from, last.head)
		}
	default:
		w.stats["other starts"]++
		for _, p := range g.h.points(g.m.name) {
			if g.m.of(&p) == g.from {
				return
			}
		}
		if g.from != last.head { // its own disks again, untouched
			w.startedHome(g)
		}
	}
}

// lastAt is the last write of a machine at the host where it is started.
func (w *world) lastAt(g *guest) *write {
	for _, o := range slices.Backward(g.m.writes) {
		if o.host == g.h.name() && !o.test {
			return o
		}
	}
	return nil
}

// startedHome accepts the disks that a site had when its machine ended there.
func (w *world) startedHome(g *guest) {
	for _, o := range g.m.writes {
		if o == g.from && o.host == g.h.name() {
			return
		}
	}
	w.violate(7, "%s is started (run %q) on %s, which is no recovery point there", g, g.launch.Run, g.from)
}

// startedTest checks that a test has disks of its own with a point on them.
func (w *world) startedTest(g *guest) {
	for _, d := range g.m.disks {
		path := g.launch.Disks[d.Name]
		for _, own := range g.h.paths(g.m, d) {
			if path == own {
				w.violate(5, "%s runs on %s, a disk of the machine itself", g, path)
			}
		}
	}
	for _, p := range g.h.points(g.m.name) {
		if g.m.of(&p) == g.from {
			return
		}
	}
	w.violate(5, "%s is started on %s, which is no recovery point there", g, g.from)
}

// mayOverlap reports whether a person answers for a machine that runs at two
// sites: g was started while o runs. The word that a site is down or isolated
// does not hold for what was started there later, but where another person had it
// started.
func (w *world) mayOverlap(g, o *guest) bool {
	for _, s := range w.witness.stated {
		if s.machine == g.m.name && s.site == o.h.peer.Site && (o.permitted || !s.at.Before(o.started)) {
			return true
		}
	}
	return w.permitted(g)
}

// answerAge is for how long a host may act on the answer that confirmed its
// right to run: it is under way, then the machine is started.
const answerAge = 4 * time.Second

// overtaken reports whether a person answers for a machine that is started where
// a newer record forbids it, and its host could not know: the other one confirmed
// its record, and stored the newer one while the answer was under way. It runs at
// one site only: the other asks before it starts it (mayOverlap looks at that).
func (w *world) overtaken(g *guest, epoch ident.Epoch) bool {
	o := w.witness.held[w.other(g.h.name()).name()+" "+g.m.name]
	return o.epoch == epoch && time.Since(o.since) < answerAge &&
		slices.ContainsFunc(w.witness.stated, func(s statement) bool { return s.machine == g.m.name && s.site == g.h.peer.Site })
}

// holds notes the authority record that a host is about to have, from a file;
// world.mu is held.
func (w *world) holds(h *host, machine, file string) {
	key := h.name() + " " + machine
	if rec, ok := h.recordIn(file); ok && rec.Authority.Epoch != w.witness.held[key].epoch {
		w.witness.held[key] = heldRecord{rec.Authority.Epoch, time.Now()}
	}
}

func (w *world) permitted(g *guest) bool {
	at, ok := w.witness.permits[g.h.name()+" "+g.m.name]
	return ok && time.Since(at) < time.Minute
}

// stopped notes the end of a machine.
func (w *world) stopped(g *guest) {
	if !g.test() {
		w.witness.last[g.m.name] = g
	}
}

// effect notes something that may happen once in a run.
func (w *world) effect(run, where, what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log(where, "%s, for run %s", what, run)
	key := run + " " + what
	if w.witness.effects[key]++; w.witness.effects[key] > 1 {
		w.violate(6, "%q was done twice in run %s", what, run)
	}
}

// asking is a command of a runtime under way.
type asking struct {
	rt, host, verb string
	meta           command.Meta
	fence          claimed     // what the host had confirmed by then
	epoch          ident.Epoch // what it had confirmed or stored
	again          bool        // the operation had been asked for before
}

func (w *world) asked(rt, host, verb string, meta command.Meta) asking {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := host + " " + meta.Machine
	a := asking{rt: rt, host: host, verb: verb, meta: meta, fence: w.witness.claims[key], epoch: w.witness.epochs[key], again: w.witness.begun[meta.Op]}
	if rec, ok := w.hosts[host].record(meta.Machine); ok && meta.Epoch != 0 {
		a.epoch = max(a.epoch, rec.Authority.Epoch) // it may have learned of it from its peer
	}
	w.witness.begun[meta.Op] = meta.Op != ""
	if verb != command.Status.Name {
		w.log(rt, "→ %s %s %s %s", host, verb, meta.Machine, meta.Op)
	}
	return a
}

// answered holds a command that succeeded against what was confirmed before it.
func (w *world) answered(a asking, out any, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.log(a.rt, "← %s %s %s: %v", a.host, a.verb, a.meta.Machine, err)
		return
	}
	if a.verb != command.Status.Name {
		w.log(a.rt, "← %s %s %s ok", a.host, a.verb, a.meta.Machine)
	}
	if a.meta.Fence != 0 && a.meta.Fence < a.fence.fence {
		w.violate(9, "%s did %q of run %q with fencing number %d, and had confirmed %d of run %q before", a.host, a.verb, a.meta.Run, a.meta.Fence, a.fence.fence, a.fence.run)
	}
	if a.meta.Epoch != 0 && a.meta.Epoch < a.epoch && !a.again && a.verb != command.Grant.Name {
		w.violate(9, "%s did %q of run %q for epoch %d, and had epoch %d before", a.host, a.verb, a.meta.Run, a.meta.Epoch, a.epoch)
	}
	key := a.host + " " + a.meta.Machine
	switch r := out.(type) {
	case *command.ClaimResult:
		if a.meta.Fence > w.witness.claims[key].fence {
			w.witness.claims[key] = claimed{a.meta.Fence, a.meta.Run}
		}
	case *command.GrantResult:
		w.witness.epochs[key] = max(w.witness.epochs[key], r.Authority.Epoch)
	case *command.PointsResult:
		for _, p := range r.Points {
			w.report(a.host, p)
		}
	case *command.DrainResult:
		w.report(w.other(a.host).name(), r.Point)
	case *command.FoundResult:
		w.report(a.host, r.Point)
	case *command.AgentStatus:
		w.heard(r)
	}
}

// heard takes the points out of a status.
func (w *world) heard(st *command.AgentStatus) {
	for _, ms := range st.Machines {
		switch {
		case ms.Tip == nil:
		case ms.Role == command.RoleTarget:
			w.report(st.Host, *ms.Tip)
		case ms.Role == command.RoleSource && ms.Tip.Epoch == ms.Authority.Epoch: // else it may be what the sender began with
			w.report(w.other(st.Host).name(), *ms.Tip)
		}
	}
}

// report notes that somebody was told of a point: it must be a state that the
// machine had.
func (w *world) report(host string, p recovery.Point) {
	m := w.models[p.Machine]
	if m == nil || p.ID.IsZero() {
		return
	}
	key := host + " " + p.Machine
	if w.witness.reported[key] == nil {
		w.witness.reported[key] = map[ident.PointID]*reportedPoint{}
	}
	if w.witness.reported[key][p.ID] != nil {
		return
	}
	state := m.of(&p)
	if state == nil {
		w.violate(3, "%s has point %d (%s) of %s, which is no state the machine ever had", host, p.Seq, p.ID.Short(), p.Machine)
	}
	w.stats["points"]++
	w.witness.reported[key][p.ID] = &reportedPoint{Point: p, state: state, at: time.Now()}
}

// state names a person's word for the machines of a run.
func (w *world) state(machines []string, site string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log("", "a person states that %s is down or isolated", site)
	for _, m := range machines {
		w.witness.stated = append(w.witness.stated, statement{m, site, time.Now()})
	}
}

func (p *reportedPoint) String() string {
	return fmt.Sprintf("point %d (%s, epoch %d) with %s", p.Seq, p.ID.Short(), p.Epoch, p.state)
}
