package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/transport"
)

// JoinExporter is the label of the TLS key material that join proofs are
// bound to (32 bytes, no context).
const JoinExporter = "EXPORTER-drrun-join-1"

// Throwaway makes the self-signed certificate that a host shows before it has
// joined. Nobody trusts it: in a join it is the token that proves the host.
func Throwaway() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("cannot make a key: %w", err)
	}
	now := clock.Real{}.Now()
	cert, err := sign(&x509.Certificate{
		Subject:   pkix.Name{CommonName: throwawayName},
		NotBefore: now.Add(-backdate),
		NotAfter:  now.Add(LeafLife),
		KeyUsage:  x509.KeyUsageDigitalSignature,
	}, nil, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("cannot make a certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}, nil
}

// CheckRuntime checks, for a joining host, that the other end is a runtime of
// the CA that the token names. fault.Refused if not.
func (t Token) CheckRuntime(certs []*x509.Certificate, now time.Time) (transport.Peer, error) {
	var ca *x509.Certificate
	for _, c := range certs {
		if c.IsCA && pinOf(c) == t.Pin {
			ca = c
		}
	}
	if ca == nil && len(certs) > 0 {
		return transport.Peer{}, fault.Errorf(fault.Refused, "a runtime of another CA (%s) dialled, the token of host %s names pin %s",
			issuerPin(certs), t.Host, ShortPin(t.Pin)).WithHint("make the token with the runtime that is to run this estate")
	}
	p, err := verifyChain(certs, []*x509.Certificate{ca}, now)
	if err != nil {
		return transport.Peer{}, err
	}
	if p.Runtime == "" {
		return transport.Peer{}, fault.Errorf(fault.Refused, "%s dialled to let host %s join, only a runtime may", p, t.Host)
	}
	return p, nil
}

// CheckGrant checks, for a joining host, that what the runtime sent is an
// identity of the host that the token names, under the CA it names.
func (t Token) CheckGrant(id *Identity) error {
	if id.peer.Host != t.Host {
		return fault.Errorf(fault.Refused, "the runtime signed a certificate of %s, the token is of host %s", id.peer, t.Host)
	}
	for _, ca := range id.trust {
		if pinOf(ca) == t.Pin {
			return nil
		}
	}
	return fault.Errorf(fault.Refused, "the runtime sent %s, the token names pin %s", trustedPins(id.trust), ShortPin(t.Pin))
}
