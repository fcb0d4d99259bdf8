package scripts

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts/registry"
	"github.com/drrun/drrun/scripts/sandbox"
)

// Options of a Loader. The zero value is usable.
type Options struct {
	Log *slog.Logger
	// PlanTime limits the evaluation of a file: wall clock, default 5 s. A file
	// takes milliseconds; a busy host must not make it invalid.
	PlanTime time.Duration
	// Memory is how much the heap may grow while a state runs: bytes, default
	// 256 MiB. Text limits one string: bytes, default 8 MiB.
	Memory uint64
	Text   int
	// Secrets opens a secret of the estate by name; nil: there is none.
	Secrets func(ctx context.Context, name string) (string, error)
	// HTTP and Dial replace the network of the modules http and tcp in tests.
	HTTP Doer
	Dial Dialer
	// Branches hears which branches of plans are taken; nil, as outside of tests:
	// nobody counts them.
	Branches *Branches
}

// Loader loads plans and estates and runs functions of plans. Safe for
// concurrent use.
type Loader struct {
	o  Options
	mu sync.Mutex
	// parsed keeps the sources of a few bundles: a run loads its bundle once
	// for every function.
	parsed map[string]*source
	recent []string
}

const keepParsed = 16

// New returns a Loader.
func New(o Options) *Loader {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.PlanTime == 0 {
		o.PlanTime = 5 * time.Second
	}
	return &Loader{o: o, parsed: make(map[string]*source)}
}

func (l *Loader) source(b plans.Bundle, kind registry.Scope) *source {
	key := string(kind) + " " + b.Hash()
	l.mu.Lock()
	s, ok := l.parsed[key]
	l.mu.Unlock()
	if ok {
		return s
	}
	s = newSource(b, kind, l.o.Branches)
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, twice := l.parsed[key]; twice {
		return l.parsed[key]
	}
	l.parsed[key] = s
	l.recent = append(l.recent, key)
	if len(l.recent) > keepParsed {
		delete(l.parsed, l.recent[0])
		l.recent = l.recent[1:]
	}
	return s
}

func (l *Loader) limits() sandbox.Limits {
	return sandbox.Limits{Time: l.o.PlanTime, Heap: l.o.Memory, Text: l.o.Text}
}

// evaluate runs the main file of a page; nil when no item came out of it.
func (p *page) evaluate(kind string) *node {
	u := p.source.units[p.source.bundle.Main]
	if u == nil {
		return nil
	}
	rets, err := p.run(u)
	if err != nil {
		p.failed(err)
		return nil
	}
	root, ok := p.returned(rets, kind)
	if !ok {
		return nil
	}
	return root
}

// LoadPlan evaluates a bundle to a plan, with the values of --set for its
// parameters; with nil it is not to be run now, and those that it requires need
// none. The error is plans.Faults with every mistake of every file; the
// plan is then what could be read of it, or nil, good for further checks only.
func (l *Loader) LoadPlan(b plans.Bundle, set map[string]string) (*plans.Plan, error) {
	src := l.source(b, registry.PlanFile)
	p := newPage(context.Background(), src, l.limits(), l.o)
	defer p.box.Close()
	p.wantParams = set != nil
	p.faults = append(p.faults, src.faults...)
	var plan *plans.Plan
	if root := p.evaluate("plan"); root != nil {
		pb := &planBuilder{page: p, known: make(reported)}
		plan = pb.plan(root, set)
		p.validated(plans.ValidatePlan(plan), pb.known)
	}
	return plan, p.err()
}

// LoadEstate evaluates a bundle to an estate with its defaults filled in. The
// error is plans.Faults with every mistake of every file.
func (l *Loader) LoadEstate(b plans.Bundle) (*plans.Estate, error) {
	src := l.source(b, registry.EstateFile)
	p := newPage(context.Background(), src, l.limits(), l.o)
	defer p.box.Close()
	p.faults = append(p.faults, src.faults...)
	var e *plans.Estate
	if root := p.evaluate("estate"); root != nil {
		eb := &estateBuilder{page: p, known: make(reported)}
		e = eb.estate(root)
		plans.FillDefaults(e)
		p.validated(plans.ValidateEstate(e), eb.known)
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	return e, nil
}

// reported are the faults of items that are reported already; the checks on
// the finished data would say them again in other words.
type reported map[plans.Pos]*reportedItem

type reportedItem struct {
	all  bool     // the item has no body
	keys []string // keys whose values have faults
}

// note remembers what of an item is reported.
func (r reported) note(n *node, bodies ...*body) {
	it := r[n.pos]
	if it == nil {
		it = &reportedItem{}
		r[n.pos] = it
	}
	it.all = it.all || n.broken
	for _, b := range bodies {
		it.all = it.all || b.absent && n.ctor.Body == registry.Needed
		it.keys = slices.AppendSeq(it.keys, maps.Keys(b.bad))
	}
}

// has reports whether a fault speaks of what is reported.
func (r reported) has(f plans.Fault) bool {
	it := r[f.Pos]
	return it != nil && (it.all || slices.ContainsFunc(it.keys, func(k string) bool {
		return slices.Contains(strings.FieldsFunc(f.Message, func(c rune) bool { return c != '_' && !unicode.IsLetter(c) }), k)
	}))
}

// validated adds the faults of what the page built, without what is reported.
func (p *page) validated(err error, known reported) {
	if p.visited > maxVisited {
		return // not all of it was looked at
	}
	p.unplaced()
	var fs plans.Faults
	if !errors.As(err, &fs) {
		return
	}
	for _, f := range fs {
		if !known.has(f) {
			p.report(f)
		}
	}
}
