package source

import (
	"testing"
)

const mib = 1 << 20

func TestCycleFullThenDelta(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.image(0, 9*mib+1234, 1, [2]int64{0, 5000}, [2]int64{4 * mib, 6 * mib}, [2]int64{9 * mib, 9*mib + 1234})
	r.image(1, 5*mib, 2, [2]int64{0, 5 * mib})
	r.open()
	first := r.cycle()
	if first.Point.Seq != 1 || !first.Point.From.IsZero() || len(first.Point.Disks) != 2 || first.Point.Disks[0].Name != "log" {
		t.Fatalf("first point: %+v", first.Point)
	}
	if first.Changed < 7*mib || first.Wire < 7*mib {
		t.Fatalf("first cycle changed %d, wire %d", first.Changed, first.Wire)
	}
	idle := r.cycle()
	if idle.Point.Seq != 2 || idle.Point.From != first.Point.ID || idle.Changed != 0 || idle.Wire != 0 {
		t.Fatalf("idle cycle: %+v", idle)
	}
	for _, d := range idle.Point.Disks {
		if d.Segments != 0 {
			t.Fatalf("idle cycle sent %d segments of disk %s", d.Segments, d.Name)
		}
	}
	r.write(0, 123, []byte("x"))
	r.write(1, 4*mib, noise(9, 10000))
	delta := r.cycle()
	if delta.Changed != 4096*(1+3) {
		t.Fatalf("delta changed %d bytes", delta.Changed)
	}
}
