// Package rpc carries requests and uploads over a transport: one request per
// stream, one result or fault in answer.
//
// The dialing end opens the first stream of a connection with a hello
// (protocol range, program, features, codecs) and gets the other end's; a pair
// whose ranges do not overlap parts with a clear refusal. After that every
// stream of the dialer is
//
//	request: request frame                    → result or fault frame
//	upload:  upload frame (size, header)      → offset frame, or result, or fault
//	         the bytes from offset to size    → result (durable) or fault
//
// The caller keeps its direction open until it has the answer; ending it, or
// losing the connection, is how it gives up, and cancels the handler's context.
//
// Nothing is ever sent twice by this package: a call whose stream dies after
// its request was sent is fault.Unreachable and its outcome is not known.
// Whoever calls decides whether to ask again. It knows no verbs, no certificates
// and no disks.
//
// Mux, Serve and Client are safe for concurrent use; a Sink is used by one
// goroutine at a time.
package rpc

import "github.com/drrun/drrun/transport/wire"

// Protocol is the range of protocol versions this package speaks.
var Protocol = wire.Range{Min: 1, Max: 1}

// Info is what a program says of itself in its hello.
type Info struct {
	Program string // "drrun", "drrun-agent"
	Version string
	// Features and Codecs are offered to the other end; a pair uses what both
	// know.
	Features []string
	Codecs   []string
	// Protocol narrows or moves the range spoken; zero: Protocol.
	Protocol wire.Range
}

func (i Info) hello() wire.Hello {
	h := wire.Hello{Protocol: i.Protocol, Program: i.Program, Version: i.Version, Features: i.Features, Codecs: i.Codecs}
	if h.Protocol == (wire.Range{}) {
		h.Protocol = Protocol
	}
	return h
}
