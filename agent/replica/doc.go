// Package replica is the durable store of one machine at a target: the head
// images, the received logs, the undo logs that make older recovery points,
// views of those points, and retention.
//
// It is not the protocol (the daemon calls it), decides no roles or epochs
// (the authority record does), and never starts a machine.
//
// # Layout, under STORE/MACHINE
//
//	replica.json               marks: what is applied, folded, held, live, tested
//	points/SEQ-POINTID.json    manifests; a point exists while its manifest does
//	DISK/head.img              the disk at the applied point (or at a path given)
//	DISK/table                 block hashes at the newest accepted point, the tip
//	DISK/logs/LOGID.NNNN.hrl   received segments (.part: arriving; .sums: their block hashes)
//	DISK/undo/NEWER-OLDER.hrl  by sequence number: what leads from a point to the one before it
//	DISK/views/TEST/disk.img   the throw-away view of a test
//
// # Order
//
// Each step is durable before the next: segment checked and in its place → its
// acknowledgement; manifest → acknowledgement of the point → tables → undo logs
// whole → heads → applied mark → received logs removed. Every step is done
// again or finished by Open. An undo log is written once and never made again:
// after a crash in the middle of a head it would record new content as old. The
// undo chain is not stored: it follows from the manifests, two neighbours (N, O)
// need the file N-O, and files that no pair needs are garbage.
//
// A block table that is missing or damaged is noted in replica.json and made
// again by Apply, from the head and the logs that are not applied; until then
// nothing of its disk is accepted.
//
// An accepted point whose logs cannot be read any more (damaged, missing) costs no
// older one: logs that lay for a while are read before they touch a head, a head
// in the middle of such a point is taken back by its undo logs, older points can
// be failed over to, and nothing is received on top of it.
//
// A point is read as the head under layers: for an older one the undo logs from
// it up to the head (the oldest content wins), for one accepted and not yet
// applied the logs from it down to the head (the newest wins).
//
// In a real failover the chosen point is made whole beside the head, the head is
// renamed to HEAD.base and the new file takes the head's path: the machine runs
// there from its first start, and the base keeps every point. Adopt turns the
// base into one undo log when this site becomes a target again.
//
// # Threading
//
// A Machine is safe for concurrent use. Receiving and accepting go on while a
// head is written or read. The long operations on heads (Apply, Thin, Prepare,
// PrepareTest, Adopt, AsFound, Verify) run one at a time; a real Prepare, Commit,
// Adopt, AsFound, SetHold and Close end a running Verify, PrepareTest or Thin
// (ErrPreempted). A Receiver belongs to one goroutine.
package replica
