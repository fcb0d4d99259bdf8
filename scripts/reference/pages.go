package reference

import (
	"fmt"
	"slices"
	"strings"

	"github.com/drrun/drrun/scripts/registry"
)

// Pages returns the reference of the language, Markdown files by name.
func Pages() map[string]string {
	return map[string]string{
		"README.md": indexPage, "plan.md": constructorPage("The plan file", planIntro, registry.PlanFile),
		"estate.md": constructorPage("The estate file", estateIntro, registry.EstateFile), "functions.md": functionPage(), "tests.md": testPage(),
	}
}

const made = "<!-- Made from scripts/registry: go test ./scripts/reference -update -->\n\n"

const indexPage = made + `# The language of plans

* [plan.md](plan.md): what a plan file says.
* [estate.md](estate.md): what an estate file says.
* [functions.md](functions.md): what the functions of actions and checks can call.
* [tests.md](tests.md): what tests of plans can call.

` + "`drrun init`" + ` writes a project to begin with, with types for language servers (LuaCATS), ` + "`.luacheckrc`" + ` and ` + "`stylua.toml`" + `.
` + "`drrun help plan-file`" + `, ` + "`estate-file`" + ` and ` + "`functions`" + ` print the same as here.

## Rules of every file

* A file is Lua 5.1 that returns one table of items: ` + "`return plan \"erp\" { … }`" + `. It only describes: it is evaluated without the world, within a
  limit of time and memory. Functions stand in actions and checks, and run while the plan runs.
* Durations, sizes and rates are text: ` + "`\"5m\"`, `\"64MiB\"`, `\"200Mbit/s\"`" + `.
* A list inside a list is flattened, so loops, helpers and ` + "`each(list, function(item) … end)`" + ` make items. ` + "`require \"name\"`" + ` loads name.lua beside the file.
* Names that are unknown, keys that are unknown or written twice, items that are nil, stand nowhere or stand twice are mistakes. All of them are
  told at once, as file:line, with a suggestion.
* Outside of ` + "`shutdown`, `exec` and `action`" + ` say in which failovers they run: ` + "`only = \"planned\"`, `skip = \"test\"`, or `only = \"any\"`" + `.
* Every call of a function to the world is an operation in the run's journal. After a restart of the runtime an action is called again and gets
  the recorded results; it has to make the same calls each time. Of a call that was under way when the runtime died, class says what happens:
  *read* and *idempotent* are done again (the latter under the same key), for *unsafe* a person is asked.
* A list has up to 1,000,000 items, a text up to 8 MiB. A function makes up to 10,000 calls to the world; the results that one action gets from
  them take up to 32 MiB. What is over a limit is an error at its line.
`

const planIntro = `A plan is a file that returns ` + "`plan \"NAME\" { … }`" + `. Order on the page is order of events: groups and waits one after the other, the
machines of a group together. Steps (exec, check, wait, action) stand in ` + "`before` and `after`" + `.`

const estateIntro = `An estate is a file that returns ` + "`estate \"NAME\" { … }`" + `: what exists, where it runs, how it is protected. ` + "`drrun apply`" + ` evaluates it to data.`

func constructorPage(title, intro string, scope registry.Scope) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s# %s\n\n%s\n", made, title, intro)
	steps := false
	for _, c := range registry.Constructors {
		if c.Scope != scope {
			continue
		}
		head := c.Name + ` "NAME" { … }`
		switch {
		case c.Unnamed:
			head = c.Name + " { … }"
		case c.Body == registry.None:
			head = c.Name + ` "NAME"`
		case c.Body == registry.Optional:
			head = c.Name + ` "NAME"` + "`, `" + head
		}
		fmt.Fprintf(&b, "\n## %s\n\n`%s`: %s\n", c.Name, head, c.Doc)
		if len(c.Items) > 0 {
			fmt.Fprintf(&b, "\nItems: %s.\n", strings.Join(c.Items, ", "))
		}
		if c.Function {
			b.WriteString("\nIts item may be a `function(run) … end`.\n")
		}
		own := c.Fields
		_, isStep := c.Field("on_fail")
		if isStep {
			steps = true
			common := registry.Names(registry.StepFields())
			own = slices.DeleteFunc(slices.Clone(own), func(f registry.Field) bool { return slices.Contains(common, f.Name) })
		}
		fieldTable(&b, own)
		if isStep {
			b.WriteString("\nAnd the fields of [every step](#every-step).\n")
		}
	}
	if steps {
		b.WriteString("\n## every step\n")
		fieldTable(&b, registry.StepFields())
		b.WriteString("\n## point selectors\n\nWhat `point` and `--point` choose. A suspect point is chosen by its label or id only.\n\n| selector | |\n|---|---|\n")
		for _, s := range registry.Selectors {
			fmt.Fprintf(&b, "| `%s` | %s |\n", s[0], cell(s[1]))
		}
	}
	return b.String()
}

func fieldTable(b *strings.Builder, fields []registry.Field) {
	if len(fields) == 0 {
		return
	}
	b.WriteString("\n| field | type | |\n|---|---|---|\n")
	var rows func(prefix string, fields []registry.Field)
	rows = func(prefix string, fields []registry.Field) {
		for _, f := range fields {
			kind := string(f.Type)
			if len(f.Words) > 0 {
				kind = strings.Join(f.Words, ", ")
				if len(f.Fields) > 0 {
					kind += ", table"
				}
			}
			doc := f.Doc
			if f.Default != "" {
				doc += " Default: " + f.Default + "."
			}
			switch {
			case f.Type == registry.Elsewhere:
				doc += " Not in this version."
			case len(f.LaterWords) > 0:
				doc += fmt.Sprintf(" Not in this version: %s.", strings.Join(f.LaterWords, ", "))
			case f.Later != "":
				doc += " Not in this version."
			}
			fmt.Fprintf(b, "| `%s%s` | %s | %s |\n", prefix, f.Name, cell(kind), cell(doc))
			inner := prefix + f.Name + "."
			if f.Type == registry.Params {
				inner += "NAME."
			}
			rows(inner, f.Fields)
		}
	}
	rows("", fields)
}

// cell is text for a table.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

func functionRow(b *strings.Builder, call, key string, f registry.Function, class bool) {
	returns := strings.Join(results(key), ", ")
	returns = strings.ReplaceAll(returns, "drrun.", "")
	fmt.Fprintf(b, "| `%s` | %s |", cell(call), cell(returns))
	if class {
		fmt.Fprintf(b, " %s |", f.Class)
	}
	fmt.Fprintf(b, " %s |\n", cell(f.Doc))
}

func functionPage() string {
	var b strings.Builder
	b.WriteString(made + `# Functions of actions and checks

They get one argument, ` + "`run`" + `, and may call modules: ` + "`local http = require \"drrun.http\"`" + `. An action that returns false, or nil with a message, has
failed; a check asks until its function returns something true. Functions that change something are not for checks.

What a function says by ` + "`error` or `assert`" + `, and an error of a call to the world (refused, timed out, a status that is not expected), is an answer:
the check asks again. A mistake of the function (a field of nil, a wrong argument, a name that is not there) fails it at once, at file:line, unless
the function was told something by the world before it: the mistake may come of what it was told, so it asks again until its time is up, and the
error says both. An error of an action fails it.

## run

| | returns | class | |
|---|---|---|---|
`)
	for _, f := range registry.RunFields {
		call := "run." + f.Name
		if f.Args != "" {
			call = "run:" + f.Name + f.Args
		}
		functionRow(&b, call, "run."+f.Name, f, true)
	}
	for _, m := range registry.Modules {
		fmt.Fprintf(&b, "\n## drrun.%s\n\n%s\n\n| | returns | class | |\n|---|---|---|---|\n", m.Name, m.Doc)
		for _, f := range m.Functions {
			functionRow(&b, m.Name+"."+f.Name+"("+f.Args+")", m.Name+"."+f.Name, f, true)
		}
	}
	return b.String()
}

func testPage() string {
	var b strings.Builder
	b.WriteString(made + `# Tests of plans

Tests of erp.lua stand beside it in erp_test.lua; ` + "`drrun test`" + ` runs them in a simulated world with virtual time. What that world is like stands in
erp_world.lua, ` + "`return function(w) … end`" + `. Services answer 40 s after their machine was started, or after what it needs.
`)
	for _, part := range []struct {
		head, prefix, key string
		fields            bool
		list              []registry.Function
	}{
		{"Globals", "", "test.", false, registry.TestFunctions}, {"assert", "assert.", "assert.", false, registry.AssertFunctions},
		{"A world", "w:", "world.", false, registry.WorldMethods}, {"A run", "run:", "result.", false, registry.RunMethods},
		{"Fields of a run", "run.", "result.", true, registry.RunResultFields},
	} {
		fmt.Fprintf(&b, "\n## %s\n\n| | returns | |\n|---|---|---|\n", part.head)
		for _, f := range part.list {
			call := part.prefix + f.Name
			if !part.fields {
				call += "(" + f.Args + ")"
			}
			functionRow(&b, call, part.key+f.Name, f, false)
		}
	}
	b.WriteString(statuses)
	return b.String()
}

// statuses are the words of a run's status, as an author meets them.
const statuses = `
## Where a run stands

| status | exit | |
|---|---|---|
| ` + "`waiting`" + ` | 5, 6 | A person is asked: a wait of the plan, whether a site is down (5), or what an unknown outcome was (6). |
| ` + "`uncommitted`" + ` | 0 | Went well: the machines run at the new site and are not committed, or a test stands and is not cleaned up. |
| ` + "`committed`" + `, ` + "`done`" + ` | 0 | Went well and is over; a test: cleaned up. |
| ` + "`stopped`" + ` | 4 | An error, an answer or a time that ran out stopped it: see ` + "`reason`" + ` and ` + "`errors`" + `; resume tries the step again, cancel takes back. |
| ` + "`partial`" + ` | 7 | Went to its end with errors: an unplanned run goes on, and so does a planned one from which a failed step was passed over. |
| ` + "`rolled-back`" + ` | 0 | The machines run at the old site again, on the disks they left. |
| ` + "`refused`" + ` | 3 | Preflight said no; nothing was changed. |
| ` + "`failed`" + `, ` + "`cancelled`" + ` | 1 | A test that did not pass and is cleaned up; a run that a person ended. |

A wait that ran out is a failed step: ` + "`run:resume()`" + ` asks again, and ` + "`run:answer(wait, \"go\")`" + ` before that goes on without an answer, which counts as an error.
A planned run stops at the first error and an unplanned one goes on, unless a step says otherwise with ` + "`on_fail`" + `.

## Coverage

` + "`drrun test --coverage`" + ` lists for each plan, as file:line, what no test has taken; with ` + "`-o json`" + ` it stands in ` + "`coverage`" + ` of the last object.

* Types of run and the way back that no test has; steps that never ran, or that their filter never held back.
* Waits that were never answered with go, or never with stop; an ` + "`on_fail` or `retry`" + ` that nothing has asked for.
* Branches of the plan and of its modules, in functions of actions and checks and outside of them: a condition that was never true or never
  false (each ` + "`elseif`" + ` is a condition of its own, and one without ` + "`else`" + ` has two ways as well), a loop without a turn, a function that
  nobody called. What stands inside of a branch that was not taken is not told by itself.
`
