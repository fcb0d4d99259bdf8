// Package transport is the shape of a connection between two parts of drrun:
// mutually authenticated, many streams, a medium that can be exchanged. The
// medium in production is transport/quicnet (QUIC, TLS 1.3); in tests it is
// transport/simnet (delay, loss, cut and partition in virtual time). Framing
// is transport/wire, requests and uploads transport/rpc, certificates and
// joining transport/pki.
//
// It knows no verbs and no disks.
package transport

import (
	"context"
	"io"
	"net"
	"time"
)

// Peer is the authenticated other end. A peer is an agent (Site and Host set)
// or a runtime (Runtime set).
type Peer struct {
	Estate  string
	Site    string
	Host    string
	Runtime string
	// Expired says that the certificate of a known agent has run out less
	// than 30 days ago: an alarm, not a refusal.
	Expired bool
	// RenewalDue says that half of the life of a host's certificate was over
	// when it connected.
	RenewalDue bool
}

// String names the peer for messages and logs.
func (p Peer) String() string {
	if p.Runtime != "" {
		return "runtime " + p.Runtime
	}
	return "host " + p.Host
}

// Want is whom a dialer expects; a connection to anybody else fails with
// fault.Refused. An empty Host accepts any host of the estate.
type Want struct {
	Estate string
	Host   string
}

// Stream is one bidirectional byte stream. One goroutine may read while
// another writes; Close ends both directions.
type Stream interface {
	io.Reader
	io.Writer
	// CloseWrite ends our direction; the peer reads io.EOF after all bytes. It
	// is no error that the peer has dropped the stream meanwhile.
	CloseWrite() error
	// Close drops the stream: what was not read is lost, and what was written
	// too unless CloseWrite came before it, after which it is still delivered.
	// It may be called while others read and write: they end with an error.
	Close() error
	// SetDeadline bounds reads and writes.
	SetDeadline(t time.Time) error
}

// Conn is a connection to one peer. Safe for concurrent use.
type Conn interface {
	// Open starts a stream; it waits while the peer's limit is reached.
	Open(ctx context.Context) (Stream, error)
	// Accept waits for a stream of the peer.
	Accept(ctx context.Context) (Stream, error)
	Peer() Peer
	RemoteAddr() net.Addr
	// Done is closed when the connection ended, for whatever reason.
	Done() <-chan struct{}
	// Close ends the connection and tells the peer why.
	Close(reason string) error
}

// Listener accepts connections.
type Listener interface {
	Accept(ctx context.Context) (Conn, error)
	Addr() net.Addr
	// Close stops listening and ends the connections it has accepted.
	Close() error
}

// Medium dials and listens. Both ends prove who they are before a Conn exists.
type Medium interface {
	// Dial connects; errors have kind fault.Unreachable (nobody answers) or
	// fault.Refused (the wrong certificate, at either end).
	Dial(ctx context.Context, addr string, want Want) (Conn, error)
	Listen(ctx context.Context, addr string) (Listener, error)
}
