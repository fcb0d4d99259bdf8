package estate

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/store"
)

// Keys of the catalogue in the store. All values are JSON.
const (
	keyCurrent = "estate/current" // Revision
	keyRecords = "estate/records" // map[machine]Record: one value, so that one apply is one transaction
	keyHost    = "estate/host/"   // + host: HostRecord
	keyPlan    = KeyPlans         // + name: Applied
)

// KeyPlans is the prefix of the applied plans in the store, for those that wait
// for a change.
const KeyPlans = "estate/plan/"

// HostRecord is what the runtime knows of an agent beside the estate.
type HostRecord struct {
	Token  *TokenRecord `json:"token,omitempty"`
	Joined time.Time    `json:"joined,omitzero"`
	// Acked maps a machine to the hash of the assignment the host has.
	Acked map[string]string `json:"acked,omitempty"`
	// Started are the machines that were started here when they were first
	// protected.
	Started map[string]bool `json:"started,omitempty"`
	// Unassign lists machines whose protection ended and which the host has
	// not been told yet; true: their replica is to be deleted.
	Unassign map[string]bool `json:"unassign,omitempty"`
}

// TokenRecord is an outstanding join token. The secret is not in it.
type TokenRecord struct {
	Hash    string    `json:"hash"`
	Expires time.Time `json:"expires"`
}

// get reads a key; rev 0 and the zero value if it is absent.
func get[T any](ctx context.Context, s store.Store, key string) (v T, rev int64, err error) {
	kv, err := s.Get(ctx, key)
	if fault.Is(err, fault.NotFound) {
		return v, 0, nil
	}
	if err != nil {
		return v, 0, err
	}
	if err := json.Unmarshal(kv.Value, &v); err != nil {
		return v, 0, fault.Errorf(fault.Corrupt, "cannot read %s in the state: %w", key, err)
	}
	return v, kv.ModRev, nil
}

func encode(key string, v any) (store.Op, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return store.Op{}, fault.Errorf(fault.Internal, "cannot write %s: %w", key, err)
	}
	return store.Op{Key: key, Value: data}, nil
}

// updateHost changes a host's record; change may run again when another change
// came between, and writes nothing when it returns an error.
func (c *Catalogue) updateHost(ctx context.Context, host string, change func(*HostRecord) error) error {
	key := keyHost + host
	for {
		r, rev, err := get[HostRecord](ctx, c.store, key)
		if err != nil {
			return err
		}
		if err := change(&r); err != nil {
			return err
		}
		op, err := encode(key, r)
		if err != nil {
			return err
		}
		_, ok, err := c.store.Txn(ctx, store.Txn{If: []store.Cmp{{Key: key, ModRev: rev}}, Then: []store.Op{op}})
		if err != nil || ok {
			return err
		}
	}
}

// Host returns what is known of an agent; the zero record if nothing is.
func (c *Catalogue) Host(ctx context.Context, host string) (HostRecord, error) {
	r, _, err := get[HostRecord](ctx, c.store, keyHost+host)
	return r, err
}

// Current returns the applied estate; fault.Refused if there is none.
func (c *Catalogue) Current(ctx context.Context) (Revision, error) {
	r, rev, err := get[Revision](ctx, c.store, keyCurrent)
	if err == nil && rev == 0 {
		err = errNothingApplied()
	}
	return r, err
}

func errNothingApplied() error {
	return fault.Errorf(fault.Refused, "no estate is applied yet").WithHint("drrun apply estate.lua")
}

// Records returns every protected machine by name, those that left the file
// too.
func (c *Catalogue) Records(ctx context.Context) (map[string]Record, error) {
	all, _, err := get[map[string]Record](ctx, c.store, keyRecords)
	return all, err
}

// Record returns what a protected machine has; fault.NotFound names those
// there are.
func (c *Catalogue) Record(ctx context.Context, machine string) (Record, error) {
	all, err := c.Records(ctx)
	if err != nil {
		return Record{}, err
	}
	if r, ok := all[machine]; ok {
		return r, nil
	}
	e := fault.Errorf(fault.NotFound, "no machine %q is protected", machine)
	if len(all) == 0 {
		return Record{}, e.WithHint("drrun apply estate.lua")
	}
	return Record{}, e.WithHint("protected machines: %s", enumerate(slices.Sorted(maps.Keys(all))))
}

// enumerate lists names for a hint, not more than a line holds.
func enumerate(names []string) string {
	if len(names) > 12 {
		return strings.Join(names[:12], ", ") + fmt.Sprintf(" and %d more", len(names)-12)
	}
	return strings.Join(names, ", ")
}

// Plan returns an applied plan; fault.NotFound lists what there is.
func (c *Catalogue) Plan(ctx context.Context, name string) (Applied, error) {
	p, rev, err := get[Applied](ctx, c.store, keyPlan+name)
	if err != nil || rev != 0 {
		return p, err
	}
	all, err := c.Plans(ctx)
	if err != nil {
		return p, err
	}
	e := fault.Errorf(fault.NotFound, "no plan %q is applied", name)
	if len(all) == 0 {
		return p, e.WithHint("drrun apply FILE, or name a .lua file")
	}
	names := make([]string, 0, len(all))
	for _, a := range all {
		names = append(names, a.Name)
	}
	return p, e.WithHint("applied plans: %s", enumerate(names))
}

// Plans returns the applied plans in order of their names.
func (c *Catalogue) Plans(ctx context.Context) ([]Applied, error) {
	var out []Applied
	for kv, err := range c.store.List(ctx, keyPlan) {
		if err != nil {
			return nil, err
		}
		var p Applied
		if err := json.Unmarshal(kv.Value, &p); err != nil {
			return nil, fault.Errorf(fault.Corrupt, "cannot read %s in the state: %w", kv.Key, err)
		}
		out = append(out, p)
	}
	return out, nil
}

// HostAddress returns where an agent listens, for dialling.
func (c *Catalogue) HostAddress(ctx context.Context, host string) (addr string, ok bool) {
	p, ok := c.place(ctx, host)
	return p.AddrPort(), ok
}

// HostSite returns the site of a host of the estate.
func (c *Catalogue) HostSite(ctx context.Context, host string) (site string, ok bool) {
	p, ok := c.place(ctx, host)
	return p.site, ok
}

func (c *Catalogue) place(ctx context.Context, host string) (place, bool) {
	r, err := c.Current(ctx)
	if err != nil {
		return place{}, false
	}
	p, ok := places(r.Estate)[host]
	return p, ok
}

// AppliedEstate returns the estate and its revision, for the engine.
func (c *Catalogue) AppliedEstate(ctx context.Context) (*plans.Estate, uint64, error) {
	r, err := c.Current(ctx)
	return r.Estate, r.Number, err
}

// AppliedPlan returns the sources of a plan, for the engine.
func (c *Catalogue) AppliedPlan(ctx context.Context, name string) (plans.Bundle, error) {
	p, err := c.Plan(ctx, name)
	return p.Bundle, err
}

// Assignment returns what the agents of a machine were given, for the engine.
func (c *Catalogue) Assignment(ctx context.Context, machine string) (recovery.Assignment, error) {
	r, err := c.Record(ctx, machine)
	return r.Last, err
}
