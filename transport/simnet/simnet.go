// Package simnet is a transport medium in memory, for tests: links with delay,
// jitter, loss and a rate, connections that can be cut, hosts that can be
// partitioned. It does no I/O and starts no goroutine, so that it works inside
// testing/synctest bubbles, in virtual time. Random draws come from the seed.
//
// Streams are reliable as in QUIC: a lost packet is a late one. A partition is
// a black hole: nothing arrives, and connections die when it outlasts the idle
// timeout; a heal in time delivers what waited. It may swallow one direction
// only. Peers are who they say: there are no certificates, only the checks of
// estate and host that they are for.
//
// A Net and all it makes are safe for concurrent use.
package simnet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/transport"
)

// Times of the simulated connections: those of transport/quicnet.
const (
	DefaultIdleTimeout = 15 * time.Second
	dialTimeout        = 5 * time.Second
)

// Link is the way between two peers; the zero value is instant and perfect.
type Link struct {
	Delay  time.Duration // one way
	Jitter time.Duration // up to this is added at random
	Loss   float64       // share of packets that come one round trip late, 0 … 1
	Rate   int64         // bytes per second in each direction; 0: unlimited
}

// Net is one simulated network.
type Net struct {
	mu        sync.Mutex
	rng       *rand.Rand
	idle      time.Duration
	def       Link
	links     map[pair]*link
	listeners map[string]*listener
	conns     map[*pipe]uint64 // live connections, with their number
	nextPort  int
	numbers   uint64 // given out so far
}

// pair names two peers, in order.
type pair struct{ a, b string }

func pairOf(a, b string) pair {
	if b < a {
		a, b = b, a
	}
	return pair{a, b}
}

// link is the state of the way between two peers.
type link struct {
	Link
	mute map[string]bool      // senders whose bytes do not arrive
	died *time.Timer          // fires when a partition has outlasted the idle timeout
	free map[string]time.Time // by sender: when the rate lets the next byte go
}

// down reports whether a connection cannot be made: that takes both ways.
func (l *link) down() bool { return len(l.mute) > 0 }

// New returns a network without links set: all are instant and perfect.
func New(seed uint64) *Net {
	return &Net{
		rng: rand.New(rand.NewPCG(seed, seed)), idle: DefaultIdleTimeout, //nolint:gosec // a simulation repeats
		links: map[pair]*link{}, listeners: map[string]*listener{}, conns: map[*pipe]uint64{}, nextPort: 7830,
	}
}

// number gives out the next number; n.mu is held.
func (n *Net) number() uint64 {
	n.numbers++
	return n.numbers
}

// inOrder are the keys by their number: who is woken first makes a difference,
// and a simulation repeats.
func inOrder[K comparable](m map[K]uint64) []K {
	return slices.SortedFunc(maps.Keys(m), func(a, b K) int { return cmp.Compare(m[a], m[b]) })
}

// NameOf is how Net calls a peer: its host name, or its runtime's.
func NameOf(p transport.Peer) string {
	if p.Runtime != "" {
		return p.Runtime
	}
	return p.Host
}

// SetDefault sets the properties of links that have none of their own.
func (n *Net) SetDefault(l Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.def = l
}

// SetLink sets the properties of the link between two peers, from now on.
func (n *Net) SetLink(a, b string, l Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.link(a, b).Link = l
}

// SetIdleTimeout sets how long a partition may last before connections die.
func (n *Net) SetIdleTimeout(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.idle = d
}

// link returns the link between two peers; n.mu is held.
func (n *Net) link(a, b string) *link {
	p := pairOf(a, b)
	if n.links[p] == nil {
		n.links[p] = &link{Link: n.def, mute: map[string]bool{}, free: map[string]time.Time{}}
	}
	return n.links[p]
}

// Cut kills the connections between two peers at once; both ends know. New
// ones can be made.
func (n *Net) Cut(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.kill(pairOf(a, b), "cut")
}

// kill ends the connections of a pair; n.mu is held.
func (n *Net) kill(p pair, why string) {
	for _, c := range inOrder(n.conns) {
		if c.pair == p {
			c.die(why)
		}
	}
}

// Partition makes the link between two peers a black hole until Heal. Dials
// time out, and connections die when the idle timeout has passed.
func (n *Net) Partition(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.silence(a, b)
	n.silence(b, a)
}

// Silence swallows what one peer sends to another until Heal; what the other
// sends arrives. Without acknowledgements, dials time out and connections die
// as in a partition.
func (n *Net) Silence(from, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.silence(from, to)
}

// silence is Silence; n.mu is held.
func (n *Net) silence(from, to string) {
	l := n.link(from, to)
	if l.mute[from] {
		return
	}
	if !l.down() {
		l.died = time.AfterFunc(n.idle, func() {
			n.mu.Lock()
			defer n.mu.Unlock()
			if l.down() {
				n.kill(pairOf(from, to), "no sign of life")
			}
		})
	}
	l.mute[from] = true
	n.wakeAll(pairOf(from, to))
}

// Heal ends a partition, or the silence of either peer: what was sent meanwhile
// arrives.
func (n *Net) Heal(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.link(a, b)
	if !l.down() {
		return
	}
	clear(l.mute)
	l.died.Stop()
	p := pairOf(a, b)
	for _, c := range inOrder(n.conns) {
		if c.pair == p {
			c.deliverClose()
		}
	}
	n.wakeAll(p)
}

// wakeAll makes everybody who waits on a pair's streams look again.
func (n *Net) wakeAll(p pair) {
	for _, c := range inOrder(n.conns) {
		if c.pair == p {
			c.wakeStreams()
		}
	}
}

// arrival is when size bytes that from sends now arrive at to; n.mu is held.
func (n *Net) arrival(from, to string, size int) time.Time {
	l := n.link(from, to)
	now := time.Now()
	if l.Rate > 0 {
		start := now
		if f := l.free[from]; f.After(start) {
			start = f
		}
		now = start.Add(time.Duration(float64(size) / float64(l.Rate) * float64(time.Second)))
		l.free[from] = now
	}
	d := l.Delay
	if l.Jitter > 0 {
		d += time.Duration(n.rng.Int64N(int64(l.Jitter)))
	}
	if l.Loss > 0 && n.rng.Float64() < l.Loss {
		d += 2 * l.Delay
	}
	return now.Add(d)
}

// Medium returns the network as one peer sees it.
func (n *Net) Medium(p transport.Peer) transport.Medium { return &medium{n: n, self: p} }

type medium struct {
	n    *Net
	self transport.Peer
}

type simAddr string

func (simAddr) Network() string  { return "sim" }
func (a simAddr) String() string { return string(a) }

// Listen implements transport.Medium. An address without a host is that of the
// peer's name; port 0 is any.
func (m *medium) Listen(ctx context.Context, addr string) (transport.Listener, error) {
	if err := ctx.Err(); err != nil {
		return nil, fault.Errorf(fault.Unreachable, "cannot listen on %s: %w", addr, context.Cause(ctx))
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fault.Errorf(fault.Invalid, "cannot listen on %q: %w", addr, err)
	}
	m.n.mu.Lock()
	defer m.n.mu.Unlock()
	if host == "" {
		host = NameOf(m.self)
	}
	if port == "0" {
		m.n.nextPort++
		port = fmt.Sprint(m.n.nextPort)
	}
	addr = net.JoinHostPort(host, port)
	if m.n.listeners[addr] != nil {
		return nil, fault.Errorf(fault.Unreachable, "cannot listen on %s: address already in use", addr).
			WithHint("another program has port %s; stop it or choose another port", port)
	}
	l := &listener{n: m.n, self: m.self, addr: addr, wake: make(chan struct{})}
	m.n.listeners[addr] = l
	return l, nil
}

// Dial implements transport.Medium; it takes one round trip and a half.
func (m *medium) Dial(ctx context.Context, addr string, want transport.Want) (transport.Conn, error) {
	m.n.mu.Lock()
	l := m.n.listeners[addr]
	name := addr
	if l != nil {
		name = NameOf(l.self)
	} else if h, _, err := net.SplitHostPort(addr); err == nil {
		name = h
	}
	way := m.n.link(NameOf(m.self), name)
	wait, black := 3*way.Delay, way.down()
	m.n.mu.Unlock()
	if black {
		wait = dialTimeout
	}
	if err := pause(ctx, wait); err != nil {
		return nil, fault.Errorf(fault.Unreachable, "cannot reach %s: %w", addr, err)
	}
	m.n.mu.Lock()
	defer m.n.mu.Unlock()
	if black || way.down() {
		return nil, fault.Errorf(fault.Unreachable, "cannot reach %s: no answer", addr)
	}
	l = m.n.listeners[addr]
	if l == nil {
		return nil, fault.Errorf(fault.Unreachable, "cannot reach %s: nothing listens there", addr)
	}
	if err := check(m.self, l.self, want); err != nil {
		return nil, fault.Errorf(fault.Refused, "cannot connect to %s: %w", addr, err)
	}
	return m.n.connect(m.self, l), nil
}

// pause waits in the time of the bubble, if there is one.
func pause(ctx context.Context, d time.Duration) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// check is what certificates are for.
func check(self, other transport.Peer, want transport.Want) error {
	estate := want.Estate
	if estate == "" {
		estate = self.Estate
	}
	switch {
	case other.Estate != estate:
		return fmt.Errorf("certificate of %s of estate %s, want estate %s", other, other.Estate, estate)
	case want.Host != "" && other.Host != want.Host:
		return fmt.Errorf("certificate of %s, want host %s", other, want.Host)
	case self.Estate != other.Estate:
		return fmt.Errorf("it refused us: certificate of %s of estate %s, want estate %s", self, self.Estate, other.Estate)
	}
	return nil
}

// connect makes a connection and queues it at the listener; n.mu is held.
func (n *Net) connect(dialer transport.Peer, l *listener) *conn {
	a, b := NameOf(dialer), NameOf(l.self)
	p := &pipe{n: n, pair: pairOf(a, b)}
	near, far := newConn(p, a, l.self, l.addr), newConn(p, b, dialer, a)
	near.far, far.far = far, near
	p.ends = [2]*conn{near, far}
	n.conns[p] = n.number()
	l.queue = append(l.queue, far)
	broadcast(&l.wake)
	return near
}

// broadcast wakes all who wait on *c.
func broadcast(c *chan struct{}) {
	close(*c)
	*c = make(chan struct{})
}

type listener struct {
	n    *Net
	self transport.Peer
	addr string

	queue  []*conn // and the rest: under n.mu
	taken  []*conn
	wake   chan struct{}
	closed bool
}

var errListenerClosed = errors.New("the listener was closed")

func (l *listener) Accept(ctx context.Context) (transport.Conn, error) {
	for {
		l.n.mu.Lock()
		if l.closed {
			l.n.mu.Unlock()
			return nil, fmt.Errorf("cannot accept on %s: %w", l.addr, errListenerClosed)
		}
		if len(l.queue) > 0 {
			c := l.queue[0]
			l.queue = l.queue[1:]
			l.taken = append(slices.DeleteFunc(l.taken, func(c *conn) bool { return c.err != nil }), c)
			l.n.mu.Unlock()
			return c, nil
		}
		wake := l.wake
		l.n.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (l *listener) Addr() net.Addr { return simAddr(l.addr) }

func (l *listener) Close() error {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	if l.n.listeners[l.addr] == l {
		delete(l.n.listeners, l.addr)
	}
	for _, c := range append(l.taken, l.queue...) {
		c.closeLocked(errListenerClosed.Error())
	}
	l.taken, l.queue = nil, nil
	broadcast(&l.wake)
	return nil
}

// trimReason keeps a close reason to one packet, as on the real wire.
func trimReason(s string) string {
	const maxReason = 800
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "")
	}
	return s
}
