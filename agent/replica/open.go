package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/agent/hrl"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// Open opens the replica of a machine and finishes what a crash left: nothing
// is removed before everything durable was read and understood. fault.Refused:
// a newer program wrote a record, or the disks are other ones; fault.Corrupt: a
// record is damaged. Both leave everything as it is.
func Open(cfg Config) (*Machine, error) {
	m, err := newMachine(cfg)
	if err != nil {
		return nil, err
	}
	if err := m.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open the replica of %s: %w", cfg.Machine, err), m.closeTables())
	}
	return m, nil
}

func (m *Machine) closeTables() error {
	var errs []error
	for _, d := range m.names {
		errs = append(errs, m.closeTable(d))
	}
	return errors.Join(errs...)
}

func (m *Machine) open() error {
	fresh, err := m.readState()
	if err != nil {
		return err
	}
	if err := m.readPoints(); err != nil {
		return err
	}
	if fresh {
		if len(m.points) > 0 {
			return fault.Errorf(fault.Corrupt, "%s is missing, and there are %d recovery points", m.statePath(), len(m.points)).
				WithHint("restore the file; without it nobody knows which point the heads hold")
		}
		if err := m.fs.MkdirAll(m.pointsDir(), 0o700); err != nil {
			return err
		}
	}
	if err := m.checkMarks(); err != nil {
		return err
	}
	if err := m.takeDisks(fresh); err != nil {
		return err
	}
	for _, finish := range []func() error{
		m.removeTemps, m.finishThinning, m.finishAdopt, m.finishLive, m.finishDropping, m.finishTests, m.loadLogs, m.removeUndos, m.openTables,
	} {
		if err := finish(); err != nil {
			return err
		}
	}
	// What cannot be written now (a full disk) is asked for again by every
	// operation before it reads a head; until then points are known and received.
	if err := m.finishHead(context.Background()); err != nil {
		m.log.Warn("heads not finished yet", "err", err)
	}
	m.startClocks()
	return nil
}

// settle finishes what an attempt that failed has left, as Open does after a
// crash. Every operation at the heads begins with it; the work lock is held.
func (m *Machine) settle(ctx context.Context) error {
	if m.isClosed() {
		return fault.Errorf(fault.Stopped, "the replica of %s is closed", m.cfg.Machine)
	}
	for _, finish := range []func() error{m.finishThinning, m.finishAdopt, m.finishLive, m.finishDropping} {
		if err := finish(); err != nil {
			return err
		}
	}
	return m.finishHead(ctx)
}

func (m *Machine) isClosed() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.closed
}

// readState reads replica.json.
func (m *Machine) readState() (fresh bool, err error) {
	data, err := vfs.ReadFile(m.fs, m.statePath())
	if errors.Is(err, fs.ErrNotExist) {
		m.st = state{Machine: m.cfg.Machine, Disks: map[string]diskState{}, Tests: map[string]testView{}}
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if data, err = stateFormat.Admit(m.fs, m.statePath(), data); err != nil {
		return false, err
	}
	if m.st, err = decodeState(m.statePath(), data); err != nil {
		return false, err
	}
	if m.st.Machine != m.cfg.Machine {
		return false, fault.Errorf(fault.Refused, "%s is the replica of %s", m.cfg.Dir, m.st.Machine)
	}
	return false, nil
}

// readPoints reads all manifests. One that is damaged stays in its place in
// the chain, as its file's name says, and cannot be read; the others can.
func (m *Machine) readPoints() error {
	names, err := m.list(m.pointsDir())
	if err != nil {
		return err
	}
	for _, n := range names {
		if isTemp(n) {
			continue
		}
		k, ok := parsePointName(n)
		if !ok {
			continue // not ours
		}
		path := filepath.Join(m.pointsDir(), n)
		data, err := vfs.ReadFile(m.fs, path)
		if err != nil {
			return err
		}
		p, err := decodePoint(path, data)
		if err == nil && markOf(p) != k {
			err = fault.Errorf(fault.Corrupt, "cannot read %s: it is the manifest of point %s, number %d", path, p.ID, p.Seq)
		}
		if err == nil && p.Machine != m.cfg.Machine {
			err = fault.Errorf(fault.Corrupt, "cannot read %s: it is of machine %s", path, p.Machine)
		}
		if fault.Is(err, fault.Refused) {
			return err
		}
		if err != nil {
			m.log.Error("manifest damaged: its point cannot be read", "path", path, "err", err)
			p = m.placeholder(k)
			m.damaged[k.Point] = err
		}
		m.points = append(m.points, p)
	}
	slices.SortFunc(m.points, func(a, b recovery.Point) int {
		switch {
		case a.Seq < b.Seq:
			return -1
		case a.Seq > b.Seq:
			return 1
		}
		return 0
	})
	return nil
}

// placeholder stands in the chain for a point whose manifest is damaged.
func (m *Machine) placeholder(k mark) recovery.Point {
	p := recovery.Point{Version: recovery.FormatVersion, ID: k.Point, Seq: k.Seq, Machine: m.cfg.Machine, Kind: recovery.Fuzzy,
		Suspect: "its manifest is damaged"}
	for _, d := range m.names {
		p.Disks = append(p.Disks, recovery.PointDisk{Name: d, ID: m.disks[d].ID})
	}
	return p
}

func parsePointName(file string) (mark, bool) {
	seq, rest, ok := strings.Cut(strings.TrimSuffix(file, ".json"), "-")
	if !ok || !strings.HasSuffix(file, ".json") {
		return mark{}, false
	}
	n, err := strconv.ParseUint(seq, 10, 64)
	if err != nil {
		return mark{}, false
	}
	id, err := ident.ParsePointID(rest)
	if err != nil {
		return mark{}, false
	}
	return mark{Point: id, Seq: ident.Seq(n)}, true
}

// checkMarks refuses a store whose parts do not belong together.
func (m *Machine) checkMarks() error {
	if a := m.st.Applied; a.Seq != 0 && !slices.ContainsFunc(m.points, func(p recovery.Point) bool { return markOf(p) == a }) {
		if m.st.Adopting == nil {
			return fault.Errorf(fault.Corrupt, "the manifest of point %s, which the heads hold, is missing", a.Point).
				WithHint("restore the file in %s", m.pointsDir())
		}
	}
	for i, p := range m.points {
		if err := m.damaged[p.ID]; err != nil && p.Seq >= m.st.Applied.Seq {
			return err
		}
		if i > 0 && p.Seq == m.points[i-1].Seq {
			return fault.Errorf(fault.Corrupt, "two recovery points have the sequence number %d", p.Seq)
		}
	}
	return nil
}

// takeDisks compares the disks given with those that the store knows.
func (m *Machine) takeDisks(fresh bool) error {
	changed := fresh
	next := m.st.clone()
	for _, n := range m.names {
		d := m.disks[n]
		have, known := m.st.Disks[n]
		switch {
		case !known:
			changed = true
		case have.ID != d.ID:
			return fault.Errorf(fault.Refused, "disk %s is another one (%s) than the replica's (%s)", n, d.ID, have.ID).
				WithHint("remove the replica of the machine first, or give the disk another name")
		case have.Head != d.Head:
			if there, err := m.exists(d.Head); err != nil {
				return err
			} else if m.st.Applied.Seq != 0 && !there {
				return fault.Errorf(fault.Refused, "disk %s has moved from %s to %s, and there is nothing", n, have.Head, d.Head).
					WithHint("move the file there while the agent is stopped")
			}
			changed = true
		}
		next.Disks[n] = diskState{ID: d.ID, Head: d.Head}
	}
	if !changed {
		return nil
	}
	return m.record(func(s *state) { s.Disks = next.Disks })
}

// exists reports whether something stands at path. What cannot be looked at is
// an error and never taken for missing: files are removed on that answer.
func (m *Machine) exists(path string) (bool, error) {
	_, err := m.fs.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot look at %s: %w", path, err)
	}
	return true, nil
}

// removeTemps removes what a crash left half-written.
func (m *Machine) removeTemps() error {
	if err := m.removeTrash(); err != nil {
		return err
	}
	dirs := []string{m.cfg.Dir, m.pointsDir()}
	for _, d := range m.names {
		dirs = append(dirs, m.dir(d), m.dir(d, "undo"))
	}
	for _, dir := range dirs {
		if err := m.removeMatching(dir, isTemp); err != nil {
			return err
		}
	}
	return nil
}

// loadLogs finds the received logs: of points not applied yet, and staged ones.
// All others are removed.
func (m *Machine) loadLogs() error {
	tip, _ := m.tip()
	need := m.logsOf(m.st.Applied.Seq)
	for _, d := range m.names {
		names, err := m.list(m.dir(d, "logs"))
		if err != nil {
			return err
		}
		for _, n := range names {
			if err := m.loadLog(d, n, tip.ID, need); err != nil {
				return err
			}
		}
	}
	return m.checkLogs()
}

// loadLog takes one file of logs/ or removes it.
func (m *Machine) loadLog(disk, file string, tip ident.PointID, need map[ident.LogID]bool) error {
	log, n, rest := parseSegment(file)
	path := m.dir(disk, "logs", file)
	staged, any := m.staged[disk]
	wanted := need[log] || m.st.Live == nil && (!any || staged == log)
	switch {
	case log.IsZero() || n < 0 || isTemp(file) || !wanted:
		return m.fs.Remove(path)
	case rest == ".hrl"+sumsSuffix:
		if there, err := m.exists(strings.TrimSuffix(path, sumsSuffix)); err != nil || there {
			return err
		}
		return m.fs.Remove(path)
	case rest == ".hrl"+partSuffix && !need[log]:
		m.staged[disk] = log
		return nil
	case rest != ".hrl":
		return m.fs.Remove(path)
	}
	seg, err := m.loadSegment(disk, path, need[log], tip)
	if fault.Is(err, fault.Corrupt) { // of an accepted point: see checkLogs
		m.log.Error("log of an accepted point is damaged", "path", path, "err", err)
		return nil
	}
	if err != nil {
		return err
	}
	if seg == nil {
		delete(m.staged, disk)
		delete(m.segs, log)
		return m.removeLog(disk, log)
	}
	if !need[log] {
		m.staged[disk] = log
	}
	if m.segs[log] == nil {
		m.segs[log] = map[int]segment{}
	}
	m.segs[log][n] = *seg
	return nil
}

// checkLogs notes the points that were acknowledged and whose logs are not whole:
// they cannot be read, the older ones can.
func (m *Machine) checkLogs() error {
	for _, p := range m.points {
		if p.Seq <= m.st.Applied.Seq {
			continue
		}
		for _, d := range p.Disks {
			for n := range d.Segments {
				if !m.hasSegment(d.Log, n) {
					m.noteBroken(p, fmt.Errorf("segment %d of the log of disk %s is missing or damaged", n, d.Name))
				}
			}
		}
	}
	return nil
}

// removeUndos removes undo logs that are in no chain: what is left of a
// thinning or of an application that did not begin.
func (m *Machine) removeUndos() error {
	applied := m.snapshot().Applied.Seq
	points := m.Points()
	for _, d := range m.names {
		keep := map[string]bool{}
		for i, p := range points {
			if i == 0 {
				continue
			}
			older := points[i-1].Seq
			if p.Seq > applied && older != applied {
				continue // not begun: a point is applied only after the one before it
			}
			files := []string{m.undoPath(d, p.Seq, older)}
			there, err := m.exists(files[0])
			if err != nil {
				return err
			}
			if there {
				parts, err := m.undoFiles(d, p.Seq, older)
				if err != nil {
					m.log.Error("undo log damaged: older points cannot be read", "path", files[0], "err", err)
					return nil // nothing is removed while the chain is in doubt
				}
				files = parts
			}
			for _, f := range files {
				keep[filepath.Base(f)] = true
			}
		}
		if err := m.removeMatching(m.dir(d, "undo"), func(n string) bool { return !keep[n] }); err != nil {
			return err
		}
	}
	return nil
}

// startClocks sets the age of the tip after a restart.
func (m *Machine) startClocks() {
	now := m.cfg.Clock.Now()
	m.tipAt = clock.Mono(m.cfg.Clock)
	m.startWatch(now)
	tip, ok := m.tip()
	if !ok {
		return
	}
	age := m.st.TipAge
	if m.st.Table != markOf(tip) { // the crash came before it was written
		age = max(0, tip.Received.Sub(tip.Instant))
	}
	m.tipAge = age + max(0, now.UTC().Sub(tip.Received))
}

// loadSegment returns what memory keeps of a stored segment; nil: it is of a
// staged log that does not lead from the tip.
func (m *Machine) loadSegment(disk, path string, accepted bool, tip ident.PointID) (*segment, error) {
	if there, err := m.exists(path); err != nil {
		return nil, err
	} else if !there && !accepted { // removed with its log a moment ago
		return nil, nil
	}
	if !accepted {
		r, err := hrl.Open(m.fs, path)
		if fault.Is(err, fault.Corrupt) {
			m.log.Warn("staged segment damaged: dropped", "path", path, "err", err)
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		from := r.Header().From
		if err := r.Close(); err != nil {
			return nil, err
		}
		if from != tip {
			return nil, nil
		}
	}
	seg, err := readSums(m.fs, path+sumsSuffix)
	if err != nil {
		m.log.Warn("sums of a segment damaged: made again", "path", path, "err", err)
		seg, err = m.remakeSums(disk, path)
	}
	if fault.Is(err, fault.Corrupt) && !accepted {
		m.log.Warn("staged segment damaged: dropped", "path", path, "err", err)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	seg.disk = disk
	return &seg, nil
}

// remakeSums writes the sums of a stored segment anew.
func (m *Machine) remakeSums(disk, path string) (segment, error) {
	r, err := hrl.OpenCached(m.fs, path, hrl.NewCache(cacheBytes))
	if err != nil {
		return segment{}, err
	}
	defer r.Close()
	w, err := newSumsWriter(m.fs, path+sumsSuffix+vfs.TempSuffix)
	if err != nil {
		return segment{}, err
	}
	if err := writeSums(context.Background(), r, w, m.disks[disk].Key); err != nil {
		w.abort()
		return segment{}, err
	}
	seg, err := w.finish(func(string, segment) (undo, grow int64, err error) { // at most
		return w.covered * undoBlock, w.covered * blocksum.BlockSize, nil
	})
	if err != nil {
		return segment{}, err
	}
	return seg, m.fs.Rename(path+sumsSuffix+vfs.TempSuffix, path+sumsSuffix)
}
