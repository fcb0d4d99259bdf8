package execprov

import (
	"context"
	"errors"
	"os/exec"
	"strconv"
	"strings"

	"github.com/drrun/drrun/agent/provider"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
)

// systemctl runs systemctl on a unit.
func systemctl(ctx context.Context, verb, unit string) error {
	out, err := exec.CommandContext(ctx, "systemctl", verb, "--", unit).CombinedOutput() //nolint:gosec // fixed program
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
// unit's TimeoutStopSec.
func (m *Machine) stopUnit(ctx context.Context, l provider.Launch, s provider.Stop) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.Within, errNotStopped)
	defer cancel()
	if err := systemctl(ctx, "stop", m.cfg.Unit); err != nil {
		return err
	}
	if st := m.unitStatus(ctx); st.Power != recovery.PowerStopped {
		return fault.Errorf(fault.Failed, "unit %s of machine %s is %s after its stop", m.cfg.Unit, l.Machine, st.Power)
	}
	return nil
}

// unitStatus asks systemd. Anything but a clear word is unknown.
func (m *Machine) unitStatus(ctx context.Context) provider.State {
	out, err := exec.CommandContext(ctx, "systemctl", "show", "--property=ActiveState,MainPID", "--", m.cfg.Unit).Output() //nolint:gosec // fixed program
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		return provider.State{Power: recovery.PowerUnknown}
	}
	return parseUnit(string(out))
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
