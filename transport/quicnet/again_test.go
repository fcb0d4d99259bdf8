package quicnet_test

import (
	"testing"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/pki"
	"github.com/drrun/drrun/transport/quicnet"
)

// joinAgain lets a host that has an identity join under another CA; its own
// word says of which site it is.
func joinAgain(t *testing.T, e estate, dir, addr, host string) error {
	t.Helper()
	token, hash := pki.NewToken(host, e.ca.Pin())
	if err := pki.StoreToken(vfs.OS{}, dir, token); err != nil {
		t.Fatal(err)
	}
	return quicnet.JoinHost(t.Context(), addr, e.ca, e.rt, "", host, func(p pki.JoinProof) error {
		if !p.Matches(hash) {
			return fault.Errorf(fault.Refused, "wrong token")
		}
		return nil
	})
}

// TestHostsUnderTwoCAs: the CA is lost, and the hosts of both sites join again
// one after the other. They talk to each other all the time, in both directions;
// a runtime of the lost CA commands a host that has joined again no more.
func TestHostsUnderTwoCAs(t *testing.T) {
	t.Parallel()
	lost, found := newEstate(t, "acme"), newEstate(t, "acme")
	keepers, addrs, dirs := map[string]*pki.Keeper{}, map[string]string{}, map[string]string{}
	sites := map[string]string{"par-1": "paris", "lyo-1": "lyon"}
	for host, site := range sites {
		dirs[host] = t.TempDir()
		if err := lost.host(t, site, host).Save(vfs.OS{}, dirs[host]); err != nil {
			t.Fatal(err)
		}
		k, err := pki.OpenKeeper(vfs.OS{}, dirs[host], clock.Real{})
		if err != nil {
			t.Fatal(err)
		}
		keepers[host], addrs[host] = k, serve(t, medium(t, k))
	}
	talk := func(when string) {
		t.Helper()
		for from, to := range map[string]string{"par-1": "lyo-1", "lyo-1": "par-1"} {
			got, err := call(t, keepers[from], addrs[to], transport.Want{Estate: "acme", Host: to})
			if err != nil || got != "hello host "+from {
				t.Errorf("%s, %s calls %s: %q, %v", when, from, to, got, err)
			}
		}
	}
	runtime := func(e estate, host string) error {
		t.Helper()
		_, err := call(t, quicnet.Fixed(e.rt), addrs[host], transport.Want{Host: host})
		return err
	}
	talk("before")
	if err := joinAgain(t, found, dirs["par-1"], addrs["par-1"], "par-1"); err != nil {
		t.Fatal(err)
	}
	if p := keepers["par-1"].Identity().Peer(); p.Site != "paris" || !keepers["par-1"].Identity().Earlier() {
		t.Errorf("par-1 joined again as %+v", p)
	}
	talk("one of two has joined again")
	if err := runtime(found, "par-1"); err != nil {
		t.Errorf("the new runtime: %v", err)
	}
	wantFault(t, runtime(lost, "par-1"), fault.Refused, "another CA")
	wantFault(t, runtime(found, "lyo-1"), fault.Refused, "another CA")

	// What was joined is there after a restart.
	k, err := pki.OpenKeeper(vfs.OS{}, dirs["par-1"], clock.Real{})
	if err != nil || !k.Identity().Earlier() {
		t.Fatalf("opened again: %v", err)
	}
	keepers["par-1"] = k
	talk("after a restart")
	if err := joinAgain(t, found, dirs["lyo-1"], addrs["lyo-1"], "lyo-1"); err != nil {
		t.Fatal(err)
	}
	talk("both have joined again")

	// The earlier CA ends with the certificate that it signed last.
	late := clock.Func(func() time.Time { return time.Now().Add(pki.LeafLife + pki.ExpiredLife + time.Hour) })
	old, err := pki.OpenKeeper(vfs.OS{}, dirs["par-1"], late)
	if err != nil || old.Identity().Earlier() {
		t.Errorf("after the certificate's life the earlier CA is trusted still (%v)", err)
	}
}

// TestJoinAgainKeepsTheName: neither another host nor another site or estate
// takes the state folder over.
func TestJoinAgainKeepsTheName(t *testing.T) {
	t.Parallel()
	lost, found, other := newEstate(t, "acme"), newEstate(t, "acme"), newEstate(t, "umbrella")
	dir := t.TempDir()
	if err := lost.host(t, "paris", "par-1").Save(vfs.OS{}, dir); err != nil {
		t.Fatal(err)
	}
	k, err := pki.OpenKeeper(vfs.OS{}, dir, clock.Real{})
	if err != nil {
		t.Fatal(err)
	}
	addr := serve(t, medium(t, k))
	wantFault(t, joinAgain(t, found, dir, addr, "par-2"), fault.Refused, "the runtime signed a certificate of host par-2")
	wantFault(t, joinAgain(t, other, dir, addr, "par-1"), fault.Refused, `is of estate "acme"`)
	token, _ := pki.NewToken("par-1", found.ca.Pin())
	if err := pki.StoreToken(vfs.OS{}, dir, token); err != nil {
		t.Fatal(err)
	}
	yes := func(pki.JoinProof) error { return nil }
	wantFault(t, quicnet.JoinHost(t.Context(), addr, found.ca, found.rt, "lyon", "par-1", yes), fault.Refused, "site lyon")
	if !k.Identity().Trusts(lost.ca.Pin()) || k.Identity().Earlier() {
		t.Error("a refused join changed the identity")
	}

	// A host that never was in an estate is of no site.
	fresh := t.TempDir()
	k2, err := pki.OpenKeeper(vfs.OS{}, fresh, clock.Real{})
	if err != nil {
		t.Fatal(err)
	}
	wantFault(t, joinAgain(t, found, fresh, serve(t, medium(t, k2)), "par-1"), fault.Refused, "has not been in it")
}
