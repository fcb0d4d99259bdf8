package quicnet_test

import (
	"encoding/json"
	"testing"

	"github.com/drrun/drrun/transport/pki"
	"github.com/drrun/drrun/transport/quicnet"
)

// FuzzJoinProof: what is no proof of this host and session is refused, and
// nothing panics, not even the CA with the signing request of a stranger.
func FuzzJoinProof(f *testing.F) {
	e := newEstate(f, "acme")
	token, hash := pki.NewToken("par-1", e.ca.Pin())
	exporter := []byte("one session")
	key, mac := token.Prove(exporter)
	req, err := pki.NewRequest()
	if err != nil {
		f.Fatal(err)
	}
	good, err := json.Marshal(map[string]any{"host": "par-1", "key": key, "mac": mac, "csr": req.CSR()})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"host":"par-1","key":"","mac":"","csr":"AAAA"}`))
	f.Add([]byte(`{"host":"par-2"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var ask struct {
			CSR []byte `json:"csr"`
		}
		if json.Unmarshal(b, &ask) == nil {
			_, _ = quicnet.EncodeGrant(e.ca, ask.CSR, "par", "par-1") // for its panics
		}
		p, _, err := quicnet.ReadProof(b, "par-1", exporter)
		if err != nil {
			return
		}
		if p.Host != "par-1" {
			t.Errorf("proof of host %q", p.Host)
		}
		if !p.Matches(hash) {
			t.Log("a proof of another token") // it is the look-up that refuses it
		}
	})
}

// FuzzGrant: whatever the runtime sends, an identity comes of it only for our
// own key, and only with CAs that trust it.
func FuzzGrant(f *testing.F) {
	e := newEstate(f, "acme")
	req, err := pki.NewRequest()
	if err != nil {
		f.Fatal(err)
	}
	good, err := quicnet.EncodeGrant(e.ca, req.CSR(), "par", "par-1")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"chain":"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n","cas":""}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := quicnet.ReadGrant(b, req)
		if err == nil && id.Peer() != e.host(t, "par", "par-1").Peer() {
			t.Errorf("identity of %+v", id.Peer())
		}
	})
}
