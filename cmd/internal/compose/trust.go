package compose

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/transport/pki"
)

// trust is the ca folder of a state folder: the estate's CA, made at the first
// apply, and the runtime's own certificate, made with it and renewed at half
// of its life. It implements estate.Trust and quicnet.IdentitySource.
type trust struct {
	fsys vfs.FS
	dir  string
	clk  clock.Clock
	log  *slog.Logger

	mu sync.Mutex
	ca *pki.CA
	id *pki.Identity
}

// openTrust opens what there is; before the first apply that is nothing.
func openTrust(fsys vfs.FS, state string, clk clock.Clock, log *slog.Logger) (*trust, error) {
	t := &trust{fsys: fsys, dir: filepath.Join(state, "ca"), clk: clk, log: log}
	ca, err := pki.OpenCA(fsys, t.dir, clk)
	if fault.Is(err, fault.NotFound) {
		return t, nil
	}
	if err != nil {
		return nil, err
	}
	t.ca = ca
	return t, t.loadIdentity()
}

// Ensure implements estate.Trust.
func (t *trust) Ensure(estate string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ca != nil {
		if t.ca.Estate() != estate {
			return fault.Errorf(fault.Refused, "the certificate authority in %s is of estate %q, not %q", t.dir, t.ca.Estate(), estate).
				WithHint("another estate needs another state folder: --state DIR")
		}
		if t.id == nil { // it could not be stored the last time
			return t.loadIdentity()
		}
		return nil
	}
	ca, err := pki.CreateCA(t.fsys, t.dir, estate, t.clk)
	if err != nil {
		return err
	}
	t.ca = ca
	return t.loadIdentity()
}

// loadIdentity loads the runtime's certificate, or issues one: the first, or
// the next when half of the old one's life is over.
func (t *trust) loadIdentity() error {
	dir := filepath.Join(t.dir, "runtime")
	id, err := pki.LoadIdentity(t.fsys, dir)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	if err == nil {
		if id = id.WithClock(t.clk); !id.NeedsRenewal() {
			t.id = id
			return nil
		}
	}
	if id, err = t.ca.IssueRuntime(runtimeName()); err != nil {
		return fmt.Errorf("cannot issue the runtime's certificate: %w", err)
	}
	if err := id.Save(t.fsys, dir); err != nil {
		return err
	}
	t.id = id.WithClock(t.clk)
	return nil
}

// runtimeName is the name of this runtime in its certificate: the host's, as
// far as it is a name.
func runtimeName() string {
	name, err := os.Hostname()
	if err != nil || ident.CheckName(name) != nil {
		return "drrun"
	}
	return name
}

// NewToken implements estate.Trust.
func (t *trust) NewToken(host string) (text, hash string, err error) {
	ca, _ := t.parts()
	if ca == nil {
		return "", "", fault.Errorf(fault.Refused, "no estate is applied yet").WithHint("drrun apply estate.lua")
	}
	token, hash := pki.NewToken(host, ca.Pin())
	return token.String(), hash, nil
}

// parts returns what there is. A runtime that lives for months renews its own
// certificate here.
func (t *trust) parts() (*pki.CA, *pki.Identity) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.id != nil && t.id.NeedsRenewal() {
		if err := t.loadIdentity(); err != nil {
			t.log.Error("cannot renew the runtime's certificate", "until", t.id.NotAfter(), logkit.KeyError, err)
		}
	}
	return t.ca, t.id
}

// Identity implements quicnet.IdentitySource; nil before the first apply.
func (t *trust) Identity() *pki.Identity {
	_, id := t.parts()
	return id
}

// Token implements quicnet.IdentitySource: a runtime never joins.
func (t *trust) Token() (pki.Token, bool) { return pki.Token{}, false }

// JoinFailed implements quicnet.IdentitySource.
func (t *trust) JoinFailed(err error) { t.log.Warn("a join failed", "err", err) }

// Store implements quicnet.IdentitySource: a runtime has its own CA.
func (t *trust) Store(*pki.Identity) error {
	return fault.Errorf(fault.Internal, "a runtime was given an identity by somebody else")
}

// certificate is the CA's, with a number that grows with each new CA.
func (t *trust) certificate() (pem []byte, number uint64) {
	ca, _ := t.parts()
	if ca == nil {
		return nil, 0
	}
	return ca.CertPEM(), uint64(ca.Made().Unix()) //nolint:gosec // after 1970
}
