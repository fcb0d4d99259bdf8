package quicnet_test

import (
	"testing"

	"github.com/drrun/drrun/transport/quicnet"
	"github.com/drrun/drrun/transport/transporttest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	e := newEstate(t, "acme")
	id := e.host(t, "par", "par-1")
	transporttest.Run(t, func(t *testing.T) transporttest.Pair {
		return transporttest.Pair{
			Listen: medium(t, quicnet.Fixed(id)), Dial: medium(t, quicnet.Fixed(e.rt)),
			Addr: "127.0.0.1:0", Host: id.Peer(), Caller: e.rt.Peer(),
		}
	})
}
