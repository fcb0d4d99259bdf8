package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/crash"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/logkit"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/internal/recovery"
)

// Times of a lease at its source.
const (
	leaseStopMost = 5 * time.Second        // bound of a stop by force, which the target waits for
	leaseLook     = 250 * time.Millisecond // how often it is looked whether it ends
	renewLeast    = time.Second            // between two renewals
	renewMost     = 5 * time.Second
	graceMost     = 10 * time.Second // for a graceful stop before the end
	stopNow       = time.Millisecond // of grace: a stop by force
	startAgainGap = 30 * time.Second // between two tries to start what the lease stopped
)

// featureLease marks a record whose host has given its word: an agent that does
// not know it must not run the machine on.
const featureLease = "lease"

// obligation is the word of this host to stop the machine when its lease ends.
// It is durable before the target can know of it, and ends only when the target
// has durably taken note.
type obligation struct {
	Target string        `json:"target"`
	Epoch  ident.Epoch   `json:"epoch"`
	Rev    uint64        `json:"rev"`
	Length time.Duration `json:"length"` // that it keeps; 0: none
	// Wish is what it asks for. A longer one is kept to when it is granted, a
	// shorter one from before it is asked for.
	Wish time.Duration `json:"wish"`
}

// leaseStop marks a machine that was stopped because its lease ended: it is
// started again when the lease is granted again under the same record.
type leaseStop struct {
	Epoch ident.Epoch `json:"epoch"`
	At    time.Time   `json:"at"`
}

// withoutLease is a person's word that the machine may run on without its lease,
// until that is granted, under one record and one boot of the host.
type withoutLease struct {
	Epoch ident.Epoch `json:"epoch"`
	Boot  string      `json:"boot"`
	By    string      `json:"by"`
	At    time.Time   `json:"at"`
}

// leaseHeld is what the source knows of its lease and no record has.
type leaseHeld struct {
	renewing lock // one renewal at a time

	mu      sync.Mutex
	file    leaseFile // as written last; Length 0: none
	why     string    // it is not renewed
	noGuard error
	failed  time.Duration // uptime at which a start after a stop by lease failed
}

// owes reports whether the host has given its word.
func (r *record) owes() bool { return r.Obeys != nil && r.Obeys.Length > 0 }

// without is the permit in force to run without the lease; nil: none.
func (m *machine) without(r *record) *withoutLease {
	if w := r.Without; w != nil && w.Epoch == r.Authority.Epoch && w.Boot == m.a.boot() {
		return w
	}
	return nil
}

// wantLease is the length of the lease that the policy asks of this host, and
// who grants it.
func (m *machine) wantLease(r *record) (time.Duration, string) {
	to, ok := r.target(m.a.host())
	if !ok || r.role(m.a.host()) != roleSource {
		return 0, ""
	}
	return max(0, r.Assignment.Policy.Lease), to.Name
}

// grace is the time before the end of a lease that a graceful stop gets.
func grace(length time.Duration) time.Duration { return min(length/5, graceMost) }

// leaseLeft is the time until the machine must be stopped; granted: the newest
// renewal was granted to this agent or the one before it.
func (m *machine) leaseLeft() (left time.Duration, granted bool) {
	m.lease.mu.Lock()
	defer m.lease.mu.Unlock()
	f := m.lease.file
	if f.Length == 0 { // nobody knows when it was asked for
		return 0, false
	}
	return f.ends() - clock.Boot(m.a.o.Clock), f.Granted
}

// leaseAllows says why a machine whose host has given its word may not be started.
func (m *machine) leaseAllows(r *record) error {
	if !r.owes() || m.without(r) != nil {
		return nil
	}
	if left, granted := m.leaseLeft(); granted && left > grace(r.Obeys.Length) {
		return nil
	}
	m.lease.mu.Lock()
	why := m.lease.why
	m.lease.mu.Unlock()
	if why != "" {
		why = ": " + why
	}
	return fault.Errorf(fault.Unreachable, "machine %s is not started at host %s: host %s has not renewed its lease%s", m.name, m.a.host(), r.Obeys.Target, why).
		WithHint("it is started when the lease is granted; if host %s is lost, and no run takes the machine over from there: drrun-agent permit %s --without-lease", r.Obeys.Target, m.name)
}

// loadLease takes over what an earlier agent of this boot has left. Without it
// nobody knows when the last renewal was sent: the lease has ended.
func (m *machine) loadLease() {
	f, err := readLease(m.a.o.FS, m.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.log.Error("when the lease ends is not known: it counts as ended", logkit.KeyError, err)
	}
	if err != nil || f.Boot != m.a.boot() {
		f = leaseFile{}
	}
	m.lease.mu.Lock()
	defer m.lease.mu.Unlock()
	m.lease.file = f
}

// setLease writes what holds now. What cannot be written does not hold: the
// guard goes by the file.
func (m *machine) setLease(change func(*leaseFile)) error {
	m.lease.mu.Lock()
	defer m.lease.mu.Unlock()
	next := m.lease.file
	if change(&next); next.Length == 0 { // that it is not known is what the file says already
		return nil
	}
	if err := writeLease(m.a.o.FS, m.dir, next); err != nil {
		return fmt.Errorf("cannot write the lease of machine %s: %w", m.name, err)
	}
	m.lease.file = next
	return nil
}

// renewLoop renews the lease for as long as the machine is assigned.
func (m *machine) renewLoop(ctx context.Context) {
	for ctx.Err() == nil {
		var due <-chan time.Time
		if wait := m.renewTurn(ctx); wait > 0 {
			due = time.After(wait)
		}
		select {
		case <-due:
		case <-m.renewWake:
		case <-m.gone:
			return
		case <-ctx.Done():
		}
	}
}

// renewTurn does what is due of the lease; it returns how long nothing is, 0:
// until the record changes.
func (m *machine) renewTurn(ctx context.Context) time.Duration {
	release, err := m.lease.renewing.take(ctx)
	if err != nil {
		return 0
	}
	defer release()
	rec := m.snapshot()
	want, to := m.wantLease(&rec)
	if want == 0 && !rec.owes() {
		return 0
	}
	every := want
	if rec.owes() && (every == 0 || rec.Obeys.Length < every) {
		every = rec.Obeys.Length
	}
	every = min(max(every/10, renewLeast), renewMost)
	if err := m.renewOnce(ctx, &rec, want, to); err != nil && ctx.Err() == nil {
		m.leaseProblem(err.Error())
	}
	return every
}

// leaseProblem notes why the lease is not renewed; empty: it is.
func (m *machine) leaseProblem(why string) {
	m.lease.mu.Lock()
	was := m.lease.why
	m.lease.why = why
	m.lease.mu.Unlock()
	if why != "" && was == "" {
		m.log.Warn("lease is not renewed", "why", why)
	}
}

// renewOnce gives the word if it is not given yet, and asks once.
func (m *machine) renewOnce(ctx context.Context, rec *record, want time.Duration, to string) error {
	switch {
	case rec.Conflict != nil:
		return fault.Errorf(fault.Conflict, "two records of epoch %d", rec.Authority.Epoch)
	case rec.Authority.Active != m.a.site():
		// The record that took the right away was stored at the other site first.
		if m.state(ctx).Power != recovery.PowerStopped {
			return fault.Errorf(fault.Refused, "%s", describe(rec.Authority))
		}
		return m.endObligation()
	case to == "":
		return m.askRecord(ctx, rec)
	case !rec.owes():
		if err := m.firstWord(ctx, rec, want, to); err != nil {
			return err
		}
	default:
		if err := m.changeWord(rec, want, to); err != nil {
			return err
		}
	}
	return m.askRenewal(ctx)
}

// firstWord makes sure that the target grants leases and that a guard watches,
// and then gives the word.
func (m *machine) firstWord(ctx context.Context, rec *record, want time.Duration, to string) error {
	answer, err := m.confirmAt(ctx, to, confirmTimeout)
	switch {
	case err != nil:
		return fmt.Errorf("host %s: %w", to, err)
	case !answer.Authority.Same(rec.Authority):
		m.learn(ctx, answer.Authority, to)
		return fault.Errorf(fault.Conflict, "host %s holds %s", to, describe(answer.Authority))
	case !answer.Leases:
		return fault.Errorf(fault.Refused, "the agent of host %s is older and grants none: an unplanned run asks", to)
	}
	if err := m.guarded(ctx); err != nil {
		return fault.Errorf(fault.Failed, "nothing would stop the machine if this agent died: %w", err)
	}
	now := clock.Boot(m.a.o.Clock)
	word := obligation{Target: to, Epoch: rec.Authority.Epoch, Rev: 1, Length: want, Wish: want}
	if o := rec.Obeys; o != nil && o.Epoch == word.Epoch {
		word.Rev = o.Rev + 1
	}
	// The file comes first: without it the next agent would take the word for
	// broken. It begins to count before the target can.
	err = m.setLease(func(f *leaseFile) {
		*f = leaseFile{Boot: m.a.boot(), Epoch: word.Epoch, Rev: word.Rev, Sent: now, Length: want}
	})
	if err != nil {
		return err
	}
	return m.storeWord(rec, word)
}

// changeWord follows the record and the policy: what is kept never gets longer
// by it.
func (m *machine) changeWord(rec *record, want time.Duration, to string) error {
	word := *rec.Obeys
	switch {
	case word.Epoch != rec.Authority.Epoch:
		// The target still counts on the word of the earlier record until it
		// takes note of this one.
		word = obligation{Target: to, Epoch: rec.Authority.Epoch, Rev: 1, Length: word.Length, Wish: want}
	case word.Wish != want:
		word.Rev, word.Wish = word.Rev+1, want
	default:
		return nil
	}
	if want > 0 {
		word.Length = min(word.Length, want)
	}
	err := m.setLease(func(f *leaseFile) { f.Epoch, f.Rev, f.Length = word.Epoch, word.Rev, min(f.Length, word.Length) })
	if err != nil {
		return err
	}
	return m.storeWord(rec, word)
}

// storeWord makes the word durable, if the record it is of is still in force.
func (m *machine) storeWord(rec *record, word obligation) error {
	err := m.updateIf(func(r *record) error {
		if !r.Authority.Same(rec.Authority) {
			return fault.Errorf(fault.Interrupted, "the authority record changed to %s", describe(r.Authority))
		}
		r.Obeys = &word
		return nil
	})
	if err != nil {
		return err
	}
	crash.At("agent.lease.obeyed")
	select {
	case m.leaseWake <- struct{}{}:
	default:
	}
	return nil
}

// askRenewal asks the target. The lease counts from before the request was sent.
func (m *machine) askRenewal(ctx context.Context) error {
	rec := m.snapshot()
	word := *rec.Obeys
	if err := m.guarded(ctx); err != nil { // this agent goes on watching; if it died too, nobody would
		m.log.Error("no guard watches over the lease", logkit.KeyError, err)
	}
	sent := clock.Boot(m.a.o.Clock)
	out, err := m.renewAt(ctx, &rec, word)
	if err != nil {
		return fmt.Errorf("host %s: %w", word.Target, err)
	}
	if !out.Granted {
		if !out.Authority.Same(rec.Authority) {
			m.learn(ctx, out.Authority, word.Target)
		} else if out.Stale { // a word that this host does not know of any more
			word.Rev = out.Rev + 1
			if err := m.storeWord(&rec, word); err != nil {
				return err
			}
		}
		return fault.Errorf(fault.Refused, "%s", out.Why)
	}
	if word.Wish == 0 {
		if err := m.endObligation(); err != nil {
			return err
		}
	} else if err := m.renewed(&word, sent); err != nil {
		return err
	}
	m.leaseProblem("")
	if now := m.snapshot(); now.LeaseStop != nil {
		m.background(m.startAfterLease)
	}
	return nil
}

// renewed takes a grant in.
func (m *machine) renewed(word *obligation, sent time.Duration) error {
	rec := m.snapshot()
	if word.Length != word.Wish || rec.Without != nil {
		err := m.updateIf(func(r *record) error {
			if r.Obeys == nil || r.Obeys.Epoch != word.Epoch || r.Obeys.Rev != word.Rev {
				return fault.Errorf(fault.Interrupted, "the lease changed meanwhile")
			}
			next := *r.Obeys
			next.Length = next.Wish
			r.Obeys, r.Without = &next, nil
			return nil
		})
		if err != nil {
			return err
		}
	}
	return m.setLease(func(f *leaseFile) {
		*f = leaseFile{Boot: m.a.boot(), Epoch: word.Epoch, Rev: word.Rev, Sent: sent, Length: word.Wish, Granted: true}
	})
}

// endObligation takes the word back: the target has taken note, or nothing runs.
func (m *machine) endObligation() error {
	err := m.update(func(r *record) {
		if r.Obeys != nil {
			next := *r.Obeys
			next.Length, next.Wish = 0, 0
			r.Obeys = &next
		}
		r.Without = nil
	})
	if err != nil {
		return err
	}
	m.lease.mu.Lock()
	m.lease.file = leaseFile{}
	m.lease.mu.Unlock()
	m.leaseProblem("")
	return m.a.o.FS.Remove(filepath.Join(m.dir, leaseName))
}

// askRecord ends the word where nothing is sent any more, when the target holds
// the record that says so.
func (m *machine) askRecord(ctx context.Context, rec *record) error {
	answer, err := m.confirmAt(ctx, rec.Obeys.Target, confirmTimeout)
	switch {
	case err != nil:
		return fmt.Errorf("host %s: %w", rec.Obeys.Target, err)
	case answer.Authority.Same(rec.Authority):
		return m.endObligation()
	}
	m.learn(ctx, answer.Authority, rec.Obeys.Target)
	return fault.Errorf(fault.Conflict, "host %s holds %s", rec.Obeys.Target, describe(answer.Authority))
}

// renewAt sends one request, by a session that nothing else uses: one that is
// dead is left at once.
func (m *machine) renewAt(ctx context.Context, rec *record, word obligation) (out command.RenewResult, err error) {
	within := min(max(word.Length/8, renewLeast/2), 2*time.Second)
	ctx, cancel := context.WithTimeoutCause(ctx, within, fault.Errorf(fault.Unreachable, "no answer within %s", within))
	defer cancel()
	peers, err := m.a.renewals()
	if err != nil {
		return out, err
	}
	in := command.RenewRequest{Machine: m.name, Authority: rec.Authority, Rev: word.Rev, Length: word.Wish, Stop: leaseStopMost}
	err = peers.Call(ctx, word.Target, command.Renew.Name, in, &out)
	if fault.Is(err, fault.Unreachable) {
		err = errors.Join(err, peers.Drop(word.Target))
	}
	return out, err
}

// guarded makes sure that a guard watches, where there is one.
func (m *machine) guarded(ctx context.Context) error {
	if m.a.o.Guard == nil {
		return nil
	}
	err := m.a.o.Guard(ctx)
	m.lease.mu.Lock()
	m.lease.noGuard = err
	m.lease.mu.Unlock()
	return err
}

// tryLease asks for a renewal now, before a start.
func (m *machine) tryLease(ctx context.Context) {
	if rec := m.snapshot(); m.leaseAllows(&rec) == nil && rec.owes() {
		return
	}
	m.renewTurn(ctx)
}

// releaseLease takes the word back before the machine is unassigned: it goes on
// running, and nothing would stop it.
func (m *machine) releaseLease(ctx context.Context) error {
	rec := m.snapshot()
	if !rec.owes() || m.state(ctx).Power == recovery.PowerStopped {
		return nil
	}
	release, err := m.lease.renewing.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := m.changeWord(&rec, 0, rec.Obeys.Target); err != nil {
		return err
	}
	if err := m.askRenewal(ctx); err != nil && !fault.Is(err, fault.NotFound) { // a host that does not know the machine counts on nothing
		return fault.Errorf(fault.Refused, "machine %s runs under a lease, and host %s has to take note that it ends: %w", m.name, rec.Obeys.Target, err).
			WithHint("bring host %s back, or stop the machine first", rec.Obeys.Target)
	}
	return nil
}

// oweStatus is the lease as the source knows it; nil: none.
func (m *machine) oweStatus(rec *record) *command.LeaseStatus {
	want, to := m.wantLease(rec)
	if want == 0 && !rec.owes() {
		return nil
	}
	m.lease.mu.Lock()
	f, why := m.lease.file, m.lease.why
	m.lease.mu.Unlock()
	st := &command.LeaseStatus{Source: m.a.host(), Target: to, Epoch: rec.Authority.Epoch, Why: why}
	if !rec.owes() {
		return st
	}
	now := clock.Boot(m.a.o.Clock)
	st.Target, st.Length = rec.Obeys.Target, rec.Obeys.Length
	if f.Length > 0 {
		st.Age, st.Left = max(0, now-f.Sent), max(0, f.ends()-now)
	}
	st.Granted = f.Granted && st.Left > grace(st.Length)
	if w := m.without(rec); w != nil {
		st.Without, st.Granted = w.By, false
	}
	return st
}

// leaseNotes are what a person should know of a lease that does not hold.
func (m *machine) leaseNotes(rec *record, l *command.LeaseStatus) (out []string) {
	if l == nil || l.Source != m.a.host() {
		return nil
	}
	switch {
	case l.Without != "":
		out = append(out, fmt.Sprintf("runs without its lease, permitted by %s: begin no unplanned run before host %s renews it", l.Without, l.Target))
	case l.Length == 0 && l.Why != "":
		out = append(out, fmt.Sprintf("no lease yet: %s; until then an unplanned run asks whether the source is down", l.Why))
	case !l.Granted && l.Why != "" && rec.LeaseStop == nil:
		out = append(out, fmt.Sprintf("lease not renewed for %s: %s; the machine is stopped in %s", quantity.FormatDuration(l.Age), l.Why, quantity.FormatDuration(l.Left)))
	}
	m.lease.mu.Lock()
	defer m.lease.mu.Unlock()
	if m.lease.noGuard != nil {
		out = append(out, "no guard watches over the lease beside the agent: "+m.lease.noGuard.Error())
	}
	return out
}
