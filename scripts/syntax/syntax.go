package syntax

import (
	"fmt"
	"strings"
	"unicode/utf8"

	lua "github.com/yuin/gopher-lua"
	"github.com/yuin/gopher-lua/ast"
	"github.com/yuin/gopher-lua/parse"

	"github.com/drrun/drrun/plans"
)

// Limits of one file.
const (
	MaxSource = 1 << 20 // bytes
	maxDepth  = 200     // nesting of statements and expressions, as in Lua 5.1
	maxItems  = 20000   // items written out in one table
)

// Hidden is the names of the functions that Load puts into the tree. They
// cannot be written in Lua; the compiled chunk is called with the functions
// themselves, in this order.
//
//	Tab(id, table) table       says which table constructor made a table
//	New(name, line) function   the constructor of that name, for a call in that line
//	Cat(a, b, …) value         concatenation with limits
//	List(n, table, …) table    appends what follows after item n
//	Len(value) number          the length of a value, with limits
//	Took(n)                    where blocks are counted: block n runs
var Hidden = []string{hiddenTab, hiddenNew, hiddenCat, hiddenList, hiddenLen}

const (
	hiddenTab  = "\x00tab"
	hiddenNew  = "\x00new"
	hiddenCat  = "\x00cat"
	hiddenList = "\x00list"
	hiddenLen  = "\x00len"
	hiddenTook = "\x00took" // is not among Hidden: it comes behind them
)

// Words are the names of the language, as the file may use them.
type Words struct {
	Globals      map[string]bool   // allowed everywhere
	Constructors map[string]bool   // of this kind of file; plan scope only
	Elsewhere    map[string]string // known names that are not allowed here, with the reason
	Modules      map[string]Module // what require finds → the functions it has; others are not looked into
	Run          Module            // what the argument of a function of the run has
	Count        bool              // a block says that it runs: for tests
}

// Module is the functions of a module by name.
type Module map[string]Function

// Function is what is known of the arguments of a function.
type Function struct {
	Arg     int                                 // which argument is its table of options, from 0
	Options []string                            // names in that table; none: it has no such table
	Wrong   func(name string, value any) string // what is wrong with a string, float64, bool or (a table) []any written for an option; "": nothing
}

// Table is one table constructor of the page, outside of functions of the run.
type Table struct {
	Line, End int
	Keys      map[string]int // line of every key written as a name or string
	Items     []int          // lines of the items
	Open      bool           // the last item is a call or ...: it can be any number of values
}

// Unit is one file, ready to run.
type Unit struct {
	Name     string
	Tables   []Table  // by id
	Requires []Import // modules it loads by a constant name
	Secrets  []Import // secrets it names by a constant, in functions too
	Machines []Import // machines that functions of the run name by a constant: run:machine("db1")
	Blocks   []Block  // that are counted
	Proto    *lua.FunctionProto
}

// Import is a name from elsewhere, written as a constant.
type Import struct {
	Name string
	Line int
}

// Load reads one file. With faults the unit is nil only if the file cannot be
// evaluated at all: a syntax error stands alone.
func Load(name, src string, w Words) (*Unit, plans.Faults) {
	one := func(line int, msg string) plans.Faults {
		return plans.Faults{{Pos: plans.Pos{File: name, Line: line}, Message: msg}}
	}
	if len(src) > MaxSource {
		return nil, one(1, fmt.Sprintf("the file is longer than %d bytes", MaxSource))
	}
	if line := notText(src); line > 0 {
		return nil, one(line, "this is no UTF-8 text: save the file as UTF-8")
	}
	toks := tokenize(strings.TrimPrefix(src, byteOrderMark))
	stmts, err := parseSource(name, src)
	if err != nil {
		return nil, plans.Faults{explain(name, toks, err)}
	}
	t := &tree{file: name, words: w, ends: braceEnds(toks), globals: make(map[string]bool)}
	var blocks []Block
	if w.Count {
		t.blocks = &blocks
	}
	stmts = t.chunk(stmts)
	if t.tooDeep > 0 {
		return nil, one(t.tooDeep, fmt.Sprintf("this is nested more than %d levels deep", maxDepth))
	}
	proto, err := compile(name, stmts)
	if err != nil {
		return nil, append(t.faults, one(compileLine(err), "syntax: "+compileMessage(err))...)
	}
	return &Unit{Name: name, Tables: t.tables, Requires: t.imports, Secrets: t.secrets, Machines: t.machines, Blocks: blocks, Proto: proto}, t.faults
}

// Imports returns the modules that a source loads by a constant name, as far
// as it can be read.
func Imports(name, src string) []Import {
	stmts, err := parseSource(name, src)
	if err != nil || len(src) > MaxSource {
		return nil
	}
	t := &tree{file: name, globals: make(map[string]bool)}
	t.chunk(stmts)
	return t.imports
}

// notText returns the first line that is not UTF-8, or 0. A file is stored as
// JSON with the run, where other bytes would not stay what they are.
func notText(src string) int {
	for i, line := range strings.Split(src, "\n") {
		if !utf8.ValidString(line) {
			return i + 1
		}
	}
	return 0
}

// byteOrderMark is what some editors put before the first line.
const byteOrderMark = "\ufeff"

func parseSource(name, src string) (stmts []ast.Stmt, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	if depth := bracketDepth(src); depth > 5000 {
		return nil, fmt.Errorf("brackets are nested %d levels deep", depth)
	}
	return parse.Parse(strings.NewReader(strings.TrimPrefix(src, byteOrderMark)), name)
}

// bracketDepth is an upper bound for the depth of brackets in src.
func bracketDepth(src string) int {
	depth, most := 0, 0
	for i := range len(src) {
		switch src[i] {
		case '(', '{', '[':
			depth++
			most = max(most, depth)
		case ')', '}', ']':
			depth--
		}
	}
	return most
}

func compile(name string, stmts []ast.Stmt) (p *lua.FunctionProto, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	return lua.Compile(stmts, name)
}

func compileLine(err error) int {
	if ce, ok := err.(*lua.CompileError); ok { //nolint:errorlint // Compile returns it bare
		return max(1, ce.Line)
	}
	return 1
}

func compileMessage(err error) string {
	if ce, ok := err.(*lua.CompileError); ok { //nolint:errorlint // Compile returns it bare
		return ce.Message
	}
	return err.Error()
}
