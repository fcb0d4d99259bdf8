package quicnet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/pki"
)

// acceptQueue bounds the connections that nobody has accepted yet.
const acceptQueue = 16

var errListenerClosed = errors.New("the listener was closed")

// listener implements transport.Listener.
type listener struct {
	m     *Medium
	s     *socket
	ql    *quic.Listener
	conns chan *conn
	life  context.Context // of the listener
	stop  context.CancelCauseFunc
	wg    sync.WaitGroup
}

// Listen implements transport.Medium. A port in use is fault.Unreachable. ctx
// is not used after the return.
func (m *Medium) Listen(ctx context.Context, addr string) (transport.Listener, error) {
	if err := ctx.Err(); err != nil {
		return nil, fault.Errorf(fault.Unreachable, "cannot listen on %s: %w", addr, context.Cause(ctx))
	}
	laddr, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, fault.Errorf(fault.Invalid, "cannot listen on %q: %w", addr, err).WithHint("an address is HOST:PORT or :PORT, for example :7830")
	}
	throwaway, err := pki.Throwaway()
	if err != nil {
		return nil, err
	}
	s, err := m.socketAt(laddr, m.resetKey())
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fault.Errorf(fault.Unreachable, "cannot listen on %s: %w", addr, err).
			WithHint("another program has UDP port %d; stop it or choose another port", laddr.Port)
	}
	if err != nil {
		return nil, fault.Errorf(fault.Invalid, "cannot listen on %s: %w", addr, err)
	}
	ql, err := s.tr.Listen(&tls.Config{
		MinVersion:         tls.VersionTLS13,
		GetConfigForClient: func(hi *tls.ClientHelloInfo) (*tls.Config, error) { return m.serverTLS(hi, throwaway), nil },
	}, m.conf)
	if err != nil {
		m.drop(s)
		return nil, fault.Errorf(fault.Unreachable, "cannot listen on %s: %w", addr, err)
	}
	life, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	l := &listener{m: m, s: s, ql: ql, conns: make(chan *conn, acceptQueue), life: life, stop: stop}
	l.wg.Go(l.run)
	return l, nil
}

func (m *Medium) resetKey() *quic.StatelessResetKey {
	if m.o.StatelessResetKey != nil {
		return (*quic.StatelessResetKey)(m.o.StatelessResetKey)
	}
	if id := m.src.Identity(); id != nil {
		k := quic.StatelessResetKey(id.Secret("stateless reset"))
		return &k
	}
	return nil
}

// serverTLS picks the configuration for one dialer. It asks for a certificate
// and leaves the check of it to admit, which can say what is wrong.
func (m *Medium) serverTLS(hi *tls.ClientHelloInfo, throwaway tls.Certificate) *tls.Config {
	proto := alpn
	for _, p := range []string{alpnJoin, alpnRenew} {
		if slices.Contains(hi.SupportedProtos, p) {
			proto = p
		}
	}
	id := m.src.Identity()
	if id == nil || proto == alpnJoin {
		return &tls.Config{
			MinVersion:             tls.VersionTLS13,
			Certificates:           []tls.Certificate{throwaway},
			ClientAuth:             tls.RequireAnyClientCert,
			SessionTicketsDisabled: true,
			NextProtos:             []string{proto},
		}
	}
	conf := id.ServerTLS()
	conf.VerifyConnection = nil
	conf.NextProtos = []string{proto}
	return conf
}

// run takes dialers from quic until the listener is closed.
func (l *listener) run() {
	for {
		qc, err := l.ql.Accept(l.life)
		if err != nil {
			l.stop(err)
			return
		}
		l.wg.Go(func() { l.admit(qc) })
	}
}

// admit checks a dialer, tells it the outcome and queues its connection.
func (l *listener) admit(qc *quic.Conn) {
	state := qc.ConnectionState().TLS
	switch state.NegotiatedProtocol {
	case alpnJoin:
		l.m.answerJoin(l.life, qc)
		return
	case alpnRenew:
		l.m.answerRenewal(l.life, qc)
		return
	}
	p, err := l.check(state)
	if err == nil {
		err = l.welcome(qc)
	}
	if err != nil {
		l.m.o.Log.Warn("connection refused", "addr", qc.RemoteAddr().String(), "err", err)
		refusal(qc, err)
		return
	}
	l.m.alarm(p, qc)
	select {
	case l.conns <- &conn{qc: qc, peer: p}:
	case <-qc.Context().Done(): // before anybody took it
	case <-l.life.Done():
	}
	select { // the socket is the listener's: say goodbye while it is there
	case <-qc.Context().Done():
	case <-l.life.Done():
		_ = qc.CloseWithError(codeClosed, context.Cause(l.life).Error()) // always nil
	}
}

func (l *listener) check(state tls.ConnectionState) (transport.Peer, error) {
	id := l.m.src.Identity()
	if id == nil {
		return transport.Peer{}, fault.Errorf(fault.Refused, "this host has not joined an estate yet")
	}
	return id.Verify(state.PeerCertificates, transport.Want{})
}

// welcome tells a dialer that it is admitted.
func (l *listener) welcome(qc *quic.Conn) error {
	st, err := qc.OpenUniStream()
	if err == nil {
		_ = st.SetWriteDeadline(time.Now().Add(l.m.o.HandshakeTimeout)) // a dead stream shows at the write
		_, err = st.Write([]byte{1})
	}
	if err == nil {
		err = st.Close()
	}
	if err != nil {
		return fault.Errorf(fault.Unreachable, "cannot admit the dialer: %w", err)
	}
	return nil
}

func (l *listener) Accept(ctx context.Context) (transport.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-l.life.Done():
		return nil, fmt.Errorf("cannot accept on %s: %w", l.Addr(), context.Cause(l.life))
	}
}

func (l *listener) Addr() net.Addr { return l.ql.Addr() }

// Close implements transport.Listener: connections that were not accepted yet
// end, and so do accepted ones, whose socket this is.
func (l *listener) Close() error {
	l.stop(errListenerClosed)
	err := l.ql.Close()
	l.wg.Wait()
	l.m.drop(l.s)
	if errors.Is(err, net.ErrClosed) || errors.Is(err, quic.ErrServerClosed) {
		err = nil
	}
	return errors.Join(err, l.s.err)
}
