package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/drrun/drrun/internal/crash"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/planted"
	"github.com/drrun/drrun/internal/vfs"
)

const (
	maxOps    = 1000    // results kept per machine
	maxOpFile = 1 << 20 // bytes
	opVersion = 1
)

// operation is one file of an ops store.
type operation struct {
	Version int             `json:"version"`
	Op      string          `json:"op"`
	Verb    string          `json:"verb"`
	At      time.Time       `json:"at"`
	Done    bool            `json:"done"`
	Result  json.RawMessage `json:"result,omitempty"`
	Fault   *fault.Error    `json:"fault,omitempty"`
}

// opStore answers a repeated operation id with the result of the first. A
// result is durable before it is given out; that an operation was started is
// durable before it begins. Safe for concurrent use.
type opStore struct {
	fs  vfs.FS
	dir string
	now func() time.Time
	// spawn runs an operation in the agent's life: it goes on when its caller
	// goes away, and the agent waits for it.
	spawn func(func(context.Context))

	mu      sync.Mutex
	flights map[string]*flight
	count   int // files, -1 before the first look
}

// flight is an operation under way.
type flight struct {
	done chan struct{}
	op   operation
	err  error
}

func newOpStore(fsys vfs.FS, dir string, now func() time.Time, spawn func(func(context.Context))) *opStore {
	return &opStore{fs: fsys, dir: dir, now: now, spawn: spawn, flights: map[string]*flight{}, count: -1}
}

// again says what to do with an operation that was started and whose result a
// crash swallowed.
type again bool

const (
	doAgain again = true  // the verb is idempotent
	ask     again = false // fault.Unknown: a person decides
)

// once runs f unless the operation id has a result already. Two calls with one
// id at a time share one run. An empty id always runs, in the caller's context.
func once[Out any](ctx context.Context, s *opStore, id, verb string, a again, f func(context.Context) (Out, error)) (Out, error) {
	var out Out
	if id == "" {
		return f(ctx)
	}
	op, err := s.do(ctx, id, verb, a, func(ctx context.Context) (json.RawMessage, error) {
		res, err := f(ctx)
		if err != nil {
			return nil, err
		}
		return json.Marshal(res)
	})
	if err != nil {
		return out, err
	}
	if op.Fault != nil {
		return out, op.Fault
	}
	if err := json.Unmarshal(op.Result, &out); err != nil {
		return out, fault.Errorf(fault.Corrupt, "cannot read the result of operation %s: %w", id, err)
	}
	return out, nil
}

func (s *opStore) do(ctx context.Context, id, verb string, a again, f func(context.Context) (json.RawMessage, error)) (operation, error) {
	s.mu.Lock()
	fl, running := s.flights[id]
	if !running {
		fl = &flight{done: make(chan struct{})}
		s.flights[id] = fl
	}
	s.mu.Unlock()
	if !running {
		s.spawn(func(life context.Context) {
			fl.op, fl.err = s.run(life, id, verb, a, f)
			s.mu.Lock()
			delete(s.flights, id)
			s.mu.Unlock()
			close(fl.done)
		})
	}
	select {
	case <-fl.done:
		if fl.err == nil && fl.op.Verb != verb {
			return operation{}, fault.Errorf(fault.Conflict, "operation %s is a %s, not a %s", id, fl.op.Verb, verb)
		}
		return fl.op, fl.err
	case <-ctx.Done():
		return operation{}, fault.Errorf(fault.Unreachable, "operation %s goes on without its caller: %w", id, context.Cause(ctx))
	}
}

// run looks the operation up, or runs it.
func (s *opStore) run(ctx context.Context, id, verb string, a again, f func(context.Context) (json.RawMessage, error)) (operation, error) {
	if planted.Is(planted.OpNotStored) {
		res, err := f(ctx)
		return operation{Op: id, Verb: verb, Done: true, Result: res}, err
	}
	op, found, err := s.load(id)
	if err != nil {
		return operation{}, err
	}
	if found && op.Done {
		return op, nil
	}
	if found && a == ask {
		return operation{}, fault.Errorf(fault.Unknown, "operation %s (%s) was started at %s and the agent ended before it knew the outcome",
			id, op.Verb, op.At.UTC().Format(time.RFC3339)).WithHint("find out whether it took effect, then answer done or again")
	}
	op = operation{Version: opVersion, Op: id, Verb: verb, At: s.now().UTC()}
	if err := s.save(op, !found); err != nil {
		return operation{}, err
	}
	crash.At("agent.op.started")
	op.Result, err = f(ctx)
	if err != nil {
		if ctx.Err() != nil || fault.Is(err, fault.Interrupted) {
			return operation{}, err // stays started: what a crash would have left
		}
		var fe *fault.Error
		if !errors.As(err, &fe) || fe.Error() != err.Error() {
			fe = fault.Wrap(fault.Internal, err)
		}
		op.Fault = fe
	}
	op.Done = true
	crash.At("agent.op.done")
	if err := s.save(op, false); err != nil && a == ask {
		return operation{}, fault.Errorf(fault.Unknown, "operation %s (%s) took place and its result cannot be kept: %w", id, verb, err).
			WithHint("find out what it did, then answer done or again")
	} else if err != nil {
		return operation{}, err
	}
	crash.At("agent.op.stored")
	return op, nil
}

func (s *opStore) path(id string) string {
	sum := sha256.Sum256([]byte(id))
	return filepath.Join(s.dir, hex.EncodeToString(sum[:16])+".json")
}

func (s *opStore) load(id string) (operation, bool, error) {
	b, err := vfs.ReadFile(s.fs, s.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return operation{}, false, nil
	}
	if err != nil {
		return operation{}, false, fmt.Errorf("cannot read operation %s: %w", id, err)
	}
	op, err := decodeOperation(b)
	if err != nil {
		return operation{}, false, fault.Errorf(fault.Corrupt, "cannot read operation %s: %w", id, err)
	}
	if op.Op != id {
		return operation{}, false, fault.Errorf(fault.Corrupt, "the file of operation %s holds operation %s", id, op.Op)
	}
	return op, true, nil
}

func decodeOperation(b []byte) (operation, error) {
	var op operation
	if len(b) > maxOpFile {
		return op, fmt.Errorf("%d bytes are too many", len(b))
	}
	if err := json.Unmarshal(b, &op); err != nil {
		return op, err
	}
	if op.Version != opVersion {
		return op, fmt.Errorf("version %d is not known", op.Version)
	}
	if op.Done && op.Fault == nil && op.Result == nil {
		return op, errors.New("it is done and has no result")
	}
	return op, nil
}

func (s *opStore) save(op operation, fresh bool) error {
	if fresh {
		if err := s.fs.MkdirAll(s.dir, 0o700); err != nil {
			return fmt.Errorf("cannot note operation %s: %w", op.Op, err)
		}
		if err := s.trim(); err != nil {
			return err
		}
	}
	b, err := json.Marshal(op)
	if err != nil {
		return fmt.Errorf("cannot note operation %s: %w", op.Op, err)
	}
	if err := vfs.WriteFile(s.fs, s.path(op.Op), b, 0o600); err != nil {
		return fmt.Errorf("cannot note operation %s: %w", op.Op, err)
	}
	return nil
}

// trim makes room for one more: the oldest tenth goes when the store is full.
func (s *opStore) trim() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	if s.count > 0 && s.count < maxOps {
		return nil
	}
	entries, err := s.fs.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("cannot list operations: %w", err)
	}
	s.count = len(entries) + 1
	if s.count <= maxOps {
		return nil
	}
	type aged struct {
		name string
		at   time.Time
	}
	var all []aged
	for _, e := range entries {
		if fi, err := e.Info(); err == nil {
			all = append(all, aged{e.Name(), fi.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b aged) int { return a.at.Compare(b.at) })
	for _, e := range all[:min(len(all), maxOps/10)] {
		if err := s.fs.Remove(filepath.Join(s.dir, e.name)); err != nil {
			return fmt.Errorf("cannot drop an old operation: %w", err)
		}
		s.count--
	}
	return nil
}
