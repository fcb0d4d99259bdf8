package syntax

import (
	"slices"

	"github.com/yuin/gopher-lua/ast"
)

// Block is statements that a run of the file may leave out: a branch, the body
// of a loop or of a function.
type Block struct {
	Line   int    // of what decides about it
	Never  string // what it means that it never ran; "": that is told elsewhere
	Inside int    // the block around it; -1: the file
}

const (
	neverTrue   = "the condition was never true"
	neverFalse  = "the condition was never false"
	neverTurned = "the loop never had a turn"
	neverCalled = "the function was never called"
)

// way walks a block in a scope of its own, and returns what stands for it: where
// blocks are counted it begins with a call that says so, also where it has no
// statement of its own.
func (t *tree) way(line int, never string, stmts []ast.Stmt, names ...string) []ast.Stmt {
	if t.blocks == nil {
		t.block(stmts, names...)
		return stmts
	}
	was, n := t.inside, len(*t.blocks)
	*t.blocks = append(*t.blocks, Block{Line: line, Never: never, Inside: was})
	t.inside = n
	t.block(stmts, names...)
	t.inside = was
	took := at(&ast.FuncCallStmt{Expr: hiddenCall(line, hiddenTook, numberAt(n, line))}, line)
	return slices.Concat([]ast.Stmt{took}, stmts)
}
