package lab

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"
)

// TestLink: a link passes on both ways for several clients, loses what is cut
// one way or both, and passes on again when it is healed.
func TestLink(t *testing.T) {
	t.Parallel()
	agent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan string, 16)
	go func() { // answers everything with the same
		p := make([]byte, 64)
		for {
			n, from, err := agent.ReadFrom(p)
			if err != nil {
				return
			}
			heard <- string(p[:n])
			_, _ = agent.WriteTo(p[:n], from)
		}
	}()
	defer agent.Close()
	k, err := newLink(agent.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	one, two := linkClient(t, k), linkClient(t, k)
	if a, b := one("a"), two("b"); a != "a" || b != "b" {
		t.Errorf("answers %q and %q", a, b)
	}
	<-heard
	<-heard

	k.Cut(Out)
	if got := one("c"); got != "" {
		t.Errorf("the answer %q came although answers are cut", got)
	}
	if got := <-heard; got != "c" {
		t.Errorf("the agent heard %q", got)
	}
	k.Heal()
	k.Cut(In)
	if got := one("d"); got != "" || len(heard) > 0 {
		t.Errorf("the agent answered %q (%d heard) although it is cut off", got, len(heard))
	}
	k.Heal()
	if got := one("e"); got != "e" {
		t.Errorf("healed, the answer is %q", got)
	}
	if in, out := k.Lost(); in != 1 || out != 1 {
		t.Errorf("lost %d in and %d out, want one each", in, out)
	}
}

// linkClient returns a client that sends and waits a moment for the answer.
func linkClient(t *testing.T, k *Link) func(string) string {
	t.Helper()
	c, err := net.Dial("udp", k.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return func(s string) string {
		t.Helper()
		if _, err := c.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 64)
		n, err := c.Read(p)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		return string(p[:n])
	}
}
