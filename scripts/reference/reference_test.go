package reference_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/yuin/gopher-lua/parse"

	"github.com/drrun/drrun/internal/needs"
	"github.com/drrun/drrun/scripts/reference"
	"github.com/drrun/drrun/scripts/registry"
)

var update = flag.Bool("update", false, "write docs/lua anew")

// TestPagesAreUpToDate: docs/lua is what the registry says, and nothing else.
func TestPagesAreUpToDate(t *testing.T) {
	t.Parallel()
	dir := filepath.Join("..", "..", "docs", "lua")
	pages := reference.Pages()
	for name, text := range pages {
		file := filepath.Join(dir, name)
		if *update {
			if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // documents
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil { //nolint:gosec // a document
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != text {
			t.Errorf("%s is not what the registry says (%v): go test ./scripts/reference -update", file, err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != len(pages) {
		t.Errorf("%s has %d files, want %d (%v)", dir, len(entries), len(pages), err)
	}
}

// TestTypes: the files are Lua, name no type that is not defined, and know the
// type of every argument and result.
func TestTypes(t *testing.T) {
	t.Parallel()
	files := reference.Types()
	all := ""
	for _, name := range slices.Sorted(maps.Keys(files)) {
		text := files[name]
		all += text
		if _, err := parse.Parse(strings.NewReader(text), name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if i := regexp.MustCompile(`(?m)^---@(param|field) \S+ *$|^---@return *$|: *[,)}]`).FindString(text); i != "" {
			t.Errorf("%s: a type is missing: %s", name, i)
		}
	}
	defined := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^---@(?:class|alias) (drrun\.[\w.]+)`).FindAllStringSubmatch(all, -1) {
		if defined[m[1]] {
			t.Errorf("%s is defined twice", m[1])
		}
		defined[m[1]] = true
	}
	code := regexp.MustCompile(`(?m)^---@(?:class|param|return|field|overload|alias|operator) .*`)
	for _, line := range code.FindAllString(all, -1) {
		if field, ok := strings.CutPrefix(line, "---@field "); ok { // without its description
			words := strings.SplitN(field, " ", 3)
			line = strings.Join(words[:min(2, len(words))], " ")
		}
		for _, name := range regexp.MustCompile(`drrun\.[\w.]+`).FindAllString(line, -1) {
			if !defined[name] {
				t.Errorf("%s is named and not defined: %s", name, line)
			}
		}
	}
	for _, want := range []string{
		"function plan(name) end", "function machine(name) end", "function machines(body) end", "function dns.update(options) end", "function Run:ask(question, options) end",
		"---@overload fun(fn: fun(w: drrun.World))", "---@overload fun(self: drrun.TestRun, word: ", "---@field needs? string|string[] ", "---@return fun(body: drrun.plan): drrun.Item\nfunction plan(name) end",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("the types lack %s", want)
		}
	}
}

// TestTypesAreUsed: every type of the registry is that of something.
func TestTypesAreUsed(t *testing.T) {
	t.Parallel()
	functions := map[string]registry.Function{}
	add := func(prefix string, lists ...[]registry.Function) {
		for _, f := range slices.Concat(lists...) {
			functions[prefix+f.Name] = f
		}
	}
	add("run.", registry.RunFields)
	add("test.", registry.TestFunctions)
	add("world.", registry.WorldMethods)
	add("result.", registry.RunMethods, registry.RunResultFields)
	add("assert.", registry.AssertFunctions)
	for _, m := range registry.Modules {
		add(m.Name+".", m.Functions)
	}
	for key := range registry.Returns {
		if _, ok := functions[key]; !ok {
			t.Errorf("Returns has %q, which is no function", key)
		}
	}
	words := ""
	for _, f := range functions {
		words += " " + strings.ReplaceAll(f.Args, " or ", "_or_")
	}
	for key := range registry.ArgTypes {
		name := key[strings.LastIndexByte(key, '.')+1:]
		if !regexp.MustCompile(`\b` + name + `\b`).MatchString(words) {
			t.Errorf("ArgTypes has %q, which is no argument", key)
		}
	}
}

// TestExamplesKeepTheirOwnRules: luacheck, with the rules that drrun init writes,
// has nothing to say of any example, and finds what is not of the language.
func TestExamplesKeepTheirOwnRules(t *testing.T) {
	t.Parallel()
	program := needs.Program(t, "luacheck", "apt-get install lua-check")
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(".luacheckrc", reference.Luacheck())
	check := func() (string, error) {
		cmd := exec.Command(program, "--no-color", "--codes", "--no-max-line-length", ".")
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for i, pattern := range []string{"../../examples/*/*.lua", "../../cmd/drrun/project/*.lua", "../../cmd/internal/plantest/testdata/*/*.lua", "../testdata/pages/*.lua"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) < 2 {
			t.Fatalf("%s: %d files, %v", pattern, len(found), err)
		}
		for _, file := range found {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			write(fmt.Sprint(i)+"-"+filepath.Base(file), string(text))
		}
	}
	if out, err := check(); err != nil {
		t.Errorf("luacheck: %v\n%s", err, out)
	}
	write("bad.lua", "local x = machin \"db1\"\nplan = 5\nos.exit(1)\nit(\"\", nil)\n")
	out, err := check()
	for _, want := range []string{"variable 'machin'", "setting read-only global variable 'plan'", "undefined variable 'os'", "undefined variable 'it'"} {
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("luacheck does not say %q:\n%s", want, out)
		}
	}
}
