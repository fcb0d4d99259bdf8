package compose

import (
	"context"
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/transport/pki"
)

// TestRuntimeRenewsItself: a controller that runs for months always shows a
// certificate that agents accept, and the next process goes on with it.
func TestRuntimeRenewsItself(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	clk := clock.Func(func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
	state := t.TempDir()
	open := func() *trust {
		t.Helper()
		tr, err := openTrust(vfs.OS{}, state, clk, logkit.Discard())
		if err != nil {
			t.Fatal(err)
		}
		return tr
	}
	tr := open()
	if tr.Identity() != nil {
		t.Error("a runtime without an estate has a name")
	}
	if err := tr.Ensure("acme"); err != nil {
		t.Fatal(err)
	}
	first := tr.Identity().NotAfter()
	for month := 1; month <= 12; month++ {
		ahead.Add(int64(30 * 24 * time.Hour))
		if left := tr.Identity().NotAfter().Sub(clk.Now()); left < pki.LeafLife/2-time.Hour {
			t.Errorf("month %d: the certificate lasts %s more", month, left)
		}
	}
	last := tr.Identity().NotAfter()
	if !last.After(first) || !open().Identity().NotAfter().Equal(last) {
		t.Errorf("first until %s, now until %s, on disk until %s", first, last, open().Identity().NotAfter())
	}
	if _, err := pki.LoadIdentity(vfs.OS{}, filepath.Join(state, "ca", "runtime")); err != nil {
		t.Error(err)
	}
}

// TestRenewer: one attempt a day for each host, the next hour after a failure,
// none after close, which waits.
func TestRenewer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tried := map[string]int{}
		var fail error
		r := &renewer{clk: clock.Real{}, log: logkit.Discard(), renew: func(ctx context.Context, host string) (bool, error) {
			<-time.After(time.Second) // of the bubble
			tried[host]++             // one at a time here
			return true, errors.Join(fail, ctx.Err())
		}}
		round := func(d time.Duration, want int) {
			t.Helper()
			for range 3 {
				r.start("par-1")
			}
			<-time.After(d)
			synctest.Wait()
			if tried["par-1"] != want {
				t.Errorf("%d attempts, want %d", tried["par-1"], want)
			}
		}
		round(renewEvery-time.Minute, 1)
		round(2*time.Minute, 1)
		fail = errors.New("down")
		round(renewAgain-time.Minute, 2)
		fail = nil
		round(2*time.Minute, 2)
		round(time.Minute, 3)
		r.start("par-2")
		r.close()
		r.start("par-3")
		synctest.Wait()
		if tried["par-2"] != 1 || tried["par-3"] != 0 {
			t.Errorf("around close: %v", tried)
		}
	})
}
