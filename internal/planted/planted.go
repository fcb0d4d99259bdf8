// Package planted holds the faults that the simulation has to find: each one
// breaks a rule of the product in one line, where the rule stands. In a program
// that is shipped they are compiled out. Under the build tag planted one of them
// can be chosen, by DRRUN_PLANTED=NAME or Choose: one build serves for all.
//
// It is not for faults of the world outside (see internal/vfs/faultfs and
// transport/simnet). Safe for concurrent use as long as nobody calls Choose
// meanwhile.
package planted

// Fault is a rule that can be broken.
type Fault string

// The faults, by the rule that is gone.
const (
	None            Fault = ""
	EpochCheck      Fault = "epoch-check"       // a command of an older epoch is refused
	FenceCheck      Fault = "fence-check"       // a command of an earlier claim is refused
	OldStream       Fault = "old-stream"        // what is sent under an older epoch is refused
	NotLearnt       Fault = "not-learnt"        // a newer record that a peer holds is taken over
	ManifestSync    Fault = "manifest-sync"     // a point is acknowledged when its manifest is durable
	SegmentSync     Fault = "segment-sync"      // a segment is acknowledged when it is durable
	UndoAgain       Fault = "undo-again"        // an undo log that is whole is not made again
	HeadFirst       Fault = "head-first"        // the undo logs are whole before the head is touched
	HeadSync        Fault = "head-sync"         // the head is durable before it is marked as applied
	LockForgotten   Fault = "lock-forgotten"    // a stopped source has given up the right to start
	RightNotAsked   Fault = "right-not-asked"   // after a start of the agent a peer is asked for the right to run
	StartNotAsked   Fault = "start-not-asked"   // nothing is started while another host says that it runs there
	FinalSkipped    Fault = "final-skipped"     // the final delta is made after the stop
	EarlyRelease    Fault = "early-release"     // a source lets go of what the target has acknowledged
	OpNotStored     Fault = "op-not-stored"     // an operation that was begun is known to the next agent
	HoldIgnored     Fault = "hold-ignored"      // nothing is applied at the old site before commit
	FoundSkipped    Fault = "found-skipped"     // an old primary's disks are kept as found
	OverlayDropped  Fault = "overlay-dropped"   // what was written before a rollback or a change of the point is kept
	ThinHeld        Fault = "thin-held"         // held and labelled points stay
	ExecRepeated    Fault = "exec-repeated"     // what may have been done is asked about
	UnknownIsDone   Fault = "unknown-is-done"   // an unknown outcome is no success
	TestOnHead      Fault = "test-on-head"      // a test has disks of its own
	NotFenced       Fault = "not-fenced"        // a machine is stopped where a newer record forbids it
	NotFrozen       Fault = "not-frozen"        // a machine is held still while its disks are read
	NotThawed       Fault = "not-thawed"        // a machine that an agent left held still is let go by the next
	LeaseIgnored    Fault = "lease-ignored"     // a source stops its machine when its lease ends
	UnknownIsDown   Fault = "unknown-is-down"   // what is not known to be stopped is stated by a person
	StoppedIsLocked Fault = "stopped-is-locked" // a source that stands still is locked before another site may run it
	TakenConfirmed  Fault = "taken-confirmed"   // a host that a run takes a machine over to confirms it to nobody
)

// All are the faults that the simulation has to find.
func All() []Fault {
	return []Fault{FenceCheck, NotLearnt, ManifestSync, SegmentSync, UndoAgain, HeadFirst, HeadSync, LockForgotten, RightNotAsked,
		FinalSkipped, OpNotStored, HoldIgnored, FoundSkipped, OverlayDropped, ThinHeld, ExecRepeated, TestOnHead, NotFenced, NotFrozen,
		UnknownIsDown}
}

// Others are faults that it does not have to find. Behind some of the rules
// another one stands: a command or a stream of an older epoch has an older claim
// or another direction as well; a segment that was let go too early is missed by
// the sums and read again. The others come to light too rarely: an agent that
// dies in a program of the plan, or that is started again the instant before a
// grant, or between a claim and a grant and is silent again; a machine that another
// runtime has given back meanwhile, where the question before a start is the last
// to see it; or nobody has looked for them long enough.
func Others() []Fault {
	return []Fault{EpochCheck, OldStream, EarlyRelease, UnknownIsDone, NotThawed, StoppedIsLocked, StartNotAsked, TakenConfirmed}
}
