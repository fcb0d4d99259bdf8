package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/drrun/drrun/scripts/registry"
)

// standing is one place where a word of the language may stand.
type standing struct {
	where string // "machine of a plan"
	kind  string // its type, its words or its arguments
	doc   string
}

// fieldPlaces finds a word among fields and those of their tables; where names
// what they belong to.
func fieldPlaces(word, where string, fields []registry.Field) (found []standing) {
	for _, f := range fields {
		if f.Name == word {
			kind, doc := fieldText(f)
			found = append(found, standing{"key of " + where, kind, doc})
		}
		if slices.Contains(f.Words, word) {
			found = append(found, standing{fmt.Sprintf("value of %s, a key of %s", f.Name, where), strings.Join(f.Words, "|"), f.Doc})
		}
		inner := f.Name + " of " + where
		if f.Type == registry.Params {
			inner = "a parameter in " + inner
		}
		found = append(found, fieldPlaces(word, inner, f.Fields)...)
	}
	return found
}

// constructorPlaces finds a word in what plans and estates say.
func constructorPlaces(word string) (found []standing) {
	var steps []string
	common := registry.StepFields()
	for i := range registry.Constructors {
		c := &registry.Constructors[i]
		own := c.Fields
		if isStep(c) {
			steps = append(steps, c.Name)
			own = slices.DeleteFunc(slices.Clone(own), func(f registry.Field) bool { return slices.Contains(registry.Names(common), f.Name) })
		}
		found = append(found, fieldPlaces(word, c.Name+" in "+scopeName(c.Scope), own)...)
		if slices.Contains(c.Items, word) {
			found = append(found, standing{fmt.Sprintf("item of %s in %s", c.Name, scopeName(c.Scope)), "", ""})
		}
	}
	return append(fieldPlaces(word, "every step of a plan ("+strings.Join(steps, ", ")+")", common), found...)
}

func scopeName(s registry.Scope) string {
	if s == registry.EstateFile {
		return "an estate"
	}
	return "a plan"
}

// functionLists are the functions of the language by what goes before their names.
func functionLists() []struct {
	prefix string
	where  string
	list   []registry.Function
} {
	lists := []struct {
		prefix string
		where  string
		list   []registry.Function
	}{
		{"", "every file", registry.Globals}, {"run", "functions of a plan", registry.RunFields}, {"", "test files", registry.TestFunctions},
		{"assert.", "test files", registry.AssertFunctions}, {"w:", "test files", registry.WorldMethods},
		{"run:", "test files", registry.RunMethods}, {"run.", "test files", registry.RunResultFields},
	}
	for _, m := range registry.Modules {
		lists = append(lists, struct {
			prefix string
			where  string
			list   []registry.Function
		}{m.Name + ".", "functions of a plan", m.Functions})
	}
	return lists
}

// functionPlaces finds a word among functions, fields of values and options:
// "get", "http.get", "run:ask", "ttl".
func functionPlaces(word string) (found []standing) {
	var options []standing // those of one type in one kind of file together
	for _, l := range functionLists() {
		for _, f := range l.list {
			head, args := l.prefix, "("+f.Args+")"
			switch {
			case head == "run" && f.Args == "":
				head, args = "run.", ""
			case head == "run":
				head, args = "run:", f.Args
			case head == "run.":
				args = ""
			}
			if slices.Contains([]string{f.Name, head + f.Name, "drrun." + head + f.Name}, word) {
				found = append(found, standing{head + f.Name + args + " in " + l.where, f.Class, f.Doc})
			}
			if _, names := f.Options(); slices.Contains(names, word) {
				o := standing{l.where, strings.ReplaceAll(f.TypeOf(word), "drrun.", ""), head + f.Name}
				if i := slices.IndexFunc(options, func(p standing) bool { return p.where == o.where && p.kind == o.kind }); i >= 0 {
					options[i].doc += ", " + o.doc
				} else {
					options = append(options, o)
				}
			}
		}
	}
	for _, o := range options {
		found = append(found, standing{fmt.Sprintf("option in %s, of %s", o.where, o.doc), o.kind, ""})
	}
	return found
}

// wordHelp says where a word of the language may stand; empty: it is none.
func wordHelp(word string) string {
	var b strings.Builder
	for i := range registry.Constructors {
		if c := &registry.Constructors[i]; c.Name == word {
			fmt.Fprintf(&b, "In %s files (drrun help %[1]s-file):\n\n%s\n", c.Scope, constructorText(c))
		}
	}
	if m, ok := registry.Module(strings.TrimPrefix(word, "drrun.")); ok {
		fmt.Fprintf(&b, "In functions (drrun help functions), local %s = require \"drrun.%[1]s\":\n\n%[2]s\n", m.Name, moduleText(m))
	}
	places := append(constructorPlaces(word), functionPlaces(word)...)
	if len(places) == 0 {
		return b.String()
	}
	fmt.Fprintf(&b, "%s\n%s", word, placesText(places))
	return b.String()
}

func placesText(places []standing) string {
	var b strings.Builder
	for _, p := range places {
		b.WriteString("  " + p.where)
		if p.kind != "" {
			b.WriteString(": " + p.kind)
		}
		b.WriteString("\n")
		if p.doc != "" {
			b.WriteString("      " + p.doc + "\n")
		}
	}
	return b.String()
}

// helpWords are all words that wordHelp knows.
func helpWords() (words []string) {
	var fields func(list []registry.Field)
	fields = func(list []registry.Field) {
		for _, f := range list {
			words = append(words, f.Name)
			fields(f.Fields)
		}
	}
	for i := range registry.Constructors {
		words = append(words, registry.Constructors[i].Name)
		fields(registry.Constructors[i].Fields)
	}
	for _, m := range registry.Modules {
		words = append(words, m.Name)
	}
	for _, l := range functionLists() {
		for _, f := range l.list {
			words = append(words, f.Name)
			_, names := f.Options()
			words = append(words, names...)
		}
	}
	slices.Sort(words)
	return slices.DeleteFunc(slices.Compact(words), func(w string) bool { return w == "…" })
}
