package estate

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
)

// Record is what a machine got when it was first protected and keeps: the
// identity of its disks, where its replica is, its first authority record.
type Record struct {
	Machine string                `json:"machine"`
	Home    string                `json:"home"`    // host
	Replica string                `json:"replica"` // host
	Disks   map[string]DiskRecord `json:"disks"`   // by name; a disk that left the file stays here
	First   recovery.Authority    `json:"first"`   // stored by agents that have no record yet
	// Last is the newest assignment that was made. A machine that left the
	// file stays protected by it until it is unprotected.
	Last recovery.Assignment `json:"last"`
	Left bool                `json:"left,omitempty"` // not in the estate any more
	// Boot says that the machine is to be started at home once.
	Boot bool `json:"boot,omitempty"`
}

// DiskRecord is the identity of a disk.
type DiskRecord struct {
	ID  ident.DiskID `json:"id"`
	Key uint64       `json:"key"`
}

// hosts returns the two hosts of the machine, home first.
func (r *Record) hosts() []string { return []string{r.Home, r.Replica} }

// place is a host with where it stands.
type place struct {
	plans.Host
	site, cloud string
}

func (p place) addr() string { return p.AddrPort() }

// places lists every host of an estate by name.
func places(e *plans.Estate) map[string]place {
	out := map[string]place{}
	for _, s := range e.Sites {
		for _, c := range s.Clouds {
			for _, h := range c.Hosts {
				out[h.Name] = place{Host: h, site: s.Name, cloud: c.Name}
			}
		}
	}
	return out
}

// newRecord protects a machine: fresh disk identities and the first authority
// record, home → replica.
func newRecord(m plans.Machine, homeSite, replica string, now time.Time) Record {
	r := Record{Machine: m.Name, Home: m.Host, Replica: replica, Disks: map[string]DiskRecord{}, Boot: m.Exec != nil}
	r.First = recovery.Authority{
		Epoch: 1, Active: homeSite, At: now.UTC(),
		Direction: []recovery.Pair{{From: m.Host, To: replica}},
	}
	r.addDisks(m)
	return r
}

// addDisks gives an identity to disks that have none yet.
func (r *Record) addDisks(m plans.Machine) {
	for _, d := range m.Disks {
		if _, known := r.Disks[d.Name]; known {
			continue
		}
		var key [8]byte
		_, _ = rand.Read(key[:]) // crypto/rand.Read never fails (documented since Go 1.24)
		r.Disks[d.Name] = DiskRecord{ID: ident.NewDiskID(), Key: binary.LittleEndian.Uint64(key[:])}
	}
}

// assignment is what both agents of a machine have to know, from the estate's
// point of view at a revision.
func assignment(e *plans.Estate, m plans.Machine, r *Record, revision uint64) (recovery.Assignment, error) {
	at := places(e)
	home, ok := at[r.Home]
	if !ok {
		return recovery.Assignment{}, fault.Errorf(fault.Invalid, "machine %s: its home host %s is not in the estate", m.Name, r.Home)
	}
	replica, ok := at[r.Replica]
	if !ok {
		return recovery.Assignment{}, fault.Errorf(fault.Invalid, "machine %s: the host of its replica, %s, is not in the estate", m.Name, r.Replica)
	}
	policy := e.PolicyOf(m.Name)
	a := recovery.Assignment{
		Version: recovery.FormatVersion, Revision: revision, Estate: e.Name, Machine: m.Name, HomeSite: home.site,
		Hosts: []recovery.Host{hostOf(home), hostOf(replica)}, Policy: policy, Exec: m.Exec, Ready: m.Ready,
		Addresses: map[string]recovery.Address{}, TestAddresses: map[string]recovery.Address{}, Allow: map[string][]string{},
	}
	for _, d := range m.Disks {
		a.Disks = append(a.Disks, diskOf(d, r.Disks[d.Name], home.site))
	}
	for _, p := range []place{home, replica} {
		if len(p.Allow) > 0 {
			a.Allow[p.Name] = slices.Clone(p.Allow)
		}
		if ip, ok := e.AddressOf(m.Name, p.site, false); ok {
			a.Addresses[p.site] = ip
		}
		if ip, ok := e.AddressOf(m.Name, p.site, true); ok {
			a.TestAddresses[p.site] = ip
		}
	}
	return a, nil
}

func hostOf(p place) recovery.Host {
	return recovery.Host{Name: p.Name, Site: p.site, Addr: p.AddrPort(), Store: p.Store}
}

func diskOf(d plans.Disk, r DiskRecord, homeSite string) recovery.Disk {
	out := recovery.Disk{Name: d.Name, ID: r.ID, Key: r.Key, Allocation: d.Allocation, Paths: map[string]string{}}
	for site, path := range d.At {
		out.Paths[site] = path
	}
	switch {
	case d.File != "":
		out.Paths[homeSite] = d.File
	case d.Device != "":
		out.Paths[homeSite] = d.Device
	}
	return out
}

// chooseReplica picks the host that holds the replica of a machine: the one it
// names, else of the cloud its home cloud replicates to the host with the most
// free space. A host that does not answer counts as full; among equals the one
// with fewer machines, then the first of the file.
func (c *Catalogue) chooseReplica(ctx context.Context, e *plans.Estate, m plans.Machine, load map[string]int, free *freeSpace) (string, error) {
	at := places(e)
	if m.Replica != "" {
		h, ok := at[m.Replica]
		switch {
		case !ok:
			return "", fault.Errorf(fault.Invalid, "machine %s: replica = %q is no host of the estate", m.Name, m.Replica)
		case h.Store == "":
			return "", fault.Errorf(fault.Invalid, "machine %s: replica host %s has no store", m.Name, m.Replica)
		case h.site == at[m.Host].site:
			return "", fault.Errorf(fault.Invalid, "machine %s: replica host %s is at the machine's own site %s", m.Name, m.Replica, h.site)
		}
		return m.Replica, nil
	}
	home, ok := at[m.Host]
	if !ok {
		return "", fault.Errorf(fault.Invalid, "machine %s: host %q is not in the estate", m.Name, m.Host)
	}
	var stores []string
	for _, h := range e.Targets(m.Name) {
		if at[h.Name].site != home.site {
			stores = append(stores, h.Name)
		}
	}
	if len(stores) == 0 {
		return "", fault.Errorf(fault.Invalid, "machine %s has nowhere to replicate to: no host with a store in the cloud that cloud %s replicates to", m.Name, home.cloud).
			WithHint("give its cloud to = CLOUD, and a host there a store")
	}
	best := stores[0]
	for _, h := range stores[1:] {
		if d := free.of(ctx, c, h) - free.of(ctx, c, best); d > 0 || d == 0 && load[h] < load[best] {
			best = h
		}
	}
	return best, nil
}

// freeSpace asks each host once.
type freeSpace struct{ known map[string]int64 }

func (f *freeSpace) of(ctx context.Context, c *Catalogue, host string) int64 {
	if n, ok := f.known[host]; ok {
		return n
	}
	var free int64
	if st, err := c.ask(ctx, host, ""); err == nil {
		free = st.Free
	} else {
		c.log.Info("cannot ask a host for its free space", "host", host, "err", err)
	}
	if f.known == nil {
		f.known = map[string]int64{}
	}
	f.known[host] = free
	return free
}

// moved lists what a protected machine cannot follow: other hosts than those
// its disks and points are on.
func moved(e *plans.Estate, m plans.Machine, r *Record) []string {
	var out []string
	at := places(e)
	if m.Host != r.Home {
		out = append(out, fmt.Sprintf("machine %s is protected on host %s and cannot move to %s: drrun unprotect %s first", m.Name, r.Home, m.Host, m.Name))
	}
	if m.Replica != "" && m.Replica != r.Replica {
		out = append(out, fmt.Sprintf("the replica of machine %s is on host %s and cannot move to %s: drrun unprotect %s first", m.Name, r.Replica, m.Replica, m.Name))
	}
	for _, h := range r.hosts() {
		was, _ := r.Last.Host(h)
		switch now, ok := at[h]; {
		case !ok:
			out = append(out, fmt.Sprintf("host %s left the estate and still holds machine %s: drrun unprotect %s first", h, m.Name, m.Name))
		case was.Site != "" && now.site != was.Site:
			out = append(out, fmt.Sprintf("host %s cannot move from site %s to %s: it holds machine %s", h, was.Site, now.site, m.Name))
		}
	}
	return out
}
