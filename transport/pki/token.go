package pki

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"strings"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
)

// secretSize is the size of a token's secret in bytes.
const secretSize = 20

// tokenPrefix opens the text form of a token, version 1.
const tokenPrefix = "drt1_"

// Token lets one host join once. Its text form is URL-safe.
type Token struct {
	Host   string
	Secret [secretSize]byte
	Pin    Pin // of the CA the host will trust
}

// NewToken makes a token for a host, and the hash under which the runtime
// keeps it: whoever reads the hash cannot join with it.
func NewToken(host string, pin Pin) (Token, string) {
	t := Token{Host: host, Pin: pin}
	_, _ = rand.Read(t.Secret[:]) // crypto/rand.Read never fails
	return t, t.Hash()
}

// String returns the text form: prefix, then base64url of secret, pin, host.
func (t Token) String() string {
	b := append(append(t.Secret[:], t.Pin[:]...), t.Host...)
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// ParseToken reads the text form of a token; fault.Invalid if it is none.
func ParseToken(s string) (Token, error) {
	s = strings.TrimSpace(s)
	text, ok := strings.CutPrefix(s, tokenPrefix)
	if !ok {
		return Token{}, fault.Errorf(fault.Invalid, "cannot read the token: it does not begin with %s", tokenPrefix).
			WithHint("drrun token HOST prints one")
	}
	if len(text) > 4*(secretSize+sha256.Size+ident.MaxName)/3+4 {
		return Token{}, fault.Errorf(fault.Invalid, "cannot read the token: it is too long")
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) <= secretSize+sha256.Size || strings.ContainsAny(text, "\r\n") { // the decoder skips line ends
		return Token{}, fault.Errorf(fault.Invalid, "cannot read the token: it is damaged or cut off").
			WithHint("copy the whole line that drrun token HOST printed")
	}
	var t Token
	n := copy(t.Secret[:], b)
	n += copy(t.Pin[:], b[n:])
	t.Host = string(b[n:])
	if err := ident.CheckName(t.Host); err != nil {
		return Token{}, fault.Errorf(fault.Invalid, "cannot read the token: %w", err)
	}
	return t, nil
}

// proofKey is what the host shows the runtime in place of the secret.
func (t Token) proofKey() [32]byte {
	return sha256.Sum256(append([]byte("drrun join\x00"), t.Secret[:]...))
}

// Hash returns the form in which the runtime keeps a token at rest.
func (t Token) Hash() string {
	k := t.proofKey()
	return hashOf(k[:])
}

func hashOf(key []byte) string {
	h := sha256.Sum256(key)
	return hex.EncodeToString(h[:])
}

// JoinProof is what a joining host shows: for which host, and the hash of its
// token, to be looked up among those kept.
type JoinProof struct {
	Host string
	Hash string
}

// Matches compares the proof with the hash of a kept token, in constant time.
func (p JoinProof) Matches(hash string) bool {
	return subtle.ConstantTimeCompare([]byte(p.Hash), []byte(hash)) == 1
}

// Prove returns the key and the mac by which a host proves to a runtime that
// it holds the token, bound to one TLS session by its exported key material.
func (t Token) Prove(exporter []byte) (key, mac []byte) {
	k := t.proofKey()
	return k[:], sessionMAC(k[:], exporter)
}

// CheckProof checks that a proof belongs to this TLS session, and returns it
// for the look-up. fault.Refused if it does not.
func CheckProof(host string, key, mac, exporter []byte) (JoinProof, error) {
	if len(key) != sha256.Size || !hmac.Equal(mac, sessionMAC(key, exporter)) {
		return JoinProof{}, fault.Errorf(fault.Refused, "host %s sent a token proof that does not belong to this connection", host)
	}
	return JoinProof{Host: host, Hash: hashOf(key)}, nil
}

func sessionMAC(key, exporter []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(exporter)
	return m.Sum(nil)
}
