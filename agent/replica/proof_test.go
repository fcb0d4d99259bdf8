package replica_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/vfs"
)

// proofTables are files for the tables that a proof makes.
func (w *world) proofTables() map[string]string {
	tables := map[string]string{}
	for _, n := range w.names {
		tables[n] = filepath.Join(w.dir, n+".proof")
	}
	return tables
}

// wantProof reads a point and compares each sum with the model's.
func (w *world) wantProof(t *testing.T, m *replica.Machine, id ident.PointID, progress func(int64)) {
	t.Helper()
	res, err := m.Prove(context.Background(), id, w.proofTables(), progress)
	must(t, err)
	if len(res.Disks) != len(w.names) || res.Bytes == 0 {
		t.Fatalf("proof %+v", res)
	}
	for n, d := range w.kept[id].disks {
		if got, ok := res.Disk(n); !ok || got.Sum != sum(w.key(n), d) || got.Size != int64(len(d)) {
			t.Errorf("disk %s was read as %+v, want size %d, sum %x", n, got, len(d), sum(w.key(n), d))
		}
	}
}

// TestProofBesideReceiving: what is sent back meanwhile is stored at once, and
// not applied.
func TestProofBesideReceiving(t *testing.T) {
	t.Parallel()
	w, m := setup(t)
	ctx := context.Background()
	must(t, m.SetHold(true))
	final, applied := w.tip, m.Applied()
	cycles := 0
	w.wantProof(t, m, final.ID, func(int64) {
		if cycles++; cycles > 3 {
			return
		}
		w.change()
		must(t, w.cycle(m))
	})
	if cycles == 0 || w.tip.ID == final.ID || m.Applied() != applied {
		t.Errorf("%d cycles beside the proof, applied %d, was %d", cycles, m.Applied(), applied)
	}
	w.wantProof(t, m, final.ID, nil)
	must(t, w.check(m))
	must(t, m.SetHold(false))
	must(t, m.Apply(ctx))
	_, err := m.Prove(ctx, final.ID, w.proofTables(), nil)
	wantKind(t, err, fault.Refused)
}

// TestProofReadsTheMedium: a block that rotted shows although every table says
// that it is right.
func TestProofReadsTheMedium(t *testing.T) {
	t.Parallel()
	w, m := setup(t)
	w.wantProof(t, m, w.tip.ID, nil)
	b, err := os.ReadFile(w.head("data"))
	must(t, err)
	b[3*block+5] ^= 1
	must(t, os.WriteFile(w.head("data"), b, 0o600))
	res, err := m.Prove(context.Background(), w.tip.ID, w.proofTables(), nil)
	must(t, err)
	if d, _ := res.Disk("data"); d.Sum == w.tip.Disks[0].Sum || d.Sum != sum(w.key("data"), b) || d.From != string(vfs.Medium) && d.From != string(vfs.Dropped) {
		t.Errorf("the disk was read as %+v, the manifest says %x", d, w.tip.Disks[0].Sum)
	}
}

// TestProofUnderAnOverlay: the point is read and not what the machine writes over
// it, and that is counted by itself.
func TestProofUnderAnOverlay(t *testing.T) {
	t.Parallel()
	w, m := setup(t)
	ctx := context.Background()
	_, err := m.Written(ctx, nil)
	wantKind(t, err, fault.Refused)
	p := w.kept[w.order[0]].point
	res, err := m.Prepare(ctx, "run-1", p.ID, nil)
	must(t, err)
	if n, err := m.Written(ctx, nil); err != nil || n.Blocks != 0 || !n.Since.Equal(w.now) {
		t.Errorf("nothing was written: %+v, %v", n, err)
	}
	w.reset(p)
	for range 3 {
		must(t, w.live(res.Paths))
		w.wantProof(t, m, p.ID, nil)
		want := int64(0)
		for n, d := range w.disks {
			was := w.kept[p.ID].disks[n]
			for i := 0; i < max(len(d), len(was)); i += block {
				if !same(at(d, i), at(was, i)) {
					want++
				}
			}
		}
		if n, err := m.Written(ctx, nil); err != nil || n.Blocks != want || n.Bytes != want*block {
			t.Errorf("written %+v, %v, want %d blocks", n, err, want)
		}
	}
	_, err = m.Prove(ctx, w.tip.ID, w.proofTables(), nil)
	wantKind(t, err, fault.Refused)
	table, err := os.ReadFile(w.proofTables()["data"])
	must(t, err)
	if live, err := os.ReadFile(m.LiveTables()["data"]); err != nil || !bytes.Equal(table, live) {
		t.Errorf("the table that was read is not that of the point: %v", err)
	}
}

// TestPrepareEndsProof: a failover does not wait for it.
func TestPrepareEndsProof(t *testing.T) {
	t.Parallel()
	w, m := setup(t)
	ctx := context.Background()
	prepared := make(chan error, 1)
	first := true
	_, err := m.Prove(ctx, w.tip.ID, w.proofTables(), func(int64) {
		if !first {
			return
		}
		first = false
		go func() {
			_, err := m.Prepare(ctx, "run-1", w.tip.ID, nil)
			prepared <- err
		}()
		m.WaitUrgent()
	})
	if !errors.Is(err, replica.ErrPreempted) {
		t.Errorf("got %v", err)
	}
	must(t, <-prepared)
}
