package plans

import "encoding/json"

// index finds machines and hosts of an estate by name. Both are changed by
// nobody after the estate was made; where somebody did, a hit is looked at and a
// miss looked for, so a stale index costs time and nothing else.
type index struct {
	machines map[string]int
	hosts    map[string]hostPlace
}

type hostPlace struct{ site, cloud, host int }

// Index makes the lookups of a large estate fast. It is for who makes an
// estate, before others see it; what comes from JSON has one.
func (e *Estate) Index() {
	x := &index{machines: make(map[string]int, len(e.Machines)), hosts: make(map[string]hostPlace)}
	for i := range e.Machines {
		if _, twice := x.machines[e.Machines[i].Name]; !twice {
			x.machines[e.Machines[i].Name] = i
		}
	}
	for p, h := range e.eachHost {
		if _, twice := x.hosts[h.Name]; !twice {
			x.hosts[h.Name] = p
		}
	}
	e.index = x
}

// UnmarshalJSON implements json.Unmarshaler.
func (e *Estate) UnmarshalJSON(raw []byte) error {
	type plain Estate
	if err := json.Unmarshal(raw, (*plain)(e)); err != nil {
		return err
	}
	e.Index()
	return nil
}

// eachHost yields the hosts in the order of the page.
func (e *Estate) eachHost(yield func(hostPlace, *Host) bool) {
	for i := range e.Sites {
		for j := range e.Sites[i].Clouds {
			for k := range e.Sites[i].Clouds[j].Hosts {
				if !yield(hostPlace{i, j, k}, &e.Sites[i].Clouds[j].Hosts[k]) {
					return
				}
			}
		}
	}
}

func (e *Estate) hostAt(p hostPlace) *Host {
	if p.site < len(e.Sites) && p.cloud < len(e.Sites[p.site].Clouds) && p.host < len(e.Sites[p.site].Clouds[p.cloud].Hosts) {
		return &e.Sites[p.site].Clouds[p.cloud].Hosts[p.host]
	}
	return nil
}

// place finds a host.
func (e *Estate) place(name string) (site *Site, cloud *Cloud, host *Host) {
	found := func(p hostPlace, h *Host) (*Site, *Cloud, *Host) {
		return &e.Sites[p.site], &e.Sites[p.site].Clouds[p.cloud], h
	}
	if e.index != nil {
		if p, ok := e.index.hosts[name]; ok {
			if h := e.hostAt(p); h != nil && h.Name == name {
				return found(p, h)
			}
		}
	}
	for p, h := range e.eachHost {
		if h.Name == name {
			return found(p, h)
		}
	}
	return nil, nil, nil
}

// Machine returns the machine of that name.
func (e *Estate) Machine(name string) (*Machine, bool) {
	if e.index != nil {
		if i, ok := e.index.machines[name]; ok && i < len(e.Machines) && e.Machines[i].Name == name {
			return &e.Machines[i], true
		}
	}
	for i := range e.Machines {
		if e.Machines[i].Name == name {
			return &e.Machines[i], true
		}
	}
	return nil, false
}
