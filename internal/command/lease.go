package command

import (
	"time"

	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

// A lease is the word of the host that runs a machine, given to the host that
// receives it: when no renewal was granted for Length it has stopped the machine,
// at most Stop later. So a run may count on that where nobody can ask.
var (
	// Renew, agent → agent, asks the receiving host to count a lease from now.
	Renew = Verb[RenewRequest, RenewResult]{"renew"}
	// Lease, runtime → agent, ends the renewals of a machine's lease at the
	// receiving host, durably, or lets them go on. Idempotent.
	Lease = Verb[LeaseRequest, LeaseResult]{"lease"}
)

// RenewRequest is the source's word. Authority is its record, as with Confirm.
type RenewRequest struct {
	Machine   string             `json:"machine"`
	Authority recovery.Authority `json:"authority"`
	// Rev grows whenever the source changes its word: a request that was late on
	// its way must not bring an older one back.
	Rev    uint64        `json:"rev"`
	Length time.Duration `json:"length"` // 0: from here it gives none
	Stop   time.Duration `json:"stop"`   // its bound for a stop at the end
}

// RenewResult is the receiving host's answer.
type RenewResult struct {
	Authority recovery.Authority `json:"authority"`
	// Granted: what was asked for is durable, and counted from after the request
	// came.
	Granted bool   `json:"granted"`
	Rev     uint64 `json:"rev"` // the highest it has seen under this record
	// Stale: the request is older than what the host has.
	Stale bool   `json:"stale,omitempty"`
	Why   string `json:"why,omitempty"` // it was not granted
}

// LeaseRequest ends the renewals of a lease; with Open it lets them go on.
type LeaseRequest struct {
	Meta
	Open bool `json:"open,omitempty"`
}

// LeaseResult is the lease after the request; nil: none is on record, nothing
// says when the machine is stopped.
type LeaseResult struct {
	Lease *LeaseStatus `json:"lease,omitempty"`
}

// LeaseStatus is a lease as one of its two hosts knows it.
type LeaseStatus struct {
	Source string        `json:"source"` // host that runs the machine
	Target string        `json:"target"` // host that grants
	Epoch  ident.Epoch   `json:"epoch"`
	Length time.Duration `json:"length"`
	// Granted: the source holds it now; the target renews it.
	Granted bool `json:"granted"`
	// Age is the time since the newest renewal that was granted, Left the time
	// until the machine is stopped: at the source until the stop must be over, at
	// the target until a run may count on it, if none is granted any more.
	Age  time.Duration `json:"age"`
	Left time.Duration `json:"left"`
	// Closed is the run for which the target grants none any more.
	Closed string `json:"closed,omitempty"`
	// Without says who permitted the machine to run without its lease.
	Without string `json:"without,omitempty"`
	Why     string `json:"why,omitempty"` // it is not granted
}
