package e2e_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/lab"
)

// bin is the folder of the programs, built once.
var bin string

// patience is how long a test waits for what takes seconds on an idle machine.
// A wait ends when it may; the limit is for a machine that has much else to do.
const patience = 3 * time.Minute

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "drrun-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = dir
	if err := lab.Sources(root()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for _, p := range []string{"cmd/drrun", "cmd/drrun-agent", "examples/erp/ledger", "examples/erp/demo"} {
		if err := build(dir, p); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return m.Run()
}

// build makes a program of the project in a folder.
func build(dir, program string, flags ...string) error {
	args := append([]string{"build", "-o", filepath.Join(dir, filepath.Base(program))}, flags...)
	cmd := exec.Command("go", append(args, "./"+program)...)
	cmd.Dir, cmd.Env = root(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build %s: %w\n%s", program, err, out)
	}
	return nil
}

func root() string {
	abs, err := filepath.Abs("../../..")
	if err != nil {
		panic("internal error: " + err.Error())
	}
	return abs
}

// kills is how many seeded moments a test tries.
func kills(t *testing.T) int {
	t.Helper()
	return envNumber(t, "DRRUN_KILLS", 3)
}

// moments returns a seeded source of random moments and prints its seed.
func moments(t *testing.T) *rand.Rand {
	t.Helper()
	seed := envNumber(t, "DRRUN_SEED", 1)
	t.Logf("DRRUN_SEED=%d", seed)
	return rand.New(rand.NewPCG(uint64(seed), 0))
}

func envNumber(t *testing.T, name string, otherwise int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// bench is a lab with protected machines; with a controller or without.
type site struct {
	*lab.Lab
	t          *testing.T
	controller bool
	reported   map[string]string // points seen so far, by id: their machines
	victims    []*victim         // agents that die at crash points
}

func protect(t *testing.T, ctx context.Context, controller bool, plan string) *site {
	t.Helper()
	s := newSite(t, lab.Options{Every: "300ms"}, controller)
	s.protect(ctx, plan)
	return s
}

// newSite makes a lab in which nothing runs yet; of the usual programs unless
// others are named.
func newSite(t *testing.T, o lab.Options, controller bool) *site {
	t.Helper()
	if o.Bin == "" {
		o.Bin = bin
	}
	o.Example = filepath.Join(root(), "examples/erp")
	l, err := lab.New(o)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{Lab: l, t: t, controller: controller}
	if o.Plans == nil { // on a loaded machine ten seconds pass, and preflight refuses what is degraded
		s.edit("estate.lua", `rpo = "10s"`, `rpo = "10m"`)
	}
	t.Cleanup(func() {
		if t.Failed() {
			s.printLogs()
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// protect applies the estate and a plan of the name "kill", starts the agents
// and waits until all machines are protected.
func (s *site) protect(ctx context.Context, plan string) {
	s.t.Helper()
	if plan != "" {
		s.write("plans/kill.lua", plan)
	}
	if s.controller {
		s.startController(ctx)
	}
	files := []string{"apply", "estate.lua", "erp.lua", "--yes"}
	if plan != "" {
		files = append(files, "kill.lua")
	}
	s.must(s.Drrun(ctx, files...))
	for _, host := range []string{"par-1", "lyo-1"} {
		s.no(s.Join(ctx, host))
		s.no(s.StartAgent(host))
	}
	s.untilState(ctx, "protected", "paris")
}

func (s *site) startController(ctx context.Context) {
	s.t.Helper()
	s.no(s.Start("controller", "drrun", "serve"))
	s.no(lab.Until(ctx, "the controller", func() (bool, string, error) {
		_, err := os.Stat(filepath.Join(s.Root, "controller/drrun.sock"))
		return err == nil, fmt.Sprint(err), nil
	}))
}

func (s *site) write(name, text string) {
	s.t.Helper()
	s.no(os.WriteFile(filepath.Join(s.Root, name), []byte(text), 0o600))
}

func (s *site) no(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) must(out string, err error) string {
	s.t.Helper()
	s.no(err)
	return out
}

func (s *site) printLogs() {
	for _, name := range []string{"controller.out", "par-1.out", "lyo-1.out", "drrun.out"} {
		text, err := os.ReadFile(filepath.Join(s.Root, name))
		if err == nil {
			s.t.Logf("== %s (end)\n%s", name, text[max(0, len(text)-6000):])
		}
	}
}

// machine is the part of `drrun status -o json` that the tests look at.
type machine struct {
	Machine string `json:"machine"`
	State   string `json:"state"`
	Active  string `json:"active"`
	Power   string `json:"power"`
	Epoch   uint64 `json:"epoch"`
	Reason  string `json:"reason"`
	Points  int    `json:"points"`
	Newest  struct {
		Seq uint64 `json:"seq"`
	} `json:"newest"`
	Hosts []struct {
		Host   string `json:"host"`
		Power  string `json:"power"`
		Role   string `json:"role"`
		TipSeq uint64 `json:"tip_seq"`
	} `json:"hosts"`
}

func (s *site) status(ctx context.Context) []machine {
	s.t.Helper()
	var st struct {
		Machines []machine `json:"machines"`
	}
	out := s.must(s.Drrun(ctx, "status", "-o", "json"))
	s.no(json.Unmarshal([]byte(out), &st))
	return st.Machines
}

func (s *site) untilState(ctx context.Context, state, active string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s.no(lab.Until(ctx, "machines "+state+" at "+active, func() (bool, string, error) {
		ms := s.status(ctx)
		ok := len(ms) == len(lab.Machines)
		for _, m := range ms {
			ok = ok && m.State == state && m.Active == active && m.Power == "running"
		}
		return ok, fmt.Sprintf("%+v", ms), nil
	}))
}

// untilSettled waits until every machine has two points more than now, so
// that what was written before is at the target and applied.
func (s *site) untilSettled(ctx context.Context) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	first := map[string]uint64{}
	s.no(lab.Until(ctx, "two more points", func() (bool, string, error) {
		ms := s.status(ctx)
		ok := true
		for _, m := range ms {
			if _, seen := first[m.Machine]; !seen {
				first[m.Machine] = m.Newest.Seq
			}
			ok = ok && m.Newest.Seq >= first[m.Machine]+2
		}
		return ok, fmt.Sprintf("%+v", ms), nil
	}))
}

// onePower fails the test unless each machine runs at exactly one site.
func (s *site) onePower(ctx context.Context) {
	s.t.Helper()
	for _, m := range s.status(ctx) {
		running := 0
		for _, h := range m.Hosts {
			if h.Power == "running" {
				running++
			}
		}
		if running != 1 {
			s.t.Errorf("%s runs at %d sites: %+v", m.Machine, running, m)
		}
	}
	for _, m := range lab.Machines {
		here, there := lab.Listening(s.IP("paris", m)+":"+s.Port), lab.Listening(s.IP("lyon", m)+":"+s.Port)
		if here == there {
			s.t.Errorf("%s answers at paris: %v, at lyon: %v", m, here, there)
		}
	}
}

// verifyPoints reads every recovery point of every machine, and looks whether
// all that were ever reported are among them. With a host that is lost, those
// of the others count.
func (s *site) verifyPoints(ctx context.Context, lost ...string) {
	s.t.Helper()
	for _, m := range lab.Machines {
		out, err := s.Drrun(ctx, "points", m, "--verify")
		var exit *lab.ExitError
		if len(lost) > 0 && errors.As(err, &exit) && exit.Code == 8 && strings.Contains(out, " 0 faults") {
			continue // it says that the lost host's points were not read
		}
		s.no(err)
	}
	ever := s.reported
	s.reported = map[string]string{}
	s.notePoints(ctx)
	for id, machine := range ever {
		if s.reported[id] == "" {
			s.t.Errorf("point %s of %s was reported and is gone", id, machine)
		}
	}
	s.t.Logf("%d points were reported, all of %d verify", len(ever), len(s.reported))
	if len(ever) == 0 {
		s.t.Error("no point was noted: the test shows nothing")
	}
}

// notePoints takes down the points that are reported now. A host that does not
// answer reports none.
func (s *site) notePoints(ctx context.Context) {
	s.t.Helper()
	if s.reported == nil {
		s.reported = map[string]string{}
	}
	for _, m := range lab.Machines {
		var res struct {
			Hosts []struct {
				Points []struct {
					ID string `json:"id"`
				} `json:"points"`
			} `json:"hosts"`
		}
		out, err := s.Drrun(ctx, "points", m, "-o", "json")
		if err != nil {
			continue // its agents are being killed
		}
		s.no(json.Unmarshal([]byte(out), &res))
		for _, h := range res.Hosts {
			for _, p := range h.Points {
				s.reported[p.ID] = m
			}
		}
	}
}

// equalDisks compares source and replica by SHA-256, outside of drrun. The
// machines must be idle. It waits for the replica's head to be applied.
func (s *site) equalDisks(ctx context.Context) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for m, disks := range lab.Disks {
		for i, home := range disks {
			name := "ledger"
			if m == "db1" && i == 0 {
				name = "log"
			}
			a, b := filepath.Join(s.Root, home), filepath.Join(s.Root, "lyon/store", m, name, "head.img")
			s.no(lab.Until(ctx, "equal disks of "+m, func() (bool, string, error) {
				x, err := sum(a)
				y, err2 := sum(b)
				return x == y, fmt.Sprintf("%s %s, %s %s", a, x, b, y), errors.Join(err, err2)
			}))
		}
	}
}

func sum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
}

// load starts a client for each machine; stop ends them and returns all that
// was acknowledged.
func (s *site) load(ctx context.Context, from uint64) (stop func() map[string][]lab.Entry, clients []*lab.Client) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	for i, m := range lab.Machines {
		c := lab.NewClient(m, from+uint64(i)*1_000_000, 40, []string{s.URL("paris", m), s.URL("lyon", m)})
		clients = append(clients, c)
		go func() { c.Run(ctx); done <- struct{}{} }()
	}
	return func() map[string][]lab.Entry {
		cancel()
		lists := map[string][]lab.Entry{}
		for range clients {
			<-done
		}
		for _, c := range clients {
			lists[c.Machine] = c.Acknowledged()
		}
		return lists
	}, clients
}

// noneLost fails the test if an acknowledged entry is not at a site.
func (s *site) noneLost(ctx context.Context, site string, clients []*lab.Client, lists map[string][]lab.Entry) {
	s.t.Helper()
	for _, c := range clients {
		if len(lists[c.Machine]) == 0 {
			s.t.Errorf("nothing was acknowledged by %s: the test shows nothing", c.Machine)
		}
		lost, err := c.Lost(ctx, s.URL(site, c.Machine), lists[c.Machine])
		s.no(err)
		if len(lost) > 0 {
			s.t.Errorf("%s lost %d of %d acknowledged entries at %s, first %+v", c.Machine, len(lost), len(lists[c.Machine]), site, lost[0])
		}
	}
}
