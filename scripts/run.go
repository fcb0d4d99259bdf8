package scripts

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"

	lua "github.com/yuin/gopher-lua"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts/hostcall"
	luadns "github.com/drrun/drrun/scripts/lua/dns"
	luaexec "github.com/drrun/drrun/scripts/lua/exec"
	luahttp "github.com/drrun/drrun/scripts/lua/http"
	luajson "github.com/drrun/drrun/scripts/lua/json"
	lualog "github.com/drrun/drrun/scripts/lua/log"
	luare "github.com/drrun/drrun/scripts/lua/re"
	luassh "github.com/drrun/drrun/scripts/lua/ssh"
	luatcp "github.com/drrun/drrun/scripts/lua/tcp"
	luatemplate "github.com/drrun/drrun/scripts/lua/template"
	luatime "github.com/drrun/drrun/scripts/lua/time"
	"github.com/drrun/drrun/scripts/registry"
	"github.com/drrun/drrun/scripts/sandbox"
)

// httpClient keeps its connections for all functions of the process.
var httpClient = luahttp.Client()

// openers are the modules of drrun by name.
var openers = map[string]func(*hostcall.Env) map[string]lua.LGFunction{
	"dns": luadns.Open, "exec": luaexec.Open, "http": luahttp.Open, "json": luajson.Open, "log": lualog.Open, "re": luare.Open,
	"ssh": luassh.Open, "tcp": luatcp.Open, "template": luatemplate.Open, "time": luatime.Open,
}

// RunFunc runs one function of a plan inside a run, in a state of its own.
//
// ok is what the function answered: a check's is true when its first value is
// neither nil nor false, an action's unless that is false (or nil with a
// message). detail is its second value, or the error with which a check has ended
// that may be asked again. err is what ends the step: an error of kind Failed that
// the function ended with, and what is not its own doing: ctx ended, an operation
// of unknown outcome, a replay that diverged, a bundle that does not load.
func (l *Loader) RunFunc(ctx context.Context, b plans.Bundle, ref plans.FuncRef, info plans.RunInfo, host plans.HostCalls) (ok bool, detail string, err error) {
	src := l.source(b, registry.PlanFile)
	if len(src.faults) > 0 {
		return false, "", src.faults.Sorted().WithSource(b)
	}
	limits := l.limits()
	limits.Time *= 10 // the page was evaluated before; a busy host must not stop a run
	p := newPage(ctx, src, limits, l.o)
	defer p.box.Close()
	env := l.env(p, info, host)
	p.modules = func(name string) lua.LValue { return p.module(env, name) }
	root := p.evaluate("plan")
	if root == nil || len(p.faults) > 0 {
		if ctx.Err() != nil {
			return false, "", context.Cause(ctx)
		}
		return false, "", p.err()
	}
	pb := &planBuilder{page: p, known: make(reported)}
	pb.plan(root, nil)
	if ref.Index < 0 || ref.Index >= len(pb.funcs) {
		return false, "", fault.Errorf(fault.Internal, "plan %s has no function %d (line %d)", b.Main, ref.Index, ref.Pos.Line)
	}
	p.box.Untimed()
	p.running = true
	p.box.SetPrint(env.Note)
	p.box.SetRandom(func(L *lua.LState) float64 {
		var f float64
		env.Op(L, "math.random", plans.OpRead, nil, &f, func(context.Context, string) (any, error) {
			return rand.Float64(), nil //nolint:gosec // no secret is made of it
		})
		return f
	})
	return p.callFunc(env, pb.funcs[ref.Index], pb.params)
}

func (l *Loader) env(p *page, info plans.RunInfo, host plans.HostCalls) *hostcall.Env {
	e := &hostcall.Env{Box: p.box, Host: host, Info: info, Secrets: l.o.Secrets, HTTP: l.o.HTTP, Dial: l.o.Dial, Handle: p.handle}
	if e.HTTP == nil {
		e.HTTP = httpClient
	}
	if e.Dial == nil {
		e.Dial = (&net.Dialer{}).DialContext
	}
	return e
}

// callFunc calls a function of the plan and reads its answer. params are the
// names of the plan's parameters.
func (p *page) callFunc(env *hostcall.Env, f function, params []string) (ok bool, detail string, err error) {
	rets, err := p.box.Call(f.fn, p.runObject(env, params))
	if cause := p.box.Err(); cause != nil {
		var ae *lua.ApiError
		if errors.As(err, &ae) {
			pos, _ := p.place(ae)
			return false, "", placed(pos, cause)
		}
		return false, "", cause
	}
	if err != nil {
		return p.raised(env, f, err)
	}
	value := func(i int) lua.LValue {
		if i < len(rets) {
			return rets[i]
		}
		return lua.LNil
	}
	if s, isText := value(1).(lua.LString); isText {
		detail = env.Hide(string(s))
	}
	if f.isCheck {
		return !lua.LVIsFalse(value(0)), detail, nil
	}
	failed := value(0) == lua.LFalse || value(0) == lua.LNil && detail != ""
	return !failed, detail, nil
}

// raised is how a function ends with an error of Lua. A check is asked again as
// long as the error may come of what the world has told it.
func (p *page) raised(env *hostcall.Env, f function, err error) (ok bool, detail string, _ error) {
	pos, text := p.place(err)
	blame := p.box.Blame(err)
	if blame != sandbox.NoMistake {
		text = "the function has an error: " + text
	}
	text = env.Hide(fmt.Sprintf("%s:%d: %s", pos.File, pos.Line, text))
	if f.isCheck && (blame == sandbox.NoMistake || blame == sandbox.Perhaps && env.Told()) {
		return false, text, nil
	}
	return false, "", fault.Errorf(fault.Failed, "%s", text)
}

// placed puts the line of the plan before an error, and keeps its kind.
func placed(pos plans.Pos, err error) error {
	return fmt.Errorf("%s:%d: %w", pos.File, pos.Line, err)
}

// module opens a module of drrun for a running function. On the page, before
// the function runs, its functions say where they belong.
func (p *page) module(env *hostcall.Env, name string) lua.LValue {
	short := name[len("drrun."):]
	open, ok := openers[short]
	doc, known := registry.Module(short)
	if !ok || !known {
		return nil
	}
	L := p.box.L
	t, mt := L.NewTable(), L.NewTable()
	funcs := make(map[string]*lua.LFunction)
	for key, fn := range open(env) {
		funcs[key] = p.box.Func(fn)
	}
	mt.RawSetString("__index", p.box.Func(func(L *lua.LState) int {
		key := L.Get(2).String()
		fn, ok := funcs[key]
		switch {
		case ok && p.running:
			L.Push(fn)
		case ok: // a value of the page, kept for later: gated at the call
			L.Push(p.box.Func(func(L *lua.LState) int {
				if !p.running {
					L.RaiseError("%s.%s is only available while the plan runs", short, key)
				}
				return fn.GFunction(L)
			}))
		default:
			p.box.Wrong(L, "%s has no function %q%s", name, key, near(key, doc.Names()))
		}
		return 1
	}))
	mt.RawSetString("__newindex", p.box.Func(func(L *lua.LState) int {
		L.RaiseError("%s cannot be changed", name)
		return 0
	}))
	mt.RawSetString("__metatable", lua.LString("protected"))
	L.SetMetatable(t, mt)
	return t
}

func near(name string, known []string) string {
	if s := plans.Nearest(name, known); s != "" {
		return fmt.Sprintf(", did you mean %q?", s)
	}
	return ""
}
