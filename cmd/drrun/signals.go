package main

import (
	"context"
	"os"
	"sync"

	"github.com/drrun/drrun/internal/fault"
)

// signals gives the user's interrupts to whoever wants them; while nobody does,
// an interrupt ends the command's context.
type signals struct {
	mu     sync.Mutex
	taker  chan os.Signal
	cancel context.CancelCauseFunc
}

// route works until ctx ends.
func (s *signals) route(ctx context.Context, from <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case sig := <-from:
			s.give(sig)
		}
	}
}

func (s *signals) give(sig os.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taker == nil {
		s.cancel(fault.Errorf(fault.Interrupted, "interrupted"))
		return
	}
	select {
	case s.taker <- sig:
	default: // two are waiting already: more say nothing new
	}
}

// take makes the caller the one who gets interrupts, until it gives back.
func (s *signals) take() (got <-chan os.Signal, giveBack func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taker = make(chan os.Signal, 2)
	return s.taker, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.taker = nil
	}
}
