package lint_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/drrun/drrun/"

// source is one Go file of the tree.
type source struct {
	path  string // from the root, slashes
	dir   string
	test  bool
	lines int
	text  string
	ast   *ast.File
	fset  *token.FileSet
}

// tree returns every Go file of the module.
func tree(t *testing.T) []source {
	t.Helper()
	files, err := parseTree()
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 10 {
		t.Fatalf("found only %d Go files: the rules would hold for nothing", len(files))
	}
	return files
}

// parseTree reads and parses the files, once for all rules: they only look.
var parseTree = sync.OnceValues(func() ([]source, error) {
	root := filepath.Join("..", "..")
	var files []source
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() && rel != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || rel == "bin" || rel == "tools") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(rel, ".go") {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, rel, text, parser.ParseComments)
		if err != nil {
			return err
		}
		files = append(files, source{
			path: rel, dir: path.Dir(rel), test: strings.HasSuffix(rel, "_test.go"),
			lines: strings.Count(string(text), "\n"), text: string(text), ast: f, fset: fset,
		})
		return nil
	})
	return files, err
})

func (s source) imports() []string {
	var out []string
	for _, i := range s.ast.Imports {
		out = append(out, strings.Trim(i.Path.Value, `"`))
	}
	return out
}

// matches reports whether a folder is covered by a pattern: "a/b" itself, or
// "a/..." for a and what is below.
func matches(pattern, dir string) bool {
	if base, ok := strings.CutSuffix(pattern, "/..."); ok {
		return dir == base || strings.HasPrefix(dir, base+"/")
	}
	return dir == pattern
}

// table reads the markdown table of ARCHITECTURE.md whose first header is
// head: a row is its cells, back quotes removed from the first two.
func table(t *testing.T, head string) [][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	var rows [][]string
	in := false
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		switch {
		case strings.HasPrefix(line, "| "+head+" |"):
			in = true
		case in && !strings.HasPrefix(line, "|"):
			return rows
		case in && !strings.HasPrefix(line, "|---") && len(cells) >= 3:
			rows = append(rows, cells)
		}
	}
	if len(rows) == 0 {
		t.Fatalf("ARCHITECTURE.md has no table %q", head)
	}
	return rows
}

func patterns(cell string) []string {
	var out []string
	for p := range strings.SplitSeq(cell, ",") {
		if p = strings.Trim(strings.TrimSpace(p), "`"); p != "" {
			out = append(out, p)
		}
	}
	return out
}
