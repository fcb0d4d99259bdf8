package quicnet_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/quicnet"
)

// rawListener is a listener of the estate that speaks QUIC and leaves the rest
// to the test.
func rawListener(t *testing.T, e estate, serve func(ctx context.Context, qc *quic.Conn) error) (addr string) {
	t.Helper()
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	conf := e.host(t, "par", "par-1").ServerTLS()
	conf.NextProtos = []string{"drrun/1", "drrun-join/1", "drrun-renew/1"}
	tr := &quic.Transport{Conn: udp}
	l, err := tr.Listen(conf, &quic.Config{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		qc, err := l.Accept(t.Context()) // ends with the test if nobody gets through
		if err == nil {
			err = serve(qc.Context(), qc)
		}
		done <- err
	}()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Errorf("raw listener: %v", err)
		}
		_ = l.Close()
		_ = tr.Close()
		_ = udp.Close()
	})
	return udp.LocalAddr().String()
}

// TestHalfAdmission: a listener that begins to admit us and never ends that
// does not hold up a dial.
func TestHalfAdmission(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(qc *quic.Conn) error{
		"no stream": func(*quic.Conn) error { return nil },
		"no byte": func(qc *quic.Conn) error {
			st, err := qc.OpenUniStream()
			if err == nil {
				err = st.Close()
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEstate(t, "acme")
			addr := rawListener(t, e, func(ctx context.Context, qc *quic.Conn) error {
				err := open(qc)
				<-ctx.Done()
				return err
			})
			m := quicnet.New(quicnet.Fixed(e.rt), quicnet.Options{HandshakeTimeout: 6 * time.Second})
			_, err := m.Dial(t.Context(), addr, transport.Want{})
			wantFault(t, err, fault.Unreachable, "cannot reach "+addr+": it did not say whether it admits us")
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("no end", func(t *testing.T) {
		t.Parallel()
		e := newEstate(t, "acme")
		addr := rawListener(t, e, func(ctx context.Context, qc *quic.Conn) error {
			st, err := qc.OpenUniStream()
			if err == nil {
				_, err = st.Write([]byte{1}) // and the stream stays open
			}
			<-ctx.Done()
			return err
		})
		c, err := medium(t, quicnet.Fixed(e.rt)).Dial(t.Context(), addr, transport.Want{})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Close("done"); err != nil {
			t.Error(err)
		}
	})
}
