package plantest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/simworld"
	"github.com/drrun/drrun/scripts"
)

// TestID names one test of a file.
type TestID struct {
	File   string   `json:"file"`
	Number int      `json:"number"`
	Names  []string `json:"names"`
	Line   int      `json:"line"`
}

// Name is the whole name in one line.
func (t TestID) Name() string { return strings.Join(t.Names, ", ") }

// TestResult is how a test ended.
type TestResult struct {
	TestID
	Passed  bool                 `json:"passed"`
	Failure *scripts.TestFailure `json:"failure,omitempty"`
	Printed []string             `json:"printed,omitempty"` // lines of print
	Seconds float64              `json:"seconds"`           // of real time
	Virtual float64              `json:"virtual_seconds"`   // of the worlds
}

// FindTests lists the test files among files and folders; without any, of the
// working folder and those below it.
func FindTests(args []string) ([]string, error) {
	files, err := findFiles(args, func(path string) bool { return strings.HasSuffix(path, "_test.lua") })
	for _, arg := range args { // a file that is named is one, whatever it is called
		if info, statErr := os.Stat(arg); statErr == nil && !info.IsDir() {
			files = append(files, arg)
		}
	}
	slices.Sort(files)
	return slices.Compact(files), err
}

// findFiles lists what is wanted in folders, without any in the working folder,
// and in those below them.
func findFiles(args []string, wanted func(path string) bool) ([]string, error) {
	if len(args) == 0 {
		args = []string{"."}
	}
	var out []string
	for _, arg := range args {
		info, err := os.Stat(arg)
		if err != nil {
			return nil, fault.Errorf(fault.Invalid, "cannot read %s: %w", arg, err)
		}
		if !info.IsDir() {
			continue
		}
		err = filepath.WalkDir(arg, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() && path != arg && strings.HasPrefix(d.Name(), ".") {
				return filepath.SkipDir
			}
			if err == nil && !d.IsDir() && wanted(path) {
				out = append(out, path)
			}
			return err
		})
		if err != nil {
			return nil, fault.Errorf(fault.Invalid, "cannot read %s: %w", arg, err)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// ListTests loads test files and lists their tests. The error holds every
// mistake of every file.
func ListTests(lua *scripts.Loader, files []string) ([]TestID, error) {
	var out []TestID
	var faults plans.Faults
	for _, f := range files {
		b, err := readBundle(f)
		if err != nil {
			return nil, err
		}
		cases, err := lua.LoadTests(b)
		var fs plans.Faults
		switch {
		case errors.As(err, &fs):
			faults = append(faults, fs...)
		case err != nil:
			return nil, err
		}
		for i, c := range cases {
			out = append(out, TestID{File: f, Number: i, Names: c.Names, Line: c.Pos.Line})
		}
	}
	if err := faults.Err(); err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	return out, nil
}

// Tester runs tests.
type Tester struct {
	Lua    *scripts.Loader
	Bubble Bubble
	Update bool // write golden files
	// Sample tries only every so many of the deaths of crash_everywhere; 0: each.
	Sample int
	// Beat is called now and then while a test runs; nil: nobody listens.
	Beat     func()
	Coverage *Coverage // nil: it is not wanted
	subjects map[string]*Subject
}

// Run runs one test.
func (t *Tester) Run(id TestID) TestResult {
	res := TestResult{TestID: id}
	began := time.Now()
	fail := func(err error) {
		res.Failure = &scripts.TestFailure{Pos: plans.Pos{File: id.File, Line: id.Line}, Message: withHint(err).Error()}
	}
	b, err := readBundle(id.File)
	if err != nil {
		fail(err)
		return res
	}
	t.Bubble(func(ctx context.Context) {
		begin := time.Now()
		h := &host{t: t, file: id.File}
		failure, err := t.Lua.RunTest(ctx, b, id.Number, h)
		if failure == nil {
			failure = h.leftOver(id)
		} else {
			failure.Message += h.runs() + h.missed()
		}
		for _, st := range h.stages {
			err = errors.Join(err, st.close(ctx))
			if t.Coverage != nil {
				t.Coverage.asked(st)
			}
		}
		if res.Failure = failure; err != nil {
			fail(err)
		}
		res.Virtual, res.Printed = time.Since(begin).Seconds(), h.printed
	})
	res.Passed = res.Failure == nil
	res.Seconds = time.Since(began).Seconds()
	return res
}

// host makes the worlds of one test.
type host struct {
	t      *Tester
	file   string
	stages []*stage

	printed []string
}

var _ scripts.TestHost = (*host)(nil)

func (h *host) subject(plan string, o map[string]any) (*Subject, error) {
	dir := filepath.Dir(h.file)
	if plan == "" {
		plan = strings.TrimSuffix(filepath.Base(h.file), "_test.lua") + ".lua"
	}
	estate := word(o, "estate")
	if estate != "" {
		estate = filepath.Join(dir, estate)
	}
	set := map[string]string{}
	if m, ok := o["set"].(map[string]any); ok {
		for k, v := range m {
			set[k] = fmt.Sprint(v)
		}
	}
	key := fmt.Sprint(dir, plan, estate, set)
	if s := h.t.subjects[key]; s != nil {
		return s, nil
	}
	s, err := Load(h.t.Lua, filepath.Join(dir, plan), estate, set)
	if err != nil {
		return nil, err
	}
	if h.t.subjects == nil {
		h.t.subjects = map[string]*Subject{}
	}
	h.t.subjects[key] = s
	return s, nil
}

func (h *host) stage(ctx context.Context, plan string, o map[string]any) (*stage, error) {
	s, err := h.subject(plan, o)
	if err != nil {
		return nil, err
	}
	st, err := newStage(ctx, s)
	if err != nil {
		return nil, err
	}
	st.golden = h.golden
	st.w.Listen() // to say what was asked instead of what a fault waits for
	if h.t.Coverage != nil {
		st.ran = func(r *report.Run) { h.t.Coverage.saw(s, r) }
	}
	return st, nil
}

// World implements scripts.TestHost.
func (h *host) World(ctx context.Context, plan string, o map[string]any) (scripts.Object, error) {
	st, err := h.stage(ctx, plan, o)
	if err != nil {
		return nil, err
	}
	h.stages = append(h.stages, st)
	h.beat()
	return worldObject{st}, nil
}

// mostPrinted is how many lines of print are kept of a test.
const mostPrinted = 200

// Print implements scripts.TestHost.
func (h *host) Print(line string) {
	if len(h.printed) < mostPrinted {
		h.printed = append(h.printed, line)
	}
}

func (h *host) beat() {
	if h.t.Beat != nil {
		h.t.Beat()
	}
}

// leftOver fails a test in whose worlds something happened that never may: that a
// test did not look is no reason to pass. One that looked at the violations has
// judged them, but for the rules of drrun itself.
func (h *host) leftOver(id TestID) *scripts.TestFailure {
	for _, st := range h.stages {
		for _, v := range st.w.Violations() {
			if v.Rule == simworld.RuleRight || v.Rule == simworld.RulePoints || !st.looked {
				return &scripts.TestFailure{Pos: plans.Pos{File: id.File, Line: id.Line}, Message: v.Text + " (a test that means it looks at w:violations())"}
			}
		}
	}
	for _, st := range h.stages {
		if p := st.neverStruck(); p != nil {
			return &scripts.TestFailure{Pos: p.at, Message: p.text()}
		}
	}
	return nil
}

// missed says of a test that failed which fault never struck: that may be why.
func (h *host) missed() string {
	for _, st := range h.stages {
		if p := st.neverStruck(); p != nil {
			return fmt.Sprintf("\n  %s:%d: %s", p.at.File, p.at.Line, p.text())
		}
	}
	return ""
}

// inTest are the words of a command line for what a test says instead.
var inTest = strings.NewReplacer("--source-is-down", "source_is_down = true", "--no-shutdown", "no_shutdown = true", "--force", "force = true",
	"--unplanned", "w:unplanned()")

// runs says how the runs of a test that failed stand, where that is not well: what
// stopped a run is more than that it is stopped.
func (h *host) runs() string {
	const most = 3
	var out []string
	for _, st := range h.stages {
		for _, ro := range st.runs {
			r := ro.run
			if r.Reason == "" || r.Status == report.RunUncommitted || r.Status == report.RunDone || r.Status == report.RunCommitted {
				continue
			}
			text := fmt.Sprintf("run %s is %s: %s", r.ID, r.Status, r.Reason)
			for i, f := range r.Errors {
				if i == most {
					text += "\n    and " + quantity.Count(len(r.Errors)-most, "more error")
					break
				}
				if f.Error.Message != r.Reason {
					text += "\n    " + f.Step + ": " + f.Error.Message
				}
			}
			if r.Status == report.RunRefused && r.Hint != "" {
				text += "\n    hint: " + inTest.Replace(r.Hint)
			}
			out = append(out, text)
		}
	}
	if len(out) == 0 {
		return ""
	}
	return "\n  " + strings.Join(out, "\n  ")
}

// golden compares a timeline with its file beside the test.
func (h *host) golden(name, text string) error {
	if name == "" || strings.ContainsAny(name, `/\`) || strings.HasPrefix(name, ".") {
		return errf("golden: %q is no name of a file", name)
	}
	file := filepath.Join(filepath.Dir(h.file), "testdata", name+".txt")
	want, err := os.ReadFile(file)
	if h.t.Update {
		if err == nil && string(want) == text {
			return nil
		}
		if err := (vfs.OS{}).MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		return vfs.WriteFile(vfs.OS{}, file, []byte(text), 0o644)
	}
	if err != nil {
		return errf("golden: cannot read %s: %w (drrun test --update writes it)", file, err)
	}
	if line, got, had := firstDifference(text, string(want)); line > 0 {
		return errf("%s:%d differs: got %q, want %q (drrun test --update takes it over)", file, line, got, had)
	}
	return nil
}

// firstDifference finds the first line in which two texts differ; 0: none.
func firstDifference(a, b string) (line int, got, want string) {
	as, bs := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range max(len(as), len(bs)) {
		got, want = "", ""
		if i < len(as) {
			got = as[i]
		}
		if i < len(bs) {
			want = bs[i]
		}
		if got != want {
			return i + 1, got, want
		}
	}
	return 0, "", ""
}

// CrashEverywhere implements scripts.TestHost.
func (h *host) CrashEverywhere(ctx context.Context, plan string, o map[string]any, body scripts.Function) error {
	var steps []string
	once := func(n int, after bool) (ending, error) {
		st, err := h.stage(ctx, plan, o)
		if err != nil {
			return ending{}, err
		}
		if n > 0 {
			st.rt.DieAt(n, after)
		} else {
			st.rt.OnRecord(func(_ int, step, kind string) { steps = append(steps, strings.TrimSpace(kind+" "+step)) })
		}
		_, err = body(worldObject{st})
		if n == 0 {
			if p := st.neverStruck(); err == nil && p != nil {
				err = errf("%s:%d: %s", p.at.File, p.at.Line, p.text())
			}
			if h.t.Coverage != nil {
				h.t.Coverage.asked(st)
			}
		}
		end := endOf(st)
		h.beat()
		return end, errors.Join(err, st.close(ctx))
	}
	want, err := once(0, false)
	if err != nil {
		return err
	}
	for n := 1; n <= len(steps); n += max(1, h.t.Sample) {
		for _, after := range []bool{false, true} {
			when := "before"
			if after {
				when = "after"
			}
			got, err := once(n, after)
			if err == nil {
				err = want.same(got)
			}
			if err != nil {
				return errf("the runtime died %s record %d (%s): %w", when, n, steps[n-1], err)
			}
		}
	}
	return nil
}

// ending is how a world ended, without times.
type ending struct {
	summary []string
	changes map[string]int
	rules   []string
}

func endOf(st *stage) ending {
	e := ending{summary: st.w.Summary(), changes: st.w.Changes()}
	for _, v := range st.w.Violations() {
		e.rules = append(e.rules, v.Text)
	}
	return e
}

// same compares the end after a death with the one without.
func (e ending) same(got ending) error {
	for i := range max(len(e.summary), len(got.summary)) {
		var a, b string
		if i < len(e.summary) {
			a = e.summary[i]
		}
		if i < len(got.summary) {
			b = got.summary[i]
		}
		if a != b {
			return errf("the end differs: %s; without a death: %s", b, a)
		}
	}
	for _, text := range slices.Sorted(maps.Keys(e.changes)) {
		if got.changes[text] != e.changes[text] {
			return errf("%q happened %d times; without a death: %d times", text, got.changes[text], e.changes[text])
		}
	}
	for _, text := range slices.Sorted(maps.Keys(got.changes)) {
		if e.changes[text] == 0 {
			return errf("%q happened, and does not without a death", text)
		}
	}
	for _, text := range got.rules {
		if !slices.Contains(e.rules, text) {
			return errf("%s", text)
		}
	}
	return nil
}
