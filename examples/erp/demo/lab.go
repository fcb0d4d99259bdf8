package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// lab is two sites on one machine: a folder, addresses on loopback, and the
// processes it started, each in a process group of its own.
type lab struct {
	root   string // removed at the end
	bin    string // drrun, drrun-agent, ledger
	port   string
	agents map[string]string // host → address of its agent
	procs  map[string]*exec.Cmd
}

// network numbers of the example: 127.SITE.0.0/24. The bubble is the
// isolated network of tests.
func (l *lab) address(site string, number int) string {
	return fmt.Sprintf("127.%d.0.%d", siteNumbers[site], number)
}

var siteNumbers = map[string]int{"paris": 75, "lyon": 69, "bubble": 99}

func newLab(bin, lieAt string) (*lab, error) {
	root, err := os.MkdirTemp("", "drrun-demo-")
	if err != nil {
		return nil, err
	}
	bin, err = filepath.Abs(bin)
	if err != nil {
		return nil, err
	}
	l := &lab{root: root, bin: bin, agents: map[string]string{}, procs: map[string]*exec.Cmd{}}
	for _, host := range []string{"par-1", "lyo-1"} {
		if l.agents[host], err = freeUDP(); err != nil {
			return nil, err
		}
	}
	if l.port, err = freeTCP(); err != nil {
		return nil, err
	}
	for _, d := range []string{"paris/vm", "paris/store", "lyon/store", "plans"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o700); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{"db1-log", "db1-ledger", "app1", "app2"} {
		path := filepath.Join(root, "paris/vm", name+".img")
		if out, err := exec.Command(l.prog("ledger"), "init", "--size", "64MiB", "--data", "16MiB", path).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("cannot make the disk %s: %w: %s", path, err, out)
		}
	}
	return l, l.writePlans(lieAt)
}

func (l *lab) prog(name string) string { return filepath.Join(l.bin, name) }

// writePlans copies the example's estate and plan and writes the lab.lua they
// take their paths and addresses from.
func (l *lab) writePlans(lieAt string) error {
	var b strings.Builder
	field := func(k, v string) { fmt.Fprintf(&b, "  %s = %q,\n", k, v) }
	b.WriteString("return {\n")
	field("root", l.root)
	field("ledger", l.prog("ledger"))
	field("port", l.port)
	field("every", "1s")
	field("paris_agent", l.agents["par-1"])
	field("lyon_agent", l.agents["lyo-1"])
	field("paris_lan", l.address("paris", 0)+"/24")
	field("lyon_lan", l.address("lyon", 0)+"/24")
	field("bubble", l.address("bubble", 0)+"/24")
	if lieAt != "" {
		field("lie_at", lieAt)
	}
	b.WriteString("}\n")
	if err := os.WriteFile(filepath.Join(l.root, "plans/lab.lua"), []byte(b.String()), 0o600); err != nil {
		return err
	}
	for _, name := range []string{"estate.lua", "erp.lua"} {
		src, err := os.ReadFile(filepath.Join("examples/erp", name))
		if err != nil {
			return fmt.Errorf("run the demo in the project's folder: %w", err)
		}
		if err := os.WriteFile(filepath.Join(l.root, "plans", name), src, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// start runs a program of drrun in the background under a name; what it
// prints goes to ROOT/NAME.out.
func (l *lab) start(name, prog string, args ...string) error {
	out, err := os.OpenFile(filepath.Join(l.root, name+".out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(l.prog(prog), args...)
	cmd.Stdout, cmd.Stderr, cmd.Env = out, out, l.env()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	l.procs[name] = cmd
	return nil
}

// env is the environment of a new user: no settings of the outside.
func (l *lab) env() []string {
	return append(os.Environ(), "DRRUN_STATE="+filepath.Join(l.root, "controller"), "NO_COLOR=1",
		"DRRUN_CONTROLLER=", "DRRUN_TOKEN=", "DRRUN_AGENT_STATE=")
}

// drrun runs one command in the plans folder and returns what it printed on
// stdout and its exit code.
func (l *lab) drrun(ctx context.Context, args ...string) (stdout string, exit int, err error) {
	cmd := exec.CommandContext(ctx, l.prog("drrun"), args...)
	var out, diag bytes.Buffer
	cmd.Dir, cmd.Env = filepath.Join(l.root, "plans"), l.env()
	cmd.Stdout, cmd.Stderr = &out, io.MultiWriter(&diag, &logWriter{l, "drrun.out"})
	err = cmd.Run()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		return "", -1, err
	}
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		return out.String(), code, fmt.Errorf("drrun %s: exit %d\n%s%s", strings.Join(args, " "), code, out.String(), diag.String())
	}
	return out.String(), 0, nil
}

// logWriter appends to a file of the lab.
type logWriter struct {
	l    *lab
	name string
}

func (w *logWriter) Write(p []byte) (int, error) {
	f, err := os.OpenFile(filepath.Join(w.l.root, w.name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	n, err := f.Write(p)
	return n, errors.Join(err, f.Close())
}

// kill ends a process started by start with SIGKILL.
func (l *lab) kill(name string) {
	if cmd := l.procs[name]; cmd != nil {
		_ = cmd.Process.Kill() // it may have ended already
		_ = cmd.Wait()
		delete(l.procs, name)
	}
}

// killSite kills the agent of a host and every machine that runs there: a
// site that loses its power.
func (l *lab) killSite(agent, site string) error {
	pids, err := machinePIDs(l.prog("ledger"), "127."+fmt.Sprint(siteNumbers[site])+".")
	if err != nil {
		return err
	}
	l.kill(agent)
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	return nil
}

// machinePIDs finds the ledgers that serve on addresses with this prefix.
func machinePIDs(prog, prefix string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscan(e.Name(), &pid); err != nil {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue // it ended
		}
		args := strings.Split(string(line), "\x00")
		if args[0] == prog && strings.Contains(string(line), "\x00"+prefix) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// close stops what the lab started and removes its folder.
func (l *lab) close(keep bool) {
	for name := range l.procs {
		l.kill(name)
	}
	pids, _ := machinePIDs(l.prog("ledger"), "127.") // best effort: the end of a demonstration
	for _, pid := range pids {
		if env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); err == nil && bytes.Contains(env, []byte(l.root)) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if keep {
		fmt.Println("kept:", l.root)
		return
	}
	_ = os.RemoveAll(l.root)
}

// listening reports whether something serves TCP at an address.
func listening(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, 200*time.Millisecond)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

func freeUDP() (string, error) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return c.LocalAddr().String(), c.Close()
}

func freeTCP() (string, error) {
	c, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(c.Addr().String())
	return port, errors.Join(err, c.Close())
}
