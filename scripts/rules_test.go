package scripts_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestOneMessagePerRule holds the message of every rule of the language. Each
// case of testdata/rules/*.txt is one file with a mistake, or with none.
func TestOneMessagePerRule(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"plan", "estate"} {
		raw, err := os.ReadFile(filepath.Join("testdata", "rules", kind+".txt"))
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		for _, c := range strings.Split(strings.TrimPrefix(string(raw), "== "), "\n== ") {
			name, src, _ := strings.Cut(c, "\n")
			got := faultsOf(t, one("p.lua", src), kind == "estate")
			var lines []string
			for _, l := range strings.Split(got, "\n") {
				if !strings.HasPrefix(l, "    ") { // the source lines are in the txt
					lines = append(lines, l)
				}
			}
			out.WriteString("== " + name + "\n" + strings.Join(lines, "\n"))
		}
		golden(t, "rules/"+kind+".golden", out.String())
	}
}
