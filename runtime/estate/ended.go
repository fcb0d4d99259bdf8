package estate

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/runtime/store"
)

// keyEnded holds map[machine]Ended.
const keyEnded = "estate/ended"

// Ended is a machine whose protection has ended: what has to be known when it
// is protected again, so that it never runs at two sites.
type Ended struct {
	Record Record      `json:"record"`
	Active string      `json:"active,omitempty"` // the site that could run it; "": no agent said
	Epoch  ident.Epoch `json:"epoch"`
	At     time.Time   `json:"at"`
}

// Unprotected is what became of a machine whose protection has ended.
type Unprotected struct {
	Active string `json:"active,omitempty"` // the site where it was active; "": no agent said
	// Forgotten: it was not protected any more; what was known of its last life
	// is gone.
	Forgotten bool   `json:"forgotten,omitempty"`
	Pushes    []Push `json:"pushes,omitempty"`
}

// ended returns the machines that were protected once, and the revision of
// that.
func (c *Catalogue) ended(ctx context.Context) (map[string]Ended, int64, error) {
	all, rev, err := get[map[string]Ended](ctx, c.store, keyEnded)
	if all == nil {
		all = map[string]Ended{}
	}
	return all, rev, err
}

// elsewhere says why the machine cannot be protected from a site; "": it can.
func (e Ended) elsewhere(home string) string {
	where := fmt.Sprintf("it was active at %s", e.Active)
	switch e.Active {
	case home:
		return ""
	case "":
		where = "no agent said where it was active"
	}
	return fmt.Sprintf("machine %[1]s: %[2]s when its protection ended (%[3]s): started at %[4]s it might run at two sites. "+
		"Make a host of that site its home; or make sure that it runs nowhere else, then: drrun unprotect %[1]s --runs-nowhere, and apply",
		e.Record.Machine, where, e.At.Format(time.RFC3339), home)
}

// alreadyOver refuses to end a protection that has ended.
func (e Ended) alreadyOver() error {
	where := "it was active at " + e.Active
	if e.Active == "" {
		where = "no agent said where it was active"
	}
	return fault.Errorf(fault.Refused, "machine %s is not protected any more since %s; %s then", e.Record.Machine, e.At.Format(time.RFC3339), where).
		WithHint("drrun apply protects it again from the site where it was active; if you know that it runs nowhere: drrun unprotect %s --runs-nowhere lets any site start it", e.Record.Machine)
}

// again gives a record the identities of its earlier life, so that its replica
// is compared and not begun anew, and an epoch above that.
func (e Ended) again(r *Record) {
	r.Disks = maps.Clone(e.Record.Disks)
	r.First.Epoch = e.Epoch + 1
}

// endedOp adds machines to those that have ended, or takes them off.
func (c *Catalogue) endedOp(ctx context.Context, change func(map[string]Ended)) (store.Cmp, store.Op, error) {
	all, rev, err := c.ended(ctx)
	if err != nil {
		return store.Cmp{}, store.Op{}, err
	}
	change(all)
	op, err := encode(keyEnded, all)
	return store.Cmp{Key: keyEnded, ModRev: rev}, op, err
}

// Forget drops what is known of a machine whose protection has ended: whoever
// asks states that it runs nowhere, so that any site may start it. A machine
// that is protected is refused.
func (c *Catalogue) Forget(ctx context.Context, machine string) (Unprotected, error) {
	c.applying.Lock()
	defer c.applying.Unlock()
	known := false
	cmp, op, err := c.endedOp(ctx, func(all map[string]Ended) {
		_, known = all[machine]
		delete(all, machine)
	})
	if err != nil {
		return Unprotected{}, err
	}
	if !known {
		if _, err := c.Record(ctx, machine); err != nil {
			return Unprotected{}, err
		}
		return Unprotected{}, fault.Errorf(fault.Refused, "machine %s is protected: where it may run is known, and stays so", machine).
			WithHint("drrun status %s; drrun unprotect %[1]s ends its protection", machine)
	}
	_, ok, err := c.store.Txn(ctx, store.Txn{If: []store.Cmp{cmp}, Then: []store.Op{op}})
	if err == nil && !ok {
		err = errChangedMeanwhile()
	}
	return Unprotected{Forgotten: true}, err
}
