package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/agent/tracker"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// Peer is the receiving agent. Errors carry a fault.Kind: Unreachable (try
// again later; the outcome is unknown), Conflict (it has a newer authority
// record), Corrupt (what it got does not give the sums), NoSpace.
// Methods are called from several goroutines at a time.
type Peer interface {
	Tip(ctx context.Context, in command.TipRequest) (command.TipResult, error)
	// Put uploads one segment from the byte the receiver wants and returns
	// when it is durable there. progress is told how many bytes of the
	// segment are over.
	Put(ctx context.Context, h command.SegmentHeader, src io.ReaderAt, progress func(sent int64)) error
	Accept(ctx context.Context, in command.AcceptRequest) (command.AcceptResult, error)
	Ranges(ctx context.Context, in command.RangesRequest) (command.RangesResult, error)
	Blocks(ctx context.Context, in command.BlocksRequest) (command.BlocksResult, error)
	// Codecs are the words of the codecs that the receiver reads; before the
	// first Tip nobody knows any.
	Codecs() []string
}

// Guest holds the machine still while its disks are read.
type Guest interface {
	// Freeze holds the machine still until Thaw; app asks for what the
	// application promises where the provider can. A stopped machine is still
	// already: Freeze returns at once.
	Freeze(ctx context.Context, app bool) (Frozen, error)
}

// Frozen is a machine held still.
type Frozen struct {
	// Kind is what a point cut now promises; Fuzzy where the machine could
	// not be held still.
	Kind recovery.Consistency
	// Thaw lets the machine go on. stillHeld is false when it had been let go
	// before (freeze_max): what was read then is fuzzy. Called once.
	Thaw func(ctx context.Context) (stillHeld bool, err error)
}

// Disk is one disk of the machine at this host.
type Disk struct {
	Name       string
	ID         ident.DiskID
	Key        uint64
	Path       string
	Allocation string // "sparse" or "full", as in recovery.Disk
}

// Config is what a Machine works with. All fields are needed but those marked
// optional.
type Config struct {
	FS      vfs.FS
	Dir     string // …/machines/MACHINE/source; made when missing
	Machine string
	Disks   []Disk // in the order of the assignment
	Policy  recovery.Policy
	Clock   clock.Clock
	Log     *slog.Logger // optional
	Guest   Guest
	Peer    Peer
	// Tracker finds what changed; optional: a scan tracker of its own. Agents
	// with several machines share one, which bounds their memory.
	Tracker tracker.Tracker
	// Offset says how far this host's wall clock, which showed wall when the
	// monotonic one read mono, is ahead of the controller's; optional.
	Offset func(wall time.Time, mono time.Duration) clock.Offset
	// Configuration returns the machine's configuration at the cut; optional.
	Configuration func() json.RawMessage
}

// Machine is the sending side of one machine.
type Machine struct {
	cfg     Config
	tracker tracker.Tracker
	limits  limits
	budget  *budget // of spooled bytes

	cycling     chan struct{} // holds a token while nobody cycles
	closed      bool
	lastChanged int64 // of the last finished cycle; like closed guarded by the token

	mu    sync.Mutex // guards what follows, and all changes to journal and tables
	j     *journal
	disks []*disk

	limiter *rate.Limiter
	// stale says that memory may differ from what is on disk: the next cycle
	// loads it again.
	stale atomic.Bool
	view  view
}

// disk is a disk with its table.
type disk struct {
	Disk
	table *blocksum.Table
	state *diskState // in the journal
}

// Open loads the sending side of a machine, or makes it. fault.Corrupt: the
// journal was written by a newer program or is damaged; nothing was changed.
func Open(cfg Config) (*Machine, error) { return open(cfg, defaultLimits) }

func open(cfg Config, l limits) (*Machine, error) {
	if err := ident.CheckName(cfg.Machine); err != nil {
		return nil, fault.Errorf(fault.Invalid, "cannot open source: %w", err)
	}
	m := &Machine{cfg: cfg, tracker: cfg.Tracker, limits: l, budget: newBudget(l.spool), cycling: make(chan struct{}, 1), limiter: newLimiter(cfg.Policy.Rate)}
	if m.tracker == nil {
		m.tracker = tracker.NewScan(cfg.FS, 0)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	m.cfg.Log = cfg.Log.With("machine", cfg.Machine)
	m.release()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.load(); err != nil {
		m.closeTables()
		return nil, fault.Wrap(fault.Failed, fmt.Errorf("cannot open source of machine %s: %w", cfg.Machine, err))
	}
	return m, nil
}

func (m *Machine) release() { m.cycling <- struct{}{} }

func (m *Machine) path(name string) string { return filepath.Join(m.cfg.Dir, name) }

func (m *Machine) tablePath(disk string) string { return m.path(disk + ".table") }

func (m *Machine) segmentPath(log ident.LogID, number int) string {
	return m.path(filepath.Join("spool", fmt.Sprintf("%s.%04d.hrl", log, number)))
}

// save writes the journal; m.mu is held.
func (m *Machine) save() error {
	err := m.j.write(m.cfg.FS, m.path(journalName))
	if err != nil {
		m.stale.Store(true)
	}
	return err
}

// load brings memory to what is on disk, and both to a state that a cycle can
// start from; m.mu is held.
func (m *Machine) load() error {
	m.closeTables()
	fsys := m.cfg.FS
	if err := fsys.MkdirAll(m.path("spool"), 0o700); err != nil {
		return err
	}
	j, err := readJournal(fsys, m.path(journalName))
	if err != nil {
		return err
	}
	fresh := j == nil
	if fresh {
		j = &journal{Version: JournalVersion, Machine: m.cfg.Machine, Compare: true, Next: ident.NewPointID()}
	}
	if j.Machine != m.cfg.Machine {
		return fault.Errorf(fault.Corrupt, "%s belongs to machine %s", m.path(journalName), j.Machine)
	}
	m.j = j
	m.view.setTip(j.Tip, m.cfg.Clock)
	if !m.sameDisks() {
		m.adoptDisks()
		fresh = true
	}
	if fresh { // before any table is touched
		if err := m.save(); err != nil {
			return err
		}
	}
	if err := m.openTables(); err != nil {
		return err
	}
	return m.sweepSpool()
}

// sameDisks reports whether the journal is about the configured disks.
func (m *Machine) sameDisks() bool {
	if len(m.j.Disks) != len(m.cfg.Disks) {
		return false
	}
	for i, d := range m.cfg.Disks {
		if s := m.j.Disks[i]; s.Name != d.Name || s.ID != d.ID || s.Key != d.Key {
			return false
		}
	}
	return true
}

// adoptDisks takes the configured disks over into the journal. Tables of
// before are compared, not trusted.
func (m *Machine) adoptDisks() {
	m.j.Disks = make([]diskState, len(m.cfg.Disks))
	for i, d := range m.cfg.Disks {
		m.j.Disks[i] = diskState{Name: d.Name, ID: d.ID, Key: d.Key}
	}
	m.j.Compare = true
	m.j.restart()
}

// openTables opens the tables, folds what was acknowledged and not yet folded,
// and checks them against the journal: a table that disagrees is compared.
func (m *Machine) openTables() error {
	m.disks = make([]*disk, len(m.cfg.Disks))
	trusted := !m.j.Compare
	for i := range m.cfg.Disks {
		d := &disk{Disk: m.cfg.Disks[i], state: &m.j.Disks[i]}
		m.disks[i] = d
		ok, err := m.openTable(d)
		if err != nil {
			return err
		}
		trusted = trusted && ok
	}
	if trusted {
		for _, d := range m.disks {
			ok, err := m.check(d)
			if err != nil {
				return err
			}
			trusted = trusted && ok
		}
	}
	if trusted || m.j.Compare {
		return nil
	}
	m.cfg.Log.Warn("block tables do not agree with the journal, the next cycle compares with the target")
	return m.distrust()
}

// openTable opens or makes the table of a disk; ok is false when it had to be
// made although the journal counts on one.
func (m *Machine) openTable(d *disk) (ok bool, err error) {
	path := m.tablePath(d.Name)
	d.table, err = blocksum.Open(m.cfg.FS, path, d.Key)
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, fs.ErrNotExist) && !fault.Is(err, fault.Corrupt) {
		return false, err
	}
	d.table, err = blocksum.Create(m.cfg.FS, path, d.Key, 0)
	return false, err
}

// check folds acknowledged segments of d and compares its table's sum with the
// journal's.
func (m *Machine) check(d *disk) (ok bool, err error) {
	torn := d.state.Acked > d.state.Folded // a fold may have been under way
	for d.state.Acked > d.state.Folded {
		if err := m.fold(d, torn); err != nil {
			if fault.Is(err, fault.Corrupt) || errors.Is(err, fs.ErrNotExist) {
				return false, nil
			}
			return false, err
		}
	}
	sum, err := d.table.Sum()
	if err != nil {
		return false, err
	}
	if sum == d.state.Sum {
		return true, nil
	}
	if m.j.Cut == nil {
		return false, nil
	}
	// Between the acknowledgement of a cut and its place as tip the table
	// already has the cut's size.
	pd, _ := m.j.Cut.Disk(d.Name)
	return sum == pd.Sum, nil
}

// distrust journals that the tables have to be compared and starts new logs;
// m.mu is held.
func (m *Machine) distrust() error {
	m.j.Compare = true
	m.j.restart()
	if err := m.save(); err != nil {
		return err
	}
	return m.sweepSpool()
}

// sweepSpool deletes what the journal does not list; m.mu is held.
func (m *Machine) sweepSpool() error {
	listed := map[string]bool{}
	var bytes int64
	for i := range m.j.Disks {
		d := &m.j.Disks[i]
		for _, s := range d.Spool {
			listed[filepath.Base(m.segmentPath(d.Log, s.Number))] = true
			bytes += s.Size
		}
	}
	entries, err := m.cfg.FS.ReadDir(m.path("spool"))
	if err != nil {
		return fmt.Errorf("cannot clear spool: %w", err)
	}
	for _, e := range entries {
		if listed[e.Name()] {
			continue
		}
		if err := m.cfg.FS.Remove(filepath.Join(m.path("spool"), e.Name())); err != nil {
			return fmt.Errorf("cannot clear spool: %w", err)
		}
	}
	m.budget.set(bytes)
	return nil
}

func (m *Machine) closeTables() {
	for _, d := range m.disks {
		if d != nil && d.table != nil {
			if err := d.table.Close(); err != nil {
				m.cfg.Log.Warn("cannot close block table", "disk", d.Name, "err", err)
			}
			d.table = nil
		}
	}
	m.disks = nil
}

// Table returns the path of the block table of a disk at the tip, for a target
// role that takes over here: copy it before the next cycle. fault.Refused: the
// table is not the tip's (parts of a later point are in it, or it has to be
// compared first).
func (m *Machine) Table(disk string) (string, error) {
	<-m.cycling
	defer m.release()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.j.Tip == nil || m.j.Compare || m.j.staged() || m.stale.Load() || m.closed {
		return "", fault.Errorf(fault.Refused, "cannot hand over block table of disk %s of machine %s: it is not that of an acknowledged point",
			disk, m.cfg.Machine).WithHint("let one replication cycle finish")
	}
	for _, d := range m.disks {
		if d.Name == disk {
			return m.tablePath(disk), nil
		}
	}
	return "", fault.Errorf(fault.NotFound, "machine %s has no disk %s", m.cfg.Machine, disk)
}

// AdoptTables starts sending with a tip that both sites have, after the
// direction turned: tables names for each disk the block table of that point,
// which is copied. The first cycle then needs no compare.
func (m *Machine) AdoptTables(point recovery.Point, tables map[string]string) error {
	<-m.cycling
	defer m.release()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.adoptTables(point, tables); err != nil {
		m.stale.Store(true)
		return fmt.Errorf("cannot adopt block tables for machine %s: %w", m.cfg.Machine, err)
	}
	return nil
}

func (m *Machine) adoptTables(point recovery.Point, tables map[string]string) error {
	for _, d := range m.cfg.Disks {
		if _, ok := point.Disk(d.Name); !ok || tables[d.Name] == "" {
			return fault.Errorf(fault.Invalid, "point %s or its tables lack disk %s", point.ID.Short(), d.Name)
		}
	}
	if err := m.distrust(); err != nil {
		return err
	}
	m.closeTables()
	for _, d := range m.cfg.Disks {
		t, err := blocksum.Open(m.cfg.FS, tables[d.Name], d.Key)
		if err != nil {
			return err
		}
		if err := errors.Join(t.CopyTo(m.tablePath(d.Name)), t.Close()); err != nil {
			return err
		}
	}
	if err := m.openTables(); err != nil {
		return err
	}
	for _, d := range m.disks {
		pd, _ := point.Disk(d.Name)
		sum, err := d.table.Sum()
		if err != nil {
			return err
		}
		if sum != pd.Sum || d.table.Size() != pd.Size {
			return fault.Errorf(fault.Corrupt, "the table of disk %s is not that of point %s", d.Name, point.ID.Short())
		}
		d.state.Sum = sum
	}
	m.j.Tip, m.j.Compare = &point, false
	m.view.setTip(&point, m.cfg.Clock)
	return m.save()
}

// Close ends use of the machine's files; a running cycle ends first.
func (m *Machine) Close() error {
	<-m.cycling
	defer m.release()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closeTables()
	m.closed = true
	return nil
}

// Remove closes the machine and forgets all it kept: the next Open starts by
// comparing with the target.
func (m *Machine) Remove() error {
	if err := m.Close(); err != nil {
		return err
	}
	// The journal goes first: without it the rest is garbage.
	if err := m.cfg.FS.Remove(m.path(journalName)); err != nil {
		return fmt.Errorf("cannot remove source of machine %s: %w", m.cfg.Machine, err)
	}
	if err := m.cfg.FS.RemoveAll(m.cfg.Dir); err != nil {
		return fmt.Errorf("cannot remove source of machine %s: %w", m.cfg.Machine, err)
	}
	return nil
}
