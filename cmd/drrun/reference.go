package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts/registry"
)

// topic is a page of help that is not a command: what stands in the files.
type topic struct {
	name  string
	short string
	text  func() string
}

func topics() []topic {
	return []topic{
		{"estate-file", "what an estate file says: sites, hosts, policies, machines", estateReference},
		{"plan-file", "what a plan file says: groups, steps, waits", planReference},
		{"functions", "what the functions of a plan can call", functionReference},
		{"selector", "how a recovery point is chosen: point, --point", selectorReference},
		{"test-file", "what a test of a plan can say, and the simulated world", testReference},
	}
}

// helpPage finds the page of a topic, or of a word of the language.
func helpPage(word string) (string, bool) {
	all := topics()
	if i := slices.IndexFunc(all, func(t topic) bool { return t.name == word }); i >= 0 {
		return all[i].text(), true
	}
	text := wordHelp(word)
	return text, text != ""
}

// nearestHelp finds what was probably meant.
func nearestHelp(word string) string {
	names := append(commandNames(), planCommand.name)
	for _, t := range topics() {
		names = append(names, t.name)
	}
	return plans.Nearest(word, append(names, helpWords()...))
}

func estateReference() string {
	return `An estate file is Lua that returns data: what exists, where it runs, how it is protected.
Durations, sizes and rates are text: "5m", "64MiB", "200Mbit/s". A list inside a list is flattened, so
functions and loops may make items. drrun check finds every mistake; drrun apply shows the difference.

` + constructors(registry.EstateFile) + everywhere() + `
Programs of exec may say {disk.NAME} {ip} {machine} {site} {epoch}, and find the same in their environment:
DRRUN_DISK_NAME, DRRUN_IP, DRRUN_MACHINE, DRRUN_SITE, DRRUN_EPOCH, and DRRUN_RUN, DRRUN_TYPE (production or test).
The agent starts the machine: nobody else does.
`
}

func planReference() string {
	var b strings.Builder
	b.WriteString(`A plan file is Lua that returns data; functions stand only in actions and checks. Order on the page is order of
events: groups and waits one after the other, the machines of a group together. Steps stand in before and after.
Outside of shutdown, exec and action say with only or skip in which failovers they run (only = "any": in all).

` + constructors(registry.PlanFile) + everywhere() + `
every step
`)
	b.WriteString(fieldsText(registry.StepFields()))
	b.WriteString(`
Programs of exec find in their environment DRRUN_RUN, DRRUN_STEP, DRRUN_TYPE (production or test), DRRUN_FAILOVER (test,
planned or unplanned), DRRUN_FROM and DRRUN_TO. Without on they run on the controller; on a host its estate must allow them.
`)
	return b.String()
}

func selectorReference() string {
	t := newTable()
	for _, s := range registry.Selectors {
		t.row(s[0], s[1])
	}
	return "A selector chooses a recovery point: point of a plan and of its drill, --point of a run. A suspect point is chosen by\nits label or id only.\n\n" + t.String()
}

// everywhere shows the functions that every file has.
func everywhere() string {
	t := newTable()
	for _, f := range registry.Globals {
		t.row(f.Name+"("+f.Args+")", f.Doc)
	}
	return t.String()
}

func constructors(scope registry.Scope) string {
	var b strings.Builder
	for i := range registry.Constructors {
		if c := &registry.Constructors[i]; c.Scope == scope {
			b.WriteString(constructorText(c) + "\n")
		}
	}
	return b.String()
}

// constructorText shows a word of the language. The fields that every step has
// are told once, on the page of the plan file.
func constructorText(c *registry.Constructor) string {
	head := c.Name + ` "NAME"`
	if c.Unnamed {
		head = c.Name
	}
	switch {
	case c.Body == registry.None:
	case c.Function && c.Name == "action":
		head += " { function(run) … end }"
	default:
		head += " { … }"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n  %s\n", head, c.Doc)
	if len(c.Items) > 0 {
		fmt.Fprintf(&b, "  items: %s\n", strings.Join(c.Items, ", "))
	}
	common := registry.Names(registry.StepFields())
	own := slices.DeleteFunc(slices.Clone(c.Fields), func(f registry.Field) bool { return isStep(c) && slices.Contains(common, f.Name) })
	b.WriteString(fieldsText(own))
	if isStep(c) {
		fmt.Fprintf(&b, "  and the fields of every step: %s\n", strings.Join(common, ", "))
	}
	return b.String()
}

func isStep(c *registry.Constructor) bool {
	_, ok := c.Field("on_fail")
	return ok
}

func fieldsText(fields []registry.Field) string {
	t := newTable()
	fieldRows(t, fields, "  ")
	return t.String()
}

// fieldText is the type of a field, and what it is for.
func fieldText(f registry.Field) (kind, doc string) {
	kind, doc = string(f.Type), f.Doc
	if len(f.Words) > 0 {
		kind = strings.Join(f.Words, "|")
		if len(f.Fields) > 0 {
			kind += "|table"
		}
	}
	if f.Type == registry.Elsewhere {
		kind, doc = "", doc+" Not in this version."
	}
	if f.Default != "" {
		doc += " Default: " + f.Default + "."
	}
	return kind, doc
}

func fieldRows(t *table, fields []registry.Field, indent string) {
	for _, f := range fields {
		kind, doc := fieldText(f)
		t.row(indent+f.Name, kind, doc)
		fieldRows(t, f.Fields, indent+"  ")
	}
}

func functionReference() string {
	var b strings.Builder
	b.WriteString(`Functions of actions and checks get one argument, run, and may call modules: local http = require "drrun.http".
What they do is journaled: after a resume a function runs again and gets the recorded results. A call whose outcome
nobody knows is done again (read, idempotent: under the same key) or a person is asked (unsafe).

run
`)
	t := newTable()
	for _, f := range registry.RunFields {
		sep := "."
		if f.Args != "" {
			sep = ":"
		}
		t.row("  run"+sep+f.Name+f.Args, f.Class, f.Doc)
	}
	b.WriteString(t.String())
	for _, m := range registry.Modules {
		b.WriteString("\n" + moduleText(m))
	}
	return b.String()
}

func moduleText(m registry.ModuleDoc) string {
	t := newTable()
	for _, f := range m.Functions {
		t.row("  "+f.Name+"("+f.Args+")", f.Class, f.Doc)
	}
	return fmt.Sprintf("drrun.%s: %s\n%s", m.Name, m.Doc, t.String())
}

func testReference() string {
	var b strings.Builder
	b.WriteString(`Tests of erp.lua stand beside it in erp_test.lua; drrun test runs them. What its world is like stands in erp_world.lua,
return function(w) … end, for tests and for drrun explore. The world is slow: services answer 40 s after their
machine was started, or after what it needs (w:needs). Time is virtual. Outside of the estate everything answers
well unless w:serve says otherwise. The functions below are globals, and what require "drrun.testing" returns.

`)
	for _, part := range []struct {
		head, prefix string
		list         []registry.Function
	}{{"", "", registry.TestFunctions}, {"assertions", "assert.", registry.AssertFunctions}, {"a world", "w:", registry.WorldMethods},
		{"a run", "run:", registry.RunMethods}, {"", "run.", registry.RunResultFields}} {
		if part.head != "" {
			b.WriteString("\n" + part.head + "\n")
		}
		t := newTable()
		for _, f := range part.list {
			args := "(" + f.Args + ")"
			if part.prefix == "run." {
				args = ""
			}
			t.row("  "+part.prefix+f.Name+args, f.Doc)
		}
		b.WriteString(t.String())
	}
	return b.String()
}
