package scripts_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/needs"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts"
)

// sshd is a real SSH server on loopback that lets this user in with one key.
type sshd struct {
	dir, addr, user string
	secrets         map[string]string
	signals         bool // it passes them on to commands
}

// serverProgram finds a server's program, which is not always in the path.
func serverProgram(t *testing.T, name, get string) string {
	t.Helper()
	if p, err := exec.LookPath(filepath.Join("/usr/sbin", name)); err == nil {
		return p
	}
	return needs.Program(t, name, get)
}

func startSSHD(t *testing.T) *sshd {
	t.Helper()
	program := serverProgram(t, "sshd", "apt-get install openssh-server")
	keygen := needs.Program(t, "ssh-keygen", "apt-get install openssh-client")
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	s := &sshd{dir: t.TempDir(), user: me.Username, secrets: map[string]string{}}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string) string {
		raw, err := os.ReadFile(filepath.Join(s.dir, name))
		must(err)
		return strings.TrimSpace(string(raw))
	}
	for _, k := range [][2]string{{"host", "ed25519"}, {"rsa", "rsa"}, {"user", "ed25519"}, {"stranger", "ed25519"}} {
		out, err := exec.Command(keygen, "-q", "-t", k[1], "-N", "", "-f", filepath.Join(s.dir, k[0])).CombinedOutput()
		if err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
	}
	out, err := exec.Command(keygen, "-q", "-t", "ed25519", "-N", "password", "-f", filepath.Join(s.dir, "locked")).CombinedOutput()
	if err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	must(os.Chmod(filepath.Dir(s.dir), 0o755)) //nolint:gosec // the server's user looks into it
	must(os.Chmod(s.dir, 0o777))               //nolint:gosec // and its commands write there
	argv := []string{program, "-D", "-e", "-f", filepath.Join(s.dir, "conf")}
	s.signals = true
	if os.Geteuid() == 0 {
		must(os.MkdirAll("/run/sshd", 0o755)) //nolint:gosec // as its unit makes it
		// For root a server of root passes no signals on: another user is let in,
		// who has a shell in the server's own view of the file system.
		passwd, err := os.ReadFile("/etc/passwd")
		must(err)
		s.signals = exec.Command("unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt").Run() == nil
		if s.signals {
			s.user = "nobody"
			shell := regexp.MustCompile(`(?m)^(nobody:.*):[^:]*:[^:]*$`).ReplaceAll(passwd, []byte("$1:/:/bin/sh"))
			must(os.WriteFile(filepath.Join(s.dir, "passwd"), shell, 0o644)) //nolint:gosec // as the real one
			argv = append([]string{"unshare", "-m", "sh", "-c", `mount --bind "$0" /etc/passwd && exec "$@"`, filepath.Join(s.dir, "passwd")}, argv...)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	s.addr = l.Addr().String()
	_ = l.Close() // sshd takes it
	_, port, _ := net.SplitHostPort(s.addr)
	conf := fmt.Sprintf(`
ListenAddress 127.0.0.1
Port %s
HostKey %[2]s/host
HostKey %[2]s/rsa
AuthorizedKeysFile %[2]s/authorized
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
`, port, s.dir)
	must(os.WriteFile(filepath.Join(s.dir, "conf"), []byte(conf), 0o600))
	must(os.WriteFile(filepath.Join(s.dir, "authorized"), []byte(read("user.pub")+"\n"), 0o644)) //nolint:gosec // public
	hostKey, rsaKey := strings.Fields(read("host.pub")), strings.Fields(read("rsa.pub"))
	other := strings.Fields(read("stranger.pub"))
	line := func(host string, key []string) string {
		return fmt.Sprintf("[%s]:%s %s %s\n", host, port, key[0], key[1])
	}
	s.secrets = map[string]string{
		"key": read("user"), "stranger": read("stranger"), "locked": read("locked"), "rubbish": "rubbish",
		"known": "# hosts\n" + line("127.0.0.1", hostKey), "by-name": line("db1", hostKey), "rsa": line("127.0.0.1", rsaKey),
		"other": line("127.0.0.1", other), "nobody": line("10.0.0.1", hostKey), "revoked": "@revoked " + line("127.0.0.1", hostKey) + line("127.0.0.1", hostKey),
		"password": "s3cr3t'pass word",
	}
	log, err := os.Create(filepath.Join(s.dir, "log"))
	must(err)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	must(cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // because it was killed
		_ = log.Close()
		if raw, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("sshd:\n%s", raw)
		}
	})
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for giveUp := time.Now().Add(30 * time.Second); time.Now().Before(giveUp); <-tick.C {
		if c, err := net.Dial("tcp", s.addr); err == nil {
			_ = c.Close()
			return s
		}
	}
	t.Fatal("sshd does not listen")
	return nil
}

func (s *sshd) loader() *scripts.Loader {
	return scripts.New(scripts.Options{PlanTime: 30 * time.Second, Secrets: func(_ context.Context, name string) (string, error) { return s.secrets[name], nil }})
}

// head is Lua that makes ssh.run short: call { cmd = … }.
func (s *sshd) head() string {
	return `local ssh = require "drrun.ssh"
local function call(o)
  o.host, o.user = o.host or "` + s.addr + `", o.user or "` + s.user + `"
  o.key, o.known_hosts = o.key or secret "key", o.known_hosts or secret "known"
  return ssh.run(o)
end
`
}

func TestSSH(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	_, port, _ := net.SplitHostPort(s.addr)
	j := &journal{}
	ok, detail, err := runAction(t, s.loader(), s.head()+`
local r = call { cmd = { "printf", "%s|", "a b", "it's", "$HOME;*", secret "password" } }
run:note(r.exit .. " " .. r.output)
r = call { sh = "cat; echo no >&2; exit 3", stdin = "in\nput", accept = { 0, 3 } }
run:note(r.exit .. " " .. r.output .. " " .. r.stderr)
r = call { sh = "head -c 3000000 /dev/zero | tr '\\0' x; printf end" }
run:note(#r.output .. " " .. r.output:sub(-4))
run:note(call { cmd = { "echo", "by name" }, host = "db1:`+port+`", known_hosts = secret "by-name" }.output)
run:note(call { cmd = { "echo", "by address" }, host = "db1:`+port+`" }.output)
run:note(call { cmd = { "echo", "by its other key" }, known_hosts = secret "rsa" }.output)
run:note(call { cmd = { "echo", "again" }, class = "idempotent" }.output)`, j)
	want := []string{"0 a b|it's|$HOME;*|***|", "3 in\nput no\n", "1048576 xend", "by name\n", "by address\n", "by its other key\n", "again\n"}
	if !ok || err != nil || !slices.Equal(j.notes, want) {
		t.Fatalf("%v %q %v\n got %q\nwant %q", ok, detail, err, j.notes, want)
	}
	if j.records[0].class != plans.OpUnsafe || j.records[6].class != plans.OpIdempotent || j.records[0].name != "ssh.run" {
		t.Errorf("classes: %v %v of %s", j.records[0].class, j.records[6].class, j.records[0].name)
	}
	all := fmt.Sprint(j.notes)
	for _, r := range j.records {
		all += r.args + string(r.result)
	}
	for name, text := range s.secrets {
		if strings.HasPrefix(text, "-----") && strings.Contains(all, strings.Split(text, "\n")[1]) || name == "password" && strings.Contains(all, "s3cr3t") {
			t.Errorf("secret %s is in the journal", name)
		}
	}
	if !strings.Contains(j.records[0].args, `"it's"`) || !strings.Contains(j.records[1].args, `"stdin":"in\nput"`) {
		t.Errorf("the journal does not show the command: %s, %s", j.records[0].args, j.records[1].args)
	}
}

// TestSSHRefusals: each of them is an error that the plan may handle, and none
// of them has run anything.
func TestSSHRefusals(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	mark := filepath.Join(s.dir, "mark")
	touch := `cmd = { "touch", "` + mark + `" }, `
	for body, want := range map[string]string{
		`call { ` + touch + `known_hosts = secret "other" }`:                              "is not the one in known_hosts: another machine answers there, or it has a new key",
		`call { ` + touch + `known_hosts = secret "nobody" }`:                             "compare that on the machine, then add the line [127.0.0.1]:",
		`call { ` + touch + `known_hosts = "" }`:                                          "known_hosts says nothing of 127.0.0.1:",
		`call { ` + touch + `known_hosts = secret "revoked" }`:                            "is refused: knownhosts: key is revoked",
		`call { ` + touch + `known_hosts = secret "rubbish" }`:                            "known_hosts holds no lines of a known_hosts file",
		`call { ` + touch + `key = secret "stranger" }`:                                   "lets user " + s.user + " not in",
		`call { ` + touch + `user = "nobody-of-that-name" }`:                              "lets user nobody-of-that-name not in",
		`call { ` + touch + `key = secret "locked" }`:                                     "secret *** is no private key without a passphrase",
		`call { ` + touch + `key = secret "rubbish" }`:                                    "is no private key",
		`call { ` + touch + `host = "127.0.0.1:1" }`:                                      "cannot reach 127.0.0.1:1",
		`call { ` + touch + `host = "` + silent.Addr().String() + `", within = "500ms" }`: "accepts the connection and says nothing in time",
		`call { sh = "echo what went wrong >&2; exit 7" }`:                                `"echo what went wrong >&2; exit 7" on ` + s.addr + ` ended with 7: what went wrong`,
		`call { sh = "kill -TERM $$" }`:                                                   "ended with 143",
		`call { cmd = { "true" }, accept = 1 }`:                                           "true on " + s.addr + " ended with 0",
		`call { cmd = { "sleep", "60" }, within = "1s", class = "read" }`:                 "did not end in time (within 1s)",
		`call { sh = "kill -KILL $PPID", class = "idempotent" }`:                          "the connection ended before the command did",
	} {
		j := &journal{}
		ok, detail, err := runAction(t, s.loader(), s.head()+`local ok, why = pcall(function() `+body+` end) error(why, 0)`, j)
		if ok || err != nil || !strings.Contains(detail, want) || len(j.records) != 1 {
			t.Errorf("%s: %v %q %v, want %q; %d operations", body, ok, detail, err, want, len(j.records))
		}
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("a command that was refused has run")
	}
}

// TestSSHOutcomeUnknown: the time is up, the run is cancelled, the connection
// breaks: what the command did nobody knows, whatever pcall stands around it.
// On the host it is told to end.
func TestSSHOutcomeUnknown(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	pid := filepath.Join(s.dir, "pid")
	long := `sh = "echo $$ > ` + pid + `; exec sleep 300"`
	for name, body := range map[string]string{"time": `call { ` + long + `, within = "1s" }`, "broken": `call { sh = "kill -KILL $PPID" }`} {
		_, _, err := runAction(t, s.loader(), s.head()+`pcall(function() `+body+` end)`, &journal{})
		if !fault.Is(err, fault.Unknown) || !strings.Contains(err.Error(), "p.lua:") {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.gone(t, pid)
	_ = os.Remove(pid) // the next one writes its own
	ctx, cancel := context.WithCancelCause(t.Context())
	over := errors.New("over")
	go func() {
		for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C {
			if raw, err := os.ReadFile(pid); err == nil && len(raw) > 1 {
				cancel(over)
				return
			}
		}
	}()
	begun := time.Now()
	_, _, err := s.loader().RunFunc(ctx, action(s.head()+`while true do pcall(function() call { `+long+` } end) end`), ref, testRun, &journal{})
	if !errors.Is(err, over) && !fault.Is(err, fault.Unknown) || time.Since(begun) > 20*time.Second {
		t.Errorf("cancelled: %v after %s", err, time.Since(begun))
	}
	s.gone(t, pid)
}

// gone waits until the process whose number a file holds has ended.
func (s *sshd) gone(t *testing.T, file string) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for giveUp := time.Now().Add(10 * time.Second); s.signals && time.Now().Before(giveUp); <-tick.C {
		if syscall.Kill(pid, 0) != nil {
			return
		}
	}
	_ = syscall.Kill(pid, syscall.SIGKILL) // nothing may be left of the test
	if s.signals {
		t.Error("the command on the host was not ended")
	}
}

// TestSSHIsCheckedFirst: bad arguments are refused before anything is dialled.
func TestSSHIsCheckedFirst(t *testing.T) {
	t.Parallel()
	const good = `host = "h", user = "u", key = key, known_hosts = "h ssh-ed25519 AAAA"`
	for body, want := range map[string]string{
		`{ host = "h", key = key, known_hosts = "x", cmd = { "a" } }`:               "host and user are needed",
		`{ host = "", user = "u", key = key, known_hosts = "x", cmd = { "a" } }`:    "host and user are needed",
		`{ host = 5, user = "u", key = key, known_hosts = "x", cmd = { "a" } }`:     "host and user are needed",
		`{ host = {}, user = "u", key = key, known_hosts = "x", cmd = { "a" } }`:    "host is a table, want a string",
		`{ host = "h", user = "u", known_hosts = "x", cmd = { "a" } }`:              "key is missing: a secret that holds a private key",
		`{ host = "h", user = "u", key = "-----", known_hosts = "x", cmd = {"a"} }`: "key is missing: a secret that holds a private key",
		`{ host = "h", user = "u", key = key, cmd = { "a" } }`:                      "known_hosts is missing: the lines of a known_hosts file that name h",
		`{ ` + good + ` }`:                                     "one of cmd (a list) and sh (a line for the host's shell) is needed",
		`{ ` + good + `, cmd = { "a" }, sh = "b" }`:            "one of cmd (a list) and sh",
		`{ ` + good + `, cmd = "a" }`:                          "cmd is a string, want a list of the program and its arguments",
		`{ ` + good + `, cmd = { "a", {} } }`:                  "argument 2 of cmd is a table",
		`{ ` + good + `, cmd = { "a" }, stdin = {} }`:          "stdin is a table, want a string",
		`{ ` + good + `, cmd = { "a" }, accept = "0" }`:        "accept is an exit code or a list of them, not string",
		`{ ` + good + `, cmd = { "a" }, class = "reed" }`:      `class is "reed", want "read", "idempotent" or "unsafe"`,
		`{ ` + good + `, cmd = { "a" }, class = 1 }`:           "class is a number, want a string",
		`{ ` + good + `, cmd = { "a" }, within = "0s" }`:       "the duration is nothing",
		`{ ` + good + `, cmd = { "a" }, knownhosts = "" }`:     `unknown key "knownhosts", did you mean "known_hosts"?`,
		`{ ` + good + `, cmd = { "a" }, password = "geheim" }`: `unknown key "password"`,
	} {
		j := &journal{}
		ok, detail, err := runAction(t, loader(), `local name = "drrun.ssh" require(name).run `+body, j)
		if ok || err != nil || !strings.Contains(detail, want) || len(j.records) > 0 {
			t.Errorf("%s: %v %q %v, want %q; %d operations", body, ok, detail, err, want, len(j.records))
		}
	}
}
