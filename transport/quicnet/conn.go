package quicnet

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/drrun/drrun/transport"
)

// conn implements transport.Conn.
type conn struct {
	qc   *quic.Conn
	peer transport.Peer
}

func (c *conn) Open(ctx context.Context) (transport.Stream, error) {
	st, err := c.qc.OpenStreamSync(ctx)
	if err != nil {
		return nil, explain(ctx, c.name(), err)
	}
	return &stream{st: st, name: c.name()}, nil
}

func (c *conn) Accept(ctx context.Context) (transport.Stream, error) {
	st, err := c.qc.AcceptStream(ctx)
	if err != nil {
		return nil, explain(ctx, c.name(), err)
	}
	return &stream{st: st, name: c.name()}, nil
}

func (c *conn) Peer() transport.Peer  { return c.peer }
func (c *conn) RemoteAddr() net.Addr  { return c.qc.RemoteAddr() }
func (c *conn) Done() <-chan struct{} { return c.qc.Context().Done() }
func (c *conn) Close(reason string) error {
	return c.qc.CloseWithError(codeClosed, clip(reason))
}

func (c *conn) name() string { return c.peer.String() + " at " + c.qc.RemoteAddr().String() }

// stream implements transport.Stream.
type stream struct {
	st     *quic.Stream
	name   string
	closed atomic.Bool // CloseWrite was called
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.st.Read(p)
	if err != nil {
		err = explain(context.Background(), s.name, err)
	}
	return n, err
}

func (s *stream) Write(p []byte) (int, error) {
	n, err := s.st.Write(p)
	if err != nil {
		err = explain(context.Background(), s.name, err)
	}
	return n, err
}

func (s *stream) CloseWrite() error {
	if s.closed.Swap(true) {
		return nil
	}
	err := s.st.Close()
	if err == nil {
		return nil
	}
	cause := context.Cause(s.st.Context())
	if dropped := (*quic.StreamError)(nil); errors.As(cause, &dropped) {
		return nil // the reader is gone: there is nobody to tell that this is the end
	}
	return explain(context.Background(), s.name, errors.Join(err, cause))
}

func (s *stream) Close() error {
	s.st.CancelRead(0)
	if !s.closed.Swap(true) {
		s.st.CancelWrite(0)
	}
	return nil
}

func (s *stream) SetDeadline(t time.Time) error { return s.st.SetDeadline(t) }
