package syntax

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/yuin/gopher-lua/ast"

	"github.com/drrun/drrun/plans"
)

// runArgument stands for a module's name at the argument of a function of the run.
const runArgument = "\x00run"

// module is the module that an expression is, and how it is called in messages.
func (t *tree) module(e ast.Expr) (Module, string) {
	if len(t.varargs) < 2 { // what the page itself does shows when it is evaluated
		return nil, ""
	}
	name := t.required(e)
	if id, ok := e.(*ast.IdentExpr); ok {
		name = t.holds(id.Value, nil)
	}
	if name == runArgument {
		return t.words.Run, "run"
	}
	return t.words.Modules[name], name
}

// member reports a function that the module in a local name does not have.
func (t *tree) member(e *ast.AttrGetExpr) {
	if key, isText := e.Key.(*ast.StringExpr); isText {
		t.memberOf(e.Object, key.Value, e.Line())
	}
}

func (t *tree) memberOf(object ast.Expr, key string, line int) {
	m, name := t.module(object)
	if _, ok := m[key]; ok || m == nil {
		return
	}
	what := "function"
	if name == "run" {
		what = "field"
	}
	t.faults = append(t.faults, plans.Fault{
		Pos:        plans.Pos{File: t.file, Line: line},
		Message:    fmt.Sprintf("%s has no %s %q", name, what, key),
		Suggestion: plans.Nearest(key, slices.Sorted(maps.Keys(m))),
	})
}

// options reports what is wrong with a table of options that is written in the
// call of a function of a module: http.get(url, { … }).
func (t *tree) options(e *ast.FuncCallExpr) {
	var m Module
	var call, key string
	if e.Method != "" { // run:ask(…)
		var name string
		m, name = t.module(e.Receiver)
		call, key = name+":"+e.Method, e.Method
		if name == "run" {
			t.memberOf(e.Receiver, key, e.Line())
			if s, isText := first(e.Args).(*ast.StringExpr); isText && key == "machine" {
				t.machines = append(t.machines, Import{s.Value, e.Line()})
			}
		}
	} else if a, ok := e.Func.(*ast.AttrGetExpr); ok {
		if s, isText := a.Key.(*ast.StringExpr); isText {
			var name string
			m, name = t.module(a.Object)
			call, key = strings.TrimPrefix(name, "drrun.")+"."+s.Value, s.Value
		}
	}
	f := m[key]
	if len(f.Options) == 0 || f.Arg >= len(e.Args) {
		return
	}
	table, ok := e.Args[f.Arg].(*ast.TableExpr)
	if !ok {
		return
	}
	for _, field := range table.Fields {
		s, isText := field.Key.(*ast.StringExpr)
		if !isText {
			continue
		}
		pos := plans.Pos{File: t.file, Line: field.Key.Line()}
		if !slices.Contains(f.Options, s.Value) {
			t.faults = append(t.faults, plans.Fault{Pos: pos, Message: fmt.Sprintf("%s: unknown key %q", call, s.Value), Suggestion: plans.Nearest(s.Value, f.Options)})
			continue
		}
		if v := literal(field.Value); v != nil {
			if why := f.Wrong(s.Value, v); why != "" {
				t.faults = append(t.faults, plans.Fault{Pos: pos, Message: fmt.Sprintf("%s: %s %s", call, s.Value, why)})
			}
		}
	}
}

// literal is the value of an expression that is written out; nil: it is not.
func literal(e ast.Expr) any {
	switch e := e.(type) {
	case *ast.StringExpr:
		return e.Value
	case *ast.NumberExpr:
		if n, err := strconv.ParseFloat(e.Value, 64); err == nil {
			return n
		}
	case *ast.TrueExpr:
		return true
	case *ast.FalseExpr:
		return false
	case *ast.TableExpr:
		return []any{}
	}
	return nil
}

// call walks a call. The call of a constructor learns its line.
func (t *tree) call(e *ast.FuncCallExpr) {
	id, isName := e.Func.(*ast.IdentExpr)
	walk := t.expr
	switch {
	case isName && !t.local(id.Value) && t.words.Constructors[id.Value] && t.inRun == 0:
		walk = t.value // its name
		e.Func = hiddenCall(e.Line(), hiddenNew, stringAt(id.Value, id.Line()), numberAt(id.Line(), id.Line()))
	case isName && id.Value == "require" && !t.local("require") && len(e.Args) == 1:
		if s, ok := e.Args[0].(*ast.StringExpr); ok {
			t.imports = append(t.imports, Import{s.Value, id.Line()})
		}
	case isName && id.Value == "secret" && !t.local("secret") && t.words.Globals["secret"] && len(e.Args) == 1:
		if s, ok := e.Args[0].(*ast.StringExpr); ok {
			t.secrets = append(t.secrets, Import{s.Value, id.Line()})
		}
	default:
		e.Func = t.expr(e.Func)
	}
	t.options(e)
	e.Receiver = t.expr(e.Receiver)
	for i := range e.Args {
		e.Args[i] = walk(e.Args[i])
	}
}
