package quicnet_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/pki"
	"github.com/drrun/drrun/transport/quicnet"
	"github.com/drrun/drrun/transport/rpc"
)

// estate is a CA with a runtime, for one test.
type estate struct {
	ca *pki.CA
	rt *pki.Identity
}

func newEstate(t testing.TB, name string) estate {
	t.Helper()
	ca, err := pki.CreateCA(vfs.OS{}, filepath.Join(t.TempDir(), "ca"), name, clock.Real{})
	if err != nil {
		t.Fatal(err)
	}
	rt, err := ca.IssueRuntime("console")
	if err != nil {
		t.Fatal(err)
	}
	return estate{ca, rt}
}

// host returns the identity of a joined host.
func (e estate) host(t testing.TB, site, host string) *pki.Identity {
	t.Helper()
	r, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := e.ca.SignHost(r.CSR(), site, host)
	if err != nil {
		t.Fatal(err)
	}
	id, err := r.Identity(chain, e.ca.CertPEM())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func medium(t *testing.T, src quicnet.IdentitySource) *quicnet.Medium {
	t.Helper()
	m := quicnet.New(src, quicnet.Options{HandshakeTimeout: 15 * time.Second})
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

type ping struct {
	Text string `json:"text"`
}

// serve answers echo at a free port and returns its address.
func serve(t *testing.T, m *quicnet.Medium) string {
	t.Helper()
	l, err := m.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mux := rpc.NewMux()
	rpc.Handle(mux, "echo", func(_ context.Context, p transport.Peer, in ping) (ping, error) {
		return ping{Text: in.Text + " " + p.String()}, nil
	})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- rpc.Serve(ctx, l, mux, rpc.Info{Program: "drrun-agent", Version: "1"}, slog.New(slog.DiscardHandler))
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func call(t *testing.T, src quicnet.IdentitySource, addr string, want transport.Want) (string, error) {
	t.Helper()
	c := rpc.NewClient(medium(t, src), addr, want, rpc.Options{Info: rpc.Info{Program: "drrun", Version: "1"}})
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	var out ping
	err := c.Call(t.Context(), "echo", ping{Text: "hello"}, &out)
	return out.Text, err
}

func TestJoinThenCall(t *testing.T) {
	t.Parallel()
	e := newEstate(t, "acme")
	dir := t.TempDir()
	k, err := pki.OpenKeeper(vfs.OS{}, dir, clock.Real{})
	if err != nil {
		t.Fatal(err)
	}
	addr := serve(t, medium(t, k))

	_, err = call(t, quicnet.Fixed(e.rt), addr, transport.Want{Host: "par-1"})
	wantFault(t, err, fault.Refused, "has not joined an estate yet")

	noCheck := func(pki.JoinProof) error { return errors.New("asked though nothing waits") }
	err = quicnet.JoinHost(t.Context(), addr, e.ca, e.rt, "par", "par-1", noCheck)
	wantFault(t, err, fault.Refused, "no token to join with")

	token, hash := pki.NewToken("par-1", e.ca.Pin())
	if err := pki.StoreToken(vfs.OS{}, dir, token); err != nil {
		t.Fatal(err)
	}
	spent := false
	check := func(p pki.JoinProof) error {
		if !p.Matches(hash) || p.Host != "par-1" {
			return fault.Errorf(fault.Refused, "the token of host %s is wrong", p.Host)
		}
		if spent {
			return fault.Errorf(fault.Refused, "the token of host %s was used", p.Host)
		}
		spent = true
		return nil
	}
	if err := quicnet.JoinHost(t.Context(), addr, e.ca, e.rt, "par", "par-1", check); err != nil {
		t.Fatal(err)
	}
	select {
	case <-k.Joined():
	default:
		t.Fatal("join returned, the keeper has no identity")
	}
	got, err := call(t, quicnet.Fixed(e.rt), addr, transport.Want{Host: "par-1"})
	if err != nil || got != "hello runtime console" {
		t.Fatalf("call after join: %q, %v", got, err)
	}

	// The identity survives a restart; the token is gone.
	k2, err := pki.OpenKeeper(vfs.OS{}, dir, clock.Real{})
	if err != nil || k2.Identity() == nil || k2.Identity().Peer().Host != "par-1" {
		t.Fatalf("reopened keeper: %v", err)
	}
	if _, ok := k2.Token(); ok {
		t.Error("the spent token is still there")
	}
	err = quicnet.JoinHost(t.Context(), addr, e.ca, e.rt, "par", "par-1", noCheck)
	wantFault(t, err, fault.Refused, "has joined already, as host par-1 of estate acme")
}

func TestJoinRefusals(t *testing.T) {
	t.Parallel()
	e := newEstate(t, "acme")
	other := newEstate(t, "acme")
	token, hash := pki.NewToken("par-1", e.ca.Pin())
	wrong, _ := pki.NewToken("par-1", e.ca.Pin())
	ok := func(p pki.JoinProof) error {
		if !p.Matches(hash) {
			return fault.Errorf(fault.Refused, "the token of host %s is wrong", p.Host)
		}
		return nil
	}
	used := func(pki.JoinProof) error {
		return fault.Errorf(fault.Refused, "the token of host par-1 was used on Monday")
	}
	cases := []struct {
		name  string
		token pki.Token
		by    estate
		host  string
		check func(pki.JoinProof) error
		want  string
	}{
		{"wrong token", wrong, e, "par-1", ok, "the token of host par-1 is wrong"},
		{"used token", token, e, "par-1", used, "was used on Monday"},
		{"other CA", token, other, "par-1", ok, "a runtime of another CA (pin " + pki.ShortPin(other.ca.Pin()) + ") dialled"},
		{"other host", token, e, "par-2", ok, `token of host "par-1", want host par-2`},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := pki.StoreToken(vfs.OS{}, dir, tc.token); err != nil {
				t.Fatal(err)
			}
			k, err := pki.OpenKeeper(vfs.OS{}, dir, clock.Real{})
			if err != nil {
				t.Fatal(err)
			}
			addr := serve(t, medium(t, k))
			err = quicnet.JoinHost(t.Context(), addr, tc.by.ca, tc.by.rt, "par", tc.host, tc.check)
			wantFault(t, err, fault.Refused, tc.want)
			if k.Identity() != nil {
				t.Error("a refused host has an identity")
			}
			if err := k.JoinError(); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("the agent says %v, want %q", err, tc.want)
			}
		})
	}
}

func TestWrongPeerRefused(t *testing.T) {
	t.Parallel()
	e, other := newEstate(t, "acme"), newEstate(t, "acme")
	addr := serve(t, medium(t, quicnet.Fixed(e.host(t, "par", "par-2"))))

	_, err := call(t, quicnet.Fixed(e.rt), addr, transport.Want{Host: "par-1"})
	wantFault(t, err, fault.Refused, "certificate of host par-2, want host par-1")

	_, err = call(t, quicnet.Fixed(other.rt), addr, transport.Want{Host: "par-2"})
	wantFault(t, err, fault.Refused, "is of another CA (pin "+pki.ShortPin(e.ca.Pin())+"), this program trusts pin "+pki.ShortPin(other.ca.Pin()))

	// The dialer trusts the listener, the listener does not trust the dialer.
	trusting, err := other.host(t, "par", "par-9").WithTrust(e.ca.CertPEM())
	if err != nil {
		t.Fatal(err)
	}
	_, err = call(t, quicnet.Fixed(trusting), addr, transport.Want{Host: "par-2"})
	wantFault(t, err, fault.Refused, "refused the connection: certificate of host par-9 of estate acme is of another CA")
}

func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	e := newEstate(t, "acme")
	m := medium(t, quicnet.Fixed(e.rt))
	l, err := m.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_, err = m.Listen(t.Context(), addr)
	wantFault(t, err, fault.Unreachable, "cannot listen on "+addr)
	if _, port, _ := strings.Cut(addr, ":"); !strings.Contains(fault.Hint(err), "UDP port "+port) {
		t.Errorf("hint %q does not name the port", fault.Hint(err))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = call(t, quicnet.Fixed(e.rt), addr, transport.Want{})
	wantFault(t, err, fault.Unreachable, "cannot reach "+addr)
}

func wantFault(t *testing.T, err error, k fault.Kind, text string) {
	t.Helper()
	if !fault.Is(err, k) || !strings.Contains(err.Error(), text) {
		t.Errorf("got %s fault %v\nwant %s fault with %q", fault.KindOf(err), err, k, text)
	}
}
