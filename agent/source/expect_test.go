package source

import (
	"io"
	"testing"
	"time"

	"context"

	"github.com/drrun/drrun/internal/command"
)

// slowPeer takes its time for each segment.
type slowPeer struct {
	*target
	takes time.Duration
}

func (p slowPeer) Put(ctx context.Context, h command.SegmentHeader, src io.ReaderAt, progress func(int64)) error {
	timer := time.NewTimer(p.takes)
	defer timer.Stop()
	<-timer.C
	return p.target.Put(ctx, h, src, progress)
}

// TestExpect: what the next cycle will take is what this one took, sending
// included; what a first copy sent ahead does not count. The disks are read
// whole for it, and it says so.
func TestExpect(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const takes = 60 * time.Millisecond
	r.cfg.Peer = slowPeer{r.target, takes}
	r.image(0, 3*mib, 1, [2]int64{0, 3 * mib})
	r.image(1, mib, 2, [2]int64{0, mib})
	r.open()
	first := r.cycle() // all of it is sent ahead
	if first.Expect <= 0 || first.Expect >= first.Took-takes {
		t.Errorf("first cycle: expect %s of the %s it took", first.Expect, first.Took)
	}
	r.write(0, 0, noise(3, 4096))
	delta := r.cycle()
	if delta.Expect < takes || delta.Expect > delta.Took {
		t.Errorf("a delta that took %s: expect %s", delta.Took, delta.Expect)
	}
	if !delta.Scan || delta.Read != 4*mib {
		t.Errorf("scan is %v, read %d of %d bytes", delta.Scan, delta.Read, 4*mib)
	}
}
