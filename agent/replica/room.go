package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"

	"github.com/drrun/drrun/agent/hrl"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// copyRate is what a copy is expected to make, in bytes per second, until one
// was measured.
const copyRate = 200 << 20

// Room says what preparing a point for a failover would take here: in all, or
// where a file system has too little for its disks, there.
func (m *Machine) Room(point ident.PointID) (command.RoomResult, error) {
	p, err := m.point(point)
	if err != nil {
		return command.RoomResult{}, err
	}
	needs, mode, err := m.roomNeeds(p, false)
	if err != nil {
		return command.RoomResult{}, err
	}
	r := command.RoomResult{Mode: mode}
	for _, n := range needs {
		if n.free < n.bytes {
			r.Needed, r.Free = n.bytes, n.free
			break
		}
		r.Needed += n.bytes
		r.Free += n.free
	}
	r.Time = time.Duration(float64(r.Needed) / copyRate * float64(time.Second))
	return r, nil
}

// RoomBack says what ending the overlay here would take: as undo logs what the
// machine wrote on it, which is counted by reading, and then the disks of a point
// to change to, if one is given. The base goes between the two, so that its space
// is there for the second. Where a file system has too little the result is that
// one's. fault.Refused: no overlay stands here.
func (m *Machine) RoomBack(ctx context.Context, point ident.PointID, progress func(done int64)) (command.RoomResult, error) {
	written, err := m.Written(ctx, progress)
	if err != nil {
		return command.RoomResult{}, err
	}
	undo := written.Blocks * undoBlock
	free, err := m.fs.Free(m.cfg.Dir)
	if err != nil {
		return command.RoomResult{}, fmt.Errorf("cannot ask for the free space of %s: %w", m.cfg.Dir, err)
	}
	res := command.RoomResult{Mode: ModeReflink, Needed: undo, Free: max(0, free-m.cfg.Reserve)}
	if point.IsZero() || res.Needed > res.Free {
		return res, nil
	}
	p, err := m.point(point)
	if err != nil {
		return command.RoomResult{}, err
	}
	needs, mode, err := m.roomNeeds(p, false)
	if err != nil {
		return command.RoomResult{}, err
	}
	for _, n := range needs {
		for _, d := range m.names {
			if m.sameFS(filepath.Dir(m.disks[d].Head), n.dir) {
				base, err := m.allocated(d)
				if err != nil {
					return command.RoomResult{}, err
				}
				n.free += base
			}
		}
		if m.sameFS(n.dir, m.cfg.Dir) {
			n.free -= undo
		}
		if n.bytes > n.free {
			return command.RoomResult{Mode: mode, Needed: n.bytes, Free: max(0, n.free)}, nil
		}
		res.Needed += n.bytes
		res.Free = max(res.Free, n.free)
	}
	res.Mode, res.Free = mode, max(res.Free, res.Needed)
	return res, nil
}

// roomNeed is what disks take on one file system.
type roomNeed struct {
	dir         string // on it
	bytes, free int64
}

// roomNeeds returns what the disks of a point take: for a failover beside the
// heads, for a test in the store, where room that is promised to the logs not
// applied yet is left alone.
func (m *Machine) roomNeeds(p recovery.Point, test bool) (needs []roomNeed, mode string, err error) {
	add := func(dir string, n int64) {
		i := slices.IndexFunc(needs, func(r roomNeed) bool { return m.sameFS(r.dir, dir) })
		if i < 0 {
			needs, i = append(needs, roomNeed{dir: dir}), len(needs)
		}
		needs[i].bytes += n
	}
	mode = ModeReflink
	for _, d := range p.Disks {
		head := filepath.Dir(m.disks[d.Name].Head)
		dir := head
		if test {
			dir = m.cfg.Dir
		}
		n, err := m.overBytes(p, d.Name)
		if err != nil {
			return nil, "", err
		}
		if !m.sameFS(dir, head) || !m.canClone(dir) {
			mode = ModeCopy
			whole, err := m.allocated(d.Name)
			if err != nil {
				return nil, "", err
			}
			n += whole
		}
		add(dir, n)
	}
	if test {
		undo, growth := m.promised()
		add(m.cfg.Dir, undo)
		for d, n := range growth {
			if m.sameFS(filepath.Dir(m.disks[d].Head), m.cfg.Dir) {
				add(m.cfg.Dir, n)
			}
		}
	}
	for i := range needs {
		free, err := m.fs.Free(needs[i].dir)
		if err != nil {
			return nil, "", fmt.Errorf("cannot ask for the free space of %s: %w", needs[i].dir, err)
		}
		needs[i].free = max(0, free-m.cfg.Reserve)
	}
	return needs, mode, nil
}

// checkPrepareRoom refuses (fault.NoSpace) a point whose disks have no room
// here.
func (m *Machine) checkPrepareRoom(p recovery.Point, test bool) error {
	needs, _, err := m.roomNeeds(p, test)
	if err != nil {
		return err
	}
	for _, n := range needs {
		if n.free < n.bytes {
			return noSpace(n.dir, n.bytes, n.free)
		}
	}
	return nil
}

// overBytes is an upper bound of what the layers of a point write.
func (m *Machine) overBytes(p recovery.Point, disk string) (int64, error) {
	l, err := m.layersOf(p, disk)
	if err != nil {
		return 0, err
	}
	var total int64
	for _, st := range l.steps {
		for _, path := range st.paths {
			r, err := openLog(m.fs, path, hrl.NewCache(0))
			if err != nil {
				return 0, err
			}
			total += r.Footer().DataBytes
			if err := r.Close(); err != nil {
				return 0, err
			}
		}
	}
	return min(total, l.size), nil
}

// allocated returns the bytes of a disk's image that are no hole.
func (m *Machine) allocated(disk string) (n int64, err error) {
	f, err := m.fs.OpenFile(m.image(disk), vfs.ReadOnly, 0)
	if err != nil {
		return 0, ignoreMissing(err)
	}
	defer f.Close()
	for off := int64(0); ; {
		start, end, err := f.NextData(off)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return 0, fmt.Errorf("cannot read %s: %w", f.Name(), err)
		}
		n += end - start
		off = end
	}
}

// canClone asks the file system of a folder whether it can share blocks.
func (m *Machine) canClone(dir string) bool {
	probe := filepath.Join(dir, ".drrun-probe-"+m.cfg.Machine)
	names := [2]string{probe + "-a" + vfs.TempSuffix, probe + "-b" + vfs.TempSuffix}
	var files [2]vfs.File
	for i, n := range names {
		f, err := m.fs.OpenFile(n, vfs.CreateTrunc, 0o600)
		if err != nil {
			return false
		}
		defer func() { _ = f.Close(); _ = m.fs.Remove(n) }() // a probe: what stays is garbage
		files[i] = f
	}
	if _, err := files[0].WriteAt([]byte{1}, 0); err != nil {
		return false
	}
	return files[1].CloneFrom(files[0]) == nil
}
