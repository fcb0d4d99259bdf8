// Package pki is the estate's own small certificate authority: the CA, the
// identities of hosts and runtimes, whom they trust, and the tokens that let a
// new host join.
//
// Keys are ECDSA P-256. An identity is named by one URI in its certificate:
//
//	spiffe://ESTATE/site/SITE/host/HOST
//	spiffe://ESTATE/runtime/NAME
//
// Host certificates last 90 days and are due for renewal at half of that; one
// that ran out is accepted for 30 days more, with an alarm, because a disaster
// does not wait for a renewal.
//
// It opens no connections (see transport/quicnet). A CA and an Identity are
// immutable and safe for concurrent use, a Keeper too.
package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/transport"
)

// Life times of certificates.
const (
	LeafLife    = 90 * 24 * time.Hour // of a host or a runtime
	CALife      = 20 * 365 * 24 * time.Hour
	ExpiredLife = 30 * 24 * time.Hour // how long a host's expired certificate is accepted
	backdate    = time.Hour           // how far a peer's clock may be behind that of the CA
)

// Pin is the SHA-256 of a CA's public key (its SubjectPublicKeyInfo).
type Pin = [sha256.Size]byte

// ShortPin is the form of a pin for messages.
func ShortPin(p Pin) string { return hex.EncodeToString(p[:6]) }

func pinOf(c *x509.Certificate) Pin { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// uriOf returns the name that a peer's certificate carries.
func uriOf(p transport.Peer) (*url.URL, error) {
	names := []string{p.Estate}
	path := "/runtime/" + p.Runtime
	if p.Runtime == "" {
		names = append(names, p.Site, p.Host)
		path = "/site/" + p.Site + "/host/" + p.Host
	} else {
		names = append(names, p.Runtime)
	}
	for _, n := range names {
		if err := ident.CheckName(n); err != nil {
			return nil, fault.Errorf(fault.Invalid, "cannot name a certificate: %w", err)
		}
	}
	return &url.URL{Scheme: "spiffe", Host: p.Estate, Path: path}, nil
}

// peerOf reads the name in a certificate.
func peerOf(c *x509.Certificate) (transport.Peer, error) {
	if len(c.URIs) != 1 || c.URIs[0].Scheme != "spiffe" {
		return transport.Peer{}, fmt.Errorf("certificate %q names no drrun host or runtime", c.Subject.CommonName)
	}
	u := c.URIs[0]
	p := transport.Peer{Estate: u.Host}
	switch parts := strings.Split(strings.TrimPrefix(u.Path, "/"), "/"); {
	case len(parts) == 2 && parts[0] == "runtime":
		p.Runtime = parts[1]
	case len(parts) == 4 && parts[0] == "site" && parts[2] == "host":
		p.Site, p.Host = parts[1], parts[3]
	default:
		return transport.Peer{}, fmt.Errorf("certificate with the unknown name %s", u)
	}
	want, err := uriOf(p)
	if err != nil || want.String() != u.String() {
		return transport.Peer{}, fmt.Errorf("certificate with the malformed name %s", u)
	}
	return p, nil
}
