package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	lua "github.com/yuin/gopher-lua"

	"github.com/drrun/drrun/internal/fault"
)

// Limits of a Box. Zero values are replaced by the defaults.
type Limits struct {
	Time   time.Duration // wall clock; 0: until the context ends
	Heap   uint64        // bytes the process may grow by while the code runs; default 256 MiB
	Text   int           // bytes of one string; default 8 MiB
	Total  int64         // bytes of all strings made without waiting for the world; default 256 MiB
	Steps  int           // steps of one pattern match; default 2 million
	Frames int           // depth of calls; default 400
}

func (l Limits) withDefaults() Limits {
	set := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	set(&l.Text, 8<<20)
	set(&l.Steps, 2_000_000)
	set(&l.Frames, 400)
	if l.Heap == 0 {
		l.Heap = 256 << 20
	}
	if l.Total == 0 {
		l.Total = 256 << 20
	}
	return l
}

// Errors that a Box ends with.
var (
	ErrTime   = errors.New("it did not end within its time limit")
	ErrMemory = errors.New("it takes too much memory")
)

// Box is one sandboxed Lua state.
type Box struct {
	L      *lua.LState
	limits Limits
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer   // of the time limit
	start  atomic.Uint64 // heap from which growth counts; 0: not now
	back   chan struct{} // the code goes on after it has waited for the world
	rests  bool          // between two calls nobody watches
	asked  atomic.Bool   // the code is to say what it holds; see measure
	holds  chan uint64   // what it says
	// Belongs, if set, calls add with what the code has made and cannot reach.
	Belongs func(add func(lua.LValue))
	total   int64
	fatal   error
	raised  raised
	print   func(string)
	random  func(L *lua.LState) float64
}

// MaxList is how many items a list may have. The library keeps items behind
// MaxArrayIndex as keys, and neither # nor ipairs nor its functions of tables see
// them: t[#t + 1] = v would write one item over and over. So whoever asks for the
// length of a longer list gets an error.
const MaxList = 1_000_000

func init() {
	// One assignment t[67000000] = 1 would take a gigabyte: beyond this index
	// the library uses its hash part.
	lua.MaxArrayIndex = 1 << 20
}

// New makes a state that ends with ctx or at its limits. Close it.
func New(ctx context.Context, l Limits, log *slog.Logger) *Box {
	b := &Box{limits: l.withDefaults(), log: log, back: make(chan struct{}, 1), holds: make(chan uint64, 1)}
	b.ctx, b.cancel = context.WithCancelCause(ctx)
	if b.limits.Time > 0 {
		b.timer = time.AfterFunc(b.limits.Time, func() { b.cancel(ErrTime) })
	}
	b.start.Store(max(1, heap()))
	b.L = lua.NewState(lua.Options{
		CallStackSize: b.limits.Frames, RegistrySize: 1024, RegistryMaxSize: 1 << 18, RegistryGrowStep: 4096,
		MinimizeStackMemory: true, SkipOpenLibs: true,
	})
	b.L.SetContext(pausing{b.ctx, b})
	b.open()
	go b.watch()
	return b
}

// Close ends the state and what watches it.
func (b *Box) Close() {
	b.Untimed()
	b.cancel(context.Canceled)
	b.L.Close()
}

// Untimed ends the time limit: from here on only the context counts.
func (b *Box) Untimed() {
	if b.timer != nil {
		b.timer.Stop()
	}
}

// Outside runs f, in which the code waits for the world and nobody watches it.
// What strings it made before does not count after it; what it holds does.
func (b *Box) Outside(f func()) {
	start := b.start.Swap(0)
	if start == 0 { // inside of another Outside
		f()
		return
	}
	defer func() {
		b.total = 0
		b.start.Store(start)
		b.resume()
	}()
	f()
}

// Rest lets nobody watch the state between two calls: it may live for long and
// does nothing meanwhile.
func (b *Box) Rest() {
	b.rests = true
	b.start.Store(0)
}

// wake is the end of a rest.
func (b *Box) wake() {
	b.total = 0
	b.start.Store(max(1, heap()))
	b.resume()
}

func (b *Box) resume() {
	select {
	case b.back <- struct{}{}:
	default: // it knows already
	}
}

// Context is the state's context.
func (b *Box) Context() context.Context { return b.ctx }

// Fatal ends the state with an error that no pcall can swallow.
func (b *Box) Fatal(err error) {
	if b.fatal == nil {
		b.fatal = err
	}
	b.cancel(err)
}

// Err is why the state was ended from outside of its code: its context, a
// limit, or Fatal; nil while it may go on.
func (b *Box) Err() error {
	if b.fatal != nil {
		return b.fatal
	}
	if b.ctx.Err() != nil {
		return context.Cause(b.ctx)
	}
	return nil
}

// Call runs fn with values and returns what it returned. An error of the code
// is an *lua.ApiError; look at Err first.
func (b *Box) Call(fn lua.LValue, args ...lua.LValue) (rets []lua.LValue, err error) {
	if b.rests {
		b.rests = false
		b.wake()
		defer b.Rest()
	}
	top := b.L.GetTop()
	defer func() {
		if r := recover(); r != nil {
			err = b.internal(r)
		}
	}()
	if err := b.L.CallByParam(lua.P{Fn: fn, NRet: lua.MultRet, Protect: true}, args...); err != nil {
		if cause := b.Err(); cause != nil {
			return nil, fmt.Errorf("%w: %w", cause, err)
		}
		return nil, err
	}
	for i := top + 1; i <= b.L.GetTop(); i++ {
		rets = append(rets, b.L.Get(i))
	}
	b.L.SetTop(top)
	if cause := b.Err(); cause != nil {
		return nil, cause
	}
	return rets, nil
}

// Func makes a host function. A panic that is no Lua error is a bug: it is
// logged with its stack and ends the state, whatever pcall stands around it.
func (b *Box) Func(fn lua.LGFunction) *lua.LFunction { return b.L.NewFunction(b.guard(fn)) }

func (b *Box) guard(fn lua.LGFunction) lua.LGFunction {
	return func(L *lua.LState) int {
		defer func() {
			if r := recover(); r != nil {
				if _, ok := r.(*lua.ApiError); ok {
					panic(r)
				}
				L.RaiseError("%v", b.internal(r))
			}
		}()
		return fn(L)
	}
}

func (b *Box) internal(r any) error {
	if b.log != nil {
		b.log.Error("host function panicked", "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
	}
	err := fault.Errorf(fault.Internal, "internal error in a host function: %v", r)
	b.Fatal(err)
	return err
}

// Made counts n bytes that a string operation is going to make, and refuses
// what is over the limits.
func (b *Box) Made(L *lua.LState, n int) {
	if n < 0 || n > b.limits.Text {
		L.RaiseError("a string of more than %d bytes", b.limits.Text)
	}
	b.total += int64(n)
	if b.total > b.limits.Total {
		b.Fatal(ErrMemory)
		L.RaiseError("%v", ErrMemory)
	}
}

// check raises an error when the state was ended.
func (b *Box) check(L *lua.LState) {
	if err := b.ctx.Err(); err != nil {
		L.RaiseError("%v", err)
	}
}
