package scripts

import (
	"maps"
	"slices"
	"testing"

	"github.com/drrun/drrun/scripts/hostcall"
	"github.com/drrun/drrun/scripts/registry"
	"github.com/drrun/drrun/scripts/sandbox"
)

// The registry and the modules name the same functions.
func TestModulesAsRegistered(t *testing.T) {
	t.Parallel()
	box := sandbox.New(t.Context(), sandbox.Limits{}, nil)
	defer box.Close()
	var names []string
	for _, m := range registry.Modules {
		names = append(names, m.Name)
		open, ok := openers[m.Name]
		if !ok {
			t.Errorf("module %s is registered and not there", m.Name)
			continue
		}
		got := slices.Sorted(maps.Keys(open(&hostcall.Env{Box: box})))
		if !slices.Equal(got, m.Names()) {
			t.Errorf("module %s has %v, registered are %v", m.Name, got, m.Names())
		}
	}
	if got := slices.Sorted(maps.Keys(openers)); !slices.Equal(got, names) {
		t.Errorf("modules %v, registered are %v", got, names)
	}
}

// Every field has a type the loader knows and says what it is for; every item
// is a constructor of the same kind of file.
func TestRegistryIsWhole(t *testing.T) {
	t.Parallel()
	types := []registry.Type{registry.String, registry.Bool, registry.Integer, registry.Duration, registry.Rate, registry.Word,
		registry.Strings, registry.Command, registry.Types, registry.Steps, registry.Record, registry.Map, registry.Address, registry.Keep,
		registry.Commit, registry.Params, registry.Any, registry.Elsewhere}
	var fields func(where string, fs []registry.Field)
	fields = func(where string, fs []registry.Field) {
		seen := make(map[string]bool)
		for _, f := range fs {
			if seen[f.Name] || f.Doc == "" || !slices.Contains(types, f.Type) || (f.Type == registry.Word) != (len(f.Words) > 0) && f.Type != registry.Commit {
				t.Errorf("%s: field %+v", where, f)
			}
			seen[f.Name] = true
			fields(where+"."+f.Name, f.Fields)
		}
	}
	for _, c := range registry.Constructors {
		if c.Doc == "" {
			t.Errorf("%s has no words", c.Name)
		}
		fields(c.Name, c.Fields)
		for _, item := range c.Items {
			if registry.Of(c.Scope)[item] == nil {
				t.Errorf("%s: item %s is no constructor", c.Name, item)
			}
		}
	}
}
