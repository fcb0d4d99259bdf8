package reference

import (
	"fmt"
	"slices"
	"strings"

	"github.com/drrun/drrun/scripts/registry"
)

// Types returns the LuaCATS files of the language by name: with them a language
// server completes and checks plans, estates and tests.
func Types() map[string]string {
	files := map[string]string{"plan.lua": constructorTypes(), "run.lua": runTypes(), "testing.lua": testTypes(), "drrun/testing.lua": testingModule}
	for _, m := range registry.Modules {
		files["drrun/"+m.Name+".lua"] = moduleTypes(m)
	}
	for name, text := range files {
		files[name] = strings.Replace(text, "---@meta", "-- Made by drrun init from the registry of the language: run it again after an update.\n---@meta", 1)
	}
	return files
}

const aliases = `---@meta

---@alias drrun.Duration string "90s", "5m", "1h30m", "7d"
---@alias drrun.Rate string "200Mbit/s"
---@alias drrun.Type "test"|"planned"|"unplanned"

---An item of a plan or an estate: what its constructor makes.
---@class drrun.Item

---What may stand among items: lists inside lists are flattened.
---@alias drrun.Items drrun.Item|drrun.Item[]|drrun.Item[][]

---A secret of the estate: only functions of modules open it, and it prints ***.
---@class drrun.Secret: drrun.Item
---@operator concat(string|number|drrun.Secret): drrun.Secret
`

// fieldTypes are the types of fields by their type in the registry; those that
// are missing need a look at the field.
var fieldTypes = map[registry.Type]string{
	registry.String: "string", registry.Bool: "boolean", registry.Integer: "integer", registry.Duration: "drrun.Duration",
	registry.Rate: "drrun.Rate", registry.Strings: "string|string[]", registry.Command: "string|string[]",
	registry.Steps: "drrun.Items", registry.Map: "table<string, string>", registry.Keep: "string|string[]", registry.Any: "any", registry.Elsewhere: "table",
	registry.Address: "table<string, integer|table<string, string|string[]>>",
}

// typed is a class with fields, written after those that it names.
type typed struct {
	out   strings.Builder
	class map[string]bool
}

func (t *typed) fieldType(owner string, f registry.Field) string {
	record := owner + "." + f.Name
	switch f.Type {
	case registry.Word:
		return words(f.Words)
	case registry.Types:
		all := words([]string{"test", "planned", "unplanned"})
		if f.Name == "only" {
			all += `|"any"`
		}
		return all + "|drrun.Type[]"
	case registry.Record:
		t.record(record, f.Doc, f.Fields, "")
		return record
	case registry.Commit:
		t.record(record, f.Doc, f.Fields, "")
		return words(f.Words) + "|" + record
	case registry.Params:
		t.record(record, "One parameter.", f.Fields, "")
		return "table<string, string|number|boolean|" + record + ">"
	}
	return fieldTypes[f.Type]
}

func words(list []string) string {
	quoted := make([]string, len(list))
	for i, w := range list {
		quoted[i] = fmt.Sprintf("%q", w)
	}
	return strings.Join(quoted, "|")
}

// record writes a class once; items is the type of its list part.
func (t *typed) record(name, doc string, fields []registry.Field, items string) {
	if t.class[name] {
		return
	}
	t.class[name] = true
	var b strings.Builder
	fmt.Fprintf(&b, "\n---%s\n---@class %s\n", doc, name)
	for _, f := range fields {
		text := f.Doc
		if f.Default != "" {
			text += " Default: " + f.Default + "."
		}
		if f.Later != "" {
			text += " Not in this version, or not all of it."
		}
		fmt.Fprintf(&b, "---@field %s? %s %s\n", f.Name, t.fieldType(name, f), text)
	}
	if items != "" {
		fmt.Fprintf(&b, "---@field [integer] %s\n", items)
	}
	t.out.WriteString(b.String())
}

// constructorTypes are the words of plans and estates. A word of both has the
// fields of both: a file does not tell a language server which it is.
func constructorTypes() string {
	t := &typed{class: map[string]bool{}}
	var names []string
	merged := map[string]registry.Constructor{}
	for _, c := range registry.Constructors {
		m, twice := merged[c.Name]
		if !twice {
			names, m = append(names, c.Name), c
		} else {
			for _, f := range c.Fields {
				if _, has := m.Field(f.Name); !has {
					m.Fields = append(slices.Clone(m.Fields), f)
				}
			}
			m.Items = slices.Concat(m.Items, c.Items)
			m.Doc = fmt.Sprintf("In a plan: %s In an estate: %s", m.Doc, c.Doc)
			m.Body = registry.Optional
		}
		merged[c.Name] = m
	}
	var functions strings.Builder
	for _, name := range names {
		c := merged[name]
		items := ""
		switch {
		case c.Function:
			items = "fun(run: drrun.Run): any, any"
		case len(c.Items) > 0:
			items = "drrun.Items"
		}
		body := "drrun." + c.Name
		t.record(body, c.Doc, c.Fields, items)
		made, result := "drrun.Item", ""
		if c.Name == "secret" {
			made = "drrun.Secret"
		}
		switch {
		case c.Unnamed:
			fmt.Fprintf(&functions, "\n---%s\n---@param body %s\n---@return %s\nfunction %s(body) end\n", c.Doc, body, made, c.Name)
			continue
		case c.Body == registry.Needed:
			result = fmt.Sprintf("fun(body: %s): %s", body, made)
		default: // with a body or without
			fmt.Fprintf(&functions, "\n---@class %s.made: %s\n---@overload fun(body: %s): %[2]s\n", body, made, body)
			result = body + ".made"
		}
		fmt.Fprintf(&functions, "\n---%s\n---@param name string\n---@return %s\nfunction %s(name) end\n", c.Doc, result, c.Name)
	}
	for _, f := range registry.Globals {
		fmt.Fprintf(&functions, "\n---%s\n---@generic T, R\n---@param list T[]\n---@param fn fun(item: T): R\n---@return R[]\nfunction %s(list, fn) end\n", f.Doc, f.Name)
	}
	return aliases + t.out.String() + functions.String()
}

// method writes a function with its annotations; head is "Run:", "dns." or "".
func method(b *strings.Builder, head, key string, f registry.Function) {
	args, rest := arguments(f)
	fmt.Fprintf(b, "\n---%s\n", f.Doc)
	if f.Class != "" {
		fmt.Fprintf(b, "---\n---Class: %s.\n", f.Class)
	}
	var names []string
	for _, a := range args {
		opt := ""
		if a.optional {
			opt = "?"
		}
		fmt.Fprintf(b, "---@param %s%s %s\n", a.name, opt, a.typ)
		names = append(names, a.name)
	}
	if rest {
		last := "any"
		if len(args) > 0 {
			last = args[len(args)-1].typ
		}
		fmt.Fprintf(b, "---@param ... %s\n", last)
		names = append(names, "...")
	}
	results := results(key)
	for _, r := range results {
		fmt.Fprintf(b, "---@return %s\n", r)
	}
	self := ""
	if class, ok := strings.CutSuffix(head, ":"); ok {
		self = "self: drrun." + class
	}
	for _, o := range overloads(args) {
		fmt.Fprintf(b, "---@overload fun(%s)", strings.TrimPrefix(self+", "+o, ", "))
		if len(results) > 0 {
			fmt.Fprintf(b, ": %s", strings.Join(results, ", "))
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(b, "function %s%s(%s) end\n", head, f.Name, strings.Join(names, ", "))
}

// results are the types that a function returns.
func results(key string) []string {
	r := registry.Returns[key]
	switch {
	case r == "":
		return nil
	case strings.Contains(r, "<"): // one type, with a comma in it
		return []string{r}
	}
	return strings.Split(r, ", ")
}

// class writes a class with fields and methods.
func class(b *strings.Builder, name, local, key string, fields, methods []registry.Function) {
	fmt.Fprintf(b, "\n---@class %s\n", name)
	for _, f := range fields {
		fmt.Fprintf(b, "---@field %s %s %s\n", f.Name, registry.Returns[key+"."+f.Name], f.Doc)
	}
	fmt.Fprintf(b, "local %s = {}\n", local)
	for _, f := range methods {
		method(b, local+":", key+"."+f.Name, f)
	}
}

func runTypes() string {
	var b strings.Builder
	b.WriteString(`---@meta

---A machine of the run.
---@class drrun.RunMachine
---@field name string
---@field ip string Its address in this run.
---@field site string Where it is.
---@field state string How far the run is with it: pending, stopped, granted, prepared, started, ready, failed …

---What a program ended with.
---@class drrun.ProgramResult
---@field exit integer
---@field output string
---@field stderr? string Of ssh.run.

---@class drrun.HTTPAnswer
---@field status integer
---@field body string
---@field headers table<string, string> Names in lower case.
`)
	isMethod := func(f registry.Function) bool { return f.Args != "" }
	fields := slices.DeleteFunc(slices.Clone(registry.RunFields), isMethod)
	methods := slices.DeleteFunc(slices.Clone(registry.RunFields), func(f registry.Function) bool { return !isMethod(f) })
	class(&b, "drrun.Run", "Run", "run", fields, methods)
	return b.String()
}

func moduleTypes(m registry.ModuleDoc) string {
	var b strings.Builder
	fmt.Fprintf(&b, "---@meta drrun.%s\n\n---%s\nlocal %[1]s = {}\n", m.Name, m.Doc)
	for _, f := range m.Functions {
		method(&b, m.Name+".", m.Name+"."+f.Name, f)
	}
	fmt.Fprintf(&b, "\nreturn %s\n", m.Name)
	return b.String()
}

const testingModule = `---@meta drrun.testing

return { describe = describe, it = it, before_each = before_each, world = world, crash_everywhere = crash_everywhere, assert = assert }
`

func testTypes() string {
	var b strings.Builder
	b.WriteString(`---@meta

---@class drrun.WorldMachine
---@field site string
---@field state string
---@field power string
---@field answers boolean
---@field tests integer
`)
	class(&b, "drrun.TestRun", "TestRun", "result", registry.RunResultFields, registry.RunMethods)
	class(&b, "drrun.World", "World", "world", nil, registry.WorldMethods)
	for _, f := range registry.TestFunctions {
		if f.Name != "assert" {
			method(&b, "", "test."+f.Name, f)
			continue
		}
		fmt.Fprintf(&b, "\n---%s\n---@class drrun.Assert\n---@overload fun(value: any, text?: any): any\nassert = {}\n", f.Doc)
		for _, a := range registry.AssertFunctions {
			method(&b, "assert.", "assert."+a.Name, a)
		}
	}
	return b.String()
}
