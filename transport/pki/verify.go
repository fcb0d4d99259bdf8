package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/transport"
)

// throwawayName is the common name of the certificate that a host shows
// before it has joined.
const throwawayName = "drrun-agent, not joined"

// Verify checks the certificates that a peer presented (its own first) and
// that it is whom we want (zero: anybody of our estate). Errors are
// fault.Refused and say which certificate, of which CA, and whom we expected.
func (id *Identity) Verify(certs []*x509.Certificate, want transport.Want) (transport.Peer, error) {
	p, err := id.check(certs, id.clk.Now())
	if err != nil {
		return transport.Peer{}, err
	}
	estate := id.peer.Estate
	if want.Estate != "" {
		estate = want.Estate
	}
	if p.Estate != estate {
		return transport.Peer{}, fault.Errorf(fault.Refused, "certificate of %s of estate %s, want estate %s", p, p.Estate, estate)
	}
	if want.Host != "" && p.Host != want.Host {
		return transport.Peer{}, fault.Errorf(fault.Refused, "certificate of %s, want host %s", p, want.Host).
			WithHint("another host answers at that address: compare addr in the estate with where the agent of %s runs", want.Host)
	}
	return p, nil
}

// verifyChain checks that a trusted CA signed the first certificate, that it
// is valid now, or is a host's that ran out at most ExpiredLife ago, and reads
// its name.
func verifyChain(certs, trust []*x509.Certificate, now time.Time) (transport.Peer, error) {
	if len(certs) == 0 {
		return transport.Peer{}, fault.Errorf(fault.Refused, "the other end presented no certificate")
	}
	leaf := certs[0]
	if leaf.Subject.CommonName == throwawayName {
		return transport.Peer{}, fault.Errorf(fault.Refused, "the agent there has not joined an estate yet").
			WithHint("make a token with drrun token HOST, then drrun-agent join TOKEN on the host")
	}
	p, err := peerOf(leaf)
	if err != nil {
		return transport.Peer{}, fault.Errorf(fault.Refused, "%w", err)
	}
	roots := x509.NewCertPool()
	for _, ca := range trust {
		roots.AddCert(ca)
	}
	at := now
	if late := now.Sub(leaf.NotAfter); late > 0 && late <= ExpiredLife && p.Host != "" {
		p.Expired, at = true, leaf.NotAfter
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err == nil {
		p.RenewalDue = p.Host != "" && !now.Before(halfLife(leaf))
		return p, nil
	}
	return transport.Peer{}, explain(p, certs, trust, now, err)
}

// explain says what is wrong with a certificate.
func explain(p transport.Peer, certs, trust []*x509.Certificate, now time.Time, err error) error {
	leaf := certs[0]
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return fault.Errorf(fault.Refused, "certificate of %s of estate %s is of another CA (%s), this program trusts %s",
			p, p.Estate, issuerPin(certs), trustedPins(trust)).
			WithHint("one of the two belongs to another estate, or joined before the CA was made anew; join that host again")
	}
	if now.After(leaf.NotAfter) {
		return fault.Errorf(fault.Refused, "certificate of %s ran out on %s, %d days ago", p,
			leaf.NotAfter.UTC().Format(time.DateOnly), int(now.Sub(leaf.NotAfter).Hours()/24)).
			WithHint("join the host again with a new token, or set the clocks")
	}
	if now.Before(leaf.NotBefore) {
		return fault.Errorf(fault.Refused, "certificate of %s is valid from %s, the clock here says %s", p,
			leaf.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339)).WithHint("set the clocks")
	}
	return fault.Errorf(fault.Refused, "certificate of %s: %w", p, err)
}

// issuerPin names the CA that a chain claims.
func issuerPin(certs []*x509.Certificate) string {
	for _, c := range certs[1:] {
		if c.IsCA {
			return "pin " + ShortPin(pinOf(c))
		}
	}
	return fmt.Sprintf("%q", certs[0].Issuer.CommonName)
}

func trustedPins(trust []*x509.Certificate) string {
	pins := make([]string, 0, len(trust))
	for _, c := range trust {
		pins = append(pins, "pin "+ShortPin(pinOf(c)))
	}
	return strings.Join(pins, ", ")
}
