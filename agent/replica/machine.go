package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/crash"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// AllocationFull says that holes are never punched into a disk.
const AllocationFull = "full"

// Disk is one disk of the machine as it is kept here.
type Disk struct {
	Name       string
	ID         ident.DiskID
	Key        uint64 // seeds its block hashes
	Head       string // absolute path of the disk here; may lie outside Dir; empty: Dir/Name/head.img
	Allocation string // "" or "sparse": zeros become holes; AllocationFull: never
}

// Config says where a machine's replica lives. FS, Dir, Machine, Disks and
// Clock are required.
type Config struct {
	FS      vfs.FS
	Dir     string // STORE/MACHINE
	Machine string
	Disks   []Disk
	Clock   clock.Clock
	Log     *slog.Logger
	Reserve int64 // bytes of the store that are never taken
}

// Machine is the open replica of one machine.
type Machine struct {
	cfg   Config
	fs    vfs.FS
	log   *slog.Logger
	disks map[string]Disk
	names []string // disks in the order of Config

	work workLock   // operations on heads, undo logs and views
	in   sync.Mutex // receiving and accepting: staged logs and tables; taken after work

	mu      sync.RWMutex // the fields below; taken last
	st      state
	points  []recovery.Point        // by sequence number
	damaged map[ident.PointID]error // points whose manifest cannot be read
	broken  map[ident.PointID]error // points not applied whose logs cannot be read, and those on top of them
	tables  map[string]*blocksum.Table
	staged  map[string]ident.LogID // by disk: the log whose point does not exist yet
	segs    map[ident.LogID]map[int]segment
	active  map[string]*Receiver // by path of the part file
	rotten  map[string]bool      // disks whose image was read and is not what its point says
	tipAge  time.Duration        // age of the tip at tipAt
	tipAt   time.Duration        // on the monotonic clock
	closed  bool

	thin    clockWatch
	elapsed func() time.Duration // the monotonic clock
}

// reservedNames cannot be disks: the store keeps its own things under them.
var reservedNames = []string{"points", "replica.json"}

func newMachine(cfg Config) (*Machine, error) {
	if err := ident.CheckName(cfg.Machine); err != nil {
		return nil, fault.Errorf(fault.Invalid, "cannot open replica: machine: %w", err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	m := &Machine{
		cfg: cfg, fs: cfg.FS, log: cfg.Log.With("machine", cfg.Machine), disks: map[string]Disk{},
		work:   workLock{sem: make(chan struct{}, 1)},
		tables: map[string]*blocksum.Table{}, staged: map[string]ident.LogID{},
		segs: map[ident.LogID]map[int]segment{}, damaged: map[ident.PointID]error{}, active: map[string]*Receiver{},
		rotten: map[string]bool{}, broken: map[ident.PointID]error{},
	}
	m.elapsed = func() time.Duration { return clock.Mono(cfg.Clock) }
	for _, d := range cfg.Disks {
		if err := ident.CheckName(d.Name); err != nil {
			return nil, fault.Errorf(fault.Invalid, "cannot open replica of %s: disk: %w", cfg.Machine, err)
		}
		if _, twice := m.disks[d.Name]; twice || slices.Contains(reservedNames, d.Name) {
			return nil, fault.Errorf(fault.Invalid, "cannot open replica of %s: disk name %q is taken", cfg.Machine, d.Name)
		}
		if d.Head == "" {
			d.Head = filepath.Join(cfg.Dir, d.Name, "head.img")
		}
		m.disks[d.Name] = d
		m.names = append(m.names, d.Name)
	}
	if len(m.names) == 0 {
		return nil, fault.Errorf(fault.Invalid, "cannot open replica of %s: it has no disks", cfg.Machine)
	}
	return m, nil
}

// Suffixes of files beside a head.
const (
	newSuffix  = ".new"  // the overlay of a failover while it is made
	baseSuffix = ".base" // the head that a failover was made from
)

func (m *Machine) statePath() string { return filepath.Join(m.cfg.Dir, "replica.json") }
func (m *Machine) pointsDir() string { return filepath.Join(m.cfg.Dir, "points") }
func (m *Machine) pointPath(k mark) string {
	return filepath.Join(m.pointsDir(), fmt.Sprintf("%016d-%s.json", k.Seq, k.Point))
}
func (m *Machine) dir(disk string, elem ...string) string {
	return filepath.Join(append([]string{m.cfg.Dir, disk}, elem...)...)
}
func (m *Machine) tablePath(disk string) string { return m.dir(disk, "table") }
func (m *Machine) undoPath(disk string, newer, older ident.Seq) string {
	return m.dir(disk, "undo", fmt.Sprintf("%016d-%016d.hrl", newer, older))
}
func (m *Machine) segmentPath(disk string, log ident.LogID, n int) string {
	return m.dir(disk, "logs", fmt.Sprintf("%s.%04d.hrl", log, n))
}

// image returns the path of the file that the undo chain of a disk starts
// from: the head, or the base that is kept under a live overlay.
func (m *Machine) image(disk string) string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.st.Live != nil && m.st.Live.Phase == phaseReady {
		return m.disks[disk].Head + baseSuffix
	}
	return m.disks[disk].Head
}

// record changes the state and makes it durable.
func (m *Machine) record(change func(*state)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed { // another process, or another Machine, has the store
		return fault.Errorf(fault.Stopped, "the replica of %s is closed", m.cfg.Machine)
	}
	next := m.st.clone()
	change(&next)
	if err := writeRecord(m.fs, m.statePath(), formatState, next, next.kept); err != nil {
		return m.storeError(err, "cannot store the marks")
	}
	m.st = next
	return nil
}

func (m *Machine) snapshot() state {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.st.clone()
}

// Tip returns the newest durable point and its age on monotonic clocks (across
// a restart of the agent: on the wall clock); false: there is none.
func (m *Machine) Tip() (recovery.Point, time.Duration, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	tip, ok := m.tipLocked()
	if !ok {
		return recovery.Point{}, 0, false
	}
	return tip, m.tipAge + max(0, clock.Mono(m.cfg.Clock)-m.tipAt), true
}

func (m *Machine) tipLocked() (recovery.Point, bool) {
	if len(m.points) == 0 {
		return recovery.Point{}, false
	}
	return m.points[len(m.points)-1], true
}

func (m *Machine) tip() (recovery.Point, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.tipLocked()
}

// NextSeq returns the sequence number of the next point.
func (m *Machine) NextSeq() ident.Seq {
	tip, _ := m.tip()
	return tip.Seq + 1
}

// Applied returns the sequence number of the point that the head holds; 0: none.
func (m *Machine) Applied() ident.Seq {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.st.Applied.Seq
}

// Points returns the points, oldest first.
func (m *Machine) Points() []recovery.Point {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Clone(m.points)
}

// point returns the point of an id.
func (m *Machine) point(id ident.PointID) (recovery.Point, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	i := slices.IndexFunc(m.points, func(p recovery.Point) bool { return p.ID == id })
	if i < 0 {
		return recovery.Point{}, fault.Errorf(fault.NotFound, "machine %s has no recovery point %s here", m.cfg.Machine, id).
			WithHint("drrun points %s lists them", m.cfg.Machine)
	}
	return m.points[i], nil
}

// Held reports whether accepted points wait for a commit before they are
// applied.
func (m *Machine) Held() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.st.Hold
}

// SetHold sets or clears the hold, durably. A point whose application has
// begun is finished first.
func (m *Machine) SetHold(hold bool) (err error) {
	defer m.fullDisk(&err)
	ctx, done, err := m.work.take(context.Background(), urgent)
	if err != nil {
		return err
	}
	defer done()
	if m.Held() == hold {
		return nil
	}
	if err := m.settle(ctx); err != nil {
		return err
	}
	err = m.record(func(s *state) { s.Hold = hold })
	crash.At("replica.hold.stored")
	return err
}

// Close closes the store's files. Nothing may be called after it; operations
// under way are waited for.
func (m *Machine) Close() error {
	_, done, err := m.work.take(context.Background(), urgent)
	if err != nil {
		return err
	}
	defer done()
	m.in.Lock()
	defer m.in.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	var errs []error
	for _, r := range m.active {
		errs = append(errs, r.revoke())
	}
	for _, t := range m.tables {
		errs = append(errs, t.Close())
	}
	clear(m.tables)
	return errors.Join(errs...)
}

// Remove closes the store and deletes it with all recovery points. A head at a
// path outside the store stays: it may be the machine's own disk. A point locked
// until a later time refuses it, and so does a live overlay (fault.Refused).
// Idempotent.
func (m *Machine) Remove() error {
	now := m.cfg.Clock.Now()
	doubt := m.ClockDoubt(now)
	for _, p := range m.Points() {
		if !p.LockedUntil.IsZero() && doubt != nil {
			return fault.Errorf(fault.Refused, "cannot remove the replica of %s: whether the lock of point %s is over is not known: %w", m.cfg.Machine, p.ID, doubt)
		}
		if p.LockedUntil.After(now) {
			return fault.Errorf(fault.Refused, "cannot remove the replica of %s: point %s is locked until %s",
				m.cfg.Machine, p.ID, p.LockedUntil.UTC().Format(time.RFC3339))
		}
	}
	if run, _, ok := m.Live(); ok {
		return fault.Errorf(fault.Refused, "cannot remove the replica of %s: the machine's disks here are those of run %s",
			m.cfg.Machine, run).WithHint("reverse or fail back first")
	}
	if err := m.Close(); err != nil {
		return err
	}
	// It goes as a whole: a half-removed store could neither be opened nor removed.
	if err := m.removeTrash(); err != nil {
		return err
	}
	switch there, err := m.exists(m.cfg.Dir); {
	case err != nil:
		return err
	case there:
		if err := m.fs.Rename(m.cfg.Dir, m.trash()); err != nil {
			return fmt.Errorf("cannot remove %s: %w", m.cfg.Dir, err)
		}
	}
	return m.removeTrash()
}

// trash is where a removed store goes; no machine can have that name.
func (m *Machine) trash() string { return trashOf(m.cfg.Dir) }

func trashOf(dir string) string {
	return filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir)+".removed")
}

func (m *Machine) removeTrash() error {
	if err := m.fs.RemoveAll(m.trash()); err != nil {
		return fmt.Errorf("cannot remove %s: %w", m.trash(), err)
	}
	return nil
}

// checkTest refuses a test id that could not stand as a folder.
func checkTest(test string) error {
	if err := ident.CheckName(test); err != nil {
		return fault.Errorf(fault.Invalid, "test: %w", err)
	}
	return nil
}

func isTemp(name string) bool { return strings.HasSuffix(name, vfs.TempSuffix) }
