// Package needs is for tests that need something a fresh machine may lack (a
// program, a kernel feature): they skip with a sentence on how to get it, or
// fail where skips are forbidden (DRRUN_NO_SKIP=1). Only tests import it.
package needs

import (
	"os"
	"os/exec"
)

// TB is the part of testing.TB that is used.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

// Program returns the path of a program, or ends the test; get says how to
// install it.
func Program(t TB, name, get string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		Missing(t, "the program "+name, get)
	}
	return p
}

// Missing ends a test that lacks something.
func Missing(t TB, what, get string) {
	t.Helper()
	if os.Getenv("DRRUN_NO_SKIP") != "" {
		t.Fatalf("this test needs %s, and skips are forbidden here: %s", what, get)
	}
	t.Skipf("this test needs %s: %s", what, get)
}
