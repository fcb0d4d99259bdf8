package plans

import (
	"maps"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/drrun/drrun/internal/recovery"
)

// DefaultPort is the port of an agent whose address names none.
const DefaultPort = 7830

// Site returns the site of that name.
func (e *Estate) Site(name string) (*Site, bool) {
	for i := range e.Sites {
		if e.Sites[i].Name == name {
			return &e.Sites[i], true
		}
	}
	return nil, false
}

// Policy returns the policy of that name.
func (e *Estate) Policy(name string) (*recovery.Policy, bool) {
	for i := range e.Policies {
		if e.Policies[i].Name == name {
			return &e.Policies[i], true
		}
	}
	return nil, false
}

// Cloud returns the cloud of that name and its site.
func (e *Estate) Cloud(name string) (*Cloud, *Site, bool) {
	for i := range e.Sites {
		for j := range e.Sites[i].Clouds {
			if e.Sites[i].Clouds[j].Name == name {
				return &e.Sites[i].Clouds[j], &e.Sites[i], true
			}
		}
	}
	return nil, nil, false
}

// Host returns the host of that name.
func (e *Estate) Host(name string) (*Host, bool) {
	_, _, h := e.place(name)
	return h, h != nil
}

// HostSite returns the name of the site a host stands at.
func (e *Estate) HostSite(host string) (string, bool) {
	s, _, h := e.place(host)
	if h == nil {
		return "", false
	}
	return s.Name, true
}

// CloudOf returns the cloud a host belongs to.
func (e *Estate) CloudOf(host string) (*Cloud, bool) {
	_, c, _ := e.place(host)
	return c, c != nil
}

// Hosts returns every host of the estate, in the order of the page.
func (e *Estate) Hosts() []*Host {
	var all []*Host
	for _, h := range e.eachHost {
		all = append(all, h)
	}
	return all
}

// HomeSite returns the site of a machine's home host.
func (e *Estate) HomeSite(machine string) (string, bool) {
	m, ok := e.Machine(machine)
	if !ok {
		return "", false
	}
	return e.HostSite(m.Host)
}

// Tagged returns the names of the machines that have a tag, in the order of
// the page.
func (e *Estate) Tagged(tag string) []string {
	var names []string
	for _, m := range e.Machines {
		if slices.Contains(m.Tags, tag) {
			names = append(names, m.Name)
		}
	}
	return names
}

// PolicyOf returns the policy of a machine: its own, else its cloud's, else
// the defaults under the name "default".
func (e *Estate) PolicyOf(machine string) recovery.Policy {
	def := recovery.Policy{Name: "default"}
	fillPolicy(&def)
	m, ok := e.Machine(machine)
	if !ok {
		return def
	}
	name := m.Policy
	if c, found := e.CloudOf(m.Host); name == "" && found {
		name = c.Policy
	}
	if p, found := e.Policy(name); found {
		return *p
	}
	return def
}

// Targets returns the hosts that may hold a machine's replica: the one its
// replica field names, else every host with a store of the cloud that its home
// cloud replicates to, in the order of the page.
func (e *Estate) Targets(machine string) []*Host {
	m, ok := e.Machine(machine)
	if !ok {
		return nil
	}
	if m.Replica != "" {
		if h, found := e.Host(m.Replica); found {
			return []*Host{h}
		}
		return nil
	}
	home, ok := e.CloudOf(m.Host)
	if !ok || home.To == "" {
		return nil
	}
	to, _, ok := e.Cloud(home.To)
	if !ok {
		return nil
	}
	var hosts []*Host
	for i := range to.Hosts {
		if to.Hosts[i].Store != "" && to.Hosts[i].Name != m.Host {
			hosts = append(hosts, &to.Hosts[i])
		}
	}
	return hosts
}

// Target returns the first of Targets: the replica's host, as long as nothing
// is known of free space.
func (e *Estate) Target(machine string) (*Host, bool) {
	hosts := e.Targets(machine)
	if len(hosts) == 0 {
		return nil, false
	}
	return hosts[0], true
}

// AddressOf returns how a machine is reached at a site: on its first network
// there that is not isolated, or, for a test, on the site's first isolated one.
// A number is the host part of the network's CIDR. false: it has no address.
func (e *Estate) AddressOf(machine, site string, test bool) (recovery.Address, bool) {
	all := e.AddressesOf(machine, site, test)
	if len(all) == 0 {
		return recovery.Address{}, false
	}
	return all[0], true
}

// AddressesOf returns every address of a machine at a site, networks by name.
func (e *Estate) AddressesOf(machine, site string, test bool) []recovery.Address {
	m, ok := e.Machine(machine)
	s, found := e.Site(site)
	if !ok || !found {
		return nil
	}
	var all []recovery.Address
	for _, name := range slices.Sorted(maps.Keys(m.IP)) {
		ip := m.IP[name]
		n, found := s.network(name)
		switch {
		case test && found && n.Isolated:
			all = append(all, addresses(n, ip, site)...)
		case test && ip.Number != 0:
			// A mapped address of the production network moves into the isolated one.
			if iso, ok := s.isolated(); ok && !m.hasOwn(iso.Name) {
				all = append(all, addresses(iso, ip, site)...)
			}
		case !test && found && !n.Isolated:
			all = append(all, addresses(n, ip, site)...)
		}
	}
	return all
}

func (m *Machine) hasOwn(network string) bool {
	_, ok := m.IP[network]
	return ok
}

func (s *Site) network(name string) (*Network, bool) {
	for i := range s.Networks {
		if s.Networks[i].Name == name {
			return &s.Networks[i], true
		}
	}
	return nil, false
}

func (s *Site) isolated() (*Network, bool) {
	for i := range s.Networks {
		if s.Networks[i].Isolated {
			return &s.Networks[i], true
		}
	}
	return nil, false
}

func addresses(n *Network, ip IP, site string) []recovery.Address {
	var all []recovery.Address
	for _, text := range ip.BySite[site] {
		if a, err := parseAddress(text); err == nil {
			all = append(all, recovery.Address{Network: n.Name, IP: a.String()})
		}
	}
	if ip.Number == 0 {
		return all
	}
	if p, err := netip.ParsePrefix(n.CIDR); err == nil {
		if a, ok := HostAddress(p, ip.Number); ok {
			all = append(all, recovery.Address{Network: n.Name, IP: a.String()})
		}
	}
	return all
}

// parseAddress reads "10.20.0.10" or "10.20.0.10/24".
func parseAddress(s string) (netip.Addr, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Addr(), nil
	}
	return netip.ParseAddr(s)
}

// HostAddress returns address number n of a prefix of either family; false when
// n is outside of it, or its network or (IPv4) broadcast address.
func HostAddress(p netip.Prefix, n int) (netip.Addr, bool) {
	p = p.Masked()
	if n <= 0 {
		return netip.Addr{}, false
	}
	sum := new(big.Int).Add(new(big.Int).SetBytes(p.Addr().AsSlice()), big.NewInt(int64(n)))
	raw := sum.Bytes()
	size := p.Addr().BitLen() / 8
	if len(raw) > size {
		return netip.Addr{}, false
	}
	full := make([]byte, size)
	copy(full[size-len(raw):], raw)
	a, _ := netip.AddrFromSlice(full)
	if !p.Contains(a) {
		return netip.Addr{}, false
	}
	if p.Addr().Is4() && p.Bits() < 31 && !p.Contains(a.Next()) {
		return netip.Addr{}, false
	}
	return a, true
}

// AddrPort returns the address of the host's agent as host:port, with the
// default port where none is written.
func (h *Host) AddrPort() string { return WithPort(h.Addr, DefaultPort) }

// WithPort returns addr as host:port, with a default port where none is written.
func WithPort(addr string, port int) string {
	if _, _, err := net.SplitHostPort(addr); err == nil {
		return addr
	}
	if len(addr) > 2 && addr[0] == '[' && addr[len(addr)-1] == ']' {
		addr = addr[1 : len(addr)-1]
	}
	return net.JoinHostPort(addr, strconv.Itoa(port))
}
