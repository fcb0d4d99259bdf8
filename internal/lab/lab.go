// Package lab is two sites on one machine, as real processes: it makes disks,
// an estate and a plan out of examples/erp, starts and kills programs of drrun,
// and holds clients that write all the time. The demo, the tests that kill
// processes, and the benchmarks use it; the product never does.
//
// A Lab belongs to one goroutine; its Clients are safe for concurrent use.
package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Options of a lab. The zero value is the demo's.
type Options struct {
	Bin     string // folder with drrun, drrun-agent and ledger
	Example string // folder of the example: estate.lua and erp.lua
	Every   string // replication cycle; default 1s
	LieAt   string // id of an entry that db1 acknowledges and does not write
	Small   bool   // disks of 20 MiB with little on them: for tests of order, not of copying
	Links   bool   // each agent is reached through a Link, which can be cut
	// Plans are other files by name, instead of the example's; they may
	// require "lab" too. No disks are made then.
	Plans map[string]string
}

// Lab is a folder, addresses on loopback, and the processes started, each in
// a process group of its own.
type Lab struct {
	Root   string            // removed by Close
	Port   string            // TCP port of every machine's service
	Agents map[string]string // where the agents are reached, by host
	listen map[string]string // where they listen: elsewhere, behind links
	links  map[string]*Link
	opts   Options
	procs  map[string]*process
}

// process is a program that was started and, once done is closed, has ended.
type process struct {
	*exec.Cmd
	done chan struct{}
}

// siteNumbers are the networks of the example: 127.NUMBER.0.0/24. The bubble
// is the isolated network of tests.
var siteNumbers = map[string]int{"paris": 75, "lyon": 69, "bubble": 99}

// machineNumbers are the host parts of the machines' addresses.
var machineNumbers = map[string]int{"db1": 11, "app1": 21, "app2": 22}

// Machines of the example, in the order of its plan.
var Machines = []string{"db1", "app1", "app2"}

// Disks of each machine, as paths below Root at the home site.
var Disks = map[string][]string{
	"db1": {"paris/vm/db1-log.img", "paris/vm/db1-ledger.img"}, "app1": {"paris/vm/app1.img"}, "app2": {"paris/vm/app2.img"},
}

// New makes the folder with disks, estate and plan.
func New(o Options) (*Lab, error) {
	root, err := os.MkdirTemp("", "drrun-lab-")
	if err != nil {
		return nil, err
	}
	if o.Bin, err = filepath.Abs(o.Bin); err != nil {
		return nil, err
	}
	if o.Every == "" {
		o.Every = "1s"
	}
	l := &Lab{Root: root, opts: o, Agents: map[string]string{}, listen: map[string]string{}, links: map[string]*Link{}, procs: map[string]*process{}}
	for _, host := range []string{"par-1", "lyo-1"} {
		if err := l.place(host); err != nil {
			return nil, err
		}
	}
	if l.Port, err = freeTCP(); err != nil {
		return nil, err
	}
	for _, d := range []string{"paris/vm", "paris/store", "lyon/store", "plans", witnessDir} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o700); err != nil {
			return nil, err
		}
	}
	if o.Plans == nil {
		if err := l.makeDisks(); err != nil {
			return nil, err
		}
	}
	return l, l.writePlans()
}

// place finds the addresses of a host's agent.
func (l *Lab) place(host string) (err error) {
	if l.listen[host], err = freeUDP(); err != nil {
		return err
	}
	l.Agents[host] = l.listen[host]
	if l.opts.Links {
		if l.links[host], err = newLink(l.listen[host]); err != nil {
			return err
		}
		l.Agents[host] = l.links[host].Addr()
	}
	return nil
}

// Link is the network in front of a host's agent, of a lab with Links.
func (l *Lab) Link(host string) *Link { return l.links[host] }

func (l *Lab) makeDisks() error {
	size, data := "64MiB", "16MiB"
	if l.opts.Small {
		size, data = "20MiB", "1MiB"
	}
	for _, disks := range Disks {
		for _, disk := range disks {
			path := filepath.Join(l.Root, disk)
			out, err := exec.Command(l.prog("ledger"), "init", "--size", size, "--data", data, path).CombinedOutput()
			if err != nil {
				return fmt.Errorf("cannot make the disk %s: %w: %s", path, err, out)
			}
		}
	}
	return nil
}

func (l *Lab) prog(name string) string { return filepath.Join(l.opts.Bin, name) }

// IP returns a machine's address at a site (or in the bubble).
func (l *Lab) IP(site, machine string) string {
	return fmt.Sprintf("127.%d.0.%d", siteNumbers[site], machineNumbers[machine])
}

// URL returns where a machine's service answers at a site.
func (l *Lab) URL(site, machine string) string {
	return "http://" + net.JoinHostPort(l.IP(site, machine), l.Port)
}

// writePlans copies the example's estate and plan and writes the lab.lua they
// take their paths and addresses from.
func (l *Lab) writePlans() error {
	var b strings.Builder
	field := func(k, v string) { fmt.Fprintf(&b, "  %s = %q,\n", k, v) }
	lan := func(site string) string { return fmt.Sprintf("127.%d.0.0/24", siteNumbers[site]) }
	b.WriteString("return {\n")
	field("root", l.Root)
	field("ledger", l.prog("ledger"))
	field("port", l.Port)
	field("every", l.opts.Every)
	field("paris_agent", l.Agents["par-1"])
	field("lyon_agent", l.Agents["lyo-1"])
	field("paris_lan", lan("paris"))
	field("lyon_lan", lan("lyon"))
	field("bubble", lan("bubble"))
	if l.opts.LieAt != "" {
		field("lie_at", l.opts.LieAt)
	}
	b.WriteString("}\n")
	if err := os.WriteFile(filepath.Join(l.Root, "plans/lab.lua"), []byte(b.String()), 0o600); err != nil {
		return err
	}
	for name, text := range l.opts.Plans {
		if err := os.WriteFile(filepath.Join(l.Root, "plans", name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	if l.opts.Plans != nil {
		return nil
	}
	for _, name := range []string{"estate.lua", "erp.lua"} {
		src, err := os.ReadFile(filepath.Join(l.opts.Example, name))
		if err != nil {
			return fmt.Errorf("cannot read the example: %w", err)
		}
		if err := os.WriteFile(filepath.Join(l.Root, "plans", name), src, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Start runs drrun or drrun-agent in the background under a name; what it
// prints goes to Root/NAME.out.
func (l *Lab) Start(name, prog string, args ...string) error {
	return l.start(nil, name, prog, args...)
}

func (l *Lab) start(env []string, name, prog string, args ...string) error {
	out, err := os.OpenFile(filepath.Join(l.Root, name+".out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(l.prog(prog), args...)
	cmd.Dir, cmd.Env = filepath.Join(l.Root, "plans"), append(l.env(), env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	p := &process{cmd, make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended is the caller's to say
		close(p.done)
	}()
	l.procs[name] = p
	return nil
}

// StartAgent runs a host's agent, with more in its environment if need be.
func (l *Lab) StartAgent(host string, env ...string) error {
	return l.start(env, host, "drrun-agent", "run", "--state", l.AgentState(host), "--listen", l.listen[host])
}

// Join gives a host its token.
func (l *Lab) Join(ctx context.Context, host string) error {
	token, err := l.Drrun(ctx, "token", host)
	if err != nil {
		return err
	}
	_, err = l.Agent(ctx, host, "join", strings.TrimSpace(token))
	return err
}

// Agent runs one command of drrun-agent on a host, as its operator does, and
// returns what it printed on stdout.
func (l *Lab) Agent(ctx context.Context, host, command string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, l.prog("drrun-agent"), append([]string{command, "--state", l.AgentState(host)}, args...)...)
	cmd.Env = l.env()
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("drrun-agent %s on %s: %w: %s%s", command, host, err, out.String(), diag.String())
	}
	return out.String(), nil
}

// AgentState returns the state folder of a host's agent.
func (l *Lab) AgentState(host string) string { return filepath.Join(l.Root, "agent-"+host) }

// env is the environment of a new user: no settings from outside.
func (l *Lab) env() []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "DRRUN_") })
	return append(env, "DRRUN_STATE="+filepath.Join(l.Root, "controller"), "NO_COLOR=1", "LEDGER_WITNESS="+filepath.Join(l.Root, witnessDir))
}

// ExitError is a drrun command that ended with another exit code than 0.
type ExitError struct {
	Args   []string
	Code   int
	Stdout string
	Stderr string
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("drrun %s: exit %d\n%s%s", strings.Join(e.Args, " "), e.Code, e.Stdout, e.Stderr)
}

// Command prepares a drrun command in the folder of the plans.
func (l *Lab) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, l.prog("drrun"), args...)
	cmd.Dir, cmd.Env = filepath.Join(l.Root, "plans"), l.env()
	return cmd
}

// Drrun runs one command and returns what it printed on stdout; another exit
// code than 0 is an *ExitError.
func (l *Lab) Drrun(ctx context.Context, args ...string) (string, error) {
	cmd := l.Command(ctx, args...)
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	err := cmd.Run()
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		err = &ExitError{Args: args, Code: ee.ExitCode(), Stdout: out.String(), Stderr: diag.String()}
	}
	log := fmt.Sprintf("$ drrun %s\n%s%s", strings.Join(args, " "), out.String(), diag.String())
	return out.String(), errors.Join(err, l.appendTo("drrun.out", log))
}

func (l *Lab) appendTo(name, text string) error {
	f, err := os.OpenFile(filepath.Join(l.Root, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, text)
	return errors.Join(err, f.Close())
}

// Process returns a started process, or nil.
func (l *Lab) Process(name string) *os.Process {
	if cmd := l.procs[name]; cmd != nil {
		return cmd.Process
	}
	return nil
}

// Ended reports whether a process that was started has ended by itself.
func (l *Lab) Ended(name string) bool {
	p := l.procs[name]
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Kill ends a process started by Start with SIGKILL.
func (l *Lab) Kill(name string) {
	if cmd := l.procs[name]; cmd != nil {
		_ = cmd.Process.Kill() // it may have ended already
		<-cmd.done
		delete(l.procs, name)
	}
}

// KillSite kills the agent of a host and every machine that runs at its site,
// as a site that loses its power.
func (l *Lab) KillSite(host, site string) error {
	pids, err := l.MachinePIDs(site)
	if err != nil {
		return err
	}
	l.Kill(host)
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
	}
	return nil
}

// MachinePIDs finds the services of this lab that listen at a site; "" means
// any.
func (l *Lab) MachinePIDs(site string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	prefix := "127."
	if site != "" {
		prefix = fmt.Sprintf("127.%d.", siteNumbers[site])
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
		args := string(line)
		if strings.HasPrefix(args, l.prog("ledger")+"\x00") && strings.Contains(args, "\x00"+prefix) && strings.Contains(args, l.Root) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// Close stops what the lab started and removes its folder.
func (l *Lab) Close() error {
	for _, name := range slices.Sorted(maps.Keys(l.procs)) {
		l.Kill(name)
	}
	for _, k := range l.links {
		k.close()
	}
	pids, err := l.MachinePIDs("")
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
	}
	return errors.Join(err, os.RemoveAll(l.Root))
}

// Listening reports whether something serves TCP at an address of this machine:
// where nothing does the answer comes at once, however much else there is to do.
func Listening(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// freeUDP is an address for an agent that stays free while the agent is away:
// dialling programs take ports of 127.0.0.1 above this one.
func freeUDP() (string, error) {
	for tries := 0; ; tries++ {
		addr := fmt.Sprintf("127.%d.%d.%d:20341", 100+rand.IntN(80), 1+rand.IntN(250), 1+rand.IntN(250)) //nolint:gosec // no secret
		c, err := net.ListenPacket("udp", addr)
		if err == nil {
			return addr, c.Close()
		}
		if tries == 20 {
			return "", err
		}
	}
}

func freeTCP() (string, error) {
	c, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(c.Addr().String())
	return port, errors.Join(err, c.Close())
}

// Until asks every 100 ms until ok; on the end of ctx the error says what was
// seen last.
func Until(ctx context.Context, what string, ask func() (ok bool, seen string, err error)) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, seen, err := ask()
		if err != nil || ok {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited for %s; last seen: %s: %w", what, seen, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
