package quicnet_test

import (
	"bytes"
	"encoding/binary"
	"net"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/drrun/drrun/transport/quicnet"
)

// TestTrainsAreCut sends datagrams that the kernel may join, and reads them
// through a batch that is too small for all.
func TestTrainsAreCut(t *testing.T) {
	t.Parallel()
	listen := func() *net.UDPConn {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	to, from := listen(), listen()
	reader, ok := quicnet.WithGRO(to).(interface {
		ReadBatch(ms []ipv4.Message, flags int) (int, error)
	})
	if !ok {
		t.Fatal("this kernel has no UDP_GRO")
	}
	want := [][]byte{}
	var train []byte
	for i, n := range []int{1000, 1000, 1000, 1000, 400} {
		want = append(want, bytes.Repeat([]byte{byte('a' + i)}, n))
		train = append(train, want[i]...)
	}
	oob := make([]byte, unix.CmsgSpace(2))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
	h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(oob[unix.CmsgSpace(0):], 1000)
	if _, _, err := from.WriteMsgUDP(train, oob, to.LocalAddr().(*net.UDPAddr)); err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{{}, []byte("alone")} {
		if _, err := from.WriteToUDP(b, to.LocalAddr().(*net.UDPAddr)); err != nil {
			t.Fatal(err)
		}
		want = append(want, b)
	}
	if err := to.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	ms := make([]ipv4.Message, 2)
	for i := range ms {
		ms[i].Buffers, ms[i].OOB = [][]byte{make([]byte, 1452)}, make([]byte, 128)
	}
	var got [][]byte
	for len(got) < len(want) {
		n, err := reader.ReadBatch(ms, 0)
		if err != nil {
			t.Fatalf("after %d datagrams: %v", len(got), err)
		}
		for _, m := range ms[:n] {
			got = append(got, bytes.Clone(m.Buffers[0][:m.N]))
			if m.Addr.String() != from.LocalAddr().String() {
				t.Errorf("from %s, want %s", m.Addr, from.LocalAddr())
			}
		}
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			t.Errorf("datagram %d: %d bytes %.5q, want %d bytes %.5q", i, len(got[i]), got[i], len(want[i]), want[i])
		}
	}
}
