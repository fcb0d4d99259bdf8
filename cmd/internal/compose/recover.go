package compose

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/copies"
	"github.com/drrun/drrun/runtime/estate"
	"github.com/drrun/drrun/runtime/store"
	"github.com/drrun/drrun/transport/quicnet"
)

// RecoverOptions are what a recovery works with.
type RecoverOptions struct {
	State     string            // folder; made if it is not there
	Estate    string            // its name, needed when the CA is lost
	Hosts     map[string]string // addresses of hosts by name, beside those of the estate
	NewTokens bool              // also for hosts that have one
	DryRun    bool
	Version   string
	Clock     clock.Clock
	Log       *slog.Logger
}

// Recovered is what a recovery found and did.
type Recovered struct {
	copies.Report
	// Tokens are for hosts that have to join again, under a new CA.
	Tokens []estate.Token `json:"tokens,omitempty"`
	// Rejoin are hosts of the estate that still have to.
	Rejoin []string `json:"rejoin,omitempty"`
	// Kept is a copy of the state as it was before.
	Kept string `json:"kept,omitempty"`
}

// recoverer is the parts of one, in a state folder that nobody serves.
type recoverer struct {
	o         RecoverOptions
	store     *store.Bolt
	trust     *trust
	medium    *quicnet.Medium
	agents    *agents
	catalogue *estate.Catalogue
	places    copies.Places
	out       Recovered
}

// Recover takes the newest that the agents hold into a state folder.
// fault.Waiting: hosts have to join first, with the tokens in the result;
// fault.Unreachable: no agent answers, or a controller serves the folder.
func Recover(ctx context.Context, o RecoverOptions) (Recovered, error) {
	r := &recoverer{o: o}
	if err := r.open(ctx); err != nil {
		return r.out, errors.Join(err, r.close())
	}
	err := r.run(ctx)
	return r.out, errors.Join(err, r.close())
}

func (r *recoverer) open(ctx context.Context) (err error) {
	fsys := vfs.OS{}
	if r.store, err = store.OpenBolt(fsys, r.o.State); err != nil {
		if fault.Is(err, fault.Unreachable) {
			return fault.Errorf(fault.Unreachable, "%w", err).WithHint("end the drrun that uses the folder: a state is recovered while nobody works with it")
		}
		return err
	}
	if r.trust, err = openTrust(fsys, r.o.State, r.o.Clock, r.o.Log); err != nil {
		return err
	}
	r.medium = quicnet.New(r.trust, quicnet.Options{Clock: r.o.Clock, Log: r.o.Log, KeepAlive: keepAlive, IdleTimeout: silence, HandshakeTimeout: silence})
	r.agents = newAgents(r.trust, r.medium, r.o.Version, r.o.Log)
	r.agents.recovering = true
	r.catalogue = estate.New(estate.Options{Store: r.store, Trust: r.trust, Caller: r.agents, Clock: r.o.Clock, Log: r.o.Log})
	r.agents.catalogue = r.catalogue
	if r.places, err = copies.ReadPlaces(ctx, r.store); err != nil {
		return err
	}
	maps.Copy(r.places.Addrs, r.o.Hosts)
	r.agents.learn(r.places.Addrs)
	return nil
}

func (r *recoverer) close() error {
	var errs []error
	if r.agents != nil {
		errs = append(errs, r.agents.close())
	}
	if r.medium != nil {
		errs = append(errs, r.medium.Close())
	}
	if r.store != nil {
		errs = append(errs, r.store.Close())
	}
	return errors.Join(errs...)
}

func (r *recoverer) run(ctx context.Context) error {
	hosts, err := r.hosts(ctx)
	if err != nil {
		return err
	}
	if err := r.ensureCA(ctx, hosts); err != nil {
		return err
	}
	if !r.o.DryRun {
		if err := copies.WritePlaces(ctx, r.store, r.places); err != nil {
			return err
		}
	}
	rep, err := copies.Recover(ctx, copies.RecoverOptions{
		Store: r.store, Caller: r.agents, Clock: r.o.Clock, Log: r.o.Log, Hosts: hosts, Learn: r.agents.learn, NewCA: r.places.NewCA,
		Estate: r.places.Estate, DryRun: r.o.DryRun, Before: r.keep, Note: runtime.NoteRun,
	})
	if rep != nil {
		r.out.Report = *rep
	}
	if fault.Is(err, fault.Unreachable) && r.places.NewCA && !r.o.DryRun {
		return r.invite(ctx, err)
	}
	if err != nil || r.o.DryRun {
		return err
	}
	r.settle(ctx)
	return r.listRejoin(ctx)
}

// hosts are those to be asked: of the estate that is applied here, and those
// that were named.
func (r *recoverer) hosts(ctx context.Context) ([]string, error) {
	all := slices.Collect(maps.Keys(r.places.Addrs))
	e, _, err := r.catalogue.AppliedEstate(ctx)
	switch {
	case err == nil:
		for _, h := range e.Hosts() {
			all = append(all, h.Name)
		}
		if r.o.Estate != "" && r.o.Estate != e.Name {
			return nil, fault.Errorf(fault.Refused, "the state in %s is of estate %q, not %q", r.o.State, e.Name, r.o.Estate).
				WithHint("another estate needs another state folder: --state DIR")
		}
		r.places.Estate = e.Name
	case !fault.Is(err, fault.Refused):
		return nil, err
	case r.o.Estate != "":
		r.places.Estate = r.o.Estate
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// ensureCA makes a new CA where there is none: its hosts have to join again.
func (r *recoverer) ensureCA(ctx context.Context, hosts []string) error {
	ca, _ := r.trust.parts()
	switch {
	case ca != nil && r.places.Estate != "" && ca.Estate() != r.places.Estate:
		return fault.Errorf(fault.Refused, "the certificate authority in %s is of estate %q, not %q", r.o.State, ca.Estate(), r.places.Estate).
			WithHint("another estate needs another state folder: --state DIR")
	case len(hosts) == 0:
		return fault.Errorf(fault.Refused, "there is nothing in %s that says which hosts to ask", r.o.State).
			WithHint("drrun recover --estate NAME HOST=ADDRESS, a host of the estate and where its agent listens; or drrun state restore FILE first")
	case ca != nil:
		return nil
	case r.places.Estate == "":
		return fault.Errorf(fault.Refused, "there is no certificate authority in %s, and nothing says of which estate it was", r.o.State).
			WithHint("drrun recover --estate NAME %s=ADDRESS", hosts[0])
	case r.o.DryRun:
		return fault.Errorf(fault.Refused, "there is no certificate authority in %s: no agent can be asked before a new one is made and a host has joined it", r.o.State).
			WithHint("leave --dry-run out: no host changes anything before its own root joins it again")
	}
	if err := r.trust.Ensure(r.places.Estate); err != nil {
		return err
	}
	r.places.NewCA = true
	for _, h := range hosts { // a record of before is of the lost CA
		if err := r.catalogue.Rejoin(ctx, h); err != nil {
			return err
		}
	}
	return copies.SetMark(ctx, r.store, copies.Mark{Why: "this state was begun by drrun recover and has nothing in it yet", At: r.o.Clock.Now().UTC()})
}

// invite makes tokens for the hosts that were named and have not joined.
func (r *recoverer) invite(ctx context.Context, cause error) error {
	named := slices.Sorted(maps.Keys(r.places.Addrs))
	if len(named) == 0 {
		var err error
		if named, err = r.hosts(ctx); err != nil {
			return err
		}
	}
	waiting := 0
	for _, h := range named {
		rec, err := r.catalogue.Host(ctx, h)
		if err != nil {
			return err
		}
		if !rec.Joined.IsZero() {
			continue
		}
		waiting++
		if r.catalogue.TokenOpen(ctx, h) && !r.o.NewTokens {
			continue
		}
		t, err := r.catalogue.RecoverToken(ctx, h)
		if err != nil {
			return err
		}
		r.out.Tokens = append(r.out.Tokens, t)
	}
	if waiting == 0 {
		return cause
	}
	e := fault.Errorf(fault.Waiting, "no host has joined under the new certificate authority yet: %w", cause)
	if len(r.out.Tokens) == 0 {
		return e.WithHint("on the host: drrun-agent join --again TOKEN with the token that was printed (--tokens prints new ones), then drrun recover once more")
	}
	return e.WithHint("on each host, as root: drrun-agent join --again TOKEN, then drrun recover once more; one host is enough")
}

// keep copies the state as it is before it is changed, if there is anything in
// it.
func (r *recoverer) keep(ctx context.Context) error {
	if _, err := r.catalogue.Current(ctx); fault.Is(err, fault.Refused) {
		return nil
	} else if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := r.store.Backup(&b); err != nil {
		return fmt.Errorf("cannot copy the state before it is changed: %w", err)
	}
	name, err := unused(filepath.Join(r.o.State, "before-recover-"), r.o.Clock, ".db")
	if err != nil {
		return fmt.Errorf("cannot copy the state before it is changed: %w", err)
	}
	if err := vfs.WriteFile(vfs.OS{}, name, b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("cannot copy the state before it is changed: %w", err)
	}
	r.out.Kept = name
	return nil
}

// settleWithin bounds giving the agents that answered the recovered state; what
// is left is done by whoever works with it next.
const settleWithin = 30 * time.Second

// settle gives the hosts that answered the recovered state.
func (r *recoverer) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	k := copies.NewKeeper(copies.Options{Store: r.store, Caller: r.agents, CA: r.trust.certificate, Clock: r.o.Clock, Log: r.o.Log,
		Hosts: func(ctx context.Context) ([]string, error) { return joinedHosts(ctx, r.catalogue) }})
	var hosts []string
	for _, h := range r.out.Hosts {
		if h.Error == "" {
			hosts = append(hosts, h.Host)
		}
	}
	for h, err := range k.Settle(ctx, hosts) {
		r.out.Missing = append(r.out.Missing, fmt.Sprintf("host %s has not got the recovered state yet: %v", h, err))
	}
	slices.Sort(r.out.Missing)
}

// listRejoin names the hosts of the estate that have not joined under the new
// CA.
func (r *recoverer) listRejoin(ctx context.Context) error {
	if !r.places.NewCA {
		return nil
	}
	e, _, err := r.catalogue.AppliedEstate(ctx)
	if err != nil {
		return err
	}
	for _, h := range e.Hosts() {
		rec, err := r.catalogue.Host(ctx, h.Name)
		if err != nil {
			return err
		}
		if rec.Joined.IsZero() {
			r.out.Rejoin = append(r.out.Rejoin, h.Name)
		}
	}
	return nil
}
