package compose

import (
	"context"
	"log/slog"
	"sync"

	"github.com/drrun/drrun/agent/client"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/runtime/estate"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/pki"
	"github.com/drrun/drrun/transport/quicnet"
	"github.com/drrun/drrun/transport/rpc"
)

// agents is the runtime's command.Caller. A host with an outstanding token is
// joined when it is first needed, so that an agent may be started before or
// after anything else.
type agents struct {
	trust   *trust
	medium  transport.Medium
	version string
	log     *slog.Logger
	// catalogue is set before the first call.
	catalogue *estate.Catalogue
	renewals  *renewer
	// recovering: hosts count as joined that no record says so of, and addrs may
	// know of hosts that no estate names.
	recovering bool

	mu      sync.Mutex
	client  *client.Client // made when the estate has a name
	joining map[string]*sync.Mutex
	addrs   map[string]string
}

func newAgents(t *trust, medium transport.Medium, version string, log *slog.Logger) *agents {
	a := &agents{trust: t, medium: medium, version: version, log: log}
	a.renewals = &renewer{renew: a.renew, clk: t.clk, log: log}
	return a
}

// Call implements command.Caller.
func (a *agents) Call(ctx context.Context, host, verb string, in, out any) error {
	c, err := a.session(ctx)
	if err != nil {
		return err
	}
	if err := a.joinFirst(ctx, host); err != nil {
		return err
	}
	err = c.Call(ctx, host, verb, in, out)
	if s, serr := c.Session(host); serr == nil {
		if p, ok := s.Peer(); ok && p.RenewalDue {
			a.renewals.start(host)
		}
	}
	if err == nil || !a.catalogue.TokenOpen(ctx, host) || !fault.Is(err, fault.Unreachable) && !fault.Is(err, fault.Refused) {
		return err
	}
	// A host that was known and is new again: it waits with its token.
	if jerr := a.join(ctx, host); jerr != nil {
		a.log.Info("the host was called and could not join", "host", host, "err", jerr)
		return err
	}
	return c.Call(ctx, host, verb, in, out)
}

func (a *agents) session(ctx context.Context) (*client.Client, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.client != nil {
		return a.client, nil
	}
	ca, _ := a.trust.parts()
	if ca == nil {
		return nil, fault.Errorf(fault.Unreachable, "no estate is applied yet: no agent can be reached").WithHint("drrun apply estate.lua")
	}
	hosts := func(name string) (string, bool) { return a.address(context.WithoutCancel(ctx), name) }
	a.client = client.New(a.medium, ca.Estate(), hosts, rpc.Options{Info: rpc.Info{Program: "drrun", Version: a.version}, Log: a.log})
	return a.client, nil
}

// joinFirst lets a host join that never did.
func (a *agents) joinFirst(ctx context.Context, host string) error {
	h, err := a.catalogue.Host(ctx, host)
	if err != nil || !h.Joined.IsZero() {
		return err
	}
	if _, ok := a.address(ctx, host); !ok {
		return nil // the call says so better
	}
	if !a.catalogue.TokenOpen(ctx, host) {
		if a.recovering {
			return nil // what it answers shows whether it has
		}
		return notJoined(host)
	}
	return a.join(ctx, host)
}

// address is where a host listens: as a recovery was told, else as the estate
// says.
func (a *agents) address(ctx context.Context, host string) (string, bool) {
	a.mu.Lock()
	addr := a.addrs[host]
	a.mu.Unlock()
	if addr != "" {
		return addr, true
	}
	return a.catalogue.HostAddress(ctx, host)
}

// learn notes where hosts listen that the estate in force does not name.
func (a *agents) learn(addrs map[string]string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.addrs == nil {
		a.addrs = map[string]string{}
	}
	for h, addr := range addrs {
		if a.addrs[h] == "" {
			a.addrs[h] = addr
		}
	}
}

func notJoined(host string) error {
	return fault.Errorf(fault.Unreachable, "host %s has not joined the estate", host).
		WithHint("drrun token %s; then on the host: drrun-agent join TOKEN, and drrun-agent run", host)
}

// join lets one host join; who comes second finds it done.
func (a *agents) join(ctx context.Context, host string) error {
	lock := a.joinLock(host)
	lock.Lock()
	defer lock.Unlock()
	if !a.catalogue.TokenOpen(ctx, host) {
		if h, err := a.catalogue.Host(ctx, host); err != nil || !h.Joined.IsZero() {
			return err
		}
		return notJoined(host)
	}
	addr, _ := a.address(ctx, host)
	site, _ := a.catalogue.HostSite(ctx, host)
	ca, id := a.trust.parts()
	err := quicnet.JoinHost(ctx, addr, ca, id, site, host, func(p pki.JoinProof) error {
		return a.catalogue.SpendToken(ctx, host, p.Matches)
	})
	if err != nil {
		return err
	}
	return a.catalogue.Joined(ctx, host)
}

func (a *agents) joinLock(host string) *sync.Mutex {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.joining == nil {
		a.joining = map[string]*sync.Mutex{}
	}
	if a.joining[host] == nil {
		a.joining[host] = &sync.Mutex{}
	}
	return a.joining[host]
}

// renew gives a host that has joined a new certificate if it is due.
func (a *agents) renew(ctx context.Context, host string) (bool, error) {
	addr, ok := a.catalogue.HostAddress(ctx, host)
	h, err := a.catalogue.Host(ctx, host)
	if err != nil || !ok || h.Joined.IsZero() {
		return false, err
	}
	ca, id := a.trust.parts()
	return quicnet.RenewHost(ctx, addr, ca, id, host)
}

// renewAll looks after the certificate of every host, once a day.
func (a *agents) renewAll(ctx context.Context) error {
	e, _, err := a.catalogue.AppliedEstate(ctx)
	if err != nil || e == nil {
		return err
	}
	for _, h := range e.Hosts() {
		a.renewals.start(h.Name)
	}
	return nil
}

// close ends the renewals and the sessions.
func (a *agents) close() error {
	a.renewals.close()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.client == nil {
		return nil
	}
	return a.client.Close()
}
