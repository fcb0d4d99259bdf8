// Package client calls the agents of an estate by their host names: one
// session per host, dialled when it is first needed. It is what a runtime
// hands to its engine as command.Caller, and what agents call each other by.
//
// It decides nothing and repeats nothing: an error of kind fault.Unreachable
// may mean that the request was carried out. Safe for concurrent use.
package client

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/rpc"
)

// Client implements command.Caller.
type Client struct {
	medium transport.Medium
	estate string
	hosts  func(name string) (addr string, ok bool)
	o      rpc.Options

	mu       sync.Mutex
	sessions map[string]*session
	closed   bool
}

var _ command.Caller = (*Client)(nil)

// session is the session with one host at the address it was dialled at.
type session struct {
	addr string
	rpc  *rpc.Client
}

// New returns a client for the hosts that hosts knows. A host whose address
// changes gets a new session.
func New(medium transport.Medium, estate string, hosts func(name string) (addr string, ok bool), o rpc.Options) *Client {
	return &Client{medium: medium, estate: estate, hosts: hosts, o: o, sessions: map[string]*session{}}
}

// Call implements command.Caller. fault.NotFound: no such host.
func (c *Client) Call(ctx context.Context, host, verb string, in, out any) error {
	s, err := c.Session(host)
	if err != nil {
		return err
	}
	return s.Call(ctx, verb, in, out)
}

// Upload sends size bytes of src; see rpc.Client.Upload.
func (c *Client) Upload(ctx context.Context, host, verb string, in any, src io.ReaderAt, size int64, progress func(sent int64), out any) error {
	s, err := c.Session(host)
	if err != nil {
		return err
	}
	return s.Upload(ctx, verb, in, src, size, progress, out)
}

// Session returns the session with a host; it belongs to the client.
func (c *Client) Session(host string) (*rpc.Client, error) {
	addr, ok := c.hosts(host)
	if !ok {
		return nil, fault.Errorf(fault.NotFound, "host %q is not known", host)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, fault.Errorf(fault.Unreachable, "cannot call host %s: the client is closed", host)
	}
	s := c.sessions[host]
	if s != nil && s.addr == addr {
		return s.rpc, nil
	}
	if s != nil {
		_ = s.rpc.Close() // its calls fail as unreachable and are made again at the new address
	}
	s = &session{addr: addr, rpc: rpc.NewClient(c.medium, addr, transport.Want{Estate: c.estate, Host: host}, c.o)}
	c.sessions[host] = s
	return s.rpc, nil
}

// Drop ends the session with a host; the next call dials anew. Calls in flight
// return fault.Unreachable.
func (c *Client) Drop(host string) error {
	c.mu.Lock()
	s := c.sessions[host]
	delete(c.sessions, host)
	c.mu.Unlock()
	if s == nil {
		return nil
	}
	return s.rpc.Close()
}

// Close ends all sessions.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	var errs []error
	for _, s := range c.sessions {
		errs = append(errs, s.rpc.Close())
	}
	clear(c.sessions)
	return errors.Join(errs...)
}
