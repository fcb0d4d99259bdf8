package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/agent/source"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/crash"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/internal/recovery"
)

// settle brings the stores of the machine to the role that the record gives
// this host. The role lock is held. What stands in the way is shown in status
// and tried again by the loop.
func (m *machine) settle(ctx context.Context) {
	err := m.settleRole(ctx)
	m.mu.Lock()
	old := m.roleErr
	m.roleErr = err
	m.mu.Unlock()
	if err != nil && (old == nil || old.Error() != err.Error()) {
		m.log.Warn("the role of this host is not taken yet", logkit.KeyError, err)
	}
}

func (m *machine) settleRole(ctx context.Context) error {
	if err := m.finishLeaving(); err != nil {
		return err
	}
	rec := m.snapshot()
	role := rec.role(m.a.host())
	if err := m.openReplica(&rec, role); err != nil {
		return err
	}
	if rep := m.replica(); rep != nil && !rec.Own && rec.Authority.Active == m.a.site() && !rec.Authority.Uncommitted {
		if err := m.reclaim(ctx, &rec, rep); err != nil {
			return err
		}
		rec = m.snapshot()
	}
	switch role {
	case roleSource:
		return m.becomeSource(&rec)
	case roleTarget:
		if err := m.becomeTarget(ctx, &rec); err != nil {
			return err
		}
	}
	return m.closeSource()
}

// becomeSource opens the sending side. Until a point is prepared, a host that
// a failover made active has nothing to send.
func (m *machine) becomeSource(rec *record) error {
	if !rec.Own {
		return m.closeSource()
	}
	if rec.Sending == rec.Authority.Epoch && m.source() != nil {
		return nil
	}
	if rec.Sending != rec.Authority.Epoch { // an earlier epoch may have sent to another host
		if err := m.closeSource(); err != nil {
			return err
		}
	}
	if err := m.openSource(rec); err != nil {
		return err
	}
	if rec.Sending == rec.Authority.Epoch {
		return nil
	}
	if rep := m.replica(); rep != nil {
		if _, point, ok := rep.Live(); ok && !point.ID.IsZero() {
			m.adoptLive(rep)
		}
	}
	return m.update(func(r *record) { r.Sending = r.Authority.Epoch })
}

// adoptLive gives the source the tables of the point under the overlay, so that
// sending back needs no compare. It only saves work: without it the first cycle
// compares.
func (m *machine) adoptLive(rep *replica.Machine) {
	_, point, _ := rep.Live()
	if err := m.source().AdoptTables(point, rep.LiveTables()); err != nil {
		m.log.Info("tables of the prepared point are not at hand, the first cycle compares", logkit.KeyError, err)
	}
}

// openSource opens agent/source for the disks at this host.
func (m *machine) openSource(rec *record) error {
	if m.source() != nil {
		return nil
	}
	to, ok := rec.target(m.a.host())
	if !ok {
		return fault.Errorf(fault.Internal, "machine %s has no host to send to", m.name)
	}
	src, err := m.newSource(rec, to.Name)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.src = src
	m.mu.Unlock()
	return nil
}

func (m *machine) newSource(rec *record, to string) (*source.Machine, error) {
	var disks []source.Disk
	for _, d := range rec.Assignment.Disks {
		p, err := m.diskPath(&rec.Assignment, d)
		if err != nil {
			return nil, err
		}
		disks = append(disks, source.Disk{Name: d.Name, ID: d.ID, Key: d.Key, Path: p, Allocation: d.Allocation})
	}
	src, err := source.Open(source.Config{
		FS: m.a.o.FS, Dir: filepath.Join(m.dir, "source"), Machine: m.name, Disks: disks,
		Policy: rec.Assignment.Policy, Clock: m.a.o.Clock, Log: m.a.log, Guest: guest{m},
		Peer: &link{a: m.a, host: to}, Tracker: m.a.tracker,
		Offset: func(wall time.Time, mono time.Duration) clock.Offset { return m.a.clocks.offset(to, wall, mono) },
	})
	if err != nil {
		return nil, fmt.Errorf("cannot open the sending side of machine %s: %w", m.name, err)
	}
	return src, nil
}

func (m *machine) closeSource() error {
	m.mu.Lock()
	src := m.src
	m.src, m.sendErr = nil, nil
	m.mu.Unlock()
	if src == nil {
		return nil
	}
	return src.Close()
}

// openReplica opens agent/replica where this host has something of it, or is
// to receive.
func (m *machine) openReplica(rec *record, role string) error {
	dir := m.store(&rec.Assignment)
	if m.replica() != nil || dir == "" || rec.Leaving {
		return nil
	}
	if role != roleTarget {
		if _, err := m.a.o.FS.Stat(filepath.Join(dir, "replica.json")); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	return m.newReplica(rec, dir)
}

func (m *machine) newReplica(rec *record, dir string) error {
	if _, err := m.a.o.FS.Stat(dir); rec.Stored == dir && errors.Is(err, fs.ErrNotExist) {
		return fault.Errorf(fault.Refused, "the replica of machine %s is gone: host %s has no folder %s", m.name, m.a.host(), dir).
			WithHint("mount its file system; only if the replica is lost for good, make the folder %s empty: it is copied anew", dir)
	}
	disks, err := m.replicaDisks(rec)
	if err != nil {
		return err
	}
	rep, err := replica.Open(replica.Config{
		FS: m.a.o.FS, Dir: dir, Machine: m.name, Disks: disks, Clock: m.a.o.Clock, Log: m.a.log,
	})
	if err != nil {
		return fmt.Errorf("cannot open the replica of machine %s: %w", m.name, err)
	}
	m.mu.Lock()
	m.rep = rep
	m.mu.Unlock()
	if rec.Stored == dir {
		return nil
	}
	return m.update(func(r *record) { r.Stored = dir })
}

// replicaDisks are the machine's disks as its replica here has them.
func (m *machine) replicaDisks(rec *record) (disks []replica.Disk, err error) {
	for _, d := range rec.Assignment.Disks {
		p, err := m.diskPath(&rec.Assignment, d)
		if err != nil {
			return nil, err
		}
		disks = append(disks, replica.Disk{Name: d.Name, ID: d.ID, Key: d.Key, Head: p, Allocation: d.Allocation})
	}
	return disks, nil
}

// becomeTarget makes this host receive. Where the disks here are the machine's
// own, they become the heads of the replica: only when the machine is stopped,
// and only when all they hold is a point already.
func (m *machine) becomeTarget(ctx context.Context, rec *record) error {
	rep := m.replica()
	if rep == nil {
		return fault.Errorf(fault.Refused, "host %s has no store: it cannot receive machine %s", m.a.host(), m.name).
			WithHint("give the host a store in the estate")
	}
	hold := rec.Authority.Uncommitted
	if !rec.Own && !onOverlay(rep) {
		return m.hold(rep, hold)
	}
	if st := m.state(ctx); st.Power != recovery.PowerStopped {
		return fault.Errorf(fault.Refused, "machine %s is %s at host %s, its disks cannot be received over", m.name, st.Power, m.a.host())
	}
	if err := m.still(rec); err != nil {
		return err
	}
	if onOverlay(rep) {
		err := m.giveUpOverlay(ctx, rec, rep)
		return errors.Join(err, m.hold(rep, hold))
	}
	if err := m.takeOver(ctx, rec, rep, hold); err != nil {
		return err
	}
	return m.update(func(r *record) {
		r.Own, r.Found, r.Final, r.Receiving = false, nil, ident.PointID{}, r.Authority.Epoch
	})
}

// onOverlay reports whether the disks here are an overlay that is not committed.
func onOverlay(rep *replica.Machine) bool {
	_, _, live := rep.Live()
	return live && !rep.Committed()
}

// giveUpOverlay ends a failover to here that was not committed: another site has
// the authority.
func (m *machine) giveUpOverlay(ctx context.Context, rec *record, rep *replica.Machine) error {
	label := replica.RolledBack
	if rec.Authority.Uncommitted {
		label = replica.AsFound // nobody rolled it back: the machine was failed over from here
	}
	if err := m.closeSource(); err != nil {
		return err
	}
	if err := m.dropLive(ctx, rep, label); err != nil {
		return err
	}
	crash.At("agent.rollback.kept")
	return m.update(func(r *record) {
		r.Found, r.Final, r.Receiving = nil, ident.PointID{}, r.Authority.Epoch
	})
}

func (m *machine) hold(rep *replica.Machine, hold bool) error {
	if rep.Held() == hold {
		return nil
	}
	return rep.SetHold(hold)
}

// takeOver turns the machine's own disks into the heads of the replica.
func (m *machine) takeOver(ctx context.Context, rec *record, rep *replica.Machine, hold bool) error {
	if rec.Found != nil { // the disks are a point of the replica already
		return m.hold(rep, hold)
	}
	if err := m.openForTakeOver(rec); err != nil {
		return err
	}
	src := m.source()
	tip, ok := src.Tip()
	if !ok || tip.ID != rec.Final {
		return fault.Errorf(fault.Refused, "the disks of machine %s at host %s hold writes that no recovery point has", m.name, m.a.host()).
			WithHint("reverse replication keeps them as the point \"as found\" first")
	}
	tables := map[string]string{}
	for _, d := range rec.Assignment.Disks {
		t, err := src.Table(d.Name)
		if err != nil {
			return err
		}
		tables[d.Name] = t
	}
	if err := rep.Adopt(ctx, tip, tables); err != nil {
		return fmt.Errorf("cannot turn the disks of machine %s into a replica: %w", m.name, err)
	}
	return m.hold(rep, hold)
}

// openForTakeOver opens the sending side that has sent so far, for its tip and
// tables.
func (m *machine) openForTakeOver(rec *record) error {
	if m.source() != nil {
		return nil
	}
	to := ""
	for _, p := range rec.Authority.Direction {
		if p.To == m.a.host() {
			to = p.From
		}
	}
	src, err := m.newSource(rec, to)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.src = src
	m.mu.Unlock()
	return nil
}

// closeRoles closes both stores; settle opens them again. The role lock is
// held, or the agent has ended.
func (m *machine) closeRoles() error {
	err := m.closeSource()
	m.mu.Lock()
	rep := m.rep
	m.rep = nil
	m.mu.Unlock()
	if rep != nil {
		err = errors.Join(err, rep.Close())
	}
	return err
}

// removeRoles ends replication at this host. The role lock is held.
func (m *machine) removeRoles(deleteReplica bool) error {
	if rep := m.replica(); rep != nil && deleteReplica {
		if err := rep.Remove(); err != nil {
			return err
		}
		m.mu.Lock()
		m.rep = nil
		m.mu.Unlock()
	}
	return m.closeRoles()
}
