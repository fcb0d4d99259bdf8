// Package source is the sending role of an agent: it cuts the disks of one
// machine at one instant, finds what changed since the target's newest point,
// spools it as replication logs and sends them until the target acknowledged
// the point.
//
// It is not for deciding when to cut, where to send or who may send: the
// daemon does, and hands over a Peer, a Guest and the authority record. It
// knows nothing of connections or of processes.
//
// # What is durable, and in which order
//
// The folder of a machine holds journal.json, one block table per disk
// (NAME.table: the target's tip and the segments it acknowledged) and
// spool/LOG.NNNN.hrl. A segment is durable in the spool and listed in the
// journal before its first byte leaves; a cut is listed with its sums before
// its first byte leaves; after the target's acknowledgement the segment is
// noted as acknowledged, folded into the table, noted as folded, deleted. So at
// every instant the table is what the journal says, or what folding the
// acknowledged segments again makes of it. Whatever else a start finds is
// mended by comparing tables with the target, which moves no data.
//
// Threading: a Machine is safe for concurrent use; cycles run one at a time.
package source
