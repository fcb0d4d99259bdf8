// Package command is the verbs between the parts of drrun: what a runtime asks
// of an agent, and what the agent of a sending host asks of a receiving one.
// Each verb has one request and one result type, JSON on the wire.
//
// It holds no behaviour: agents implement the verbs, runtimes and sources call
// them through a Caller. The words are a contract between versions: append
// only.
package command

import (
	"context"
	"slices"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
)

// Caller sends one request to the agent of a named host. Errors carry a
// fault.Kind; fault.Unreachable means that nothing is known of the outcome.
// Safe for concurrent use.
type Caller interface {
	Call(ctx context.Context, host, verb string, in, out any) error
}

// Runtime → agent.
var (
	// Status reports everything the agent knows of its machines and store.
	Status = Verb[StatusRequest, AgentStatus]{"status"}
	// Assign gives a host its part of a machine. Idempotent.
	Assign = Verb[AssignRequest, Empty]{"assign"}
	// Unassign ends protection at this host.
	Unassign = Verb[UnassignRequest, Empty]{"unassign"}
	// Claim raises the fencing number; lower ones are refused from here on.
	Claim = Verb[ClaimRequest, ClaimResult]{"claim"}
	// Grant moves the authority record by compare-and-set.
	Grant = Verb[GrantRequest, GrantResult]{"grant"}
	// Drain runs a replication cycle now and waits until the target has
	// acknowledged its point. With Final the machine must be stopped.
	Drain = Verb[DrainRequest, DrainResult]{"drain"}
	// Stop stops the machine, and locks it if asked: the agent durably gives
	// up the right to start it.
	Stop = Verb[StopRequest, StopResult]{"stop"}
	// Unlock gives a locked machine back its right to be started (rollback).
	Unlock = Verb[Meta, Empty]{"unlock"}
	// Points lists the recovery points at this host, oldest first.
	Points = Verb[PointsRequest, PointsResult]{"points"}
	// Room says what preparing a point would take: mode, bytes, time.
	Room = Verb[PrepareRequest, RoomResult]{"room"}
	// RoomBack says what ending a failover that is not committed would take at
	// this host: at the new site keeping what was written there, and with a
	// point to change to its disks; at the old one what its own disks need that
	// are a replica's heads by now. It reads the disks.
	RoomBack = Verb[RoomBackRequest, RoomResult]{"room-back"}
	// Prepare makes the disks of a point ready to start on: the overlay of a
	// real failover, or the throw-away view of a test.
	Prepare = Verb[PrepareRequest, PrepareResult]{"prepare"}
	// Start starts the machine on its prepared (or own) disks.
	Start = Verb[StartRequest, StartResult]{"start"}
	// Check asks one readiness question once.
	Check = Verb[CheckRequest, CheckResult]{"check"}
	// Exec runs an allowed program on the host.
	Exec = Verb[ExecRequest, ExecResult]{"exec"}
	// Commit ends the uncommitted state at this host.
	Commit = Verb[Meta, Empty]{"commit"}
	// Cleanup ends a test: stops its machine, drops its view. Idempotent.
	Cleanup = Verb[CleanupRequest, Empty]{"cleanup"}
	// Found reads the disks of a stopped old primary whole and keeps their
	// state as the point "as found" before reverse replication overwrites it.
	Found = Verb[FoundRequest, FoundResult]{"found"}
	// Verify reads a point whole and compares it with its sums.
	Verify = Verb[VerifyRequest, VerifyResult]{"verify"}
	// Hold keeps a point from being thinned, or releases it for the retention.
	Hold = Verb[HoldRequest, HoldResult]{"hold"}
	// Written reads the disks that a machine runs on here, on the overlay of an
	// uncommitted failover, and counts what differs from the point under it:
	// what a rollback or a change of the point takes from the new site.
	Written = Verb[Meta, WrittenResult]{"written"}
	// Proof reads disks whole, from the medium and not from any table, and says
	// their sums: at the old site the disks of the stopped machine, at the new
	// one the point under the overlay. Equal sums prove that nothing was lost.
	Proof = Verb[ProofRequest, ProofResult]{"proof"}
	// Clock compares the clocks of two programs: a runtime asks for what an
	// agent's shows and tells it what its own does, a source asks its target.
	Clock = Verb[ClockRequest, ClockResult]{"clock"}
	// ProofRanges returns the sums of ranges as Proof has read them last.
	ProofRanges = Verb[RangesRequest, RangesResult]{"proof-ranges"}
)

// Agent → agent.
var (
	// Confirm asks a peer for its authority record of a machine (right to run).
	Confirm = Verb[ConfirmRequest, ConfirmResult]{"confirm"}
	// Tip opens a sending session: the receiver names its newest point and
	// unfinished files, or refuses an older epoch.
	Tip = Verb[TipRequest, TipResult]{"tip"}
	// Segment is the upload of one log segment; its result means durable.
	Segment = Verb[SegmentHeader, Empty]{"segment"}
	// Accept closes a point: its manifest is durable when it returns.
	Accept = Verb[AcceptRequest, AcceptResult]{"accept"}
	// Ranges returns the sums of ranges of the receiver's table (compare).
	Ranges = Verb[RangesRequest, RangesResult]{"ranges"}
	// Blocks returns the block hashes of ranges (compare).
	Blocks = Verb[BlocksRequest, BlocksResult]{"blocks"}
)

// Empty is the result of a verb that only succeeds or fails.
type Empty struct{}

// StatusRequest asks for all machines, for one, or for some; an agent that does
// not know Machines answers for all.
type StatusRequest struct {
	Machine  string   `json:"machine,omitempty"`
	Machines []string `json:"machines,omitempty"`
}

// AgentStatus is an agent's report.
type AgentStatus struct {
	Host     string          `json:"host"`
	Site     string          `json:"site"`
	Estate   string          `json:"estate"`
	Version  string          `json:"version"`
	Now      time.Time       `json:"now"`
	Boot     string          `json:"boot"` // boot id of the host
	Store    string          `json:"store,omitempty"`
	Free     int64           `json:"free,omitempty"` // bytes available in the store
	Machines []MachineStatus `json:"machines"`
}

// Roles of a host for a machine.
const (
	RoleSource = "source" // it sends
	RoleTarget = "target" // it receives
	RoleNone   = "none"   // nothing replicates through it
)

// MachineStatus is what one host knows of one machine.
type MachineStatus struct {
	Machine   string                `json:"machine"`
	Host      string                `json:"host"`
	Site      string                `json:"site"`
	Role      string                `json:"role"`
	Authority recovery.Authority    `json:"authority"`
	Fence     ident.Fence           `json:"fence,omitempty"`
	State     recovery.MachineState `json:"state"`
	Reason    string                `json:"reason,omitempty"` // why degraded, refused to start, refused by a peer
	Power     recovery.Power        `json:"power"`
	PID       int                   `json:"pid,omitempty"`
	Locked    bool                  `json:"locked,omitempty"`
	LiveRun   string                `json:"live_run,omitempty"`   // run whose overlay the machine runs on
	LivePoint ident.PointID         `json:"live_point,omitempty"` // point under that overlay
	Tests     []string              `json:"tests,omitempty"`      // tests that stand here
	TestsInfo []TestInfo            `json:"tests_info,omitempty"` // the same, with what is known of them
	// Tip is the newest complete point this host knows: acknowledged (source)
	// or durable (target). TipAge is its age on monotonic clocks, in ns.
	Tip      *recovery.Point `json:"tip,omitempty"`
	TipAge   time.Duration   `json:"tip_age,omitempty"`
	Applied  ident.Seq       `json:"applied,omitempty"` // target: newest point in the head
	Points   int             `json:"points,omitempty"`
	Cycle    *CycleStatus    `json:"cycle,omitempty"`    // source: the last finished cycle
	Progress *Progress       `json:"progress,omitempty"` // what it is busy with now
	// Notes are what a person should look at although the machine is protected,
	// each with what to do.
	Notes []string `json:"notes,omitempty"`
	// Lease is the machine's lease as this host knows it; nil: it has none.
	Lease *LeaseStatus `json:"lease,omitempty"`
}

// TestInfo is a test that stands at a host.
type TestInfo struct {
	ID       string         `json:"id"`
	Run      string         `json:"run,omitempty"`
	Point    ident.PointID  `json:"point"`
	Deadline time.Time      `json:"deadline,omitzero"` // when the agent cleans it up by itself; zero: never
	Power    recovery.Power `json:"power"`
}

// CycleStatus describes a finished replication cycle.
type CycleStatus struct {
	At      time.Time     `json:"at"`
	Took    time.Duration `json:"took"`
	Frozen  time.Duration `json:"frozen"`  // how long the machine was held still
	Changed int64         `json:"changed"` // bytes of the disks that changed
	Wire    int64         `json:"wire"`    // stored bytes sent
	Error   string        `json:"error,omitempty"`
}

// Progress is work under way: Done of Total bytes.
type Progress struct {
	Phase string `json:"phase"` // scan, send, compare, prepare, apply, verify
	Done  int64  `json:"done"`
	Total int64  `json:"total"`
}

// AssignRequest carries an assignment and the first authority record.
type AssignRequest struct {
	Assignment recovery.Assignment `json:"assignment"`
	// Authority is stored only where the agent has no record of the machine.
	Authority recovery.Authority `json:"authority"`
}

// UnassignRequest ends protection; the replica stays unless asked.
type UnassignRequest struct {
	Meta
	DeleteReplica bool `json:"delete_replica,omitempty"`
}

// ClaimRequest claims a machine for a run.
type ClaimRequest struct {
	Meta
	// Takeover goes to the host that is to run the machine, where the run may take
	// it from the active site on a person's word: from here on the host confirms
	// the record in force to nobody (Confirm). A claim of another run, a newer
	// record or LetGo ends that; the same run's further claims leave it as it is.
	Takeover bool `json:"takeover,omitempty"`
	LetGo    bool `json:"let_go,omitempty"`
}

// ClaimResult is the record the agent has.
type ClaimResult struct {
	Authority recovery.Authority `json:"authority"`
	Fence     ident.Fence        `json:"fence"`
}

// GrantRequest moves the record from Expect to Next. An agent that has Next
// already answers as if it had just stored it.
type GrantRequest struct {
	Meta
	Expect recovery.Authority `json:"expect"`
	Next   recovery.Authority `json:"next"`
}

// GrantResult is the record after the request.
type GrantResult struct {
	Authority recovery.Authority `json:"authority"`
}

// DrainRequest asks for a cycle now.
type DrainRequest struct {
	Meta
	Final  bool     `json:"final,omitempty"` // the machine is stopped: nothing may change after it
	Labels []string `json:"labels,omitempty"`
}

// DrainResult is the acknowledged point.
type DrainResult struct {
	Point   recovery.Point `json:"point"`
	Changed int64          `json:"changed"` // bytes
	Wire    int64          `json:"wire"`    // bytes
	Took    time.Duration  `json:"took"`
	Frozen  time.Duration  `json:"frozen"`
	// Expect is how long a final delta would take now, the machine being
	// stopped: as long as this one from its cut to the acknowledgement.
	Expect time.Duration `json:"expect,omitempty"`
	// Scan says that the disks were read whole to find what changed, Read how
	// many bytes of them.
	Scan bool  `json:"scan,omitempty"`
	Read int64 `json:"read,omitempty"`
}

// StopRequest stops gracefully for Within, then by force if allowed.
type StopRequest struct {
	Meta
	Within time.Duration `json:"within,omitempty"` // 0: the provider's force_after
	Force  bool          `json:"force,omitempty"`
	Lock   bool          `json:"lock,omitempty"`
}

// StopResult is the power state after it.
type StopResult struct {
	Power  recovery.Power `json:"power"`
	Forced bool           `json:"forced,omitempty"`
}

// PointsRequest asks for the points of a machine.
type PointsRequest struct {
	Machine string `json:"machine"`
}

// PointsResult lists them, oldest first.
type PointsResult struct {
	Points []recovery.Point `json:"points"`
}

// PrepareRequest names a point and what it is for.
type PrepareRequest struct {
	Meta
	Point ident.PointID `json:"point"`
	Test  string        `json:"test,omitempty"` // test id; empty: a real failover
	// TTL is how long a test may stand: then the agent cleans it up by itself;
	// 0: until it is asked to.
	TTL time.Duration `json:"ttl,omitempty"`
}

// RoomBackRequest names the point to change to; zero: the failover is rolled
// back.
type RoomBackRequest struct {
	Meta
	Point ident.PointID `json:"point"`
}

// RoomResult is the cost of preparing.
type RoomResult struct {
	Mode   string        `json:"mode"`   // reflink or copy
	Needed int64         `json:"needed"` // bytes
	Free   int64         `json:"free"`   // bytes
	Time   time.Duration `json:"time"`   // estimate
}

// PrepareResult says where the disks are.
type PrepareResult struct {
	Paths map[string]string `json:"paths"` // by disk name
	Mode  string            `json:"mode"`
	Bytes int64             `json:"bytes"`
	Took  time.Duration     `json:"took"`
}

// StartRequest starts a machine, for production or in a test.
type StartRequest struct {
	Meta
	Test string `json:"test,omitempty"`
}

// StartResult is the started process.
type StartResult struct {
	Power recovery.Power `json:"power"`
	PID   int            `json:"pid,omitempty"`
}

// CheckRequest asks once. Addresses resolves machine names in host parts to
// their addresses in this run; Self is the address of an empty host part.
type CheckRequest struct {
	Meta
	Check     recovery.Check    `json:"check"`
	Self      string            `json:"self,omitempty"`
	Addresses map[string]string `json:"addresses,omitempty"`
	Timeout   time.Duration     `json:"timeout"` // of this one question
}

// CheckResult says whether it passed, and what was seen.
type CheckResult struct {
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
}

// ExecRequest runs a program on the host; Sh instead runs it by sh -c.
type ExecRequest struct {
	Meta
	Cmd    []string          `json:"cmd,omitempty"`
	Sh     string            `json:"sh,omitempty"`
	Env    map[string]string `json:"env,omitempty"`
	Within time.Duration     `json:"within"`
}

// ExecResult is how the program ended. Output is the tail of what it printed.
type ExecResult struct {
	Exit   int    `json:"exit"`
	Output string `json:"output,omitempty"`
}

// CleanupRequest names the test to end.
type CleanupRequest struct {
	Meta
	Test string `json:"test"`
}

// FoundRequest asks for the state of an old primary to be kept.
type FoundRequest struct {
	Meta
	// Discard: a person gave up what only that site has. It is counted, and no
	// point of it is kept.
	Discard bool   `json:"discard,omitempty"`
	By      string `json:"by,omitempty"` // that person, for the agent's log
}

// FoundResult is the kept state of an old primary; without a point its disks
// are a replica, and nothing is only there. Bytes and Blocks never left
// it: they differ from the newest point both sites had.
type FoundResult struct {
	// Discarded: nothing was kept, there is no Point.
	Discarded bool           `json:"discarded,omitempty"`
	Point     recovery.Point `json:"point"`
	Bytes     int64          `json:"bytes"`
	Blocks    int64          `json:"blocks"`
	Since     time.Time      `json:"since,omitzero"` // instant of that newest common point
}

// VerifyRequest names a point; zero: every point.
type VerifyRequest struct {
	Machine string        `json:"machine"`
	Point   ident.PointID `json:"point"`
}

// VerifyResult lists the points read, and the faults found (none: all verify).
type VerifyResult struct {
	Points int      `json:"points"`
	Bytes  int64    `json:"bytes"`
	Faults []string `json:"faults,omitempty"`
}

// HoldRequest holds a point under a label (which may be empty), or releases it:
// then its labels go as well, since a labelled point is never thinned.
type HoldRequest struct {
	Machine string        `json:"machine"`
	Point   ident.PointID `json:"point"`
	Held    bool          `json:"held"`
	Label   string        `json:"label,omitempty"`
}

// HoldResult is the point as it is stored now.
type HoldResult struct {
	Point recovery.Point `json:"point"`
}

// WrittenResult is what differs from the point under the overlay, and when that
// was put in place. The machine may run meanwhile: it is what was found so far.
type WrittenResult struct {
	Bytes  int64     `json:"bytes"`
	Blocks int64     `json:"blocks"`
	Since  time.Time `json:"since,omitzero"`
}

// ProofRequest names the point that both ends read.
type ProofRequest struct {
	Meta
	Point ident.PointID `json:"point"`
}

// ProofResult are sums over all blocks that were read, one for each disk.
type ProofResult struct {
	Disks []ProofDisk   `json:"disks"`
	Bytes int64         `json:"bytes"` // read
	Took  time.Duration `json:"took"`
}

// ProofDisk is a disk as it was read.
type ProofDisk struct {
	Name string `json:"name"`
	Size int64  `json:"size"` // bytes
	Sum  uint64 `json:"sum"`  // agent/blocksum
	// From says how sure it is that the medium was read, and not memory:
	// "medium", "dropped" (the page cache was emptied before) or "cache". Empty:
	// an older agent, which read through the cache.
	From string `json:"from,omitempty"`
}

// Disk returns the result's part of the named disk.
func (r *ProofResult) Disk(name string) (ProofDisk, bool) {
	i := slices.IndexFunc(r.Disks, func(d ProofDisk) bool { return d.Name == name })
	if i < 0 {
		return ProofDisk{}, false
	}
	return r.Disks[i], true
}

// ConfirmRequest asks for the authority record of a machine.
type ConfirmRequest struct {
	Machine string `json:"machine"`
	// Authority is the asker's own record, if it has one: a newer one teaches
	// the peer, another one of the same epoch is a conflict at both.
	Authority recovery.Authority `json:"authority,omitzero"`
	// Instance is random at each start of the asking agent: a new one says
	// that sessions with an earlier one are dead.
	Instance string `json:"instance,omitempty"`
}

// ConfirmResult is the peer's record.
type ConfirmResult struct {
	Authority recovery.Authority `json:"authority"`
	// Power is the machine's at this host, where another host is to start it.
	Power recovery.Power `json:"power,omitempty"`
	// Leases says that the agent understands Renew.
	Leases bool `json:"leases,omitempty"`
	// Takeover is the run that takes the machine over to this host: the record is
	// not confirmed.
	Takeover string `json:"takeover,omitempty"`
}

// TipRequest opens a session for a machine. The receiver adopts a newer
// record and refuses an older one (fault.Conflict).
type TipRequest struct {
	Machine   string             `json:"machine"`
	Authority recovery.Authority `json:"authority"`
}

// TipResult is what the receiver has.
type TipResult struct {
	Authority recovery.Authority `json:"authority"`
	Tip       *recovery.Point    `json:"tip,omitempty"` // newest durable point; nil: none
	// Age is the tip's, on monotonic clocks: at sending, and since receipt.
	Age     time.Duration `json:"age,omitempty"`
	NextSeq ident.Seq     `json:"next_seq"`
	Staged  []StagedLog   `json:"staged,omitempty"`
}

// StagedLog is a log whose point does not exist yet.
type StagedLog struct {
	Disk     string      `json:"disk"`
	Log      ident.LogID `json:"log"`
	Segments int         `json:"segments"`       // durable ones: 0 … Segments-1
	Part     int64       `json:"part,omitempty"` // bytes held of segment number Segments
}

// SegmentHeader announces one segment. The receiver answers with the offset
// from which it wants bytes; a segment it has is acknowledged again.
type SegmentHeader struct {
	Machine string        `json:"machine"`
	Epoch   ident.Epoch   `json:"epoch"`
	Disk    string        `json:"disk"`
	From    ident.PointID `json:"from"` // tip the log leads from; zero: from nothing
	Log     ident.LogID   `json:"log"`
	Segment int           `json:"segment"`
	Size    int64         `json:"size"`   // bytes of the file
	SHA256  []byte        `json:"sha256"` // of the file
}

// ClockRequest is a question what time it is. Asked several times: what was
// answered quickest is right within half of what it took.
type ClockRequest struct {
	Now time.Time `json:"now"` // the asker's wall clock
	// Reading, of a runtime, says what its clock showed when the monotonic one
	// of the agent of that instance read Reading.Mono.
	Reading  *clock.Reading `json:"reading,omitempty"`
	Instance string         `json:"instance,omitempty"`
}

// ClockResult is what the answering agent's clocks show.
type ClockResult struct {
	Now      time.Time     `json:"now"`
	Mono     time.Duration `json:"mono"`     // its monotonic clock
	Instance string        `json:"instance"` // of the agent: another one has another monotonic clock
	// Controller is what it knows of the controller's clock at Mono, which was
	// told ControllerAge ago.
	Controller    *clock.Reading `json:"controller,omitempty"`
	ControllerAge time.Duration  `json:"controller_age,omitempty"`
}

// AcceptRequest closes a point whose segments are all acknowledged. Age is
// the time since the cut on the sender's monotonic clock.
type AcceptRequest struct {
	Epoch ident.Epoch    `json:"epoch"`
	Point recovery.Point `json:"point"`
	Age   time.Duration  `json:"age"`
}

// AcceptResult is the point as stored.
type AcceptResult struct {
	Point recovery.Point `json:"point"`
}

// RangesRequest asks for the sums of Count ranges of 1024 blocks from Start.
type RangesRequest struct {
	Machine string      `json:"machine"`
	Epoch   ident.Epoch `json:"epoch"`
	Disk    string      `json:"disk"`
	Start   int64       `json:"start"`
	Count   int         `json:"count"`
}

// RangesResult holds 8 little-endian bytes for each range, fewer at the end.
type RangesResult struct {
	Size int64  `json:"size"` // bytes of the receiver's disk
	Sum  uint64 `json:"sum"`
	Sums []byte `json:"sums"`
}

// BlocksRequest asks for the block hashes of some ranges.
type BlocksRequest struct {
	Machine string      `json:"machine"`
	Epoch   ident.Epoch `json:"epoch"`
	Disk    string      `json:"disk"`
	Ranges  []int64     `json:"ranges"`
}

// BlocksResult holds, for each range asked, 8 little-endian bytes a block.
type BlocksResult struct {
	Hashes [][]byte `json:"hashes"`
}
