// Package transporttest is the suite that every transport medium passes, with
// rpc on top. It is for tests only; each case owns what it makes and ends it
// before it returns, so that cases run inside testing/synctest bubbles too.
package transporttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/transport"
)

// Pair is two peers of one estate: Host listens, Runtime dials.
type Pair struct {
	Listen transport.Medium
	Dial   transport.Medium
	Addr   string // where to listen, port 0
	Host   transport.Peer
	Caller transport.Peer
}

// Case is one property of a medium.
type Case struct {
	Name string
	Run  func(t *testing.T, p Pair)
}

// Cases returns the suite.
func Cases() []Case {
	return []Case{
		{"Echo", testEcho},
		{"Peers", testPeers},
		{"ManyStreams", testManyStreams},
		{"SlowReader", testSlowReader},
		{"StreamLimit", testStreamLimit},
		{"CloseAfterCloseWriteDelivers", testCloseDelivers},
		{"CloseDropsStream", testCloseDrops},
		{"CloseEndsOwnRead", testCloseEndsOwnRead},
		{"Deadline", testDeadline},
		{"CancelledContext", testCancelledContext},
		{"CloseReason", testCloseReason},
		{"ListenerClose", testListenerClose},
		{"WrongPeer", testWrongPeer},
		{"NobodyListens", testNobodyListens},
		{"Calls", testCalls},
		{"CallsAcrossDeath", testCallsAcrossDeath},
		{"UploadResumesAfterCut", testUploadResume},
	}
}

// Run runs the suite in real time.
func Run(t *testing.T, open func(t *testing.T) Pair) {
	t.Helper()
	for _, c := range Cases() {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			c.Run(t, open(t))
		})
	}
}

// limit bounds every case: far more than one takes on a busy machine.
const limit = 2 * time.Minute

// rig is a listener and one connection to it.
type rig struct {
	l         transport.Listener
	near, far transport.Conn // dialer's end, listener's end
}

func connect(t *testing.T, p Pair) (context.Context, *rig) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	l, err := p.Listen.Listen(ctx, p.Addr)
	if err != nil {
		t.Fatal(err)
	}
	near, err := p.Dial.Dial(ctx, l.Addr().String(), transport.Want{Estate: p.Host.Estate, Host: p.Host.Host})
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = near.Close("end of test")
		if err := l.Close(); err != nil {
			t.Errorf("listener: %v", err)
		}
		<-far.Done()
		cancel()
	})
	return ctx, &rig{l: l, near: near, far: far}
}

// stream opens a stream and greets with one byte, which the far end reads.
func (r *rig) stream(ctx context.Context, t *testing.T) (near, far transport.Stream) {
	t.Helper()
	near, err := r.near.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := near.Write([]byte{'!'}); err != nil {
		t.Fatal(err)
	}
	if far, err = r.far.Accept(ctx); err != nil {
		t.Fatal(err)
	}
	var one [1]byte
	if _, err := io.ReadFull(far, one[:]); err != nil || one[0] != '!' {
		t.Fatalf("greeting: %q, %v", one, err)
	}
	return near, far
}

// content returns n bytes that are the same for one seed.
func content(seed uint64, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b) // never fails
	return b
}

// echo answers every stream of c with what it got.
func echo(ctx context.Context, c transport.Conn, wg *sync.WaitGroup) {
	for {
		st, err := c.Accept(ctx)
		if err != nil {
			return
		}
		wg.Go(func() {
			_, err := io.Copy(st, st)
			if err == nil {
				_ = st.CloseWrite()
			}
			_ = st.Close()
		})
	}
}

func roundTrip(ctx context.Context, c transport.Conn, b []byte) error {
	st, err := c.Open(ctx)
	if err != nil {
		return err
	}
	defer st.Close()
	wrote := make(chan error, 1)
	go func() {
		_, err := st.Write(b)
		wrote <- errors.Join(err, st.CloseWrite())
	}()
	got, err := io.ReadAll(st)
	if err = errors.Join(err, <-wrote); err != nil {
		return err
	}
	if !bytes.Equal(got, b) {
		return fmt.Errorf("sent %d bytes, got %d others back", len(b), len(got))
	}
	return nil
}

func testEcho(t *testing.T, p Pair) {
	ctx, r := connect(t, p)
	var wg sync.WaitGroup
	wg.Go(func() { echo(ctx, r.far, &wg) })
	for _, n := range []int{0, 1, 100_000} {
		if err := roundTrip(ctx, r.near, content(1, n)); err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	_ = r.near.Close("done")
	wg.Wait()
}

func testPeers(t *testing.T, p Pair) {
	_, r := connect(t, p)
	if got := r.near.Peer(); got != p.Host {
		t.Errorf("the dialer sees %+v, want %+v", got, p.Host)
	}
	if got := r.far.Peer(); got != p.Caller {
		t.Errorf("the listener sees %+v, want %+v", got, p.Caller)
	}
	if r.near.RemoteAddr().String() != r.l.Addr().String() {
		t.Errorf("remote address %s, want %s", r.near.RemoteAddr(), r.l.Addr())
	}
	if r.far.RemoteAddr().String() == "" {
		t.Error("the listener sees no address")
	}
}

func testManyStreams(t *testing.T, p Pair) {
	ctx, r := connect(t, p)
	var served, asked sync.WaitGroup
	served.Go(func() { echo(ctx, r.far, &served) })
	for i := range 64 {
		asked.Go(func() {
			if err := roundTrip(ctx, r.near, content(uint64(i), 10_000+i)); err != nil {
				t.Errorf("stream %d: %v", i, err)
			}
		})
	}
	asked.Wait()
	_ = r.near.Close("done")
	served.Wait()
}

// testStreamLimit opens streams until Open waits: a peer that answers nothing
// cannot be made to hold any number of them.
func testStreamLimit(t *testing.T, p Pair) {
	ctx, r := connect(t, p)
	var near, far transport.Stream
	for n := 0; ; n++ {
		if n > 10_000 {
			t.Fatal("no limit")
		}
		short, cancel := context.WithTimeout(ctx, 2*time.Second)
		st, err := r.near.Open(short)
		cancel()
		if err != nil {
			if !fault.Is(err, fault.Unreachable) || n < 100 {
				t.Fatalf("stream %d: %s fault %v", n, fault.KindOf(err), err)
			}
			break
		}
		near = st
		if _, err := near.Write([]byte{'!'}); err != nil {
			t.Fatal(err)
		}
		if far, err = r.far.Accept(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(near.CloseWrite(), near.Close(), far.CloseWrite(), far.Close()); err != nil {
		t.Fatal(err)
	}
	r.stream(ctx, t) // there is room again
}

// testSlowReader sends more than any window and reads it late.
func testSlowReader(t *testing.T, p Pair) {
	ctx, r := connect(t, p)
	near, far := r.stream(ctx, t)
	want := content(3, 20<<20)
	wrote := make(chan error, 1)
	go func() {
		_, err := near.Write(want)
		wrote <- errors.Join(err, near.CloseWrite())
	}()
	// The other direction is not held up.
	if _, err := far.Write([]byte("?")); err != nil {
		t.Fatal(err)
	}
	var one [1]byte
	if _, err := io.ReadFull(near, one[:]); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-wrote:
		t.Fatalf("20 MiB went without a reader: %v", err)
	default:
	}
	got, err := io.ReadAll(far)
	if err = errors.Join(err, <-wrote); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes of %d: %v", len(got), len(want), err)
	}
}

func testCloseDelivers(t *testing.T, p Pair) {
	ctx, r := connect(t, p)
	near, far := r.stream(ctx, t)
	want := content(4, 200_000)
	if _, err := far.Write(want); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(far.CloseWrite(), far.Close()); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(near)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes of %d: %v", len(got), len(want), err)
	}
}

func testCloseDrops(t *testing.T, p Pair) {
	ctx, r := connect(t, p)
	near, far := r.stream(ctx, t)
	if err := near.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := far.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("read %d bytes, %v from a dropped stream", n, err)
	} else if !fault.Is(err, fault.Unreachable) || !strings.Contains(err.Error(), p.Caller.String()) || !strings.Contains(err.Error(), "dropped the stream") {
		t.Errorf("a dropped stream reads as a %s fault: %v", fault.KindOf(err), err)
	}
	_ = far.SetDeadline(time.Now().Add(limit))
	for {
		if _, err := far.Write(make([]byte, 1<<20)); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("writes to a dropped stream do not end")
			}
			break
		}
	}
	if err := far.CloseWrite(); err != nil {
		t.Errorf("CloseWrite of a stream that the peer dropped: %v", err)
	}
	// The connection is none the worse.
	r.stream(ctx, t)
}

func testCloseEndsOwnRead(t *testing.T, p Pair) {
	ctx, r := connect(t, p)
	near, _ := r.stream(ctx, t)
	got := make(chan error, 1)
	go func() {
		_, err := near.Read(make([]byte, 1))
		got <- err
	}()
	if err := near.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; !fault.Is(err, fault.Unreachable) || !strings.Contains(err.Error(), p.Host.String()) || !strings.Contains(err.Error(), "was closed here") {
		t.Errorf("read of a stream closed here: %v", err)
	}
}

func testDeadline(t *testing.T, p Pair) {
	ctx, r := connect(t, p)
	near, far := r.stream(ctx, t)
	_ = far.SetDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read past the deadline: %v", err)
	}
	_ = far.SetDeadline(time.Time{})
	if _, err := near.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(far, make([]byte, 1)); err != nil {
		t.Errorf("read after the deadline was taken off: %v", err)
	}
	// A deadline wakes a reader that waits already.
	got := make(chan error, 1)
	go func() {
		_, err := far.Read(make([]byte, 1))
		got <- err
	}()
	_ = far.SetDeadline(time.Unix(1, 0))
	if err := <-got; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("woken by a deadline: %v", err)
	}
}

func testCancelledContext(t *testing.T, p Pair) {
	_, r := connect(t, p)
	why := errors.New("nobody needs it")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(why)
	if _, err := r.near.Accept(ctx); err == nil {
		t.Error("Conn.Accept with an ended context")
	}
	if _, err := r.l.Accept(ctx); err == nil {
		t.Error("Listener.Accept with an ended context")
	}
	_, err := p.Dial.Dial(ctx, r.l.Addr().String(), transport.Want{})
	if !fault.Is(err, fault.Unreachable) {
		t.Errorf("Dial with an ended context: %s fault %v", fault.KindOf(err), err)
	}
	if _, err := p.Listen.Listen(ctx, p.Addr); err == nil {
		t.Error("Listen with an ended context")
	}
}

func testCloseReason(t *testing.T, p Pair) {
	ctx, r := connect(t, p)
	_, far := r.stream(ctx, t)
	read := make(chan error, 1)
	go func() {
		_, err := far.Read(make([]byte, 1))
		read <- err
	}()
	if err := r.near.Close("the machine moved"); err != nil {
		t.Fatal(err)
	}
	<-r.near.Done()
	<-r.far.Done()
	_, accErr := r.far.Accept(ctx)
	_, openErr := r.far.Open(ctx)
	for what, err := range map[string]error{"read": <-read, "accept": accErr, "open": openErr} {
		if !fault.Is(err, fault.Unreachable) || !strings.Contains(err.Error(), "the machine moved") {
			t.Errorf("%s after the peer's close: %s fault %v", what, fault.KindOf(err), err)
		}
	}
	if _, err := r.near.Open(ctx); err == nil {
		t.Error("a stream was opened on a closed connection")
	}
	if err := r.near.Close("again"); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func testListenerClose(t *testing.T, p Pair) {
	ctx, r := connect(t, p)
	if err := r.l.Close(); err != nil {
		t.Fatal(err)
	}
	<-r.far.Done()
	<-r.near.Done()
	if _, err := r.l.Accept(ctx); err == nil {
		t.Error("a closed listener accepts")
	}
}

func testWrongPeer(t *testing.T, p Pair) {
	ctx, r := connect(t, p)
	addr := r.l.Addr().String()
	for _, tc := range []struct {
		want transport.Want
		text string
	}{
		{transport.Want{Estate: p.Host.Estate, Host: "nobody"}, "certificate of host " + p.Host.Host + ", want host nobody"},
		{transport.Want{Estate: "elsewhere"}, "want estate elsewhere"},
	} {
		_, err := p.Dial.Dial(ctx, addr, tc.want)
		if !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("dial %+v: %s fault %v, want refused: %q", tc.want, fault.KindOf(err), err, tc.text)
		}
	}
}

func testNobodyListens(t *testing.T, p Pair) {
	ctx, r := connect(t, p)
	addr := r.l.Addr().String()
	if err := r.l.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := p.Dial.Dial(ctx, addr, transport.Want{})
	if !fault.Is(err, fault.Unreachable) || !strings.Contains(err.Error(), addr) {
		t.Errorf("dial: %s fault %v", fault.KindOf(err), err)
	}
}
