// Package compose wires a runtime out of its parts: the store of a state
// folder, the estate's certificate authority and the runtime's identity, QUIC
// to the agents, the plan loader, the engine, and the socket. It is the only
// place that knows them all.
//
// It has no flags and prints nothing. A Runtime is safe for concurrent use;
// Close is called once.
package compose
