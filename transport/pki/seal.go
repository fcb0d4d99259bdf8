package pki

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
)

// sealed is a CA's key at rest outside of its folder: encrypted with
// XChaCha20-Poly1305 under a key that Argon2id makes from a passphrase, bound to
// the CA's certificate.
type sealed struct {
	Version int      `json:"version"`
	Must    []string `json:"must"`
	May     []string `json:"may"`
	KDF     string   `json:"kdf"`
	Time    uint32   `json:"time"`   // passes
	Memory  uint32   `json:"memory"` // KiB
	Threads uint8    `json:"threads"`
	Salt    []byte   `json:"salt"`
	Nonce   []byte   `json:"nonce"`
	Box     []byte   `json:"box"`
}

const (
	sealVersion = 1
	sealKDF     = "argon2id"
	// What RFC 9106 recommends where memory is not plenty.
	sealTime    = 3
	sealMemory  = 64 << 10
	sealThreads = 4
	// What a file may ask of the machine that opens it.
	maxSealTime   = 64
	maxSealMemory = 1 << 20
)

// MinPassphrase is the least length of a passphrase in bytes.
const MinPassphrase = 8

func (s *sealed) key(passphrase string) []byte {
	return argon2.IDKey([]byte(passphrase), s.Salt, s.Time, s.Memory, s.Threads, chacha20poly1305.KeySize)
}

// SealCA returns the certificate of the CA in dir (PEM) and its key, sealed with
// a passphrase. fault.NotFound: there is no CA.
func SealCA(fsys vfs.FS, dir, passphrase string) (certPEM, box []byte, err error) {
	if len(passphrase) < MinPassphrase {
		return nil, nil, fault.Errorf(fault.Invalid, "the passphrase has %d bytes, it needs %d", len(passphrase), MinPassphrase)
	}
	keyPEM, err := vfs.ReadFile(fsys, filepath.Join(dir, caKeyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fault.Errorf(fault.NotFound, "no CA in %s", dir)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the CA's key: %w", err)
	}
	if certPEM, err = vfs.ReadFile(fsys, filepath.Join(dir, caCertFile)); err != nil {
		return nil, nil, fmt.Errorf("cannot read the CA's certificate: %w", err)
	}
	s := sealed{Version: sealVersion, Must: []string{}, May: []string{}, KDF: sealKDF, Time: sealTime, Memory: sealMemory, Threads: sealThreads,
		Salt: make([]byte, 16), Nonce: make([]byte, chacha20poly1305.NonceSizeX)}
	_, _ = rand.Read(s.Salt)  // crypto/rand.Read never fails
	_, _ = rand.Read(s.Nonce) // nor here
	aead, err := chacha20poly1305.NewX(s.key(passphrase))
	if err != nil {
		return nil, nil, fmt.Errorf("cannot seal the CA's key: %w", err)
	}
	s.Box = aead.Seal(nil, s.Nonce, keyPEM, certPEM)
	box, err = json.Marshal(s)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot seal the CA's key: %w", err)
	}
	return certPEM, box, nil
}

// parseSealed reads a sealed key and checks what it asks for.
func parseSealed(box []byte) (*sealed, error) {
	var s sealed
	if err := json.Unmarshal(box, &s); err != nil {
		return nil, fault.Errorf(fault.Corrupt, "cannot read the sealed key: %w", err)
	}
	if s.Version > sealVersion || len(s.Must) > 0 || s.Version > 0 && s.KDF != sealKDF {
		return nil, fault.Errorf(fault.Refused, "the sealed key has version %d with features %q and %q, this drrun knows %d with %s", s.Version, s.Must, s.KDF, sealVersion, sealKDF).
			WithHint("use the drrun that wrote it, or a newer one")
	}
	ok := s.Version >= 1 && s.Time >= 1 && s.Time <= maxSealTime && s.Memory >= 8 && s.Memory <= maxSealMemory && s.Threads >= 1 &&
		len(s.Salt) >= 8 && len(s.Salt) <= 64 && len(s.Nonce) == chacha20poly1305.NonceSizeX
	if !ok {
		return nil, fault.Errorf(fault.Corrupt, "the sealed key has no sound parameters")
	}
	return &s, nil
}

// OpenSealed returns the key (PEM) that SealCA sealed. fault.Refused: the
// passphrase is another one, or key and certificate do not belong together.
func OpenSealed(certPEM, box []byte, passphrase string) (keyPEM []byte, err error) {
	s, err := parseSealed(box)
	if err != nil {
		return nil, err
	}
	aead, err := chacha20poly1305.NewX(s.key(passphrase))
	if err != nil {
		return nil, fmt.Errorf("cannot open the sealed key: %w", err)
	}
	if keyPEM, err = aead.Open(nil, s.Nonce, s.Box, certPEM); err != nil {
		return nil, fault.Errorf(fault.Refused, "the passphrase does not open the CA's key").WithHint("it is the one that was given to drrun state backup")
	}
	key, kerr := parseBundle(keyPEM)
	cert, cerr := parseBundle(certPEM)
	if kerr != nil || cerr != nil || key.key == nil || len(cert.certs) != 1 || !sameKey(key.key, cert.certs[0]) {
		return nil, fault.Errorf(fault.Corrupt, "the sealed key and the CA's certificate do not belong together")
	}
	return keyPEM, nil
}

func sameKey(k *ecdsa.PrivateKey, c *x509.Certificate) bool { return k.PublicKey.Equal(c.PublicKey) }

// RestoreCA puts a CA's key and certificate into dir, the key first: what a
// crash leaves is a CA whose certificate is made anew.
func RestoreCA(fsys vfs.FS, dir string, keyPEM, certPEM []byte) error {
	if err := fsys.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot restore the CA: %w", err)
	}
	if err := vfs.WriteFile(fsys, filepath.Join(dir, caKeyFile), keyPEM, 0o600); err != nil {
		return fmt.Errorf("cannot restore the CA's key: %w", err)
	}
	if err := vfs.WriteFile(fsys, filepath.Join(dir, caCertFile), certPEM, 0o644); err != nil {
		return fmt.Errorf("cannot restore the CA's certificate: %w", err)
	}
	return nil
}
