package runtime

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/state"
)

// letGoWithin is how long a host may take to hear that a run lets a machine go.
const letGoWithin = 5 * time.Second

// An unplanned run may rely on a person's word that the source is down, given
// long before the new site is granted the machine. A source that is back meanwhile
// would start it as soon as the new site's host confirms its record: so from the
// claim on that host confirms it no more, until the run grants it or lets it go.

// untaken reports whether a failover grants a machine to its new site and has not
// yet, as far as anybody knows. Callers hold d.mu.
func (d *driver) untaken(machine string) bool {
	grants := func(st *state.Step) bool { return st.Kind == program.Grant }
	return d.st.Main().Section == program.SectionFailover && slices.ContainsFunc(d.st.Of(machine), grants) && d.authorityLocked(machine).Run != d.id
}

// takesOver reports whether a claim at a host says that the run takes the machine
// over there. Callers hold d.mu.
func (d *driver) takesOver(machine, host string) bool {
	m, _ := d.st.Machine(machine)
	return d.st.Type == recovery.Unplanned && d.st.Section() == program.SectionFailover && m.ToHost == host && d.untaken(machine)
}

// takeover claims the machines of a planned run anew, before a person's word turns
// it: every new site's host must answer. undo lets them go, should the run stay
// what it is.
func (d *driver) takeover(ctx context.Context, o ResumeOptions) (undo func(), err error) {
	d.mu.Lock()
	_, err = d.asUnplanned(ctx, o)
	if err != nil || !d.claims() { // the claim is still to come
		d.mu.Unlock()
		return func() {}, err
	}
	machines, req := d.st.Main().Active(), d.claimRequest()
	machines = slices.DeleteFunc(machines, func(m program.Machine) bool { return !d.untaken(m.Name) })
	d.mu.Unlock()
	req.Takeover = true
	errs := d.claimAll(ctx, lookTimeout, machines, req)
	for i, m := range machines {
		if errs[i] != nil {
			err = fault.Errorf(fault.KindOf(errs[i]), "cannot take %s over to %s: %w", m.Name, m.ToHost, errs[i])
			if fault.Is(err, fault.Unreachable) {
				err = fault.Errorf(fault.Unreachable, "%w", err).WithHint("start the agent on %s, then ask again", m.ToHost)
			}
			break
		}
	}
	return func() {
		req.Takeover, req.LetGo = false, true
		d.claimAll(context.WithoutCancel(ctx), letGoWithin, machines, req)
	}, err
}

// leaves are the machines that an unplanned run has claimed for itself and will not
// fail over any more once it goes on behind the failover, and the claim that says so.
// Callers hold d.mu.
func (d *driver) leaves() ([]program.Machine, command.ClaimRequest) {
	req := d.claimRequest()
	req.LetGo = true
	if st := d.st.Steps["claim"]; d.st.Type != recovery.Unplanned || st == nil || st.Attempt == 0 {
		return nil, req
	}
	maybe := d.st.GrantedSet() // where nobody knows it is asked for again
	return slices.DeleteFunc(d.st.Main().Active(), func(m program.Machine) bool { return maybe[m.Name] || !d.untaken(m.Name) }), req
}

// claimAway lets machines go, and returns what a person has to know of hosts that do
// not hear of it.
func (d *driver) claimAway(ctx context.Context, machines []program.Machine, req command.ClaimRequest) (notes []string) {
	for i, err := range d.claimAll(ctx, letGoWithin, machines, req) {
		if m := machines[i]; fault.Is(err, fault.Unreachable) { // one that refuses knows a claim that came later
			notes = append(notes, fmt.Sprintf("%s does not answer (%v): it confirms %s to %s no more until another run claims it; if it is not started there: drrun-agent permit %[3]s on %[4]s",
				m.ToHost, err, m.Name, m.FromHost))
		}
	}
	return notes
}

// letGo lets the machines go that the run leaves behind with the failover, before
// what follows it begins. Callers hold d.mu, which is free while hosts are asked;
// false: somebody was quicker, and what was to follow has to be looked at anew.
func (d *driver) letGo() bool {
	machines, req := d.leaves()
	if len(machines) == 0 {
		return true
	}
	seq := d.st.Seq
	d.mu.Unlock()
	notes := d.claimAway(context.WithoutCancel(d.e.ctx), machines, req)
	d.mu.Lock()
	if d.st.Seq != seq || d.parked || d.dead != nil {
		return false
	}
	for _, text := range notes {
		d.noteDown(state.Record{Kind: state.Noted, Text: text})
	}
	return true
}

// withLetGo is with for what follows the failover when a person says so. The
// machines are let go behind it, when no lock is held.
func (e *Engine) withLetGo(ctx context.Context, id, by, op string, f func(*driver) error) error {
	var d *driver
	err := e.with(ctx, id, by, op, func(of *driver) error {
		d = of
		return f(of)
	})
	if err != nil {
		return err
	}
	d.mu.Lock()
	machines, req := d.leaves()
	d.mu.Unlock()
	notes := d.claimAway(context.WithoutCancel(ctx), machines, req)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, text := range notes {
		if d.st.Status.Ended() {
			e.log.Warn("a machine is not let go", "run", d.id, "cause", text)
			continue
		}
		d.noteDown(state.Record{Kind: state.Noted, Text: text})
	}
	return nil
}

// claimRequest is a claim of the run; the machine and the operation are filled in.
func (d *driver) claimRequest() command.ClaimRequest {
	return command.ClaimRequest{Meta: command.Meta{Op: fmt.Sprintf("%s/claim/%d", d.id, d.st.Seq), Fence: d.st.Fence, Run: d.id}}
}

// claimAll claims machines at their new site's hosts and returns an error for each;
// a host that was silent once is not asked again.
func (d *driver) claimAll(ctx context.Context, within time.Duration, machines []program.Machine, req command.ClaimRequest) []error {
	errs := make([]error, len(machines))
	silent := map[string]error{}
	var mu sync.Mutex // of silent
	sideBySide(len(machines), atOnce, func(i int) {
		m := machines[i]
		mu.Lock()
		errs[i] = silent[m.ToHost]
		mu.Unlock()
		if errs[i] != nil {
			return
		}
		if errs[i] = d.claimAt(ctx, within, m.Name, m.ToHost, req); fault.Is(errs[i], fault.Unreachable) {
			mu.Lock()
			defer mu.Unlock()
			silent[m.ToHost] = errs[i]
		}
	})
	return errs
}

// claimAt claims a machine at one host, once. No answer in time is
// fault.Unreachable.
func (d *driver) claimAt(ctx context.Context, within time.Duration, machine, host string, req command.ClaimRequest) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	req.Machine = machine
	req.Op += "/" + machine
	_, err := command.Claim.Call(ctx, d.e.caller, host, req)
	if err != nil && ctx.Err() != nil {
		err = fault.Wrap(fault.Unreachable, err)
	}
	return err
}
