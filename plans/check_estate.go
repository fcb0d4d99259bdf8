package plans

import (
	"fmt"
	"maps"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

// ValidateEstate checks everything an estate says. The error is nil or Faults
// with every mistake. Defaults are to be filled in before (FillDefaults).
func ValidateEstate(e *Estate) error {
	c := estateCheck{e: e, seen: make(map[string]Pos), addrs: make(map[string]string)}
	c.name(e.Pos, "estate", e.Name)
	if len(e.Sites) == 0 {
		c.fs.add(e.Pos, "estate: it has no site")
	}
	for i := range e.Policies {
		c.policy(&e.Policies[i])
	}
	for i := range e.Secrets {
		c.secret(&e.Secrets[i])
	}
	for i := range e.Sites {
		c.site(&e.Sites[i])
	}
	for i := range e.Machines {
		c.machine(&e.Machines[i])
	}
	c.shared()
	return c.fs.Sorted().Err()
}

// estateCheck collects the faults of an estate.
type estateCheck struct {
	e    *Estate
	fs   Faults
	seen map[string]Pos // "kind name" to its first place
	// addrs are the hosts by the address of their agent.
	addrs map[string]string
}

// name checks a name and that it is defined once in its kind.
func (c *estateCheck) name(p Pos, kind, name string) {
	if err := ident.CheckName(name); err != nil {
		c.fs.add(p, "%s: %v", kind, err)
		return
	}
	key := kind + " " + name
	if first, dup := c.seen[key]; dup {
		c.fs.add(p, "%s %q is defined twice, first in line %d", kind, name, first.Line)
		return
	}
	c.seen[key] = p
}

// minEvery is the shortest time between two cuts.
const minEvery = 100 * time.Millisecond

// minLease is the shortest lease: a connection that died is found, and dialled
// again, within it.
const minLease = 10 * time.Second

var clockTime = regexp.MustCompile(`^([01][0-9]|2[0-3]):[0-5][0-9]$`)

func (c *estateCheck) policy(p *recovery.Policy) {
	pos, what := c.policyPos(p.Name), fmt.Sprintf("policy %q", p.Name)
	c.name(pos, "policy", p.Name)
	word := func(key, got string, words ...string) { c.fs.word(pos, what, key, got, words) }
	word("codec", p.Codec, "auto", "raw", "s2", "zstd")
	word("fence", p.Fence, "stop", "alarm")
	word("start_alone", p.StartAlone, "ask", "never", "allow")
	word("consistency", string(p.Consistency), "crash", "app", "fuzzy")
	if !clockTime.MatchString(p.Initial) {
		word("initial", p.Initial, "now", "22:00", "import", "existing")
	}
	for _, w := range p.Windows {
		from, to, ok := strings.Cut(w, "-")
		if !ok || !clockTime.MatchString(from) || !clockTime.MatchString(to) || from == to {
			c.fs.add(pos, `%s: the window %q is not a time of day to a time of day ("22:00-06:00")`, what, w)
		}
	}
	if p.Every < minEvery {
		c.fs.add(pos, "%s: every is %s, want %s or more", what, p.Every, minEvery)
	} else if p.RPO != 0 && p.RPO < p.Every {
		c.fs.add(pos, "%s: rpo is shorter than every (%s < %s): it would always be missed", what, p.RPO, p.Every)
	}
	if p.AppEvery != 0 && p.AppEvery < p.Every {
		c.fs.add(pos, "%s: app_every is shorter than every (%s < %s)", what, p.AppEvery, p.Every)
	}
	switch {
	case p.Lease == 0:
	case p.Lease < minLease:
		c.fs.add(pos, "%s: lease is %s, want %s or more", what, p.Lease, minLease)
	case p.StartAlone == "allow":
		c.fs.add(pos, `%s: start_alone = "allow" and a lease exclude each other: with a lease only the target gives the right to run`, what)
	case p.Fence == "alarm":
		c.fs.add(pos, `%s: fence = "alarm" and a lease exclude each other: at the end of its lease a machine is stopped`, what)
	}
	var last time.Duration
	for i, k := range p.Keep {
		if k.Last > 0 {
			continue
		}
		if k.For <= 0 || k.Every < 0 || k.Every >= k.For && k.Every != 0 {
			c.fs.add(pos, `%s: keep line %d makes no sense: want "all for 1h" or "5m for 1d", the second longer`, what, i+1)
		}
		if k.Every < last {
			c.fs.add(pos, "%s: keep line %d keeps more than the line before it: finest first", what, i+1)
		}
		last = k.Every
	}
}

func (c *estateCheck) policyPos(name string) Pos {
	if p, ok := c.e.PolicyPos[name]; ok {
		return p
	}
	return c.e.Pos
}

func (c *estateCheck) secret(s *Secret) {
	c.name(s.Pos, "secret", s.Name)
	n := 0
	for _, set := range []bool{s.File != "", s.Env != "", len(s.Exec) > 0} {
		if set {
			n++
		}
	}
	if n != 1 {
		c.fs.add(s.Pos, "secret %q: one of file, env and exec is needed, and only one", s.Name)
	}
	c.abs(s.Pos, fmt.Sprintf("secret %q: file", s.Name), s.File)
}

func (c *estateCheck) abs(p Pos, what, file string) {
	if file != "" && (!path.IsAbs(file) || path.Clean(file) != strings.TrimSuffix(file, "/") && file != "/") {
		c.fs.add(p, "%s is %q, want a whole path that starts with / and has no . or .. in it", what, file)
	}
}

func (c *estateCheck) site(s *Site) {
	c.name(s.Pos, "site", s.Name)
	nets := make(map[string]bool)
	for _, n := range s.Networks {
		if nets[n.Name] {
			c.fs.add(n.Pos, "network %q is defined twice at site %q", n.Name, s.Name)
		}
		nets[n.Name] = true
		c.network(&n)
	}
	for i := range s.Clouds {
		c.cloud(s, &s.Clouds[i])
	}
}

func (c *estateCheck) network(n *Network) {
	if err := ident.CheckName(n.Name); err != nil {
		c.fs.add(n.Pos, "network: %v", err)
	}
	p, err := netip.ParsePrefix(n.CIDR)
	switch {
	case n.CIDR == "":
		c.fs.add(n.Pos, `network %q: cidr is missing ("10.10.0.0/24")`, n.Name)
	case err != nil:
		c.fs.add(n.Pos, `network %q: cidr is %q, want a network like "10.10.0.0/24" or "2001:db8::/64"`, n.Name, n.CIDR)
	case p.Masked() != p:
		c.fs.add(n.Pos, "network %q: cidr is %q, the network is %q", n.Name, n.CIDR, p.Masked())
	}
	kinds := 0
	for _, k := range []string{n.Bridge, n.Libvirt, n.Portgroup} {
		if k != "" {
			kinds++
		}
	}
	if kinds > 1 {
		c.fs.add(n.Pos, "network %q: only one of bridge, libvirt and portgroup can be said", n.Name)
	}
}

func (c *estateCheck) cloud(s *Site, cl *Cloud) {
	c.name(cl.Pos, "cloud", cl.Name)
	c.knownPolicy(cl.Pos, fmt.Sprintf("cloud %q", cl.Name), cl.Policy)
	if cl.To != "" {
		to, site, ok := c.e.Cloud(cl.To)
		switch {
		case !ok:
			c.fs.addNear(cl.Pos, cl.To, c.clouds(), "cloud %q: to is %q, which is no cloud of the estate", cl.Name, cl.To)
		case site.Name == s.Name:
			c.fs.add(cl.Pos, "cloud %q: to is %q, which is at the same site %q", cl.Name, cl.To, s.Name)
		case !slices.ContainsFunc(to.Hosts, func(h Host) bool { return h.Store != "" }):
			c.fs.add(cl.Pos, "cloud %q: to is %q, but no host of it has a store", cl.Name, cl.To)
		}
	}
	for i := range cl.Hosts {
		h := &cl.Hosts[i]
		c.name(h.Pos, "host", h.Name)
		if h.Addr == "" {
			c.fs.add(h.Pos, "host %q: addr is missing (where its agent listens)", h.Name)
		} else if host, port, ok := splitTarget(h.AddrPort()); !ok || host == "" || !isPort(port) {
			c.fs.add(h.Pos, "host %q: addr is %q, want an address or address:port", h.Name, h.Addr)
		} else if first, taken := c.addrs[h.AddrPort()]; taken {
			c.fs.add(h.Pos, "host %q: addr is that of host %q", h.Name, first)
		} else {
			c.addrs[h.AddrPort()] = h.Name
		}
		c.abs(h.Pos, fmt.Sprintf("host %q: store", h.Name), h.Store)
	}
}

func (c *estateCheck) clouds() []string {
	var names []string
	for _, s := range c.e.Sites {
		for _, cl := range s.Clouds {
			names = append(names, cl.Name)
		}
	}
	return names
}

func (c *estateCheck) hosts() []string {
	var names []string
	for _, h := range c.e.Hosts() {
		names = append(names, h.Name)
	}
	return names
}

func (c *estateCheck) knownPolicy(p Pos, what, name string) {
	if _, ok := c.e.Policy(name); name == "" || ok {
		return
	}
	var names []string
	for _, q := range c.e.Policies {
		names = append(names, q.Name)
	}
	c.fs.addNear(p, name, names, "%s: policy is %q, which the estate does not define", what, name)
}

func (c *estateCheck) machine(m *Machine) {
	what := fmt.Sprintf("machine %q", m.Name)
	c.name(m.Pos, "machine", m.Name)
	if _, clash := c.e.Host(m.Name); clash {
		c.fs.add(m.Pos, "%s: a host has this name too; on = %q would mean both", what, m.Name)
	}
	c.knownPolicy(m.Pos, what, m.Policy)
	if _, ok := c.e.Host(m.Host); m.Host == "" {
		c.fs.add(m.Pos, "%s: host is missing (its home)", what)
	} else if !ok {
		c.fs.addNear(m.Pos, m.Host, c.hosts(), "%s: host is %q, which is no host of the estate", what, m.Host)
	} else if m.Protected {
		c.target(what, m)
	}
	for _, t := range m.Tags {
		if err := ident.CheckName(t); err != nil {
			c.fs.add(m.Pos, "%s: tag: %v", what, err)
		}
	}
	if m.Protected && len(m.Disks) == 0 {
		c.fs.add(m.Pos, "%s: it is protected and has no disk", what)
	}
	c.disks(what, m)
	c.ips(what, m)
	if m.Ready != nil {
		c.fs.checkBody(m.Pos, what+": ready", *m.Ready, false)
	}
	if m.Exec != nil {
		c.exec(what, m)
	}
}

// target checks that there is a place for the machine's replica.
func (c *estateCheck) target(what string, m *Machine) {
	home, _ := c.e.HostSite(m.Host)
	cloud, _ := c.e.CloudOf(m.Host)
	if m.Replica == "" {
		if cloud.To == "" {
			c.fs.add(m.Pos, "%s: it is protected, but its cloud %q has no to and it names no replica host", what, cloud.Name)
		}
		return
	}
	h, ok := c.e.Host(m.Replica)
	site, _ := c.e.HostSite(m.Replica)
	switch {
	case !ok:
		c.fs.addNear(m.Pos, m.Replica, c.hosts(), "%s: replica is %q, which is no host of the estate", what, m.Replica)
	case site == home:
		c.fs.add(m.Pos, "%s: replica is %q, which is at its home site %q", what, m.Replica, home)
	case h.Store == "":
		c.fs.add(m.Pos, "%s: replica is %q, which has no store", what, m.Replica)
	}
}

func (c *estateCheck) disks(what string, m *Machine) {
	seen := make(map[string]bool)
	for _, d := range m.Disks {
		disk := fmt.Sprintf("%s: disk %q", what, d.Name)
		if err := ident.CheckName(d.Name); err != nil {
			c.fs.add(d.Pos, "%s: disk: %v", what, err)
		}
		if seen[d.Name] {
			c.fs.add(d.Pos, "%s: the name is used twice", disk)
		}
		seen[d.Name] = true
		if (d.File == "") == (d.Device == "") {
			c.fs.add(d.Pos, "%s: one of file and device is needed", disk)
		}
		c.abs(d.Pos, disk+": file", d.File)
		c.abs(d.Pos, disk+": device", d.Device)
		for _, site := range slices.Sorted(maps.Keys(d.At)) {
			c.siteKey(d.Pos, disk+": at", site)
			c.abs(d.Pos, fmt.Sprintf("%s: at.%s", disk, site), d.At[site])
			if home, _ := c.e.HostSite(m.Host); site == home && d.At[site] != d.File+d.Device {
				c.fs.add(d.Pos, "%s: at.%s is %q, but %s is its home, where it is %q", disk, site, d.At[site], site, d.File+d.Device)
			}
		}
		c.fs.word(d.Pos, disk, "allocation", d.Allocation, []string{"sparse", "full"})
	}
}

func (c *estateCheck) siteKey(p Pos, what, site string) {
	if _, ok := c.e.Site(site); !ok {
		var names []string
		for _, s := range c.e.Sites {
			names = append(names, s.Name)
		}
		c.fs.addNear(p, site, names, "%s: %q is no site of the estate", what, site)
	}
}

func (c *estateCheck) ips(what string, m *Machine) {
	home, _ := c.e.HomeSite(m.Name)
	for _, name := range slices.Sorted(maps.Keys(m.IP)) {
		ip, known := m.IP[name], false
		var names []string
		for i := range c.e.Sites {
			s := &c.e.Sites[i]
			n, ok := s.network(name)
			for _, other := range s.Networks {
				names = append(names, other.Name)
			}
			if !ok {
				continue
			}
			known = true
			c.number(what, m.Pos, n, s.Name, ip.Number)
			for _, a := range ip.BySite[s.Name] {
				c.address(what, m.Pos, n, s.Name, a)
			}
		}
		if !known {
			slices.Sort(names)
			c.fs.addNear(m.Pos, name, slices.Compact(names), "%s: ip: %q is no network of the estate", what, name)
			continue
		}
		if s, ok := c.e.Site(home); ok {
			if _, here := s.network(name); !here && ip.Number != 0 {
				c.fs.add(m.Pos, "%s: ip: its home site %q has no network %q", what, home, name)
			}
		}
		for _, site := range slices.Sorted(maps.Keys(ip.BySite)) {
			c.siteKey(m.Pos, what+": ip", site)
		}
	}
}

func (c *estateCheck) number(what string, p Pos, n *Network, site string, number int) {
	prefix, err := netip.ParsePrefix(n.CIDR)
	if number == 0 || err != nil {
		return
	}
	if _, ok := HostAddress(prefix, number); !ok {
		c.fs.add(p, "%s: ip: number %d is outside of network %q at %q (%s)", what, number, n.Name, site, n.CIDR)
	}
}

func (c *estateCheck) address(what string, p Pos, n *Network, site, text string) {
	a, err := parseAddress(text)
	if err != nil {
		c.fs.add(p, "%s: ip: %q is not an address", what, text)
		return
	}
	if prefix, err := netip.ParsePrefix(n.CIDR); err == nil && prefix.Addr().Is4() == a.Is4() && !prefix.Contains(a) {
		c.fs.add(p, "%s: ip: %s is outside of network %q at %q (%s)", what, a, n.Name, site, n.CIDR)
	}
}

// shared finds disks and addresses that two machines claim.
func (c *estateCheck) shared() {
	owner := make(map[string]string)
	claim := func(m *Machine, p Pos, key, what string) {
		if first, taken := owner[key]; taken && first != m.Name {
			c.fs.add(p, "machine %q: %s belongs to machine %q already", m.Name, what, first)
			return
		}
		owner[key] = m.Name
	}
	for i := range c.e.Machines {
		m := &c.e.Machines[i]
		own := make(map[string]string) // disk by place
		for j := range m.Disks {
			d := &m.Disks[j]
			for _, at := range c.places(m, d) {
				what := fmt.Sprintf("%s on host %q", at.path, at.host)
				key := "disk " + at.host + " " + at.path
				if first, twice := own[key]; twice && first != d.Name {
					c.fs.add(d.Pos, "machine %q: disk %q: %s is its disk %q already", m.Name, d.Name, what, first)
				}
				own[key] = d.Name
				claim(m, d.Pos, key, what)
			}
		}
		for j := range c.e.Sites {
			site := c.e.Sites[j].Name
			for _, a := range c.e.AddressesOf(m.Name, site, false) {
				claim(m, m.Pos, "ip "+site+" "+a.IP, fmt.Sprintf("address %s at %q", a.IP, site))
			}
			for _, a := range c.e.AddressesOf(m.Name, site, true) {
				claim(m, m.Pos, "test ip "+site+" "+a.Network+" "+a.IP, fmt.Sprintf("address %s of network %q at %q, where tests run,", a.IP, a.Network, site))
			}
		}
	}
}

type diskPlace struct{ host, path string }

// places are the hosts at which a disk has a path that the estate names: its
// home, and every host that may hold its replica.
func (c *estateCheck) places(m *Machine, d *Disk) []diskPlace {
	var all []diskPlace
	if file := d.File + d.Device; file != "" {
		all = append(all, diskPlace{m.Host, file})
	}
	if len(d.At) == 0 {
		return all
	}
	for _, h := range c.e.Targets(m.Name) {
		site, _ := c.e.HostSite(h.Name)
		if file := d.At[site]; file != "" {
			all = append(all, diskPlace{h.Name, file})
		}
	}
	return all
}

var placeholder = regexp.MustCompile(`\{([^{}]*)\}`)

func (c *estateCheck) exec(what string, m *Machine) {
	x := m.Exec
	if (len(x.Start) == 0) == (x.Unit == "") {
		c.fs.add(m.Pos, "%s: exec: one of start and unit is needed", what)
	}
	if (len(x.Freeze) == 0) != (len(x.Thaw) == 0) {
		c.fs.add(m.Pos, "%s: exec: freeze and thaw belong together", what)
	}
	known := []string{"ip", "machine", "site", "epoch"}
	for _, d := range m.Disks {
		known = append(known, "disk."+d.Name)
	}
	for _, cmd := range []struct {
		key   string
		words []string
	}{{"start", x.Start}, {"stop", x.Stop}, {"status", x.Status}, {"freeze", x.Freeze}, {"thaw", x.Thaw}, {"unit", []string{x.Unit}}} {
		for _, w := range cmd.words {
			for _, found := range placeholder.FindAllStringSubmatch(w, -1) {
				if !slices.Contains(known, found[1]) {
					c.fs.addNear(m.Pos, found[1], known, "%s: exec: %s has the unknown placeholder {%s}", what, cmd.key, found[1])
				}
			}
		}
	}
	if slices.ContainsFunc(slices.Concat(x.Start, x.Stop, x.Status, x.Freeze, x.Thaw), func(w string) bool { return strings.Contains(w, "{ip}") }) && len(m.IP) == 0 {
		c.fs.add(m.Pos, "%s: exec: a command has {ip}, but the machine has no ip", what)
	}
}
