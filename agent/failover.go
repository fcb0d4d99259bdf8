package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/crash"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/internal/planted"
	"github.com/drrun/drrun/internal/recovery"
)

// points lists the recovery points at this host, oldest first.
func (m *machine) points() []recovery.Point {
	if rep := m.replica(); rep != nil {
		return rep.Points()
	}
	return nil
}

// store of the machine here, for what needs one.
func (m *machine) needReplica() (*replica.Machine, error) {
	if rep := m.replica(); rep != nil {
		return rep, nil
	}
	if err := m.roleProblem(); err != nil {
		return nil, fault.Wrap(fault.Refused, err)
	}
	return nil, fault.Errorf(fault.Refused, "host %s holds no replica of machine %s", m.a.host(), m.name)
}

// room says what preparing would take.
func (m *machine) room(_ context.Context, in command.PrepareRequest) (command.RoomResult, error) {
	rep, err := m.needReplica()
	if err != nil {
		return command.RoomResult{}, err
	}
	if in.Test == "" { // a test stands on a view of its own
		if err := rep.TakesOverlay(in.Point); err != nil {
			return command.RoomResult{}, err
		}
	}
	return rep.Room(in.Point)
}

// roomBack says what ending the failover would take here: see command.RoomBack.
func (m *machine) roomBack(ctx context.Context, point ident.PointID) (command.RoomResult, error) {
	rec, rep := m.snapshot(), m.replica()
	if rep == nil {
		return command.RoomResult{}, nil // the disks are the machine's own, and stay as they are
	}
	if _, _, live := rep.Live(); live && !reclaimed(&rec, rep) {
		progress, done := m.busy("written", m.proofSize(&rec))
		defer done()
		return rep.RoomBack(ctx, point, progress)
	}
	if p, ok := m.toReclaim(&rec, rep); ok && !reclaimed(&rec, rep) && !m.onlySent(p, rep) {
		return rep.Room(p.ID)
	}
	return command.RoomResult{}, nil
}

// toReclaim is the point that the machine's disks became when they were a
// replica's heads.
func (m *machine) toReclaim(rec *record, rep *replica.Machine) (recovery.Point, bool) {
	points, applied := rep.Points(), rep.Applied()
	i := slices.IndexFunc(points, func(p recovery.Point) bool { return p.Seq == applied })
	if !rep.Held() && !reclaimed(rec, rep) || i < 0 {
		return recovery.Point{}, false
	}
	return points[i], true
}

// onlySent reports whether nothing here is older than the machine's own disks:
// the replica is only what the other site sent since, and can go.
func (m *machine) onlySent(own recovery.Point, rep *replica.Machine) bool {
	points := rep.Points()
	locked := slices.ContainsFunc(points, func(p recovery.Point) bool { return p.LockedUntil.After(m.a.o.Clock.Now()) })
	return points[0].ID == own.ID && !locked && len(rep.Tests()) == 0
}

// prepare puts the disks of a point in their places, for a real failover.
func (m *machine) prepare(ctx context.Context, in command.PrepareRequest) (command.PrepareResult, error) {
	m.interrupt(fault.Errorf(fault.Interrupted, "run %s prepares machine %s", in.Run, m.name))
	release, err := m.takeRole(ctx)
	if err != nil {
		return command.PrepareResult{}, err
	}
	defer release()
	rec := m.snapshot()
	if rec.Authority.Active != m.a.site() {
		return command.PrepareResult{}, fault.Errorf(fault.Refused, "machine %s is not prepared at host %s: %s", m.name, m.a.host(), describe(rec.Authority)).
			WithHint("grant this site the authority first")
	}
	rep, err := m.needReplica()
	if err != nil {
		return command.PrepareResult{}, err
	}
	if st := m.state(ctx); st.Power != recovery.PowerStopped && !m.prepared(rep, in) {
		return command.PrepareResult{}, fault.Errorf(fault.Refused, "machine %s is %s at host %s: its disks cannot be replaced", m.name, st.Power, m.a.host()).
			WithHint("stop it first")
	}
	if err := m.dropProof(); err != nil {
		return command.PrepareResult{}, err
	}
	progress, done := m.busy("prepare", needed(rep, in))
	defer done()
	if err := m.changePoint(ctx, &rec, rep, in); err != nil {
		return command.PrepareResult{}, err
	}
	res, err := rep.Prepare(ctx, in.Run, in.Point, progress)
	if err != nil {
		return command.PrepareResult{}, err
	}
	if err := m.update(func(r *record) { r.Own, r.Final, r.Sending = true, ident.PointID{}, 0 }); err != nil {
		return command.PrepareResult{}, err
	}
	m.settle(ctx)
	m.nudge()
	m.log.Info("recovery point prepared", logkit.KeyRun, in.Run, logkit.KeyPoint, in.Point.Short(), "mode", res.Mode, logkit.KeyTook, res.Took)
	return command.PrepareResult{Paths: res.Paths, Mode: res.Mode, Bytes: res.Bytes, Took: res.Took}, nil
}

// needed is what preparing is expected to write, in bytes.
func needed(rep *replica.Machine, in command.PrepareRequest) int64 {
	r, err := rep.Room(in.Point)
	if err != nil {
		return 0
	}
	return r.Needed
}

// prepared reports whether just this was done already.
func (m *machine) prepared(rep *replica.Machine, in command.PrepareRequest) bool {
	run, point, ok := rep.Live()
	return ok && run == in.Run && point.ID == in.Point
}

// changePoint makes way for another point of an uncommitted failover: what ran
// so far is kept as a point.
func (m *machine) changePoint(ctx context.Context, rec *record, rep *replica.Machine, in command.PrepareRequest) error {
	run, point, ok := rep.Live()
	if !ok || run == in.Run && point.ID == in.Point {
		return nil
	}
	// The overlay of a run that another one has taken the machine from since is
	// one that the run in force may change.
	if rec.Authority.Run != in.Run || !rec.Authority.Uncommitted || rep.Committed() {
		return fault.Errorf(fault.Refused, "machine %s at host %s runs on point %s of run %s, which stays", m.name, m.a.host(), point.ID.Short(), run)
	}
	if _, err := rep.Room(in.Point); err != nil { // before anything is given up
		return err
	}
	if err := m.still(rec); err != nil {
		return err
	}
	if err := m.closeSource(); err != nil {
		return err
	}
	return m.dropLive(ctx, rep, replica.PointChanged)
}

// dropLive ends an overlay: what the machine wrote on it is kept as a point of
// that label, and the store goes on as a replica. From its first step on the
// disks are not the machine's own: nothing is started on what is left of a crash.
func (m *machine) dropLive(ctx context.Context, rep *replica.Machine, label string) error {
	run, point, ok := rep.Live()
	if !ok {
		return nil
	}
	if err := m.update(func(r *record) { r.Own = false }); err != nil {
		return err
	}
	res, err := rep.Keep(ctx, replica.Kept{
		Label: label, Run: run, Epoch: m.snapshot().Authority.Epoch, Common: &point, Tables: rep.LiveTables(),
		Discard: planted.Is(planted.OverlayDropped),
	}, nil)
	if err != nil {
		return fmt.Errorf("cannot keep what machine %s wrote in run %s: %w", m.name, run, err)
	}
	m.log.Info("what the machine wrote is kept as a point", logkit.KeyRun, run, logkit.KeyPoint, res.Point.ID.Short(), logkit.KeyBytes, res.Bytes)
	return nil
}

// commit ends the uncommitted state at this host: at the active site the
// overlay becomes the machine's disk, at the other what was stored is applied.
//
// fault.Conflict: epoch is no longer the one in force, nothing was changed.
func (m *machine) commit(ctx context.Context, epoch ident.Epoch) error {
	m.interrupt(fault.Errorf(fault.Interrupted, "the failover of machine %s is committed", m.name))
	release, err := m.takeRole(ctx)
	if err != nil {
		return err
	}
	defer release()
	rec := m.snapshot()
	moved := func(r *record) error {
		if r.Authority.Epoch == epoch {
			return nil
		}
		return fault.Errorf(fault.Conflict, "machine %s: cannot commit epoch %d, host %s holds %s", m.name, epoch, m.a.host(), describe(r.Authority))
	}
	if err := moved(&rec); err != nil {
		return err
	}
	if rep := m.replica(); rep != nil {
		if run, _, ok := rep.Live(); ok && rec.Own && rec.Authority.Active == m.a.site() {
			if err := rep.Commit(run); err != nil {
				return err
			}
		} else if rep.Held() {
			if err := rep.SetHold(false); err != nil {
				return err
			}
		}
	}
	err = m.updateIf(func(r *record) error {
		if err := moved(r); err != nil {
			return err
		}
		r.Authority.Uncommitted = false
		return nil
	})
	if err != nil {
		return err
	}
	if err := m.dropProof(); err != nil {
		return err
	}
	m.nudge()
	m.log.Info("failover committed", logkit.KeyEpoch, uint64(rec.Authority.Epoch))
	return nil
}

// found keeps the disks of a stopped old primary, which hold writes that never
// left it, as a point, so that they may be overwritten by what is sent back.
func (m *machine) found(ctx context.Context, in command.FoundRequest) (command.FoundResult, error) {
	release, err := m.takeRole(ctx)
	if err != nil {
		return command.FoundResult{}, err
	}
	defer release()
	rec := m.snapshot()
	if rec.Authority.Active == m.a.site() {
		return command.FoundResult{}, fault.Errorf(fault.Refused, "machine %s is active at site %s, its disks are in use", m.name, m.a.site())
	}
	if st := m.state(ctx); st.Power != recovery.PowerStopped {
		return command.FoundResult{}, fault.Errorf(fault.Refused, "machine %s is %s at host %s", m.name, st.Power, m.a.host()).
			WithHint("stop it there first")
	}
	if rec.Found != nil {
		return *rec.Found, nil
	}
	if !rec.Own {
		return command.FoundResult{}, nil // a replica since an earlier run: nothing is only there
	}
	if err := m.still(&rec); err != nil {
		return command.FoundResult{}, err
	}
	if planted.Is(planted.FoundSkipped) {
		return command.FoundResult{}, m.update(func(r *record) { r.Found = &command.FoundResult{} })
	}
	progress, done := m.busy("found", 0)
	defer done()
	res, err := m.keepFound(ctx, &rec, in, progress)
	if fault.Is(err, fault.NoSpace) && !in.Discard {
		err = fault.Errorf(fault.NoSpace, "%w", err).WithHint("%s on host %s, then: drrun resume %s. To give up, for good, what only this site has: drrun cancel %[3]s, then drrun reverse --discard-diverged %s",
			fault.Hint(err), m.a.host(), in.Run, m.name)
	}
	if err != nil {
		return command.FoundResult{}, err
	}
	if err := m.update(func(r *record) { r.Found = &res }); err != nil {
		return command.FoundResult{}, err
	}
	if res.Discarded {
		m.log.Warn("what only the disks here had is discarded", logkit.KeyRun, in.Run, "by", in.By, logkit.KeyBytes, res.Bytes)
		return res, nil
	}
	m.log.Info("disks are kept as found", logkit.KeyPoint, res.Point.ID.Short(), logkit.KeyBytes, res.Bytes)
	return res, nil
}

// keepFound makes the point "as found" on top of the newest point that both
// sites have, or discards what the disks have beyond that.
func (m *machine) keepFound(ctx context.Context, rec *record, in command.FoundRequest, progress func(int64)) (command.FoundResult, error) {
	dir := m.store(&rec.Assignment)
	if dir == "" {
		return command.FoundResult{}, fault.Errorf(fault.Refused, "host %s has no store: what machine %s wrote there cannot be kept", m.a.host(), m.name).
			WithHint("give the host a store in the estate, then reverse again")
	}
	if m.replica() == nil {
		if err := m.newReplica(rec, dir); err != nil {
			return command.FoundResult{}, err
		}
	}
	if m.source() == nil {
		src, err := m.newSource(rec, m.otherHost(&rec.Assignment))
		if err != nil {
			return command.FoundResult{}, err
		}
		m.mu.Lock()
		m.src = src
		m.mu.Unlock()
	}
	rep := m.replica()
	common, tables := m.commonPoint(rec)
	// A machine that was failed over to here counts from the point it began on,
	// as long as nothing newer has reached the other site.
	if _, point, live := rep.Live(); live && (common == nil || common.Seq <= point.Seq) {
		common, tables = &point, rep.LiveTables()
	}
	res, err := rep.Keep(ctx, replica.Kept{Label: replica.AsFound, Run: in.Run, Epoch: rec.Authority.Epoch, Common: common, Tables: tables, Discard: in.Discard}, progress)
	return res, errors.Join(err, m.closeSource())
}

// commonPoint is the newest point that the other site acknowledged, with its
// tables. They only serve to count what never left, so that a table into which
// parts of a later point were folded will do.
func (m *machine) commonPoint(rec *record) (*recovery.Point, map[string]string) {
	tip, ok := m.source().Tip()
	if !ok {
		return nil, nil
	}
	tables := map[string]string{}
	for _, d := range rec.Assignment.Disks {
		t, err := m.source().Table(d.Name)
		if err != nil {
			t = filepath.Join(m.dir, "source", d.Name+".table")
		}
		tables[d.Name] = t
	}
	return &tip, tables
}

func (m *machine) otherHost(a *recovery.Assignment) string {
	for _, h := range a.Hosts {
		if h.Name != m.a.host() {
			return h.Name
		}
	}
	return ""
}

// rollbackRun names the overlay that a rollback puts under the machine where the
// store has older points than its own disks.
func rollbackRun(rec *record) string {
	return "rollback-" + strconv.FormatUint(uint64(rec.Authority.Epoch), 10)
}

// reclaimed reports whether a reclaim of this epoch got as far as the overlay.
func reclaimed(rec *record, rep *replica.Machine) bool {
	run, _, live := rep.Live()
	return live && run == rollbackRun(rec)
}

// reclaim makes the heads of a held replica the machine's own disks again: the
// failover that had turned the direction was rolled back. What was received
// meanwhile was stored and not applied, and goes.
func (m *machine) reclaim(ctx context.Context, rec *record, rep *replica.Machine) error {
	own, ok := m.toReclaim(rec, rep)
	if !ok {
		return fault.Errorf(fault.Refused, "the disks of machine %s at host %s are a replica that has moved on", m.name, m.a.host()).
			WithHint("prepare a recovery point")
	}
	m.interrupt(fault.Errorf(fault.Interrupted, "the failover of machine %s is rolled back", m.name))
	if err := m.dropProof(); err != nil {
		return err
	}
	if !reclaimed(rec, rep) && m.onlySent(own, rep) {
		if err := m.update(func(r *record) { r.Own, r.Found, r.Leaving = true, nil, true }); err != nil {
			return err
		}
		crash.At("agent.rollback.recorded")
		return m.finishLeaving()
	}
	run := rollbackRun(rec)
	if _, err := rep.Prepare(ctx, run, own.ID, nil); err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return rep.Commit(run) },
		func() error { return rep.DropHeld(ctx) },
		func() error { return rep.SetHold(false) },
		func() error { return m.update(func(r *record) { r.Own, r.Found = true, nil }) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	m.log.Info("disks are the machine's own again", logkit.KeyEpoch, uint64(rec.Authority.Epoch))
	return nil
}

// finishLeaving removes the store of a replica whose heads are the machine's own
// disks again; what a crash left of it too.
func (m *machine) finishLeaving() error {
	rec := m.snapshot()
	if !rec.Leaving {
		return nil
	}
	m.mu.Lock()
	rep := m.rep
	m.rep = nil
	m.mu.Unlock()
	if rep != nil {
		if err := rep.Close(); err != nil {
			return err
		}
	}
	disks, err := m.replicaDisks(&rec)
	if err != nil {
		return err
	}
	if dir := m.store(&rec.Assignment); dir != "" {
		if err := replica.Forget(m.a.o.FS, dir, disks); err != nil {
			return err
		}
	}
	m.log.Info("disks are the machine's own again", logkit.KeyEpoch, uint64(rec.Authority.Epoch))
	return m.update(func(r *record) { r.Leaving, r.Stored = false, "" })
}

// maxLabel bounds the text of a label.
const maxLabel = 100

// holdPoint holds or releases a point for a person.
func (m *machine) holdPoint(ctx context.Context, in command.HoldRequest) (command.HoldResult, error) {
	rep, err := m.needReplica()
	if err != nil {
		return command.HoldResult{}, err
	}
	points := rep.Points()
	i := slices.IndexFunc(points, func(p recovery.Point) bool { return p.ID == in.Point })
	if i < 0 {
		return command.HoldResult{}, fault.Errorf(fault.NotFound, "machine %s has no recovery point %s at host %s", m.name, in.Point, m.a.host())
	}
	if len(in.Label) > maxLabel || strings.ContainsFunc(in.Label, unicode.IsControl) {
		return command.HoldResult{}, fault.Errorf(fault.Invalid, "a label is one line of at most %d bytes", maxLabel)
	}
	var labels []string
	if in.Held {
		labels = points[i].Labels
		if in.Label != "" && !slices.Contains(labels, in.Label) {
			labels = append(slices.Clone(labels), in.Label)
		}
	}
	p, err := rep.Label(ctx, in.Point, labels, in.Held)
	if err != nil {
		return command.HoldResult{}, err
	}
	m.log.Info("point held or released by a person", logkit.KeyPoint, p.ID.Short(), "held", p.Held, "labels", p.Labels)
	return command.HoldResult{Point: p}, nil
}

// verify reads a point whole, or every point.
func (m *machine) verify(ctx context.Context, in command.VerifyRequest) (command.VerifyResult, error) {
	rep, err := m.needReplica()
	if err != nil {
		return command.VerifyResult{}, err
	}
	progress, done := m.busy("verify", 0)
	defer done()
	return rep.Verify(ctx, in.Point, progress)
}
