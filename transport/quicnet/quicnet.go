// Package quicnet is the transport medium of production: QUIC with TLS 1.3 and
// certificates of the estate's own CA at both ends. It is the only package
// that knows quic-go.
//
// Both ends are checked before a connection is handed out: the dialer checks
// the listener inside the handshake; the listener checks the dialer right
// after it and says why it refuses, which a TLS alert cannot. A host that has
// not joined yet listens all the same and answers JoinHost, see join.go.
//
// Every dialled connection has a UDP socket of its own: connections share
// neither a congestion controller nor a receive loop. It knows no frames of
// rpc and no verbs. A Medium is safe for concurrent use.
package quicnet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/pki"
)

// The application protocols in the TLS handshake.
const (
	alpn      = "drrun/1"
	alpnJoin  = "drrun-join/1"
	alpnRenew = "drrun-renew/1"
)

// Flow control. An agent's memory bounds the maxima: what a slow disk has not
// taken yet waits here.
const (
	streamWindow  = 8 << 20  // bytes, initial and largest
	connWindow    = 8 << 20  // bytes, initial
	connWindowMax = 16 << 20 // bytes
	maxStreams    = 256      // requests under way on one connection
)

// minPacket is the size of a connection's first packets in bytes: the least
// that QUIC allows, so that a path through a VPN carries them. The library then
// finds out what more the path can do.
const minPacket = 1200

// linger is how long the socket of a closed connection stays: if the word of
// the close was lost, it is said again to whatever the other end still sends.
// Without it a listener holds a dead connection until the idle timeout.
const linger = 2 * time.Second

// Options of a Medium; the zero value is usable.
type Options struct {
	KeepAlive        time.Duration // 0: 5 s
	IdleTimeout      time.Duration // silence after which a connection is dead; 0: 15 s
	HandshakeTimeout time.Duration // silence after which a dial is given up; 0: 5 s
	// StatelessResetKey lets a restarted listener tell a dialer, at the next
	// thing it sends, that its connection is gone; until then only the idle
	// timeout does. nil: derived from the identity's key.
	StatelessResetKey *[32]byte
	// DisableGRO reads one datagram at a time, for kernels that join them wrongly.
	DisableGRO bool
	Clock      clock.Clock // for certificates of a join; nil: the machine's
	Log        *slog.Logger
}

// IdentitySource says who this program is at this moment: asked at every dial
// and every handshake, so that joining and renewal need no restart. Safe for
// concurrent use. pki.Keeper is the one of agents, Fixed that of runtimes.
type IdentitySource interface {
	// Identity returns the identity; nil: this host has not joined yet.
	Identity() *pki.Identity
	// Token returns the token the host waits to join with; false: none.
	Token() (pki.Token, bool)
	// Store makes id the identity, durably, and drops the token.
	Store(id *pki.Identity) error
	// JoinFailed is told why an attempt to join failed.
	JoinFailed(err error)
}

// Fixed is the source of a program that has its identity and never joins.
func Fixed(id *pki.Identity) IdentitySource { return fixed{id} }

type fixed struct{ id *pki.Identity }

func (f fixed) Identity() *pki.Identity { return f.id }
func (fixed) Token() (pki.Token, bool)  { return pki.Token{}, false }
func (fixed) JoinFailed(error)          {}
func (fixed) Store(*pki.Identity) error {
	return fault.Errorf(fault.Internal, "an identity that cannot change was given a new one")
}

// Medium implements transport.Medium.
type Medium struct {
	src  IdentitySource
	o    Options
	conf *quic.Config

	mu     sync.Mutex
	open   map[*socket]struct{}
	closed bool
}

var _ transport.Medium = (*Medium)(nil)

var quietOnce sync.Once

// New returns a medium that speaks as src says.
func New(src IdentitySource, o Options) *Medium {
	// The library would print to stderr when the kernel caps its socket buffers.
	quietOnce.Do(func() { _ = os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true") })
	o.KeepAlive = orDefault(o.KeepAlive, 5*time.Second)
	o.IdleTimeout = orDefault(o.IdleTimeout, 15*time.Second)
	o.HandshakeTimeout = orDefault(o.HandshakeTimeout, 5*time.Second)
	if o.Clock == nil {
		o.Clock = clock.Real{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Medium{src: src, o: o, open: map[*socket]struct{}{}, conf: &quic.Config{
		HandshakeIdleTimeout:           o.HandshakeTimeout,
		MaxIdleTimeout:                 o.IdleTimeout,
		KeepAlivePeriod:                o.KeepAlive,
		InitialStreamReceiveWindow:     streamWindow,
		MaxStreamReceiveWindow:         streamWindow,
		InitialConnectionReceiveWindow: connWindow,
		MaxConnectionReceiveWindow:     connWindowMax,
		MaxIncomingStreams:             maxStreams,
		MaxIncomingUniStreams:          1, // the admission of a dialer
		InitialPacketSize:              minPacket,
	}}
}

func orDefault(d, def time.Duration) time.Duration {
	if d <= 0 {
		return def
	}
	return d
}

// Close closes every socket of the medium; connections may die without a word.
func (m *Medium) Close() error {
	m.mu.Lock()
	m.closed = true
	all := m.open
	m.open = map[*socket]struct{}{}
	m.mu.Unlock()
	var err error
	for s := range all {
		err = errors.Join(err, s.close())
	}
	return err
}

// socket is one UDP socket with quic on it.
type socket struct {
	tr   *quic.Transport
	once sync.Once
	err  error
}

func (s *socket) close() error {
	s.once.Do(func() { s.err = errors.Join(s.tr.Close(), s.tr.Conn.Close()) })
	return s.err
}

// socketAt opens a UDP socket.
func (m *Medium) socketAt(laddr *net.UDPAddr, resetKey *quic.StatelessResetKey) (*socket, error) {
	udp, err := net.ListenUDP("udp", laddr)
	if err != nil {
		return nil, err
	}
	var pc net.PacketConn = udp
	if !m.o.DisableGRO {
		pc = withGRO(udp)
	}
	s := &socket{tr: &quic.Transport{Conn: pc, StatelessResetKey: resetKey}}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, errors.Join(net.ErrClosed, udp.Close())
	}
	m.open[s] = struct{}{}
	return s, nil
}

// drop closes a socket that is no longer needed.
func (m *Medium) drop(s *socket) {
	m.mu.Lock()
	delete(m.open, s)
	m.mu.Unlock()
	_ = s.close() // nothing is in flight on it any more
}

// Dial implements transport.Medium.
func (m *Medium) Dial(ctx context.Context, addr string, want transport.Want) (transport.Conn, error) {
	id := m.src.Identity()
	if id == nil {
		return nil, fault.Errorf(fault.Refused, "cannot dial %s: this host has not joined an estate yet", addr).
			WithHint("make a token with drrun token HOST, then drrun-agent join TOKEN here")
	}
	conf := id.ClientTLS(want)
	conf.NextProtos = []string{alpn}
	qc, err := m.dial(ctx, addr, conf)
	if err != nil {
		return nil, err
	}
	p, err := m.admitted(ctx, qc, id, want)
	if err != nil {
		_ = qc.CloseWithError(codeClosed, "") // err says why; it may be closed already
		return nil, explain(ctx, addr, err)
	}
	m.alarm(p, qc)
	return &conn{qc: qc, peer: p}, nil
}

// alarm says that a peer's certificate has run out, at every connection.
func (m *Medium) alarm(p transport.Peer, qc *quic.Conn) {
	if !p.Expired {
		return
	}
	end := qc.ConnectionState().TLS.PeerCertificates[0].NotAfter.UTC()
	m.o.Log.Error("the certificate of a host has run out: it must be renewed by the runtime before it is refused",
		"peer", p.String(), "addr", qc.RemoteAddr().String(), "ran_out", end, "refused_from", end.Add(pki.ExpiredLife))
}

// admitted waits until the listener has checked us as well: it opens a stream
// of one byte then.
func (m *Medium) admitted(ctx context.Context, qc *quic.Conn, id *pki.Identity, want transport.Want) (transport.Peer, error) {
	p, err := id.Verify(qc.ConnectionState().TLS.PeerCertificates, want)
	if err != nil {
		return p, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, m.o.HandshakeTimeout, errNotAdmitted)
	defer cancel()
	err = readAdmission(ctx, qc)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case errors.Is(err, io.EOF):
		err = errNotAdmitted
	}
	return p, err
}

var errNotAdmitted = errors.New("it did not say whether it admits us")

func readAdmission(ctx context.Context, qc *quic.Conn) error {
	st, err := qc.AcceptUniStream(ctx)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { st.CancelRead(0) })
	defer stop()
	_, err = io.ReadFull(st, make([]byte, 1))
	return err
}

// dial connects to the first address of addr that answers.
func (m *Medium) dial(ctx context.Context, addr string, conf *tls.Config) (*quic.Conn, error) {
	targets, err := resolve(ctx, addr)
	if err != nil {
		return nil, err
	}
	for _, ua := range targets {
		var qc *quic.Conn
		if qc, err = m.dialOne(ctx, ua, conf); err == nil {
			return qc, nil
		}
		if idle := (*quic.IdleTimeoutError)(nil); errors.As(err, &idle) { // before there is a connection
			err = &quic.HandshakeTimeoutError{}
		}
		if err = explain(ctx, addr, err); !fault.Is(err, fault.Unreachable) || ctx.Err() != nil {
			return nil, err
		}
	}
	return nil, err
}

func (m *Medium) dialOne(ctx context.Context, ua *net.UDPAddr, conf *tls.Config) (*quic.Conn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go watchRefusal(ctx, ua, cancel)
	s, err := m.socketAt(nil, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot open a UDP socket: %w", err)
	}
	qc, err := s.tr.Dial(ctx, ua, conf, m.conf)
	if err != nil {
		m.drop(s)
		return nil, err
	}
	context.AfterFunc(qc.Context(), func() { time.AfterFunc(linger, func() { m.drop(s) }) })
	return qc, nil
}

// watchRefusal learns by a second, connected socket that nobody listens at the
// port: only such a socket hears the ICMP answer. Without it a dial to a
// stopped agent takes the whole handshake timeout.
func watchRefusal(ctx context.Context, ua *net.UDPAddr, cancel context.CancelCauseFunc) {
	c, err := net.DialUDP("udp", nil, ua)
	if err != nil {
		return // the dial itself will say
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer func() { stop(); _ = c.Close() }()
	if _, err := c.Write([]byte{0}); err != nil { // one byte that is no QUIC packet
		return
	}
	var one [1]byte
	if _, err := c.Read(one[:]); refusedByHost(err) {
		cancel(errNobodyListens)
	}
}

func resolve(ctx context.Context, addr string) ([]*net.UDPAddr, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fault.Errorf(fault.Invalid, "cannot dial %q: %w", addr, err).WithHint("an address is HOST:PORT, for example 10.0.0.7:7830")
	}
	n, err := net.DefaultResolver.LookupPort(ctx, "udp", port)
	if err != nil {
		return nil, fault.Errorf(fault.Invalid, "cannot dial %q: %w", addr, err)
	}
	if host == "" {
		host = "localhost"
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fault.Errorf(fault.Unreachable, "cannot find %s: %w", addr, err).WithHint("compare addr in the estate with the host's name in DNS")
	}
	out := make([]*net.UDPAddr, 0, len(ips))
	for _, v4 := range []bool{true, false} { // loopback agents are mostly bound to IPv4
		for _, ip := range ips {
			if ip.Unmap().Is4() == v4 {
				out = append(out, &net.UDPAddr{IP: ip.Unmap().AsSlice(), Port: n, Zone: ip.Zone()})
			}
		}
	}
	return out, nil
}
