package simnet_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/simnet"
	"github.com/drrun/drrun/transport/transporttest"
)

var (
	host    = transport.Peer{Estate: "acme", Site: "par", Host: "par-1"}
	runtime = transport.Peer{Estate: "acme", Runtime: "console"}
)

func pairOn(n *simnet.Net) transporttest.Pair {
	return transporttest.Pair{Listen: n.Medium(host), Dial: n.Medium(runtime), Addr: ":0", Host: host, Caller: runtime}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	links := map[string]simnet.Link{
		"perfect": {},
		"wan":     {Delay: 20 * time.Millisecond, Jitter: 5 * time.Millisecond, Loss: 0.01, Rate: 50 << 20},
	}
	for name, link := range links {
		for _, c := range transporttest.Cases() {
			t.Run(name+"/"+c.Name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					n := simnet.New(1)
					n.SetDefault(link)
					c.Run(t, pairOn(n))
				})
			})
		}
	}
}

func TestConformanceRealTime(t *testing.T) {
	t.Parallel()
	transporttest.Run(t, func(*testing.T) transporttest.Pair { return pairOn(simnet.New(2)) })
}
