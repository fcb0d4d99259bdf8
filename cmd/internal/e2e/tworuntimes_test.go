package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/lab"
)

// said is how a drrun command ended.
type said struct {
	code int
	text string
}

// drrunAt runs drrun with another state folder than the lab's.
func (s *site) drrunAt(ctx context.Context, state string, args ...string) (said, error) {
	cmd := s.Command(ctx, args...)
	cmd.Env = append(cmd.Env, "DRRUN_STATE="+state)
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = nil
	}
	return said{cmd.ProcessState.ExitCode(), string(bytes.TrimSpace(out))}, err
}

// TestTwoRuntimesOneMachine: two runtimes, one of them with a copy of the
// other's state, start an unplanned failover of one machine at once. One gets
// the epoch, the other ends with an error that names what was before it, or finds
// the machine where it wanted it; the machine runs once.
func TestTwoRuntimesOneMachine(t *testing.T) {
	t.Parallel()
	rnd := moments(t)
	// At once, a little apart, and so far apart that the first may have ended.
	most := []time.Duration{0, 500 * time.Millisecond}
	if long() {
		most = []time.Duration{0, 0, 0, 20, 20, 20, 50, 50, 100, 200, 500, 1000}
		for i := range most {
			most[i] *= time.Millisecond
		}
	}
	for i, d := range most {
		apart := time.Duration(rnd.Int64N(int64(d) + 1))
		first := rnd.IntN(2)
		t.Run(fmt.Sprintf("%d-%v", i, apart), func(t *testing.T) {
			t.Parallel()
			race(t, first, apart)
		})
	}
}

func race(t *testing.T, first int, apart time.Duration) {
	ctx := within(t, 5*time.Minute)
	s := newSite(t, lab.Options{Every: "500ms", Small: true}, false)
	s.protect(ctx, killPlan)
	states := []string{filepath.Join(s.Root, "controller"), filepath.Join(s.Root, "restored")}
	s.no(os.CopyFS(states[1], os.DirFS(states[0])))
	s.no(os.Chmod(states[1], 0o700))
	s.no(s.KillSite("par-1", "paris"))

	second := make(chan said, 1)
	go func() {
		pause(ctx, apart)
		second <- s.takes(ctx, states[1-first], "db1")
	}()
	a := s.takes(ctx, states[first], "db1")
	s.oneOf(a, <-second)
	if !lab.Listening(s.IP("lyon", "db1") + ":" + s.Port) {
		t.Error("db1 does not serve at lyon")
	}
	started := 0
	for _, l := range s.neverTogether() {
		if l.Machine == "db1" && l.Site == "lyon" {
			started++
		}
	}
	if started != 1 {
		t.Errorf("db1 was started %d times at lyon", started)
	}
}

func (s *site) takes(ctx context.Context, state, machine string) said {
	end, err := s.drrunAt(ctx, state, "failover", machine, "--unplanned", "--source-is-down", "--yes")
	if err != nil {
		return said{-1, err.Error()}
	}
	return end
}

// names is how an error says what was before it: a run, an epoch, or the number
// that the other's claim left at the agents.
var names = regexp.MustCompile(`run "?[a-z0-9]+-[0-9a-f]{6}|epoch 2|fencing number [0-9]+`)

// oneOf fails the test unless one command got the machine and the other says
// what was before it.
func (s *site) oneOf(a, b said) {
	s.t.Helper()
	got := func(x said) bool { return x.code == 0 && !strings.Contains(x.text, "already active") }
	other := b
	if got(b) {
		other = a
	}
	s.t.Logf("the other: exit %d: %s", other.code, other.text)
	switch {
	case got(a) == got(b):
		s.t.Errorf("one and only one must get it:\n%d: %s\n%d: %s", a.code, a.text, b.code, b.text)
	case other.code != 0 && !names.MatchString(other.text):
		s.t.Errorf("the other does not name what was before it:\n%s", other.text)
	}
}
