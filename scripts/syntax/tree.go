package syntax

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/yuin/gopher-lua/ast"

	"github.com/drrun/drrun/plans"
)

// tree walks a file once: it collects faults and rewrites expressions in place.
type tree struct {
	file     string
	words    Words
	ends     []int // end lines of the braces, by order of opening
	braces   int   // table constructors seen
	faults   plans.Faults
	tables   []Table
	imports  []Import
	secrets  []Import
	machines []Import
	globals  map[string]bool // assigned by mistake, reported once

	scopes  []map[string]string // local name → the module that it holds, or ""
	blocks  *[]Block            // nil: they are not counted
	inside  int                 // the block around, or -1
	varargs []bool              // of the functions around
	inRun   int                 // functions of the run around
	depth   int
	tooDeep int // line, or 0
}

func (t *tree) fault(line int, format string, args ...any) {
	t.faults = append(t.faults, plans.Fault{Pos: plans.Pos{File: t.file, Line: line}, Message: fmt.Sprintf(format, args...)})
}

// chunk rewrites a file: its statements become the body of a function inside a
// function that holds the hidden names.
func (t *tree) chunk(stmts []ast.Stmt) []ast.Stmt {
	t.varargs, t.inside = []bool{false}, -1
	t.block(stmts)
	names := slices.Clone(Hidden)
	if t.blocks != nil {
		names = append(names, hiddenTook)
	}
	hidden := &ast.LocalAssignStmt{Names: names, Exprs: []ast.Expr{&ast.Comma3Expr{}}}
	body := &ast.FunctionExpr{ParList: &ast.ParList{Names: []string{}}, Stmts: stmts}
	call := &ast.FuncCallExpr{Func: body, Args: []ast.Expr{}}
	ret := &ast.ReturnStmt{Exprs: []ast.Expr{call}}
	for _, n := range []ast.PositionHolder{hidden, hidden.Exprs[0], body, call, ret} {
		n.SetLine(1)
		n.SetLastLine(1)
	}
	return []ast.Stmt{hidden, ret}
}

// block walks statements in a scope of their own, in which names are declared.
func (t *tree) block(stmts []ast.Stmt, names ...string) {
	t.push()
	t.declare(names...)
	t.stmts(stmts)
	t.pop()
}

func (t *tree) push() { t.scopes = append(t.scopes, make(map[string]string)) }
func (t *tree) pop()  { t.scopes = t.scopes[:len(t.scopes)-1] }

func (t *tree) declare(names ...string) {
	for _, n := range names {
		t.scopes[len(t.scopes)-1][n] = ""
	}
}

func (t *tree) local(name string) bool {
	return slices.ContainsFunc(t.scopes, func(s map[string]string) bool { _, is := s[name]; return is })
}

// holds sets or, with a nil module, tells which module a local name holds.
func (t *tree) holds(name string, module *string) string {
	for _, s := range slices.Backward(t.scopes) {
		if was, is := s[name]; is {
			if module != nil {
				s[name] = *module
			}
			return was
		}
	}
	return ""
}

// required is the module that an expression requires by its name.
func (t *tree) required(e ast.Expr) string {
	call, ok := e.(*ast.FuncCallExpr)
	if !ok || len(call.Args) != 1 {
		return ""
	}
	id, isName := call.Func.(*ast.IdentExpr)
	s, isText := call.Args[0].(*ast.StringExpr)
	if !isName || !isText || id.Value != "require" || t.local("require") {
		return ""
	}
	return s.Value
}

// enter counts the nesting; false stops the walk where it is too deep.
func (t *tree) enter(line int) bool {
	t.depth++
	if t.depth > maxDepth && t.tooDeep == 0 {
		t.tooDeep = max(1, line)
	}
	return t.tooDeep == 0
}

func (t *tree) stmts(stmts []ast.Stmt) {
	for _, s := range stmts {
		if t.enter(s.Line()) {
			t.stmt(s)
		}
		t.depth--
	}
}

func (t *tree) stmt(s ast.Stmt) {
	switch s := s.(type) {
	case *ast.AssignStmt:
		t.assign(s)
	case *ast.LocalAssignStmt:
		if _, isFunc := first(s.Exprs).(*ast.FunctionExpr); isFunc && len(s.Names) == 1 {
			t.declare(s.Names...)
		}
		modules := make([]string, len(s.Names))
		for i := range min(len(s.Names), len(s.Exprs)) {
			modules[i] = t.required(s.Exprs[i])
		}
		t.exprs(s.Exprs)
		t.declare(s.Names...)
		for i, name := range s.Names {
			t.holds(name, &modules[i])
		}
	case *ast.FuncCallStmt:
		s.Expr = t.expr(s.Expr)
	case *ast.DoBlockStmt:
		t.block(s.Stmts)
	case *ast.WhileStmt:
		s.Condition = t.expr(s.Condition)
		s.Stmts = t.way(s.Line(), neverTurned, s.Stmts)
	case *ast.RepeatStmt:
		t.push()
		t.stmts(s.Stmts)
		s.Condition = t.expr(s.Condition)
		t.pop()
	case *ast.IfStmt:
		s.Condition = t.expr(s.Condition)
		s.Then = t.way(s.Line(), neverTrue, s.Then)
		s.Else = t.way(s.Line(), neverFalse, s.Else)
	case *ast.NumberForStmt:
		t.numberFor(s)
	case *ast.GenericForStmt:
		t.exprs(s.Exprs)
		s.Stmts = t.way(s.Line(), neverTurned, s.Stmts, s.Names...)
	case *ast.FuncDefStmt:
		t.funcDef(s)
	case *ast.ReturnStmt:
		t.ret(s)
	}
}

func first(es []ast.Expr) ast.Expr {
	if len(es) == 0 {
		return nil
	}
	return es[0]
}

func (t *tree) ret(s *ast.ReturnStmt) {
	t.exprs(s.Exprs)
	if len(s.Exprs) != 1 {
		return
	}
	// A rewritten expression alone after return is a plain call again: it has
	// one value, and gopher-lua returns (f()) through a path of its own.
	if c, ok := s.Exprs[0].(*ast.FuncCallExpr); ok && isHidden(c) {
		c.AdjustRet = false
	}
}

func (t *tree) numberFor(s *ast.NumberForStmt) {
	s.Init, s.Limit = t.expr(s.Init), t.expr(s.Limit)
	if s.Step != nil {
		s.Step = t.expr(s.Step)
	}
	s.Stmts = t.way(s.Line(), neverTurned, s.Stmts, s.Name)
}

func (t *tree) funcDef(s *ast.FuncDefStmt) {
	if s.Name.Func != nil {
		if id, ok := s.Name.Func.(*ast.IdentExpr); ok {
			t.assigned(id, "local function "+id.Value)
		} else {
			s.Name.Func = t.expr(s.Name.Func)
		}
	}
	if s.Name.Receiver != nil {
		s.Name.Receiver = t.expr(s.Name.Receiver)
	}
	t.function(s.Func, s.Name.Receiver != nil, false)
}

func (t *tree) assign(s *ast.AssignStmt) {
	for i, l := range s.Lhs {
		if id, ok := l.(*ast.IdentExpr); ok {
			t.assigned(id, "local "+id.Value)
			t.holds(id.Value, new(string)) // from here on it may be anything
			continue
		}
		s.Lhs[i] = t.expr(l)
	}
	t.exprs(s.Rhs)
}

// assigned reports a value given to a name that is not declared.
func (t *tree) assigned(id *ast.IdentExpr, write string) {
	if t.local(id.Value) {
		return
	}
	switch {
	case t.words.Globals[id.Value] || t.words.Constructors[id.Value]:
		t.fault(id.Line(), "%q is a name of the language and cannot be changed", id.Value)
	case !t.globals[id.Value]:
		t.fault(id.Line(), "%q is not declared: write %q", id.Value, write)
	}
	t.globals[id.Value] = true
}

func (t *tree) exprs(es []ast.Expr) {
	for i := range es {
		es[i] = t.expr(es[i])
	}
}

// expr walks an expression and returns what stands for it.
func (t *tree) expr(e ast.Expr) ast.Expr {
	if e == nil {
		return nil
	}
	defer func() { t.depth-- }()
	if !t.enter(e.Line()) {
		return e
	}
	switch e := e.(type) {
	case *ast.IdentExpr:
		t.ident(e, false)
	case *ast.Comma3Expr:
		if !t.varargs[len(t.varargs)-1] {
			t.fault(e.Line(), `"..." stands outside of a function that takes it`)
			return at(&ast.NilExpr{}, e.Line())
		}
	case *ast.AttrGetExpr:
		t.member(e)
		e.Object, e.Key = t.expr(e.Object), t.expr(e.Key)
	case *ast.TableExpr:
		return t.table(e)
	case *ast.FuncCallExpr:
		t.call(e)
	case *ast.LogicalOpExpr:
		e.Lhs, e.Rhs = t.expr(e.Lhs), t.expr(e.Rhs)
	case *ast.RelationalOpExpr:
		e.Lhs, e.Rhs = t.expr(e.Lhs), t.expr(e.Rhs)
	case *ast.ArithmeticOpExpr:
		e.Lhs, e.Rhs = t.expr(e.Lhs), t.expr(e.Rhs)
	case *ast.StringConcatOpExpr:
		return t.concat(e)
	case *ast.UnaryMinusOpExpr:
		e.Expr = t.expr(e.Expr)
	case *ast.UnaryNotOpExpr:
		e.Expr = t.expr(e.Expr)
	case *ast.UnaryLenOpExpr: // of a list that is too long gopher-lua knows no length
		return hiddenCall(e.Line(), hiddenLen, single(t.expr(e.Expr)))
	case *ast.FunctionExpr:
		t.function(e, false, false)
	}
	return e
}

func (t *tree) function(f *ast.FunctionExpr, method, ofRun bool) {
	what := neverCalled
	if ofRun {
		what = "" // then its step has not run
		t.inRun++
		defer func() { t.inRun-- }()
	}
	t.varargs = append(t.varargs, f.ParList.HasVargs)
	t.push()
	t.declare(f.ParList.Names...)
	if ofRun && len(f.ParList.Names) > 0 {
		run := runArgument
		t.holds(f.ParList.Names[0], &run)
	}
	if method {
		t.declare("self")
	}
	f.Stmts = t.way(f.Line(), what, f.Stmts)
	t.pop()
	t.varargs = t.varargs[:len(t.varargs)-1]
}

// ident reports a name that is not declared, or not here.
func (t *tree) ident(e *ast.IdentExpr, value bool) {
	name := e.Value
	switch {
	case t.local(name) || t.words.Globals[name] || t.globals[name]:
	case t.words.Constructors[name] && t.inRun == 0:
	case t.words.Constructors[name]:
		hint := "it belongs on the page of the plan, outside of the function"
		if name == "machine" {
			hint += "; inside, use run:machine(name)"
		}
		t.fault(e.Line(), "%s cannot be used while the plan runs: %s", name, hint)
	case t.words.Elsewhere[name] != "":
		t.fault(e.Line(), "%s %s", name, t.words.Elsewhere[name])
	default:
		f := plans.Fault{
			Pos:        plans.Pos{File: t.file, Line: e.Line()},
			Message:    fmt.Sprintf("unknown name %q", name),
			Suggestion: plans.Nearest(name, t.known()),
		}
		switch {
		case constants[name] != "":
			f.Message, f.Suggestion = f.Message+", write "+constants[name], ""
		case f.Suggestion == "" && value:
			f.Message += fmt.Sprintf(": is it a string? write \"%s\"", name)
		}
		t.faults = append(t.faults, f)
	}
}

// constants are how other languages write those of Lua.
var constants = map[string]string{"null": "nil", "None": "nil", "none": "nil", "undefined": "nil", "NULL": "nil", "True": "true", "TRUE": "true", "yes": "true", "False": "false", "FALSE": "false", "no": "false"}

// value walks an expression that stands as a value: a name that is not known there
// may be a string without quotes.
func (t *tree) value(e ast.Expr) ast.Expr {
	if id, ok := e.(*ast.IdentExpr); ok {
		t.ident(id, true)
		return e
	}
	return t.expr(e)
}

// known is every name that could stand here.
func (t *tree) known() []string {
	var names []string
	for _, s := range t.scopes {
		names = slices.AppendSeq(names, maps.Keys(s))
	}
	names = slices.AppendSeq(names, maps.Keys(t.words.Globals))
	if t.inRun == 0 {
		names = slices.AppendSeq(names, maps.Keys(t.words.Constructors))
	}
	slices.Sort(names)
	return names
}

// concat turns a .. b .. c into one call, because only a function can keep a
// string within its limit.
func (t *tree) concat(e *ast.StringConcatOpExpr) ast.Expr {
	const most = 50 // values of one call: they stand in registers
	var args []ast.Expr
	var rest ast.Expr = e
	for len(args) < most {
		c, ok := rest.(*ast.StringConcatOpExpr)
		if !ok {
			break
		}
		args = append(args, single(t.expr(c.Lhs)))
		rest = c.Rhs
	}
	args = append(args, single(t.expr(rest)))
	return hiddenCall(e.Line(), hiddenCat, args...)
}

// table checks a table constructor, puts its keyed fields before its items and
// hands the table over to Tab or List where that is needed.
func (t *tree) table(e *ast.TableExpr) ast.Expr {
	end := e.Line()
	if t.braces < len(t.ends) {
		end = t.ends[t.braces]
	}
	t.braces++
	info := Table{Line: e.Line(), End: end, Keys: make(map[string]int)}
	t.duplicates(e)
	if t.inRun == 0 {
		t.order(e)
	}
	var keyed, items []*ast.Field
	for _, f := range e.Fields {
		if f.Key != nil {
			keyLine := f.Key.Line()
			if s, ok := f.Key.(*ast.StringExpr); ok {
				info.Keys[s.Value] = keyLine
			}
			f.Key = t.expr(f.Key)
			f.Value = t.value(f.Value)
			keyed = append(keyed, f)
			continue
		}
		info.Items = append(info.Items, f.Value.Line())
		if fn, ok := f.Value.(*ast.FunctionExpr); ok {
			t.function(fn, false, t.inRun == 0)
		} else {
			f.Value = t.value(f.Value)
		}
		items = append(items, f)
	}
	if len(items) > maxItems {
		t.fault(e.Line(), "more than %d items are written in one table", maxItems)
	}
	if n := len(items); n > 0 && e.Fields[len(e.Fields)-1].Key != nil {
		single(items[n-1].Value) // only the last field of all can be more values
	}
	info.Open = len(items) > 0 && open(items[len(items)-1].Value)
	e.Fields = append(keyed, items...)
	out := t.list(e, items, info.Open)
	if t.inRun > 0 {
		return out
	}
	t.tables = append(t.tables, info)
	return hiddenCall(e.Line(), hiddenTab, numberAt(len(t.tables)-1, e.Line()), out)
}

// list guards against gopher-lua's fault with an open last item after a full
// batch of 50: such an item is appended by a function.
func (t *tree) list(e *ast.TableExpr, items []*ast.Field, isOpen bool) ast.Expr {
	n := len(items) - 1
	if !isOpen || n == 0 || n%50 != 0 {
		return e
	}
	e.Fields = e.Fields[:len(e.Fields)-1]
	c := hiddenCall(e.Line(), hiddenList, numberAt(n, e.Line()), e, items[n].Value)
	return c
}

// duplicates reports keys that are written twice in one table.
func (t *tree) duplicates(e *ast.TableExpr) {
	lines, items := make(map[string]int), 0
	for _, f := range e.Fields {
		if f.Key == nil {
			items++
		}
	}
	for _, f := range e.Fields {
		key := ""
		switch k := f.Key.(type) {
		case *ast.StringExpr:
			key = strconv.Quote(k.Value)
		case *ast.NumberExpr:
			key = k.Value
			if n, err := strconv.Atoi(k.Value); err == nil && n >= 1 && n <= items {
				t.fault(k.Line(), "the key %d is also item %d of this table: one of them would be lost", n, n)
			}
		default:
			continue
		}
		if l, twice := lines[key]; twice {
			t.fault(f.Key.Line(), "the key %s is written twice in one table, first in line %d: one of them would be lost", key, l)
			continue
		}
		lines[key] = f.Key.Line()
	}
}

// order reports phases that stand elsewhere than where they happen.
func (t *tree) order(e *ast.TableExpr) {
	firstItem, lastItem := -1, -1
	at := make(map[string]int)
	for i, f := range e.Fields {
		if f.Key == nil {
			if firstItem < 0 {
				firstItem = i
			}
			lastItem = i
		} else if s, ok := f.Key.(*ast.StringExpr); ok {
			at[s.Value] = i
		}
	}
	report := func(key, where string) {
		t.fault(e.Fields[at[key]].Key.Line(), "%s stands %s: the order on the page is the order of events", key, where)
	}
	has := func(key string) bool { _, ok := at[key]; return ok }
	for _, key := range []string{"before", "shutdown", "failover"} {
		if has(key) && firstItem >= 0 && at[key] > firstItem {
			report(key, "after an item, but happens before all of them")
		}
	}
	if has("after") && at["after"] < lastItem {
		report("after", "before an item, but happens after all of them")
	}
	if has("before") && has("after") && at["after"] < at["before"] {
		report("after", "before the key before")
	}
	if has("shutdown") && has("failover") && at["failover"] < at["shutdown"] {
		report("failover", "before shutdown, but happens after it")
	}
}

// open reports whether an expression can be any number of values.
func open(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.FuncCallExpr:
		return !e.AdjustRet
	case *ast.Comma3Expr:
		return !e.AdjustRet
	}
	return false
}

// single makes an expression exactly one value.
func single(e ast.Expr) ast.Expr {
	switch e := e.(type) {
	case *ast.FuncCallExpr:
		e.AdjustRet = true
	case *ast.Comma3Expr:
		e.AdjustRet = true
	}
	return e
}

func isHidden(c *ast.FuncCallExpr) bool {
	id, ok := c.Func.(*ast.IdentExpr)
	return ok && slices.Contains(Hidden, id.Value)
}

func hiddenCall(line int, name string, args ...ast.Expr) *ast.FuncCallExpr {
	return at(&ast.FuncCallExpr{Func: at(&ast.IdentExpr{Value: name}, line), Args: args, AdjustRet: true}, line)
}

func stringAt(s string, line int) ast.Expr { return at(&ast.StringExpr{Value: s}, line) }

func numberAt(n, line int) ast.Expr {
	return at(&ast.NumberExpr{Value: strconv.Itoa(n)}, line)
}

func at[E ast.PositionHolder](e E, line int) E {
	e.SetLine(line)
	e.SetLastLine(line)
	return e
}
