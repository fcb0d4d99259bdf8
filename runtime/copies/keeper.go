package copies

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/runtime/estate"
	"github.com/drrun/drrun/runtime/journal"
	"github.com/drrun/drrun/runtime/store"
)

// Options are the parts of a keeper.
type Options struct {
	Store  store.Store
	Caller command.Caller
	// Hosts names the hosts that have joined.
	Hosts func(ctx context.Context) ([]string, error)
	// CA is the certificate of the estate's CA in PEM, with a number that grows
	// with each new CA; nil: there is none yet.
	CA    func() (pem []byte, number uint64)
	Clock clock.Clock
	Log   *slog.Logger
}

// Times of the keeper.
const (
	settleFor  = 200 * time.Millisecond // a change is seldom alone
	firstRetry = 5 * time.Second
	lastRetry  = time.Minute
	callWithin = 10 * time.Second // of one call to one host
	busyEvery  = 5 * time.Second  // copies of runs under way
)

// Keeper brings the catalogues of agents up to date.
type Keeper struct {
	o Options

	mu    sync.Mutex
	hosts map[string]*hostCopy
	wrote bool             // something was changed since the start
	seqs  map[string]seqAt // of runs that have ended: the last records found
}

// hostCopy is what is known of one agent's catalogue.
type hostCopy struct {
	mu     sync.Mutex // one exchange at a time
	items  map[string]command.CatalogueItem
	known  bool
	failed error // of the last attempt
	next   time.Time
	pause  time.Duration
	busyAt time.Time // when runs under way were copied last
}

type seqAt struct {
	seq  uint64
	mark string
}

// NewKeeper returns a keeper; it does nothing before Run.
func NewKeeper(o Options) *Keeper {
	if o.Log == nil {
		o.Log = logkit.Discard()
	}
	if o.Clock == nil {
		o.Clock = clock.Real{}
	}
	return &Keeper{o: o, hosts: map[string]*hostCopy{}, seqs: map[string]seqAt{}}
}

func (k *Keeper) host(name string) *hostCopy {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.hosts[name] == nil {
		k.hosts[name] = &hostCopy{}
	}
	return k.hosts[name]
}

// concerns reports whether a change of a key changes what is copied. The record
// of a host does too: one that has joined is to get its copy.
func concerns(key string) bool {
	return strings.HasPrefix(key, estate.Prefix) || strings.HasPrefix(key, journal.HeadPrefix) || strings.HasPrefix(key, "run/") || key == journal.FenceKey
}

// Run copies what changes until ctx ends, beside whatever else is done: it fails
// nothing and is tried again.
func (k *Keeper) Run(ctx context.Context) {
	changed := make(chan struct{}, 1)
	changed <- struct{}{} // what an earlier runtime left
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { k.watch(ctx, changed) })
	var due <-chan time.Time
	for {
		select {
		case <-changed:
			due = time.After(settleFor)
			continue
		case <-due:
		case <-ctx.Done():
			return
		}
		due = nil
		if wait := k.round(ctx); wait > 0 {
			due = time.After(wait)
		}
	}
}

// watch tells of changes.
func (k *Keeper) watch(ctx context.Context, changed chan<- struct{}) {
	from := int64(0)
	for ctx.Err() == nil {
		for ev, err := range k.o.Store.Watch(ctx, "", from) {
			if errors.Is(err, store.ErrCompacted) {
				from = 0
				ev.Key = journal.FenceKey // something has changed
			} else if err != nil {
				return
			}
			if concerns(ev.Key) {
				k.mu.Lock()
				k.wrote = true
				k.mu.Unlock()
				select {
				case changed <- struct{}{}:
				default:
				}
			}
		}
	}
}

// round brings every host up to date that is due, and returns when to come
// again: 0: at the next change.
func (k *Keeper) round(ctx context.Context) time.Duration {
	names, err := k.o.Hosts(ctx)
	if err != nil || len(names) == 0 {
		return 0
	}
	want, err := k.wanted(ctx)
	if err != nil {
		if ctx.Err() == nil {
			k.o.Log.Error("cannot read what is to be copied to agents", logkit.KeyError, err)
		}
		return lastRetry
	}
	now := k.o.Clock.Now()
	waits := make([]time.Duration, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { waits[i] = k.attend(ctx, name, want, now) })
	}
	wg.Wait()
	wait := time.Duration(0)
	for _, w := range waits {
		if w > 0 && (wait == 0 || w < wait) {
			wait = w
		}
	}
	return wait
}

// attend brings one host up to date if it is due.
func (k *Keeper) attend(ctx context.Context, name string, want []wanted, now time.Time) time.Duration {
	h := k.host(name)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failed != nil && now.Before(h.next) {
		return h.next.Sub(now)
	}
	skipBusy := now.Sub(h.busyAt) < busyEvery
	lag, err := k.bring(ctx, name, h, want, skipBusy, false)
	if err == nil {
		h.failed, h.pause = nil, 0
		if !skipBusy {
			h.busyAt = now
		}
		if lag {
			return busyEvery
		}
		return 0
	}
	if ctx.Err() != nil {
		return 0
	}
	level := slog.LevelInfo // status shows it; a lost site stays lost for long
	if !fault.Is(err, fault.Unreachable) && (h.failed == nil || h.failed.Error() != err.Error()) {
		level = slog.LevelWarn
	}
	k.o.Log.Log(ctx, level, "cannot copy the state to a host, it is tried again", logkit.KeyHost, name, logkit.KeyError, err)
	h.pause = min(max(2*h.pause, firstRetry), lastRetry)
	h.failed, h.next, h.known = err, now.Add(h.pause), false
	return h.pause
}

// bring puts what a host lacks, the fencing number first: from there an older
// runtime is refused. lag: runs under way were left for later. Callers hold h.mu.
func (k *Keeper) bring(ctx context.Context, name string, h *hostCopy, want []wanted, skipBusy, replace bool) (lag bool, err error) {
	if !h.known {
		l, err := k.list(ctx, name)
		if err != nil {
			return false, err
		}
		if !replace {
			if err := k.mayWrite(ctx, name, l); err != nil {
				return false, err
			}
		}
		h.items = map[string]command.CatalogueItem{}
		for _, it := range l.Items {
			h.items[it.Name] = it
		}
		h.known = true
	}
	keep := map[string]bool{}
	for i := range want {
		w := &want[i]
		keep[w.Name] = true
		if w.has(h.items[w.Name]) {
			continue
		}
		if w.busy && skipBusy {
			lag = true
			continue
		}
		if err := k.send(ctx, name, h, w, replace); err != nil {
			return lag, err
		}
	}
	return lag, k.drop(ctx, name, h, keep)
}

// send reads an item and puts it.
func (k *Keeper) send(ctx context.Context, name string, h *hostCopy, w *wanted, replace bool) error {
	fence, err := fenceOf(ctx, k.o.Store)
	if err != nil {
		return err
	}
	item, data := *w, w.data
	if id, isRun := strings.CutPrefix(w.Name, itemRun); isRun {
		if data, item.Version, item.Mark, err = runContent(ctx, k.o.Store, id); err != nil {
			return err
		}
	} else if hash, isBlob := strings.CutPrefix(w.Name, itemBlob); isBlob {
		e, err := k.o.Store.Get(ctx, journal.BlobPrefix+hash)
		if err != nil {
			return err
		}
		data = e.Value
	}
	it := item.describe(data, fence)
	if err := put(ctx, k.o.Caller, name, it, data, replace); err != nil {
		return err
	}
	h.items[it.Name] = it
	return nil
}

// put sends an item in pieces.
func put(ctx context.Context, c command.Caller, host string, it command.CatalogueItem, data []byte, replace bool) error {
	for off := int64(0); ; off += command.CataloguePiece {
		in := command.CataloguePutRequest{Item: it, Offset: off, Replace: replace}
		in.Data = data[off:min(int64(len(data)), off+command.CataloguePiece)]
		if err := within(ctx, func(ctx context.Context) error {
			_, err := command.CataloguePut.Call(ctx, c, host, in)
			return err
		}); err != nil {
			return err
		}
		if off+command.CataloguePiece >= it.Size {
			return nil
		}
	}
}

// drop takes away what is not wanted any more: runs that ended long ago and
// their sources.
func (k *Keeper) drop(ctx context.Context, name string, h *hostCopy, keep map[string]bool) error {
	var old []string
	for n := range h.items {
		ours := strings.HasPrefix(n, itemRun) || strings.HasPrefix(n, itemBlob)
		if ours && !keep[n] {
			old = append(old, n)
		}
	}
	if len(old) == 0 {
		return nil
	}
	fence, err := fenceOf(ctx, k.o.Store)
	if err != nil {
		return err
	}
	slices.Sort(old)
	err = within(ctx, func(ctx context.Context) error {
		_, err := command.CatalogueDrop.Call(ctx, k.o.Caller, name, command.CatalogueDropRequest{Fence: fence, Names: old})
		return err
	})
	if err != nil {
		return err
	}
	for _, n := range old {
		delete(h.items, n)
	}
	return nil
}

// mayWrite refuses to write over what this state never had.
func (k *Keeper) mayWrite(ctx context.Context, name string, l command.CatalogueListResult) error {
	here, err := readLocal(ctx, k.o.Store)
	if err != nil {
		return err
	}
	if why := here.compare(name, l); len(why) > 0 {
		return errBehind(why)
	}
	return nil
}

func (k *Keeper) list(ctx context.Context, host string) (l command.CatalogueListResult, err error) {
	err = within(ctx, func(ctx context.Context) (err error) {
		l, err = command.CatalogueList.Call(ctx, k.o.Caller, host, command.CatalogueListRequest{})
		return err
	})
	return l, err
}

// within gives one call its time; a call whose time is up is fault.Unreachable.
func within(ctx context.Context, f func(ctx context.Context) error) error {
	c, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	err := f(c)
	if err != nil && c.Err() != nil && ctx.Err() == nil {
		err = fault.Errorf(fault.Unreachable, "no answer within %v: %w", callWithin, err)
	}
	return err
}

// wanted lists what agents are to have, in the order in which it is sent: what
// refers to something comes after it.
func (k *Keeper) wanted(ctx context.Context) ([]wanted, error) {
	fence, err := fenceOf(ctx, k.o.Store)
	if err != nil {
		return nil, err
	}
	var out []wanted
	add := func(name string, version uint64, mark string, data []byte) {
		out = append(out, wanted{CatalogueItem: command.CatalogueItem{Name: name, Version: version, Mark: mark}, data: data})
	}
	if fence > 0 {
		add(command.CatalogueFence, uint64(fence), "", []byte{})
	}
	if k.o.CA != nil {
		if pem, n := k.o.CA(); len(pem) > 0 {
			add(itemCA, n, "", pem)
		}
	}
	content, err := estateContent(ctx, k.o.Store)
	if err != nil {
		return nil, err
	}
	if content != nil {
		n, err := number(ctx, k.o.Store, content)
		if err != nil {
			return nil, err
		}
		add(itemEstate, n.Serial, n.hashOf(n.Serial), content)
	}
	runs, err := k.wantedRuns(ctx)
	return append(out, runs...), err
}

func (k *Keeper) wantedRuns(ctx context.Context) (out []wanted, err error) {
	kept, err := heads(ctx, k.o.Store)
	if err != nil {
		return nil, err
	}
	blobs := map[string]bool{}
	for _, h := range kept {
		if h.untouched() {
			continue
		}
		at, err := k.last(ctx, h)
		if err != nil {
			return nil, err
		}
		if at.seq == 0 {
			continue // it is being dropped
		}
		sources, err := blobsOf(ctx, k.o.Store, h.ID)
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, b := range sources {
			if !blobs[b] {
				blobs[b] = true
				out = append(out, wanted{CatalogueItem: command.CatalogueItem{Name: itemBlob + b, Version: 1}})
			}
		}
		out = append(out, wanted{CatalogueItem: command.CatalogueItem{Name: itemRun + h.ID, Version: at.seq, Mark: at.mark}, busy: h.busy()})
	}
	return out, nil
}

// last is the last record of a run; it is looked for once when the run has ended.
func (k *Keeper) last(ctx context.Context, h head) (seqAt, error) {
	k.mu.Lock()
	at, ok := k.seqs[h.ID]
	k.mu.Unlock()
	if ok && h.ended() {
		return at, nil
	}
	seq, raw, err := lastRecord(ctx, k.o.Store, h.ID)
	if err != nil {
		return seqAt{}, err
	}
	at = seqAt{seq, markOf(raw)}
	if h.ended() {
		k.mu.Lock()
		k.seqs[h.ID] = at
		k.mu.Unlock()
	}
	return at, nil
}

// Flush makes a last attempt at the hosts that answered the last time, before
// the runtime ends, if it has changed anything. Call it when Run has returned.
func (k *Keeper) Flush(ctx context.Context) {
	k.mu.Lock()
	wrote := k.wrote
	k.mu.Unlock()
	if !wrote {
		return
	}
	names, err := k.o.Hosts(ctx)
	if err != nil {
		return
	}
	want, err := k.wanted(ctx)
	if err != nil {
		return
	}
	var wg sync.WaitGroup
	for _, name := range names {
		wg.Go(func() {
			h := k.host(name)
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.failed != nil {
				return
			}
			if _, err := k.bring(ctx, name, h, want, false, false); err != nil {
				k.o.Log.Info("the state is not copied to a host", logkit.KeyHost, name, logkit.KeyError, err)
			}
		})
	}
	wg.Wait()
}
