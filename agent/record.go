package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/drrun/drrun/agent/provider"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/durable"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// RecordVersion is the version of machine.json this package writes.
const RecordVersion = 1

// recordFormat is what this program makes of machine.json of other versions.
var recordFormat = durable.Format{Version: RecordVersion, Must: []string{featureLease}, Program: Program}

const (
	recordName = "machine.json"
	maxPermits = 20 // kept in a record
)

// record is machine.json: all an agent durably knows of a machine. It is
// replaced as a whole.
type record struct {
	Version int      `json:"version"`
	Must    []string `json:"must"` // features a reader has to know
	May     []string `json:"may"`  // features a reader may ignore

	Assignment recovery.Assignment `json:"assignment"`
	Authority  recovery.Authority  `json:"authority"`
	Fence      ident.Fence         `json:"fence,omitempty"`
	FenceRun   string              `json:"fence_run,omitempty"` // who claimed with it
	// Takeover is the run that has claimed the machine to take it over to this
	// host: to its site now the record is not confirmed.
	Takeover string `json:"takeover,omitempty"`
	// unstored is a newer record that could not be made durable (the disk is
	// full): what it forbids is forbidden all the same.
	unstored *recovery.Authority
	// Conflict is another record of the same epoch: both hosts refuse.
	Conflict *recovery.Authority `json:"conflict,omitempty"`
	// Locked: this host has given up the right to start the machine.
	Locked  bool           `json:"locked,omitempty"`
	Desired recovery.Power `json:"desired,omitempty"` // running or stopped
	// Launch is durable before a start, Process after it: a launch without
	// process was cut short.
	Launch  *provider.Launch  `json:"launch,omitempty"`
	Process *provider.Process `json:"process,omitempty"`
	// Clean: the machine ended after a graceful stop, so its disks hold what
	// its applications promised. Cleared by a start.
	Clean bool `json:"clean,omitempty"`
	// Final is the acknowledged point after which nothing was written: the
	// machine was stopped. Cleared by a start.
	Final ident.PointID `json:"final,omitzero"`
	// Frozen is set before a freeze and cleared after its thaw.
	Frozen *freezeMark `json:"frozen,omitempty"`
	// Own: the disks at this host's paths are the machine's own (its home ones,
	// or those of a failover), not a replica's heads.
	Own bool `json:"own,omitempty"`
	// Sending is the epoch whose source tables were adopted, Receiving the one
	// whose replica was: each is done once an epoch.
	Sending   ident.Epoch `json:"sending,omitempty"`
	Receiving ident.Epoch `json:"receiving,omitempty"`
	// Found says that the disks here, which hold writes that only they have,
	// were kept as a point: they may be overwritten by what is received.
	Found *command.FoundResult `json:"found,omitempty"`
	// Leaving: a rollback made the heads here the machine's own disks again, and
	// the store that received over them is being removed.
	Leaving bool `json:"leaving,omitempty"`
	// Proof is what was read last for the read proof, until the disks move on.
	Proof *proofRecord `json:"proof,omitempty"`
	// Stored is the folder that a replica was made in here: if it is gone, it is
	// not mounted, and no other one is begun in its place.
	Stored string `json:"stored,omitempty"`
	// Tests that stand here, by id.
	Tests   map[string]testRecord `json:"tests,omitempty"`
	Permits []permit              `json:"permits,omitempty"`
	// Obeys is the lease that this host keeps, Lets the one that it grants. What
	// they point at is replaced, never changed.
	Obeys *obligation `json:"obeys,omitempty"`
	Lets  *letting    `json:"lets,omitempty"`
	// LeaseStop: the machine is to run and was stopped when its lease ended.
	LeaseStop *leaseStop    `json:"lease_stop,omitempty"`
	Without   *withoutLease `json:"without_lease,omitempty"`
	// extra are fields of a newer program, which may be ignored and are kept.
	extra durable.Extra
}

// freezeMark says how a machine is held still.
type freezeMark struct {
	App bool `json:"app"` // by the application's own commands, if it has any
}

// proofRecord is the result of a read proof; the block tables of its disks lie
// in the machine's files.
type proofRecord struct {
	Point  ident.PointID       `json:"point"`
	Result command.ProofResult `json:"result"`
}

// testRecord is a test failover at this host.
type testRecord struct {
	Point ident.PointID `json:"point"`
	Run   string        `json:"run,omitempty"`
	// Deadline is when the agent cleans it up by itself; zero: never.
	Deadline time.Time         `json:"deadline,omitzero"`
	Paths    map[string]string `json:"paths,omitempty"` // of the view's disks, when it is prepared
	Launch   *provider.Launch  `json:"launch,omitempty"`
	Process  *provider.Process `json:"process,omitempty"`
}

// permit is an operator's word that the machine may start although no peer
// answers.
type permit struct {
	By    string      `json:"by"`
	At    time.Time   `json:"at"`
	Epoch ident.Epoch `json:"epoch"`
	// WithoutLease: it may run on although its lease is not renewed.
	WithoutLease bool `json:"without_lease,omitempty"`
}

// clone copies what update may change in place.
func (r record) clone() record {
	r.Tests = maps.Clone(r.Tests)
	r.Permits = slices.Clone(r.Permits)
	return r
}

// decodeRecord reads machine.json. fault.Corrupt: damaged; fault.Refused:
// written by a newer program.
func decodeRecord(name string, b []byte) (record, error) {
	var r record
	b, err := recordFormat.Upgrade(name, b)
	if err != nil {
		return record{}, err
	}
	if err = json.Unmarshal(b, &r); err == nil {
		r.extra, err = durable.Unknown(b, r)
	}
	if err != nil {
		return record{}, fault.Errorf(fault.Corrupt, "cannot read %s: %w", name, err).
			WithHint("move the file away and apply the estate again")
	}
	if err := checkAssignment(&r.Assignment); err != nil {
		return record{}, fault.Errorf(fault.Corrupt, "cannot read %s: %w", name, err)
	}
	return r, nil
}

// checkAssignment refuses names that could not stand as folders, and paths
// that are not whole ones.
func checkAssignment(a *recovery.Assignment) error {
	if a.Version > recovery.FormatVersion {
		return fault.Errorf(fault.Refused, "the assignment has version %d, this agent knows %d", a.Version, recovery.FormatVersion).
			WithHint("update drrun-agent on this host")
	}
	if err := ident.CheckName(a.Machine); err != nil {
		return fault.Errorf(fault.Invalid, "machine: %w", err)
	}
	if len(a.Hosts) == 0 || len(a.Disks) == 0 {
		return fault.Errorf(fault.Invalid, "machine %s has %d hosts and %d disks", a.Machine, len(a.Hosts), len(a.Disks))
	}
	for _, h := range a.Hosts {
		if err := ident.CheckName(h.Name); err != nil {
			return fault.Errorf(fault.Invalid, "machine %s: host: %w", a.Machine, err)
		}
		if h.Store != "" && !filepath.IsAbs(h.Store) {
			return fault.Errorf(fault.Invalid, "machine %s: store %q of host %s is not an absolute path", a.Machine, h.Store, h.Name)
		}
	}
	seen := map[string]bool{}
	for _, d := range a.Disks {
		if err := ident.CheckName(d.Name); err != nil {
			return fault.Errorf(fault.Invalid, "machine %s: disk: %w", a.Machine, err)
		}
		if seen[d.Name] || d.ID.IsZero() {
			return fault.Errorf(fault.Invalid, "machine %s: disk %s is named twice or has no id", a.Machine, d.Name)
		}
		seen[d.Name] = true
		for site, p := range d.Paths {
			if !filepath.IsAbs(p) {
				return fault.Errorf(fault.Invalid, "machine %s: disk %s: path %q at site %s is not absolute", a.Machine, d.Name, p, site)
			}
		}
	}
	return nil
}

// write makes the record durable in dir.
func (r *record) write(fsys vfs.FS, dir string) error {
	r.Version = RecordVersion
	if r.Must == nil {
		r.Must = []string{}
	}
	if r.May == nil {
		r.May = []string{}
	}
	r.Must = slices.DeleteFunc(slices.Clone(r.Must), func(f string) bool { return f == featureLease })
	if r.owes() {
		r.Must = append(r.Must, featureLease)
	}
	b, err := durable.Marshal(*r, r.extra)
	if err != nil {
		return fmt.Errorf("cannot encode %s: %w", recordName, err)
	}
	var text bytes.Buffer
	if err := json.Indent(&text, b, "", " "); err != nil {
		return fmt.Errorf("cannot encode %s: %w", recordName, err)
	}
	if err := vfs.WriteFile(fsys, filepath.Join(dir, recordName), append(text.Bytes(), '\n'), 0o600); err != nil {
		return fmt.Errorf("cannot write %s: %w", filepath.Join(dir, recordName), err)
	}
	return nil
}

// inForce is the newest authority record this host knows.
func (r *record) inForce() recovery.Authority {
	if r.unstored != nil && r.unstored.Epoch > r.Authority.Epoch {
		return *r.unstored
	}
	return r.Authority
}

// role is what host does for the machine under the record's authority.
func (r *record) role(host string) string {
	h, ok := r.Assignment.Host(host)
	if !ok {
		return roleNone
	}
	for _, p := range r.Authority.Direction {
		if p.From == host && h.Site == r.Authority.Active {
			return roleSource
		}
		if p.To == host && h.Site != r.Authority.Active {
			return roleTarget
		}
	}
	return roleNone
}

// target is the host that a sending host sends to.
func (r *record) target(host string) (recovery.Host, bool) {
	for _, p := range r.Authority.Direction {
		if p.From == host {
			return r.Assignment.Host(p.To)
		}
	}
	return recovery.Host{}, false
}

// describe names an authority record for messages.
func describe(a recovery.Authority) string {
	s := fmt.Sprintf("epoch %d (active site %s", a.Epoch, a.Active)
	if a.Run != "" {
		s += ", run " + a.Run
	}
	return s + ")"
}
