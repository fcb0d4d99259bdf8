package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/lab"
)

// TestStateIsLost loses the runtime's state under load, in every way there is:
// with its CA while a failover is not committed, and by an older copy that is
// put in its place. What the agents hold brings it back, no acknowledged write
// and no point is lost, and the next failovers work as before.
func TestStateIsLost(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	s := protect(t, ctx, false, killPlan)
	stop, clients := s.load(ctx, 10_000_000)
	s.must(s.Drrun(ctx, "kill", "--planned", "--yes"))
	run := s.newestRun(ctx).ID
	s.notePoints(ctx)

	// All is lost, and par-1 does not answer: one site is enough.
	s.no(os.RemoveAll(filepath.Join(s.Root, "controller")))
	s.Kill("par-1")
	out := s.refused(ctx, 5, "recover", "--estate", s.estateName(), "lyo-1="+s.Agents["lyo-1"], "-o", "json")
	s.joinAgain(ctx, "lyo-1", tokenIn(t, out, "lyo-1"))
	if out := s.must(s.Drrun(ctx, "recover")); !strings.Contains(out, "run "+run) {
		t.Errorf("run %s is not in what was recovered:\n%s", run, out)
	}
	if out := s.must(s.Drrun(ctx, "show", run)); !strings.Contains(out, "uncommitted") {
		t.Errorf("run %s was uncommitted, and is now:\n%s", run, out)
	}
	s.no(s.StartAgent("par-1"))
	s.joinAgain(ctx, "par-1", strings.TrimSpace(s.must(s.Drrun(ctx, "token", "par-1"))))
	s.must(s.Drrun(ctx, "commit", run))
	s.untilState(ctx, "protected", "lyon")
	lists := stop()
	s.onePower(ctx)
	s.noneLost(ctx, "lyon", clients, lists)

	// A copy of before a failover and its commit takes the folder's place.
	s.no(os.CopyFS(filepath.Join(s.Root, "older"), os.DirFS(filepath.Join(s.Root, "controller"))))
	s.must(s.Drrun(ctx, "kill", "--planned", "--failback", "--yes", "--commit"))
	s.untilState(ctx, "protected", "paris")
	s.no(os.Rename(filepath.Join(s.Root, "controller"), filepath.Join(s.Root, "newer")))
	s.no(os.Rename(filepath.Join(s.Root, "older"), filepath.Join(s.Root, "controller")))
	s.refused(ctx, 3, "kill", "--planned", "--yes")
	s.refused(ctx, 3, "apply", "estate.lua", "erp.lua", "--yes")
	s.must(s.Drrun(ctx, "recover"))
	s.onePower(ctx)
	stop, clients = s.load(ctx, 50_000_000)
	s.must(s.Drrun(ctx, "kill", "--planned", "--yes", "--commit"))
	s.untilState(ctx, "protected", "lyon")
	lists = stop()
	s.onePower(ctx)
	s.noneLost(ctx, "lyon", clients, lists)
	s.verifyPoints(ctx)
}

// refused runs a command that has to end with an exit code.
func (s *site) refused(ctx context.Context, code int, args ...string) string {
	s.t.Helper()
	out, err := s.Drrun(ctx, args...)
	var exit *lab.ExitError
	if !errors.As(err, &exit) || exit.Code != code {
		s.t.Fatalf("drrun %s: %v, want exit code %d\n%s", strings.Join(args, " "), err, code, out)
	}
	if code == 3 && !strings.Contains(exit.Stderr, "drrun recover") {
		s.t.Errorf("drrun %s does not say how to go on:\n%s", strings.Join(args, " "), exit.Stderr)
	}
	return out
}

func tokenIn(t *testing.T, out, host string) string {
	t.Helper()
	var res struct {
		Tokens []struct {
			Host  string `json:"host"`
			Token string `json:"token"`
		} `json:"tokens"`
	}
	if err := json.Unmarshal([]byte(out), &res); err != nil || len(res.Tokens) != 1 || res.Tokens[0].Host != host {
		t.Fatalf("no token of %s (%v) in:\n%s", host, err, out)
	}
	return res.Tokens[0].Token
}

func (s *site) joinAgain(ctx context.Context, host, token string) {
	s.t.Helper()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "drrun-agent"), "join", "--again", "--state", filepath.Join(s.Root, "agent-"+host), token)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("join --again on %s: %v\n%s", host, err, out)
	}
}

func (s *site) estateName() string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.Root, "plans/estate.lua"))
	s.no(err)
	_, rest, _ := strings.Cut(string(text), `return estate "`)
	name, _, ok := strings.Cut(rest, `"`)
	if !ok {
		s.t.Fatal("the estate of the example has no name")
	}
	return name
}
