package reference

import (
	"regexp"
	"strings"

	"github.com/drrun/drrun/scripts/registry"
)

// arg is an argument of a function as the registry writes it.
type arg struct {
	name     string
	optional bool
	typ      string // of LuaCATS
}

var notName = regexp.MustCompile(`[^a-z_0-9]+`)

// arguments reads "name, [text], { a =, b = }, function(w) … end". The text in
// parentheses, which methods have, means the same.
func arguments(f registry.Function) (args []arg, rest bool) {
	for i, part := range f.Arguments() {
		a := arg{}
		if inner, ok := strings.CutPrefix(part, "["); ok {
			a.optional, part = true, strings.TrimSuffix(inner, "]")
		}
		switch {
		case part == "…":
			rest = true
			continue
		case strings.HasPrefix(part, "{"):
			a.name, a.typ = "options", options(f, part)
			a.optional = a.optional || i > 0
		case strings.HasPrefix(part, "function("):
			a.name, a.typ = "fn", function(part)
		default:
			a.name = notName.ReplaceAllString(part, "_")
			a.typ = f.TypeOf(a.name)
		}
		args = append(args, a)
	}
	return args, rest
}

// options is the type of "{ a =, b = | c = }".
func options(f registry.Function, text string) string {
	var fields []string
	for _, name := range registry.OptionNames(text) {
		if name == "…" {
			fields = append(fields, "[string]: any")
			continue
		}
		fields = append(fields, name+"?: "+f.TypeOf(name))
	}
	return "{ " + strings.Join(fields, ", ") + " }"
}

// function is the type of "function(w) … end".
func function(text string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(text, "function("), ")")
	switch name {
	case "":
		return "fun()"
	case "w":
		return "fun(w: drrun.World)"
	case "run":
		return "fun(run: drrun.TestRun): any"
	}
	return "fun(" + name + ": any): any"
}

// overloads are the arguments of a function without those that may be left out
// before others: answer("go") beside answer("a wait", "go").
func overloads(args []arg) (all []string) {
	var without func(i int, kept []string, dropped bool)
	without = func(i int, kept []string, dropped bool) {
		if i == len(args) {
			if dropped {
				all = append(all, strings.Join(kept, ", "))
			}
			return
		}
		opt := ""
		if args[i].optional {
			opt = "?"
		}
		without(i+1, append(kept[:len(kept):len(kept)], args[i].name+opt+": "+args[i].typ), dropped)
		if args[i].optional && i+1 < len(args) {
			without(i+1, kept, true)
		}
	}
	without(0, nil, false)
	return all
}
