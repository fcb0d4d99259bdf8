// Package crash names the instants at which a process may die between two
// durable steps, so that tests of the real programs can kill it there. The
// programs call At with a name of Points; without the build tag crashtest that
// compiles to nothing. With it, the environment chooses:
//
//	DRRUN_CRASH_AT=replica.head:3   SIGKILL to itself at the third pass of that point
//	DRRUN_CRASH_LOG=FILE            appends the name of each point passed to FILE
//
// It is not for faults of files (see internal/vfs/faultfs) and decides nothing
// in a program that is shipped. Safe for concurrent use.
package crash

// Point is a place at which a process can be made to die.
type Point struct {
	Name string
	What string // what is durable there, and what is not
}

// Points are all of them; a test holds them against the calls in the tree.
var Points = []Point{
	{"agent.fence.stored", "a run's fencing number is stored, the claim is not answered"},
	{"agent.epoch.stored", "the authority record is stored; the roles have not changed and the grant is not answered"},
	{"agent.stop.stored", "a machine is to be stopped, it still runs"},
	{"agent.stop.done", "a machine is stopped; neither that nor the lock is stored"},
	{"agent.lock.stored", "that a machine is stopped, and locked if asked, is stored and not answered"},
	{"agent.start.stored", "a machine is to run, its process has not been started"},
	{"agent.start.done", "a machine's process runs, its number is not stored"},
	{"agent.rollback.kept", "what the new site wrote is kept as a point, its record says it is not"},
	{"agent.rollback.recorded", "the disks are the machine's own again, the replica that they were is still there"},
	{"agent.lease.obeyed", "the source's word to keep a lease is stored, its target does not know of it"},
	{"agent.lease.stored", "the target has stored the length of a lease, the source has no answer"},
	{"agent.lease.closed", "the target grants no more renewals for a run, which has no answer"},
	{"agent.op.started", "an operation is stored as started, nothing has been done"},
	{"agent.op.done", "an operation has taken effect, its result is not stored"},
	{"agent.op.stored", "the result of an operation is stored, its caller has no answer"},

	{"replica.segment.received", "a received segment is whole and not synced"},
	{"replica.segment.checked", "a segment's sums have their name, the segment has not"},
	{"replica.segment.durable", "a segment is durable under its name, not acknowledged"},
	{"replica.manifest.before", "all segments of a point are durable, its manifest is not"},
	{"replica.manifest.durable", "a point exists, the sender has no acknowledgement"},
	{"replica.table.folded", "a point's hashes are in the table, the mark says otherwise"},
	{"replica.undo.durable", "the undo logs of a point are durable, the head is untouched"},
	{"replica.head.written", "a disk's head is written, its applied mark is not"},
	{"replica.mark.stored", "a point is marked as applied, its logs are still there"},
	{"replica.thin.merged", "the merged undo log is durable, nothing says what goes"},
	{"replica.thin.recorded", "the record names the points that go, all are still there"},
	{"replica.thin.removed", "manifests and old undo logs are gone, the record still names them"},
	{"replica.overlay.recorded", "an overlay is announced, none of its files is there"},
	{"replica.overlay.copied", "the overlay's files are whole, the record says they are not"},
	{"replica.overlay.switch", "the overlay is to take the head's place, and has not"},
	{"replica.overlay.kept", "a head is renamed to its base, no disk stands at its path"},
	{"replica.overlay.ready", "the overlay is in its place, the preparation is not answered"},
	{"replica.commit.stored", "the overlay is the machine's disk for good, commit is not answered"},
	{"replica.hold.stored", "the hold is stored, not answered"},
	{"replica.adopt.recorded", "the files of a take-over are whole, its manifest is not there"},
	{"replica.adopt.manifest", "the manifest of a take-over is durable, tables and marks are not"},
	{"replica.adopt.marked", "a take-over is done, its old files are still there"},
	{"replica.found.read", "an old primary's disks are read whole, not kept as a point yet"},
	{"replica.rollback.recorded", "the points received and held are to go, they are still there"},
	{"replica.test.copied", "the view of a test is whole, the record says it is not"},
	{"replica.test.dropping", "a view is to go, its files are still there"},

	{"source.segment.spooled", "a segment is in the spool, the journal does not list it"},
	{"source.cut.scanned", "the segments of a cut are spooled, the cut is not journaled"},
	{"source.cut.journaled", "a cut is journaled, nothing of it is sent"},
	{"source.segment.acknowledged", "an acknowledgement is journaled, the table is not folded"},
	{"source.table.folded", "a segment is folded into the table, the journal says it is not"},
	{"source.tip.answered", "the target acknowledged a point, the journal does not say so"},
	{"source.tip.journaled", "an acknowledged point is the journal's tip"},

	{"runtime.record.before", "a record of a run's journal is not written"},
	{"runtime.record.after", "a record is committed, nothing was done about it"},
	{"runtime.effect.done", "a step has taken effect, its result is not recorded"},
}
