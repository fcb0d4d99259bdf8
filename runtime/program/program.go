// Package program turns a plan, the estate and a request into the ordered
// program of a run: a tree of sequences, parallel branches and steps with
// stable ids, as docs and screens name them. It is the one place that knows
// the order of a failover.
//
// It is pure: no clock, no I/O, no goroutine. It runs nothing (package runtime
// does) and keeps no progress (package runtime/state does). Programs are
// built once, stored with the run and then only read.
package program

import (
	"slices"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
)

// Version is the version of the stored form of a program.
const Version = 1

// Kind says what a step does.
type Kind string

// The kinds of step.
const (
	Preflight  Kind = "preflight"    // looks at everything, changes nothing
	Claim      Kind = "claim"        // fencing number at the agents of all machines
	DrainAhead Kind = "drain-ahead"  // one cycle while the machine runs
	Stop       Kind = "stop"         // stops and locks the source machine
	DrainFinal Kind = "drain-final"  // the last cycle of the stopped machine
	Right      Kind = "right-to-run" // may the machine run at the new site?
	Grant      Kind = "grant"        // authority record at the new active site
	GrantPeer  Kind = "grant-peer"   // the same record at the other site
	Points     Kind = "points"       // fixes the recovery point of every machine
	Prepare    Kind = "prepare"      // disks of the point
	Delay      Kind = "delay"
	Start      Kind = "start"
	Ready      Kind = "ready"
	Running    Kind = "running" // do the machines that were started still run?
	Exec       Kind = "exec"    // plan step
	Check      Kind = "check"   // plan step
	Wait       Kind = "wait"    // plan step
	Action     Kind = "action"  // plan step
	Commit     Kind = "commit"
	CommitPeer Kind = "commit-peer"
	Cleanup    Kind = "cleanup"
	Unlock     Kind = "unlock"
	Restart    Kind = "restart" // the source machine on its own disks
	Lease      Kind = "lease"   // the target may renew the source's lease again
	Learn      Kind = "learn"   // an old site that comes back gets the record in force
	Found      Kind = "found"
	Reseed     Kind = "reseed" // first point in the new direction
	Proof      Kind = "proof"  // both disks are read whole and compared
	Halt       Kind = "halt"   // stops the machine at the new site
	Return     Kind = "return" // rollback: the authority record at the old site
	ReturnPeer Kind = "return-peer"
)

// Sections of a run: the failover (or reverse) it was started for, and what
// was asked for afterwards.
const (
	SectionFailover = "failover"
	SectionReverse  = "reverse"
	SectionCommit   = "commit"
	SectionCleanup  = "cleanup"
	SectionCancel   = "cancel"
	SectionRollback = "rollback"
	SectionPoint    = "change-point"
)

// What to do when a step fails for good.
const (
	OnFailStop     = "stop"
	OnFailContinue = "continue"
	OnFailAsk      = "ask"
)

// Program is an ordered program. The JSON form is stored with the run.
type Program struct {
	Version   int           `json:"version"`
	Section   string        `json:"section"`
	Plan      string        `json:"plan"`
	Type      recovery.Type `json:"type,omitempty"`
	Direction string        `json:"direction,omitempty"`
	From      string        `json:"from,omitempty"` // site
	To        string        `json:"to,omitempty"`   // site
	Machines  []Machine     `json:"machines"`
	// Point selects the recovery point of a change of the point.
	Point string `json:"point,omitempty"`
	// Nothing says why there is nothing to do; the program is then empty.
	Nothing string `json:"nothing,omitempty"`
	Root    Node   `json:"root"`
}

// Machine is a machine of the run and its two ends in this run.
type Machine struct {
	Name     string `json:"name"`
	Group    string `json:"group,omitempty"`
	FromSite string `json:"from_site"`
	ToSite   string `json:"to_site"`
	FromHost string `json:"from_host"`
	ToHost   string `json:"to_host"`
	IP       string `json:"ip,omitempty"`   // in this run, at the new site
	Home     string `json:"home,omitempty"` // its home site
	Back     bool   `json:"back,omitempty"` // the old host has a store: it can receive afterwards
	Skip     string `json:"skip,omitempty"` // why the run leaves it alone
	// Discard, of a reverse: what only the old site has is not kept.
	Discard bool `json:"discard,omitempty"`
}

// Node is a sequence, parallel branches, or one step: exactly one is set.
type Node struct {
	Seq []Node `json:"seq,omitempty"`
	Par []Node `json:"par,omitempty"`
	// Limit is how many branches of Par are under way at once; 0: all.
	Limit int `json:"limit,omitempty"`
	// Needs are steps that must be settled before this node begins.
	Needs []string `json:"needs,omitempty"`
	Step  *Step    `json:"step,omitempty"`
}

// Step is one thing to do. IDs are unique in a run and stay the same when the
// run goes on as unplanned.
type Step struct {
	ID      string        `json:"id"`
	Kind    Kind          `json:"kind"`
	Phase   string        `json:"phase"`
	Title   string        `json:"title"`
	Group   string        `json:"group,omitempty"`
	Machine string        `json:"machine,omitempty"`
	Host    string        `json:"host,omitempty"` // where it is done; empty: the controller, or several
	Site    string        `json:"site,omitempty"` // site of Host
	Within  time.Duration `json:"within,omitempty"`
	Retry   plans.Retry   `json:"retry,omitzero"`
	OnFail  string        `json:"on_fail"`
	// Requires are steps without whose success this one is given up.
	Requires []string        `json:"requires,omitempty"`
	Skip     string          `json:"skip,omitempty"` // why it is not run
	Plan     *plans.Step     `json:"plan,omitempty"`
	Ready    *recovery.Check `json:"ready,omitempty"`
	Pos      *plans.Pos      `json:"pos,omitempty"`
	// IP is the machine's address where the step is done; empty: the one of the
	// run.
	IP string `json:"ip,omitempty"`
	// ForceAfter, of a stop by force: how long it has to stop by itself.
	ForceAfter time.Duration `json:"force_after,omitempty"`
	Force      bool          `json:"force,omitempty"`
	// Optional: when it fails the run is not worse than without it; the error
	// is a note.
	Optional bool `json:"optional,omitempty"`
	// Source: it is only tried if a host of the source site answers.
	Source bool `json:"source,omitempty"`
	// Lock, of a halt: the host gives up the right to start the machine.
	Lock bool `json:"lock,omitempty"`
	Test bool `json:"test,omitempty"`
	// Discard, of a found: a person gave up what is found.
	Discard bool `json:"discard,omitempty"`
}

// Steps returns the steps in program order.
func (p *Program) Steps() []*Step {
	var out []*Step
	p.Root.walk(0, func(_ int, s *Step) { out = append(out, s) })
	return out
}

// Check looks at a program that was stored: a version that is known, and in
// every step what its kind needs. It is fault.Refused for a newer version and
// fault.Corrupt for the rest.
func (p *Program) Check() error {
	if p.Version > Version {
		return fault.Errorf(fault.Refused, "the program of the run has version %d, this drrun knows up to %d", p.Version, Version).
			WithHint("resume the run with the drrun that started it, or a newer one")
	}
	seen := map[string]bool{}
	for _, s := range p.Steps() {
		var whole bool
		switch s.Kind {
		case Exec:
			whole = s.Plan != nil && s.Plan.Exec != nil
		case Check:
			whole = s.Plan != nil && s.Plan.Check != nil
		case Wait:
			whole = s.Plan != nil && s.Plan.Wait != nil
		case Action:
			whole = s.Plan != nil && s.Plan.Action != nil
		case Ready:
			whole = s.Ready != nil
		default:
			whole = true
		}
		if !whole || s.ID == "" || seen[s.ID] {
			return fault.Errorf(fault.Corrupt, "step %q of the stored program is incomplete, or there twice", s.ID)
		}
		seen[s.ID] = true
	}
	return nil
}

// Machine returns the machine of that name.
func (p *Program) Machine(name string) (Machine, bool) {
	i := slices.IndexFunc(p.Machines, func(m Machine) bool { return m.Name == name })
	if i < 0 {
		return Machine{}, false
	}
	return p.Machines[i], true
}

// Grants are the machines whose authority record the program moves.
func (p *Program) Grants() map[string]bool {
	out := map[string]bool{}
	p.Root.walk(0, func(_ int, s *Step) {
		if s.Kind == Grant {
			out[s.Machine] = true
		}
	})
	return out
}

// Active returns the machines that the run does not skip.
func (p *Program) Active() []Machine {
	return slices.DeleteFunc(slices.Clone(p.Machines), func(m Machine) bool { return m.Skip != "" })
}

func (n *Node) walk(depth int, f func(depth int, s *Step)) {
	if n.Step != nil {
		f(depth, n.Step)
	}
	for i := range n.Seq {
		n.Seq[i].walk(depth, f)
	}
	for i := range n.Par {
		n.Par[i].walk(depth+1, f)
	}
}

func seq(nodes ...Node) Node { return Node{Seq: prune(nodes)} }

func par(limit int, nodes ...Node) Node { return Node{Par: prune(nodes), Limit: limit} }

func one(s Step) Node { return Node{Step: &s} }

func prune(nodes []Node) []Node {
	return slices.DeleteFunc(nodes, func(n Node) bool { return n.Step == nil && len(n.Seq) == 0 && len(n.Par) == 0 })
}
