package replica

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/drrun/drrun/agent/hrl"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

// list returns the names in a folder; a missing folder is empty.
func (m *Machine) list(dir string) ([]string, error) {
	entries, err := m.fs.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list %s: %w", dir, err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// parseSegment reads the name of a file in logs/: LOGID.NNNN.hrl and what may
// follow it.
func parseSegment(file string) (log ident.LogID, n int, rest string) {
	id, tail, _ := strings.Cut(file, ".")
	num, rest, _ := strings.Cut(tail, ".")
	parsed, err := ident.ParseID(id)
	if err != nil {
		return ident.LogID{}, 0, ""
	}
	n, err = strconv.Atoi(num)
	if err != nil || n < 0 || n >= maxSegments {
		return ident.LogID{ID: parsed}, -1, "." + rest
	}
	return ident.LogID{ID: parsed}, n, "." + rest
}

// undoPart returns the path of a further part of an undo log.
func undoPart(path string, n int) string {
	return strings.TrimSuffix(path, ".hrl") + fmt.Sprintf(".%04d.hrl", n)
}

// undoFiles returns the files of the undo log of a disk between two
// neighbouring points, in any order: they do not overlap. A missing one is
// fault.Corrupt.
func (m *Machine) undoFiles(disk string, newer, older ident.Seq) ([]string, error) {
	path := m.undoPath(disk, newer, older)
	if _, err := m.fs.Stat(path); err != nil {
		return nil, fault.Errorf(fault.Corrupt, "disk %s: the undo log from point %d to %d is missing: %w", disk, newer, older, err).
			WithHint("older points of the machine cannot be read here; the newer ones are whole")
	}
	if _, err := m.fs.Stat(undoPart(path, 0)); errors.Is(err, fs.ErrNotExist) {
		return []string{path}, nil
	} else if err != nil {
		return nil, err
	}
	r, err := hrl.Open(m.fs, path)
	if err != nil {
		return nil, err
	}
	parts := r.Header().Segment
	if err := r.Close(); err != nil {
		return nil, err
	}
	files := make([]string, 0, parts+1)
	for n := range parts {
		files = append(files, undoPart(path, n))
	}
	return append(files, path), nil
}

// step is a pair of neighbouring points.
type step struct{ newer, older recovery.Point }

// stepsDown returns the pairs between the applied point and an older one,
// newest first; a zero mark of older means down to the oldest.
func (m *Machine) stepsDown(to ident.Seq) []step {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []step
	for i := len(m.points) - 1; i > 0; i-- {
		if n := m.points[i]; n.Seq <= m.st.Applied.Seq && n.Seq > to {
			out = append(out, step{n, m.points[i-1]})
		}
	}
	return out
}

// stepsUp returns the points that are accepted and not applied, up to a
// sequence number, oldest first.
func (m *Machine) stepsUp(to ident.Seq) []recovery.Point {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []recovery.Point
	for _, p := range m.points {
		if p.Seq > m.st.Applied.Seq && p.Seq <= to {
			out = append(out, p)
		}
	}
	return out
}

// layersOf returns what lies between the image of a disk and a point.
func (m *Machine) layersOf(p recovery.Point, disk string) (layers, error) {
	d, ok := p.Disk(disk)
	if !ok {
		return layers{}, fault.Errorf(fault.NotFound, "point %s has no disk %s", p.ID, disk)
	}
	if err := m.readable(p); err != nil {
		return layers{}, err
	}
	l := layers{size: d.Size}
	down := layerStep{size: d.Size}
	for _, s := range m.stepsDown(p.Seq) {
		if _, ok := s.newer.Disk(disk); !ok {
			continue
		}
		files, err := m.undoFiles(disk, s.newer.Seq, s.older.Seq)
		if err != nil {
			return layers{}, err
		}
		down.paths = append(down.paths, files...)
	}
	if len(down.paths) > 0 {
		l.steps = append(l.steps, down)
	}
	for _, q := range m.stepsUp(p.Seq) {
		if qd, ok := q.Disk(disk); ok {
			l.steps = append(l.steps, layerStep{paths: m.segmentPaths(qd), size: qd.Size})
		}
	}
	return l, nil
}

// readable refuses a point whose manifest is damaged, or with a disk that is
// not assigned here any more.
func (m *Machine) readable(p recovery.Point) error {
	for _, d := range p.Disks {
		if _, ok := m.disks[d.Name]; !ok {
			return fault.Errorf(fault.Refused, "point %s has disk %s, which the machine no longer has here", p.ID, d.Name)
		}
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if k, ok := m.st.givenUp(); ok && k == markOf(p) && m.st.Discarded.Begun {
		return fault.Errorf(fault.Corrupt, "point %s was discarded, and its disks are being overwritten", p.ID)
	}
	if err := m.damaged[p.ID]; err != nil {
		return err
	}
	return m.broken[p.ID]
}

// segmentPaths returns the segments of a point's log of a disk, in order.
func (m *Machine) segmentPaths(d recovery.PointDisk) []string {
	paths := make([]string, 0, d.Segments)
	for n := range d.Segments {
		paths = append(paths, m.segmentPath(d.Name, d.Log, n))
	}
	return paths
}
