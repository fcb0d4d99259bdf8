package estate

import (
	"context"
	"time"

	"github.com/drrun/drrun/internal/fault"
)

// TokenLife is how long a join token can be used.
const TokenLife = time.Hour

// Token is a fresh join token. Text is shown once and stored nowhere.
type Token struct {
	Host    string    `json:"host"`
	Text    string    `json:"token"`
	Expires time.Time `json:"expires"`
}

// NewToken makes a join token for a host of the estate; it replaces one that
// is outstanding.
func (c *Catalogue) NewToken(ctx context.Context, host string) (Token, error) {
	r, err := c.Current(ctx)
	if err != nil {
		return Token{}, err
	}
	if _, ok := r.Estate.Host(host); !ok {
		var names []string
		for _, h := range r.Estate.Hosts() {
			names = append(names, h.Name)
		}
		return Token{}, fault.Errorf(fault.NotFound, "no host %q in estate %s", host, r.Estate.Name).
			WithHint("hosts of the estate: %s", enumerate(names))
	}
	if err := c.trust.Ensure(r.Estate.Name); err != nil {
		return Token{}, err
	}
	return c.RecoverToken(ctx, host)
}

// RecoverToken is NewToken for a host that no estate names yet, because that is
// still to be recovered from it.
func (c *Catalogue) RecoverToken(ctx context.Context, host string) (Token, error) {
	text, hash, err := c.trust.NewToken(host)
	if err != nil {
		return Token{}, err
	}
	expires := c.clock.Now().UTC().Add(TokenLife).Truncate(time.Second)
	err = c.updateHost(ctx, host, func(h *HostRecord) error {
		h.Token = &TokenRecord{Hash: hash, Expires: expires}
		return nil
	})
	if err != nil {
		return Token{}, err
	}
	c.log.Info("join token made", "host", host, "expires", expires)
	return Token{Host: host, Text: text, Expires: expires}, nil
}

// TokenOpen reports whether a host has a token that can still be spent.
func (c *Catalogue) TokenOpen(ctx context.Context, host string) bool {
	h, err := c.Host(ctx, host)
	return err == nil && h.Token != nil && c.clock.Now().Before(h.Token.Expires)
}

// SpendToken verifies what a joining host showed against its outstanding token
// (matches compares with the stored hash) and spends it: of two that show the
// same token only one gets nil.
func (c *Catalogue) SpendToken(ctx context.Context, host string, matches func(hash string) bool) error {
	return c.updateHost(ctx, host, func(h *HostRecord) error {
		switch {
		case h.Token == nil:
			return fault.Errorf(fault.Refused, "host %s has no outstanding join token: it was used, or none was made", host).
				WithHint("drrun token %s", host)
		case !c.clock.Now().Before(h.Token.Expires):
			return fault.Errorf(fault.Refused, "the join token of host %s ended at %s", host, h.Token.Expires.Format(time.RFC3339)).
				WithHint("drrun token %s", host)
		case !matches(h.Token.Hash):
			return fault.Errorf(fault.Refused, "host %s joins with another token than the newest one made for it", host).
				WithHint("drrun token %s, and join with what it prints", host)
		}
		h.Token = nil
		return nil
	})
}

// Joined notes that a host has its certificate.
func (c *Catalogue) Joined(ctx context.Context, host string) error {
	now := c.clock.Now().UTC()
	err := c.updateHost(ctx, host, func(h *HostRecord) error {
		h.Joined = now
		h.Acked = nil // a host that joins (again) has an empty state
		return nil
	})
	if err == nil {
		c.log.Info("host joined", "host", host)
	}
	return err
}

// Rejoin notes that a host has to join again: the CA it was under is lost.
func (c *Catalogue) Rejoin(ctx context.Context, host string) error {
	return c.updateHost(ctx, host, func(h *HostRecord) error {
		h.Token, h.Joined, h.Acked = nil, time.Time{}, nil
		return nil
	})
}
