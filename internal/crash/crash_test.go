package crash_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/drrun/drrun/internal/crash"
)

// TestPointsOfTheTree holds the list of points against the calls in the tree:
// each call has a literal name that is listed, each listed one is called at one
// place, and says what it is.
func TestPointsOfTheTree(t *testing.T) {
	t.Parallel()
	listed, called := map[string]bool{}, map[string][]string{}
	form := regexp.MustCompile(`^(agent|replica|source|runtime)(\.[a-z]+)+$`)
	for _, p := range crash.Points {
		if listed[p.Name] || !form.MatchString(p.Name) || len(p.What) < 20 {
			t.Errorf("point %q (%q): listed twice, badly named or not explained", p.Name, p.What)
		}
		listed[p.Name] = true
	}
	fset := token.NewFileSet()
	for _, dir := range []string{"agent", "runtime", "transport", "cmd", "internal", "scheduler"} {
		err := filepath.WalkDir(filepath.Join("../..", dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			f, err := parser.ParseFile(fset, path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(f, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				sel, ok := call.Fun.(*ast.SelectorExpr)
				if pkg, isIdent := selX(sel, ok); !isIdent || pkg != "crash" || sel.Sel.Name != "At" {
					return true
				}
				lit, ok := call.Args[0].(*ast.BasicLit)
				if !ok {
					t.Errorf("%s: the name of a crash point is not a literal", fset.Position(call.Pos()))
					return true
				}
				name, err := strconv.Unquote(lit.Value)
				if err != nil {
					t.Error(err)
				}
				called[name] = append(called[name], fset.Position(call.Pos()).String())
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, at := range called {
		if !listed[name] {
			t.Errorf("%s: crash point %q is not in crash.Points", at[0], name)
		}
		if len(at) > 1 {
			t.Errorf("crash point %q stands at %v: a kill would not say which", name, at)
		}
	}
	for name := range listed {
		if called[name] == nil {
			t.Errorf("crash point %q is listed and stands nowhere", name)
		}
	}
}

func selX(sel *ast.SelectorExpr, ok bool) (string, bool) {
	if !ok {
		return "", false
	}
	id, ok := sel.X.(*ast.Ident)
	if !ok {
		return "", false
	}
	return id.Name, true
}
