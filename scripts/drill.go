package scripts

import (
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scheduler/cron"
)

// schedule checks when a drill is due, and when none is; a line that never is due
// has a fault.
func (p *planBuilder) schedule(b *body, d *plans.Drill) {
	if d.Cron != "" {
		if _, err := cron.Parse(d.Cron, d.TZ); err != nil {
			p.fault(b.at("cron"), "drill: %v", err)
		}
	}
	if d.On != "" {
		if _, err := cron.ParseOn(d.On, d.TZ); err != nil {
			p.fault(b.at("on"), "drill: %v", err)
		}
	}
	for _, s := range d.Blackout {
		if _, err := cron.ParseDays(s); err != nil {
			p.fault(b.at("blackout"), "drill: blackout: %v", err)
		}
	}
}
