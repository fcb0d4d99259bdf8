package compose

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/plans"
)

func TestOpenSecret(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	t.Setenv("DRRUN_TEST_SECRET", "from-env")
	e := &plans.Estate{Secrets: []plans.Secret{
		{Name: "file", File: file("key", "two words\nand a line\r\n")},
		{Name: "env", Env: "DRRUN_TEST_SECRET"},
		{Name: "exec", Exec: []string{"printf", `from-%s\n`, "exec"}},
		{Name: "empty", File: file("empty", "\n")},
		{Name: "long", File: file("long", strings.Repeat("x", maxSecret+1))},
		{Name: "gone", File: filepath.Join(dir, "gone")},
		{Name: "folder", File: dir},
		{Name: "device", File: "/dev/zero"},
		{Name: "unset", Env: "DRRUN_TEST_NO_SECRET"},
		{Name: "fails", Exec: []string{"sh", "-c", "echo top-secret; exit 3"}},
		{Name: "floods", Exec: []string{"head", "-c", "1000000", "/dev/zero"}},
		{Name: "no program", Exec: []string{filepath.Join(dir, "none")}},
	}}
	for name, want := range map[string]string{"file": "two words\nand a line", "env": "from-env", "exec": "from-exec"} {
		if got, err := openSecret(t.Context(), e, name); err != nil || got != want {
			t.Errorf("%s: got %q %v, want %q", name, got, err, want)
		}
	}
	for name, want := range map[string]string{
		"empty": "it is empty", "long": "longer than 65536 bytes", "gone": "no such file", "folder": "no regular file",
		"device": "no regular file", "unset": "DRRUN_TEST_NO_SECRET: it is not set", "fails": "exit status 3",
		"floods": "longer than 65536 bytes", "no program": "no such file",
	} {
		got, err := openSecret(t.Context(), e, name)
		if !fault.Is(err, fault.Failed) || got != "" || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "top-secret") {
			t.Errorf("%s: got %q %v, want %q", name, got, err, want)
		}
	}
	if _, err := openSecret(t.Context(), e, "other"); !fault.Is(err, fault.NotFound) {
		t.Errorf("unknown secret: %v", err)
	}
}
