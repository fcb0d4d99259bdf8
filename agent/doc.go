// Package agent is the daemon beside the machines and the replicas: it keeps
// the authority record of every machine assigned to its host, answers the
// verbs of internal/command, runs the replication loops, and starts and stops
// machines. It goes on alone: what it must know is durable in its state folder
//
//	lock                         held while it runs
//	agent.sock                   drrun-agent status and permit
//	identity/                    key and certificates (package transport/pki)
//	ops/                         results of operations on no machine
//	machines/MACHINE/machine.json  assignment, authority, fence, power, tests
//	machines/MACHINE/ops/        results of operations, by operation id
//	machines/MACHINE/source/     package agent/source
//
// It knows no plan and no run beyond their names. The work is done by
// agent/source (sends), agent/replica (receives, keeps points) and
// agent/provider (starts, stops, freezes).
//
// # Threading
//
// An Agent is safe for concurrent use. Per machine there are three locks, taken
// in this order and never the other way: role (who uses or changes the
// replication role: a cycle, a grant, a preparation), power (start, stop,
// freeze), mu (the record and what status shows; held briefly).
package agent
