package estate

import (
	"context"
	"fmt"
	"maps"
	"time"

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
		"Make a host of that site its home; or make sure that it runs nowhere else, then: drrun unprotect %[1]s once more, and apply",
		e.Record.Machine, where, e.At.Format(time.RFC3339), home)
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

// forget drops what is known of a machine whose protection has ended. It
// reports false if nothing is.
func (c *Catalogue) forget(ctx context.Context, machine string) (bool, error) {
	known := false
	cmp, op, err := c.endedOp(ctx, func(all map[string]Ended) {
		_, known = all[machine]
		delete(all, machine)
	})
	if err != nil || !known {
		return false, err
	}
	_, ok, err := c.store.Txn(ctx, store.Txn{If: []store.Cmp{cmp}, Then: []store.Op{op}})
	if err == nil && !ok {
		err = errChangedMeanwhile()
	}
	return true, err
}
