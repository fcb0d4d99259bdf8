package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"path/filepath"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/transport"
)

// Files of a CA in its folder.
const (
	caKeyFile  = "ca.key" // PKCS #8 PEM, mode 0600
	caCertFile = "ca.crt"
)

// PEM block types.
const (
	pemKey   = "PRIVATE KEY"
	pemCert  = "CERTIFICATE"
	pemTrust = "TRUSTED CERTIFICATE"
)

// CA signs the certificates of one estate.
type CA struct {
	estate string
	key    *ecdsa.PrivateKey
	cert   *x509.Certificate
	clk    clock.Clock
}

// CreateCA makes the CA of an estate in dir (ca.key, ca.crt). A folder that
// has one already is fault.Refused. A key without its certificate, as a crash
// leaves it here, gets one; so does a key whose certificate was lost: what it
// signed is trusted as before.
func CreateCA(fsys vfs.FS, dir, estate string, clk clock.Clock) (*CA, error) {
	if err := ident.CheckName(estate); err != nil {
		return nil, fault.Errorf(fault.Invalid, "cannot create a CA: %w", err)
	}
	if _, err := fsys.Stat(filepath.Join(dir, caCertFile)); err == nil {
		return nil, fault.Errorf(fault.Refused, "cannot create a CA: %s exists in %s", caCertFile, dir).
			WithHint("a new CA would make every host join again; move the old one away only if that is meant")
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot create a CA: %w", err)
	}
	key, err := caKey(fsys, dir)
	if err != nil {
		return nil, err
	}
	now := clk.Now().UTC()
	cert, err := sign(&x509.Certificate{
		Subject:               pkix.Name{CommonName: "drrun CA of " + estate},
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: estate}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(CALife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}, nil, &key.PublicKey, key)
	if err != nil {
		return nil, fault.Errorf(fault.Invalid, "cannot create a CA for estate %q: %w", estate, err)
	}
	if err := vfs.WriteFile(fsys, filepath.Join(dir, caCertFile), encodeCerts(pemCert, cert), 0o644); err != nil {
		return nil, fmt.Errorf("cannot store the CA's certificate: %w", err)
	}
	return &CA{estate: estate, key: key, cert: cert, clk: clk}, nil
}

// caKey reads the key in dir, or makes and stores one.
func caKey(fsys vfs.FS, dir string) (*ecdsa.PrivateKey, error) {
	path := filepath.Join(dir, caKeyFile)
	old, err := vfs.ReadFile(fsys, path)
	if err == nil {
		b, err := parseBundle(old)
		if err != nil || b.key == nil {
			return nil, fault.Errorf(fault.Corrupt, "cannot create a CA: %s is no key", path).
				WithHint("restore it from a backup; a new CA would make every host join again")
		}
		return b.key, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot create a CA: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot create a CA: %w", err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	if err := fsys.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot create a CA: %w", err)
	}
	if err := vfs.WriteFile(fsys, path, keyPEM, 0o600); err != nil {
		return nil, fmt.Errorf("cannot store the CA's key: %w", err)
	}
	return key, nil
}

// OpenCA opens the CA in dir. fault.NotFound: there is none, or CreateCA did
// not come to its end.
func OpenCA(fsys vfs.FS, dir string, clk clock.Clock) (*CA, error) {
	keyPEM, err := vfs.ReadFile(fsys, filepath.Join(dir, caKeyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Errorf(fault.NotFound, "no CA in %s", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the CA: %w", err)
	}
	certPEM, err := vfs.ReadFile(fsys, filepath.Join(dir, caCertFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Errorf(fault.NotFound, "the CA in %s has no %s", dir, caCertFile).WithHint("drrun apply makes it from the key")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the CA: %w", err)
	}
	b, err := parseBundle(append(append(keyPEM, '\n'), certPEM...))
	if err != nil {
		return nil, fault.Errorf(fault.Corrupt, "cannot open the CA in %s: %w", dir, err)
	}
	if b.key == nil || len(b.certs) != 1 || !b.certs[0].IsCA || len(b.certs[0].URIs) != 1 || !b.key.PublicKey.Equal(b.certs[0].PublicKey) {
		return nil, fault.Errorf(fault.Corrupt, "cannot open the CA in %s: %s and %s do not belong together", dir, caKeyFile, caCertFile)
	}
	return &CA{estate: b.certs[0].URIs[0].Host, key: b.key, cert: b.certs[0], clk: clk}, nil
}

// Estate returns the name of the estate.
func (ca *CA) Estate() string { return ca.estate }

// Pin returns the hash of the CA's public key, which tokens carry.
func (ca *CA) Pin() Pin { return pinOf(ca.cert) }

// CertPEM returns the CA's certificate: what hosts trust.
func (ca *CA) CertPEM() []byte { return encodeCerts(pemCert, ca.cert) }

// Made returns when the CA's certificate was made.
func (ca *CA) Made() time.Time { return ca.cert.NotBefore }

// IssueRuntime makes an identity for a runtime of this estate.
func (ca *CA) IssueRuntime(name string) (*Identity, error) {
	r, err := NewRequest()
	if err != nil {
		return nil, err
	}
	leaf, err := ca.leaf(transport.Peer{Estate: ca.estate, Runtime: name}, &r.key.PublicKey)
	if err != nil {
		return nil, err
	}
	return newIdentity(r.key, []*x509.Certificate{leaf, ca.cert}, []*x509.Certificate{ca.cert})
}

// SignHost makes the certificate of a host from its signing request, and
// returns the chain: the host's certificate, then the CA's. The name in the
// request does not matter: the caller says who it is.
func (ca *CA) SignHost(csrDER []byte, site, host string) ([]byte, error) {
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return nil, fault.Errorf(fault.Invalid, "cannot sign the certificate of host %s: %w", host, err)
	}
	pub, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, fault.Errorf(fault.Invalid, "cannot sign the certificate of host %s: its key is not ECDSA P-256", host)
	}
	leaf, err := ca.leaf(transport.Peer{Estate: ca.estate, Site: site, Host: host}, pub)
	if err != nil {
		return nil, err
	}
	return encodeCerts(pemCert, leaf, ca.cert), nil
}

func (ca *CA) leaf(p transport.Peer, pub *ecdsa.PublicKey) (*x509.Certificate, error) {
	uri, err := uriOf(p)
	if err != nil {
		return nil, err
	}
	now := ca.clk.Now().UTC()
	cert, err := sign(&x509.Certificate{
		Subject:               pkix.Name{CommonName: p.String()},
		URIs:                  []*url.URL{uri},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(LeafLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}, ca.cert, pub, ca.key)
	if err != nil {
		return nil, fmt.Errorf("cannot sign the certificate of %s: %w", p, err)
	}
	return cert, nil
}

// sign completes a template; parent nil makes it self-signed.
func sign(t, parent *x509.Certificate, pub *ecdsa.PublicKey, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	t.SerialNumber = serial
	if parent == nil {
		parent = t
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("cannot encode a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), nil
}

func encodeCerts(blockType string, certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: blockType, Bytes: c.Raw})...)
	}
	return out
}

// bundle is what a PEM file holds.
type bundle struct {
	key   *ecdsa.PrivateKey
	certs []*x509.Certificate
	trust []*x509.Certificate
	hosts []*x509.Certificate
}

// maxBundle bounds the blocks of a PEM file.
const maxBundle = 64

func parseBundle(b []byte) (bundle, error) {
	var out bundle
	for n := 0; ; n++ {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			return out, nil
		}
		if n == maxBundle {
			return bundle{}, fmt.Errorf("more than %d PEM blocks", maxBundle)
		}
		switch block.Type {
		case pemKey:
			k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return bundle{}, err
			}
			key, ok := k.(*ecdsa.PrivateKey)
			if !ok {
				return bundle{}, errors.New("the key is not ECDSA")
			}
			out.key = key
		case pemCert, pemTrust, pemHosts:
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return bundle{}, err
			}
			switch block.Type {
			case pemCert:
				out.certs = append(out.certs, c)
			case pemTrust:
				out.trust = append(out.trust, c)
			default:
				out.hosts = append(out.hosts, c)
			}
		default:
			return bundle{}, fmt.Errorf("unknown PEM block %q", block.Type)
		}
	}
}

// halfLife returns the moment at which half of a certificate's life is over.
func halfLife(c *x509.Certificate) time.Time {
	return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 2)
}
