package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"path/filepath"
	"time"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/agent/replica"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/internal/recovery"
)

// readProof reads the disks of a point whole: here, where the machine stopped
// on it, or the point under the overlay that it runs on. Replication goes on
// beside it. What it read stays for proofRanges.
func (m *machine) readProof(ctx context.Context, point ident.PointID) (command.ProofResult, error) {
	release, err := m.proof.take(ctx)
	if err != nil {
		return command.ProofResult{}, err
	}
	defer release()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	m.note(func(m *machine) { m.prove = cancel })
	defer m.note(func(m *machine) { m.prove = nil })
	if _, err := m.provable(ctx, point); err != nil {
		return command.ProofResult{}, err
	}
	if err := m.dropProof(); err != nil {
		return command.ProofResult{}, err
	}
	res, err := m.readDisks(ctx, point)
	switch {
	case ctx.Err() != nil:
		return command.ProofResult{}, fault.Errorf(fault.Interrupted, "the read proof of machine %s ended: %w", m.name, context.Cause(ctx))
	case errors.Is(err, replica.ErrPreempted):
		return command.ProofResult{}, fault.Errorf(fault.Interrupted, "the read proof of machine %s ended: %w", m.name, err)
	case err != nil:
		return command.ProofResult{}, err
	}
	// A machine that was started meanwhile has written.
	if _, err := m.provable(ctx, point); err != nil {
		return command.ProofResult{}, err
	}
	if err := m.update(func(r *record) { r.Proof = &proofRecord{Point: point, Result: res} }); err != nil {
		return command.ProofResult{}, err
	}
	m.log.Info("disks are read for the proof", logkit.KeyPoint, point.Short(), logkit.KeyBytes, res.Bytes, logkit.KeyTook, res.Took)
	return res, nil
}

// provable refuses a proof of a point that the disks here are not at. own says
// that they are the machine's own disks, which no replica has taken over.
func (m *machine) provable(ctx context.Context, point ident.PointID) (own bool, err error) {
	rec, rep := m.snapshot(), m.replica()
	own = rec.Own && rec.Final == point && !point.IsZero()
	live := false
	if rep != nil && rec.Own && !own {
		_, _, live = rep.Live()
	}
	switch st := m.state(ctx); {
	case live:
		return false, nil // the machine runs on an overlay of what is read
	case st.Power != recovery.PowerStopped:
		return false, fault.Errorf(fault.Refused, "machine %s is %s at host %s: its disks are not those of point %s any more", m.name, st.Power, m.a.host(), point.Short()).
			WithHint("a proof needs the source stopped and locked until the commit")
	case rec.Authority.Active == m.a.site() && !rec.Locked:
		return false, fault.Errorf(fault.Refused, "machine %s may be started at host %s, it is not locked: its disks need not stay at point %s", m.name, m.a.host(), point.Short()).
			WithHint("a proof needs the source stopped and locked until the commit")
	case own:
		return true, nil
	case rec.Own:
		return false, fault.Errorf(fault.Refused, "the disks of machine %s at host %s are not at point %s: it was written to since", m.name, m.a.host(), point.Short()).
			WithHint("only the final point of a stopped machine can be proved")
	}
	_, err = m.needReplica()
	return false, err
}

// readDisks reads the disks of a point into fresh tables.
func (m *machine) readDisks(ctx context.Context, point ident.PointID) (command.ProofResult, error) {
	own, err := m.provable(ctx, point)
	if err != nil {
		return command.ProofResult{}, err
	}
	rec := m.snapshot()
	progress, done := m.busy("proof", m.proofSize(&rec))
	defer done()
	if !own {
		rep, err := m.needReplica()
		if err != nil {
			return command.ProofResult{}, err
		}
		tables := map[string]string{}
		for _, d := range rec.Assignment.Disks {
			if tables[d.Name], err = m.proofTable(&rec, d.Name); err != nil {
				return command.ProofResult{}, err
			}
		}
		return rep.Prove(ctx, point, tables, progress)
	}
	began := time.Now()
	var res command.ProofResult
	for _, d := range rec.Assignment.Disks {
		path, err := m.diskPath(&rec.Assignment, d)
		if err != nil {
			return command.ProofResult{}, err
		}
		table, err := m.proofTable(&rec, d.Name)
		if err != nil {
			return command.ProofResult{}, err
		}
		pd, err := replica.ReadDisk(ctx, m.a.o.FS, path, d.Key, 0, table, func(n int64) { res.Bytes += n; progress(res.Bytes) })
		if err != nil {
			return command.ProofResult{}, err
		}
		pd.Name = d.Name
		res.Disks = append(res.Disks, pd)
	}
	res.Took = time.Since(began)
	return res, nil
}

// proofSize is how much there is to read, in bytes; 0: not known.
func (m *machine) proofSize(rec *record) (n int64) {
	for _, d := range rec.Assignment.Disks {
		path, err := m.diskPath(&rec.Assignment, d)
		if err != nil {
			return 0
		}
		fi, err := m.a.o.FS.Stat(path)
		if err != nil {
			return 0
		}
		n += fi.Size()
	}
	return n
}

// proofTable is the file of the block table that a proof makes of a disk; its
// folder exists.
func (m *machine) proofTable(rec *record, disk string) (string, error) {
	dir := filepath.Join(m.dir, "proof")
	if s := m.store(&rec.Assignment); s != "" {
		dir = filepath.Join(s, disk)
	}
	return filepath.Join(dir, disk+".proof"), m.a.o.FS.MkdirAll(dir, 0o700)
}

// dropProof forgets what was read: the disks move on, or are read again.
func (m *machine) dropProof() error {
	rec := m.snapshot()
	if rec.Proof == nil {
		return nil
	}
	if err := m.update(func(r *record) { r.Proof = nil }); err != nil {
		return err
	}
	for _, d := range rec.Proof.Result.Disks {
		if path, err := m.proofTable(&rec, d.Name); err != nil {
			m.log.Debug("the table of a proof stays", logkit.KeyError, err)
		} else if err := m.a.o.FS.Remove(path); err != nil {
			m.log.Debug("the table of a proof stays", logkit.KeyPath, path, logkit.KeyError, err)
		}
	}
	return nil
}

// proofRanges returns the sums of ranges of a disk as the last proof read it.
func (m *machine) proofRanges(in command.RangesRequest) (_ command.RangesResult, err error) {
	rec := m.snapshot()
	if in.Epoch != 0 && in.Epoch != rec.Authority.Epoch {
		return command.RangesResult{}, fault.Errorf(fault.Conflict, "machine %s: ranges are asked for epoch %d, host %s holds %s", m.name, in.Epoch, m.a.host(), describe(rec.Authority))
	}
	if rec.Proof == nil {
		return command.RangesResult{}, fault.Errorf(fault.Refused, "the disks of machine %s were not read for a proof at host %s", m.name, m.a.host()).
			WithHint("ask for the proof first")
	}
	if in.Start < 0 || in.Count < 0 || in.Count > blocksum.MaxRangeSums {
		return command.RangesResult{}, fault.Errorf(fault.Invalid, "%d ranges from %d: at most %d may be asked", in.Count, in.Start, blocksum.MaxRangeSums)
	}
	pd, ok := rec.Proof.Result.Disk(in.Disk)
	if !ok {
		return command.RangesResult{}, fault.Errorf(fault.NotFound, "machine %s has no disk %q in its proof", m.name, in.Disk)
	}
	var key uint64
	for _, d := range rec.Assignment.Disks {
		if d.Name == in.Disk {
			key = d.Key
		}
	}
	path, err := m.proofTable(&rec, in.Disk)
	if err != nil {
		return command.RangesResult{}, err
	}
	t, err := blocksum.Open(m.a.o.FS, path, key)
	if err != nil {
		return command.RangesResult{}, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	sums, err := t.RangeSums(min(in.Start, t.Ranges()), in.Count)
	if err != nil {
		return command.RangesResult{}, err
	}
	res := command.RangesResult{Size: pd.Size, Sum: pd.Sum}
	for _, s := range sums {
		res.Sums = binary.LittleEndian.AppendUint64(res.Sums, s)
	}
	return res, nil
}

// written counts what the machine wrote here since its point was prepared.
func (m *machine) written(ctx context.Context) (command.WrittenResult, error) {
	rep, err := m.needReplica()
	if err != nil {
		return command.WrittenResult{}, err
	}
	rec := m.snapshot()
	progress, done := m.busy("written", m.proofSize(&rec))
	defer done()
	return rep.Written(ctx, progress)
}
