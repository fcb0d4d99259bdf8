package lint_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// proof is how docs/failure-modes.md names a test: a package and a function, or
// a script of the command line.
var proof = regexp.MustCompile("`([a-z0-9/-]+) (Test[A-Za-z0-9]+|script/([a-z]+/)?[a-z_]+\\.txt)`")

// TestFailureModesAreTested: every row of the page names a test that exists, or
// says that there is none.
func TestFailureModesAreTested(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	page, err := os.ReadFile(filepath.Join(root, "docs/failure-modes.md"))
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func (Test[A-Za-z0-9]+)\(`)
	for _, s := range tree(t) {
		if s.test {
			for _, m := range function.FindAllStringSubmatch(s.text, -1) {
				have[s.dir+" "+m[1]] = true
			}
		}
	}
	rows := 0
	for line := range strings.Lines(string(page)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| fault ") {
			continue
		}
		rows++
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 5 {
			t.Errorf("docs/failure-modes.md: a row of %d cells, want 5: %s", len(cells), line)
			continue
		}
		last := cells[4]
		named := proof.FindAllStringSubmatch(last, -1)
		if len(named) == 0 && !strings.Contains(last, "*not covered*") {
			t.Errorf("docs/failure-modes.md: %q names no test", strings.TrimSpace(cells[0]))
		}
		if len(named) != strings.Count(last, "`")/2 {
			t.Errorf("docs/failure-modes.md: %q names something that is neither a test nor a script:%s", strings.TrimSpace(cells[0]), last)
		}
		for _, n := range named {
			if !exists(root, have, n[1], n[2], n[3]) {
				t.Errorf("docs/failure-modes.md: there is no %s %s", n[1], n[2])
			}
		}
	}
	if rows < 40 {
		t.Errorf("docs/failure-modes.md: %d rows were read", rows)
	}
}

// exists looks for a test function, or for a script below testdata; those in
// script/ itself are named without a further folder.
func exists(root string, have map[string]bool, dir, name, sub string) bool {
	script, ok := strings.CutPrefix(name, "script/")
	if !ok {
		return have[dir+" "+name]
	}
	if sub == "" {
		script = "script/" + script
	}
	_, err := os.Stat(filepath.Join(root, dir, "testdata", script))
	return err == nil
}
