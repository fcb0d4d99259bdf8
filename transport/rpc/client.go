package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/wire"
)

// Options of a Client; the zero value is usable.
type Options struct {
	Info Info
	// Bulk is the number of connections for uploads; 0: 2.
	Bulk int
	// DialTimeout bounds one attempt to connect, hello included; 0: 10 s.
	DialTimeout time.Duration
	Log         *slog.Logger
}

const (
	defaultBulk        = 2
	defaultDialTimeout = 10 * time.Second
)

// Client is a session with one peer: a connection for requests, apart from
// those for uploads, so that bulk never delays a command. Connections are
// dialled when they are needed and dialled anew after they died, with a
// jittered back-off from 100 ms to 5 s. While it backs off, a call fails at
// once with the kind and cause of the last attempt (fault.Unreachable, or
// fault.Refused for a wrong certificate or version); Ready waits instead.
// Safe for concurrent use.
type Client struct {
	addr    string
	control *lane
	bulk    []*lane
	stop    context.CancelCauseFunc

	mu     sync.Mutex
	active []int // uploads under way, by bulk lane
}

var errClosed = errors.New("the session was closed")

// NewClient returns a session with the peer at addr; nothing is dialled yet.
func NewClient(md transport.Medium, addr string, want transport.Want, o Options) *Client {
	if o.Bulk <= 0 {
		o.Bulk = defaultBulk
	}
	if o.DialTimeout <= 0 {
		o.DialTimeout = defaultDialTimeout
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	life, stop := context.WithCancelCause(context.Background())
	newLane := func(name string) *lane {
		return &lane{
			life: life, md: md, addr: addr, want: want, info: o.Info, timeout: o.DialTimeout,
			log: o.Log.With("addr", addr, "lane", name),
		}
	}
	c := &Client{addr: addr, control: newLane("control"), stop: stop, active: make([]int, o.Bulk)}
	for i := range o.Bulk {
		c.bulk = append(c.bulk, newLane(fmt.Sprintf("bulk-%d", i)))
	}
	return c
}

// Peer returns who is at the other end; false while not connected.
func (c *Client) Peer() (transport.Peer, bool) {
	conn, _ := c.control.current()
	if conn == nil {
		return transport.Peer{}, false
	}
	return conn.Peer(), true
}

// Hello returns what the other end said of itself; false while not connected.
func (c *Client) Hello() (wire.Hello, bool) {
	conn, h := c.control.current()
	return h, conn != nil
}

// Ready waits until requests can be sent, dialling as often as the back-off
// allows, or until ctx ends. It returns at once on fault.Refused: waiting does
// not help there.
func (c *Client) Ready(ctx context.Context) error {
	for {
		_, err := c.control.get(ctx)
		if err == nil || fault.Is(err, fault.Refused) || ctx.Err() != nil || c.control.life.Err() != nil {
			return err
		}
		t := time.NewTimer(c.control.wait())
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		case <-c.control.life.Done():
			t.Stop()
		}
	}
}

// Close ends the session: calls in flight return fault.Unreachable.
func (c *Client) Close() error {
	c.stop(errClosed)
	err := c.control.close()
	for _, l := range c.bulk {
		err = errors.Join(err, l.close())
	}
	return err
}

// Call sends one request and waits for its result, which is decoded into out
// (nil: ignored). Faults of the other end come back with kind, message and
// hint. If the stream dies, or ctx ends, after the request was sent, the error
// is fault.Unreachable and the outcome is not known.
func (c *Client) Call(ctx context.Context, verb string, in, out any) error {
	body, err := encodeBody(verb, in)
	if err != nil {
		return err
	}
	req, err := wire.EncodeRequest(verb, body)
	if err != nil {
		return err
	}
	frame, err := wire.AppendFrame(make([]byte, 0, wire.HeaderSize+len(req)), wire.TypeRequest, req)
	if err != nil {
		return fmt.Errorf("cannot send %s: %w", verb, err)
	}
	st, err := c.control.open(ctx)
	if err != nil {
		return err
	}
	defer st.Close()
	stop := context.AfterFunc(ctx, func() { _ = st.Close() })
	defer stop()
	if _, err := st.Write(frame); err != nil {
		// The other end may have answered without reading to the end.
		return c.result(ctx, st, verb, out, err)
	}
	return c.result(ctx, st, verb, out, nil)
}

// result reads the frame that ends a stream. werr is why writing to it failed.
func (c *Client) result(ctx context.Context, st transport.Stream, verb string, out any, werr error) error {
	t, b, err := wire.ReadFrame(st, wire.TypeResult, wire.TypeFault)
	if err != nil {
		return c.lost(ctx, verb, errors.Join(werr, err))
	}
	return c.finish(st, verb, t, b, out)
}

// finish decodes the last frame of a stream and gives the stream back.
func (c *Client) finish(st transport.Stream, verb string, t wire.Type, b []byte, out any) error {
	_ = st.CloseWrite() // the exchange is over; a dead stream changes nothing
	if t == wire.TypeFault {
		f := wire.DecodeFault(b)
		if f.Kind == fault.Unreachable { // cut short there, or it did not reach somebody else
			return &lostError{fault.Errorf(f.Kind, "%s: %w", c.addr, f)}
		}
		return f
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fault.Errorf(fault.Unknown, "cannot read the result of %s: %w", verb, err).
			WithHint("the request was carried out; the two programs differ in version")
	}
	return nil
}

// lost is the error of a stream that died before its answer.
func (c *Client) lost(ctx context.Context, verb string, err error) error {
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		err = errors.New("the stream ended before the answer")
	}
	return &lostError{fault.Errorf(fault.Unreachable, "no answer to %s from %s, its outcome is not known: %w", verb, c.addr, err)}
}

// lostError marks a fault whose request may have been carried out.
type lostError struct{ fault *fault.Error }

// Error implements error.
func (e *lostError) Error() string { return e.fault.Message }

// OutcomeUnknown says so to those who do not know this package.
func (e *lostError) OutcomeUnknown() bool { return true }

// Unwrap gives the fault, so that its kind is found.
func (e *lostError) Unwrap() error { return e.fault }

// OutcomeUnknown reports whether err is of a Call or Upload whose request had
// been sent and whose answer did not come, or was itself fault.Unreachable: the
// other end may have carried it out, in part or whole. Other errors of kind
// fault.Unreachable mean that nothing was sent.
func OutcomeUnknown(err error) bool {
	var l *lostError
	return errors.As(err, &l)
}

func encodeBody(verb string, in any) ([]byte, error) {
	if in == nil {
		return []byte("null"), nil
	}
	body, err := json.Marshal(in)
	if err != nil {
		return nil, fault.Errorf(fault.Internal, "cannot encode the request %s: %w", verb, err)
	}
	return body, nil
}
