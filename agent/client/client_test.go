package client_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/drrun/drrun/agent/client"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/rpc"
	"github.com/drrun/drrun/transport/simnet"
)

var host = transport.Peer{Estate: "acme", Site: "paris", Host: "par-1"}

// serve answers "where" with the port it listens at, until stop is called.
func serve(t *testing.T, n *simnet.Net, port string) (stop func()) {
	t.Helper()
	l, err := n.Medium(host).Listen(t.Context(), port)
	if err != nil {
		t.Fatal(err)
	}
	m := rpc.NewMux()
	rpc.Handle(m, "where", func(context.Context, transport.Peer, struct{}) (string, error) { return port, nil })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- rpc.Serve(ctx, l, m, rpc.Info{Program: "drrun-agent"}, slog.New(slog.DiscardHandler)) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
}

// book is an address book that changes.
type book struct {
	mu   sync.Mutex
	addr string
}

func (b *book) find(name string) (string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.addr, name == host.Host
}

func (b *book) move(addr string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.addr = addr
}

func TestSessions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		net := simnet.New(1)
		old, next := serve(t, net, ":7830"), serve(t, net, ":7831")
		hosts := &book{addr: "par-1:7830"}
		c := client.New(net.Medium(transport.Peer{Estate: "acme", Runtime: "shell"}), "acme", hosts.find, rpc.Options{})
		where := func() (out string, err error) {
			err = c.Call(t.Context(), "par-1", "where", struct{}{}, &out)
			return out, err
		}
		if got, err := where(); got != ":7830" || err != nil {
			t.Errorf("at %q, %v", got, err)
		}
		first, err := c.Session("par-1")
		if again, err2 := c.Session("par-1"); again != first || err != nil || err2 != nil {
			t.Errorf("one host has two sessions (%v, %v)", err, err2)
		}
		hosts.move("par-1:7831") // the estate says so from now on
		if got, err := where(); got != ":7831" || err != nil {
			t.Errorf("after the move at %q, %v", got, err)
		}
		before, err := c.Session("par-1")
		if err != nil {
			t.Error(err)
		}
		for range 2 { // of none is no error
			if err := c.Drop("par-1"); err != nil {
				t.Errorf("drop: %v", err)
			}
		}
		if got, err := where(); got != ":7831" || err != nil {
			t.Errorf("dialled anew at %q, %v", got, err)
		}
		if after, err := c.Session("par-1"); after == before || err != nil {
			t.Errorf("the dropped session is used again (%v)", err)
		}
		err = c.Call(t.Context(), "lyo-1", "where", struct{}{}, nil)
		if !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), `"lyo-1"`) {
			t.Errorf("unknown host: %v", err)
		}
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if _, err := where(); !fault.Is(err, fault.Unreachable) || !strings.Contains(err.Error(), "par-1") {
			t.Errorf("after the close: %v", err)
		}
		old()
		next()
	})
}
