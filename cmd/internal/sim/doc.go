// Package sim is the deterministic simulation of drrun: runtimes, the agents of
// two sites, their disks, their network and their clocks in one process, in
// virtual time, driven by a seed. What runs is the product: runtime.Engine,
// agent.Agent with its source, its replica and its scan tracker, transport/rpc
// and agent/client. Models are what lies outside of it: the machines that are
// protected (guest), the disks of the hosts (internal/vfs/faultfs), the network
// (transport/simnet) and the persons (operator).
//
// A seed makes a Scenario: machines, policies, and a schedule of what persons
// ask for and of what breaks. A witness outside the product records what the
// machines did; checks named after the rules of section 4 of the recovery
// semantics compare that with what the product says. A scenario that fails is
// shrunk to the events that are needed.
//
// Under the runtime of detrt (make sim) a seed repeats exactly. Without it the
// same scenarios run, and goroutines of one instant may run in another order.
//
// It is not for measuring, and it does not stand in for tests of the parts.
package sim
