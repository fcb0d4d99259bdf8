package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/transport"
)

// identityFile holds key, chain and trusted CAs in one file, so that a crash
// never leaves a key beside another key's certificate.
const identityFile = "identity.pem"

// Identity is who a program is: its key, its certificate chain and the CAs it
// trusts.
type Identity struct {
	key   *ecdsa.PrivateKey
	chain []*x509.Certificate // own certificate first
	trust []*x509.Certificate
	// hostCAs are trusted for hosts alone, and earlier is the identity under one
	// of them: see succession.go.
	hostCAs []*x509.Certificate
	earlier *Identity
	peer    transport.Peer
	clk     clock.Clock
}

func newIdentity(key *ecdsa.PrivateKey, chain, trust []*x509.Certificate) (*Identity, error) {
	switch {
	case key == nil:
		return nil, errors.New("the key is missing")
	case len(chain) == 0:
		return nil, errors.New("the certificate is missing")
	case len(trust) == 0:
		return nil, errors.New("no CA is trusted")
	case !key.PublicKey.Equal(chain[0].PublicKey):
		return nil, errors.New("key and certificate do not belong together")
	case !slices.ContainsFunc(trust, func(ca *x509.Certificate) bool { return chain[0].CheckSignatureFrom(ca) == nil }):
		return nil, errors.New("no CA that is trusted has signed the certificate")
	}
	p, err := peerOf(chain[0])
	if err != nil {
		return nil, err
	}
	return &Identity{key: key, chain: chain, trust: trust, peer: p, clk: clock.Real{}}, nil
}

// LoadIdentity reads the identity stored in dir. fault.NotFound: there is none.
func LoadIdentity(fsys vfs.FS, dir string) (*Identity, error) {
	raw, err := vfs.ReadFile(fsys, filepath.Join(dir, identityFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Errorf(fault.NotFound, "no identity in %s", dir).
			WithHint("make a token with drrun token HOST, then drrun-agent join TOKEN on the host")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot load the identity: %w", err)
	}
	id, err := parseIdentity(raw)
	if err != nil {
		return nil, fault.Errorf(fault.Corrupt, "cannot load the identity in %s: %w", dir, err)
	}
	id.earlier, err = loadEarlier(fsys, dir)
	return id, err
}

func parseIdentity(raw []byte) (*Identity, error) {
	b, err := parseBundle(raw)
	if err != nil {
		return nil, err
	}
	id, err := newIdentity(b.key, b.certs, b.trust)
	if err != nil {
		return nil, err
	}
	id.hostCAs = b.hosts
	return id, nil
}

// encode is the form of the identity at rest, without the earlier one.
func (id *Identity) encode() ([]byte, error) {
	out, err := encodeKey(id.key)
	if err != nil {
		return nil, err
	}
	out = append(out, encodeCerts(pemCert, id.chain...)...)
	out = append(out, encodeCerts(pemTrust, id.trust...)...)
	return append(out, encodeCerts(pemHosts, id.hostCAs...)...), nil
}

// Save stores the identity in dir (identity.pem, mode 0600), durably.
func (id *Identity) Save(fsys vfs.FS, dir string) error {
	out, err := id.encode()
	if err != nil {
		return err
	}
	if err := fsys.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot store the identity: %w", err)
	}
	if err := id.saveEarlier(fsys, dir); err != nil {
		return err
	}
	if err := vfs.WriteFile(fsys, filepath.Join(dir, identityFile), out, 0o600); err != nil {
		return fmt.Errorf("cannot store the identity: %w", err)
	}
	return nil
}

// WithClock returns a copy that checks certificates against another clock.
func (id *Identity) WithClock(clk clock.Clock) *Identity {
	c := *id
	c.clk = clk
	return &c
}

// WithTrust returns a copy that trusts the CAs in the PEM text as well.
func (id *Identity) WithTrust(casPEM []byte) (*Identity, error) {
	b, err := parseBundle(casPEM)
	if err != nil {
		return nil, fault.Errorf(fault.Invalid, "cannot read CA certificates: %w", err)
	}
	c := *id
	c.trust = append([]*x509.Certificate{}, id.trust...)
	for _, ca := range append(b.certs, b.trust...) {
		if !ca.IsCA {
			return nil, fault.Errorf(fault.Invalid, "certificate %q is not that of a CA", ca.Subject.CommonName)
		}
		if !trusts(c.trust, ca) {
			c.trust = append(c.trust, ca)
		}
	}
	return &c, nil
}

func trusts(list []*x509.Certificate, ca *x509.Certificate) bool {
	for _, t := range list {
		if t.Equal(ca) {
			return true
		}
	}
	return false
}

// Peer returns who this identity is.
func (id *Identity) Peer() transport.Peer { return id.peer }

// NotAfter returns when the certificate runs out.
func (id *Identity) NotAfter() time.Time { return id.chain[0].NotAfter }

// NeedsRenewal reports whether half of the certificate's life is over.
func (id *Identity) NeedsRenewal() bool { return !id.clk.Now().Before(halfLife(id.chain[0])) }

// Trusts reports whether the CA with that pin is trusted.
func (id *Identity) Trusts(p Pin) bool {
	return slices.ContainsFunc(id.trust, func(c *x509.Certificate) bool { return pinOf(c) == p })
}

// TrustPEM returns the CAs this identity trusts.
func (id *Identity) TrustPEM() []byte { return encodeCerts(pemCert, id.trust...) }

// Secret derives 32 bytes from the identity's key, the same ones every time
// for one label.
func (id *Identity) Secret(label string) [32]byte {
	der, err := id.key.Bytes()
	if err != nil { // a key on its own curve always has bytes
		panic(fmt.Sprintf("internal error: cannot encode own key: %v", err))
	}
	m := hmac.New(sha256.New, der)
	m.Write([]byte("drrun " + label))
	return [32]byte(m.Sum(nil))
}

// Certificate returns key and chain for crypto/tls.
func (id *Identity) Certificate() tls.Certificate {
	c := tls.Certificate{PrivateKey: id.key, Leaf: id.chain[0]}
	for _, x := range id.chain {
		c.Certificate = append(c.Certificate, x.Raw)
	}
	return c
}

// ServerTLS returns the configuration of the listening end: TLS 1.3, a
// certificate of this estate is required of the dialer.
func (id *Identity) ServerTLS() *tls.Config {
	c := id.baseTLS()
	c.ClientAuth = tls.RequireAnyClientCert
	c.VerifyConnection = func(s tls.ConnectionState) error {
		_, err := id.Verify(s.PeerCertificates, transport.Want{})
		return err
	}
	id.chooseServer(c)
	return c
}

// ClientTLS returns the configuration of the dialing end: TLS 1.3, the
// listener must be whom we want.
func (id *Identity) ClientTLS(want transport.Want) *tls.Config {
	c := id.baseTLS()
	// Names are URIs, expired certificates of hosts pass for 30 days: checked
	// by VerifyConnection, which runs in this mode too.
	c.InsecureSkipVerify = true
	id.chooseClient(c, want)
	return c
}

func (id *Identity) baseTLS() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{id.Certificate()},
		SessionTicketsDisabled: true, // every connection proves itself anew
		Time:                   id.clk.Now,
	}
}

// Request is a key that waits for its certificate.
type Request struct {
	key *ecdsa.PrivateKey
	csr []byte
}

// NewRequest makes a key and its signing request.
func NewRequest() (*Request, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make a key: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "drrun-agent"}}, crypto.Signer(key))
	if err != nil {
		return nil, fmt.Errorf("cannot make a signing request: %w", err)
	}
	return &Request{key: key, csr: csr}, nil
}

// CSR returns the signing request (DER).
func (r *Request) CSR() []byte { return r.csr }

// Identity joins the key with its signed chain and the CAs to trust (PEM),
// after checking that they belong together.
func (r *Request) Identity(chainPEM, casPEM []byte) (*Identity, error) {
	chain, err := parseBundle(chainPEM)
	if err != nil {
		return nil, fault.Errorf(fault.Invalid, "cannot read the signed certificate: %w", err)
	}
	cas, err := parseBundle(casPEM)
	if err != nil {
		return nil, fault.Errorf(fault.Invalid, "cannot read the CA certificates: %w", err)
	}
	id, err := newIdentity(r.key, chain.certs, cas.certs)
	if err != nil {
		return nil, fault.Errorf(fault.Invalid, "cannot use the signed certificate: %w", err)
	}
	return id, nil
}
