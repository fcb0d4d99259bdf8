package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drrun/drrun/cmd/internal/term"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/runtime/estate"
	"github.com/drrun/drrun/runtime/store"
)

// stateDesk is a state folder without a controller, and a backup that is older
// than it.
type stateDesk struct {
	t              *testing.T
	work, dir      string
	backup, estate string
}

const smallEstate = `return estate "acme" {
  site "paris" { cloud "prod" { to = "dr", host "par-1" { addr = "127.0.0.1:1" } } },
  site "lyon" { cloud "dr" { host "lyo-1" { addr = "127.0.0.1:2", store = "/srv/%s" } } },
}`

func newStateDesk(t *testing.T) *stateDesk {
	t.Helper()
	work := t.TempDir()
	s := &stateDesk{t: t, work: work, dir: filepath.Join(work, "state"), backup: filepath.Join(work, "drrun.backup"), estate: filepath.Join(work, "estate.lua")}
	for _, storeDir := range []string{"old", "new"} {
		if err := os.WriteFile(s.estate, fmt.Appendf(nil, smallEstate, storeDir), 0o600); err != nil {
			t.Fatal(err)
		}
		s.want(0, "", nil, "apply", s.estate, "--yes")
		if storeDir == "old" {
			s.want(0, "", []string{"DRRUN_PASSPHRASE=correct horse"}, "state", "backup", s.backup)
		}
	}
	return s
}

// run gives a command, at a desk or (nil) without a terminal.
func (s *stateDesk) run(d *desk, env []string, args ...string) (code int, said string) {
	s.t.Helper()
	var out, diag safeBuffer
	e := Env{Args: args, User: "ada@desk", Home: s.work, Stdin: strings.NewReader("")}
	e.Stdout, e.Stderr = term.Terminal{Writer: &out}, term.Terminal{Writer: &diag}
	e.Getenv = func(k string) string {
		if k == "DRRUN_STATE" {
			return s.dir
		}
		i := slices.IndexFunc(env, func(v string) bool { return strings.HasPrefix(v, k+"=") })
		if i < 0 {
			return ""
		}
		return strings.TrimPrefix(env[i], k+"=")
	}
	if d != nil {
		e.Stdin, e.Asks = d.screen, true
		e.Stderr = term.Terminal{Writer: d, Interactive: true, Width: func() int { return 100 }}
	}
	code = Main(e)
	said = out.String() + diag.String()
	if d != nil {
		said += d.String()
	}
	return code, said
}

func (s *stateDesk) want(want int, text string, env []string, args ...string) {
	s.t.Helper()
	if code, said := s.run(nil, env, args...); code != want || !strings.Contains(said, text) {
		s.t.Errorf("%v: exit %d, want %d and %q\n%s", args, code, want, text, said)
	}
}

// facts are what a mistake must not change: the estate's revision, the CA, and
// what is beside them.
func (s *stateDesk) facts(dir string) string {
	s.t.Helper()
	b, err := store.OpenBolt(vfs.OS{}, dir)
	if err != nil {
		s.t.Fatal(err)
	}
	kv, err := b.Get(context.Background(), estate.CurrentKey)
	if err != nil {
		s.t.Fatal(err)
	}
	_, rev, _, err := estate.AppliedIn(kv.Value)
	if cerr := b.Close(); err != nil || cerr != nil {
		s.t.Fatal(err, cerr)
	}
	key, err := os.ReadFile(filepath.Join(dir, "ca/ca.key"))
	if err != nil {
		s.t.Fatal(err)
	}
	aside, _ := filepath.Glob(filepath.Join(dir, "*-20*"))
	return fmt.Sprintf("revision %d, key %x, kept %v", rev, key, aside)
}

// TestRestoreInHaste: a mistake changes nothing, and what a restore takes the
// place of is kept each time.
func TestRestoreInHaste(t *testing.T) {
	t.Parallel()
	s := newStateDesk(t)
	before := s.facts(s.dir)
	pass := []string{"DRRUN_PASSPHRASE=correct horse"}
	force := []string{"state", "restore", s.backup, "--force"}
	for how, d := range map[string]*desk{"Enter": newDesk(t, "", "\n"), "y": newDesk(t, "", "y\n")} { // a wrong passphrase is slow to tell
		if code, said := s.run(d, nil, force...); code == 0 || d.asked != 1 {
			t.Errorf("typed %s: exit %d after %d questions\n%s", how, code, d.asked, said)
		}
	}
	mistakes := []struct {
		code int
		text string
		env  []string
		args []string
	}{
		{fault.ExitInvalid, "--passphrase-file", nil, force},
		{fault.ExitRefused, "the passphrase does not open", []string{"DRRUN_PASSPHRASE=wrong horse"}, force},
		{fault.ExitRefused, "it holds estate acme, revision 2", pass, force[:3]},
		{fault.ExitInvalid, "there is no such file", pass, []string{"state", "restore", s.backup + "x", "--force"}},
		{fault.ExitCorrupt, "cannot restore", pass, []string{"state", "restore", s.estate, "--force"}},
		{fault.ExitCorrupt, "cannot restore", pass, []string{"state", "restore", filepath.Join(s.dir, store.FileName), "--force"}},
		{fault.ExitInvalid, "--controller is not for it", pass, append(slices.Clone(force), "--controller", "http://127.0.0.1:1")},
		{fault.ExitRefused, "exists", pass, []string{"state", "backup", s.backup}},
		{fault.ExitInvalid, "", pass, []string{"state", "restore", "--force"}},
		{fault.ExitInvalid, "", pass, []string{"state", "--force"}},
	}
	for _, m := range mistakes {
		s.want(m.code, m.text, m.env, m.args...)
	}
	release, err := vfs.OS{}.Lock(filepath.Join(s.dir, store.LockName))
	if err != nil {
		t.Fatal(err)
	}
	s.want(fault.ExitUnreachable, "locked by process", pass, force...)
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if after := s.facts(s.dir); after != before {
		t.Errorf("changed by a mistake: %s, was %s", after, before)
	}

	for range 2 { // twice in a row
		if code, said := s.run(newDesk(t, "", "correct horse\n"), nil, force...); code != 0 || !strings.Contains(said, "next: drrun recover") {
			t.Fatalf("exit %d\n%s", code, said)
		}
	}
	kept, _ := filepath.Glob(filepath.Join(s.dir, "replaced-*"))
	if len(kept) != 2 {
		t.Fatalf("kept %v", kept)
	}
	if was, _, _ := strings.Cut(before, ", kept"); !strings.HasPrefix(s.facts(kept[0]), was) {
		t.Errorf("the first of %v is not what was there", kept)
	}
	s.want(fault.ExitRefused, "drrun recover", nil, "failover", "db1", "--unplanned", "--source-is-down", "--yes")
}

// TestRecoverInHaste: with nobody to recover from the state stays as it is, and
// acts no sooner.
func TestRecoverInHaste(t *testing.T) {
	t.Parallel()
	s := newStateDesk(t)
	s.want(0, "next: drrun recover", []string{"DRRUN_PASSPHRASE=correct horse"}, "state", "restore", s.backup, "--force")
	before := s.facts(s.dir)
	for _, m := range []struct {
		code int
		text string
		args []string
	}{
		{fault.ExitUnreachable, "", []string{"recover"}},
		{fault.ExitUnreachable, "", []string{"recover"}}, // twice in a row
		{fault.ExitUnreachable, "", []string{"recover", "--dry-run"}},
		{fault.ExitRefused, "umbrella", []string{"recover", "--estate", "umbrella"}},
		{fault.ExitInvalid, "HOST=ADDRESS", []string{"recover", "lyon"}},
		{fault.ExitInvalid, "HOST=ADDRESS", []string{"recover", "lyo-1="}},
		{fault.ExitInvalid, "--controller", []string{"recover", "--controller", "http://127.0.0.1:1"}},
		{fault.ExitRefused, "there is no state folder", []string{"recover", "--dry-run", "--state", filepath.Join(s.work, "other")}},
	} {
		s.want(m.code, m.text, nil, m.args...)
		s.want(fault.ExitRefused, "restored from a backup", nil, "failover", "db1", "--unplanned", "--source-is-down", "--yes")
	}
	d := newDesk(t, "yes\n")
	if code, said := s.run(d, nil, "recover"); code != fault.ExitUnreachable || d.asked > 0 {
		t.Errorf("at a terminal: exit %d\n%s", code, said)
	}
	if after := s.facts(s.dir); after != before {
		t.Errorf("changed by a recovery from nobody: %s, was %s", after, before)
	}
	if _, err := os.Stat(filepath.Join(s.work, "other")); err == nil {
		t.Error("a look made a state folder")
	}
}
