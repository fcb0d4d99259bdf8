package transporttest

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/rpc"
)

type text struct {
	Text string `json:"text"`
}

// recorder is a medium that remembers the connections it dialled.
type recorder struct {
	transport.Medium
	mu    sync.Mutex
	conns []transport.Conn
}

func (r *recorder) Dial(ctx context.Context, addr string, want transport.Want) (transport.Conn, error) {
	c, err := r.Medium.Dial(ctx, addr, want)
	if err == nil {
		r.mu.Lock()
		r.conns = append(r.conns, c)
		r.mu.Unlock()
	}
	return c, err
}

// cut closes all connections dialled so far.
func (r *recorder) cut() {
	r.mu.Lock()
	all := r.conns
	r.conns = nil
	r.mu.Unlock()
	for _, c := range all {
		_ = c.Close("cut") // nil by contract
	}
}

// shelf is a Sink that keeps what it got over uploads.
type shelf struct {
	mu   sync.Mutex
	got  []byte
	hook func(held int) // after each write
}

func (s *shelf) content() []byte { s.mu.Lock(); defer s.mu.Unlock(); return s.got }

func (s *shelf) Offset() int64 { s.mu.Lock(); defer s.mu.Unlock(); return int64(len(s.got)) }

func (s *shelf) Write(p []byte) (int, error) {
	s.mu.Lock()
	s.got = append(s.got, p...)
	n := len(s.got)
	s.mu.Unlock()
	if s.hook != nil {
		s.hook(n)
	}
	return len(p), nil
}

func (s *shelf) Commit(context.Context) (text, error) { return text{"durable"}, nil }
func (s *shelf) Abort()                               {}

// session serves m at p's host and returns a client of it.
func session(t *testing.T, p Pair, m *rpc.Mux) (context.Context, *rpc.Client, *recorder) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	l, err := p.Listen.Listen(ctx, p.Addr)
	if err != nil {
		t.Fatal(err)
	}
	info := rpc.Info{Program: "transporttest", Version: "1"}
	serve, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- rpc.Serve(serve, l, m, info, slog.New(slog.DiscardHandler)) }()
	rec := &recorder{Medium: p.Dial}
	c := rpc.NewClient(rec, l.Addr().String(), transport.Want{Host: p.Host.Host}, rpc.Options{Info: info})
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("client: %v", err)
		}
		stop()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		cancel()
	})
	return ctx, c, rec
}

func echoMux() *rpc.Mux {
	m := rpc.NewMux()
	rpc.Handle(m, "echo", func(_ context.Context, p transport.Peer, in text) (text, error) {
		return text{in.Text + " from " + p.String()}, nil
	})
	rpc.Handle(m, "full", func(context.Context, transport.Peer, text) (text, error) {
		return text{}, fault.Errorf(fault.NoSpace, "store full").WithHint("add a disk")
	})
	return m
}

func testCalls(t *testing.T, p Pair) {
	ctx, c, _ := session(t, p, echoMux())
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			var out text
			if err := c.Call(ctx, "echo", text{"hello"}, &out); err != nil || out.Text != "hello from "+p.Caller.String() {
				t.Errorf("echo: %q, %v", out.Text, err)
			}
		})
	}
	wg.Wait()
	err := c.Call(ctx, "full", text{}, nil)
	if !fault.Is(err, fault.NoSpace) || err.Error() != "store full" || fault.Hint(err) != "add a disk" {
		t.Errorf("fault over the wire: %s %v (%s)", fault.KindOf(err), err, fault.Hint(err))
	}
	if got, ok := c.Peer(); !ok || got != p.Host {
		t.Errorf("peer %+v, %v", got, ok)
	}
}

func testCallsAcrossDeath(t *testing.T, p Pair) {
	ctx, c, rec := session(t, p, echoMux())
	for range 3 {
		var out text
		if err := c.Call(ctx, "echo", text{"hello"}, &out); err != nil {
			t.Fatal(err)
		}
		rec.cut()
		if _, ok := c.Peer(); ok {
			t.Error("connected after the cut")
		}
	}
}

func testUploadResume(t *testing.T, p Pair) {
	const size, cutAt = 8 << 20, 3<<20 + 12345
	want := content(9, size)
	var rec atomic.Pointer[recorder] // a network orders nothing for the race detector
	var once sync.Once
	kept := &shelf{}
	aborted := make(chan int, 1)
	kept.hook = func(held int) {
		if held >= cutAt {
			once.Do(func() { rec.Load().cut() })
		}
	}
	m := rpc.NewMux()
	rpc.HandleUpload(m, "put", func(context.Context, transport.Peer, text) (rpc.Sink[text], error) {
		return abortSignal{kept, aborted}, nil
	})
	ctx, c, r := session(t, p, m)
	rec.Store(r)
	if err := c.Upload(ctx, "put", text{}, bytes.NewReader(want), size, nil, nil); !fault.Is(err, fault.Unreachable) || !rpc.OutcomeUnknown(err) {
		t.Fatalf("cut upload: %s fault %v", fault.KindOf(err), err)
	}
	held := <-aborted
	if held < cutAt || held >= size {
		t.Fatalf("%d bytes held after the cut", held)
	}
	first := int64(-1)
	progress := func(sent int64) {
		if first < 0 {
			first = sent
		}
	}
	var out text
	if err := c.Upload(ctx, "put", text{}, bytes.NewReader(want), size, progress, &out); err != nil || out.Text != "durable" {
		t.Fatalf("second upload: %q, %v", out.Text, err)
	}
	if first != int64(held) {
		t.Errorf("resumed at %d, %d bytes were held", first, held)
	}
	if !bytes.Equal(kept.content(), want) {
		t.Error("what arrived in two parts differs from what was sent")
	}
}

// abortSignal tells how many bytes were held when an upload broke off.
type abortSignal struct {
	*shelf
	c chan<- int
}

func (a abortSignal) Abort() { a.c <- int(a.Offset()) }
