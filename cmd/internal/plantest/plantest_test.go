package plantest_test

import (
	"context"
	"os"
	"testing"
	"testing/synctest"

	"github.com/drrun/drrun/cmd/internal/plantest"
	"github.com/drrun/drrun/scripts"
)

// bubble is virtual time in a test.
func bubble(t *testing.T) plantest.Bubble {
	return func(f func(ctx context.Context)) { synctest.Test(t, func(t *testing.T) { f(t.Context()) }) }
}

func TestExamples(t *testing.T) {
	t.Parallel()
	lua := scripts.New(scripts.Options{})
	files, err := plantest.FindTests([]string{"testdata/erp", "testdata/good", "../../../examples/erp"})
	if err != nil {
		t.Fatal(err)
	}
	tests, err := plantest.ListTests(lua, files)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 5 || len(tests) < 13 {
		t.Fatalf("only %d tests in %v", len(tests), files)
	}
	for _, id := range tests {
		t.Run(id.Name(), func(t *testing.T) {
			tr := plantest.Tester{Lua: lua, Bubble: bubble(t), Update: os.Getenv("UPDATE") != ""}
			if !*full {
				tr.Sample = deathsOf
			}
			if r := tr.Run(id); !r.Passed {
				t.Errorf("%s:%d: %s", r.Failure.Pos.File, r.Failure.Pos.Line, r.Failure.Message)
			} else {
				t.Logf("%.2f s for %.0f s", r.Seconds, r.Virtual)
			}
		})
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
