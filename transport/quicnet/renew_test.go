package quicnet_test

import (
	"bytes"
	"crypto/x509"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/pki"
	"github.com/drrun/drrun/transport/quicnet"
)

func TestRenew(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	clk := clock.Func(func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
	ca, err := pki.CreateCA(vfs.OS{}, filepath.Join(t.TempDir(), "ca"), "acme", clk)
	if err != nil {
		t.Fatal(err)
	}
	e := estate{ca: ca}
	runtime := func() *pki.Identity {
		id, err := ca.IssueRuntime("console")
		if err != nil {
			t.Fatal(err)
		}
		return id.WithClock(clk)
	}
	second := newEstate(t, "acme") // a CA enrolled beforehand stays trusted
	first, err := e.host(t, "par", "par-1").WithTrust(second.ca.CertPEM())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	k, err := pki.OpenKeeper(vfs.OS{}, dir, clk)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Store(first); err != nil {
		t.Fatal(err)
	}
	addr := serve(t, medium(t, k))

	renewed, err := quicnet.RenewHost(t.Context(), addr, ca, runtime(), "par-1")
	if err != nil || renewed || k.Identity().NotAfter() != first.NotAfter() {
		t.Errorf("a fresh certificate: renewed %v, %v", renewed, err)
	}
	_, err = quicnet.RenewHost(t.Context(), addr, ca, runtime(), "par-2")
	wantFault(t, err, fault.Refused, "certificate of host par-1, want host par-2")
	other := e.host(t, "par", "par-2").WithClock(clk)
	_, err = quicnet.RenewHost(t.Context(), addr, ca, other, "par-1")
	wantFault(t, err, fault.Refused, "host par-2 dialled to renew a certificate, only a runtime may")

	ahead.Store(int64(pki.LeafLife + 10*24*time.Hour)) // run out, within the grace
	if p, err := runtime().Verify([]*x509.Certificate{k.Identity().Certificate().Leaf}, transport.Want{}); err != nil || !p.Expired {
		t.Fatalf("%+v, %v", p, err)
	}
	var log bytes.Buffer
	alarmed := quicnet.New(quicnet.Fixed(runtime()), quicnet.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	c, err := alarmed.Dial(t.Context(), addr, transport.Want{Host: "par-1"})
	if err != nil || !c.Peer().Expired || !c.Peer().RenewalDue {
		t.Errorf("dialled a host whose certificate ran out: %v", err)
	}
	if err := alarmed.Close(); err != nil || !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), "has run out") {
		t.Errorf("no alarm: %s, %v", log.String(), err)
	}
	renewed, err = quicnet.RenewHost(t.Context(), addr, ca, runtime(), "par-1")
	if err != nil || !renewed {
		t.Fatalf("renewed %v, %v", renewed, err)
	}
	again, err := pki.LoadIdentity(vfs.OS{}, dir)
	if err != nil || !again.NotAfter().After(first.NotAfter()) || again.Peer() != first.Peer() {
		t.Fatalf("on disk: %v", err)
	}
	if _, err := again.Verify([]*x509.Certificate{second.rt.Certificate().Leaf}, transport.Want{}); err != nil {
		t.Errorf("the second CA was forgotten: %v", err)
	}
}
