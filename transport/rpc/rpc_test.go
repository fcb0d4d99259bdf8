package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/rpc"
	"github.com/drrun/drrun/transport/simnet"
	"github.com/drrun/drrun/transport/wire"
)

type text struct {
	Text string `json:"text"`
}

var (
	host   = transport.Peer{Estate: "acme", Site: "par", Host: "par-1"}
	caller = transport.Peer{Estate: "acme", Runtime: "console"}
	info   = rpc.Info{Program: "drrun-agent", Version: "0.1.0", Features: []string{"resume"}, Codecs: []string{"zstd"}}
)

const addr = "par-1:7830"

// bundle is a network with a served mux and a client of it, inside a bubble.
type bundle struct {
	net    *simnet.Net
	mux    *rpc.Mux
	client *rpc.Client
	stop   func() // ends Serve and waits for it
}

// in runs f in a bubble with a 20 ms link.
func in(t *testing.T, mux *rpc.Mux, f func(t *testing.T, b *bundle)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &bundle{net: simnet.New(1), mux: mux}
		b.net.SetDefault(simnet.Link{Delay: 10 * time.Millisecond})
		b.stop = b.serve(t, info)
		b.client = rpc.NewClient(b.net.Medium(caller), addr, transport.Want{Host: "par-1"}, rpc.Options{Info: rpc.Info{Program: "drrun", Version: "0.2.0"}})
		f(t, b)
		if err := b.client.Close(); err != nil {
			t.Errorf("client: %v", err)
		}
		b.stop()
	})
}

// serve runs Serve until the returned function is called.
func (b *bundle) serve(t *testing.T, info rpc.Info) (stop func()) {
	t.Helper()
	l, err := b.net.Medium(host).Listen(t.Context(), ":7830")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- rpc.Serve(ctx, l, b.mux, info, slog.New(slog.DiscardHandler)) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
}

func wantFault(t *testing.T, err error, k fault.Kind, parts ...string) {
	t.Helper()
	if !fault.Is(err, k) {
		t.Errorf("got %s fault %v, want %s", fault.KindOf(err), err, k)
		return
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("fault %q does not say %q", err, p)
		}
	}
}

func TestCallResults(t *testing.T) {
	m := rpc.NewMux()
	rpc.Handle(m, "upper", func(_ context.Context, p transport.Peer, in text) (text, error) {
		return text{strings.ToUpper(in.Text) + " " + p.Runtime}, nil
	})
	rpc.Handle(m, "plain", func(context.Context, transport.Peer, text) (text, error) {
		return text{}, errors.New("a bug")
	})
	rpc.Handle(m, "panic", func(context.Context, transport.Peer, text) (text, error) { panic("boom") })
	rpc.Handle(m, "afar", func(context.Context, transport.Peer, text) (text, error) {
		return text{}, fault.Errorf(fault.Unreachable, "cannot reach lyo-1").WithHint("look there")
	})
	rpc.Handle(m, "huge", func(context.Context, transport.Peer, text) (text, error) {
		return text{strings.Repeat("x", wire.MaxMessage)}, nil
	})
	rpc.HandleUpload(m, "put", func(context.Context, transport.Peer, text) (rpc.Sink[text], error) { return nil, nil })
	in(t, m, func(t *testing.T, b *bundle) {
		ctx := t.Context()
		var out text
		if err := b.client.Call(ctx, "upper", text{"go"}, &out); err != nil || out.Text != "GO console" {
			t.Errorf("%q, %v", out.Text, err)
		}
		wantFault(t, b.client.Call(ctx, "plain", text{}, nil), fault.Internal, "a bug")
		wantFault(t, b.client.Call(ctx, "panic", text{}, nil), fault.Internal, "panic panicked: boom")
		err := b.client.Call(ctx, "afar", text{}, nil)
		wantFault(t, err, fault.Unreachable, addr+": cannot reach lyo-1")
		if !rpc.OutcomeUnknown(err) || fault.Hint(err) != "look there" {
			t.Errorf("unreachable from there: outcome known, or hint %q lost", fault.Hint(err))
		}
		wantFault(t, b.client.Call(ctx, "huge", text{}, nil), fault.Internal, "result of huge has", "the limit is 4194304")
		wantFault(t, b.client.Call(ctx, "put", text{}, nil), fault.Invalid, `"put" is an upload`)
		wantFault(t, b.client.Call(ctx, "upper", "not an object", nil), fault.Invalid, "cannot read the request upper")
		wantFault(t, b.client.Call(ctx, "upper", text{strings.Repeat("x", wire.MaxMessage)}, nil), fault.Invalid, "the limit is 4194304")
		err = b.client.Call(ctx, "fly", text{}, nil)
		wantFault(t, err, fault.Invalid, `unknown verb "fly"`)
		if h := fault.Hint(err); !strings.Contains(h, "afar, huge, panic, plain, put, upper") {
			t.Errorf("hint %q does not list the verbs", h)
		}
		// One connection lived through all of that.
		if h, ok := b.client.Hello(); !ok || h.Version != "0.1.0" || h.Codecs[0] != "zstd" || h.Features[0] != "resume" {
			t.Errorf("hello %+v, %v", h, ok)
		}
	})
}

func TestRegisteringTwicePanics(t *testing.T) {
	t.Parallel()
	defer func() {
		if r := recover(); r == nil || !strings.Contains(r.(string), `"x" registered twice`) {
			t.Errorf("recovered %v", r)
		}
	}()
	m := rpc.NewMux()
	h := func(context.Context, transport.Peer, text) (text, error) { return text{}, nil }
	rpc.Handle(m, "x", h)
	rpc.Handle(m, "x", h)
}

// TestHandlerContext: the handler learns that the caller gave up, that the
// connection died, and that Serve ends.
func TestHandlerContext(t *testing.T) {
	started, ended := make(chan struct{}, 1), make(chan error, 1)
	m := rpc.NewMux()
	rpc.Handle(m, "wait", func(ctx context.Context, _ transport.Peer, _ text) (text, error) {
		started <- struct{}{}
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return text{}, ctx.Err()
	})
	in(t, m, func(t *testing.T, b *bundle) {
		started, ended = make(chan struct{}, 1), make(chan error, 1)
		ask := func(ctx context.Context) <-chan error {
			c := make(chan error, 1)
			go func() { c <- b.client.Call(ctx, "wait", text{}, nil) }()
			<-started
			return c
		}
		why := errors.New("the operator left")
		ctx, cancel := context.WithCancelCause(t.Context())
		asked := ask(ctx)
		cancel(why)
		err := <-asked
		wantFault(t, err, fault.Unreachable, "outcome is not known", "the operator left")
		if !errors.Is(err, why) || !rpc.OutcomeUnknown(err) {
			t.Errorf("%v hides its cause, or that the request was sent", err)
		}
		if err := <-ended; !strings.HasPrefix(err.Error(), "the caller gave up") {
			t.Errorf("handler ended by %v", err)
		}

		err = b.client.Call(ctx, "wait", text{}, nil)
		if !errors.Is(err, why) || rpc.OutcomeUnknown(err) {
			t.Errorf("called with an ended context: %v", err)
		}

		asked = ask(t.Context())
		b.net.Cut("par-1", "console")
		wantFault(t, <-asked, fault.Unreachable, "outcome is not known", "cut")
		<-ended

		asked = ask(t.Context())
		b.stop()
		err = <-asked
		wantFault(t, err, fault.Unreachable, "wait", addr, "this program is shutting down") // its answer, or the close that comes with it
		if !rpc.OutcomeUnknown(err) {
			t.Error("a request that was cut short says that nothing was sent")
		}
		<-ended
	})
}

// TestDeadPeer: a peer that falls silent is noticed after the idle timeout,
// and a call after that says so at once.
func TestDeadPeer(t *testing.T) {
	m := rpc.NewMux()
	started := make(chan struct{}, 1)
	rpc.Handle(m, "wait", func(ctx context.Context, _ transport.Peer, _ text) (text, error) {
		select {
		case started <- struct{}{}:
		default:
		}
		<-ctx.Done()
		return text{}, ctx.Err()
	})
	in(t, m, func(t *testing.T, b *bundle) {
		if err := b.client.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		b.net.Partition("par-1", "console")
		err := b.client.Call(t.Context(), "wait", text{}, nil)
		wantFault(t, err, fault.Unreachable, "no sign of life")
		if took := time.Since(begin); took < 14*time.Second || took > 16*time.Second {
			t.Errorf("silence noticed after %s", took)
		}
		b.net.Heal("par-1", "console")
		if err := b.client.Ready(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestBackoff: failed dials are spaced by 50 ms … 5 s, a call in between fails
// at once with the last cause, and Ready waits.
func TestBackoff(t *testing.T) {
	m := rpc.NewMux()
	rpc.Handle(m, "ping", func(context.Context, transport.Peer, text) (text, error) { return text{"pong"}, nil })
	in(t, m, func(t *testing.T, b *bundle) {
		b.stop()
		dials := &countingMedium{Medium: b.net.Medium(caller)}
		c := rpc.NewClient(dials, addr, transport.Want{}, rpc.Options{})
		defer c.Close()
		begin := time.Now()
		for range 1000 {
			wantFault(t, c.Call(t.Context(), "ping", text{}, nil), fault.Unreachable, "nothing listens there")
		}
		if n := dials.n.Load(); n != 1 {
			t.Errorf("%d dials for calls at one moment, want 1", n)
		}
		ready := make(chan error, 1)
		go func() { ready <- c.Ready(t.Context()) }()
		<-time.After(time.Minute) // of the bubble
		if n := dials.n.Load(); n < 60/5 || n > 40 {
			t.Errorf("%d dials in a minute", n)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wantFault(t, c.Ready(ctx), fault.Unreachable, "nothing listens there")
		up := time.Now()
		stop := b.serve(t, info)
		defer stop()
		if err := <-ready; err != nil || time.Since(up) > 5100*time.Millisecond {
			t.Errorf("ready %s after the agent, %v", time.Since(up), err)
		}
		if err := c.Call(t.Context(), "ping", text{}, nil); err != nil {
			t.Error(err)
		}
		if time.Since(begin) < time.Minute {
			t.Error("the clock of the bubble stood still")
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		wantFault(t, c.Call(t.Context(), "ping", text{}, nil), fault.Unreachable, "the session was closed")
	})
}

type countingMedium struct {
	transport.Medium
	n atomic.Int32
}

func (m *countingMedium) Dial(ctx context.Context, addr string, want transport.Want) (transport.Conn, error) {
	m.n.Add(1)
	return m.Medium.Dial(ctx, addr, want)
}

func TestProtocolRanges(t *testing.T) {
	for _, tc := range []struct {
		name         string
		agent, drrun wire.Range
		hint         string // "": they speak
	}{
		{"same", wire.Range{Min: 1, Max: 1}, wire.Range{Min: 1, Max: 1}, ""},
		{"touching", wire.Range{Min: 1, Max: 2}, wire.Range{Min: 2, Max: 3}, ""},
		{"agent too old", wire.Range{Min: 1, Max: 1}, wire.Range{Min: 2, Max: 3}, "update drrun-agent 0.1.0"},
		{"drrun too old", wire.Range{Min: 4, Max: 5}, wire.Range{Min: 2, Max: 3}, "update drrun 0.2.0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := rpc.NewMux()
			rpc.Handle(m, "ping", func(context.Context, transport.Peer, text) (text, error) { return text{"pong"}, nil })
			in(t, m, func(t *testing.T, b *bundle) {
				b.stop()
				stop := b.serve(t, rpc.Info{Program: "drrun-agent", Version: "0.1.0", Protocol: tc.agent})
				defer stop()
				c := rpc.NewClient(b.net.Medium(caller), addr, transport.Want{}, rpc.Options{
					Info: rpc.Info{Program: "drrun", Version: "0.2.0", Protocol: tc.drrun},
				})
				defer c.Close()
				err := c.Call(t.Context(), "ping", text{}, nil)
				if tc.hint == "" {
					if err != nil {
						t.Error(err)
					}
					return
				}
				wantFault(t, err, fault.Refused, "drrun-agent 0.1.0 speaks protocol "+tc.agent.String(), "drrun 0.2.0 speaks "+tc.drrun.String())
				if fault.Hint(err) != tc.hint {
					t.Errorf("hint %q, want %q", fault.Hint(err), tc.hint)
				}
				if err := c.Ready(t.Context()); !fault.Is(err, fault.Refused) {
					t.Errorf("Ready: %v", err)
				}
			})
		})
	}
}

// TestHalfSentFrames: a peer that stops in the middle of its hello or of a
// request is let go after a while, and holds up no shutdown.
func TestHalfSentFrames(t *testing.T) {
	hello, err := rpc.HelloOf(info)
	if err != nil {
		t.Fatal(err)
	}
	whole := frame(wire.TypeHello, hello)
	half := frame(wire.TypeRequest, []byte("\x04ping{}"))[:8]
	dial := func(t *testing.T, b *bundle, first []byte) (transport.Conn, transport.Stream) {
		t.Helper()
		c, err := b.net.Medium(caller).Dial(t.Context(), addr, transport.Want{})
		if err != nil {
			t.Fatal(err)
		}
		return c, begin(t, c, first)
	}
	t.Run("shutdown", func(t *testing.T) {
		in(t, rpc.NewMux(), func(t *testing.T, b *bundle) {
			dial(t, b, whole[:9])
			c, _ := dial(t, b, whole)
			begin(t, c, half)
			<-time.After(time.Second) // of the bubble: all of it is there
			at := time.Now()
			b.stop()
			if took := time.Since(at); took > 2*time.Second {
				t.Errorf("half a frame held up the end of Serve for %s", took)
			}
		})
	})
	t.Run("patience", func(t *testing.T) {
		in(t, rpc.NewMux(), func(t *testing.T, b *bundle) {
			at := time.Now()
			c, _ := dial(t, b, whole[:9])
			<-c.Done()
			if took := time.Since(at); took > 12*time.Second {
				t.Errorf("half a hello was borne for %s", took)
			}
			c, _ = dial(t, b, whole)
			at = time.Now()
			typ, p, err := wire.ReadFrame(begin(t, c, half))
			if took := time.Since(at); err != nil || typ != wire.TypeFault || took > 35*time.Second {
				t.Fatalf("half a request got %s, %v after %s", typ, err, took)
			}
			wantFault(t, wire.DecodeFault(p), fault.Unreachable, "no whole request came")
		})
	})
}

// begin opens a stream and writes its first bytes.
func begin(t *testing.T, c transport.Conn, b []byte) transport.Stream {
	t.Helper()
	st, err := c.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Write(b); err != nil {
		t.Fatal(err)
	}
	return st
}

// TestControlIsApart: a call is answered while every bulk connection is full.
func TestControlIsApart(t *testing.T) {
	m := rpc.NewMux()
	rpc.Handle(m, "ping", func(context.Context, transport.Peer, text) (text, error) { return text{"pong"}, nil })
	hold := make(chan struct{})
	rpc.HandleUpload(m, "put", func(context.Context, transport.Peer, text) (rpc.Sink[text], error) {
		return &sink{onWrite: func([]byte) error { <-hold; return nil }}, nil
	})
	in(t, m, func(t *testing.T, b *bundle) {
		hold = make(chan struct{})
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if err := b.client.Upload(t.Context(), "put", text{}, zeros(20<<20), 20<<20, nil, nil); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		begin := time.Now()
		if err := b.client.Call(t.Context(), "ping", text{}, nil); err != nil || time.Since(begin) > time.Second {
			t.Errorf("answered after %s, %v", time.Since(begin), err)
		}
		close(hold)
		wg.Wait()
	})
}

type zeros int64

func (z zeros) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(z) {
		return 0, io.EOF
	}
	n := min(len(p), int(int64(z)-off))
	clear(p[:n])
	return n, nil
}

// sink counts how it ended.
type sink struct {
	bytes.Buffer
	offset    int64
	onWrite   func(p []byte) error
	onCommit  func() error
	committed atomic.Int32
	aborted   atomic.Int32
}

func (s *sink) Offset() int64 { return s.offset }

func (s *sink) Write(p []byte) (int, error) {
	if s.onWrite != nil {
		if err := s.onWrite(p); err != nil {
			return 0, err
		}
	}
	return s.Buffer.Write(p)
}

func (s *sink) Commit(context.Context) (text, error) {
	s.committed.Add(1)
	if s.onCommit != nil {
		return text{}, s.onCommit()
	}
	return text{"stored"}, nil
}

func (s *sink) Abort() { s.aborted.Add(1) }
