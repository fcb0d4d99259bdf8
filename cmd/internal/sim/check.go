package sim

import (
	"context"
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

const (
	lookEvery = 8 * time.Second // at disks and machines
	// fenceWithin is how long a machine may run at two sites once they reach
	// each other.
	fenceWithin = 3 * time.Minute
)

// manifests are those that were read already.
type manifests map[string]recovery.Point

// read reads the manifest of a point.
func (ms manifests) read(b []byte) (p recovery.Point, ok bool) {
	if p, ok = ms[string(b)]; ok {
		return p, true
	}
	var e struct {
		Body json.RawMessage `json:"body"`
	}
	if json.Unmarshal(b, &e) != nil || json.Unmarshal(e.Body, &p) != nil || p.ID.IsZero() {
		return p, false
	}
	ms[string(b)] = p
	return p, true
}

// paths are where a disk of the machine itself may lie on a host: its place,
// and where a failover keeps it.
func (h *host) paths(m *model, d recovery.Disk) []string {
	p := d.Paths[h.peer.Site]
	if p == "" {
		p = filepath.Join(storeDir, m.name, d.Name, "head.img")
	}
	return []string{p, p + ".base"}
}

// watch looks at disks and machines until ctx ends.
func (w *world) watch(ctx context.Context) {
	for pause(ctx, lookEvery+w.draw(time.Second)) == nil {
		w.look()
	}
}

func (w *world) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.names {
		w.lookAt(w.models[m])
	}
}

func (w *world) lookAt(m *model) {
	kept := map[string]map[ident.PointID]recovery.Point{}
	for _, name := range hostNames {
		h := w.hosts[name]
		kept[name] = h.points(m.name)
		for _, g := range h.sorted() {
			if g.m == m {
				w.undisturbed(g)
			}
		}
	}
	for _, name := range hostNames {
		w.pointsStay(w.hosts[name], m, kept[name])
	}
	w.nothingIsLost(m, kept)
	w.fenced(m)
}

// undisturbed checks that nobody writes the disks of a machine that runs.
func (w *world) undisturbed(g *guest) {
	rule := 7
	if g.test() {
		rule = 5
	}
	if at, err := g.m.decode(g.read); err != nil {
		w.violate(rule, "the disks of %s changed under it: %v", g, err)
	} else if at != g.head {
		w.violate(rule, "the disks of %s changed under it: they are at %s, its last write is %s", g, at, g.head)
	}
}

// pointsStay checks that what was reported is still there.
func (w *world) pointsStay(h *host, m *model, kept map[ident.PointID]recovery.Point) {
	reported := w.witness.reported[h.name()+" "+m.name]
	if len(reported) == 0 {
		return
	}
	var newest ident.Seq
	for _, p := range kept {
		newest = max(newest, p.Seq)
	}
	for _, id := range slices.SortedFunc(maps.Keys(reported), func(a, b ident.PointID) int { return int(reported[a].Seq) - int(reported[b].Seq) }) {
		p := reported[id]
		if _, ok := kept[id]; ok {
			continue
		}
		switch {
		case p.Held || len(p.Labels) > 0:
			w.violate(4, "%s has lost %s of %s, which is held", h.name(), p, m.name)
		case w.dropped(h, m):
			delete(reported, id)
		case len(w.sc.Keep) == 0:
			w.violate(3, "%s has lost %s of %s, which was reported %s ago", h.name(), p, m.name, time.Since(p.at).Round(time.Second))
		case newest < p.Seq:
			w.violate(4, "%s has lost %s of %s, and the newest it has is %d", h.name(), p, m.name, newest)
		}
	}
}

// dropped reports whether the replica at a host may have been given up by rule:
// its site has the machine's own disks again, and what it had received of a
// failover that was taken back is dropped.
func (w *world) dropped(h *host, m *model) bool {
	rec, ok := h.record(m.name)
	return ok && rec.Own && rec.Authority.Active == h.peer.Site
}

// nothingIsLost checks that every last write of a machine, of any time, is
// still on its disks or in a recovery point, or that it went on from there.
func (w *world) nothingIsLost(m *model, kept map[string]map[ident.PointID]recovery.Point) {
	for _, leaf := range m.writes {
		if !leaf.leaf || w.has(m, leaf, kept) {
			continue
		}
		w.violate(8, "%s, the last before the machine went on from an older state or another, is in no recovery point and on no disk any more", leaf)
		return
	}
}

func (w *world) has(m *model, leaf *write, kept map[string]map[ident.PointID]recovery.Point) bool {
	for _, name := range hostNames {
		h := w.hosts[name]
		if g := h.production(m); g != nil && g.head.holds(leaf) {
			return true
		}
		for _, p := range kept[name] {
			if m.of(&p).holds(leaf) {
				return true
			}
		}
		for mask := range 1 << len(m.disks) {
			if at, err := h.decode(m, mask); err == nil && at.holds(leaf) {
				return true
			}
		}
	}
	return false
}

// decode finds the state of the disks at a host; bits of mask say which are
// taken from where a failover keeps them.
func (h *host) decode(m *model, mask int) (*write, error) {
	files := make([]vfs.File, len(m.disks))
	for i, d := range m.disks {
		f, err := h.disk.OpenFile(h.paths(m, d)[mask>>i&1], vfs.ReadOnly, 0)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		files[i] = f
	}
	return m.decode(func(disk, block int, b []byte) error {
		_, err := files[disk].ReadAt(b, int64(block)*blockSize)
		return err
	})
}

// fenced checks that a machine that a person let run at two sites runs at one
// once these reach each other.
func (w *world) fenced(m *model) {
	a, b := w.hosts[par], w.hosts[lyo]
	if a.production(m) == nil || b.production(m) == nil || w.apart(par, lyo) || a.proc == nil || b.proc == nil {
		delete(w.witness.both, m.name)
		return
	}
	since, ok := w.witness.both[m.name]
	if !ok {
		w.witness.both[m.name] = time.Now()
		return
	}
	if time.Since(since) > fenceWithin {
		w.violate(1, "%s has been running at two sites for %s, and the agents reach each other", m.name, time.Since(since))
	}
}

// verify has the agents read all points.
func (w *world) verify() {
	w.look()
	for _, name := range hostNames {
		for _, m := range w.names {
			if len(w.hosts[name].points(m)) == 0 {
				continue
			}
			ctx, cancel := context.WithTimeout(w.ctx, 2*time.Minute)
			var res command.VerifyResult
			var err error
			for {
				res, err = w.ask(ctx, name, m)
				if !fault.Is(err, fault.Unreachable) || pause(ctx, time.Second) != nil {
					break
				}
			}
			cancel()
			w.mu.Lock()
			if err != nil || len(res.Faults) > 0 {
				w.violate(3, "the points of %s at %s do not verify: %v %v", m, name, err, res.Faults)
			}
			w.mu.Unlock()
		}
	}
}

func (w *world) ask(ctx context.Context, host, machine string) (command.VerifyResult, error) {
	w.mu.Lock()
	l := w.controls[rtOne].life
	w.mu.Unlock()
	if l == nil {
		return command.VerifyResult{}, fault.Errorf(fault.Unreachable, "no runtime")
	}
	return command.Verify.Call(ctx, l.client, host, command.VerifyRequest{Machine: machine})
}
