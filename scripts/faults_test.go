package scripts_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/plans"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares got with a file under testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil { //nolint:gosec // a test file
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -update writes it); got:\n%s", file, got)
	}
}

// faultsOf loads a source and returns its faults as they are printed.
func faultsOf(t *testing.T, b plans.Bundle, estate bool) string {
	t.Helper()
	var err error
	if estate {
		_, err = loader().LoadEstate(b)
	} else {
		_, err = loader().LoadPlan(b, nil)
	}
	if err == nil {
		return "no fault\n"
	}
	if !fault.Is(err, fault.Invalid) {
		t.Errorf("kind of %v is %v", err, fault.KindOf(err))
	}
	return err.Error() + "\n"
}

func TestManyMistakesAllAtOnce(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"plan", "estate"} {
		src, err := os.ReadFile(filepath.Join("testdata", "faults", name+".lua"))
		if err != nil {
			t.Fatal(err)
		}
		got := faultsOf(t, one(name+".lua", string(src)), name == "estate")
		if n := strings.Count(got, "\n"+name+".lua:") + 1; n < 10 {
			t.Errorf("%s: %d faults, want ten at least", name, n)
		}
		golden(t, "faults/"+name+".golden", got)
	}
}
