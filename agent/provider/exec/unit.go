package execprov

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/drrun/drrun/agent/provider"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
)

// systemctl runs systemctl on a unit.
func systemctl(ctx context.Context, verb, unit string, flags ...string) error {
	cmd := exec.CommandContext(ctx, "systemctl", append(append([]string{verb}, flags...), "--", unit)...) //nolint:gosec // fixed program
	cmd.WaitDelay = time.Second                                                                           // a child of its own may keep the output open
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fault.Errorf(fault.Failed, "cannot %s unit %s: %w: %s", verb, unit, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// startUnit starts the unit. A unit takes no placeholders: its file names the
// disks.
func (m *Machine) startUnit(ctx context.Context, l provider.Launch) (provider.Process, error) {
	if l.Type == provider.Test {
		return provider.Process{}, fault.Errorf(fault.Refused, "machine %s is a systemd unit: it cannot be started on test disks", l.Machine).
			WithHint("give its exec provider a start command that takes {disk.NAME}")
	}
	if err := systemctl(ctx, "start", m.cfg.Unit); err != nil {
		return provider.Process{}, err
	}
	return provider.Process{Launch: l}, nil
}

// stopUnit stops the unit. systemd itself kills what does not stop in the
// unit's TimeoutStopSec; forced says so as well.
func (m *Machine) stopUnit(ctx context.Context, l provider.Launch, s provider.Stop) (forced bool, err error) {
	grace, cancel := context.WithTimeoutCause(ctx, s.Within, errNotStopped)
	defer cancel()
	err = systemctl(grace, "stop", m.cfg.Unit)
	if err != nil && grace.Err() != nil && ctx.Err() == nil {
		if !s.Force {
			return false, fault.Errorf(fault.Failed, "unit %s of machine %s did not stop within %s", m.cfg.Unit, l.Machine, s.Within).
				WithHint("look at the unit, or allow a forced stop (force_after in the plan's shutdown)")
		}
		hard, stop := context.WithTimeoutCause(ctx, killWait, errNotStopped)
		defer stop()
		forced = true
		err = systemctl(hard, "kill", m.cfg.Unit, "--signal=SIGKILL")
		if err == nil {
			err = poll(hard, func() (bool, error) { return m.unitStatus(hard).Power == recovery.PowerStopped, nil })
		}
	}
	if err != nil {
		return forced, err
	}
	st := m.unitStatus(ctx)
	if st.Power != recovery.PowerStopped {
		return forced, fault.Errorf(fault.Failed, "unit %s of machine %s is %s after its stop", m.cfg.Unit, l.Machine, st.Power)
	}
	return forced || st.Exit == "failed", nil // killed by systemd, or it ended badly
}

// unitStatus asks systemd. Anything but a clear word is unknown.
func (m *Machine) unitStatus(ctx context.Context) provider.State {
	out, err := exec.CommandContext(ctx, "systemctl", "show", "--property=ActiveState,MainPID", "--", m.cfg.Unit).Output() //nolint:gosec // fixed program
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		return provider.State{Power: recovery.PowerUnknown, Why: fmt.Sprintf("systemctl cannot be asked about unit %s: %v", m.cfg.Unit, err)}
	}
	st := parseUnit(string(out))
	if st.Power == recovery.PowerUnknown {
		st.Why = fmt.Sprintf("systemctl does not say whether unit %s is active", m.cfg.Unit)
	}
	return st
}

// parseUnit reads the properties that systemctl shows.
func parseUnit(out string) provider.State {
	st := provider.State{Power: recovery.PowerUnknown}
	for line := range strings.Lines(out) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch {
		case k == "MainPID":
			if pid, err := strconv.Atoi(v); err == nil && pid > 0 {
				st.PID = pid
			}
		case k == "ActiveState" && (v == "inactive" || v == "failed"):
			st.Power, st.Exit = recovery.PowerStopped, v
		case k == "ActiveState" && v != "":
			st.Power = recovery.PowerRunning // active, activating, deactivating, reloading
		}
	}
	return st
}

// unitFrozen reports whether systemd holds the unit still; in doubt it does.
func (m *Machine) unitFrozen(ctx context.Context) bool {
	out, err := exec.CommandContext(ctx, "systemctl", "show", "--property=FreezerState", "--value", "--", m.cfg.Unit).Output() //nolint:gosec // fixed program
	return err != nil || strings.TrimSpace(string(out)) != "running"
}
