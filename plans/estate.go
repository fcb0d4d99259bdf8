package plans

import (
	"github.com/drrun/drrun/internal/recovery"
)

// Estate is what exists, where it runs and how it is protected: data, with a
// revision that its store gives it.
type Estate struct {
	Name     string            `json:"name"`
	Policies []recovery.Policy `json:"policies"`
	Sites    []Site            `json:"sites"`
	Machines []Machine         `json:"machines"`
	Secrets  []Secret          `json:"secrets,omitempty"`
	Allow    []string          `json:"allow,omitempty"` // programs that plans may run on the controller
	Pos      Pos               `json:"pos"`
	// PolicyPos are the places of the policies, by name.
	PolicyPos map[string]Pos `json:"policy_pos,omitempty"`

	index *index
}

// Site is one place that can be lost as a whole.
type Site struct {
	Name     string    `json:"name"`
	Networks []Network `json:"networks,omitempty"`
	Clouds   []Cloud   `json:"clouds"`
	Pos      Pos       `json:"pos"`
}

// Network is a network of a site; the same name at two sites is mapped.
type Network struct {
	Name      string `json:"name"`
	CIDR      string `json:"cidr"`
	Bridge    string `json:"bridge,omitempty"`
	Libvirt   string `json:"libvirt,omitempty"`
	Portgroup string `json:"portgroup,omitempty"`
	Isolated  bool   `json:"isolated,omitempty"` // tests use it
	Pos       Pos    `json:"pos"`
}

// Cloud groups hosts; its policy is the default of the machines on them.
type Cloud struct {
	Name   string `json:"name"`
	Policy string `json:"policy,omitempty"`
	To     string `json:"to,omitempty"` // cloud that holds the replicas
	Hosts  []Host `json:"hosts"`
	Pos    Pos    `json:"pos"`
}

// Host runs an agent.
type Host struct {
	Name  string   `json:"name"`
	Addr  string   `json:"addr"`            // host or host:port; the port defaults to 7830
	Store string   `json:"store,omitempty"` // folder of replicas: makes it a target
	Relay bool     `json:"relay,omitempty"`
	Allow []string `json:"allow,omitempty"` // programs that plans may run there
	Pos   Pos      `json:"pos"`
}

// Machine is something to protect.
type Machine struct {
	Name       string          `json:"name"` // its identity
	Host       string          `json:"host"` // home
	Tags       []string        `json:"tags,omitempty"`
	IP         map[string]IP   `json:"ip,omitempty"` // by network
	Policy     string          `json:"policy,omitempty"`
	Replica    string          `json:"replica,omitempty"`    // host; empty: the one with most free space
	Protected  bool            `json:"protected"`            // default true
	Consistent string          `json:"consistent,omitempty"` // consistency group
	Ready      *recovery.Check `json:"ready,omitempty"`
	Disks      []Disk          `json:"disks"`
	Exec       *recovery.Exec  `json:"exec,omitempty"`
	Pos        Pos             `json:"pos"`
}

// IP is an address in a network: a number (the host part in every site's
// CIDR) or addresses by site.
type IP struct {
	Number int                 `json:"number,omitempty"`
	BySite map[string][]string `json:"by_site,omitempty"`
}

// Disk is a disk of a machine.
type Disk struct {
	Name       string            `json:"name"`
	File       string            `json:"file,omitempty"`   // at home
	Device     string            `json:"device,omitempty"` // at home
	At         map[string]string `json:"at,omitempty"`     // path by site
	Allocation string            `json:"allocation,omitempty"`
	Exclude    []string          `json:"exclude,omitempty"`
	Pos        Pos               `json:"pos"`
}

// Secret is a value that host functions may open and nothing prints.
type Secret struct {
	Name string   `json:"name"`
	File string   `json:"file,omitempty"`
	Env  string   `json:"env,omitempty"`
	Exec []string `json:"exec,omitempty"`
	Pos  Pos      `json:"pos"`
}
