package replica_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/drrun/drrun/agent/replica"
)

// TestForget: of the store only the heads stay, whatever crash cuts it short,
// and a new replica can begin in its place.
func TestForget(t *testing.T) {
	t.Parallel()
	for _, outside := range []bool{false, true} {
		for n, over := 0, false; !over; n++ {
			w := newWorld(tempDir(t), 21, "system", "data")
			if outside {
				w.heads["system"], w.heads["data"] = filepath.Join(w.dir, "s.img"), filepath.Join(w.dir, "d.img")
			}
			m := open(t, w)
			must(t, w.cycle(m))
			must(t, m.Apply(t.Context()))
			want := w.kept[w.tip.ID].disks
			must(t, m.SetHold(true))
			w.change()
			must(t, w.cycle(m))
			must(t, m.Close())
			c := w.config()
			for i, d := range c.Disks {
				c.Disks[i].Head = w.head(d.Name)
			}
			f := &faultFS{power: true, left: n, synced: map[string][]byte{}}
			err := replica.Forget(f, c.Dir, c.Disks)
			if over = err == nil; !over && !errors.Is(err, errDead) {
				t.Fatalf("crash at operation %d: %v", n, err)
			}
			must(t, f.crash())
			for range 2 {
				must(t, replica.Forget(fastFS{}, c.Dir, c.Disks))
			}
			for d, b := range want {
				if got, err := os.ReadFile(w.head(d)); err != nil || !bytes.Equal(got, b) {
					t.Fatalf("crash at operation %d: head %s: %v", n, d, err)
				}
				must(t, os.Remove(w.head(d)))
			}
			fresh := newWorld(w.dir, 22, "system", "data")
			m = open(t, fresh)
			if len(m.Points()) > 0 {
				t.Fatalf("crash at operation %d: points %v", n, m.Points())
			}
			must(t, fresh.cycle(m))
			must(t, m.Apply(t.Context()))
			must(t, fresh.check(m))
		}
	}
}
