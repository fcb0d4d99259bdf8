//go:build !linux

package quicnet

import "net"

// withGRO is for Linux.
func withGRO(udp *net.UDPConn) net.PacketConn { return udp }
