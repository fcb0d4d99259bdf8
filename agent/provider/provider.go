// Package provider says how a machine is started, stopped, asked and held
// still. It is the seam between the agent and a hypervisor; provider/exec is
// the one that needs nothing (commands, or a systemd unit).
//
// A provider keeps no durable state: what it must know of a started machine is
// in Process, which the agent stores. Methods may be called from any
// goroutine, but the agent serialises start, stop, freeze and thaw of one
// machine.
package provider

import (
	"context"
	"time"

	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

// The types of a launch: a test runs on throw-away disks.
const (
	Production = "production"
	Test       = "test"
)

// Launch is what a machine is started with.
type Launch struct {
	Machine string            `json:"machine"`
	Site    string            `json:"site"`
	IP      string            `json:"ip,omitempty"`
	Epoch   ident.Epoch       `json:"epoch"`
	Run     string            `json:"run,omitempty"`
	Type    string            `json:"type"`  // Production or Test
	Disks   map[string]string `json:"disks"` // path by disk name
	// Token is a fresh random word of this launch. It is durable at the agent
	// before Start is called, so that a process whose start was cut short by
	// a crash is found again and never started twice.
	Token string `json:"token"`
}

// Process identifies a started machine for as long as it runs, also for an
// agent that was started later.
type Process struct {
	PID     int    `json:"pid,omitempty"`     // 0: the provider has no process of its own (a unit)
	Started uint64 `json:"started,omitempty"` // start time in clock ticks since boot
	Boot    string `json:"boot,omitempty"`    // boot id of the host
	Launch  Launch `json:"launch"`
}

// State is the answer to Status.
type State struct {
	Power recovery.Power
	PID   int
	Exit  string // how its first process ended, if known: "exit status 1"
	Why   string // why Power is unknown, if known
}

// Stop says how to stop.
type Stop struct {
	Within time.Duration // for the graceful part; 0: the configured force_after
	Force  bool          // then by force
}

// Provider starts, stops, asks and freezes one machine.
type Provider interface {
	// Start starts the machine; it returns when the process exists, not when
	// the machine is ready.
	Start(ctx context.Context, l Launch) (Process, error)
	// Find looks for the process of a launch whose Start was cut short. Not
	// found means that none runs.
	Find(ctx context.Context, l Launch) (Process, bool, error)
	// Status asks once. A doubt is PowerUnknown, never PowerStopped.
	Status(ctx context.Context, p Process) State
	// Stop stops gracefully, then by force if allowed, and returns when no
	// process is left. Stopped already is no error. fault.Failed: it runs on.
	Stop(ctx context.Context, p Process, s Stop) (forced bool, err error)
	// Freeze holds the machine still: when it returns nothing writes. The
	// caller thaws in any case, also after an error. app asks the application
	// to flush first, where the provider can: the result says what holds.
	Freeze(ctx context.Context, p Process, app bool) (recovery.Consistency, error)
	// Thaw lets it go on; app is what Freeze was asked for. Not frozen is no
	// error, as far as the configured commands know how to say so.
	Thaw(ctx context.Context, p Process, app bool) error
}
