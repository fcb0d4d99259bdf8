package lint_test

import (
	"go/ast"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestImportTable(t *testing.T) {
	t.Parallel()
	files := tree(t)
	rows := table(t, "package")
	for _, row := range rows {
		for _, p := range append(patterns(row[0]), patterns(row[1])...) {
			if !slices.ContainsFunc(files, func(s source) bool { return matches(p, s.dir) }) {
				t.Errorf("ARCHITECTURE.md: the import table names %s, which has no Go file", p)
			}
		}
	}
	for _, s := range files {
		row := ruleFor(rows, s.dir)
		if row == nil {
			t.Errorf("%s: folder %s is in no row of the import table", s.path, s.dir)
			continue
		}
		for _, imp := range s.imports() {
			own, ok := strings.CutPrefix(imp, module)
			if !ok || allowed(row, s, own) {
				continue
			}
			t.Errorf("%s imports %s: %s may import %s, because %s", s.path, own, row[0], row[1], row[2])
		}
	}
}

func ruleFor(rows [][]string, dir string) []string {
	var best []string
	for _, row := range rows {
		if p := patterns(row[0])[0]; matches(p, dir) && (best == nil || len(p) > len(patterns(best[0])[0])) {
			best = row
		}
	}
	return best
}

func allowed(row []string, s source, own string) bool {
	if matches("internal/...", own) {
		return true
	}
	if s.test && strings.SplitN(own, "/", 2)[0] == strings.SplitN(s.dir, "/", 2)[0] {
		return true
	}
	return slices.ContainsFunc(patterns(row[1]), func(p string) bool { return matches(p, own) })
}

func TestOneDoorPerLibrary(t *testing.T) {
	t.Parallel()
	files := tree(t)
	for _, row := range table(t, "library") {
		library, doors := patterns(row[0])[0], patterns(row[1])
		used := false
		for _, s := range files {
			for _, imp := range s.imports() {
				if imp != library && !strings.HasPrefix(imp, library+"/") {
					continue
				}
				used = true
				if !slices.ContainsFunc(doors, func(d string) bool { return matches(d, s.dir) }) {
					t.Errorf("%s imports %s: its door is %s, because %s", s.path, imp, row[1], row[2])
				}
			}
		}
		if !used {
			t.Errorf("ARCHITECTURE.md gives %s a door, but nothing imports it", library)
		}
	}
}

func TestPackageComments(t *testing.T) {
	t.Parallel()
	has := map[string]bool{}
	for _, s := range tree(t) {
		if s.test {
			continue
		}
		doc := s.ast.Doc.Text()
		has[s.dir] = has[s.dir] || strings.HasPrefix(doc, "Package ") || strings.HasPrefix(doc, "Command ")
	}
	for dir, ok := range has {
		if !ok {
			t.Errorf("%s has no package comment: say what it is for, what it is not for, and its threading rule", dir)
		}
	}
}

func TestPackageNames(t *testing.T) {
	t.Parallel()
	banned := []string{"common", "util", "utils", "types", "helpers", "helper", "lib", "misc", "shared"}
	for _, s := range tree(t) {
		if slices.Contains(banned, path.Base(s.dir)) {
			t.Errorf("%s: a folder is named for its role, not %q", s.path, path.Base(s.dir))
		}
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	for _, s := range tree(t) {
		limit := 600
		if s.test {
			limit = 1000
		}
		if s.lines > limit {
			t.Errorf("%s has %d lines, the limit is %d: split it by what it does", s.path, s.lines, limit)
		}
		if s.test {
			continue
		}
		for _, d := range s.ast.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Body == nil {
				continue
			}
			n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line
			if n > 100 {
				t.Errorf("%s: %s has %d lines, the limit is 100", s.path, f.Name.Name, n)
			}
		}
	}
}

// TestForbiddenCalls holds calls to the place where they are made right.
func TestForbiddenCalls(t *testing.T) {
	t.Parallel()
	rules := []struct {
		call    *regexp.Regexp
		inTests bool
		only    []string // allowed folders
		why     string
	}{
		{regexp.MustCompile(`\bos\.(WriteFile|Rename|Create)\(`), false, []string{"internal/vfs", "internal/lab", "examples/...", "cmd/drrun-bench"}, "durable writes go through internal/vfs"},
		{regexp.MustCompile(`\btime\.Sleep\(`), true, []string{"runtime/simworld"}, "wait for an event, or use testing/synctest"},
		{regexp.MustCompile(`\bos\.Exit\(`), false, []string{"cmd/...", "examples/..."}, "only a program ends itself"},
		{regexp.MustCompile(`\b(TODO|FIXME|XXX)\b`), true, []string{"internal/lint"}, "an open end belongs in an issue"},
		{regexp.MustCompile(`\b[tfb]\.Skip(f|Now)?\(`), true, []string{"internal/needs"}, "a test that needs something asks internal/needs, which fails where skips are forbidden"},
	}
	for _, s := range tree(t) {
		for _, r := range rules {
			if s.dir == "internal/lint" || s.test && !r.inTests || slices.ContainsFunc(r.only, func(p string) bool { return matches(p, s.dir) }) {
				continue
			}
			for i, line := range strings.Split(s.text, "\n") {
				if m := r.call.FindString(line); m != "" {
					t.Errorf("%s:%d: %s: %s", s.path, i+1, m, r.why)
				}
			}
		}
	}
}

func TestErrorTexts(t *testing.T) {
	t.Parallel()
	bad := regexp.MustCompile(`(Errorf|errors\.New)\([^"]*"(failed to|error |could not|unable to)`)
	for _, s := range tree(t) {
		for i, line := range strings.Split(s.text, "\n") {
			if s.dir != "internal/lint" && bad.MatchString(line) {
				t.Errorf("%s:%d: write \"cannot <verb> <object>: %%w\": %s", s.path, i+1, strings.TrimSpace(line))
			}
		}
	}
}

// TestImportChain keeps the longest chain of the project's own imports short.
func TestImportChain(t *testing.T) {
	t.Parallel()
	const limit = 8
	deps := map[string]map[string]bool{}
	for _, s := range tree(t) {
		if s.test {
			continue
		}
		if deps[s.dir] == nil {
			deps[s.dir] = map[string]bool{}
		}
		for _, imp := range s.imports() {
			if own, ok := strings.CutPrefix(imp, module); ok {
				deps[s.dir][own] = true
			}
		}
	}
	memo := map[string][]string{}
	var longest func(dir string) []string
	longest = func(dir string) []string {
		if c, ok := memo[dir]; ok {
			return c
		}
		var best []string
		for d := range deps[dir] {
			if c := longest(d); len(c) > len(best) {
				best = c
			}
		}
		memo[dir] = append([]string{dir}, best...)
		return memo[dir]
	}
	for dir := range deps {
		if c := longest(dir); len(c)-1 > limit {
			t.Errorf("import chain of %d edges, the limit is %d: %s", len(c)-1, limit, strings.Join(c, " → "))
		}
	}
}
