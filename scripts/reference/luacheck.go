package reference

import (
	"fmt"
	"slices"
	"strings"

	"github.com/drrun/drrun/scripts/registry"
)

// Luacheck returns the .luacheckrc of a project: what files may name.
func Luacheck() string {
	var plan, test []string
	plan = append(plan, registry.LuaGlobals...)
	for _, c := range registry.Constructors {
		plan = append(plan, c.Name)
	}
	for _, f := range registry.Globals {
		plan = append(plan, f.Name)
	}
	for _, f := range registry.TestFunctions {
		test = append(test, f.Name)
	}
	slices.Sort(plan)
	list := func(names []string) string {
		var b strings.Builder
		line := 0
		for i, n := range slices.Compact(names) {
			var text string
			if n == "string" || n == "table" || n == "math" || n == "assert" {
				text = n + " = { other_fields = true }"
			} else {
				text = fmt.Sprintf("%q", n)
			}
			switch line += len(text) + 2; {
			case i == 0:
			case line > 110:
				b.WriteString(",\n    ")
				line = len(text)
			default:
				b.WriteString(", ")
			}
			b.WriteString(text)
		}
		return b.String()
	}
	return fmt.Sprintf(`-- What plans, estates and tests may name: drrun help functions. Made by drrun init.
std = "drrun"
stds.drrun = {
  read_globals = {
    %s,
  },
}
files["**/*_test.lua"].read_globals = { %s }
exclude_files = { ".drrun" }
max_line_length = 140
`, list(plan), list(test))
}
