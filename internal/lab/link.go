package lab

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Way is a direction on a link.
type Way int

// The ways of a link, as its host sees them.
const (
	In  Way = 1 << iota // what others send to the host's agent
	Out                 // what the agent answers
)

const (
	linkBuffer = 4 << 20         // bytes a socket keeps while the link is busy
	linkIdle   = 2 * time.Minute // after which a client that says nothing is forgotten
)

// Link is the network in front of one agent: a UDP port that passes datagrams
// on, each client's through a socket of its own, and loses all of them on
// command, as a network that is cut does: nobody is told. Runtimes and other
// agents reach the agent only through it. Safe for concurrent use.
type Link struct {
	front *net.UDPConn
	agent *net.UDPAddr

	mu     sync.Mutex
	cut    Way
	lost   [2]int // datagrams, in and out
	ways   map[netip.AddrPort]*net.UDPConn
	parted map[netip.AddrPort]bool // clients that are cut off
	closed bool
	loops  sync.WaitGroup
}

// newLink makes the link of the agent that listens, or will listen, at an
// address.
func newLink(agent string) (*Link, error) {
	to, err := net.ResolveUDPAddr("udp", agent)
	if err != nil {
		return nil, err
	}
	front, err := net.ListenUDP("udp", &net.UDPAddr{IP: to.IP})
	if err != nil {
		return nil, err
	}
	roomy(front)
	k := &Link{front: front, agent: to, ways: map[netip.AddrPort]*net.UDPConn{}}
	k.loops.Go(k.passIn)
	return k, nil
}

// roomy makes the buffers of a socket large, where the system lets it.
func roomy(c *net.UDPConn) {
	_ = c.SetReadBuffer(linkBuffer) // smaller ones lose more, which QUIC sends again
	_ = c.SetWriteBuffer(linkBuffer)
}

// Addr is where the agent is reached.
func (k *Link) Addr() string { return k.front.LocalAddr().String() }

// Cut loses from now on what goes a way, or both (In | Out).
func (k *Link) Cut(w Way) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cut |= w
}

// Part loses from now on what goes to and from everybody who has come by this
// link so far; who comes for the first time gets through.
func (k *Link) Part() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.parted = map[netip.AddrPort]bool{}
	for client := range k.ways {
		k.parted[client] = true
	}
}

// Heal passes everything on again.
func (k *Link) Heal() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cut, k.parted = 0, nil
}

// Lost returns how many datagrams were lost each way, ever.
func (k *Link) Lost() (in, out int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.lost[0], k.lost[1]
}

// passes reports whether a datagram goes through, and counts it if it does not.
func (k *Link) passes(w Way, client netip.AddrPort) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cut&w == 0 && !k.parted[client] {
		return true
	}
	k.lost[w-In]++
	return false
}

func (k *Link) passIn() {
	p := make([]byte, 1<<16)
	for {
		n, client, err := k.front.ReadFromUDPAddrPort(p)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || !k.passes(In, client) {
			continue
		}
		if way := k.way(client); way != nil {
			_, _ = way.Write(p[:n]) // a datagram that is lost, as any network may
		}
	}
}

// way is the socket of a client; nil: there is none to be had.
func (k *Link) way(client netip.AddrPort) *net.UDPConn {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c := k.ways[client]; c != nil || k.closed {
		return c
	}
	c, err := net.DialUDP("udp", nil, k.agent)
	if err != nil {
		return nil
	}
	roomy(c)
	k.ways[client] = c
	k.loops.Go(func() { k.passOut(client, c) })
	return c
}

func (k *Link) passOut(client netip.AddrPort, c *net.UDPConn) {
	defer func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.ways, client)
		_ = c.Close() // Close may have done so
	}()
	p := make([]byte, 1<<16)
	for {
		_ = c.SetReadDeadline(time.Now().Add(linkIdle)) // fails only on a closed socket, as the read does then
		n, err := c.Read(p)
		var timeout net.Error
		switch {
		case errors.Is(err, net.ErrClosed), errors.As(err, &timeout) && timeout.Timeout():
			return
		case err != nil:
			continue // nobody listens at the moment
		case k.passes(Out, client):
			_, _ = k.front.WriteToUDPAddrPort(p[:n], client) // as in passIn
		}
	}
}

// close ends the link and waits for its goroutines.
func (k *Link) close() {
	k.mu.Lock()
	k.closed = true
	_ = k.front.Close() // nothing is in it that somebody waits for
	for _, c := range k.ways {
		_ = c.Close()
	}
	k.mu.Unlock()
	k.loops.Wait()
}
