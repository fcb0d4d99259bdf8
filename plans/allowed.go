package plans

import (
	"slices"
	"strings"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
)

// Operation is something a person can ask for a machine.
type Operation string

// The operations on machines.
const (
	OpProtect     Operation = "protect"
	OpUnprotect   Operation = "unprotect"
	OpTestRun     Operation = "test failover"
	OpPlannedRun  Operation = "planned failover"
	OpUnplanned   Operation = "unplanned failover"
	OpCommit      Operation = "commit"
	OpChangePoint Operation = "change-point"
	OpRollback    Operation = "rollback"
	OpReverse     Operation = "reverse"
	OpResume      Operation = "resume"
	OpCancel      Operation = "cancel"
	OpCleanup     Operation = "cleanup" // of a test, which stands beside every state
)

// Operations is every operation, in the order of tables.
var Operations = []Operation{
	OpProtect, OpUnprotect, OpTestRun, OpPlannedRun, OpUnplanned, OpCommit, OpChangePoint, OpRollback, OpReverse,
	OpResume, OpCancel, OpCleanup,
}

// MachineStates is every state of a machine, in the order of a life.
var MachineStates = []recovery.MachineState{
	recovery.Unprotected, recovery.Seeding, recovery.Protected, recovery.Degraded, recovery.FailingOver,
	recovery.FailedOver, recovery.Committed, recovery.Reseeding,
}

// allowed is the table state × operation. Cleanup is allowed everywhere: a
// test is an object of its own. An unplanned failover is allowed wherever a
// complete point may exist: also at a machine that has failed over and whose new
// site dies before the commit, and at one whose old site has what was found there.
var allowed = map[recovery.MachineState][]Operation{
	recovery.Unprotected: {OpProtect, OpCleanup},
	recovery.Seeding:     {OpUnprotect, OpCleanup},
	recovery.Protected:   {OpUnprotect, OpTestRun, OpPlannedRun, OpUnplanned, OpCleanup},
	recovery.Degraded:    {OpUnprotect, OpTestRun, OpPlannedRun, OpUnplanned, OpCleanup},
	recovery.FailingOver: {OpRollback, OpResume, OpCancel, OpCleanup},
	recovery.FailedOver:  {OpTestRun, OpUnplanned, OpCommit, OpChangePoint, OpRollback, OpCleanup},
	recovery.Committed:   {OpUnprotect, OpReverse, OpCleanup},
	recovery.Reseeding:   {OpUnprotect, OpUnplanned, OpCleanup},
}

// whyNot says what a state lacks for what is not allowed in it.
var whyNot = map[recovery.MachineState]string{
	recovery.Unprotected: "it is not protected",
	recovery.Seeding:     "it has no recovery point yet",
	recovery.Protected:   "it runs at its site and is replicated",
	recovery.Degraded:    "it runs at its site",
	recovery.FailingOver: "a run fails it over now",
	recovery.FailedOver:  "it has failed over and is not committed",
	recovery.Committed:   "it is committed, and nothing replicates back yet",
	recovery.Reseeding:   "its reverse replication has no recovery point yet",
}

// Allowed returns the operations that a machine's state allows; none for a
// state that is not known.
func Allowed(s recovery.MachineState) []Operation { return slices.Clone(allowed[s]) }

// Refusal returns nil when the state of a machine allows an operation, else an
// error of kind fault.Refused that says why, with what is allowed as its hint.
func Refusal(machine string, s recovery.MachineState, op Operation) error {
	if slices.Contains(allowed[s], op) {
		return nil
	}
	why, known := whyNot[s]
	if !known {
		return fault.Errorf(fault.Refused, "%s of machine %s is refused: its state %q is not known", op, machine, s)
	}
	return fault.Errorf(fault.Refused, "%s of machine %s is refused: %s (%s)", op, machine, why, s).
		WithHint("allowed now: %s", Words(s))
}

// Words lists what a state allows, for messages.
func Words(s recovery.MachineState) string {
	words := make([]string, len(allowed[s]))
	for i, o := range allowed[s] {
		words[i] = string(o)
	}
	return strings.Join(words, ", ")
}
