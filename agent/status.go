package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/drrun/drrun/agent/provider"
	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/agent/source"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/internal/recovery"
)

// Status reports everything the agent knows, of one machine if it is named. A
// machine that is not assigned here is no error: there is nothing to report.
func (a *Agent) Status(ctx context.Context, req command.StatusRequest) (command.AgentStatus, error) {
	p := a.self()
	st := command.AgentStatus{
		Host: p.Host, Site: p.Site, Estate: p.Estate, Version: a.o.Version,
		Now: a.o.Clock.Now().UTC(), Boot: a.boot(), Store: a.o.Store, Machines: []command.MachineStatus{},
	}
	for _, m := range a.all() {
		if h, ok := m.assignment().Host(p.Host); ok && st.Store == "" {
			st.Store = h.Store
		}
		if wanted(req, m.name) {
			st.Machines = append(st.Machines, m.status(ctx))
		}
	}
	if st.Store != "" {
		free, err := a.free(st.Store)
		if err != nil {
			a.log.Debug("free space of the store is not known", logkit.KeyError, err)
		}
		st.Free = free
	}
	return st, nil
}

// wanted reports whether a status is to have a machine.
func wanted(req command.StatusRequest, machine string) bool {
	switch {
	case req.Machine != "":
		return machine == req.Machine
	case len(req.Machines) > 0:
		return slices.Contains(req.Machines, machine)
	}
	return true
}

// free is the room where a store lies, or will lie when it is made.
func (a *Agent) free(store string) (int64, error) {
	for {
		n, err := a.o.FS.Free(store)
		parent := filepath.Dir(store)
		if err == nil || !errors.Is(err, fs.ErrNotExist) || parent == store {
			return n, err
		}
		store = parent
	}
}

// status reports what this host knows of the machine. It does not wait for
// cycles, only for the provider's answer.
func (m *machine) status(ctx context.Context) command.MachineStatus {
	rec := m.snapshot()
	power := m.state(ctx)
	st := command.MachineStatus{
		Machine: m.name, Host: m.a.host(), Site: m.a.site(), Role: rec.role(m.a.host()),
		Authority: rec.Authority, Fence: rec.Fence, Power: power.Power, PID: power.PID, Locked: rec.Locked,
		Tests: slices.Sorted(maps.Keys(rec.Tests)), TestsInfo: m.testsInfo(ctx, &rec),
	}
	m.mu.Lock()
	src, rep, busy := m.src, m.rep, m.busyWith
	sendErr, roleErr, applyErr, startErr := m.sendErr, m.roleErr, m.applyErr, m.startErr
	frozen := m.thawErr != nil
	if frozen {
		startErr = "may stand still: " + m.thawErr.Error()
	}
	m.mu.Unlock()
	if st.Role != roleSource {
		sendErr = nil // of an earlier direction
	}
	if st.Role != roleTarget {
		applyErr = nil
	} else if power.Power == recovery.PowerStopped && !frozen && !rec.Authority.Uncommitted {
		startErr = "" // that it does not run at a replica's host is as it should be
	}
	if rep != nil {
		st.Tip, st.TipAge = m.received(rep)
		if doubt := rep.ClockDoubt(m.a.o.Clock.Now()); doubt != nil {
			st.Notes = append(st.Notes, fmt.Sprintf("%v on %s (%s)", doubt, m.a.host(), fault.Hint(doubt)))
		}
		st.Applied, st.Points = rep.Applied(), len(rep.Points())
		if run, point, ok := rep.Live(); ok && rec.Own {
			st.LiveRun, st.LivePoint = run, point.ID
		}
	}
	if src != nil && st.Role != roleTarget { // else of an earlier direction, on its way out
		m.reportSent(&rec, src, rep, &st)
	}
	if busy != nil {
		st.Progress = busy
	}
	if st.Lease = m.letStatus(&rec); st.Lease == nil {
		st.Lease = m.oweStatus(&rec)
	}
	st.Notes = append(st.Notes, m.leaseNotes(&rec, st.Lease)...)
	late := m.late(&rec, &st)
	st.State = lifeState(&rec, &st, m.a.site(), sendErr != nil || roleErr != nil || applyErr != nil || late != "" || rec.LeaseStop != nil)
	st.Reason = reason(&rec, m.a.site(), power, startErr, roleErr, sendErr, applyErr, late)
	return st
}

// received is the newest point here that the machine can go on from, and its age.
// What one site alone wrote is none: it says nothing about the machine now.
func (m *machine) received(rep *replica.Machine) (*recovery.Point, time.Duration) {
	tip, age, ok := rep.Tip()
	if ok && !tip.Diverged {
		return &tip, age
	}
	for _, p := range slices.Backward(rep.Points()) {
		if !p.Diverged {
			return &p, max(0, m.a.o.Clock.Now().Sub(p.Instant))
		}
	}
	return nil, 0
}

// reportSent reports what this host sends. The point under the overlay of an
// earlier run is what the first point is compared with: the host that receives
// since a reverse does not hold it, so it is not the machine's newest point.
func (m *machine) reportSent(rec *record, src *source.Machine, rep *replica.Machine, st *command.MachineStatus) {
	if st.Role == roleSource {
		st.Tip, st.TipAge = nil, 0 // of an earlier direction
	}
	src.Report(st)
	if st.Tip == nil || rep == nil {
		return
	}
	run, point, live := rep.Live()
	if live && point.ID == st.Tip.ID && run != rec.Authority.Run && !reclaimed(rec, rep) {
		st.Tip, st.TipAge = nil, 0
	}
}

// late says that the newest point is older than the policy allows.
func (m *machine) late(rec *record, st *command.MachineStatus) string {
	rpo := rec.Assignment.Policy.RPO
	if st.Role == roleNone || rpo <= 0 || st.Tip == nil || st.TipAge <= rpo || st.Tip.ID == rec.Final {
		return ""
	}
	return fmt.Sprintf("newest point is %s old, the policy's rpo is %s", quantity.FormatDuration(st.TipAge), quantity.FormatDuration(rpo))
}

// lifeState is the machine's place in its life, as this host sees it.
func lifeState(rec *record, st *command.MachineStatus, site string, troubled bool) recovery.MachineState {
	a := rec.Authority
	switch {
	case a.Uncommitted && a.Active == site && (!rec.Own || rec.Desired != recovery.PowerRunning && rec.LeaseStop == nil):
		return recovery.FailingOver
	case a.Uncommitted:
		return recovery.FailedOver
	case len(a.Direction) == 0 && a.Run != "":
		return recovery.Committed
	case len(a.Direction) == 0:
		return recovery.Unprotected
	case rec.Conflict != nil:
		return recovery.Degraded
	case st.Tip == nil && a.Run != "":
		return recovery.Reseeding
	case st.Tip == nil && troubled:
		return recovery.Degraded
	case st.Tip == nil:
		return recovery.Seeding
	case troubled:
		return recovery.Degraded
	}
	return recovery.Protected
}

// reason is the first thing that a person should know.
func reason(rec *record, site string, power provider.State, startErr string, roleErr, sendErr, applyErr error, late string) string {
	switch {
	case rec.Conflict != nil:
		return fmt.Sprintf("two records of epoch %d: %s here, %s at its peer", rec.Authority.Epoch, describe(rec.Authority), describe(*rec.Conflict))
	case startErr != "":
		return startErr
	case rec.LeaseStop != nil && rec.Obeys != nil:
		return leaseOver(rec)
	case power.Power == recovery.PowerUnknown && power.Why != "":
		return "it is not known whether the machine runs: " + power.Why
	case rec.Authority.Active == site && rec.Desired == recovery.PowerRunning && power.Power == recovery.PowerStopped:
		return "the machine ended by itself: " + cmp.Or(power.Exit, "how is not known")
	case roleErr != nil:
		return roleErr.Error()
	case sendErr != nil:
		return sendErr.Error()
	case applyErr != nil:
		return applyErr.Error()
	}
	return late
}
