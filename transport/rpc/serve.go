package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/wire"
)

// helloTimeout bounds the exchange of hellos at both ends.
const helloTimeout = 10 * time.Second

// headTimeout bounds the time from a stream's begin to the end of its first
// frame.
const headTimeout = 30 * time.Second

// answerTimeout bounds the sending of an answer to a caller that does not read.
const answerTimeout = time.Minute

// stallTimeout is how long an upload may rest. Far longer than any policy's
// rate spreads two pieces, so that only a sender that hangs is given up.
const stallTimeout = 15 * time.Minute

// copySize is the size of the buffers that uploads go through.
const copySize = 256 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, copySize); return &b }}

var errServeEnds = errors.New("this program is shutting down")

// Serve answers the connections of l with the handlers of m until ctx ends or
// the listener does. Then it ends the handlers' contexts, waits for them,
// closes the connections and l. It returns nil if ctx ended it. A Serve that
// ends tells callers in flight fault.Unreachable.
func Serve(ctx context.Context, l transport.Listener, m *Mux, info Info, log *slog.Logger) error {
	run, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(errServeEnds)
	s := &server{mux: m, info: info, log: log}
	var conns sync.WaitGroup
	var err error
	for {
		var c transport.Conn
		if c, err = l.Accept(ctx); err != nil {
			break
		}
		conns.Go(func() { s.serveConn(run, c) })
	}
	stop(errServeEnds)
	conns.Wait()
	cerr := l.Close()
	if ctx.Err() != nil {
		return nil
	}
	return errors.Join(fmt.Errorf("cannot accept connections at %s: %w", l.Addr(), err), cerr)
}

type server struct {
	mux  *Mux
	info Info
	log  *slog.Logger
}

// serveConn answers one connection until it dies or run ends.
func (s *server) serveConn(run context.Context, c transport.Conn) {
	log := s.log.With("peer", c.Peer().String(), "addr", c.RemoteAddr().String())
	ctx, cancel := context.WithCancelCause(run)
	defer cancel(nil)
	hello, err := s.answerHello(ctx, c)
	if err != nil {
		log.Warn("connection refused", "err", err)
		_ = c.Close(err.Error()) // best effort: the reason is logged here as well
		return
	}
	log.Debug("connection open", "program", hello.Program, "version", hello.Version)
	var streams sync.WaitGroup
	for {
		st, err := c.Accept(ctx)
		if err != nil {
			break
		}
		streams.Go(func() { s.serveStream(ctx, c, st, log) })
	}
	cause := errServeEnds
	if run.Err() == nil {
		cause = errors.New("connection lost")
	}
	cancel(cause)
	streams.Wait()
	_ = c.Close(cause.Error()) // it is dead, or everybody has been waited for
	log.Debug("connection closed", "cause", cause)
}

// answerHello reads the first stream of a connection, which is the dialer's
// hello, and answers it.
func (s *server) answerHello(ctx context.Context, c transport.Conn) (wire.Hello, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, helloTimeout, errors.New("no hello came"))
	defer cancel()
	st, err := c.Accept(ctx)
	if err != nil {
		return wire.Hello{}, fmt.Errorf("cannot read hello: %w", err)
	}
	defer st.Close()
	_ = st.SetDeadline(time.Now().Add(helloTimeout)) // a dead stream shows at the next read
	stop := endWith(ctx, st)
	defer stop()
	_, b, err := wire.ReadFrame(st, wire.TypeHello)
	if err != nil {
		return wire.Hello{}, fmt.Errorf("cannot read hello: %w", err)
	}
	theirs, err := wire.DecodeHello(b)
	if err == nil {
		err = overlap(s.info.hello(), theirs)
	}
	if err != nil {
		err = errors.Join(err, wire.WriteFrame(st, wire.TypeFault, wire.EncodeFault(err)), st.CloseWrite())
		waitForEnd(st)
		return theirs, err
	}
	b, err = s.info.hello().Encode()
	if err != nil {
		return theirs, err
	}
	if err := wire.WriteFrame(st, wire.TypeHello, b); err != nil {
		return theirs, fmt.Errorf("cannot send hello: %w", err)
	}
	_ = st.CloseWrite() // the hello is out; a dead connection shows at the next stream
	return theirs, nil
}

// waitForEnd reads until the other end has ended its direction, which it does
// after it has read ours; the stream's deadline bounds it.
func waitForEnd(st transport.Stream) {
	_, _ = io.Copy(io.Discard, st)
}

// overlap refuses a pair without a common protocol version.
func overlap(ours, theirs wire.Hello) error {
	if _, ok := ours.Protocol.Pick(theirs.Protocol); ok {
		return nil
	}
	older := ours
	if ours.Protocol.Min > theirs.Protocol.Max {
		older = theirs
	}
	return fault.Errorf(fault.Refused, "%s %s speaks protocol %s, %s %s speaks %s",
		ours.Program, ours.Version, ours.Protocol, theirs.Program, theirs.Version, theirs.Protocol).
		WithHint("update %s %s", older.Program, older.Version)
}

// serveStream answers one request or upload.
func (s *server) serveStream(ctx context.Context, c transport.Conn, st transport.Stream, log *slog.Logger) {
	defer st.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t, b, err := readHead(ctx, st)
	var result any
	verb := unreadVerb
	switch {
	case errors.Is(err, io.EOF):
		return
	case err != nil:
	case t == wire.TypeRequest:
		verb, result, err = s.request(ctx, cancel, c, st, b)
	default:
		verb, result, err = s.receive(ctx, cancel, c, st, b)
	}
	if err != nil && fault.KindOf(err) == fault.Internal && ctx.Err() != nil {
		err = fault.Errorf(fault.Unreachable, "%s was cut short: %w", verb, context.Cause(ctx))
	}
	_ = st.SetDeadline(time.Now().Add(answerTimeout))
	stop := context.AfterFunc(ctx, func() { _ = st.SetDeadline(time.Now().Add(time.Second)) })
	defer stop()
	if err := answer(st, verb, result, err); err != nil {
		log.Debug("answer lost", "verb", verb, "err", err)
	}
	if fault.KindOf(err) == fault.Internal {
		log.Error("request ended by an internal fault", "verb", verb, "err", err)
	}
}

// unreadVerb stands for the verb where it could not be read.
const unreadVerb = "request"

// readHead reads the frame that opens a stream.
func readHead(ctx context.Context, st transport.Stream) (wire.Type, []byte, error) {
	_ = st.SetDeadline(time.Now().Add(headTimeout)) // a dead stream shows at the next read
	stop := endWith(ctx, st)
	t, b, err := wire.ReadFrame(st, wire.TypeRequest, wire.TypeUpload)
	stop()
	_ = st.SetDeadline(time.Time{})
	if err != nil && !errors.Is(err, io.EOF) {
		err = fault.Wrap(fault.Unreachable, fmt.Errorf("no whole request came: %w", err))
	}
	return t, b, err
}

// endWith ends reads and writes of a stream when ctx ends, until stop.
func endWith(ctx context.Context, st transport.Stream) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = st.SetDeadline(time.Unix(1, 0)) })
}

// answer sends the one result or fault that ends a stream.
func answer(st transport.Stream, verb string, result any, err error) error {
	var b []byte
	if err == nil {
		if b, err = json.Marshal(result); err != nil {
			err = fault.Errorf(fault.Internal, "cannot encode the result of %s: %w", verb, err)
		} else if len(b) > wire.MaxMessage {
			err = fault.Errorf(fault.Internal, "result of %s has %d bytes, the limit is %d", verb, len(b), wire.MaxMessage)
		}
	}
	if err != nil {
		err = wire.WriteFrame(st, wire.TypeFault, wire.EncodeFault(err))
	} else {
		err = wire.WriteFrame(st, wire.TypeResult, b)
	}
	return errors.Join(err, st.CloseWrite())
}

// request runs the handler of a request frame.
func (s *server) request(ctx context.Context, cancel context.CancelCauseFunc, c transport.Conn, st transport.Stream, b []byte) (verb string, out any, err error) {
	verb, body, err := wire.DecodeRequest(b)
	if err != nil {
		return unreadVerb, nil, err
	}
	h, err := s.mux.call(verb)
	if err != nil {
		return verb, nil, err
	}
	stop := watch(st, cancel)
	defer stop()
	err = s.guard(verb, func() error {
		out, err = h(ctx, c.Peer(), body)
		return err
	})
	return verb, out, err
}

// watch cancels the handler when the caller ends its direction or the stream
// dies: a caller that still waits sends nothing. stop ends the watch and waits
// for its end.
func watch(st transport.Stream, cancel context.CancelCauseFunc) (stop func()) {
	var over atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		var one [1]byte
		if _, err := st.Read(one[:]); !over.Load() {
			cancel(gaveUp(err))
		}
	}()
	return func() {
		over.Store(true)
		_ = st.SetDeadline(time.Unix(1, 0)) // ends the read
		<-done
		_ = st.SetDeadline(time.Time{})
	}
}

func gaveUp(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return errors.New("the caller gave up")
	}
	return fmt.Errorf("the caller gave up: %w", err)
}

// guard turns a panic of a handler into fault.Internal.
func (s *server) guard(verb string, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			s.log.Error("handler panicked", "verb", verb, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			err = fault.Errorf(fault.Internal, "%s panicked: %v", verb, r).WithHint("the log of that program has the stack")
		}
	}()
	return f()
}

// receive runs the handler of an upload frame.
func (s *server) receive(ctx context.Context, cancel context.CancelCauseFunc, c transport.Conn, st transport.Stream, b []byte) (verb string, out any, err error) {
	verb, size, body, err := wire.DecodeUpload(b)
	if err != nil {
		return unreadVerb, nil, err
	}
	h, err := s.mux.upload(verb)
	if err != nil {
		return verb, nil, err
	}
	var sink *erasedSink
	err = s.guard(verb, func() error {
		sink, err = h(ctx, c.Peer(), body)
		return err
	})
	if err != nil {
		return verb, nil, err
	}
	if sink.abort == nil {
		return verb, sink.have, nil
	}
	ended := false // Commit was called
	err = s.guard(verb, func() error {
		if err := takeBytes(ctx, st, sink, verb, size); err != nil {
			return err
		}
		stop := watch(st, cancel)
		defer stop()
		ended = true
		out, err = sink.commit(ctx)
		return err
	})
	if err != nil && !ended {
		err = errors.Join(err, s.guard(verb, func() error { sink.abort(); return nil }))
	}
	return verb, out, err
}

// takeBytes tells the sender the offset and copies the rest of the upload into
// the sink.
func takeBytes(ctx context.Context, st transport.Stream, sink *erasedSink, verb string, size int64) error {
	off := sink.offset()
	if off < 0 || off > size {
		return fault.Errorf(fault.Conflict, "%s: %d bytes are held of an upload of %d", verb, off, size)
	}
	if err := wire.WriteFrame(st, wire.TypeOffset, wire.EncodeOffset(off)); err != nil {
		return fault.Errorf(fault.Unreachable, "cannot take %s: %w", verb, err)
	}
	stop := endWith(ctx, st)
	defer stop()
	defer func() { _ = st.SetDeadline(time.Time{}) }()
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for off < size {
		_ = st.SetDeadline(time.Now().Add(stallTimeout)) // a dead stream shows at the next read
		if ctx.Err() != nil {                            // and that deadline may have taken off the one of stop
			return fault.Errorf(fault.Unreachable, "%s broke off at byte %d of %d: %w", verb, off, size, context.Cause(ctx))
		}
		n, err := st.Read((*buf)[:min(int64(copySize), size-off)])
		if n > 0 {
			if _, err := sink.write((*buf)[:n]); err != nil {
				return err
			}
			off += int64(n)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
			err = fmt.Errorf("nothing came for %s", stallTimeout)
		}
		if err != nil && off < size {
			return fault.Errorf(fault.Unreachable, "%s broke off at byte %d of %d: %w", verb, off, size, err)
		}
	}
	return nil
}
