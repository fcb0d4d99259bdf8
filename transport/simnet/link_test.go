package simnet_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/simnet"
)

// ends makes one connection between host and runtime, in a bubble.
func ends(t *testing.T, n *simnet.Net) (near, far transport.Conn) {
	t.Helper()
	l, err := n.Medium(host).Listen(t.Context(), ":7830")
	if err != nil {
		t.Fatal(err)
	}
	if near, err = n.Medium(runtime).Dial(t.Context(), "par-1:7830", transport.Want{}); err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(t.Context()); err != nil {
		t.Fatal(err)
	}
	return near, far
}

// send writes p on a new stream and returns how long it took to arrive whole.
func send(t *testing.T, near, far transport.Conn, p []byte) time.Duration {
	t.Helper()
	begin := time.Now()
	st, err := near.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := st.Write(p)
		wrote <- errors.Join(err, st.CloseWrite())
	}()
	in, err := far.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(in)
	if err = errors.Join(err, <-wrote); err != nil || len(got) != len(p) {
		t.Fatalf("%d bytes of %d: %v", len(got), len(p), err)
	}
	return time.Since(begin)
}

func TestDelayAndRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := simnet.New(1)
		n.SetLink("par-1", "console", simnet.Link{Delay: 40 * time.Millisecond})
		begin := time.Now()
		near, far := ends(t, n)
		if took := time.Since(begin); took != 120*time.Millisecond {
			t.Errorf("dialled in %s, want one round trip and a half", took)
		}
		if took := send(t, near, far, []byte("x")); took != 40*time.Millisecond {
			t.Errorf("a byte took %s", took)
		}
		n.SetLink("console", "par-1", simnet.Link{Delay: 40 * time.Millisecond, Rate: 1 << 20})
		if took := send(t, near, far, make([]byte, 3<<20)); took < 3*time.Second || took > 3100*time.Millisecond {
			t.Errorf("3 MiB at 1 MiB/s took %s", took)
		}
	})
}

func TestLossIsDelayAndSeeded(t *testing.T) {
	t.Parallel()
	run := func(seed uint64, loss float64) (took time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			n := simnet.New(seed)
			n.SetDefault(simnet.Link{Delay: 10 * time.Millisecond, Jitter: time.Millisecond, Loss: loss})
			near, far := ends(t, n)
			for range 20 {
				took += send(t, near, far, make([]byte, 100_000))
			}
		})
		return took
	}
	a, b, c, clean := run(1, 0.3), run(1, 0.3), run(2, 0.3), run(1, 0)
	if a != b {
		t.Errorf("one seed gave %s and %s", a, b)
	}
	if a == c {
		t.Error("two seeds gave the same")
	}
	if a <= clean {
		t.Errorf("with loss %s, without %s", a, clean)
	}
}

func TestPartitionHealedInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := simnet.New(1)
		near, far := ends(t, n)
		n.Partition("par-1", "console")
		time.AfterFunc(10*time.Second, func() { n.Heal("console", "par-1") })
		if took := send(t, near, far, []byte("late")); took != 10*time.Second {
			t.Errorf("arrived after %s, healed after 10 s", took)
		}
		if err := near.Close("done"); err != nil {
			t.Fatal(err)
		}
		<-far.Done()
	})
}

func TestPartitionOutlastsIdleTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := simnet.New(1)
		n.SetIdleTimeout(7 * time.Second)
		near, far := ends(t, n)
		begin := time.Now()
		n.Partition("par-1", "console")
		<-near.Done()
		<-far.Done()
		if took := time.Since(begin); took != 7*time.Second {
			t.Errorf("died after %s", took)
		}
		begin = time.Now()
		_, err := n.Medium(runtime).Dial(t.Context(), "par-1:7830", transport.Want{})
		if !fault.Is(err, fault.Unreachable) || time.Since(begin) != 5*time.Second {
			t.Errorf("dialled into the partition: %v after %s", err, time.Since(begin))
		}
		n.Heal("par-1", "console")
		if _, err := n.Medium(runtime).Dial(t.Context(), "par-1:7830", transport.Want{}); err != nil {
			t.Error(err)
		}
	})
}

// TestSilenceIsOneWay: what the other peer sends arrives, no dial succeeds, and
// connections die as in a partition.
func TestSilenceIsOneWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := simnet.New(1)
		n.SetIdleTimeout(7 * time.Second)
		near, far := ends(t, n)
		n.Silence("par-1", "console")
		if took := send(t, near, far, []byte("heard")); took != 0 {
			t.Errorf("to the one who is silent: after %s", took)
		}
		time.AfterFunc(3*time.Second, func() { n.Heal("console", "par-1") })
		if took := send(t, far, near, []byte("late")); took != 3*time.Second {
			t.Errorf("from the one who is silent: after %s, healed after 3 s", took)
		}
		n.Silence("console", "par-1")
		n.Silence("par-1", "console")
		n.Heal("par-1", "console")
		if took := send(t, near, far, []byte("x")); took != 0 {
			t.Errorf("healed both ways, after %s", took)
		}
		begin := time.Now()
		n.Silence("console", "par-1")
		_, err := n.Medium(runtime).Dial(t.Context(), "par-1:7830", transport.Want{})
		if !fault.Is(err, fault.Unreachable) || time.Since(begin) != 5*time.Second {
			t.Errorf("dialled without a way there: %v after %s", err, time.Since(begin))
		}
		<-near.Done()
		<-far.Done()
		if took := time.Since(begin); took != 7*time.Second {
			t.Errorf("died after %s", took)
		}
	})
}

// TestCloseInPartition: the word of a close arrives with the heal.
func TestCloseInPartition(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := simnet.New(1)
		near, far := ends(t, n)
		n.Partition("par-1", "console")
		if err := near.Close("bye"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		select {
		case <-far.Done():
			t.Error("a close crossed the partition")
		default:
		}
		n.Heal("par-1", "console")
		<-far.Done()
		if _, err := far.Accept(t.Context()); err == nil || !strings.Contains(err.Error(), "bye") {
			t.Errorf("after the heal: %v", err)
		}
	})
}

func TestCutHitsOnePair(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := simnet.New(1)
		near, far := ends(t, n)
		other, err := n.Medium(transport.Peer{Estate: "acme", Site: "fra", Host: "fra-1"}).Dial(t.Context(), "par-1:7830", transport.Want{})
		if err != nil {
			t.Fatal(err)
		}
		n.Cut("console", "par-1")
		<-near.Done()
		<-far.Done()
		select {
		case <-other.Done():
			t.Error("another pair's connection died")
		default:
		}
	})
}

func TestForeignEstateRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := simnet.New(1)
		if _, err := n.Medium(host).Listen(t.Context(), ":7830"); err != nil {
			t.Fatal(err)
		}
		_, err := n.Medium(transport.Peer{Estate: "beta", Runtime: "r"}).Dial(t.Context(), "par-1:7830", transport.Want{Estate: "acme"})
		if !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), "it refused us") {
			t.Errorf("%v", err)
		}
		_, err = n.Medium(host).Listen(t.Context(), ":7830")
		if !fault.Is(err, fault.Unreachable) {
			t.Errorf("port in use: %v", err)
		}
	})
}
