package simnet

import (
	"context"
	"net"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/transport"
)

// pipe is one connection: its two ends. All fields are under Net.mu.
type pipe struct {
	n    *Net
	pair pair
	ends [2]*conn
}

// die ends a connection at both ends at once.
func (p *pipe) die(why string) {
	for _, c := range p.ends {
		c.end(fault.Errorf(fault.Unreachable, "the connection to %s died: %s", c.peer, why))
	}
}

func (p *pipe) wakeStreams() {
	for _, c := range p.ends {
		c.wakeAll()
	}
}

// deliverClose ends the ends whose close waited for a partition to heal.
func (p *pipe) deliverClose() {
	for _, c := range p.ends {
		if c.closing != nil {
			c.end(c.closing)
		}
	}
}

// conn is one end of a connection.
type conn struct {
	p    *pipe
	self string
	peer transport.Peer
	addr simAddr
	far  *conn
	done chan struct{}

	// under Net.mu:
	incoming []*stream          // in the order they were opened
	streams  map[*stream]uint64 // with their number
	opened   int                // streams opened here that the peer has not closed yet
	wake     chan struct{}
	err      error // why it ended; nil: it lives
	closing  error // the peer's close, held up by a partition
}

func newConn(p *pipe, self string, peer transport.Peer, addr string) *conn {
	return &conn{
		p: p, self: self, peer: peer, addr: simAddr(addr),
		done: make(chan struct{}), wake: make(chan struct{}), streams: map[*stream]uint64{},
	}
}

// end marks this end as ended; Net.mu is held.
func (c *conn) end(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	close(c.done)
	c.wakeAll()
	if c.far.err != nil {
		delete(c.p.n.conns, c.p)
	}
}

func (c *conn) wakeAll() {
	broadcast(&c.wake)
	for _, s := range inOrder(c.streams) {
		broadcast(&s.wake)
	}
}

// down reports whether what the peer sends does not arrive here.
func (c *conn) down() bool { return c.p.n.link(c.p.pair.a, c.p.pair.b).mute[c.far.self] }

// maxStreams is the number of streams that one end may have under way, as in
// transport/quicnet.
const maxStreams = 256

// Open implements transport.Conn. The peer sees the stream with its first byte.
func (c *conn) Open(ctx context.Context) (transport.Stream, error) {
	n := c.p.n
	n.mu.Lock()
	defer n.mu.Unlock()
	for ctx.Err() == nil && c.err == nil && c.opened >= maxStreams {
		_ = n.await(ctx, c.wake, time.Time{}) // the loop asks ctx
	}
	if c.err != nil {
		return nil, c.err
	}
	if ctx.Err() != nil {
		return nil, fault.Errorf(fault.Unreachable, "cannot open a stream to %s: %w", c.peer, context.Cause(ctx))
	}
	there, back := &half{}, &half{}
	near := &stream{c: c, out: there, in: back, wake: make(chan struct{}), opener: c}
	far := &stream{c: c.far, out: back, in: there, wake: make(chan struct{}), opener: c}
	near.far, far.far, near.hidden = far, near, true
	c.streams[near] = n.number()
	c.opened++
	return near, nil
}

// Accept implements transport.Conn.
func (c *conn) Accept(ctx context.Context) (transport.Stream, error) {
	n := c.p.n
	n.mu.Lock()
	defer n.mu.Unlock()
	for {
		if c.err != nil {
			return nil, c.err
		}
		var at time.Time
		if len(c.incoming) > 0 && !c.down() {
			s := c.incoming[0]
			if at = s.seenAt; !at.After(time.Now()) {
				c.incoming = c.incoming[1:]
				return s, nil
			}
		}
		if err := n.await(ctx, c.wake, at); err != nil {
			return nil, err
		}
	}
}

// await unlocks n.mu until wake is closed, at has come (zero: never) or ctx
// ends.
func (n *Net) await(ctx context.Context, wake <-chan struct{}, at time.Time) error {
	n.mu.Unlock()
	defer n.mu.Lock()
	var timer <-chan time.Time
	if !at.IsZero() {
		t := time.NewTimer(time.Until(at))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-wake:
	case <-timer:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

func (c *conn) Peer() transport.Peer  { return c.peer }
func (c *conn) RemoteAddr() net.Addr  { return c.addr }
func (c *conn) Done() <-chan struct{} { return c.done }

// Close implements transport.Conn.
func (c *conn) Close(reason string) error {
	c.p.n.mu.Lock()
	defer c.p.n.mu.Unlock()
	c.closeLocked(reason)
	return nil
}

// closeLocked ends this end now and the far one when the word has travelled;
// Net.mu is held.
func (c *conn) closeLocked(reason string) {
	if c.err != nil {
		return
	}
	n, far := c.p.n, c.far
	reason = trimReason(reason)
	c.end(fault.Errorf(fault.Unreachable, "the connection to %s was closed here: %s", c.peer, reason))
	far.closing = fault.Errorf(fault.Unreachable, "%s closed the connection: %s", far.peer, reason)
	at := n.arrival(c.self, far.self, 1)
	time.AfterFunc(time.Until(at), func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if !far.down() {
			far.end(far.closing)
		}
	})
}
