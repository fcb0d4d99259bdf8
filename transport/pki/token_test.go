package pki_test

import (
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/transport/pki"
)

func TestTokenText(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"p", "par-1", strings.Repeat("h", 63)} {
		tok, hash := pki.NewToken(host, pki.Pin{1, 2, 3})
		s := tok.String()
		if !strings.HasPrefix(s, "drt1_") || strings.ContainsAny(s, "+/=%& ") {
			t.Errorf("token %q is not URL-safe", s)
		}
		got, err := pki.ParseToken(" " + s + "\n")
		if err != nil || got != tok || got.Hash() != hash {
			t.Errorf("parsed %+v, %v", got, err)
		}
		if strings.Contains(s, hash) {
			t.Error("the token holds its hash")
		}
		for _, bad := range []string{"", "drt1_", s[1:], s[:40], s + "!", s[:20] + "\n" + s[20:], strings.Replace(s, "drt1", "drt2", 1), s + strings.Repeat("A", 400)} {
			_, err := pki.ParseToken(bad)
			wantFault(t, err, fault.Invalid, "cannot read the token")
		}
	}
	a, _ := pki.NewToken("h", pki.Pin{})
	b, _ := pki.NewToken("h", pki.Pin{})
	if a.Secret == b.Secret {
		t.Error("two tokens with one secret")
	}
}

func TestProofIsBoundToTheSession(t *testing.T) {
	t.Parallel()
	tok, hash := pki.NewToken("par-1", pki.Pin{})
	key, mac := tok.Prove([]byte("session one"))
	p, err := pki.CheckProof("par-1", key, mac, []byte("session one"))
	if err != nil || !p.Matches(hash) || p.Host != "par-1" {
		t.Errorf("%+v, %v", p, err)
	}
	_, err = pki.CheckProof("par-1", key, mac, []byte("session two"))
	wantFault(t, err, fault.Refused, "does not belong to this connection")
	_, err = pki.CheckProof("par-1", nil, nil, []byte("session one"))
	wantFault(t, err, fault.Refused, "does not belong to this connection")
	other, otherHash := pki.NewToken("par-1", pki.Pin{})
	key, mac = other.Prove([]byte("session one"))
	if p, err := pki.CheckProof("par-1", key, mac, []byte("session one")); err != nil || p.Matches(hash) || !p.Matches(otherHash) {
		t.Errorf("another token's proof: %+v, %v", p, err)
	}
}

func TestJoinChecks(t *testing.T) {
	t.Parallel()
	ca, other := newCA(t, "acme", clock.Real{}), newCA(t, "acme", clock.Real{})
	tok, _ := pki.NewToken("par-1", ca.Pin())
	rt := newRuntime(t, ca, "console")
	now := time.Now()
	if p, err := tok.CheckRuntime(shown(rt), now); err != nil || p.Runtime != "console" {
		t.Errorf("%+v, %v", p, err)
	}
	for _, tc := range []struct {
		name  string
		certs []*x509.Certificate
		at    time.Time
		text  string
	}{
		{"none", nil, now, "no certificate"},
		{"other CA", shown(newRuntime(t, other, "console")), now, "a runtime of another CA (pin " + pki.ShortPin(other.Pin())},
		{"a leaf of another CA beside ours", append(shown(newRuntime(t, other, "console"))[:1], shown(rt)[1]), now, "of another CA"},
		{"a host", shown(newHost(t, ca, "par", "par-2")), now, "host par-2 dialled to let host par-1 join, only a runtime may"},
		{"run out", shown(rt), now.Add(pki.LeafLife + time.Hour), "ran out"},
	} {
		_, err := tok.CheckRuntime(tc.certs, tc.at)
		if !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.text)
		}
	}
	if err := tok.CheckGrant(newHost(t, ca, "par", "par-1")); err != nil {
		t.Error(err)
	}
	wantFault(t, tok.CheckGrant(newHost(t, ca, "par", "par-2")), fault.Refused, "signed a certificate of host par-2, the token is of host par-1")
	wantFault(t, tok.CheckGrant(newHost(t, other, "par", "par-1")), fault.Refused, "the token names pin "+pki.ShortPin(ca.Pin()))
}

func TestKeeper(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "agent")
	k, err := pki.OpenKeeper(vfs.OS{}, dir, clock.Real{})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := k.Token(); ok || k.Identity() != nil || k.JoinError() != nil {
		t.Error("a new host has an identity or a token")
	}
	ca := newCA(t, "acme", clock.Real{})
	tok, _ := pki.NewToken("par-1", ca.Pin())
	if err := pki.StoreToken(vfs.OS{}, dir, tok); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(filepath.Join(dir, "join.token")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	if got, ok := k.Token(); !ok || got != tok {
		t.Errorf("token %+v, %v", got, ok)
	}
	k.JoinFailed(errors.New("no"))
	if err := k.JoinError(); err == nil || err.Error() != "no" {
		t.Errorf("join error %v", err)
	}
	for _, name := range []string{"par-1", "par-1"} { // the second is a renewal
		if err := k.Store(newHost(t, ca, "par", name)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-k.Joined():
	default:
		t.Error("not joined")
	}
	if _, ok := k.Token(); ok || k.JoinError() != nil || k.Identity().Peer().Host != "par-1" {
		t.Error("token or fault outlived the join")
	}
	if err := os.WriteFile(filepath.Join(dir, "join.token"), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok := k.Token(); ok {
		t.Error("junk is a token")
	}
	wantFault(t, k.JoinError(), fault.Invalid, "cannot use the stored token")
}

// FuzzParseToken: what parses prints as it was.
func FuzzParseToken(f *testing.F) {
	tok, _ := pki.NewToken("par-1", pki.Pin{1})
	f.Add(tok.String())
	f.Add("drt1_")
	f.Add("drt1_AAAA")
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := pki.ParseToken(s)
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Fatalf("%s fault %v", fault.KindOf(err), err)
			}
			return
		}
		if tok.String() != strings.TrimSpace(s) {
			t.Fatalf("%q became %q", s, tok.String())
		}
	})
}

// FuzzParseBundle: no PEM file makes the reader panic.
func FuzzParseBundle(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nMA==\n-----END PRIVATE KEY-----\n"))
	f.Add([]byte("-----BEGIN TRUSTED CERTIFICATE-----\nMAMCAQA=\n-----END TRUSTED CERTIFICATE-----\n"))
	f.Fuzz(func(_ *testing.T, b []byte) { _ = pki.ParseBundle(b) })
}
