package scripts

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	lua "github.com/yuin/gopher-lua"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts/registry"
	"github.com/drrun/drrun/scripts/sandbox"
	"github.com/drrun/drrun/scripts/syntax"
)

// page is one evaluation of a bundle.
type page struct {
	source     *source
	ctors      map[string]*registry.Constructor
	box        *sandbox.Box
	faults     plans.Faults
	tables     map[*lua.LTable]syntax.Table
	files      map[*lua.LTable]string // file of a table
	nodes      []*node
	loaded     map[string]lua.LValue // modules by name; nil while one loads
	running    bool                  // a function of the plan runs
	visited    int                   // values of tables that were looked at; see visit
	dropped    int                   // faults over maxFaults
	wantParams bool                  // a parameter without a value is a fault

	nodeMeta   *lua.LTable
	secretMeta *lua.LTable
	unknown    lua.LValue
	secrets    map[string]plans.Pos         // named by the page, with their first place
	modules    func(name string) lua.LValue // of drrun, in run scope; nil: recording
}

// newPage makes the state for a source. Close the page's box.
func newPage(ctx context.Context, s *source, limits sandbox.Limits, o Options) *page {
	p := &page{
		source: s, ctors: registry.Of(s.kind), box: sandbox.New(ctx, limits, o.Log),
		tables: make(map[*lua.LTable]syntax.Table), files: make(map[*lua.LTable]string), loaded: make(map[string]lua.LValue),
		secrets: make(map[string]plans.Pos),
	}
	p.box.Belongs = func(add func(lua.LValue)) {
		for t := range p.tables {
			add(t)
		}
		for _, n := range p.nodes {
			if n.body != nil {
				add(n.body)
			}
		}
	}
	p.unknown = p.box.Unknown()
	p.makeNodeMeta()
	p.makeSecretMeta()
	for name, c := range p.ctors {
		p.box.Set(name, p.box.Func(func(L *lua.LState) int { return p.make(L, c, p.here(L)) }))
	}
	p.box.Set("require", p.box.Func(p.require))
	p.box.Set("each", p.box.Func(p.eachOf))
	return p
}

// make builds the item of a constructor; a secret of a plan is a handle.
func (p *page) make(L *lua.LState, c *registry.Constructor, pos plans.Pos) int {
	if c.Body == registry.None {
		return p.secret(L, pos)
	}
	return p.construct(L, c, pos)
}

const (
	maxFaults  = 1000    // that are listed
	maxVisited = 200_000 // values in the tables of a page
)

func (p *page) fault(pos plans.Pos, format string, args ...any) {
	p.report(plans.Fault{Pos: pos, Message: fmt.Sprintf(format, args...)})
}

func (p *page) faultNear(pos plans.Pos, name string, known []string, format string, args ...any) {
	p.report(plans.Fault{Pos: pos, Message: fmt.Sprintf(format, args...), Suggestion: plans.Nearest(name, known)})
}

// report adds a fault. While a function of the plan runs, nobody would read
// it: there it is an error of that function.
func (p *page) report(f plans.Fault) {
	switch {
	case p.running:
		p.box.L.Error(lua.LString(f.String()), 0)
	case len(p.faults) < maxFaults:
		p.faults = append(p.faults, f)
	default:
		p.dropped++
	}
}

// visit counts a value of a table that is looked at; false, and a fault, when
// there are too many: lists that hold the same list many times grow without end.
func (p *page) visit(pos plans.Pos) bool {
	p.visited++
	if p.visited == maxVisited+1 {
		p.fault(pos, "the tables of this file hold more than %d values: does a list hold the same list again and again?", maxVisited)
	}
	return p.visited <= maxVisited
}

// err is all faults of the page, with their source lines; nil when there is none.
func (p *page) err() error {
	fs := p.faults.Sorted().WithSource(p.source.bundle)
	if p.dropped > 0 {
		fs = append(fs, plans.Fault{Pos: p.mainPos(), Message: fmt.Sprintf("%d more mistakes are not listed", p.dropped)})
	}
	return fs.Err()
}

// here is the line of Lua that called the host function.
func (p *page) here(L *lua.LState) plans.Pos {
	for level := 1; level < 20; level++ {
		pos, ok := parsePlace(L.Where(level))
		if ok {
			return pos
		}
	}
	return p.mainPos()
}

// mainPos is where a fault stands whose place is not known.
func (p *page) mainPos() plans.Pos { return plans.Pos{File: p.source.bundle.Main, Line: 1} }

// parsePlace reads "erp.lua:12:".
func parsePlace(s string) (plans.Pos, bool) {
	s = strings.TrimSuffix(strings.TrimSpace(s), ":")
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return plans.Pos{}, false
	}
	n, err := strconv.Atoi(s[i+1:])
	if err != nil || n < 1 {
		return plans.Pos{}, false
	}
	return plans.Pos{File: s[:i], Line: n}, true
}

// run evaluates a file of the bundle and returns what it returns.
func (p *page) run(u *syntax.Unit) ([]lua.LValue, error) {
	L := p.box.L
	fn := L.NewFunctionFromProto(u.Proto)
	hidden := []lua.LValue{
		p.box.Func(func(L *lua.LState) int {
			t := L.CheckTable(2)
			if !p.running { // a function's tables are nobody's items
				p.tables[t] = u.Tables[L.CheckInt(1)]
				p.files[t] = u.Name
			}
			L.Push(t)
			return 1
		}),
		p.box.Func(func(L *lua.LState) int {
			c := p.ctors[L.CheckString(1)]
			pos := plans.Pos{File: u.Name, Line: L.CheckInt(2)}
			L.Push(p.box.Func(func(L *lua.LState) int { return p.make(L, c, pos) }))
			return 1
		}),
		p.box.Func(p.box.Cat),
		p.box.Func(p.box.List),
		p.box.Func(p.box.Len),
	}
	if p.source.branches != nil {
		w := p.source.branches.of(u, p.source.bundle.Files[u.Name])
		hidden = append(hidden, p.box.Func(func(L *lua.LState) int {
			w.ran[L.CheckInt(1)].Store(true)
			return 0
		}))
	}
	return p.box.Call(fn, hidden...)
}

// eachOf is each(list, fn).
func (p *page) eachOf(L *lua.LState) int {
	if sandbox.IsUnknown(L.Get(1)) || sandbox.IsUnknown(L.Get(2)) {
		L.Push(p.unknown)
		return 1
	}
	list, fn, out := L.CheckTable(1), L.CheckFunction(2), L.NewTable()
	if hasKeys(list) {
		L.RaiseError("each: a table with keys, want a list")
	}
	for i := 1; i <= list.MaxN(); i++ {
		item := list.RawGetInt(i)
		if item == lua.LNil {
			L.RaiseError("each: item %d of the list is nil", i)
		}
		L.Push(fn)
		L.Push(item)
		L.Call(1, 1) // not its number: each(names, machine) has to work
		got := L.Get(-1)
		L.Pop(1)
		if got == lua.LNil {
			L.RaiseError("each: the function returns nothing for item %d", i)
		}
		out.Append(got)
	}
	L.Push(out)
	return 1
}

var modulePath = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// require loads a module of drrun, or NAME.lua beside the main file.
func (p *page) require(L *lua.LState) int {
	v := L.Get(1)
	if sandbox.IsUnknown(v) {
		L.Push(p.unknown)
		return 1
	}
	name := L.CheckString(1)
	if got, ok := p.loaded[name]; ok {
		if got == nil {
			L.RaiseError("module %q loads itself in a circle", name)
		}
		L.Push(got)
		return 1
	}
	p.loaded[name] = nil
	got := p.load(L, name)
	p.loaded[name] = got
	L.Push(got)
	return 1
}

func (p *page) load(L *lua.LState, name string) lua.LValue {
	if strings.HasPrefix(name, "drrun.") {
		if p.modules != nil {
			if m := p.modules(name); m != nil {
				return m
			}
		}
		return p.recorder(L, name)
	}
	file := path.Join(path.Dir(p.source.bundle.Main), name+".lua")
	u, ok := p.source.units[file]
	if !ok || !modulePath.MatchString(name) {
		if !p.source.reported[name] {
			p.fault(p.here(L), "module %q is not beside the file (%s)", name, file)
		}
		return p.unknown
	}
	if u == nil { // its syntax error is reported
		return p.unknown
	}
	// The module runs inside the call of require: an error in it is an error
	// of the whole page, with its own place.
	rets, err := p.run(u)
	if err != nil {
		p.failed(err)
		return p.unknown
	}
	if len(rets) == 0 || rets[0] == lua.LNil {
		return lua.LTrue
	}
	return rets[0]
}

// recorder is a module of drrun in plan scope: a table whose functions say
// where they belong.
func (p *page) recorder(L *lua.LState, name string) lua.LValue {
	short := strings.TrimPrefix(name, "drrun.")
	mod, ok := registry.Module(short)
	if !ok {
		if !p.source.reported[name] {
			p.report(plans.Fault{Pos: p.here(L), Message: fmt.Sprintf("there is no module %q in this version", name), Suggestion: nearModule(name)})
		}
		return p.unknown
	}
	mt := L.NewTable()
	mt.RawSetString("__index", p.recording(mod))
	mt.RawSetString("__newindex", p.box.Func(func(L *lua.LState) int {
		p.fault(p.here(L), "%s cannot be changed", name)
		return 0
	}))
	mt.RawSetString("__metatable", lua.LString("protected"))
	t := L.NewTable()
	L.SetMetatable(t, mt)
	return t
}

// recording is the __index of a module on the page: what it gives says, when
// it is called, where it belongs.
func (p *page) recording(mod registry.ModuleDoc) *lua.LFunction {
	return p.box.Func(func(L *lua.LState) int {
		key := L.Get(2).String()
		if _, ok := mod.Function(key); !ok {
			p.faultNear(p.here(L), key, mod.Names(), "drrun.%s has no function %q", mod.Name, key)
			L.Push(p.unknown)
			return 1
		}
		L.Push(p.box.Func(func(L *lua.LState) int {
			p.fault(p.here(L), `%s.%s is only available while the plan runs: put it inside action "…" { function(run) … end }`, mod.Name, key)
			L.Push(p.unknown)
			return 1
		}))
		return 1
	})
}

// ofUnknown is what the library says where an unknown value cannot go on: in
// comparisons and as the limit of a loop.
var ofUnknown = regexp.MustCompile(`attempt to compare (\w+ with userdata|userdata with \w+)|for statement \w+ must be a number`)

// failed turns an error of evaluation into a fault.
func (p *page) failed(err error) {
	pos, text := p.place(err)
	switch {
	case errors.Is(err, sandbox.ErrTime):
		text = "the file was not evaluated within its time limit: it may only describe, is there an endless loop?"
	case errors.Is(err, sandbox.ErrMemory):
		text = "evaluating the file takes too much memory"
	case fault.Is(err, fault.Internal) && p.box.Err() != nil:
		text = err.Error()
	case len(p.source.faults) > 0 && ofUnknown.MatchString(text):
		return // it comes of an unknown name, which is reported
	case text == notCalled:
		text = p.shadowed(pos, text)
	}
	p.fault(pos, "%s", text)
}

// notCalled is what friendly says where something is called that is no function.
const notCalled = "the value that is called is no function"

var localModule = regexp.MustCompile(`^\s*local\s+(\w+)\s*=\s*require\b`)

// shadowed explains a call of no function: a module has the name of a
// constructor, as drrun.exec has, and the file has called it so.
func (p *page) shadowed(pos plans.Pos, text string) string {
	lines := strings.Split(p.source.bundle.Files[pos.File], "\n")
	for i, line := range lines {
		m := localModule.FindStringSubmatch(line)
		if m == nil || p.ctors[m[1]] == nil || pos.Line > len(lines) || !regexp.MustCompile(`\b`+m[1]+`\b`).MatchString(lines[pos.Line-1]) {
			continue
		}
		return fmt.Sprintf("%s is the module of line %d here, not the word for a step: give the module another name", m[1], i+1)
	}
	return text
}

// place splits an error of Lua into where and what.
func (p *page) place(err error) (plans.Pos, string) {
	pos := p.mainPos()
	var ae *lua.ApiError
	if !errors.As(err, &ae) {
		return pos, err.Error()
	}
	text := p.errorText(ae.Object)
	for _, candidate := range []string{text, ae.StackTrace} {
		if at, rest, ok := p.firstPlace(candidate); ok {
			if candidate == text {
				text = rest
			}
			return at, friendly(text)
		}
	}
	return pos, friendly(text)
}

// errorText renders the error value, whatever error() was called with.
func (p *page) errorText(v lua.LValue) string {
	switch v := v.(type) {
	case lua.LString:
		return string(v)
	case *lua.LTable:
		for _, key := range []string{"message", "msg", "error"} {
			if s, ok := v.RawGetString(key).(lua.LString); ok {
				return string(s)
			}
		}
		return "an error that is a table"
	case *lua.LNilType:
		return noMessage
	case lua.LNumber, lua.LBool:
		return v.String()
	}
	if n, ok := asNode(v); ok {
		return "an error that is a " + n.ctor.Name
	}
	if _, ok := asSecret(v); ok {
		return "an error that is a secret"
	}
	return "an error that is a " + v.Type().String() // without its address, which differs each time
}

// firstPlace finds "FILE:LINE:" of a file of the bundle at the beginning of s,
// or its first line in a stack trace.
func (p *page) firstPlace(s string) (plans.Pos, string, bool) {
	for line := range strings.SplitSeq(s, "\n") {
		line = strings.TrimSpace(line)
		for name := range p.source.bundle.Files {
			rest, ok := strings.CutPrefix(line, name+":")
			if !ok {
				continue
			}
			num, tail, _ := strings.Cut(rest, ":")
			if n, err := strconv.Atoi(strings.TrimSpace(num)); err == nil {
				if tail == "" || s != line {
					tail = strings.TrimPrefix(strings.TrimPrefix(s, name+":"+num+":"), " ")
				}
				return plans.Pos{File: name, Line: n}, strings.TrimSpace(tail), true
			}
		}
	}
	return plans.Pos{}, "", false
}

var indexed = regexp.MustCompile(`attempt to index a non-table object\((\w+)\) with key '([^']*)'`)

var added = regexp.MustCompile(`cannot perform add operation between (string and \w+|\w+ and string)`)

// friendly says errors of the library in the words of a manual.
func friendly(s string) string {
	s = indexed.ReplaceAllString(s, `cannot read ".$2": the value is $1`)
	s = strings.ReplaceAll(s, "attempt to call a non-function object", notCalled)
	s = added.ReplaceAllString(s, "$0: texts are joined by ..")
	if i := strings.Index(s, "\nstack traceback:"); i >= 0 {
		s = s[:i]
	}
	if s = strings.TrimSpace(s); s == "" {
		return noMessage
	}
	return s
}

// noMessage stands for what error() was given nothing to say.
const noMessage = `an error without a message: error("…") says what is wrong`

// returned checks what the main file returned: one item of the wanted kind.
func (p *page) returned(rets []lua.LValue, kind string) (*node, bool) {
	pos := p.mainPos()
	at := slices.IndexFunc(p.nodes, func(n *node) bool { return n.ctor.Name == kind })
	if at >= 0 {
		pos = p.nodes[at].pos
	}
	if len(rets) > 0 && sandbox.IsUnknown(rets[0]) {
		return nil, false
	}
	switch {
	case len(rets) == 0 || rets[0] == lua.LNil:
		if at >= 0 {
			p.fault(pos, "the %s is not returned: write return %s %q { … }", kind, kind, p.nodes[at].name)
		} else {
			p.fault(pos, "the file returns nothing: write return %s \"name\" { … }", kind)
		}
		return nil, false
	case len(rets) > 1:
		p.fault(pos, "the file returns %d values, want one %s", len(rets), kind)
	}
	n, ok := asNode(rets[0])
	if !ok || n.ctor.Name != kind {
		p.fault(pos, "the file returns %s, want a %s", describe(rets[0]), kind)
		return nil, false
	}
	n.placed++
	return n, true
}

// unplaced reports items that stand nowhere, or twice; of items inside each
// other only the outermost.
func (p *page) unplaced() {
	for _, n := range p.nodes {
		if n.placed > 1 {
			p.fault(n.pos, "%s stands in %d places: an item is placed once", n, n.placed)
		}
		if n.placed == 0 && !n.broken {
			p.fault(n.pos, "%s is built, but stands nowhere", n)
			p.markInside(n, 0)
		}
	}
}

func (p *page) markInside(n *node, depth int) {
	if n.body == nil || depth > 50 {
		return
	}
	var walk func(t *lua.LTable, depth int)
	walk = func(t *lua.LTable, depth int) {
		if depth > 50 {
			return
		}
		sandbox.ForEach(t, func(_, v lua.LValue) {
			if !p.visit(n.pos) {
				return
			}
			if c, ok := asNode(v); ok {
				if c.placed == 0 {
					c.placed = 1
					p.markInside(c, depth+1)
				}
			} else if inner, ok := v.(*lua.LTable); ok {
				walk(inner, depth+1)
			}
		})
	}
	walk(n.body, depth)
}
