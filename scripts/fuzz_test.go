package scripts_test

import (
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts"
)

// quick lets a fuzz target spend its time on new inputs: by default each of them
// is made smaller for up to a minute first.
func quick(f *testing.F) {
	f.Helper()
	const name = "test.fuzzminimizetime"
	given := false
	flag.Visit(func(fl *flag.Flag) { given = given || fl.Name == name })
	if given {
		return
	}
	if err := flag.Set(name, "10x"); err != nil {
		f.Fatal(err)
	}
}

// fuzzed is a loader whose limits end an input soon.
func fuzzed() *scripts.Loader {
	return scripts.New(scripts.Options{PlanTime: 50 * time.Millisecond, Text: 64 << 10, Memory: 128 << 20})
}

// sources are small files, most of them with one mistake.
func sources(f *testing.F) (plan, estate []string) {
	f.Helper()
	for _, kind := range []string{"plan", "check", "estate"} {
		raw, err := os.ReadFile(filepath.Join("testdata", "rules", kind+".txt"))
		if err != nil {
			f.Fatal(err)
		}
		for _, c := range strings.Split(strings.TrimPrefix(string(raw), "== "), "\n== ") {
			if _, src, _ := strings.Cut(c, "\n"); kind == "estate" {
				estate = append(estate, src)
			} else {
				plan = append(plan, src)
			}
		}
	}
	for _, c := range hostile {
		if len(c.src) < 300 && c.want != "" && c.want != "time limit" && c.want != "memory" { // those take their time
			plan = append(plan, c.src)
		}
	}
	return plan, estate
}

// load loads a file and holds what is said of it against the rules for faults.
func load(t *testing.T, l *scripts.Loader, src string, estate bool) (loaded any, err error) {
	b, err := scripts.ReadBundle(func(name string) ([]byte, error) {
		if name == "p.lua" {
			return []byte(src), nil
		}
		return nil, fs.ErrNotExist
	}, "p.lua")
	if err != nil {
		t.Fatal(err)
	}
	if estate {
		loaded, err = l.LoadEstate(b)
	} else {
		loaded, err = l.LoadPlan(b, nil)
	}
	if err == nil {
		return loaded, nil
	}
	var faults plans.Faults
	if !errors.As(err, &faults) || len(faults) == 0 {
		t.Fatalf("no faults but %v", err)
	}
	for _, fault := range faults {
		if fault.Pos.File != "p.lua" || fault.Pos.Line < 1 || fault.Pos.Line > 1+strings.Count(src, "\n")+strings.Count(src, "\r") || fault.Message == "" || strings.Contains(fault.Message, "internal error") {
			t.Errorf("fault %+v", fault)
		}
	}
	return nil, err
}

// FuzzLoad: any source loads or has faults, each with a place in it, and never
// hangs, panics or is blamed on a host function.
func FuzzLoad(f *testing.F) {
	quick(f)
	plan, estate := sources(f)
	for _, src := range plan {
		f.Add(src, false)
	}
	for _, src := range estate {
		f.Add(src, true)
	}
	l := fuzzed()
	f.Fuzz(func(t *testing.T, src string, estate bool) {
		if len(src) <= 4<<10 {
			_, _ = load(t, l, src, estate) // its faults are right
		}
	})
}

// FuzzBuilt writes files of the language's own words from the input, so that
// most of them are Lua: such a file too loads or has faults, and the same ones
// when it is loaded again.
func FuzzBuilt(f *testing.F) {
	quick(f)
	for _, seed := range []string{"", "\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c", strings.Repeat("\x03\x07\x01", 40), strings.Repeat("abcdefgh", 30)} {
		f.Add([]byte(seed), false)
		f.Add([]byte(seed), true)
	}
	l := fuzzed()
	f.Fuzz(func(t *testing.T, in []byte, estate bool) {
		if len(in) > 400 {
			return
		}
		src := built(in, estate)
		first, err := load(t, l, src, estate)
		second, again := load(t, l, src, estate)
		for _, err := range []error{err, again} {
			if err != nil && strings.Contains(err.Error(), "time limit") {
				return
			}
		}
		if told(t, first, err) != told(t, second, again) {
			t.Errorf("%s\nloaded twice:\n%s\n%s", src, told(t, first, err), told(t, second, again))
		}
		if t.Failed() {
			t.Log(src)
		}
	})
}

// told is what came of a file, as text.
func told(t *testing.T, loaded any, err error) string {
	t.Helper()
	if err != nil {
		return err.Error()
	}
	raw, err := json.Marshal(loaded)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
