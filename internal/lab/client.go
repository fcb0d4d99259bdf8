package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// Entry is one acknowledged write, on the client's own list.
type Entry struct {
	ID  uint64
	At  time.Time // when the acknowledgement arrived
	URL string    // who acknowledged it
}

// Client writes entries to one machine without a break and keeps its own list
// of what was acknowledged: the witness outside of drrun.
type Client struct {
	Machine string
	urls    []string // by site; it tries the others when one does not answer
	every   time.Duration
	http    *http.Client

	mu    sync.Mutex
	next  uint64
	acked []Entry
	gaps  []Gap
}

// Gap is a time of more than a second in which nothing was acknowledged.
type Gap struct{ From, To time.Time }

// NewClient makes a client that writes entries with ids from first on to the
// first of the urls that answers.
func NewClient(machine string, first uint64, perSecond int, urls []string) *Client {
	return &Client{
		Machine: machine, urls: urls, next: first, every: time.Second / time.Duration(perSecond),
		http: &http.Client{Timeout: 2 * time.Second},
	}
}

// Run writes until ctx ends. An entry whose answer was lost is not on the
// list and not sent again: its outcome is unknown, nothing may depend on it.
func (c *Client) Run(ctx context.Context) {
	tick := time.NewTicker(c.every)
	defer tick.Stop()
	site, last := 0, time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		c.mu.Lock()
		id := c.next
		c.next++
		c.mu.Unlock()
		url := c.urls[site]
		if err := c.write(ctx, url, id); err != nil {
			site = (site + 1) % len(c.urls)
			continue
		}
		now := time.Now()
		c.mu.Lock()
		c.acked = append(c.acked, Entry{id, now, url})
		if now.Sub(last) > time.Second {
			c.gaps = append(c.gaps, Gap{last, now})
		}
		c.mu.Unlock()
		last = now
	}
}

func (c *Client) write(ctx context.Context, url string, id uint64) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("%s/entries?id=%d", url, id), nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("entry %d: %s", id, resp.Status)
	}
	return nil
}

// Acknowledged returns what was acknowledged until now.
func (c *Client) Acknowledged() []Entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.acked[:len(c.acked):len(c.acked)]
}

// Lost returns the entries of want that the machine at url does not have.
func (c *Client) Lost(ctx context.Context, url string, want []Entry) ([]Entry, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/entries", nil)
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Client{Timeout: 20 * time.Second}).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var ids []uint64
	if err := json.NewDecoder(resp.Body).Decode(&ids); err != nil {
		return nil, fmt.Errorf("cannot read the entries of %s at %s: %w", c.Machine, url, err)
	}
	have := make(map[uint64]bool, len(ids))
	for _, id := range ids {
		have[id] = true
	}
	var lost []Entry
	for _, e := range want {
		if !have[e.ID] {
			lost = append(lost, e)
		}
	}
	return lost, nil
}

// Gaps returns the times without service.
func (c *Client) Gaps() []Gap {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gaps[:len(c.gaps):len(c.gaps)]
}
