package estate

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/store"
)

// Push is the outcome of bringing one host up to date.
type Push struct {
	Host     string   `json:"host"`
	Machines []string `json:"machines"` // whose assignment it got now
	// Error says why it has not got all of it; what is missing stays noted and
	// is sent at the next contact.
	Error *fault.Error `json:"error,omitempty"`
	// Pending are the machines it still has to be told about.
	Pending []string `json:"pending,omitempty"`
}

// sameAssignment compares two assignments but for the revision they came from.
func sameAssignment(a, b recovery.Assignment) bool {
	return contentHash(a) == contentHash(b)
}

// contentHash identifies what an assignment says, whatever its revision.
func contentHash(a recovery.Assignment) string {
	a.Revision = 0
	return plans.Hash(a)
}

// todo is what one host has to be told.
type todo struct {
	host     string
	assign   []Record
	start    []Record // at home for the first time, when it has its assignment
	unassign map[string]bool
}

// Pending returns what each host still has to be told, by host name: machines
// whose assignment or end of protection has not reached it.
func (c *Catalogue) Pending(ctx context.Context) (map[string][]string, error) {
	work, err := c.work(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for _, t := range work {
		out[t.host] = t.machines()
	}
	return out, nil
}

func (t *todo) machines() []string {
	names := slices.Collect(maps.Keys(t.unassign))
	for _, r := range slices.Concat(t.assign, t.start) {
		names = append(names, r.Machine)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// work lists what is not done yet, in order of hosts.
func (c *Catalogue) work(ctx context.Context) ([]todo, error) {
	records, err := c.Records(ctx)
	if err != nil {
		return nil, err
	}
	hosts := map[string]*todo{}
	at := func(h string) *todo {
		if hosts[h] == nil {
			hosts[h] = &todo{host: h}
		}
		return hosts[h]
	}
	known := map[string]HostRecord{}
	for kv, err := range c.store.List(ctx, keyHost) {
		if err != nil {
			return nil, err
		}
		var h HostRecord
		if err := json.Unmarshal(kv.Value, &h); err != nil {
			return nil, fault.Errorf(fault.Corrupt, "cannot read %s in the state: %w", kv.Key, err)
		}
		name := kv.Key[len(keyHost):]
		known[name] = h
		if len(h.Unassign) > 0 {
			at(name).unassign = h.Unassign
		}
	}
	for _, name := range slices.Sorted(maps.Keys(records)) {
		r := records[name]
		for _, h := range r.hosts() {
			if known[h].Acked[name] != contentHash(r.Last) {
				at(h).assign = append(at(h).assign, r)
			}
			if h == r.Home && r.Boot && !known[h].Started[name] {
				at(h).start = append(at(h).start, r)
			}
		}
	}
	out := make([]todo, 0, len(hosts))
	for _, h := range slices.Sorted(maps.Keys(hosts)) {
		out = append(out, *hosts[h])
	}
	return out, nil
}

// Push tells every host what it does not know yet, hosts in parallel. Its error
// is of the state; hosts that do not answer are in the result.
func (c *Catalogue) Push(ctx context.Context) ([]Push, error) {
	c.pushing.Lock()
	defer c.pushing.Unlock()
	return c.push(ctx)
}

// pushUnlessBusy is Push for callers who do not wait for one that is under way.
func (c *Catalogue) pushUnlessBusy(ctx context.Context) error {
	if !c.pushing.TryLock() {
		return nil
	}
	defer c.pushing.Unlock()
	_, err := c.push(ctx)
	return err
}

func (c *Catalogue) push(ctx context.Context) ([]Push, error) {
	work, err := c.work(ctx)
	if err != nil || len(work) == 0 {
		return []Push{}, err
	}
	out := make([]Push, len(work))
	if err := c.guarded(ctx); err != nil {
		for i, t := range work {
			out[i] = Push{Host: t.host, Machines: []string{}, Error: fault.Wrap(fault.Refused, err), Pending: t.machines()}
		}
		return out, nil
	}
	var wg sync.WaitGroup
	for i, t := range work {
		wg.Go(func() { out[i] = c.pushHost(ctx, t) })
	}
	wg.Wait()
	return out, nil
}

// pushHost works one host's list off; it stops at the first failure that the
// next item would meet again.
func (c *Catalogue) pushHost(ctx context.Context, t todo) Push {
	p := Push{Host: t.host, Machines: []string{}}
	fail := func(machine string, err error) bool {
		e := fault.Wrap(fault.Unreachable, err)
		p.Error, p.Pending = e, append(p.Pending, machine)
		c.log.Warn("cannot bring a host up to date", "host", t.host, "machine", machine, "err", err)
		return e.Kind == fault.Unreachable
	}
	unreachable := false
	for _, machine := range slices.Sorted(maps.Keys(t.unassign)) {
		if unreachable {
			p.Pending = append(p.Pending, machine)
		} else if err := c.unassign(ctx, t.host, machine, t.unassign[machine]); err != nil {
			unreachable = fail(machine, err)
		}
	}
	for _, r := range t.assign {
		if unreachable {
			p.Pending = append(p.Pending, r.Machine)
		} else if err := c.assign(ctx, t.host, r); err != nil {
			unreachable = fail(r.Machine, err)
		} else {
			p.Machines = append(p.Machines, r.Machine)
		}
	}
	for _, r := range t.start {
		if unreachable || slices.Contains(p.Pending, r.Machine) {
			p.Pending = append(p.Pending, r.Machine)
		} else if err := c.startFirst(ctx, t.host, r); err != nil {
			unreachable = fail(r.Machine, err)
		}
	}
	slices.Sort(p.Pending)
	p.Pending = slices.Compact(p.Pending)
	return p
}

// startFirst starts a machine at home when it is protected for the first time:
// from then on its agent keeps it running, nothing else on the host starts it.
// One that runs already stays as it is.
func (c *Catalogue) startFirst(ctx context.Context, host string, r Record) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startWithin, noAnswer(host))
	defer cancel()
	req := command.StartRequest{Meta: command.Meta{Machine: r.Machine, Op: "protect/" + r.Machine + "/start", Epoch: r.First.Epoch}}
	_, err := command.Start.Call(ctx, c.caller, host, req)
	if err != nil && !fault.Is(err, fault.Conflict) { // conflict: it has a newer epoch, a run has decided where it runs
		return timeoutCause(ctx, fmt.Errorf("cannot start machine %s on host %s: %w", r.Machine, host, err))
	}
	return c.updateHost(ctx, host, func(h *HostRecord) error {
		if h.Started == nil {
			h.Started = map[string]bool{}
		}
		h.Started[r.Machine] = true
		return nil
	})
}

// startWithin bounds the first start of a machine.
const startWithin = 30 * time.Second

func (c *Catalogue) assign(ctx context.Context, host string, r Record) error {
	ctx, cancel := context.WithTimeoutCause(ctx, askWithin, noAnswer(host))
	defer cancel()
	_, err := command.Assign.Call(ctx, c.caller, host, command.AssignRequest{Assignment: r.Last, Authority: r.First})
	if err != nil {
		return timeoutCause(ctx, fmt.Errorf("cannot give host %s machine %s: %w", host, r.Machine, err))
	}
	return c.updateHost(ctx, host, func(h *HostRecord) error {
		if h.Acked == nil {
			h.Acked = map[string]string{}
		}
		h.Acked[r.Machine] = contentHash(r.Last)
		return nil
	})
}

func (c *Catalogue) unassign(ctx context.Context, host, machine string, deleteReplica bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, askWithin, noAnswer(host))
	defer cancel()
	req := command.UnassignRequest{Meta: command.Meta{Machine: machine}, DeleteReplica: deleteReplica}
	_, err := command.Unassign.Call(ctx, c.caller, host, req)
	if err != nil && !fault.Is(err, fault.NotFound) { // not found: it has no part in the machine, as wanted
		return timeoutCause(ctx, fmt.Errorf("cannot end the protection of machine %s on host %s: %w", machine, host, err))
	}
	return c.updateHost(ctx, host, func(h *HostRecord) error {
		delete(h.Unassign, machine)
		delete(h.Acked, machine)
		delete(h.Started, machine)
		return nil
	})
}

// forgotten notes that a host which should have a machine does not know it (a
// new state folder): it gets its assignment again with the next push.
func (c *Catalogue) forgotten(ctx context.Context, host string, machines []string) error {
	return c.updateHost(ctx, host, func(h *HostRecord) error {
		for _, m := range machines {
			delete(h.Acked, m)
		}
		return nil
	})
}

// Unprotect ends the protection of a machine at both its hosts. A host that
// does not answer is told at the next contact. Where the machine was active is
// kept, for a later apply; once more, that is forgotten.
func (c *Catalogue) Unprotect(ctx context.Context, machine string, deleteReplica bool) (Unprotected, error) {
	c.applying.Lock()
	defer c.applying.Unlock()
	r, err := c.Record(ctx, machine)
	if fault.Is(err, fault.NotFound) {
		all, _, err := c.ended(ctx)
		if err != nil {
			return Unprotected{}, err
		}
		if e, was := all[machine]; was {
			return Unprotected{}, e.alreadyOver()
		}
	}
	if err != nil {
		return Unprotected{}, err
	}
	if err := c.guarded(ctx); err != nil {
		return Unprotected{}, err
	}
	ended, err := c.mayUnprotect(ctx, &r)
	if err != nil {
		return Unprotected{}, err
	}
	if err := c.endProtection(ctx, ended, deleteReplica); err != nil {
		return Unprotected{}, fmt.Errorf("cannot end the protection of machine %s: %w", machine, err)
	}
	u := Unprotected{Active: ended.Active}
	u.Pushes, err = c.Push(ctx)
	return u, err
}

// endProtection drops the record and notes, in the same transaction, where the
// machine was active and that both hosts have to be told.
func (c *Catalogue) endProtection(ctx context.Context, e Ended, deleteReplica bool) error {
	r := e.Record
	records, rev, err := get[map[string]Record](ctx, c.store, keyRecords)
	if err != nil {
		return err
	}
	delete(records, r.Machine)
	op, err := encode(keyRecords, records)
	if err != nil {
		return err
	}
	was, note, err := c.endedOp(ctx, func(all map[string]Ended) { all[r.Machine] = e })
	if err != nil {
		return err
	}
	txn := store.Txn{If: []store.Cmp{{Key: keyRecords, ModRev: rev}, was}, Then: []store.Op{op, note}}
	for _, host := range r.hosts() {
		hr, rev, err := get[HostRecord](ctx, c.store, keyHost+host)
		if err != nil {
			return err
		}
		if hr.Unassign == nil {
			hr.Unassign = map[string]bool{}
		}
		hr.Unassign[r.Machine] = deleteReplica
		if op, err = encode(keyHost+host, hr); err != nil {
			return err
		}
		txn.If = append(txn.If, store.Cmp{Key: keyHost + host, ModRev: rev})
		txn.Then = append(txn.Then, op)
	}
	_, ok, err := c.store.Txn(ctx, txn)
	if err == nil && !ok {
		err = errChangedMeanwhile()
	}
	return err
}
