package quicnet

import (
	"encoding/binary"
	"net"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// trainSize is the most that the kernel hands over at once.
const trainSize = 64 << 10

// groConn reads trains: with UDP_GRO the kernel joins the datagrams of one
// sender that arrive together, and one system call brings up to 64 KiB of
// them. quic-go does not ask for that, but reads through ReadBatch where its
// socket has one. Only its receive loop calls ReadBatch: no lock.
type groConn struct {
	*net.UDPConn
	buf  []byte
	oob  []byte
	rest []byte // of the train in buf, not handed out yet
	size int    // of each of its datagrams; the last may be shorter
	from *net.UDPAddr
}

// withGRO wraps a socket, or returns it as it is where the kernel cannot.
func withGRO(udp *net.UDPConn) net.PacketConn {
	raw, err := udp.SyscallConn()
	if err != nil {
		return udp
	}
	var serr error
	if err := raw.Control(func(fd uintptr) {
		serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	}); err != nil || serr != nil {
		return udp
	}
	return &groConn{UDPConn: udp, buf: make([]byte, trainSize), oob: make([]byte, 256)}
}

// ReadBatch fills messages with the datagrams of one train; what is left of it
// comes with the next call.
func (c *groConn) ReadBatch(ms []ipv4.Message, _ int) (int, error) {
	if len(c.rest) == 0 {
		if err := c.readTrain(); err != nil {
			return 0, err
		}
	}
	n := 0
	for ; n < len(ms) && (len(c.rest) > 0 || n == 0); n++ {
		m := &ms[n]
		size := min(c.size, len(c.rest))
		m.N = copy(m.Buffers[0], c.rest[:size]) // longer ones are none of QUIC's
		m.NN = copy(m.OOB, c.oob)
		m.Flags, m.Addr = 0, c.from
		c.rest = c.rest[size:]
	}
	return n, nil
}

func (c *groConn) readTrain() error {
	n, oobn, _, from, err := c.ReadMsgUDP(c.buf, c.oob[:cap(c.oob)])
	if err != nil {
		return err
	}
	c.rest, c.oob, c.from = c.buf[:n], c.oob[:oobn], from
	c.size = max(segmentSize(c.oob), 0)
	if c.size == 0 {
		c.size = max(n, 1)
	}
	return nil
}

// segmentSize finds the size of the datagrams of a train in its control
// messages; 0: it is a single one.
func segmentSize(oob []byte) int {
	for len(oob) > 0 {
		h, body, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return 0
		}
		if h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && len(body) >= 4 {
			return int(int32(binary.NativeEndian.Uint32(body)))
		}
		oob = rest
	}
	return 0
}
