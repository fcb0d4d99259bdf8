package quicnet_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/pki"
	"github.com/drrun/drrun/transport/quicnet"
	"github.com/drrun/drrun/transport/rpc"
)

// TestMain fails if goroutines of the transport outlive the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if left := leftGoroutines(30 * time.Second); left != "" {
			fmt.Fprintf(os.Stderr, "goroutines left:\n%s\n", left)
			code = 1
		}
	}
	os.Exit(code)
}

// leftGoroutines returns the stacks of the transport's goroutines that have
// not ended after a while.
func leftGoroutines(patience time.Duration) string {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		buf := make([]byte, 1<<20)
		buf = buf[:runtime.Stack(buf, true)]
		var left []string
		for _, g := range bytes.Split(buf, []byte("\n\n")) {
			if s := string(g); strings.Contains(s, "quic-go") || strings.Contains(s, "drrun/transport/quicnet.(") || strings.Contains(s, "drrun/transport/rpc.") {
				left = append(left, s)
			}
		}
		if len(left) == 0 {
			return ""
		}
		if time.Now().After(deadline) {
			return strings.Join(left, "\n\n")
		}
	}
}

// hole forwards datagrams between one dialer and a listener until it is told
// to swallow them.
type hole struct {
	target  *net.UDPAddr
	front   *net.UDPConn
	back    atomic.Pointer[net.UDPConn]
	dialer  atomic.Pointer[net.UDPAddr]
	swallow atomic.Bool
	narrow  atomic.Int64  // the largest datagram that passes; 0: any
	ended   chan struct{} // receives when the reader of a back has ended
}

func (h *hole) passes(n int) bool {
	limit := int(h.narrow.Load())
	return !h.swallow.Load() && (limit == 0 || n <= limit)
}

func newHole(t *testing.T, to string) *hole {
	t.Helper()
	h := &hole{ended: make(chan struct{}, 1)}
	var err error
	if h.target, err = net.ResolveUDPAddr("udp", to); err != nil {
		t.Fatal(err)
	}
	if h.front, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
		t.Fatal(err)
	}
	h.openBack(t)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for buf := make([]byte, 2048); ; {
			n, from, err := h.front.ReadFromUDP(buf)
			if err != nil {
				return
			}
			if n > 1 { // not the one byte that asks whether anybody listens
				h.dialer.Store(from)
			}
			if h.passes(n) {
				_, _ = h.back.Load().Write(buf[:n]) // a datagram may be lost
			}
		}
	}()
	t.Cleanup(func() {
		_ = h.front.Close()
		h.closeBack()
		<-ended
	})
	return h
}

func (h *hole) openBack(t *testing.T) {
	t.Helper()
	back, err := net.DialUDP("udp", nil, h.target)
	if err != nil {
		t.Fatal(err)
	}
	h.back.Store(back)
	go func() {
		defer func() { h.ended <- struct{}{} }()
		for buf := make([]byte, 2048); ; {
			n, err := back.Read(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if to := h.dialer.Load(); err == nil && to != nil && h.passes(n) {
				_, _ = h.front.WriteToUDP(buf[:n], to) // a datagram may be lost
			}
		}
	}()
}

func (h *hole) closeBack() {
	_ = h.back.Load().Close()
	<-h.ended
}

// forget loses what the listener has said and nobody has read yet.
func (h *hole) forget(t *testing.T) {
	t.Helper()
	h.closeBack()
	h.openBack(t)
}

// TestSilence: a peer that falls silent is dead after the idle timeout, and a
// dial into silence ends. The times leave room for a machine that is busy.
func TestSilence(t *testing.T) {
	t.Parallel()
	e := newEstate(t, "acme")
	o := quicnet.Options{KeepAlive: 200 * time.Millisecond, IdleTimeout: 5 * time.Second}
	listen, dial := quicnet.New(quicnet.Fixed(e.host(t, "par", "par-1")), o), quicnet.New(quicnet.Fixed(e.rt), o)
	hasty := quicnet.New(quicnet.Fixed(e.rt), quicnet.Options{HandshakeTimeout: 300 * time.Millisecond})
	t.Cleanup(func() { _ = errors.Join(listen.Close(), dial.Close(), hasty.Close()) })
	l, err := listen.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := newHole(t, l.Addr().String())
	c, err := dial.Dial(t.Context(), h.front.LocalAddr().String(), transport.Want{Host: "par-1"})
	if err != nil {
		t.Fatal(err)
	}
	st, err := c.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h.swallow.Store(true)
	_, err = st.Read(make([]byte, 1))
	wantFault(t, err, fault.Unreachable, "host par-1 at "+h.front.LocalAddr().String()+" died: no sign of life")
	<-c.Done()
	_, err = hasty.Dial(t.Context(), h.front.LocalAddr().String(), transport.Want{})
	wantFault(t, err, fault.Unreachable, "no answer")
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// TestRestartIsNoticed: a listener that vanished without a word and came back
// tells a dialer, at the next thing it sends, that its connection is gone. (A
// mere sign of life is too short to be answered.)
func TestRestartIsNoticed(t *testing.T) {
	t.Parallel()
	e := newEstate(t, "acme")
	id := e.host(t, "par", "par-1")
	first := quicnet.New(quicnet.Fixed(id), quicnet.Options{})
	l, err := first.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := newHole(t, l.Addr().String())
	dial := quicnet.New(quicnet.Fixed(e.rt), quicnet.Options{IdleTimeout: time.Minute})
	t.Cleanup(func() { _ = dial.Close() })
	c, err := dial.Dial(t.Context(), h.front.LocalAddr().String(), transport.Want{})
	if err != nil {
		t.Fatal(err)
	}
	h.swallow.Store(true) // whatever the first may say while it closes
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	h.forget(t)
	l2, err := medium(t, quicnet.Fixed(id)).Listen(t.Context(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	h.swallow.Store(false)
	st, err := c.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Write(make([]byte, 500)); err != nil {
		t.Fatal(err)
	}
	<-c.Done()
	_, err = c.Open(t.Context())
	wantFault(t, err, fault.Unreachable, "the other end was restarted")
	if err := errors.Join(l.Close(), l2.Close()); err != nil {
		t.Error(err)
	}
}

// TestNarrowPath: a path of the smallest MTU that IPv6 allows, as some VPNs
// have it, carries everything.
func TestNarrowPath(t *testing.T) {
	t.Parallel()
	e := newEstate(t, "acme")
	h := newHole(t, serve(t, medium(t, quicnet.Fixed(e.host(t, "par", "par-1")))))
	h.narrow.Store(1280 - 40 - 8)
	c := rpc.NewClient(medium(t, quicnet.Fixed(e.rt)), h.front.LocalAddr().String(), transport.Want{}, rpc.Options{})
	long := strings.Repeat("x", 1<<20)
	var out ping
	if err := c.Call(t.Context(), "echo", ping{Text: long}, &out); err != nil || out.Text != long+" runtime console" {
		t.Errorf("%d bytes came back: %v", len(out.Text), err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// TestNewIdentityNeedsNoRestart: a renewed certificate is shown to the next
// dialer while the connection of before lives on.
func TestNewIdentityNeedsNoRestart(t *testing.T) {
	t.Parallel()
	e := newEstate(t, "acme")
	k, err := pki.OpenKeeper(vfs.OS{}, t.TempDir(), clock.Real{})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Store(e.host(t, "par", "par-1")); err != nil {
		t.Fatal(err)
	}
	l, err := medium(t, k).Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dial := medium(t, quicnet.Fixed(e.rt))
	before, err := dial.Dial(t.Context(), l.Addr().String(), transport.Want{Host: "par-1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Store(e.host(t, "par", "par-7")); err != nil {
		t.Fatal(err)
	}
	after, err := dial.Dial(t.Context(), l.Addr().String(), transport.Want{Host: "par-7"})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-before.Done():
		t.Error("the old connection died")
	default:
	}
	if err := errors.Join(before.Close(""), after.Close(""), l.Close()); err != nil {
		t.Error(err)
	}
}

func TestBadAddresses(t *testing.T) {
	t.Parallel()
	e := newEstate(t, "acme")
	m := medium(t, quicnet.Fixed(e.rt))
	for _, addr := range []string{"", "127.0.0.1", "127.0.0.1:port", "127.0.0.1:99999"} {
		_, err := m.Dial(t.Context(), addr, transport.Want{})
		wantFault(t, err, fault.Invalid, "cannot dial")
		if addr != "" {
			_, err = m.Listen(t.Context(), addr)
			wantFault(t, err, fault.Invalid, "cannot listen on")
		}
	}
	k, err := pki.OpenKeeper(vfs.OS{}, filepath.Join(t.TempDir(), "agent"), clock.Real{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = medium(t, k).Dial(t.Context(), "127.0.0.1:7830", transport.Want{})
	wantFault(t, err, fault.Refused, "this host has not joined an estate yet")
}

// TestJoinNobodyThere is quick: the kernel says that nobody listens.
func TestJoinNobodyThere(t *testing.T) {
	t.Parallel()
	e := newEstate(t, "acme")
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	addr := udp.LocalAddr().String()
	if err := udp.Close(); err != nil {
		t.Fatal(err)
	}
	err = quicnet.JoinHost(t.Context(), addr, e.ca, e.rt, "par", "par-1", func(pki.JoinProof) error { return nil })
	wantFault(t, err, fault.Unreachable, "cannot reach "+addr)
	if fault.Hint(err) == "" {
		t.Error("no hint")
	}
}

// TestStrangerGetsNoStream: a dialer that ignores the refusal gets nothing.
func TestStrangerGetsNoStream(t *testing.T) {
	t.Parallel()
	e, other := newEstate(t, "acme"), newEstate(t, "acme")
	l, err := medium(t, quicnet.Fixed(e.host(t, "par", "par-1"))).Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	trusting, err := other.rt.WithTrust(e.ca.CertPEM())
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan error, 1)
	go func() {
		_, err := l.Accept(t.Context())
		accepted <- err
	}()
	if _, err := medium(t, quicnet.Fixed(trusting)).Dial(t.Context(), l.Addr().String(), transport.Want{}); !fault.Is(err, fault.Refused) {
		t.Errorf("dialled: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-accepted; err == nil {
		t.Error("the stranger's connection was handed out")
	} else if errors.Is(err, io.EOF) {
		t.Error(err)
	}
}
