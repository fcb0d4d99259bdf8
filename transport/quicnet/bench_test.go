package quicnet_test

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"testing"

	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/quicnet"
	"github.com/drrun/drrun/transport/rpc"
)

// nothing is a sink that keeps nothing.
type nothing struct{}

func (nothing) Offset() int64                       { return 0 }
func (nothing) Write(p []byte) (int, error)         { return len(p), nil }
func (nothing) Commit(context.Context) (int, error) { return 0, nil }
func (nothing) Abort()                              {}

type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) { return len(p), nil }

// BenchmarkUpload sends segments of 64 MiB over loopback, as many at a time as
// there are bulk connections.
func BenchmarkUpload(b *testing.B) {
	const size = 64 << 20
	for _, bc := range []struct {
		name  string
		bulk  int
		noGRO bool
	}{{"1-conn", 1, false}, {"2-conns", 2, false}, {"2-conns-no-gro", 2, true}} {
		b.Run(bc.name, func(b *testing.B) {
			o, bulk := quicnet.Options{DisableGRO: bc.noGRO}, bc.bulk
			e := newEstate(b, "acme")
			listen := quicnet.New(quicnet.Fixed(e.host(b, "par", "par-1")), o)
			dial := quicnet.New(quicnet.Fixed(e.rt), o)
			l, err := listen.Listen(b.Context(), "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			m := rpc.NewMux()
			rpc.HandleUpload(m, "put", func(context.Context, transport.Peer, int) (rpc.Sink[int], error) { return nothing{}, nil })
			ctx, stop := context.WithCancel(context.Background())
			served := make(chan error, 1)
			go func() { served <- rpc.Serve(ctx, l, m, rpc.Info{}, slog.New(slog.DiscardHandler)) }()
			c := rpc.NewClient(dial, l.Addr().String(), transport.Want{}, rpc.Options{Bulk: bulk})
			b.SetBytes(int64(bulk) * size)
			for b.Loop() {
				var wg sync.WaitGroup
				for range bulk {
					wg.Go(func() {
						if err := c.Upload(b.Context(), "put", 0, io.NewSectionReader(zeros{}, 0, size), size, nil, nil); err != nil {
							b.Error(err)
						}
					})
				}
				wg.Wait()
			}
			_ = c.Close()
			stop()
			if err := <-served; err != nil {
				b.Error(err)
			}
		})
	}
}
