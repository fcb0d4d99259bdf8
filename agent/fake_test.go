package agent_test

import (
	"context"
	"sync"

	"github.com/drrun/drrun/agent/provider"
	"github.com/drrun/drrun/internal/recovery"
)

// fakeProvider is a machine without processes. The hooks, where set, come
// before what the method does; they are set before the agent starts.
type fakeProvider struct {
	onFreeze func(context.Context) error
	onThaw   func()
	onStart  func() error // its error is returned although the machine runs
	onStop   func() error // its error is returned and the machine runs on

	mu     sync.Mutex
	power  recovery.Power
	starts int
	stops  int
}

var _ provider.Provider = (*fakeProvider)(nil)

func (f *fakeProvider) counts() (starts, stops int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.starts, f.stops
}

func (f *fakeProvider) set(p recovery.Power) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.power = p
}

func (f *fakeProvider) Start(_ context.Context, l provider.Launch) (provider.Process, error) {
	f.mu.Lock()
	f.starts++
	f.power = recovery.PowerRunning
	f.mu.Unlock()
	if f.onStart != nil {
		if err := f.onStart(); err != nil {
			return provider.Process{}, err
		}
	}
	return provider.Process{PID: 1, Launch: l}, nil
}

func (f *fakeProvider) Find(ctx context.Context, l provider.Launch) (provider.Process, bool, error) {
	return provider.Process{PID: 1, Launch: l}, f.Status(ctx, provider.Process{}).Power != recovery.PowerStopped, nil
}

func (f *fakeProvider) Status(context.Context, provider.Process) provider.State {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.power == "" {
		return provider.State{Power: recovery.PowerStopped}
	}
	return provider.State{Power: f.power, PID: 1}
}

func (f *fakeProvider) Stop(context.Context, provider.Process, provider.Stop) (bool, error) {
	f.mu.Lock()
	f.stops++
	f.mu.Unlock()
	if f.onStop != nil {
		if err := f.onStop(); err != nil {
			return false, err
		}
	}
	f.set(recovery.PowerStopped)
	return false, nil
}

func (f *fakeProvider) Freeze(ctx context.Context, _ provider.Process, _ bool) (recovery.Consistency, error) {
	if f.onFreeze != nil {
		if err := f.onFreeze(ctx); err != nil {
			return "", err
		}
	}
	return recovery.Crash, nil
}

func (f *fakeProvider) Thaw(context.Context, provider.Process, bool) error {
	if f.onThaw != nil {
		f.onThaw()
	}
	return nil
}
