package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/drrun/drrun/agent/provider"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// left is the process of a machine whose protection ended here while it went
// on running: if the machine is protected again, it is adopted and not started a
// second time. It lies in AGENT/left/MACHINE.json.
type left struct {
	Version int               `json:"version"`
	Must    []string          `json:"must"`
	Launch  *provider.Launch  `json:"launch,omitempty"`
	Process *provider.Process `json:"process,omitempty"`
}

func (a *Agent) leftFile(machine string) string {
	return filepath.Join(a.o.State, "left", machine+".json")
}

// leave notes the process of a machine that is unassigned.
func (a *Agent) leave(rec *record) error {
	if rec.Launch == nil && rec.Process == nil {
		return nil
	}
	b, err := json.Marshal(left{Version: 1, Must: []string{}, Launch: rec.Launch, Process: rec.Process})
	if err != nil {
		return fault.Errorf(fault.Internal, "cannot note the process of machine %s: %w", rec.Assignment.Machine, err)
	}
	name := a.leftFile(rec.Assignment.Machine)
	if err := a.o.FS.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	return vfs.WriteFile(a.o.FS, name, b, 0o600)
}

// leftOf reads what leave has noted; nil: nothing.
func (a *Agent) leftOf(machine string) (*left, error) {
	name := a.leftFile(machine)
	b, err := vfs.ReadFile(a.o.FS, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	l, err := decodeLeft(b)
	if err != nil {
		return nil, fault.Errorf(fault.KindOf(err), "cannot read %s: %w", name, err).
			WithHint("make sure that machine %s does not run here, then move the file away", machine)
	}
	return l, nil
}

// decodeLeft reads the file. fault.Refused: a newer program wrote it;
// fault.Corrupt: it is damaged.
func decodeLeft(b []byte) (*left, error) {
	var l left
	if err := json.Unmarshal(b, &l); err != nil {
		return nil, fault.Wrap(fault.Corrupt, err)
	}
	if l.Version > 1 || len(l.Must) > 0 {
		return nil, fault.Errorf(fault.Refused, "version %d with features %q is not known", l.Version, l.Must)
	}
	if l.Version < 1 || l.Launch == nil && l.Process == nil {
		return nil, fault.Errorf(fault.Corrupt, "it names no process")
	}
	return &l, nil
}

// takeUp gives a fresh machine the process that its last protection left here.
// It refuses where that runs and another site is to be the active one.
func (m *machine) takeUp(ctx context.Context, as *recovery.Assignment, active string) (*left, error) {
	l, err := m.a.leftOf(as.Machine)
	if err != nil || l == nil || active == m.a.site() {
		return l, err
	}
	m.mu.Lock()
	m.rec.Assignment, m.rec.Launch, m.rec.Process = *as, l.Launch, l.Process
	m.mu.Unlock()
	if err := m.makeProvider(); err != nil {
		return nil, err
	}
	if st := m.state(ctx); st.Power != recovery.PowerStopped {
		return nil, fault.Errorf(fault.Refused, "machine %s is %s at host %s, where its protection ended: site %s cannot be the active one", as.Machine, st.Power, m.a.host(), active).
			WithHint("stop it here first, or make %s its home in the estate", m.a.host())
	}
	return l, nil
}
