package agent_test

import (
	"testing"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/recovery"
)

func TestPlannedThereAndBack(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.protect()
	if st := p.status("par-1"); st.Role != command.RoleSource || st.State != recovery.Protected || st.Power != recovery.PowerRunning {
		t.Errorf("source is %+v", st)
	}
	p.hand("erp-1", "par-1", "lyo-1", "lyon", back)

	st := p.points("par-1", 2) // the new site is protected before the commit
	if st.Role != command.RoleTarget || st.State != recovery.FailedOver || !st.Locked || st.Power != recovery.PowerStopped {
		t.Errorf("old site is %+v", st)
	}
	home := counted(t, p.disk)
	p.points("par-1", 1)
	if counted(t, p.disk) != home {
		t.Error("the old site's disk was written before the commit")
	}
	for _, h := range []string{"lyo-1", "par-1"} {
		call(p, command.Commit, h, p.meta("erp-1"))
	}
	p.until("par-1", "reverse logs applied", func(st command.MachineStatus) bool {
		return st.State == recovery.Protected && st.Applied > 0 && counted(t, p.disk) > home
	})
	if st := p.status("lyo-1"); st.State != recovery.Protected || st.Role != command.RoleSource {
		t.Errorf("new site is %+v", st)
	}

	p.hand("erp-2", "lyo-1", "par-1", "paris", forward)
	p.points("lyo-1", 2)
	for _, h := range []string{"lyo-1", "par-1"} {
		call(p, command.Commit, h, p.meta("erp-2"))
	}
	p.points("lyo-1", 1)
	if st := p.status("par-1"); st.State != recovery.Protected || st.Locked || st.Power != recovery.PowerRunning {
		t.Errorf("home again is %+v", st)
	}
}
