package scripts_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/plans"
)

// TestOneMessagePerRule holds the message of every rule of the language. Each
// case of testdata/rules/*.txt is one file with a mistake, or with none.
func TestOneMessagePerRule(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"plan", "values", "estate", "addresses"} {
		raw, err := os.ReadFile(filepath.Join("testdata", "rules", kind+".txt"))
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		for _, c := range strings.Split(strings.TrimPrefix(string(raw), "== "), "\n== ") {
			name, src, _ := strings.Cut(c, "\n")
			got := faultsOf(t, one("p.lua", src), kind == "estate" || kind == "addresses")
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

// TestOneMessagePerLimit holds the messages of files that are too large to write
// down, of bundles without a file, and of --set.
func TestOneMessagePerLimit(t *testing.T) {
	t.Parallel()
	const plan = "return plan 'p' { from = 'a', to = 'b', %s group 'g' { machine 'm' } }"
	page := func(statements string) string { return statements + "\n" + fmt.Sprintf(plan, "") }
	var out strings.Builder
	for _, c := range []struct {
		name string
		b    plans.Bundle
		set  map[string]string
	}{
		{"no file", plans.Bundle{Main: "p.lua"}, nil},
		{"a long file", one("p.lua", "--"+strings.Repeat("x", 1<<20)), nil},
		{"no text", one("p.lua", "local a = 1\nlocal b = '\xff'"), nil},
		{"no text in a value", one("p.lua", fmt.Sprintf(plan, `rto = "\255",`)), nil},
		{"deep brackets", one("p.lua", "\nlocal x = "+strings.Repeat("{", 6000)+strings.Repeat("}", 6000)), nil},
		{"deep tables", one("p.lua", "\nlocal x = "+strings.Repeat("{", 300)+strings.Repeat("}", 300)), nil},
		{"many locals", one("p.lua", page(strings.Repeat("local a = 1\n", 300))), nil},
		{"many items", one("p.lua", page("local t = { "+strings.Repeat("0,", 20001)+" }")), nil},
		{"many mistakes", one("p.lua", page(`for i = 1, 1500 do group("g" .. i) {} end`)), nil},
		{"many values", one("p.lua", `local t = { machine "m" } for i = 1, 18 do t = { t, t } end
return plan "p" { from = "a", to = "b", group "g" { t } }`), nil},
		{"a long list", one("p.lua", page("local t = {}\nfor i = 1000000, 1000002 do t[i] = i end\nlocal n = #t")), nil},
		{"a long text", one("p.lua", page("local s = ('x'):rep(1e9)")), nil},
		{"a hard pattern", one("p.lua", page("local x = ('a'):rep(40):find(('a*'):rep(40) .. 'b')")), nil},
		{"a mistake in a module", plans.Bundle{Main: "p.lua", Files: map[string]string{"p.lua": page("local m = require 'm'"), "m.lua": "local n = 5\nreturn n.x.y"}}, nil},
		{"a module that does not parse", plans.Bundle{Main: "p.lua", Files: map[string]string{"p.lua": page("local m = require 'm'"), "m.lua": "local n = \nreturn"}}, nil},
		{"an unknown parameter", one("p.lua", fmt.Sprintf(plan, `params = { region = "eu" },`)), map[string]string{"regio": "us"}},
		{"a parameter that is needed", one("p.lua", fmt.Sprintf(plan, `params = { region = { required = true } },`)), map[string]string{}},
		{"a parameter of another type", one("p.lua", fmt.Sprintf(plan, `params = { ttl = 60 },`)), map[string]string{"ttl": "soon"}},
		{"a parameter that is not text", one("p.lua", fmt.Sprintf(plan, `params = { region = "eu" },`)), map[string]string{"region": "\xff"}},
	} {
		_, err := loader().LoadPlan(c.b, c.set)
		if !fault.Is(err, fault.Invalid) {
			t.Fatalf("%s: %v", c.name, err)
		}
		fmt.Fprintf(&out, "== %s\n", c.name)
		n := 0
		for line := range strings.Lines(err.Error()) {
			if strings.HasPrefix(line, "    ") {
				continue
			}
			if n++; n <= 3 || strings.Contains(line, "not listed") { // a thousand are alike
				out.WriteString(strings.TrimSuffix(line, "\n") + "\n")
			}
		}
	}
	golden(t, "rules/limits.golden", out.String())
}

// TestEnoughMessages: the golden files hold at least this many different messages,
// each at a line of its file, and suggestions where a word is near. They are what
// users read, so none may go unnoticed.
func TestEnoughMessages(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*/*.golden")
	if err != nil {
		t.Fatal(err)
	}
	place := regexp.MustCompile(`^[a-z]+\.lua:[1-9]\d*: `)
	quoted := regexp.MustCompile(`"[^"]*"|\d+`)
	different, suggestions := map[string]bool{}, 0
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(raw)) {
			line = strings.TrimSpace(line)
			at := place.FindString(line)
			if at == "" {
				continue
			}
			different[quoted.ReplaceAllString(line[len(at):], "_")] = true // names and numbers make no other message
			if strings.Contains(line, ", did you mean ") {
				suggestions++
			}
		}
	}
	const messages, near = 350, 38
	t.Logf("%d different messages, %d suggestions", len(different), suggestions)
	if len(different) < messages || suggestions < near {
		t.Errorf("%d different messages and %d suggestions in %d files, want %d and %d", len(different), suggestions, len(files), messages, near)
	}
}
