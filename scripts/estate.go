package scripts

import (
	"fmt"
	"math"
	"time"

	lua "github.com/yuin/gopher-lua"

	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts/sandbox"
)

// estateBuilder turns the items of a page into an estate.
type estateBuilder struct {
	*page
	known reported
}

func (p *estateBuilder) estate(root *node) *plans.Estate {
	b := p.body(root)
	e := &plans.Estate{Name: root.name, Allow: get[[]string](b, "allow"), Pos: root.pos, PolicyPos: make(map[string]plans.Pos)}
	for _, n := range b.items {
		switch n.ctor.Name {
		case "policy":
			if first, dup := e.PolicyPos[n.name]; dup {
				p.fault(n.pos, "policy %q is defined twice, first in line %d", n.name, first.Line)
				p.body(n)
				continue
			}
			e.PolicyPos[n.name] = n.pos
			e.Policies = append(e.Policies, p.policy(n))
		case "site":
			e.Sites = append(e.Sites, p.site(n))
		case "machine":
			e.Machines = append(e.Machines, p.machine(n))
		case "secret":
			s := p.read(n)
			e.Secrets = append(e.Secrets, plans.Secret{Name: n.name, File: get[string](s, "file"), Env: get[string](s, "env"),
				Exec: get[[]string](s, "exec"), Pos: n.pos})
		}
	}
	return e
}

// read reads the body of an item and notes whether it has faults.
func (p *estateBuilder) read(n *node) *body {
	b := p.body(n)
	p.known.note(n, b)
	return b
}

func (p *estateBuilder) policy(n *node) recovery.Policy {
	b := p.read(n)
	return recovery.Policy{
		Name: n.name, Every: get[time.Duration](b, "every"), AppEvery: get[time.Duration](b, "app_every"),
		RPO: get[time.Duration](b, "rpo"), Keep: get[[]recovery.Keep](b, "keep"), Rate: get[int64](b, "rate"),
		Codec: get[string](b, "codec"), Initial: get[string](b, "initial"),
		Consistency: recovery.Consistency(get[string](b, "consistency")), Fence: get[string](b, "fence"),
		StartAlone: get[string](b, "start_alone"), Lease: get[time.Duration](b, "lease"), Windows: get[[]string](b, "windows"),
	}
}

func (p *estateBuilder) site(n *node) plans.Site {
	b := p.read(n)
	s := plans.Site{Name: n.name, Pos: n.pos}
	for _, item := range b.items {
		switch item.ctor.Name {
		case "network":
			w := p.read(item)
			s.Networks = append(s.Networks, plans.Network{Name: item.name, CIDR: get[string](w, "cidr"), Bridge: get[string](w, "bridge"),
				Libvirt: get[string](w, "libvirt"), Portgroup: get[string](w, "portgroup"), Isolated: get[bool](w, "isolated"), Pos: item.pos})
		case "cloud":
			s.Clouds = append(s.Clouds, p.cloud(item))
		}
	}
	return s
}

func (p *estateBuilder) cloud(n *node) plans.Cloud {
	b := p.read(n)
	c := plans.Cloud{Name: n.name, Policy: get[string](b, "policy"), To: get[string](b, "to"), Pos: n.pos}
	for _, item := range b.items {
		h := p.read(item)
		c.Hosts = append(c.Hosts, plans.Host{Name: item.name, Addr: get[string](h, "addr"), Store: get[string](h, "store"),
			Relay: get[bool](h, "relay"), Allow: get[[]string](h, "allow"), Pos: item.pos})
	}
	return c
}

func (p *estateBuilder) machine(n *node) plans.Machine {
	b := p.read(n)
	m := plans.Machine{
		Name: n.name, Host: get[string](b, "host"), Tags: get[[]string](b, "tags"), Policy: get[string](b, "policy"),
		Replica: get[string](b, "replica"), Protected: true, Consistent: get[string](b, "consistent"), Pos: n.pos,
	}
	if v, ok := b.vals["protected"].(bool); ok {
		m.Protected = v
	}
	if t := get[*lua.LTable](b, "ip"); t != nil {
		m.IP = p.ips(b, t)
	}
	if r := get[*body](b, "ready"); r != nil {
		q := question(r)
		m.Ready = &q
		p.known.note(n, r)
	}
	p.provider(&m, n, b)
	for _, item := range b.items {
		m.Disks = append(m.Disks, p.disk(item))
	}
	return m
}

// provider reads what runs the machine: one of the known words.
func (p *estateBuilder) provider(m *plans.Machine, n *node, b *body) {
	words := 0
	for _, w := range []string{"exec", "qemu", "libvirt", "vsphere"} {
		if b.has(w) {
			words++
		}
	}
	switch {
	case words == 0 && !b.absent:
		p.fault(n.pos, "%s: what runs it is missing: one of exec, qemu, libvirt and vsphere", n)
	case words > 1:
		p.fault(n.pos, "%s: only one of exec, qemu, libvirt and vsphere can be said", n)
	}
	x := get[*body](b, "exec")
	if x == nil {
		return
	}
	p.known.note(n, x)
	m.Exec = &recovery.Exec{
		Start: get[[]string](x, "start"), Stop: get[[]string](x, "stop"), ForceAfter: get[time.Duration](x, "force_after"),
		Status: get[[]string](x, "status"), Freeze: get[[]string](x, "freeze"), Thaw: get[[]string](x, "thaw"),
		FreezeMax: get[time.Duration](x, "freeze_max"), Unit: get[string](x, "unit"),
	}
}

func (p *estateBuilder) disk(n *node) plans.Disk {
	b := p.read(n)
	d := plans.Disk{Name: n.name, File: get[string](b, "file"), Device: get[string](b, "device"),
		Allocation: get[string](b, "allocation"), Exclude: get[[]string](b, "exclude"), Pos: n.pos}
	if t := get[*lua.LTable](b, "at"); t != nil {
		d.At = make(map[string]string)
		p.pairs(b, "at", t, func(site string, v lua.LValue, pos plans.Pos) {
			if s, ok := v.(lua.LString); ok {
				if p.text(fmt.Sprintf("%s: at.%s", b.what, site), pos, string(s)) {
					d.At[site] = string(s)
				}
				return
			}
			p.fault(pos, "%s: at.%s is %s, want a path", b.what, site, describe(v))
		})
	}
	return d
}

// pairs calls f with the keys of a table whose keys are names.
func (p *page) pairs(b *body, key string, t *lua.LTable, f func(name string, v lua.LValue, pos plans.Pos)) {
	sandbox.ForEach(t, func(k, v lua.LValue) {
		if sandbox.IsUnknown(k) || sandbox.IsUnknown(v) {
			return
		}
		name, ok := k.(lua.LString)
		if !ok {
			p.fault(b.at(key), "%s: %s: a key is %s, want a name", b.what, key, describe(k))
			return
		}
		f(string(name), v, p.keyPos(t, string(name), b.at(key)))
	})
}

// ips reads ip = { NET = number or { SITE = address or list } }.
func (p *estateBuilder) ips(b *body, t *lua.LTable) map[string]plans.IP {
	out := make(map[string]plans.IP)
	p.pairs(b, "ip", t, func(net string, v lua.LValue, pos plans.Pos) {
		switch v := v.(type) {
		case lua.LNumber:
			if n := float64(v); n != math.Trunc(n) || n < 1 || n >= 1<<31 {
				p.fault(pos, "%s: ip.%s is %v, want a whole number from 1 on: the host part of the address", b.what, net, v)
				return
			}
			out[net] = plans.IP{Number: int(v)}
		case *lua.LTable:
			sites := make(map[string][]string)
			p.pairs(b, "ip", v, func(site string, a lua.LValue, pos plans.Pos) {
				if list, ok := p.strings(fmt.Sprintf("%s: ip.%s.%s", b.what, net, site), pos, a).([]string); ok {
					sites[site] = list
				}
			})
			out[net] = plans.IP{BySite: sites}
		default:
			p.fault(pos, "%s: ip.%s is %s, want a number or a table of addresses by site", b.what, net, describe(v))
		}
	})
	return out
}
