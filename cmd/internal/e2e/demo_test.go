package e2e_test

import (
	"os/exec"
	"strings"
	"testing"
)

// TestDemoFindsAPlantedLoss shows that the demo can fail: a service that
// acknowledges an entry without writing it makes it exit 1 and name the entry.
func TestDemoFindsAPlantedLoss(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), bin+"/demo", "--bin", bin, "--plant-loss")
	cmd.Dir = root()
	out, err := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != 1 {
		t.Fatalf("exit %d (%v), want 1\n%s", code, err, out)
	}
	if !strings.Contains(string(out), "entry 50 of db1") {
		t.Errorf("it does not name the lost entry:\n%s", out)
	}
}
