package replica

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path/filepath"
	"sync"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/crash"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/planted"
	"github.com/drrun/drrun/internal/vfs"
)

const (
	partSuffix = ".part"

	// maxSegments is the most segments a log may have: 64 TiB of stored bytes.
	maxSegments = 1 << 20
	// maxSegmentBytes is the most stored bytes a segment may have: twice the
	// size at which a sender cuts, as the last content of a segment overshoots.
	maxSegmentBytes = 128 << 20
)

// Staged lists the logs whose point does not exist yet: what a sender may go
// on with.
func (m *Machine) Staged() []command.StagedLog {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []command.StagedLog
	for _, d := range m.names {
		log, ok := m.staged[d]
		if !ok {
			continue
		}
		s := command.StagedLog{Disk: d, Log: log}
		for {
			if _, have := m.segs[log][s.Segments]; !have {
				break
			}
			s.Segments++
		}
		if fi, err := m.fs.Stat(m.segmentPath(d, log, s.Segments) + partSuffix); err == nil {
			s.Part = fi.Size()
		}
		out = append(out, s)
	}
	return out
}

// errNotReceiver is the refusal of a host whose disks the machine runs on.
func (m *Machine) checkReceiving() error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.closed {
		return fault.Errorf(fault.Stopped, "the replica of %s is closed", m.cfg.Machine)
	}
	if l := m.st.Live; l != nil {
		return fault.Errorf(fault.Conflict, "machine %s: this host does not receive, its disks are those of run %s", m.cfg.Machine, l.Run).
			WithHint("the sender has an older direction: it has to ask for the authority record")
	}
	if tip, ok := m.tipLocked(); ok && m.broken[tip.ID] != nil {
		return fault.Errorf(fault.Corrupt, "machine %s: nothing can be received on top of point %s: %w", m.cfg.Machine, tip.ID, m.broken[tip.ID])
	}
	if a := m.st.Adopting; a != nil {
		return fault.Errorf(fault.Unreachable, "machine %s: the take-over of point %s is not finished", m.cfg.Machine, a.ID)
	}
	return nil
}

// checkFrom refuses a log that does not lead from the tip; the sender compares.
func (m *Machine) checkFrom(from ident.PointID) error {
	tip, _ := m.tip()
	if from == tip.ID {
		return nil
	}
	return fault.Errorf(fault.Conflict, "machine %s: the log leads from point %s, the newest here is %s", m.cfg.Machine, name(from), name(tip.ID)).
		WithHint("the sender compares its table with this one and sends what differs")
}

func name(id ident.PointID) string {
	if id.IsZero() {
		return "nothing"
	}
	return id.String()
}

// Receive begins or resumes a segment. A nil Receiver without an error says
// that the segment is here already: acknowledge it again. A header with another
// log than the one staged for its disk drops the staged one. fault.Conflict:
// the log does not lead from the tip, or this host does not receive;
// fault.NoSpace: the store has no room for it, nothing was lost.
func (m *Machine) Receive(h command.SegmentHeader) (_ *Receiver, err error) {
	defer m.fullDisk(&err)
	m.in.Lock()
	defer m.in.Unlock()
	if err := m.checkHeader(h); err != nil {
		return nil, err
	}
	if tip, ok := m.tip(); ok {
		if d, ok := tip.Disk(h.Disk); ok && d.Log == h.Log && h.Segment < d.Segments {
			return nil, nil // its point was accepted, the acknowledgement was lost
		}
	}
	if err := m.checkReceiving(); err != nil {
		return nil, err
	}
	if err := m.checkTables(h.Disk); err != nil {
		return nil, err
	}
	if err := m.foldTables(); err != nil {
		return nil, err
	}
	if err := m.checkFrom(h.From); err != nil {
		return nil, err
	}
	if err := m.checkHeads(); err != nil {
		return nil, err
	}
	if err := m.stage(h.Disk, h.Log); err != nil {
		return nil, err
	}
	if m.hasSegment(h.Log, h.Segment) {
		return nil, nil
	}
	return m.openPart(h)
}

// hasSegment reports whether a segment is here, whole.
func (m *Machine) hasSegment(log ident.LogID, n int) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	_, ok := m.segs[log][n]
	return ok
}

func (m *Machine) checkHeader(h command.SegmentHeader) error {
	_, known := m.disks[h.Disk]
	switch {
	case h.Machine != m.cfg.Machine:
		return fault.Errorf(fault.Invalid, "segment of machine %q came to the replica of %s", h.Machine, m.cfg.Machine)
	case !known:
		return fault.Errorf(fault.NotFound, "machine %s has no disk %q here", m.cfg.Machine, h.Disk)
	case h.Log.IsZero(), h.Segment < 0, h.Segment >= maxSegments:
		return fault.Errorf(fault.Invalid, "segment %d of log %s is out of range", h.Segment, h.Log)
	case h.Size <= 0 || h.Size > maxSegmentBytes:
		return fault.Errorf(fault.Invalid, "segment %d of log %s has %d bytes, allowed are %d", h.Segment, h.Log, h.Size, maxSegmentBytes)
	case len(h.SHA256) != sha256.Size:
		return fault.Errorf(fault.Invalid, "segment %d of log %s comes without its SHA-256", h.Segment, h.Log)
	}
	return nil
}

// stage makes log the one that is received for a disk.
func (m *Machine) stage(disk string, log ident.LogID) error {
	m.mu.RLock()
	old, ok := m.staged[disk]
	m.mu.RUnlock()
	if ok && old == log {
		return nil
	}
	if ok {
		if err := m.dropStaged(disk); err != nil {
			return err
		}
	}
	if err := m.fs.MkdirAll(m.dir(disk, "logs"), 0o700); err != nil {
		return fmt.Errorf("cannot make the log folder of disk %s: %w", disk, err)
	}
	m.mu.Lock()
	m.staged[disk] = log
	m.mu.Unlock()
	return nil
}

// dropStaged removes the files of a disk's staged log; m.in is held.
func (m *Machine) dropStaged(disk string) error {
	m.mu.Lock()
	log, ok := m.staged[disk]
	if !ok {
		m.mu.Unlock()
		return nil
	}
	delete(m.staged, disk)
	delete(m.segs, log)
	var errs []error
	for path, r := range m.active {
		if r.header.Disk == disk && r.header.Log == log {
			errs = append(errs, r.revoke())
			delete(m.active, path)
		}
	}
	m.mu.Unlock()
	m.log.Info("staged log dropped", "disk", disk, "log", log)
	return errors.Join(append(errs, m.removeLog(disk, log))...)
}

// removeLog deletes all files of a log.
func (m *Machine) removeLog(disk string, log ident.LogID) error {
	return m.removeMatching(m.dir(disk, "logs"), func(n string) bool {
		id, _, _ := parseSegment(n)
		return id == log
	})
}

// removeMatching deletes the files of a folder that match.
func (m *Machine) removeMatching(dir string, match func(name string) bool) error {
	names, err := m.list(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if match(n) {
			if err := m.fs.Remove(filepath.Join(dir, n)); err != nil {
				return fmt.Errorf("cannot remove %s: %w", n, err)
			}
		}
	}
	return nil
}

// Receiver takes the bytes of one segment. Exactly one of Commit and Abort is
// called.
type Receiver struct {
	m      *Machine
	header command.SegmentHeader
	path   string // of the part file

	mu   sync.Mutex
	f    vfs.File
	off  int64
	sha  hash.Hash
	dead error
}

func (m *Machine) openPart(h command.SegmentHeader) (_ *Receiver, err error) {
	path := m.segmentPath(h.Disk, h.Log, h.Segment) + partSuffix
	m.mu.Lock()
	older := m.active[path]
	delete(m.active, path)
	m.mu.Unlock()
	if older != nil { // its connection is gone
		if err := older.revoke(); err != nil {
			return nil, err
		}
	}
	f, err := m.fs.OpenFile(path, vfs.Create, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot receive segment: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	size, err := f.Size()
	if err != nil {
		return nil, fmt.Errorf("cannot receive segment: %w", err)
	}
	if size > h.Size { // of another attempt
		size = 0
		if err = f.Truncate(0); err != nil {
			return nil, fmt.Errorf("cannot receive segment: %w", err)
		}
	}
	if err = m.checkRoom(h.Disk, h.Size-size, 0, 0); err != nil {
		return nil, err
	}
	r := &Receiver{m: m, header: h, path: path, f: f, off: size, sha: sha256.New()}
	if _, err = io.Copy(r.sha, io.NewSectionReader(f, 0, size)); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	m.mu.Lock()
	m.active[path] = r
	m.mu.Unlock()
	return r, nil
}

var errRevoked = fault.Errorf(fault.Stopped, "the segment is being received by another connection, or its log was dropped")

// revoke takes the file from the receiver.
func (r *Receiver) revoke() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closeLocked(errRevoked)
}

func (r *Receiver) closeLocked(why error) error {
	if r.dead != nil {
		return nil
	}
	r.dead = why
	return r.f.Close()
}

// Offset returns the byte of the segment at which Write goes on.
func (r *Receiver) Offset() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.off
}

// Write takes the next bytes of the segment.
func (r *Receiver) Write(p []byte) (n int, err error) {
	defer r.m.fullDisk(&err)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dead != nil {
		return 0, r.dead
	}
	if r.off+int64(len(p)) > r.header.Size {
		return 0, fault.Errorf(fault.Invalid, "segment %d of log %s is longer than the %d bytes announced",
			r.header.Segment, r.header.Log, r.header.Size)
	}
	n, err = r.f.WriteAt(p, r.off)
	_, _ = r.sha.Write(p[:n]) // a hash never fails
	r.off += int64(n)
	if err != nil {
		return n, r.m.storeError(err, "cannot write segment")
	}
	return n, nil
}

// Abort gives up; the bytes so far stay for a resume.
func (r *Receiver) Abort() {
	r.forget()
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.closeLocked(errRevoked) // best effort: what was not written is asked for again
}

func (r *Receiver) forget() {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	if r.m.active[r.path] == r {
		delete(r.m.active, r.path)
	}
}

// Commit checks the segment (its SHA-256, and every frame) and makes it
// durable: when it returns without an error the segment may be acknowledged.
// fault.Corrupt: it is damaged and was dropped; fault.NoSpace: the head and its
// undo log would not fit, the segment stays for another try.
func (r *Receiver) Commit(ctx context.Context) (err error) {
	defer r.m.fullDisk(&err)
	defer r.forget()
	if err := r.seal(); err != nil {
		return err
	}
	return r.m.commitSegment(ctx, r.header, r.path)
}

// seal checks the whole file and makes it durable under its part name.
func (r *Receiver) seal() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dead != nil {
		return r.dead
	}
	if r.off != r.header.Size {
		err := fault.Errorf(fault.Invalid, "segment %d of log %s ends after %d of %d bytes", r.header.Segment, r.header.Log, r.off, r.header.Size)
		return errors.Join(err, r.closeLocked(errRevoked))
	}
	if !bytes.Equal(r.sha.Sum(nil), r.header.SHA256) {
		err := fault.Errorf(fault.Corrupt, "segment %d of log %s arrived damaged: its SHA-256 differs", r.header.Segment, r.header.Log)
		return errors.Join(err, r.closeLocked(errRevoked), r.m.fs.Remove(r.path))
	}
	crash.At("replica.segment.received")
	var err error
	if !planted.Is(planted.SegmentSync) {
		err = r.f.Sync()
	}
	if err != nil {
		// Of what the kernel could not write it says so once; a later sync would
		// find nothing to do. So the bytes are asked for again.
		err = errors.Join(err, r.m.fs.Remove(r.path))
	}
	return r.m.storeError(errors.Join(err, r.closeLocked(errRevoked)), "cannot store segment")
}

// commitSegment checks the frames of a whole part file and gives it its name.
func (m *Machine) commitSegment(ctx context.Context, h command.SegmentHeader, part string) error {
	path := m.segmentPath(h.Disk, h.Log, h.Segment)
	tmp := path + sumsSuffix + "." + ident.NewID().Short() + vfs.TempSuffix // another connection may commit it too
	w, err := m.walkSums(ctx, h, part, tmp)
	if errors.Is(err, fs.ErrNotExist) && m.hasSegment(h.Log, h.Segment) {
		return nil // another connection was faster
	}
	if err != nil {
		if fault.Is(err, fault.Corrupt) || fault.Is(err, fault.Invalid) {
			err = errors.Join(err, m.fs.Remove(part))
		}
		return errors.Join(err, m.fs.Remove(tmp))
	}
	m.in.Lock()
	defer m.in.Unlock()
	if m.hasSegment(h.Log, h.Segment) { // another connection was faster
		w.abort()
		return m.fs.Remove(tmp)
	}
	seg, err := w.finish(func(p string, s segment) (int64, int64, error) { return m.applyCost(h.Disk, p, s) })
	if err == nil {
		err = m.checkCommit(h, seg)
	}
	if err != nil {
		return errors.Join(err, m.fs.Remove(tmp))
	}
	if err := m.fs.Rename(tmp, path+sumsSuffix); err != nil {
		return m.storeError(err, "cannot store segment")
	}
	crash.At("replica.segment.checked")
	if err := m.fs.Rename(part, path); err != nil {
		return m.storeError(err, "cannot store segment")
	}
	crash.At("replica.segment.durable")
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.segs[h.Log] == nil {
		m.segs[h.Log] = map[int]segment{}
	}
	seg.disk, seg.checked = h.Disk, m.cfg.Clock.Now()
	m.segs[h.Log][h.Segment] = seg
	return nil
}

// checkCommit asks again, now that nothing else is received: things may have
// changed while the bytes came in.
func (m *Machine) checkCommit(h command.SegmentHeader, seg segment) error {
	if err := m.checkReceiving(); err != nil {
		return err
	}
	if err := m.checkFrom(h.From); err != nil {
		return err
	}
	if err := m.checkTables(h.Disk); err != nil {
		return err
	}
	m.mu.RLock()
	log, ok := m.staged[h.Disk]
	m.mu.RUnlock()
	if !ok || log != h.Log {
		return errRevoked
	}
	return m.checkRoom(h.Disk, 0, seg.undo, seg.grow)
}
