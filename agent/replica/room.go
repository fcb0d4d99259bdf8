package replica

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
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

// Room says what preparing a point would take here.
func (m *Machine) Room(point ident.PointID) (command.RoomResult, error) {
	p, err := m.point(point)
	if err != nil {
		return command.RoomResult{}, err
	}
	return m.room(p)
}

func (m *Machine) room(p recovery.Point) (command.RoomResult, error) {
	r := command.RoomResult{Mode: ModeReflink, Free: 1 << 62}
	for _, d := range p.Disks {
		head := m.disks[d.Name].Head
		over, err := m.overBytes(p, d.Name)
		if err != nil {
			return command.RoomResult{}, err
		}
		r.Needed += over
		if !m.canClone(filepath.Dir(head)) {
			r.Mode = ModeCopy
			n, err := m.allocated(d.Name)
			if err != nil {
				return command.RoomResult{}, err
			}
			r.Needed += n
		}
		free, err := m.fs.Free(filepath.Dir(head))
		if err != nil {
			return command.RoomResult{}, fmt.Errorf("cannot ask for the free space of %s: %w", filepath.Dir(head), err)
		}
		r.Free = min(r.Free, max(0, free-m.cfg.Reserve))
	}
	r.Time = time.Duration(float64(r.Needed) / copyRate * float64(time.Second))
	return r, nil
}

func (m *Machine) checkPrepareRoom(p recovery.Point) error {
	r, err := m.room(p)
	if err != nil {
		return err
	}
	if r.Free < r.Needed {
		return noSpace(filepath.Dir(m.disks[p.Disks[0].Name].Head), r.Needed, r.Free)
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
			r, err := hrl.Open(m.fs, path)
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
	names := [2]string{filepath.Join(dir, ".drrun-probe-a"+vfs.TempSuffix), filepath.Join(dir, ".drrun-probe-b"+vfs.TempSuffix)}
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
