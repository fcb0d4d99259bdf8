package estate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/store"
)

// Loader turns sources into data. Its errors hold every mistake at once, each
// with file and line.
type Loader interface {
	LoadEstate(b plans.Bundle) (*plans.Estate, error)
	LoadPlan(b plans.Bundle, set map[string]string) (*plans.Plan, error)
}

// Trust makes and guards what agents trust: the estate's certificate authority
// and join tokens.
type Trust interface {
	// Ensure makes the authority of an estate, or opens the one there is; it
	// refuses one of another estate.
	Ensure(estate string) error
	// NewToken returns the text of a fresh token for a host and the form of it
	// that may be stored.
	NewToken(host string) (text, hash string, err error)
}

// Options are the parts a catalogue is wired from. All but Guard and Copies are
// required.
type Options struct {
	Store  store.Store
	Loader Loader
	Trust  Trust
	Caller command.Caller
	Clock  clock.Clock
	Log    *slog.Logger
	// Guard says why this state may not act now: agents hold something newer.
	Guard func(ctx context.Context) error
	// Copies says how a host's copy of the state differs from it; "": not at all.
	Copies func(ctx context.Context, host string) string
}

// Catalogue is the applied estate with its plans. Safe for concurrent use.
type Catalogue struct {
	store  store.Store
	loader Loader
	trust  Trust
	caller command.Caller
	clock  clock.Clock
	log    *slog.Logger
	guard  func(context.Context) error
	copies func(context.Context, string) string

	applying sync.Mutex // one apply or unprotect at a time
	pushing  sync.Mutex // one round of pushes at a time
	measured measured   // clocks of hosts
}

// New returns the catalogue of a store.
func New(o Options) *Catalogue {
	return &Catalogue{store: o.Store, loader: o.Loader, trust: o.Trust, caller: o.Caller, clock: o.Clock, log: o.Log,
		guard: o.Guard, copies: o.Copies}
}

// Revision is one applied state of the estate.
type Revision struct {
	Number uint64        `json:"number"`
	Hash   string        `json:"hash"` // of the estate's canonical JSON
	At     time.Time     `json:"at"`
	By     string        `json:"by"`
	Estate *plans.Estate `json:"estate"`
	Bundle plans.Bundle  `json:"bundle"` // its sources
}

// Applied is a plan that was applied.
type Applied struct {
	Name   string       `json:"name"`
	Hash   string       `json:"hash"` // of the bundle
	At     time.Time    `json:"at"`
	By     string       `json:"by"`
	Bundle plans.Bundle `json:"bundle"`
	Plan   *plans.Plan  `json:"plan"` // as it loads without --set
}

var returnsWhat = regexp.MustCompile(`(?m)^[ \t]*return[ \t]+(estate|plan)\b`)

// IsEstate tells estate and plan files apart by what they return.
func IsEstate(b plans.Bundle) bool {
	all := returnsWhat.FindAllStringSubmatch(b.Files[b.Main], -1)
	return len(all) > 0 && all[len(all)-1][1] == "estate"
}

// load reads the bundles of one apply: at most one estate, any number of plans.
// All mistakes of all files come back in one error.
func (c *Catalogue) load(bundles []plans.Bundle) (*loaded, error) {
	var l loaded
	var errs []error
	seen := map[string]string{}
	for _, b := range bundles {
		if IsEstate(b) {
			if l.estate != nil {
				errs = append(errs, fault.Errorf(fault.Invalid, "%s: a second estate; apply takes one", b.Main))
				continue
			}
			e, err := c.loader.LoadEstate(b)
			errs = append(errs, err)
			l.estate, l.estateBundle = e, b
			continue
		}
		p, err := c.loader.LoadPlan(b, nil)
		errs = append(errs, err)
		if err != nil || p == nil {
			continue
		}
		if first, twice := seen[p.Name]; twice {
			errs = append(errs, fault.Errorf(fault.Invalid, "%s: plan %q is also in %s", b.Main, p.Name, first))
		}
		seen[p.Name] = b.Main
		l.plans = append(l.plans, Applied{Name: p.Name, Hash: b.Hash(), Bundle: b, Plan: p})
	}
	return &l, joinInvalid(errs)
}

// joinInvalid joins errors as one of kind Invalid, keeping a worse kind.
func joinInvalid(errs []error) error {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	}
	for _, err := range errs {
		if k := fault.KindOf(err); k != fault.Invalid && k != fault.Internal {
			return err
		}
	}
	return fault.Errorf(fault.Invalid, "%w", errors.Join(errs...))
}

// loaded is the content of one apply.
type loaded struct {
	estate       *plans.Estate
	estateBundle plans.Bundle
	plans        []Applied
}

// ask sends a status request with a time limit of its own.
func (c *Catalogue) ask(ctx context.Context, host, machine string) (command.AgentStatus, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, askWithin, noAnswer(host))
	defer cancel()
	st, err := command.Status.Call(ctx, c.caller, host, command.StatusRequest{Machine: machine})
	if err != nil {
		return st, timeoutCause(ctx, fmt.Errorf("cannot ask host %s: %w", host, err))
	}
	return st, nil
}

// askWithin bounds one question to one agent in a status or an apply.
const askWithin = 3 * time.Second

func noAnswer(host string) error {
	return fault.Errorf(fault.Unreachable, "host %s does not answer within %v", host, askWithin).
		WithHint("is drrun-agent running there?")
}

// timeoutCause returns why ctx ended, if it has, in place of err.
func timeoutCause(ctx context.Context, err error) error {
	if ctx.Err() != nil && fault.KindOf(context.Cause(ctx)) == fault.Unreachable {
		return context.Cause(ctx)
	}
	return err
}
