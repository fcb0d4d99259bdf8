package evidence

import (
	"encoding/xml"
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/report"
)

var update = flag.Bool("update", false, "write the golden files")

var begin = time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC)

func at(s float64) time.Time { return begin.Add(time.Duration(s * float64(time.Second))) }

// sample is a planned failover with everything in it that a report can show.
func sample() *report.Run {
	loss, point := 0.0, &report.Point{ID: "4a4a6ed0f3c1", Seq: 812, Instant: at(70), Kind: recovery.App,
		Disks: []report.PointDisk{{Name: "root", Size: 4 << 30, Sum: "00f1e2d3c4b5a697"}, {Name: "data", Size: 8 << 30, Sum: "8f14e45fceea167a"}}}
	step := func(n int, title, section string, status report.StepStatus, from, to float64) report.Step {
		return report.Step{Number: n, ID: title, Section: section, Title: title, Status: status, Started: at(from), Ended: at(to), Seconds: to - from, Attempts: 1}
	}
	bad := step(4, "check health", "failover", report.StepFailed, 95, 275)
	bad.Error, bad.Pos, bad.Attempts = fault.Errorf(fault.Failed, "http 503\nfrom <app1>"), &plans.Pos{File: "erp.lua", Line: 22}, 3
	skipped := report.Step{Number: 5, ID: "dns", Section: "failover", Title: "point DNS at the active site", Status: report.StepSkipped, Reason: "skip = \"test\""}
	unknown := step(6, "tell the bank", "failover", report.StepUnknown, 275, 276)
	return &report.Run{ID: "erp-3f9a01", Kind: report.KindFailover, Plan: "erp <script>alert(1)</script>", Type: recovery.Planned, Direction: "failover", From: "paris", To: "lyon",
		Point: "latest", StartedBy: "ann@ops", Status: report.RunStopped, Section: "failover", Reason: "check health failed", Hint: "drrun resume erp-3f9a01", ExitCode: fault.ExitStopped,
		Created: begin, Ended: at(276), RTO: &report.Measure{Aim: 240, Measured: 276}, RPO: &report.Measure{Aim: 60, Measured: 0, Met: true},
		Bundle: "5d41402abc4b2a76b9719d911017c592", EstateHash: "7d793037a0760186574b0282f2f435e7", Params: map[string]any{"region": "eu"},
		Machines: []report.Machine{
			{Name: "db1", State: "ready", FromHost: "par-1", ToHost: "lyo-1", IP: "10.20.0.11", Point: point, Loss: &loss, Started: at(80), Ready: at(90),
				Proof: &report.Proof{Proved: true, Bytes: 8 << 30, Text: "read whole at both sites and equal"}},
			{Name: "app1", State: "failed", FromHost: "par-2", ToHost: "lyo-1", Reason: "its check failed", Proof: &report.Proof{Text: "the host could not be read"}},
		},
		Steps: []report.Step{step(1, "drain db1", "failover", report.StepDone, 0, 60), step(2, "stop db1", "failover", report.StepDone, 60, 70),
			step(3, "start db1", "failover", report.StepDone, 80, 90), bad, skipped, unknown},
		Errors:     []report.Failure{{Time: at(275), Step: "check health", Machine: "app1", Error: bad.Error, Pos: bad.Pos}},
		Waits:      []report.Wait{{Step: "tell the bank", Name: "tell the bank", Ask: "Was it done?", Answers: []string{"done", "again"}, Since: at(276)}},
		Statements: []report.Statement{{Time: at(65), By: "bob@ops", What: "answer", Text: "go & see"}},
		Notes:      []report.Note{{Time: at(1), Text: "expected downtime: 2m"}},
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	name = "testdata/" + name
	if *update {
		if err := os.WriteFile(name, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s differs (go test -update writes it); got:\n%s", name, got)
	}
}

func TestHTML(t *testing.T) {
	t.Parallel()
	b, err := HTML(sample(), at(300), "drrun 1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "stopped.html", b)
	text := string(b)
	if strings.Contains(text, "<script>") {
		t.Error("the name of a plan is taken for HTML")
	}
	// Self-contained: nothing is fetched.
	if m := regexp.MustCompile(`(?i)\b(src|href)\s*=|url\(|@import|https?://`).FindString(text); m != "" {
		t.Errorf("the page refers to something outside: %q", m)
	}
	for _, want := range []string{"4m36s (objective 4m00s, missed)", "bob@ops", "go &amp; see", "not proved: the host could not be read", "8.0 GiB equal at both sites", "erp.lua:22", "(attempt 3)",
		"root: <code>00f1e2d3c4b5a697</code>", "data: <code>8f14e45fceea167a</code>"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}

// TestVerdict: green is only what reached its aim, within its objectives.
func TestVerdict(t *testing.T) {
	t.Parallel()
	r := sample()
	r.ExitCode, r.Status, r.Reason, r.RTO = fault.ExitOK, report.RunCommitted, "", &report.Measure{Aim: 240, Measured: 276}
	if good(r) || !strings.Contains(verdict(r), "RTO missed") {
		t.Errorf("a run that missed its RTO: good=%v, %q", good(r), verdict(r))
	}
	if r.RTO.Met = true; !good(r) {
		t.Error("a run that met its objectives is not good")
	}
	if r.ExitCode = fault.ExitUnknown; good(r) {
		t.Error("an unknown outcome is good")
	}
}

// TestNothingRan: a run that was refused has a page, too.
func TestNothingRan(t *testing.T) {
	t.Parallel()
	r := &report.Run{ID: "erp-1", Plan: "erp", Status: report.RunRefused, Reason: "db1 is degraded", ExitCode: fault.ExitRefused, Created: begin}
	b, err := HTML(r, begin, "drrun")
	if err != nil || !strings.Contains(string(b), "refused: db1 is degraded") || strings.Contains(string(b), "<svg") {
		t.Errorf("%v\n%s", err, b)
	}
	if b, err = JUnit(r); err != nil || !strings.Contains(string(b), `failures="1"`) {
		t.Errorf("%v\n%s", err, b)
	}
}

// TestsJUnit leaves out what is not known: readers check dates.
func TestTestsJUnit(t *testing.T) {
	t.Parallel()
	b, err := TestsJUnit([]Case{{File: "a_test.lua", Name: "passes", Seconds: 0.5}, {File: "a_test.lua", Name: "fails <&>", Failure: "a_test.lua:3: no\nline two"}, {File: "b_test.lua", Name: "x"}})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "tests.xml", b)
}

func TestJUnit(t *testing.T) {
	t.Parallel()
	b, err := JUnit(sample())
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "stopped.xml", b)
	var got suites
	if err := xml.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	for _, c := range got.Suites[0].Cases {
		for _, p := range []*problem{c.Failure, c.Error} {
			if p != nil && p.Type == "" {
				t.Errorf("%s: a failure without a type", c.Name)
			}
		}
	}
	// Of nine cases: the step, the RTO and the run failed; one outcome is
	// unknown; one step was skipped.
	if s := got.Suites[0]; s.Tests != 9 || s.Failures != 3 || s.Errors != 1 || s.Skipped != 1 || len(s.Cases) != 9 {
		t.Errorf("%d tests, %d failures, %d errors, %d skipped, %d cases", s.Tests, s.Failures, s.Errors, s.Skipped, len(s.Cases))
	}
}
