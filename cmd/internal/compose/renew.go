package compose

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/logkit"
)

// Times of the renewal of hosts' certificates, which last for months.
const (
	renewEvery   = 24 * time.Hour  // between two attempts that came to an end
	renewAgain   = time.Hour       // after one that failed
	renewTimeout = 5 * time.Second // of one; a command that ends waits for it
)

// renewer renews the certificates of hosts beside whatever else is done: it
// delays no call and fails none. Hosts that need no renewal say so. Safe for
// concurrent use.
type renewer struct {
	renew func(ctx context.Context, host string) (renewed bool, err error)
	clk   clock.Clock
	log   *slog.Logger

	mu     sync.Mutex
	next   map[string]time.Time // by host: no attempt before
	closed bool
	wg     sync.WaitGroup
}

// start makes an attempt for a host unless there was one lately.
func (r *renewer) start(host string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clk.Now()
	if r.closed || now.Before(r.next[host]) {
		return
	}
	if r.next == nil {
		r.next = map[string]time.Time{}
	}
	r.next[host] = now.Add(renewEvery)
	r.wg.Go(func() { r.attempt(host) })
}

func (r *renewer) attempt(host string) {
	ctx, cancel := context.WithTimeout(context.Background(), renewTimeout)
	defer cancel()
	renewed, err := r.renew(ctx, host)
	switch {
	case err != nil:
		level := slog.LevelWarn
		if fault.Is(err, fault.Unreachable) {
			level = slog.LevelInfo // status shows it, and a lost site stays lost for long
		}
		r.log.Log(ctx, level, "cannot look after a host's certificate, it is tried again", logkit.KeyHost, host, "in", renewAgain, logkit.KeyError, err)
		r.mu.Lock()
		r.next[host] = r.clk.Now().Add(renewAgain)
		r.mu.Unlock()
	case renewed:
		r.log.Info("a host's certificate was renewed", logkit.KeyHost, host)
	}
}

// close waits for the attempts under way; no other begins.
func (r *renewer) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.wg.Wait()
}
