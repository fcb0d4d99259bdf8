package registry

import (
	"fmt"
	"slices"
	"strings"

	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/plans"
)

// Arguments returns the arguments as they are documented, one by one: "url",
// "{ within = }", "[text]".
func (f Function) Arguments() (parts []string) {
	text := strings.TrimSuffix(strings.TrimPrefix(f.Args, "("), ")")
	depth, from := 0, 0
	for i, c := range text {
		switch {
		case strings.ContainsRune("{[(", c):
			depth++
		case strings.ContainsRune("}])", c):
			depth--
		case c == ',' && depth == 0:
			parts, from = append(parts, strings.TrimSpace(text[from:i])), i+1
		}
	}
	if last := strings.TrimSpace(text[from:]); last != "" {
		parts = append(parts, last)
	}
	return parts
}

// OptionNames returns the names in an argument like "{ a =, b = | c = }"; "…"
// stands for more that are not named.
func OptionNames(arg string) (names []string) {
	for _, word := range strings.FieldsFunc(strings.Trim(arg, "[]{} "), func(c rune) bool { return c == ',' || c == '|' }) {
		names = append(names, strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(word), "=")))
	}
	return names
}

// Options returns which argument of the function is a table of options, from 0,
// and the names of its fields; none: the function has no such table.
func (f Function) Options() (arg int, names []string) {
	for i, a := range f.Arguments() {
		if strings.HasPrefix(strings.TrimPrefix(a, "["), "{") {
			return i, OptionNames(a)
		}
	}
	return 0, nil
}

// TypeOf is the type of an argument or option, in the words of LuaCATS.
func (f Function) TypeOf(name string) string {
	if t, ok := ArgTypes[f.Name+"."+name]; ok {
		return t
	}
	return ArgTypes[name]
}

// OptionsOf returns the options of "dns.update" or "run:ask".
func OptionsOf(call string) []string {
	if method, ok := strings.CutPrefix(call, "run:"); ok {
		i := slices.IndexFunc(RunFields, func(f Function) bool { return f.Name == method })
		_, names := RunFields[i].Options()
		return names
	}
	module, name, _ := strings.Cut(call, ".")
	m, _ := Module(module)
	f, _ := m.Function(name)
	_, names := f.Options()
	return names
}

// WrongOption says what is wrong with a value written for an option: a string, a
// float64, a bool or, whatever is in the table, a []any; "": nothing.
func (f Function) WrongOption(name string, value any) string {
	want := f.TypeOf(name)
	is, fits := "", false
	words := quoted(want)
	for t := range strings.SplitSeq(want, "|") {
		t = strings.Trim(t, "()")
		var ok bool
		switch v := value.(type) {
		case string:
			is = fmt.Sprintf("the string %q", v)
			ok = t == "string" || t == "any" || t == "drrun.Secret" || t == "drrun.Duration" || slices.Contains(words, v) || slices.Contains(words, strings.ToUpper(v))
		case float64:
			is = fmt.Sprintf("the number %v", v)
			ok = t == "integer" || t == "number" || t == "any"
		case bool:
			is = fmt.Sprint(v)
			ok = t == "boolean" || t == is || t == "any"
		case []any:
			is = "a table"
			ok = t == "any" || strings.HasSuffix(t, "[]") || strings.HasPrefix(t, "table")
		}
		fits = fits || ok
	}
	s, isText := value.(string)
	switch {
	case want == "":
		return ""
	case !fits:
		if near := plans.Nearest(s, words); near != "" {
			return fmt.Sprintf("is %s, want %s, did you mean %q?", is, inWords(want), near)
		}
		return fmt.Sprintf("is %s, want %s", is, inWords(want))
	case isText && want == "drrun.Duration":
		if _, err := quantity.ParseDuration(s); err != nil {
			return "is no duration: " + err.Error()
		}
	}
	return ""
}

// quoted are the words of a type like `"stop"|"continue"`.
func quoted(t string) (words []string) {
	for w := range strings.SplitSeq(t, "|") {
		if strings.HasPrefix(w, `"`) {
			words = append(words, strings.Trim(w, `"`))
		}
	}
	return words
}

// inWords is a type for an author: `a string or false`.
func inWords(t string) string {
	list := strings.HasSuffix(t, ")[]")
	names := map[string]string{"drrun.Duration": `a duration like "5s"`, "drrun.Secret": `secret "name"`, "string": "a string", "integer": "a number",
		"number": "a number", "boolean": "true or false", "string[]": "a list of strings", "integer[]": "a list of numbers"}
	var parts []string
	if list {
		t = strings.Trim(t, "()[]")
	}
	for w := range strings.SplitSeq(t, "|") {
		switch {
		case list && strings.HasPrefix(w, "drrun.Sec"): // goes without saying
			continue
		case strings.HasPrefix(w, "table<string, string"):
			w = "a table from names to texts"
		case strings.HasPrefix(w, "drrun.Secret>"):
			continue
		case names[w] != "":
			w = names[w]
		}
		if list {
			w = strings.TrimPrefix(w, "a ") + "s"
		}
		parts = append(parts, w)
	}
	if n := len(parts); n > 1 {
		parts = []string{strings.Join(parts[:n-1], ", ") + " or " + parts[n-1]}
	}
	if list {
		return "a list of " + parts[0]
	}
	return parts[0]
}
