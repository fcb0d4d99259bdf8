package scripts

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts/registry"
	"github.com/drrun/drrun/scripts/syntax"
)

// MaxFile is how long one file may be: bytes.
const MaxFile = syntax.MaxSource

// Limits of a bundle.
const (
	maxFiles  = 64
	maxBundle = 4 << 20 // bytes of all files
)

// ReadBundle reads a main file and the modules it loads, which stand beside it
// as NAME.lua. A module that is not there is left out: loading reports it with
// its line. read gets the names as they are in the bundle.
func ReadBundle(read func(name string) ([]byte, error), main string) (plans.Bundle, error) {
	b := plans.Bundle{Main: main, Files: make(map[string]string)}
	total := 0
	var add func(name string, must bool) error
	add = func(name string, must bool) error {
		if _, have := b.Files[name]; have {
			return nil
		}
		src, err := read(name)
		switch {
		case errors.Is(err, fs.ErrNotExist) && !must:
			return nil
		case errors.Is(err, fs.ErrNotExist):
			return fault.Errorf(fault.NotFound, "cannot read %s: there is no such file", name)
		case err != nil:
			return fault.Wrap(fault.Invalid, fmt.Errorf("cannot read %s: %w", name, err))
		}
		b.Files[name] = string(src)
		total += len(src)
		if len(b.Files) > maxFiles || total > maxBundle {
			return fault.Errorf(fault.Invalid, "cannot read %s: its modules are more than %d files or %d bytes", main, maxFiles, maxBundle)
		}
		for _, im := range syntax.Imports(name, string(src)) {
			if strings.HasPrefix(im.Name, "drrun.") || !modulePath.MatchString(im.Name) {
				continue
			}
			if err := add(path.Join(path.Dir(main), im.Name+".lua"), false); err != nil {
				return err
			}
		}
		return nil
	}
	if err := add(main, true); err != nil {
		return plans.Bundle{}, err
	}
	return b, nil
}

// source is a bundle after parsing: what every evaluation of it shares.
type source struct {
	bundle   plans.Bundle
	kind     registry.Scope
	units    map[string]*syntax.Unit // nil unit: a file with a syntax error
	faults   plans.Faults            // from the trees
	reported map[string]bool         // modules whose absence is reported
	branches *Branches               // nil: nobody counts
}

// absent are globals of Lua that are not here, with what to do instead.
var absent = map[string]string{
	"os": "is not available: a file only describes; in functions use drrun.time and drrun.exec", "io": "is not available: a file only describes",
	"debug": "is not available", "coroutine": "is not available", "package": "is not available", "channel": "is not available",
	"dofile": "is not available: use require", "loadfile": "is not available: use require", "load": "is not available",
	"loadstring": "is not available", "module": "is not available: return a table", "collectgarbage": "is not available",
	"getfenv": "is not available", "setfenv": "is not available", "newproxy": "is not available", "_G": "is not available: use a table of your own",
	"run": "exists only inside function(run) … end",
}

func words(kind registry.Scope) syntax.Words {
	w := syntax.Words{Globals: make(map[string]bool), Constructors: make(map[string]bool), Elsewhere: maps.Clone(absent), Modules: make(map[string]syntax.Module), Run: functions(registry.RunFields)}
	for _, m := range registry.Modules {
		w.Modules["drrun."+m.Name] = functions(m.Functions)
	}
	for _, name := range registry.LuaGlobals {
		w.Globals[name] = true
	}
	for _, f := range registry.Globals {
		w.Globals[f.Name] = true
	}
	for _, c := range registry.Constructors {
		switch {
		case c.Scope == kind && c.Body == registry.None:
			w.Globals[c.Name] = true // pure: everywhere
		case c.Scope == kind:
			w.Constructors[c.Name] = true
		}
	}
	for _, f := range registry.TestFunctions {
		if kind == registry.TestFile {
			w.Globals[f.Name] = true
		}
	}
	for _, c := range registry.Constructors {
		if !w.Globals[c.Name] && !w.Constructors[c.Name] {
			w.Elsewhere[c.Name] = fmt.Sprintf("belongs to the file of a%s, not to the file of a%s", article(c.Scope), article(kind))
		}
	}
	return w
}

// functions is what the syntax tree is looked at for.
func functions(list []registry.Function) syntax.Module {
	m := make(syntax.Module, len(list))
	for _, f := range list {
		arg, names := f.Options()
		m[f.Name] = syntax.Function{Arg: arg, Options: names, Wrong: f.WrongOption}
	}
	return m
}

func article(s registry.Scope) string {
	if s == registry.EstateFile {
		return "n estate"
	}
	return " " + string(s)
}

// newSource parses the files of a bundle. Branches of plans are counted unless
// branches is nil.
func newSource(b plans.Bundle, kind registry.Scope, branches *Branches) *source {
	s := &source{bundle: b, kind: kind, units: make(map[string]*syntax.Unit), reported: make(map[string]bool)}
	w := words(kind)
	if kind == registry.PlanFile && branches != nil {
		s.branches, w.Count = branches, true
	}
	if _, ok := b.Files[b.Main]; !ok {
		s.faults = plans.Faults{{Pos: plans.Pos{File: b.Main, Line: 1}, Message: "the file is not there"}}
		return s
	}
	for _, name := range slices.Sorted(maps.Keys(b.Files)) {
		u, faults := syntax.Load(name, b.Files[name], w)
		s.units[name] = u
		s.faults = append(s.faults, faults...)
	}
	for name, u := range s.units {
		if u != nil {
			s.imports(name, u)
		}
	}
	return s
}

// imports reports modules that are not there.
func (s *source) imports(file string, u *syntax.Unit) {
	for _, im := range u.Requires {
		f := plans.Fault{Pos: plans.Pos{File: file, Line: im.Line}}
		beside := path.Join(path.Dir(s.bundle.Main), im.Name+".lua")
		_, there := s.units[beside]
		switch {
		case slices.Contains(registry.ModuleNames(), im.Name):
			continue
		case im.Name == testingModule && s.kind == registry.TestFile:
			continue
		case im.Name == testingModule:
			f.Message = fmt.Sprintf("module %q is for test files (NAME_test.lua), which drrun test runs", im.Name)
		case strings.HasPrefix(im.Name, "drrun."):
			f.Message = fmt.Sprintf("there is no module %q", im.Name)
			f.Suggestion = nearModule(im.Name)
		case !modulePath.MatchString(im.Name):
			f.Message = fmt.Sprintf("module %q: a module is NAME.lua beside the file, so its name has only letters, digits, _ and -", im.Name)
		case there:
			continue
		default:
			f.Message = fmt.Sprintf("module %q is not beside the file (%s)", im.Name, beside)
		}
		s.reported[im.Name] = true
		s.faults = append(s.faults, f)
	}
}

// testingModule is only there in test files.
const testingModule = "drrun.testing"

// nearModule is the module that was probably meant; the part that all have in
// common does not count.
func nearModule(name string) string {
	var short []string
	for _, m := range registry.Modules {
		short = append(short, m.Name)
	}
	if near := plans.Nearest(strings.TrimPrefix(name, "drrun."), short); near != "" {
		return "drrun." + near
	}
	return ""
}
