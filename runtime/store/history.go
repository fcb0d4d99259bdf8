package store

import (
	"context"
	"iter"
	"strings"
	"sync"
)

// history keeps the newest events for watches. It lives in memory: an engine
// that was reopened answers older revisions with ErrCompacted.
type history struct {
	mu     sync.Mutex
	events []Event       // ring order is kept by trimming: oldest first
	bytes  int           // of the values of events
	first  int64         // oldest revision that is complete in events
	last   int64         // newest revision
	wake   chan struct{} // closed at the next event; nil: nobody waits
	closed bool
}

func newHistory(rev int64) *history {
	return &history{first: rev + 1, last: rev}
}

// publish adds the events of one revision; callers serialise in commit order.
func (h *history) publish(rev int64, ops []Op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, op := range ops {
		ev := Event{Rev: rev, Key: op.Key, Deleted: op.Delete}
		if !op.Delete {
			ev.Value = op.Value
		}
		h.events = append(h.events, ev)
		h.bytes += len(ev.Value)
	}
	h.last = rev
	if len(h.events) > HistoryEvents+HistoryEvents/4 || h.bytes > HistoryBytes+HistoryBytes/4 {
		h.trim()
	}
	h.rouse()
}

func (h *history) rouse() {
	if h.wake != nil {
		close(h.wake)
		h.wake = nil
	}
}

// trim drops the oldest revisions until both limits hold; the newest stays.
func (h *history) trim() {
	over := 0
	for len(h.events)-over > HistoryEvents || h.bytes > HistoryBytes {
		rev := h.events[over].Rev
		if rev == h.last {
			break
		}
		for over < len(h.events) && h.events[over].Rev == rev { // never half a revision
			h.bytes -= len(h.events[over].Value)
			over++
		}
		h.first = rev + 1
	}
	left := copy(h.events, h.events[over:]) // nobody has h.events itself: see since
	clear(h.events[left:])
	h.events = h.events[:left]
}

func (h *history) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.closed = true
		h.rouse()
	}
}

// since returns the events from rev on, the next revision to ask for, and a
// channel that is closed when there is more.
func (h *history) since(rev int64) (evs []Event, next int64, wake <-chan struct{}, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if rev < h.first {
		return nil, 0, nil, ErrCompacted
	}
	i := len(h.events)
	for i > 0 && h.events[i-1].Rev >= rev {
		i--
	}
	evs = append(evs, h.events[i:]...)
	if len(evs) == 0 && h.closed {
		return nil, 0, nil, ErrClosed
	}
	if len(evs) == 0 && h.wake == nil {
		h.wake = make(chan struct{})
	}
	return evs, max(rev, h.last+1), h.wake, nil
}

func (h *history) watch(ctx context.Context, prefix string, from int64) iter.Seq2[Event, error] {
	if from == 0 {
		h.mu.Lock()
		from = h.last + 1
		h.mu.Unlock()
	}
	return func(yield func(Event, error) bool) {
		for {
			evs, next, wake, err := h.since(from)
			if err != nil {
				yield(Event{}, err)
				return
			}
			for _, ev := range evs {
				if strings.HasPrefix(ev.Key, prefix) && !yield(cloneEvent(ev), nil) {
					return
				}
			}
			from = next
			if len(evs) > 0 {
				continue
			}
			select {
			case <-ctx.Done():
				yield(Event{}, context.Cause(ctx))
				return
			case <-wake:
			}
		}
	}
}

func cloneEvent(ev Event) Event {
	if !ev.Deleted {
		ev.Value = append([]byte{}, ev.Value...)
	}
	return ev
}
