package replica_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

// onto lets the model send over the newest point that the store has.
func (w *world) onto(m *replica.Machine) error {
	tip, _, ok := m.Tip()
	have, known := w.kept[tip.ID]
	if !ok || !known {
		return fmt.Errorf("the newest point is %s, which was never sent", tip.ID)
	}
	w.tip = tip
	for _, n := range w.names {
		w.sent[n] = have.disks[n]
	}
	return nil
}

// all lists the points of the store, which must be just those of the model.
func (w *world) all(m *replica.Machine, want []ident.PointID) error {
	var have []ident.PointID
	for _, p := range m.Points() {
		have = append(have, p.ID)
	}
	if !slices.Equal(have, want) {
		return fmt.Errorf("points %v, want %v", have, want)
	}
	return w.check(m)
}

func discards(k replica.Kept) replica.Kept {
	k.Discard = true
	return k
}

// TestAsFoundWithoutRoom: what differs from the base has no room as an undo log:
// nothing is changed, until a person gives it up; then the base is the disk
// again, with all its points.
func TestAsFoundWithoutRoom(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w, f, m := apart(t)
	must(t, w.cycle(m))
	must(t, m.Apply(ctx))
	w.disks["data"][3]++
	must(t, w.cycle(m))
	must(t, m.Apply(ctx))
	points := slices.Clone(w.order)
	common := w.tip
	res, err := m.Prepare(ctx, "run-1", common.ID, nil)
	must(t, err)
	must(t, m.Commit("run-1"))
	for n, path := range res.Paths {
		w.disks[n] = bytes.Repeat([]byte{9}, 40*block) // all of it differs
		must(t, os.WriteFile(path, w.disks[n], 0o600))
	}
	kept := replica.Kept{Label: replica.AsFound, Run: "rev", Epoch: 3, Common: &common, Tables: m.LiveTables()}
	f.setFree(79*block, 0)
	for range 2 {
		_, err = m.Keep(ctx, kept, nil)
		wantKind(t, err, fault.NoSpace)
		if _, p, live := m.Live(); !live || p.ID != common.ID {
			t.Fatal("the refusal has ended the overlay")
		}
		for n, path := range res.Paths {
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, w.disks[n]) {
				t.Errorf("disk %s was changed by the refusal: %v", n, err)
			}
			if left, _ := filepath.Glob(filepath.Join(w.dir, "store", "erp", n, "table.*")); len(left) > 0 {
				t.Errorf("the refusal leaves %v", left)
			}
		}
		m = reopen(t, w, m)
	}
	got, err := m.Keep(ctx, discards(kept), nil)
	must(t, err)
	want := command.FoundResult{Discarded: true, Blocks: 80, Bytes: 80 * block, Since: common.Instant}
	if !got.Point.ID.IsZero() || got.Blocks != want.Blocks || got.Bytes != want.Bytes || !got.Discarded || !got.Since.Equal(want.Since) {
		t.Errorf("discarded %+v, want %+v", got, want)
	}
	f.setFree(plenty, plenty)
	for range 2 {
		again, err := m.Keep(ctx, discards(kept), nil)
		must(t, err)
		if again.Blocks != got.Blocks || !again.Discarded || !again.Since.Equal(got.Since) {
			t.Errorf("again: %+v", again)
		}
		must(t, w.all(m, points))
		for _, n := range w.names {
			if b, err := os.ReadFile(w.head(n)); err != nil || !bytes.Equal(b, w.kept[common.ID].disks[n]) {
				t.Errorf("disk %s is not the base: %v", n, err)
			}
			if _, err := os.Stat(w.head(n) + ".base"); err == nil {
				t.Errorf("the base of %s stays", n)
			}
		}
		m = reopen(t, w, m)
	}
	must(t, w.onto(m))
	must(t, w.cycle(m))
	must(t, m.Apply(ctx))
	must(t, w.all(m, w.order))
}

// TestOldPrimaryWithoutRoom: disks that were never a replica are the state that
// the other site sends its differences over; without an undo log.
func TestOldPrimaryWithoutRoom(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, alloc := range []string{"", replica.AllocationFull} {
		w, f, m := apart(t)
		must(t, m.Close())
		w.alloc = alloc
		for n, path := range w.heads {
			must(t, os.WriteFile(path, w.disks[n], 0o600))
		}
		m = open(t, w)
		kept := replica.Kept{Label: replica.AsFound, Run: "rev", Epoch: 2}
		f.setFree(79*block, plenty)
		_, err := m.Keep(ctx, kept, nil)
		wantKind(t, err, fault.NoSpace)
		if _, _, ok := m.Tip(); ok {
			t.Error("the refusal has made a point")
		}
		res, err := m.Keep(ctx, discards(kept), nil)
		must(t, err)
		tip, _, _ := m.Tip()
		if !res.Discarded || res.Blocks != 80 || !res.Point.ID.IsZero() || tip.Held || tip.Labels[0] != replica.Discarded {
			t.Errorf("discarded %+v, the newest point is %+v", res, tip)
		}
		_, err = m.Label(ctx, tip.ID, []string{"mine"}, true)
		wantKind(t, err, fault.Refused)
		w.keep(tip)
		m = reopen(t, w, m)
		f.setFree(plenty, plenty)
		must(t, w.check(m))
		f.setFree(79*block, plenty) // no undo log has room; only the logs themselves
		for n := range w.disks {
			w.disks[n] = bytes.Repeat([]byte{5}, 38*block+100)
			clear(w.disks[n][7*block : 9*block])
		}
		must(t, w.cycle(m))
		must(t, m.Apply(ctx))
		f.setFree(plenty, plenty)
		must(t, w.all(m, w.order[1:]))
		if undo, _ := filepath.Glob(filepath.Join(w.dir, "store", "erp", "*", "undo", "*")); len(undo) > 0 {
			t.Errorf("undo logs of what was given up: %v", undo)
		}
		w.change()
		must(t, w.cycle(m))
		must(t, m.Apply(ctx))
		must(t, w.all(reopen(t, w, m), w.order[1:]))
	}
}

// TestDiscardedUnderATest: a point on which a test stands is not overwritten
// without an undo log.
func TestDiscardedUnderATest(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w, _, m := apart(t)
	for n, path := range w.heads {
		must(t, os.WriteFile(path, w.disks[n], 0o600))
	}
	_, err := m.Keep(ctx, replica.Kept{Label: replica.AsFound, Epoch: 2, Discard: true}, nil)
	must(t, err)
	tip, _, _ := m.Tip()
	w.keep(tip)
	_, err = m.PrepareTest(ctx, "drill", tip.ID, nil)
	must(t, err)
	w.change()
	must(t, w.cycle(m))
	must(t, m.Apply(ctx))
	must(t, w.all(m, w.order))
}

// overBase is a failover to here that is given up with what was written, and the
// next points.
func (w *world) overBase(m *replica.Machine) error {
	ctx := context.Background()
	for range 3 {
		w.change()
		if err := w.cycle(m); err != nil {
			return err
		}
		if err := m.Apply(ctx); err != nil {
			return err
		}
	}
	res, err := m.Prepare(ctx, "run-1", w.order[1], nil)
	if err != nil {
		return err
	}
	w.reset(w.kept[w.order[1]].point)
	if err := w.live(res.Paths); err != nil {
		return err
	}
	return w.giveUp(m)
}

// atHome is the same at the site where the machine ran first.
func (w *world) atHome(m *replica.Machine) error {
	if err := os.MkdirAll(filepath.Dir(w.head("data")), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(w.head("data"), w.disks["data"], 0o600); err != nil {
		return err
	}
	return w.giveUp(m)
}

func (w *world) giveUp(m *replica.Machine) error {
	ctx := context.Background()
	w.gone = slices.Clone(w.disks["data"])
	if _, err := m.Keep(ctx, replica.Kept{Label: replica.AsFound, Run: "rev", Epoch: 3, Discard: true}, nil); err != nil {
		return err
	}
	w.noteGone(m)
	if err := w.onto(m); err != nil {
		return err
	}
	for range 2 {
		w.change()
		if err := w.cycle(m); err != nil {
			return err
		}
		if err := m.Apply(ctx); err != nil {
			return err
		}
	}
	return nil
}

// noteGone tells the model of the point that was given up, where it is there.
func (w *world) noteGone(m *replica.Machine) {
	for _, p := range m.Points() {
		if slices.Contains(p.Labels, replica.Discarded) {
			w.kept[p.ID] = snapshot{p, map[string][]byte{"data": w.gone}}
		}
	}
}

// goesOn opens the replica after a crash: what was given up is given up once
// more if need be, every other point is there, and the next ones come.
func (w *world) goesOn() error {
	ctx := context.Background()
	m, err := replica.Open(w.config())
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer m.Close()
	if tip, _, ok := m.Tip(); ok && w.pending != nil && tip.ID == w.pending.ID && tip.ID != w.tip.ID {
		w.keep(tip) // durable, and its acknowledgement was lost
	}
	_, _, live := m.Live()
	_, _, some := m.Tip()
	if w.gone != nil && (live || !some) { // not given up yet
		if got, err := os.ReadFile(w.head("data")); err != nil || !bytes.Equal(got, w.gone) {
			return fmt.Errorf("the disk of the machine was changed before it was given up: %v", err)
		}
		if _, err := m.Keep(ctx, replica.Kept{Label: replica.AsFound, Run: "rev", Epoch: 3, Discard: true}, nil); err != nil {
			return err
		}
		live = false
	}
	w.noteGone(m)
	for _, id := range w.order {
		if !slices.ContainsFunc(m.Points(), func(p recovery.Point) bool { return p.ID == id }) {
			return fmt.Errorf("point %d was acknowledged and is gone", w.kept[id].point.Seq)
		}
	}
	if err := w.check(m); err != nil || live || w.gone == nil {
		return err
	}
	if err := w.onto(m); err != nil {
		return err
	}
	for range 2 {
		w.change()
		if err := w.cycle(m); err != nil {
			return err
		}
		if err := m.Apply(ctx); err != nil {
			return err
		}
	}
	if slices.ContainsFunc(m.Points(), func(p recovery.Point) bool { return slices.Contains(p.Labels, replica.Discarded) }) {
		return fmt.Errorf("what was given up is a point still")
	}
	return w.check(m)
}

// TestCrashAtEveryStepOfADiscard kills at the operations of both ways.
func TestCrashAtEveryStepOfADiscard(t *testing.T) {
	t.Parallel()
	stride := 11
	if *every {
		stride = 1
	}
	for name, scenario := range map[string]func(*world, *replica.Machine) error{"base": (*world).overBase, "home": (*world).atHome} {
		for _, power := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,power=%v", name, power), func(t *testing.T) {
				t.Parallel()
				total := crashAt(t, 21, -1, power, scenario, (*world).goesOn)
				if total < 60 {
					t.Fatalf("the scenario has %d steps only", total)
				}
				for n := 0; n < total; n += stride {
					crashAt(t, 21, n, power, scenario, (*world).goesOn)
				}
			})
		}
	}
}
