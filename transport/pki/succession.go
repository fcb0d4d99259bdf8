package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/transport"
)

// When a CA was lost, its hosts join again under a new one, one after the other.
// Until the last has, hosts of both have to talk to each other: a host keeps its
// earlier identity beside the new one and shows every peer the certificate of
// the CA that signed the peer's own. The earlier CA is trusted for hosts alone:
// a runtime that has it still commands nobody any more. It ends by itself, with
// the earlier certificate.

// earlierFile holds the identity of before, as identityFile does.
const earlierFile = "identity.earlier.pem"

// pemHosts marks CAs that are trusted for hosts alone.
const pemHosts = "TRUSTED CERTIFICATE FOR HOSTS"

// Continue returns id with all that prev has beside its certificate: the CAs it
// trusts and its earlier identity. It is for a renewal under the same CA.
func (id *Identity) Continue(prev *Identity) *Identity {
	c := *id
	c.trust = union(id.trust, prev.trust)
	c.hostCAs = without(union(id.hostCAs, prev.hostCAs), c.trust)
	c.earlier = prev.earlier
	return &c
}

// Succeed returns id as the identity that follows prev under a new CA.
// fault.Refused: they are not of the same host.
func (id *Identity) Succeed(prev *Identity) (*Identity, error) {
	if id.peer != prev.peer {
		return nil, fault.Errorf(fault.Refused, "the runtime signed a certificate of %s of site %s, estate %s; this is %s of site %s, estate %s",
			id.peer, id.peer.Site, id.peer.Estate, prev.peer, prev.peer.Site, prev.peer.Estate).
			WithHint("a host of another name, site or estate needs a state folder of its own: --state DIR")
	}
	c := *id
	c.hostCAs = without(union(prev.trust, prev.hostCAs), id.trust)
	e := *prev
	e.earlier = nil
	c.earlier = &e
	return &c, nil
}

func union(a, b []*x509.Certificate) []*x509.Certificate {
	out := slices.Clone(a)
	for _, c := range b {
		if !trusts(out, c) {
			out = append(out, c)
		}
	}
	return out
}

func without(list, drop []*x509.Certificate) []*x509.Certificate {
	return slices.DeleteFunc(slices.Clone(list), func(c *x509.Certificate) bool { return trusts(drop, c) })
}

// previous is the earlier identity while its certificate is of use; nil: none.
func (id *Identity) previous() *Identity {
	if id.earlier == nil || id.clk.Now().After(id.earlier.NotAfter().Add(ExpiredLife)) {
		return nil
	}
	return id.earlier
}

// Earlier reports whether an earlier CA is trusted for hosts.
func (id *Identity) Earlier() bool { return id.previous() != nil }

// hostTrust are the CAs by which a host is trusted.
func (id *Identity) hostTrust() []*x509.Certificate {
	if id.previous() == nil {
		return id.trust
	}
	return union(id.trust, id.hostCAs)
}

// check is verifyChain with what this identity trusts.
func (id *Identity) check(certs []*x509.Certificate, now time.Time) (transport.Peer, error) {
	p, err := verifyChain(certs, id.hostTrust(), now)
	if err == nil && p.Host == "" { // of a runtime
		return verifyChain(certs, id.trust, now)
	}
	return p, err
}

// signedBy reports whether the CA of a pin has signed this identity.
func (id *Identity) signedBy(pin string) bool {
	return slices.ContainsFunc(id.trust, func(ca *x509.Certificate) bool {
		return ShortPin(pinOf(ca)) == pin && id.chain[0].CheckSignatureFrom(ca) == nil
	})
}

// certificateFor is what a peer sees whose own certificate is of the CA of a
// pin.
func (id *Identity) certificateFor(pin string) tls.Certificate {
	if e := id.previous(); e != nil && !id.signedBy(pin) && e.signedBy(pin) {
		return e.Certificate()
	}
	return id.Certificate()
}

// caSuffix ends the server name by which a dialer says of which CA it is.
const caSuffix = ".ca.drrun"

// ownPin is the CA that signed this identity.
func (id *Identity) ownPin() string { return id.pinOfSigner(id.chain[0]) }

func (id *Identity) pinOfSigner(leaf *x509.Certificate) string {
	for _, ca := range union(id.trust, id.hostCAs) {
		if leaf.CheckSignatureFrom(ca) == nil {
			return ShortPin(pinOf(ca))
		}
	}
	return ""
}

// chooseServer lets the listening end show a dialer the certificate it can check.
func (id *Identity) chooseServer(c *tls.Config) {
	c.GetCertificate = func(hi *tls.ClientHelloInfo) (*tls.Certificate, error) {
		pin, _ := strings.CutSuffix(hi.ServerName, caSuffix)
		cert := id.certificateFor(pin)
		return &cert, nil
	}
}

// chooseClient is chooseServer for the dialing end, which has seen the other's
// certificate by then.
func (id *Identity) chooseClient(c *tls.Config, want transport.Want) {
	c.ServerName = id.ownPin() + caSuffix
	pin := ""
	c.VerifyConnection = func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) > 0 {
			pin = id.pinOfSigner(s.PeerCertificates[0])
		}
		_, err := id.Verify(s.PeerCertificates, want)
		return err
	}
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		cert := id.certificateFor(pin)
		return &cert, nil
	}
}

// loadEarlier reads the identity of before; nil: there is none.
func loadEarlier(fsys vfs.FS, dir string) (*Identity, error) {
	raw, err := vfs.ReadFile(fsys, filepath.Join(dir, earlierFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot load the earlier identity: %w", err)
	}
	id, err := parseIdentity(raw)
	if err != nil {
		return nil, fault.Errorf(fault.Corrupt, "cannot load the earlier identity in %s: %w", dir, err).
			WithHint("move %s away; hosts that have not joined again cannot talk to this one then", earlierFile)
	}
	return id, nil
}

// saveEarlier stores the identity of before, or removes it, ahead of the one
// that follows it: a crash between leaves an earlier identity that is that of
// now.
func (id *Identity) saveEarlier(fsys vfs.FS, dir string) error {
	name := filepath.Join(dir, earlierFile)
	if id.earlier == nil {
		if err := fsys.Remove(name); err != nil {
			return fmt.Errorf("cannot remove the earlier identity: %w", err)
		}
		return nil
	}
	out, err := id.earlier.encode()
	if err != nil {
		return err
	}
	if err := vfs.WriteFile(fsys, name, out, 0o600); err != nil {
		return fmt.Errorf("cannot store the earlier identity: %w", err)
	}
	return nil
}
