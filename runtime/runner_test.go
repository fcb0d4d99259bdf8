package runtime_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/drrun/drrun/runtime"
)

func TestLocalRunner(t *testing.T) {
	t.Parallel()
	run := func(argv ...string) (int, string, error) {
		return runtime.LocalRunner{}.Run(t.Context(), argv, []string{"DRRUN_RUN=erp-1"})
	}
	if exit, out, err := run("sh", "-c", "echo $DRRUN_RUN; exit 3"); exit != 3 || out != "erp-1\n" || err != nil {
		t.Errorf("exit %d, %q, %v", exit, out, err)
	}
	if exit, out, err := run("sh", "-c", "seq 100000; echo the end"); exit != 0 || err != nil || len(out) != runtime.MaxOutput || !strings.HasSuffix(out, "the end\n") {
		t.Errorf("exit %d, %d bytes, %v", exit, len(out), err)
	}
	if _, _, err := run("/nowhere/program"); err == nil {
		t.Error("a program that is not there ran")
	}
	if _, _, err := run("sh", "-c", "kill -9 $$"); err == nil {
		t.Error("a killed program has an exit code")
	}
	if _, _, err := run(); err == nil {
		t.Error("an empty command ran")
	}
}

// TestLocalRunnerEndsTheWholeGroup: what a program started does not outlive its
// time. The pipe ends when the last process that holds it has ended.
func TestLocalRunnerEndsTheWholeGroup(t *testing.T) {
	t.Parallel()
	fifo := filepath.Join(t.TempDir(), "alive")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() {
		_, _, err := runtime.LocalRunner{}.Run(ctx, []string{"sh", "-c", `exec 3>"$FIFO"; echo up >&3; sleep 1000 & wait`}, []string{"FIFO=" + fifo})
		done <- err
	}()
	f, err := os.Open(fifo) // waits for the program
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.ReadFull(f, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	cancel(errCrash)
	if err := <-done; !errors.Is(err, errCrash) {
		t.Errorf("the program ended with %v", err)
	}
	if _, err := io.ReadAll(f); err != nil {
		t.Errorf("the pipe: %v", err)
	}
}
