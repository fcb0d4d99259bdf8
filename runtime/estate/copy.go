package estate

import (
	"context"
	"encoding/json"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/plans"
)

// Keys of the catalogue in the store, for who copies them as they are (package
// runtime/copies).
const (
	Prefix     = "estate/"
	CurrentKey = keyCurrent
	HostPrefix = keyHost // + host
)

// LastingHost reduces the record of a host to what nobody could find out again:
// what was started there once, and what it still has to be told. nil: nothing.
func LastingHost(raw []byte) ([]byte, error) {
	var h HostRecord
	if err := json.Unmarshal(raw, &h); err != nil {
		return nil, fault.Errorf(fault.Corrupt, "cannot read the record of a host: %w", err)
	}
	if len(h.Started) == 0 && len(h.Unassign) == 0 {
		return nil, nil
	}
	return json.Marshal(HostRecord{Started: h.Started, Unassign: h.Unassign})
}

// RecoveredHost is the record of a host after a recovery: what lasting says (nil:
// nothing), with the token and the join that are known here (nil: none). What
// the host was told is not taken for granted: it is told again.
func RecoveredHost(lasting, here []byte) ([]byte, error) {
	var l, h HostRecord
	for raw, into := range map[*HostRecord][]byte{&l: lasting, &h: here} {
		if into == nil {
			continue
		}
		if err := json.Unmarshal(into, raw); err != nil {
			return nil, fault.Errorf(fault.Corrupt, "cannot read the record of a host: %w", err)
		}
	}
	l.Token, l.Joined, l.Acked = h.Token, h.Joined, nil
	return json.Marshal(l)
}

// AppliedIn describes the estate in a value of CurrentKey.
func AppliedIn(raw []byte) (e *plans.Estate, revision uint64, at time.Time, err error) {
	var r Revision
	if err := json.Unmarshal(raw, &r); err != nil || r.Estate == nil {
		return nil, 0, time.Time{}, fault.Errorf(fault.Corrupt, "cannot read the estate")
	}
	return r.Estate, r.Number, r.At, nil
}

// guarded refuses to act where agents hold something newer than this state.
func (c *Catalogue) guarded(ctx context.Context) error {
	if c.guard == nil {
		return nil
	}
	return c.guard(ctx)
}

// JoinedHost notes in the record of a host (nil: none yet) that it has joined.
func JoinedHost(raw []byte, now time.Time) ([]byte, error) {
	var h HostRecord
	if raw != nil {
		if err := json.Unmarshal(raw, &h); err != nil {
			return nil, fault.Errorf(fault.Corrupt, "cannot read the record of a host: %w", err)
		}
	}
	if h.Joined.IsZero() {
		h.Joined = now
	}
	return json.Marshal(h)
}
