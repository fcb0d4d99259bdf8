package simworld

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
)

// Server is something outside of the estate that answers, or a program that
// hosts can run. Without one, everything outside answers well: requests with
// 200 and "ok", connections are accepted, programs end with 0.
type Server struct {
	HTTP string // begin of a URL
	TCP  string // host:port
	DNS  string // a name
	Exec string // begin of a command line

	Status int
	Body   string
	Values []string
	Exit   int
	Output string
	Down   bool // it does not answer
	Hits   int  // how often it was asked
}

// Name is what the server is there for: "http = …".
func (s *Server) Name() string {
	switch {
	case s.HTTP != "":
		return fmt.Sprintf("http = %q", s.HTTP)
	case s.TCP != "":
		return fmt.Sprintf("tcp = %q", s.TCP)
	case s.DNS != "":
		return fmt.Sprintf("dns = %q", s.DNS)
	}
	return fmt.Sprintf("exec = %q", s.Exec)
}

func (s *Server) matches(kind, text string) bool {
	switch kind {
	case "http":
		return s.HTTP != "" && strings.HasPrefix(text, s.HTTP)
	case "tcp":
		return s.TCP != "" && s.TCP == text
	case "dns":
		return s.DNS != "" && strings.EqualFold(strings.TrimSuffix(s.DNS, "."), strings.TrimSuffix(text, "."))
	}
	return s.Exec != "" && strings.HasPrefix(text, s.Exec)
}

func (w *World) server(kind, text string) *Server {
	for _, s := range slices.Backward(w.servers) {
		if s.matches(kind, text) {
			s.Hits++
			return s
		}
	}
	return nil
}

// pair is an address: which machine has it, where, and whether in a test.
type pair struct {
	machine *machine
	sites   []string
	test    bool
}

// whose finds the machine that has an address.
func (w *World) whose(ip string) (pair, bool) {
	if len(w.pairs) == 0 {
		for _, name := range w.order {
			m := w.machines[name]
			for _, e := range m.ends {
				for _, test := range []bool{false, true} {
					if a, ok := w.estate.AddressOf(name, e.host.site, test); ok {
						p := w.pairs[a.IP]
						p.machine, p.test = m, test
						p.sites = append(p.sites, e.host.site)
						w.pairs[a.IP] = p
					}
				}
			}
		}
	}
	p, ok := w.pairs[ip]
	return p, ok
}

// inEstate reports whether an address is of a network of the estate.
func (w *World) inEstate(ip string) bool {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return false
	}
	for _, s := range w.estate.Sites {
		for _, n := range s.Networks {
			if p, err := netip.ParsePrefix(n.CIDR); err == nil && p.Contains(addr) {
				return true
			}
		}
	}
	return false
}

// readyAt is when the services of an instance answer; false: never, as it
// stands now.
func (w *World) readyAt(i *instance, depth int) (time.Time, bool) {
	m := i.machine
	if m.down || m.boot < 0 || depth > len(w.machines) {
		return time.Time{}, false
	}
	at := i.started.Add(m.boot)
	for _, name := range m.needs {
		other, ok := w.instanceOf(w.machines[name], i.test)
		if !ok {
			return time.Time{}, false
		}
		ready, ok := w.readyAt(other, depth+1)
		if !ok {
			return time.Time{}, false
		}
		if t := ready.Add(m.boot); t.After(at) && ready.After(i.started) { // it had to wait for that one
			at = t
		}
	}
	return at, true
}

// instanceOf is the running instance of a machine, of production or a test.
func (w *World) instanceOf(m *machine, test string) (*instance, bool) {
	if m == nil {
		return nil, false
	}
	if test != "" {
		for _, i := range m.tests {
			if i.test == test {
				return i, true
			}
		}
		return nil, false
	}
	for _, e := range m.ends {
		if e.power == recovery.PowerRunning && e.host.site == m.newest().rec.Active {
			return &e.prod, true
		}
	}
	return nil, false
}

func (w *World) up(i *instance) bool {
	at, ok := w.readyAt(i, 0)
	return ok && !time.Now().Before(at)
}

func (w *World) answers(e *end) bool { return e.power == recovery.PowerRunning && w.up(&e.prod) }

// wantNeeds notes a start before what the machine needs answers.
func (w *World) wantNeeds(m *machine, test string, c *call) {
	for _, name := range m.needs {
		if other, ok := w.instanceOf(w.machines[name], test); ok && w.up(other) {
			continue
		}
		w.violated(Violation{Rule: RuleNeeds, Step: c.step, Run: c.run,
			Text: fmt.Sprintf("%s was started before %s answered, which it needs", m.name, name),
			Hint: fmt.Sprintf("put %s into an earlier group (or needs = { %q }), with a check or ready that waits for it", name, name)})
	}
}

// reach asks an address: which instance answers there. inside: the address is
// of the estate, so nobody else would.
func (w *World) reach(ip string) (i *instance, inside bool, why string) {
	p, ok := w.whose(ip)
	if !ok {
		return nil, w.inEstate(ip), "connection timed out: nothing has the address " + ip
	}
	var found []*instance
	if p.test {
		found = p.machine.tests
	} else {
		for _, e := range p.machine.ends {
			if slices.Contains(p.sites, e.host.site) && e.power == recovery.PowerRunning && !w.cut(e.host) {
				found = append(found, &e.prod)
			}
		}
	}
	for _, i := range found {
		if w.up(i) {
			return i, true, ""
		}
	}
	if len(found) > 0 {
		return nil, true, "connection refused: the services of " + p.machine.name + " do not answer yet"
	}
	return nil, true, fmt.Sprintf("connection timed out: %s does not run at %s", p.machine.name, ip)
}

// check answers a question of a plan or an estate.
func (w *World) check(h *host, c *call, r command.CheckRequest) (any, error) {
	no := func(why string) (any, error) { return command.CheckResult{Detail: why}, nil }
	if len(r.Check.Exec) > 0 {
		line := strings.Join(r.Check.Exec, " ")
		if s := w.server("exec", line); s != nil {
			return command.CheckResult{OK: !s.Down && s.Exit == 0, Detail: fmt.Sprintf("exit code %d", s.Exit)}, nil
		}
		e := h.ends[c.machine]
		if e == nil || !w.up1(e, c.run) {
			return no(line + ": exit code 1")
		}
		w.sawAnswer(c.run, e.machine)
		return command.CheckResult{OK: true, Detail: line + ": exit code 0"}, nil
	}
	kind, text, target := "tcp", r.Check.TCP, r.Check.TCP
	if r.Check.HTTP != "" {
		kind, text, target = "http", r.Check.HTTP, hostPart(r.Check.HTTP)
	}
	name, _, err := net.SplitHostPort(target)
	if err != nil {
		name = target
	}
	ip := name
	switch {
	case name == "":
		ip = r.Self
	case r.Addresses[name] != "":
		ip = r.Addresses[name]
	}
	s := w.server(kind, text)
	if s != nil && s.Down {
		return no("connection timed out")
	}
	i, inside, why := w.reach(ip)
	if inside && i == nil {
		return no(why)
	}
	if i != nil {
		w.rightAsked(i, c, text)
	}
	if kind == "http" && s != nil && (s.Status != want(r.Check.Expect) || !strings.Contains(s.Body, r.Check.Contains)) {
		return no(fmt.Sprintf("%s answers %d %s", text, s.Status, s.Body))
	}
	detail := text + " answers"
	if kind == "http" && s == nil && r.Check.Contains != "" {
		detail += fmt.Sprintf("; %sthat it contains %q, as no w:serve says what it answers", NotProved, r.Check.Contains)
	}
	return command.CheckResult{OK: true, Detail: detail}, nil
}

// NotProved is in the detail of a check that passed because nothing in the world
// speaks against it.
const NotProved = "not proved: "

func want(expect int) int {
	if expect == 0 {
		return 200
	}
	return expect
}

// up1 reports whether a machine's services answer at a host, for a run: its
// test, else production.
func (w *World) up1(e *end, run string) bool {
	for _, i := range e.machine.tests {
		if i.test == run {
			return w.up(i)
		}
	}
	return w.answers(e)
}

// hostPart is host:port of a URL, with an empty host for ":8080/path".
func hostPart(s string) string {
	if _, rest, ok := strings.Cut(s, "://"); ok {
		s = rest
	}
	s, _, _ = strings.Cut(s, "/")
	return s
}

// rightAsked notes a question of a run that a machine answers which is not of
// the run.
func (w *World) rightAsked(i *instance, c *call, text string) {
	q := w.question(c.run, text)
	step := c.step
	if step == "" {
		step = q.step
	}
	if q.shutdown || step == "" { // at the old site; or the estate's question, which has no address
		w.sawAnswer(c.run, i.machine)
		return
	}
	r := w.runs[c.run]
	ours := i.test == c.run
	if r != nil && !r.test {
		ours = i.test == "" && i.site == r.to
	}
	if r == nil || ours {
		w.sawAnswer(c.run, i.machine)
		return
	}
	where := i.site
	if i.test != "" {
		where = "test " + i.test
	}
	w.violated(Violation{Rule: RuleAsks, Step: step, Run: c.run,
		Text: fmt.Sprintf("%s was answered by %s at %s, which is not the machine that this run has started", text, i.machine.name, where),
		Hint: "name the machine instead of an address: its name is its address in this run"})
}

func (w *World) sawAnswer(run string, m *machine) {
	w.asked[run+"/"+m.name] = w.since()
}

// lineOf is the program of a request in one line.
func lineOf(r command.ExecRequest) string {
	if r.Sh != "" {
		return "sh -c " + r.Sh
	}
	return strings.Join(r.Cmd, " ")
}

// exec runs a program on a host.
func (w *World) exec(h *host, c *call, r command.ExecRequest) (any, error) {
	line := lineOf(r)
	name, _, _ := strings.Cut(line, " ")
	if len(r.Cmd) > 0 {
		name = r.Cmd[0]
	}
	eh, _ := w.estate.Host(h.name)
	if !plans.Allows(eh.Allow, name) {
		return nil, fault.Errorf(fault.Refused, "host %s does not let plans run %s", h.name, name)
	}
	res := command.ExecResult{}
	if s := w.server("exec", line); s != nil {
		res = command.ExecResult{Exit: s.Exit, Output: s.Output}
	}
	c.text = line
	if t := w.programTrouble(c); t != nil {
		res.Exit, res.Output = 1, t.Error()
	}
	w.effect(c, w.classOf(r.Op), "exec", r.Op, h.name+" exec "+line, res.Exit == 0)
	return res, nil
}

// programTrouble is a fault of the program itself, which did its work.
func (w *World) programTrouble(c *call) error {
	return w.trouble(&call{host: c.host, verb: "program", machine: c.machine, step: c.step, text: c.text}).err
}

// Run implements runtime.Runner: programs of the controller.
func (w *World) Run(ctx context.Context, argv, env []string) (exit int, output string, err error) {
	line := strings.Join(argv, " ")
	c := &call{verb: "exec", text: line}
	for _, kv := range env {
		switch name, v, _ := strings.Cut(kv, "="); name {
		case "DRRUN_RUN":
			c.run = v
		case "DRRUN_STEP":
			c.step = v
		}
	}
	op, _ := ctx.Value(declared{}).(string)
	w.mu.Lock()
	t := w.trouble(c)
	w.mu.Unlock()
	takes := 50*time.Millisecond + t.delay
	if t.hang {
		takes = forever
	}
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return 0, "", context.Cause(ctx)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.err != nil {
		return 1, t.err.Error(), nil
	}
	if s := w.server("exec", line); s != nil {
		exit, output = s.Exit, s.Output
	}
	if p := w.programTrouble(c); p != nil {
		exit, output = 1, p.Error()
	}
	w.effect(c, w.classOf(op), "exec", "", "controller exec "+line, exit == 0)
	return exit, output, nil
}
