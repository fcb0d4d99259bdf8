package hostcall

import (
	"context"
	"slices"

	lua "github.com/yuin/gopher-lua"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/plans"
)

// Program is what the modules exec and ssh read of their table.
type Program struct {
	Cmd    []lua.LValue // the program and its arguments; they may be secrets
	Accept []int        // exit codes that are no error
	Class  plans.OpClass
}

// Result is what a program ended with.
type Result struct {
	Exit   int    `json:"exit"`
	Output string `json:"output"`
	Stderr string `json:"stderr,omitempty"` // of ssh; a host's agent has one stream
}

// KeyUse implements plans.KeyUser: a program that is run again is to run.
func (r Result) KeyUse() plans.KeyUse { return plans.KeySpent }

// ReadProgram reads cmd, accept and class. cmd is empty where the table has none.
func ReadProgram(L *lua.LState, what string, o *lua.LTable) Program {
	p := Program{Class: plans.OpUnsafe, Accept: accepted(L, what, o.RawGetString("accept"))}
	switch list := o.RawGetString("cmd").(type) {
	case *lua.LNilType:
	case *lua.LTable:
		for i := 1; i <= list.Len(); i++ {
			v := list.RawGetInt(i)
			if !IsText(v) {
				L.RaiseError("%s: argument %d of cmd is a %s", what, i, v.Type())
			}
			p.Cmd = append(p.Cmd, v)
		}
	default:
		L.RaiseError("%s: cmd is a %s, want a list of the program and its arguments", what, list.Type())
	}
	switch class := o.RawGetString("class").(type) {
	case *lua.LNilType:
	case lua.LString:
		p.Class = plans.OpClass(class)
		if !slices.Contains([]plans.OpClass{plans.OpRead, plans.OpIdempotent, plans.OpUnsafe}, p.Class) {
			L.RaiseError(`%s: class is %q, want "read", "idempotent" or "unsafe"`, what, string(class))
		}
	default:
		L.RaiseError("%s: class is a %s, want a string", what, class.Type())
	}
	return p
}

// accepted reads the exit codes that are no error.
func accepted(L *lua.LState, what string, v lua.LValue) []int {
	switch v := v.(type) {
	case *lua.LNilType:
		return []int{0}
	case lua.LNumber:
		return []int{int(v)}
	case *lua.LTable:
		var list []int
		for i := 1; i <= v.Len(); i++ {
			n, ok := v.RawGetInt(i).(lua.LNumber)
			if !ok {
				L.RaiseError("%s: accept is a list of exit codes", what)
			}
			list = append(list, int(n))
		}
		return list
	}
	L.RaiseError("%s: accept is an exit code or a list of them, not %s", what, v.Type().String())
	return nil
}

// Shown is the command for the journal, without secrets.
func (p Program) Shown() []string {
	shown := make([]string, len(p.Cmd))
	for i, v := range p.Cmd {
		shown[i] = Shown(v)
	}
	return shown
}

// Open is the command with its secrets.
func (p Program) Open(ctx context.Context, e *Env) ([]string, error) {
	words := make([]string, len(p.Cmd))
	for i, v := range p.Cmd {
		w, err := e.Open(ctx, v)
		if err != nil {
			return nil, err
		}
		words[i] = w
	}
	return words, nil
}

// Unclear is the error of a program that began and of which nobody knows how it
// ended: a person decides, unless it may just be run again.
func (p Program) Unclear(format string, args ...any) error {
	if p.Class == plans.OpUnsafe {
		return fault.Errorf(fault.Unknown, format, args...)
	}
	return fault.Errorf(fault.Failed, format, args...)
}

// Ended pushes the result, or raises the error that an exit code is.
func (p Program) Ended(e *Env, L *lua.LState, what, name string, r Result) int {
	if !slices.Contains(p.Accept, r.Exit) {
		said := r.Stderr
		if said == "" {
			said = r.Output
		}
		e.Box.Raise(L, "%s: %s ended with %d: %s", what, name, r.Exit, said)
	}
	fields := map[string]lua.LValue{"exit": lua.LNumber(r.Exit), "output": lua.LString(r.Output)}
	if what == "ssh.run" { // an agent has one stream for both
		fields["stderr"] = lua.LString(r.Stderr)
	}
	L.Push(e.Answer(L, what, fields))
	return 1
}

// Tail keeps the last bytes written to it, at most MaxBody when it is read.
type Tail struct{ buf []byte }

// Write implements io.Writer.
func (t *Tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if len(t.buf) > 2*MaxBody { // not for each write: that would copy it all again and again
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-MaxBody:]...)
	}
	return len(p), nil
}

func (t *Tail) String() string { return string(t.buf[max(0, len(t.buf)-MaxBody):]) }
