package replica

import (
	"context"
	"slices"

	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

// Label replaces the labels of a point and sets or releases its hold, durably.
// A point with a label or a hold is never thinned.
func (m *Machine) Label(ctx context.Context, point ident.PointID, labels []string, held bool) (_ recovery.Point, err error) {
	defer m.fullDisk(&err)
	ctx, done, err := m.work.take(ctx, normal)
	if err != nil {
		return recovery.Point{}, err
	}
	defer done()
	if err := m.settle(ctx); err != nil {
		return recovery.Point{}, err
	}
	m.in.Lock()
	defer m.in.Unlock()
	p, err := m.point(point)
	if err != nil {
		return recovery.Point{}, err
	}
	if err := m.readable(p); err != nil {
		return recovery.Point{}, err
	}
	p.Labels, p.Held = slices.Clone(labels), held
	if err := m.writePoint(p); err != nil {
		return recovery.Point{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.points = slices.Clone(m.points)
	i := slices.IndexFunc(m.points, func(q recovery.Point) bool { return q.ID == point })
	m.points[i] = p
	return p, nil
}
