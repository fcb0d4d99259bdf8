package estate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/store"
)

// ApplyRequest is one estate, plans, or both.
type ApplyRequest struct {
	Bundles []plans.Bundle `json:"bundles"`
	By      string         `json:"by"`
	// DryRun only says what would change.
	DryRun bool `json:"dry_run,omitempty"`
	// Base is the revision the shown difference was made against; another one
	// now is refused. Nil: whatever there is.
	Base *uint64 `json:"base,omitempty"`
}

// ApplyResult is what changed and which agents have it.
type ApplyResult struct {
	Diff    Diff   `json:"diff"`
	Applied bool   `json:"applied"` // false: a dry run, or nothing to change
	Pushes  []Push `json:"pushes,omitempty"`
	// Warnings are plans that do not agree with the estate any more, or that
	// ask for what this version does not do.
	Warnings []string `json:"warnings,omitempty"`
}

// Apply stores an estate and plans in one transaction and then gives the
// agents their assignments. A host that does not answer is listed in the
// result, not an error: it gets its part at the next contact.
func (c *Catalogue) Apply(ctx context.Context, req ApplyRequest) (*ApplyResult, error) {
	c.applying.Lock()
	defer c.applying.Unlock()
	l, err := c.load(req.Bundles)
	if err != nil {
		return nil, err
	}
	p, err := c.propose(ctx, l, req.By)
	if err != nil {
		return nil, err
	}
	res := &ApplyResult{Diff: p.diff, Warnings: p.warnings}
	if req.DryRun {
		return res, nil
	}
	if req.Base != nil && *req.Base != p.diff.Base {
		return nil, fault.Errorf(fault.Conflict, "the estate is at revision %d now, the difference was shown for %d", p.diff.Base, *req.Base).
			WithHint("apply again to see the new difference")
	}
	if len(p.diff.Blocked) > 0 {
		return nil, fault.Errorf(fault.Refused, "cannot apply: %s", p.diff.Blocked[0]).WithHint("%s", blockedHint(p.diff.Blocked))
	}
	if err := c.guarded(ctx); err != nil {
		return nil, err
	}
	if !p.diff.Empty() || p.changed {
		if err := c.trust.Ensure(p.revision.Estate.Name); err != nil {
			return nil, fmt.Errorf("cannot make the estate's certificate authority: %w", err)
		}
		if err := c.commit(ctx, p); err != nil {
			return nil, fmt.Errorf("cannot store the estate: %w", err)
		}
		res.Applied = true
	}
	res.Pushes, err = c.Push(ctx)
	return res, err
}

func blockedHint(blocked []string) string {
	if len(blocked) == 1 {
		return "nothing was changed"
	}
	return fmt.Sprintf("nothing was changed; %d reasons in all, drrun apply --dry-run lists them", len(blocked))
}

// proposal is everything one apply writes.
type proposal struct {
	// currentRev and recordsRev are the store revisions of what it was made
	// against; 0: absent.
	currentRev, recordsRev int64

	diff     Diff
	revision Revision // the next one, or the current one where only plans change
	newer    bool     // revision is to be written
	changed  bool     // records change though no object of the files does
	records  []Record // to be written
	plans    []Applied
	warnings []string
	again    []string // machines that were protected before
}

// propose works out what applying changes. It writes nothing.
func (c *Catalogue) propose(ctx context.Context, l *loaded, by string) (*proposal, error) {
	now := c.clock.Now().UTC()
	current, rev, err := get[Revision](ctx, c.store, keyCurrent)
	if err != nil {
		return nil, err
	}
	if rev == 0 && l.estate == nil {
		return nil, errNothingApplied()
	}
	p := &proposal{currentRev: rev, revision: current}
	e := current.Estate
	if l.estate != nil {
		e = l.estate
		if current.Estate != nil && current.Estate.Name != e.Name {
			return nil, fault.Errorf(fault.Refused, "the applied estate is %q, this file is %q", current.Estate.Name, e.Name).
				WithHint("another estate needs another state folder: --state DIR")
		}
	}
	p.diff = Diff{Estate: e.Name, Base: current.Number, Next: current.Number}
	records, rev, err := get[map[string]Record](ctx, c.store, keyRecords)
	if err != nil {
		return nil, err
	}
	p.recordsRev = rev
	if l.estate != nil {
		if err := c.proposeEstate(ctx, p, l, current, records, by, now); err != nil {
			return nil, err
		}
	}
	if err := c.proposePlans(ctx, p, l, e, by, now); err != nil {
		return nil, err
	}
	return p, nil
}

// proposeEstate adds the estate's part: its difference, the next revision and
// the records of its machines.
func (c *Catalogue) proposeEstate(ctx context.Context, p *proposal, l *loaded, current Revision, records map[string]Record, by string, now time.Time) error {
	p.diff.Changes = diffEstates(current.Estate, l.estate)
	if len(p.diff.Changes) > 0 || current.Estate == nil {
		p.diff.Next = current.Number + 1
		p.revision = Revision{Number: p.diff.Next, Hash: plans.Hash(l.estate), At: now, By: by, Estate: l.estate, Bundle: l.estateBundle}
		p.newer = true
	}
	load := map[string]int{}
	for _, r := range records {
		load[r.Replica]++
	}
	var errs []error
	var free freeSpace
	ended, _, err := c.ended(ctx)
	if err != nil {
		return err
	}
	inFile := map[string]bool{}
	for _, m := range l.estate.Machines {
		if !m.Protected {
			continue
		}
		inFile[m.Name] = true
		r, known := records[m.Name]
		if known {
			p.diff.Blocked = append(p.diff.Blocked, moved(l.estate, m, &r)...)
			if len(p.diff.Blocked) > 0 {
				continue
			}
		} else {
			replica, err := c.chooseReplica(ctx, l.estate, m, load, &free)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			home := places(l.estate)[m.Host].site
			was, once := ended[m.Name]
			if once {
				if why := was.elsewhere(home); why != "" {
					p.diff.Blocked = append(p.diff.Blocked, why)
					continue
				}
			}
			load[replica]++
			r = newRecord(m, home, replica, now)
			if once {
				was.again(&r)
				p.again = append(p.again, m.Name)
			}
			p.note("machine", m.Name, "replica on host "+replica)
		}
		r.addDisks(m)
		a, err := assignment(l.estate, m, &r, p.revision.Number)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !known || r.Left || !sameAssignment(a, r.Last) {
			r.Last, r.Left = a, false
			p.records, p.changed = append(p.records, r), true
		}
	}
	for name, r := range records {
		if inFile[name] {
			continue
		}
		p.diff.Blocked = append(p.diff.Blocked, leftBehind(l.estate, &r)...)
		p.left(name, r)
	}
	return joinInvalid(errs)
}

// leftBehind lists the hosts that a machine which left the file still needs.
func leftBehind(e *plans.Estate, r *Record) []string {
	var out []string
	at := places(e)
	for _, h := range r.hosts() {
		if _, ok := at[h]; !ok {
			out = append(out, fmt.Sprintf("host %s left the estate and still holds machine %s: drrun unprotect %s first", h, r.Machine, r.Machine))
		}
	}
	return out
}

// left marks a machine that is not in the file any more (or protected = false):
// it stays protected until somebody says otherwise.
func (p *proposal) left(name string, r Record) {
	note := "still protected: drrun unprotect " + name
	if !p.note("machine", name, note) {
		p.diff.Changes = append(p.diff.Changes, Change{Kind: "machine", Name: name, Action: Gone, Note: note})
	}
	if !r.Left {
		r.Left = true
		p.records, p.changed = append(p.records, r), true
	}
}

// note sets the note of a listed change; false if there is none.
func (p *proposal) note(kind, name, note string) bool {
	i := slices.IndexFunc(p.diff.Changes, func(c Change) bool { return c.Kind == kind && c.Name == name })
	if i < 0 {
		return false
	}
	p.diff.Changes[i].Note = note
	return true
}

// proposePlans adds the plans, checked against the estate as it will be.
func (c *Catalogue) proposePlans(ctx context.Context, p *proposal, l *loaded, e *plans.Estate, by string, now time.Time) error {
	var errs []error
	given := map[string]bool{}
	for _, a := range l.plans {
		given[a.Name] = true
		errs = append(errs, plans.Check(a.Plan, e))
		was, err := c.Plan(ctx, a.Name)
		switch {
		case err == nil && was.Hash == a.Hash:
			continue
		case err == nil:
			p.diff.Changes = append(p.diff.Changes, Change{Kind: "plan", Name: a.Name, Action: Changed,
				Fields: []Field{{Name: "source", Old: was.Hash[:12], New: a.Hash[:12]}}, Lines: diffSources(was.Bundle, a.Bundle)})
		case fault.Is(err, fault.NotFound):
			p.diff.Changes = append(p.diff.Changes, Change{Kind: "plan", Name: a.Name, Action: Added,
				Fields: []Field{{Name: "from", New: a.Plan.From}, {Name: "to", New: a.Plan.To}}})
		default:
			return err
		}
		a.At, a.By = now, by
		p.plans = append(p.plans, a)
	}
	applied, err := c.Plans(ctx)
	if err != nil {
		return err
	}
	for _, a := range applied {
		if given[a.Name] || a.Plan == nil {
			continue
		}
		if err := plans.Check(a.Plan, e); err != nil {
			p.warnings = append(p.warnings, fmt.Sprintf("plan %s does not agree with this estate: %v", a.Name, err))
		}
	}
	return joinInvalid(errs)
}

// commit writes a proposal in one transaction, if the estate and the records
// are still those it was made against.
func (c *Catalogue) commit(ctx context.Context, p *proposal) error {
	_, currentRev, err := get[Revision](ctx, c.store, keyCurrent)
	if err != nil {
		return err
	}
	records, recordsRev, err := get[map[string]Record](ctx, c.store, keyRecords)
	if err != nil {
		return err
	}
	if currentRev != p.currentRev || recordsRev != p.recordsRev {
		return errChangedMeanwhile()
	}
	txn := store.Txn{If: []store.Cmp{{Key: keyCurrent, ModRev: currentRev}, {Key: keyRecords, ModRev: recordsRev}}}
	put := func(key string, v any) error {
		op, err := encode(key, v)
		txn.Then = append(txn.Then, op)
		return err
	}
	var errs []error
	if p.newer {
		errs = append(errs, put(keyCurrent, p.revision))
	}
	if len(p.records) > 0 {
		if records == nil {
			records = map[string]Record{}
		}
		for _, r := range p.records {
			records[r.Machine] = r
		}
		errs = append(errs, put(keyRecords, records))
	}
	for _, a := range p.plans {
		errs = append(errs, put(keyPlan+a.Name, a))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if len(p.again) > 0 {
		was, op, err := c.endedOp(ctx, func(all map[string]Ended) {
			for _, m := range p.again {
				delete(all, m)
			}
		})
		if err != nil {
			return err
		}
		txn.If, txn.Then = append(txn.If, was), append(txn.Then, op)
	}
	_, ok, err := c.store.Txn(ctx, txn)
	if err == nil && !ok {
		err = errChangedMeanwhile()
	}
	return err
}

func errChangedMeanwhile() error {
	return fault.Errorf(fault.Conflict, "the estate was changed by another command").WithHint("apply again to see the new difference")
}
