package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drrun/drrun/agent/client"
	"github.com/drrun/drrun/internal/clock"
	verbs "github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/transport/pki"
	"github.com/drrun/drrun/transport/quicnet"
	"github.com/drrun/drrun/transport/rpc"
)

// TestMain makes this binary the program itself as well: real processes can be
// killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "as-agent" {
		env := osEnv()
		env.Args = os.Args[2:]
		os.Exit(Main(env))
	}
	os.Exit(m.Run())
}

// program runs the program to its end.
func program(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], append([]string{"as-agent"}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// daemon starts drrun-agent run and waits until it listens.
func daemon(t *testing.T, args ...string) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"as-agent", "run"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "drrun-agent listens at ")
	if !ok {
		t.Fatalf("it printed %q", line)
	}
	return cmd, addr
}

func TestJoinRunKillRun(t *testing.T) {
	t.Parallel()
	ca, err := pki.CreateCA(vfs.OS{}, t.TempDir(), "acme", clock.Real{})
	if err != nil {
		t.Fatal(err)
	}
	rt, err := ca.IssueRuntime("shell")
	if err != nil {
		t.Fatal(err)
	}
	token, hash := pki.NewToken("par-1", ca.Pin())
	state := t.TempDir()
	if code, out, errs := program(t, token.String()+"\n", "join", "-", "--state", state); code != 0 || !strings.Contains(out, "host par-1 waits to join") {
		t.Fatalf("join: %d %s%s", code, out, errs)
	}
	cmd, addr := daemon(t, "--state", state, "--listen", "127.0.0.1:0", "--log-level", "error")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err = quicnet.JoinHost(ctx, addr, ca, rt, "paris", "par-1", func(p pki.JoinProof) error {
		if !p.Matches(hash) {
			return fault.Errorf(fault.Refused, "another token")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	medium := quicnet.New(quicnet.Fixed(rt), quicnet.Options{})
	cl := client.New(medium, "acme", func(string) (string, bool) { return addr, true }, rpc.Options{})
	t.Cleanup(func() {
		if err := errors.Join(cl.Close(), medium.Close()); err != nil {
			t.Error(err)
		}
	})
	st, err := verbs.Status.Call(ctx, cl, "par-1", verbs.StatusRequest{})
	if err != nil || st.Host != "par-1" || st.Site != "paris" || st.Estate != "acme" {
		t.Fatalf("status: %+v, %v", st, err)
	}
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"folder in use":   {[]string{"run", "--state", state, "--listen", "127.0.0.1:0"}, 8, "in use by another drrun-agent"},
		"unknown machine": {[]string{"permit", "erp", "--state", state}, 2, "not assigned"},
		"no such machine": {[]string{"status", "erp", "--state", state}, 2, "not assigned"},
	} {
		if code, _, errs := program(t, "", c.args...); code != c.code || !strings.Contains(errs, c.want) {
			t.Errorf("%s: exit %d, %s", name, code, errs)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	cmd, again := daemon(t, "--state", state, "--listen", addr, "--log-level", "error")
	if again != addr {
		t.Errorf("it listens at %s, not again at %s", again, addr)
	}
	code, out, errs := program(t, "", "status", "--state", state, "-o", "json")
	var local verbs.AgentStatus
	if err := json.Unmarshal([]byte(out), &local); code != 0 || err != nil || local.Host != "par-1" {
		t.Errorf("status after a kill: %d %s%s", code, out, errs)
	}
	if code, out, _ := program(t, "", "status", "--state", state); code != 0 || !strings.Contains(out, "host par-1, site paris, estate acme") {
		t.Errorf("status table: %d %s", code, out)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended by SIGTERM: %v", err)
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	for name, c := range map[string]struct {
		args      []string
		code      int
		out, errs string
	}{
		"no arguments":      {nil, 0, "COMMANDS", ""},
		"help":              {[]string{"help", "run"}, 0, "EXIT STATUS", ""},
		"help of a command": {[]string{"permit", "--help"}, 0, "EXAMPLES", ""},
		"version":           {[]string{"version"}, 0, "drrun-agent ", ""},
		"unknown command":   {[]string{"strat"}, 2, "", `no command "strat"`},
		"unknown flag":      {[]string{"run", "--lisen", "x"}, 2, "", "unknown flag"},
		"missing token":     {[]string{"join"}, 2, "", "usage: drrun-agent join TOKEN"},
		"not a token":       {[]string{"join", "abc", "--state", empty}, 2, "", "cannot read the token"},
		"not joined":        {[]string{"run", "--state", empty}, 3, "", "has not joined"},
		"bad level":         {[]string{"run", "--state", empty, "--log-level", "loud"}, 2, "", "not known"},
		"bad output":        {[]string{"status", "-o", "xml"}, 2, "", "not known"},
		"no agent":          {[]string{"status", "--state", empty}, 8, "", "no drrun-agent answers"},
		"permit nobody":     {[]string{"permit", "erp", "--state", empty}, 8, "", "hint: start it with drrun-agent run"},
	} {
		code, out, errs := program(t, "", c.args...)
		if code != c.code || !strings.Contains(out, c.out) || !strings.Contains(errs, c.errs) {
			t.Errorf("%s: exit %d\n%s%s", name, code, out, errs)
		}
	}
}

func TestStateFolder(t *testing.T) {
	t.Parallel()
	env := map[string]string{}
	e := Env{Getenv: func(k string) string { return env[k] }, Home: "/home/ann"}
	check := func(flag, want string) {
		t.Helper()
		if got, err := e.stateFolder(flag); got != want || err != nil {
			t.Errorf("folder is %q (%v), want %q", got, err, want)
		}
	}
	check("", "/home/ann/.local/state/drrun-agent")
	e.Root = true
	check("", "/var/lib/drrun-agent")
	env["DRRUN_AGENT_STATE"] = "/srv/agent"
	check("", "/srv/agent")
	check("/x", "/x")
	e = Env{Getenv: func(string) string { return "" }}
	if _, err := e.stateFolder(""); !fault.Is(err, fault.Invalid) {
		t.Errorf("no home: %v", err)
	}
}

// Every code that a command lists is in the table, and every command has its
// page.
func TestHelpPages(t *testing.T) {
	t.Parallel()
	for _, cmd := range commands() {
		for _, code := range cmd.exits {
			if exitTexts[code] == "" {
				t.Errorf("%s: exit code %d has no text", cmd.name, code)
			}
		}
		if cmd.examples == "" || cmd.long == "" || cmd.short == "" {
			t.Errorf("%s has no examples or texts", cmd.name)
		}
	}
}
