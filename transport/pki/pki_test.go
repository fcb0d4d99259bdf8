package pki_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
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
)

// testClock is a clock that tests move.
type testClock struct{ off atomic.Int64 }

func (c *testClock) Now() time.Time          { return time.Now().Add(time.Duration(c.off.Load())) }
func (c *testClock) forward(d time.Duration) { c.off.Add(int64(d)) }

func newCA(t *testing.T, estate string, clk clock.Clock) *pki.CA {
	t.Helper()
	ca, err := pki.CreateCA(vfs.OS{}, filepath.Join(t.TempDir(), "ca"), estate, clk)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func newHost(t *testing.T, ca *pki.CA, site, host string) *pki.Identity {
	t.Helper()
	r, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := ca.SignHost(r.CSR(), site, host)
	if err != nil {
		t.Fatal(err)
	}
	id, err := r.Identity(chain, ca.CertPEM())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func newRuntime(t *testing.T, ca *pki.CA, name string) *pki.Identity {
	t.Helper()
	id, err := ca.IssueRuntime(name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// shown is what a peer with this identity presents.
func shown(id *pki.Identity) []*x509.Certificate {
	var out []*x509.Certificate
	for _, der := range id.Certificate().Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			panic(err)
		}
		out = append(out, c)
	}
	return out
}

func wantFault(t *testing.T, err error, k fault.Kind, parts ...string) {
	t.Helper()
	if !fault.Is(err, k) {
		t.Errorf("got %s fault %v, want %s", fault.KindOf(err), err, k)
		return
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("fault %q does not say %q", err, p)
		}
	}
}

func TestCAOnDisk(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state", "ca")
	_, err := pki.OpenCA(vfs.OS{}, dir, clock.Real{})
	wantFault(t, err, fault.NotFound, dir)
	ca, err := pki.CreateCA(vfs.OS{}, dir, "acme", clock.Real{})
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(filepath.Join(dir, "ca.key"))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("ca.key: mode %v, %v", fi.Mode(), err)
	}
	_, err = pki.CreateCA(vfs.OS{}, dir, "acme", clock.Real{})
	wantFault(t, err, fault.Refused, "ca.crt exists")
	again, err := pki.OpenCA(vfs.OS{}, dir, clock.Real{})
	if err != nil || again.Estate() != "acme" || again.Pin() != ca.Pin() {
		t.Fatalf("reopened: %v", err)
	}
	// What the reopened CA signs is trusted under the first one's certificate.
	if _, err := newHost(t, ca, "par", "par-1").Verify(shown(newRuntime(t, again, "console")), transport.Want{}); err != nil {
		t.Error(err)
	}
	other := newCA(t, "acme", clock.Real{})
	if err := os.WriteFile(filepath.Join(dir, "ca.crt"), other.CertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = pki.OpenCA(vfs.OS{}, dir, clock.Real{})
	wantFault(t, err, fault.Corrupt, "do not belong together")
	// A lost certificate is made anew from the key, and the estate goes on.
	if err := os.Remove(filepath.Join(dir, "ca.crt")); err != nil {
		t.Fatal(err)
	}
	_, err = pki.OpenCA(vfs.OS{}, dir, clock.Real{})
	wantFault(t, err, fault.NotFound, "has no ca.crt")
	anew, err := pki.CreateCA(vfs.OS{}, dir, "acme", clock.Real{})
	if err != nil || anew.Pin() != ca.Pin() {
		t.Fatalf("made anew: %v", err)
	}
	h, rt := newHost(t, ca, "par", "par-1"), newRuntime(t, anew, "console")
	if _, err := h.Verify(shown(rt), transport.Want{}); err != nil {
		t.Error(err)
	}
	if _, err := rt.Verify(shown(h), transport.Want{}); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.key"), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "ca.crt")); err != nil {
		t.Fatal(err)
	}
	_, err = pki.CreateCA(vfs.OS{}, dir, "acme", clock.Real{})
	wantFault(t, err, fault.Corrupt, "ca.key is no key")
}

func TestNamesInCertificates(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"acme", "a", "Acme_2", "acme.example", "x-1", strings.Repeat("a", 63)} {
		ca := newCA(t, name, clock.Real{})
		h := newHost(t, ca, "par.1", "Host_1")
		if got, want := h.Peer(), (transport.Peer{Estate: name, Site: "par.1", Host: "Host_1"}); got != want {
			t.Errorf("peer %+v, want %+v", got, want)
		}
		p, err := newRuntime(t, ca, "console").Verify(shown(h), transport.Want{Estate: name, Host: "Host_1"})
		if err != nil || p != h.Peer() {
			t.Errorf("estate %s: verified %+v, %v", name, p, err)
		}
	}
	ca := newCA(t, "acme", clock.Real{})
	_, err := ca.IssueRuntime("no/slash")
	wantFault(t, err, fault.Invalid, `"/" is not allowed`)
	_, err = ca.SignHost([]byte("junk"), "par", "par-1")
	wantFault(t, err, fault.Invalid, "host par-1")
	_, err = pki.CreateCA(vfs.OS{}, t.TempDir(), "", clock.Real{})
	wantFault(t, err, fault.Invalid, "a name is missing")
}

func TestVerifySaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	clk := &testClock{}
	ca, other := newCA(t, "acme", clk), newCA(t, "acme", clk)
	elsewhere := newCA(t, "beta", clk)
	self := newRuntime(t, ca, "console").WithClock(clk)
	h := newHost(t, ca, "par", "par-2")
	throwaway, err := pki.Throwaway()
	if err != nil {
		t.Fatal(err)
	}
	both, err := self.WithTrust(elsewhere.CertPEM())
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		self  *pki.Identity
		certs []*x509.Certificate
		want  transport.Want
		text  string
	}{
		{"nothing", self, nil, transport.Want{}, "no certificate"},
		{"not joined", self, []*x509.Certificate{throwaway.Leaf}, transport.Want{}, "has not joined"},
		{"other host", self, shown(h), transport.Want{Host: "par-1"}, "certificate of host par-2, want host par-1"},
		{"runtime for host", self, shown(newRuntime(t, ca, "second")), transport.Want{Host: "par-1"}, "certificate of runtime second, want host par-1"},
		{"other estate wanted", self, shown(h), transport.Want{Estate: "beta"}, "of estate acme, want estate beta"},
		{"other estate, trusted CA", both, shown(newHost(t, elsewhere, "x", "x-1")), transport.Want{}, "of estate beta, want estate acme"},
		{"other CA", self, shown(newHost(t, other, "par", "par-1")), transport.Want{},
			"another CA (pin " + pki.ShortPin(other.Pin()) + "), this program trusts pin " + pki.ShortPin(ca.Pin())},
		{"other CA, leaf alone", self, shown(newHost(t, other, "par", "par-1"))[:1], transport.Want{}, `another CA ("drrun CA of acme")`},
		{"a CA as leaf", self, shown(h)[1:], transport.Want{}, "unknown name spiffe://acme"},
	} {
		_, err := tc.self.Verify(tc.certs, tc.want)
		if err == nil || !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %s fault %v, want %q", tc.name, fault.KindOf(err), err, tc.text)
		}
	}
	if p, err := both.Verify(shown(newHost(t, ca, "par", "par-1")), transport.Want{}); err != nil || p.Host != "par-1" {
		t.Errorf("with a second CA trusted: %+v, %v", p, err)
	}
}

// TestExpiry: a host's certificate passes for 30 days after its end, marked; a
// runtime's does not.
func TestExpiry(t *testing.T) {
	t.Parallel()
	clk := &testClock{}
	ca := newCA(t, "acme", clk)
	self := newHost(t, ca, "par", "par-1").WithClock(clk)
	h, rt := newHost(t, ca, "par", "par-2"), newRuntime(t, ca, "console")
	behind := self.WithClock(clock.Func(func() time.Time { return clk.Now().Add(-50 * time.Minute) }))
	if _, err := behind.Verify(shown(rt), transport.Want{}); err != nil {
		t.Errorf("with a clock 50 minutes behind: %v", err)
	}
	renewalDue := h.WithClock(clk).NeedsRenewal
	if renewalDue() {
		t.Error("a new certificate is due for renewal")
	}
	check := func(when string, expired, hostOK, runtimeOK bool) {
		t.Helper()
		p, err := self.Verify(shown(h), transport.Want{Host: "par-2"})
		if (err == nil) != hostOK || p.Expired != (expired && hostOK) || hostOK && p.RenewalDue != renewalDue() {
			t.Errorf("%s: host verified as %+v, %v", when, p, err)
		}
		if err != nil {
			wantFault(t, err, fault.Refused, "certificate of host par-2 ran out on")
		}
		p, err = self.Verify(shown(rt), transport.Want{})
		if (err == nil) != runtimeOK || p.RenewalDue {
			t.Errorf("%s: runtime: %+v, %v", when, p, err)
		}
		if err != nil {
			wantFault(t, err, fault.Refused, "certificate of runtime console ran out on")
		}
	}
	check("new", false, true, true)
	clk.forward(pki.LeafLife/2 - time.Hour)
	if renewalDue() {
		t.Error("due before half-life")
	}
	clk.forward(2 * time.Hour)
	if !renewalDue() {
		t.Error("not due after half-life")
	}
	clk.forward(pki.LeafLife/2 - 2*time.Hour)
	check("an hour before the end", false, true, true)
	clk.forward(2 * time.Hour)
	check("an hour after the end", true, true, false)
	clk.forward(pki.ExpiredLife - 2*time.Hour)
	check("29 days after", true, true, false)
	clk.forward(2 * time.Hour)
	check("31 days after", true, false, false)
	clk.forward(-pki.LeafLife - 40*24*time.Hour)
	_, err := self.Verify(shown(h), transport.Want{})
	wantFault(t, err, fault.Refused, "is valid from", "the clock here says")
}

func TestIdentityOnDisk(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "agent")
	_, err := pki.LoadIdentity(vfs.OS{}, dir)
	wantFault(t, err, fault.NotFound, dir)
	ca := newCA(t, "acme", clock.Real{})
	id, err := newHost(t, ca, "par", "par-1").WithTrust(newCA(t, "acme", clock.Real{}).CertPEM())
	if err != nil {
		t.Fatal(err)
	}
	if err := id.Save(vfs.OS{}, dir); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "identity.pem")
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	got, err := pki.LoadIdentity(vfs.OS{}, dir)
	if err != nil || got.Peer() != id.Peer() || !got.NotAfter().Equal(id.NotAfter()) || string(got.TrustPEM()) != string(id.TrustPEM()) {
		t.Fatalf("loaded %v", err)
	}
	if got.Secret("a") != id.Secret("a") || got.Secret("a") == got.Secret("b") {
		t.Error("derived secrets")
	}
	if err := os.WriteFile(path, []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = pki.LoadIdentity(vfs.OS{}, dir)
	wantFault(t, err, fault.Corrupt, dir)
	r, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := ca.SignHost(r.CSR(), "par", "par-1")
	if err != nil {
		t.Fatal(err)
	}
	r2, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	_, err = r2.Identity(chain, ca.CertPEM())
	wantFault(t, err, fault.Invalid, "do not belong together")
	_, err = r.Identity(chain, nil)
	wantFault(t, err, fault.Invalid, "no CA is trusted")
	_, err = r.Identity(chain, newCA(t, "acme", clock.Real{}).CertPEM())
	wantFault(t, err, fault.Invalid, "no CA that is trusted has signed")
	_, err = r.Identity(chain, chain)
	if err != nil { // the chain ends with the CA
		t.Error(err)
	}
	_, err = id.WithTrust(chain)
	wantFault(t, err, fault.Invalid, "not that of a CA")
}

// TestTLS shakes hands over a pipe with the configurations as they are.
func TestTLS(t *testing.T) {
	t.Parallel()
	ca := newCA(t, "acme", clock.Real{})
	server, client := newHost(t, ca, "par", "par-1"), newRuntime(t, ca, "console")
	stranger := newRuntime(t, newCA(t, "acme", clock.Real{}), "console")
	shake := func(c *tls.Config) (cerr, serr error) {
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		done := make(chan error, 1)
		go func() {
			s := tls.Server(b, server.ServerTLS())
			done <- errors.Join(s.Handshake(), b.Close())
		}()
		cerr = tls.Client(a, c).Handshake()
		_ = a.Close()
		return cerr, <-done
	}
	if cerr, serr := shake(client.ClientTLS(transport.Want{Host: "par-1"})); cerr != nil || serr != nil {
		t.Errorf("%v, %v", cerr, serr)
	}
	cerr, _ := shake(client.ClientTLS(transport.Want{Host: "par-2"}))
	wantFault(t, cerr, fault.Refused, "certificate of host par-1, want host par-2")
	trusting := stranger.ClientTLS(transport.Want{})
	trusting.VerifyConnection = nil
	_, serr := shake(trusting)
	wantFault(t, serr, fault.Refused, "of another CA")
	trusting.Certificates = nil
	if _, serr := shake(trusting); serr == nil {
		t.Error("a client without a certificate was let in")
	}
	old := client.ClientTLS(transport.Want{})
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, serr := shake(old); serr == nil {
		t.Error("TLS 1.2 was spoken")
	}
}
