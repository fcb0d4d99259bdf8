package simnet

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/drrun/drrun/internal/fault"
)

const (
	packet = 16 << 10 // bytes that travel, and are late, together
	window = 4 << 20  // bytes a reader may be behind
)

// half is one direction of a stream. All fields are under Net.mu.
type half struct {
	chunks  []chunk
	unread  int // bytes in chunks
	last    time.Time
	ended   bool      // CloseWrite or Close of the writer
	resetAt time.Time // when the reader learns that the writer dropped it
	stopAt  time.Time // when the writer learns that the reader dropped it
}

type chunk struct {
	at   time.Time
	data []byte
	eof  bool
}

// stream is one end of a stream.
type stream struct {
	c       *conn
	opener  *conn // the end that opened it
	far     *stream
	out, in *half

	// under Net.mu:
	wake     chan struct{}
	deadline time.Time
	dropped  bool
	hidden   bool      // the peer does not know of it yet
	seenAt   time.Time // when it does (on the peer's end)
}

func past(t, now time.Time) bool { return !t.IsZero() && !t.After(now) }

// state returns why this end can neither read nor write; Net.mu is held.
func (s *stream) state(now time.Time) error {
	switch {
	case s.c.err != nil:
		return s.c.err
	case s.dropped:
		return fault.Errorf(fault.Unreachable, "the stream to %s was closed here", s.c.peer)
	case past(s.deadline, now):
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (s *stream) errDropped() error {
	return fault.Errorf(fault.Unreachable, "%s dropped the stream", s.c.peer)
}

// Read implements transport.Stream.
func (s *stream) Read(p []byte) (int, error) {
	n := s.c.p.n
	n.mu.Lock()
	defer n.mu.Unlock()
	for {
		now := time.Now()
		if err := s.state(now); err != nil {
			return 0, err
		}
		next := s.deadline
		if !s.c.down() {
			if past(s.in.resetAt, now) {
				return 0, s.errDropped()
			}
			next = earlier(next, s.in.resetAt)
			if len(s.in.chunks) > 0 {
				if past(s.in.chunks[0].at, now) {
					return s.take(p)
				}
				next = earlier(next, s.in.chunks[0].at)
			}
		}
		_ = n.await(context.Background(), s.wake, next) // never ends
	}
}

// take reads from the first chunk; Net.mu is held.
func (s *stream) take(p []byte) (int, error) {
	c := &s.in.chunks[0]
	if c.eof {
		return 0, io.EOF
	}
	m := copy(p, c.data)
	c.data = c.data[m:]
	if len(c.data) == 0 {
		s.in.chunks = s.in.chunks[1:]
	}
	s.in.unread -= m
	broadcast(&s.far.wake)
	return m, nil
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Write implements transport.Stream.
func (s *stream) Write(p []byte) (int, error) {
	n := s.c.p.n
	n.mu.Lock()
	defer n.mu.Unlock()
	done := 0
	for done < len(p) {
		now := time.Now()
		if err := s.state(now); err != nil {
			return done, err
		}
		if s.out.ended {
			return done, fault.Errorf(fault.Internal, "write after CloseWrite")
		}
		down := s.c.down()
		if past(s.out.stopAt, now) && !down {
			return done, s.errDropped()
		}
		if s.out.unread < window {
			piece := p[done:min(len(p), done+packet)]
			s.send(chunk{data: append([]byte(nil), piece...)})
			done += len(piece)
			continue
		}
		next := s.deadline
		if !down {
			next = earlier(next, s.out.stopAt)
		}
		_ = n.await(context.Background(), s.wake, next) // never ends
	}
	return done, nil
}

// send puts a chunk on its way; Net.mu is held.
func (s *stream) send(c chunk) {
	c.at = s.travel(len(c.data) + 1)
	s.out.chunks = append(s.out.chunks, c)
	s.out.unread += len(c.data)
	broadcast(&s.far.wake)
}

// travel returns when size bytes sent now arrive, in order, and shows the
// stream to the peer if this is the first it hears of it; Net.mu is held.
func (s *stream) travel(size int) time.Time {
	at := s.c.p.n.arrival(s.c.self, s.c.far.self, size)
	if at.Before(s.out.last) {
		at = s.out.last
	}
	s.out.last = at
	if s.hidden {
		s.hidden = false
		s.far.seenAt = at
		far := s.c.far
		far.streams[s.far] = s.c.p.n.number()
		far.incoming = append(far.incoming, s.far)
		broadcast(&far.wake)
	}
	return at
}

// CloseWrite implements transport.Stream.
func (s *stream) CloseWrite() error {
	n := s.c.p.n
	n.mu.Lock()
	defer n.mu.Unlock()
	if s.out.ended {
		return nil
	}
	if s.c.err != nil {
		return s.c.err
	}
	s.out.ended = true
	s.send(chunk{eof: true})
	return nil
}

// Close implements transport.Stream.
func (s *stream) Close() error {
	n := s.c.p.n
	n.mu.Lock()
	defer n.mu.Unlock()
	if s.dropped {
		return nil
	}
	s.dropped = true
	delete(s.c.streams, s)
	broadcast(&s.wake)
	if s.c != s.opener || s.hidden { // the peer is done with it, or never knew
		s.opener.opened--
		broadcast(&s.opener.wake)
	}
	if s.c.err != nil || s.hidden {
		return nil
	}
	at := n.arrival(s.c.self, s.c.far.self, 1)
	if !s.out.ended {
		s.out.ended = true
		s.out.resetAt = at
	}
	s.in.stopAt = at
	broadcast(&s.far.wake)
	return nil
}

// SetDeadline implements transport.Stream.
func (s *stream) SetDeadline(t time.Time) error {
	s.c.p.n.mu.Lock()
	defer s.c.p.n.mu.Unlock()
	s.deadline = t
	broadcast(&s.wake)
	return nil
}
