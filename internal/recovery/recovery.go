// Package recovery holds the nouns of disaster recovery that runtime and
// agents share: authority records, recovery points, assignments, machine
// states. Data only, with JSON forms that are durable and go over the wire;
// what may be done with them is in internal/command (verbs).
//
// Additions to a type are optional fields; a change of meaning raises
// FormatVersion. Plain values: copy before sharing between goroutines.
package recovery

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/drrun/drrun/internal/ident"
)

// FormatVersion is the version of the JSON forms in this package.
const FormatVersion = 1

// Type is the type of a failover.
type Type string

// The types of failover.
const (
	Test      Type = "test"
	Planned   Type = "planned"
	Unplanned Type = "unplanned"
)

// Consistency says what a recovery point promises.
type Consistency string

// The kinds of consistency.
const (
	Crash Consistency = "crash" // the disks at one instant, as after a power cut
	App   Consistency = "app"   // the application had flushed and held still
	Fuzzy Consistency = "fuzzy" // read while the machine wrote; never chosen unasked
)

// Pair is one direction of replication of a machine, between host names.
type Pair struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// Authority is the epoch record of a machine: who may run it and who sends to
// whom. It is stored by agents, changed only as a whole and only by
// compare-and-set to the next number; never inferred.
type Authority struct {
	Epoch     ident.Epoch `json:"epoch"`
	Active    string      `json:"active"`              // the site that may run the machine
	Direction []Pair      `json:"direction,omitempty"` // empty: nothing replicates
	Run       string      `json:"run,omitempty"`       // the run that asked; empty: protect
	By        string      `json:"by,omitempty"`        // the person or program that asked
	At        time.Time   `json:"at"`
	// Uncommitted is set by a failover and cleared by its commit: the active
	// site runs on an overlay, the other stores what it is sent and does not
	// apply it. It belongs to the epoch but not to the record's identity:
	// cleared wins over set.
	Uncommitted bool `json:"uncommitted,omitempty"`
}

// Same reports whether a and b are the same record. Two records of one epoch
// that are not the same are a conflict.
func (a Authority) Same(b Authority) bool {
	return a.Epoch == b.Epoch && a.Active == b.Active && a.Run == b.Run && slices.Equal(a.Direction, b.Direction)
}

// Disk is one protected disk of a machine.
type Disk struct {
	Name string       `json:"name"`
	ID   ident.DiskID `json:"id"`
	Key  uint64       `json:"key"` // seeds the block hashes of this disk
	// Paths maps a site to the path of the disk there: the file or device the
	// machine runs on, and the replica's head while the site is a target. No
	// entry: STORE/MACHINE/DISK/head.img of that site's host.
	Paths      map[string]string `json:"paths,omitempty"`
	Allocation string            `json:"allocation,omitempty"` // "sparse" (default) or "full": never punch holes
}

// Exec is the configuration of the exec provider: the machine is a process
// (or a unit) started by commands. A command is a list, never a shell line.
type Exec struct {
	Start      []string      `json:"start"`
	Stop       []string      `json:"stop,omitempty"` // default: SIGTERM to the process group
	ForceAfter time.Duration `json:"force_after"`    // SIGKILL after this
	Status     []string      `json:"status,omitempty"`
	Freeze     []string      `json:"freeze,omitempty"` // default: SIGSTOP of the group: crash points
	Thaw       []string      `json:"thaw,omitempty"`
	FreezeMax  time.Duration `json:"freeze_max"` // the agent thaws by itself after this
	Unit       string        `json:"unit,omitempty"`
}

// Check is a readiness question, asked again every Every until it passes.
type Check struct {
	TCP      string        `json:"tcp,omitempty"`  // host:port; an empty host is the machine itself
	HTTP     string        `json:"http,omitempty"` // URL, or ":8080/path" for the machine itself
	Expect   int           `json:"expect,omitempty"`
	Contains string        `json:"contains,omitempty"`
	Exec     []string      `json:"exec,omitempty"`
	Every    time.Duration `json:"every,omitempty"`  // default 2s
	Within   time.Duration `json:"within,omitempty"` // default 5m
}

// Keep is one line of a retention: every Every one point for For, where Every 0
// keeps all; or, with Last, the newest Last points however old they are.
type Keep struct {
	Every time.Duration `json:"every"`
	For   time.Duration `json:"for"`
	Last  int           `json:"last,omitempty"`
}

// Policy is a replication policy with its defaults filled in.
type Policy struct {
	Name        string        `json:"name"`
	Every       time.Duration `json:"every"`
	AppEvery    time.Duration `json:"app_every,omitempty"` // 0: every point is an app point where the provider can
	RPO         time.Duration `json:"rpo,omitempty"`       // alert threshold; 0: none
	Keep        []Keep        `json:"keep,omitempty"`      // empty: keep all for 24h
	Rate        int64         `json:"rate,omitempty"`      // bytes per second on the wire; 0: unlimited
	Codec       string        `json:"codec,omitempty"`     // auto, raw, s2, zstd
	Initial     string        `json:"initial,omitempty"`   // now (default), HH:MM, existing
	Consistency Consistency   `json:"consistency,omitempty"`
	Fence       string        `json:"fence,omitempty"`       // stop (default), alarm
	StartAlone  string        `json:"start_alone,omitempty"` // ask (default), never, allow
	Lease       time.Duration `json:"lease,omitempty"`
	// Windows are the times of day in which the policy sends, "22:00-06:00";
	// empty: always.
	Windows []string `json:"windows,omitempty"`
}

// Host is where one end of an assignment lives.
type Host struct {
	Name string `json:"name"`
	Site string `json:"site"`
	Addr string `json:"addr"` // host:port of the agent
	// Store is the host's folder of replicas; empty: it can only be a source.
	Store string `json:"store,omitempty"`
}

// Address is how a machine is reached at one site.
type Address struct {
	Network string `json:"network"`
	IP      string `json:"ip"`
}

// Assignment is all an agent has to know of a machine to go on alone. Both
// ends get the same one; which role a host has follows from the authority
// record's direction.
type Assignment struct {
	Version  int    `json:"version"`
	Revision uint64 `json:"revision"` // of the estate it came from; lower ones are refused
	Estate   string `json:"estate"`
	Machine  string `json:"machine"`
	HomeSite string `json:"home_site"`
	Hosts    []Host `json:"hosts"` // the machine's home host first
	Disks    []Disk `json:"disks"`
	Policy   Policy `json:"policy"`
	Exec     *Exec  `json:"exec,omitempty"`
	Ready    *Check `json:"ready,omitempty"`
	// Addresses by site for production; TestAddresses by site on the isolated network.
	Addresses     map[string]Address `json:"addresses,omitempty"`
	TestAddresses map[string]Address `json:"test_addresses,omitempty"`
	// Allow lists by host the programs that plans may run there.
	Allow map[string][]string `json:"allow,omitempty"`
}

// Host returns the assignment's host of that name.
func (a *Assignment) Host(name string) (Host, bool) {
	i := slices.IndexFunc(a.Hosts, func(h Host) bool { return h.Name == name })
	if i < 0 {
		return Host{}, false
	}
	return a.Hosts[i], true
}

// AtSite returns the assignment's host at a site.
func (a *Assignment) AtSite(site string) (Host, bool) {
	i := slices.IndexFunc(a.Hosts, func(h Host) bool { return h.Site == site })
	if i < 0 {
		return Host{}, false
	}
	return a.Hosts[i], true
}

// PointDisk is one disk's part of a recovery point.
type PointDisk struct {
	Name     string       `json:"name"`
	ID       ident.DiskID `json:"id"`
	Size     int64        `json:"size"` // bytes, at this point
	Sum      uint64       `json:"sum"`  // whole-disk sum at this point (agent/blocksum)
	Log      ident.LogID  `json:"log"`  // the log that leads here from the previous point
	Segments int          `json:"segments"`
	Bytes    int64        `json:"bytes"` // stored bytes of the log, all segments
}

// Point is a recovery point: the manifest, written and fsynced last. Logs
// without a manifest are no point.
type Point struct {
	Version int           `json:"version"`
	ID      ident.PointID `json:"id"`
	Seq     ident.Seq     `json:"seq"` // orders the points of a machine; clocks do not
	Machine string        `json:"machine"`
	Epoch   ident.Epoch   `json:"epoch"`
	From    ident.PointID `json:"from"` // the point the logs lead from; zero: from nothing
	// Instant is the begin of the cut, source clock, UTC: only what was
	// acknowledged before it is promised.
	Instant time.Time   `json:"instant"`
	Kind    Consistency `json:"kind"`
	Group   string      `json:"group,omitempty"` // consistency group
	Labels  []string    `json:"labels,omitempty"`
	Held    bool        `json:"held,omitempty"` // never thinned until a person releases it
	Suspect string      `json:"suspect,omitempty"`
	// Diverged: it keeps what one site alone wrote and what was not carried on
	// from (a rollback, another point, an old primary). Only its id or a label
	// selects it.
	Diverged bool `json:"diverged,omitempty"`
	// LockedUntil: until then nobody can delete the point.
	LockedUntil time.Time   `json:"locked_until,omitzero"`
	Disks       []PointDisk `json:"disks"`
	// Config is the machine's configuration as its provider gave it at the cut.
	Config json.RawMessage `json:"config,omitempty"`
	// ClockOffset is source clock minus controller clock at the cut, if known;
	// ClockError its bound. Nanoseconds in JSON.
	ClockOffset time.Duration `json:"clock_offset,omitempty"`
	ClockError  time.Duration `json:"clock_error,omitempty"`
	// ClockAge is how old the measurement was at the cut. ClockOf is the host
	// whose clock it was measured against instead, while no controller had told
	// its time for long.
	ClockAge time.Duration `json:"clock_age,omitempty"`
	ClockOf  string        `json:"clock_of,omitempty"`
	// Received is the target's clock when the point became durable there.
	Received time.Time `json:"received,omitzero"`
}

// Corrected returns the instant on the controller's clock; false: how far the
// source's clock was off is not known, and it is the instant as it stands.
func (p *Point) Corrected() (at time.Time, known bool) {
	return p.Instant.Add(-p.ClockOffset), p.ClockError > 0
}

// Disk returns the point's part of the named disk.
func (p *Point) Disk(name string) (PointDisk, bool) {
	i := slices.IndexFunc(p.Disks, func(d PointDisk) bool { return d.Name == name })
	if i < 0 {
		return PointDisk{}, false
	}
	return p.Disks[i], true
}

// MachineState is a machine's place in its life, as screens show it.
type MachineState string

// The states of a machine.
const (
	Unprotected MachineState = "unprotected"
	Seeding     MachineState = "seeding"
	Protected   MachineState = "protected"
	Degraded    MachineState = "degraded" // RPO missed or cycles fail; points stay
	FailingOver MachineState = "failing-over"
	FailedOver  MachineState = "failed-over" // uncommitted
	Committed   MachineState = "committed"
	Reseeding   MachineState = "reseeding"
)

// Power is what an agent knows of a machine's process. Unknown is never taken
// for stopped.
type Power string

// The power states.
const (
	PowerUnknown Power = "unknown"
	PowerStopped Power = "stopped"
	PowerRunning Power = "running"
)
