package replica_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/internal/fault"
)

func (w *world) table() string { return filepath.Join(w.dir, "store", "erp", "data", "table") }

// entry is where the table keeps the hash of a block.
func entry(block int64) int64 { return 4096 + 8*block }

// TestTablesAreMadeAgain: a table that is damaged or missing is made again from
// the disk, beside a hold; nothing is accepted meanwhile.
func TestTablesAreMadeAgain(t *testing.T) {
	t.Parallel()
	w, m := chain(t)
	ctx := context.Background()
	must(t, m.SetHold(true))
	must(t, w.cycle(m))
	for _, damage := range []func(){func() { flip(t, w.table(), 20) }, func() { must(t, os.Remove(w.table())) }} {
		must(t, m.Close())
		damage()
		m = open(t, w)
		w.change()
		wantKind(t, w.cycle(m), fault.Unreachable)
		_, err := m.Ranges("data", 0, 1)
		wantKind(t, err, fault.Unreachable)
		m = reopen(t, w, m)
		must(t, m.Apply(ctx))
		must(t, w.cycle(m))
	}
	must(t, w.check(m))
	must(t, m.SetHold(false))
	must(t, m.Apply(ctx))
	must(t, w.check(m))
}

// TestTableOfTheFirstPoint: nothing is applied yet, so that the logs make it.
func TestTableOfTheFirstPoint(t *testing.T) {
	t.Parallel()
	w := newWorld(tempDir(t), 8, "data")
	m := open(t, w)
	must(t, w.cycle(m))
	must(t, m.Close())
	flip(t, w.table(), 20)
	m = open(t, w)
	must(t, m.Apply(context.Background()))
	w.change()
	must(t, w.cycle(m))
	must(t, w.check(m))
}

// TestTableOfANewerProgram is refused by name and left as it is.
func TestTableOfANewerProgram(t *testing.T) {
	t.Parallel()
	w, m := chain(t)
	must(t, m.Close())
	p, err := os.ReadFile(w.table())
	must(t, err)
	p[12] = 2 // a must flag
	binary.LittleEndian.PutUint32(p[48:], crc32.Checksum(p[:48], crc32.MakeTable(crc32.Castagnoli)))
	must(t, os.WriteFile(w.table(), p, 0o600))
	_, err = replica.Open(w.config())
	wantKind(t, err, fault.Refused)
	if !strings.Contains(err.Error(), w.table()) || !strings.Contains(err.Error(), "must flag") {
		t.Errorf("got %v", err)
	}
	if now, err := os.ReadFile(w.table()); err != nil || !bytes.Equal(now, p) {
		t.Errorf("the table changed: %v", err)
	}
}

// TestRottenTable: a hash that is not that of the head's block costs neither
// replication nor a failover.
func TestRottenTable(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	t.Run("the log mends it", func(t *testing.T) {
		t.Parallel()
		w, m := chain(t)
		flip(t, w.table(), entry(11)) // the last cycle's block, sent next
		must(t, w.cycle(m))
		must(t, w.check(m))
	})
	t.Run("compared", func(t *testing.T) {
		t.Parallel()
		w, m := chain(t)
		must(t, w.cycle(m))
		flip(t, w.table(), entry(25))
		_, err := m.Ranges("data", 0, 1)
		wantKind(t, err, fault.Unreachable)
		must(t, m.Apply(ctx))
		_, err = m.Ranges("data", 0, 1)
		must(t, err)
		w.change()
		must(t, w.cycle(m))
		must(t, w.check(m))
	})
	t.Run("staged logs stay", func(t *testing.T) {
		t.Parallel()
		w, m := chain(t)
		must(t, w.cycle(m))
		flip(t, w.table(), entry(25))
		flip(t, w.table(), entry(26)+1)
		w.disks["data"] = bytes.Clone(w.disks["data"])
		copy(w.disks["data"][25*block:], "this block only")
		p, segs, err := w.cut(m)
		must(t, err)
		must(t, send(m, segs[0]))
		_, err = m.Accept(ctx, p, 0)
		wantKind(t, err, fault.Unreachable)
		if len(m.Staged()) != 1 {
			t.Error("the staged log is gone")
		}
		must(t, m.Apply(ctx))
		got, err := m.Accept(ctx, p, 0)
		must(t, err)
		w.keep(got)
		must(t, w.check(m))
	})
	t.Run("failover", func(t *testing.T) {
		t.Parallel()
		w, m := chain(t)
		flip(t, w.table(), entry(25))
		res, err := m.Prepare(ctx, "run-1", w.order[1], nil)
		must(t, err)
		got, err := os.ReadFile(res.Paths["data"])
		must(t, err)
		if !bytes.Equal(got, w.kept[w.order[1]].disks["data"]) {
			t.Error("the disk prepared is not the point")
		}
	})
	t.Run("failover of a rotten head", func(t *testing.T) {
		t.Parallel()
		w, m := chain(t)
		flip(t, w.table(), entry(25)) // so that the disk is read
		flip(t, w.head("data"), 30*block)
		_, err := m.Prepare(ctx, "run-1", w.order[1], nil)
		wantKind(t, err, fault.Corrupt)
		if _, _, live := m.Live(); live {
			t.Error("it was prepared")
		}
	})
	t.Run("rotten head", func(t *testing.T) {
		t.Parallel()
		w, m := chain(t)
		flip(t, w.table(), 20)
		flip(t, w.head("data"), 30*block)
		m = reopen(t, w, m)
		must(t, m.Apply(ctx))
		_, err := m.Ranges("data", 0, 1)
		wantKind(t, err, fault.Corrupt) // said, and not made again for ever
		w.disks["data"] = bytes.Clone(w.disks["data"])
		w.disks["data"][30*block+5]++
		must(t, w.cycle(m)) // what is sent mends it
		_, err = m.Ranges("data", 0, 1)
		must(t, err)
	})
}

// TestKilledWhileTheTableIsMade: a table that is half made is never taken.
func TestKilledWhileTheTableIsMade(t *testing.T) {
	t.Parallel()
	for n := 0; ; n++ {
		w, m := chain(t)
		must(t, m.SetHold(true))
		w.disks["data"] = w.random(30*block + 7)
		must(t, w.cycle(m))
		must(t, m.Close())
		flip(t, w.table(), 20)
		f := &faultFS{left: n, synced: map[string][]byte{}, power: n%2 == 0}
		w.fs = f
		m, err := replica.Open(w.config())
		if err == nil {
			err = errors.Join(m.Apply(context.Background()), m.Close())
		}
		if err != nil && !errors.Is(err, errDead) {
			t.Fatal(err)
		}
		must(t, f.crash())
		w.fs = fastFS{}
		m = open(t, w)
		must(t, m.Apply(context.Background()))
		w.change()
		must(t, w.cycle(m))
		must(t, w.check(m))
		if err == nil {
			return
		}
	}
}
