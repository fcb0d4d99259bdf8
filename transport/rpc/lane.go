package rpc

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/wire"
)

// Bounds of the back-off between two attempts to connect.
const (
	backoffMin = 100 * time.Millisecond
	backoffMax = 5 * time.Second
)

// lane is one connection of a Client, dialled when needed.
type lane struct {
	life    context.Context // ends with the Client
	md      transport.Medium
	addr    string
	want    transport.Want
	info    Info
	timeout time.Duration
	log     *slog.Logger

	mu      sync.Mutex
	conn    transport.Conn
	hello   wire.Hello
	dialing chan struct{} // closed when the attempt under way has ended; nil: none
	fails   int           // attempts failed in a row
	retryAt time.Time
	last    error // of the last attempt
}

// current returns the live connection, or nil.
func (l *lane) current() (transport.Conn, wire.Hello) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.live(), l.hello
}

// live drops a connection that died; l.mu is held.
func (l *lane) live() transport.Conn {
	if l.conn == nil {
		return nil
	}
	select {
	case <-l.conn.Done():
		l.conn = nil
	default:
	}
	return l.conn
}

// wait returns how long the back-off still lasts.
func (l *lane) wait() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Until(l.retryAt)
}

// get returns a live connection, dialling if there is none. It waits for the
// dial, not for the back-off.
func (l *lane) get(ctx context.Context) (transport.Conn, error) {
	for {
		l.mu.Lock()
		if l.life.Err() != nil {
			l.mu.Unlock()
			return nil, fault.Errorf(fault.Unreachable, "cannot reach %s: %w", l.addr, context.Cause(l.life))
		}
		if c := l.live(); c != nil {
			l.mu.Unlock()
			return c, nil
		}
		if wait := time.Until(l.retryAt); l.dialing == nil && wait > 0 {
			err := l.last
			l.mu.Unlock()
			return nil, err
		}
		if l.dialing == nil {
			l.dialing = make(chan struct{})
			go l.dial()
		}
		dialing := l.dialing
		l.mu.Unlock()
		select {
		case <-dialing:
		case <-ctx.Done():
			return nil, fault.Errorf(fault.Unreachable, "cannot reach %s: %w", l.addr, context.Cause(ctx))
		}
	}
}

// dial makes one attempt, for all who wait.
func (l *lane) dial() {
	ctx, cancel := context.WithTimeoutCause(l.life, l.timeout, fmt.Errorf("no connection after %s", l.timeout))
	defer cancel()
	conn, hello, err := l.connect(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.dialing)
	l.dialing = nil
	if err == nil && l.life.Err() != nil {
		_ = conn.Close(errClosed.Error()) // nobody wants it any more
		return
	}
	if err == nil {
		l.conn, l.hello, l.fails, l.last, l.retryAt = conn, hello, 0, nil, time.Time{}
		l.log.Debug("connected", "peer", conn.Peer().String(), "version", hello.Version)
		return
	}
	l.retryAt = time.Now().Add(backoff(l.fails))
	l.fails++
	l.last = fault.Wrap(fault.Unreachable, err)
	l.log.Debug("cannot connect", "attempt", l.fails, "err", err)
}

// backoff returns the pause after a failed attempt: doubling from backoffMin
// to backoffMax, of which a random half is taken off.
func backoff(fails int) time.Duration {
	d := backoffMax
	if fails < 6 {
		d = min(backoffMin<<fails, backoffMax)
	}
	return d/2 + rand.N(d/2) //nolint:gosec // spreads load, guards nothing
}

// connect dials and exchanges hellos.
func (l *lane) connect(ctx context.Context) (transport.Conn, wire.Hello, error) {
	conn, err := l.md.Dial(ctx, l.addr, l.want)
	if err != nil {
		return nil, wire.Hello{}, err
	}
	hello, err := l.greet(ctx, conn)
	if err != nil {
		_ = conn.Close(err.Error()) // err says more
		return nil, wire.Hello{}, err
	}
	return conn, hello, nil
}

func (l *lane) greet(ctx context.Context, conn transport.Conn) (wire.Hello, error) {
	b, err := l.info.hello().Encode()
	if err != nil {
		return wire.Hello{}, err
	}
	st, err := conn.Open(ctx)
	if err != nil {
		return wire.Hello{}, fmt.Errorf("cannot greet %s: %w", l.addr, err)
	}
	defer st.Close()
	_ = st.SetDeadline(time.Now().Add(helloTimeout)) // a dead stream shows at the next write
	stop := context.AfterFunc(ctx, func() { _ = st.Close() })
	defer stop()
	// Our direction stays open until the answer was read: that is how the other
	// end knows that a refusal arrived.
	if err := wire.WriteFrame(st, wire.TypeHello, b); err != nil {
		return wire.Hello{}, fmt.Errorf("cannot greet %s: %w", l.addr, err)
	}
	t, b, err := wire.ReadFrame(st, wire.TypeHello, wire.TypeFault)
	if err != nil {
		return wire.Hello{}, fmt.Errorf("no hello from %s: %w", l.addr, err)
	}
	if t == wire.TypeFault {
		f := wire.DecodeFault(b)
		return wire.Hello{}, fault.Errorf(f.Kind, "%s: %w", conn.Peer(), f)
	}
	theirs, err := wire.DecodeHello(b)
	if err != nil {
		return wire.Hello{}, err
	}
	if err := overlap(l.info.hello(), theirs); err != nil {
		return theirs, fault.Errorf(fault.KindOf(err), "%s: %w", conn.Peer(), err)
	}
	return theirs, nil
}

// open starts a stream. A connection that turns out dead before anything was
// sent is replaced once.
func (l *lane) open(ctx context.Context) (transport.Stream, error) {
	if ctx.Err() != nil {
		return nil, fault.Errorf(fault.Unreachable, "cannot reach %s: %w", l.addr, context.Cause(ctx))
	}
	for again := true; ; again = false {
		conn, err := l.get(ctx)
		if err != nil {
			return nil, err
		}
		st, err := conn.Open(ctx)
		if err == nil {
			return st, nil
		}
		select {
		case <-conn.Done():
			if again {
				continue
			}
		default:
		}
		return nil, fault.Errorf(fault.Unreachable, "cannot reach %s: %w", l.addr, err)
	}
}

func (l *lane) close() error {
	l.mu.Lock()
	conn, dialing := l.conn, l.dialing
	l.conn = nil
	l.mu.Unlock()
	if dialing != nil {
		<-dialing // the attempt ends with the session's life
	}
	if conn == nil {
		return nil
	}
	return conn.Close(errClosed.Error())
}
