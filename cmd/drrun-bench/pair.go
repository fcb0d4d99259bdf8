package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/drrun/drrun/agent/client"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/lab"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/transport/pki"
	"github.com/drrun/drrun/transport/quicnet"
	"github.com/drrun/drrun/transport/rpc"
)

// estateText is an estate of one machine; %s is the machine or nothing.
const estateText = `local lab = require "lab"
return estate "bench" {
  policy "bench" { every = "1h", keep = { "1s for 1h" } },
  site "paris" {
    network "lan" { cidr = lab.paris_lan }, network "bubble" { cidr = lab.bubble, isolated = true },
    cloud "prod" { policy = "bench", to = "dr",
      host "par-1" { addr = lab.paris_agent, store = lab.root .. "/paris/store" } },
  },
  site "lyon" {
    network "lan" { cidr = lab.lyon_lan }, network "bubble" { cidr = lab.bubble, isolated = true },
    cloud "dr" { policy = "bench", to = "prod",
      host "lyo-1" { addr = lab.lyon_agent, store = lab.root .. "/lyon/store" } },
  },
%s}
`

const machineText = `  machine "big" {
    host = "par-1", ip = { lan = 11 },
    disk "data" { file = lab.root .. "/paris/vm/big.img" },
    exec = { start = { "sleep", "86400" } },
  },
`

const planText = `return plan "big" { from = "paris", to = "lyon", group "all" { machine "big" } }
`

// pair is two agents and a controller with one disk that is not protected yet.
type pair struct {
	*lab.Lab
	disk   string
	agents *client.Client
	medium *quicnet.Medium
	meta   command.Meta
}

func newPair(ctx context.Context, bin string, size, data int64) (*pair, error) {
	l, err := lab.New(lab.Options{Bin: bin, Plans: map[string]string{
		"empty.lua": fmt.Sprintf(estateText, ""), "estate.lua": fmt.Sprintf(estateText, machineText), "big.lua": planText,
	}})
	if err != nil {
		return nil, err
	}
	p := &pair{Lab: l, disk: filepath.Join(l.Root, "paris/vm/big.img"), meta: command.Meta{Machine: "big", Epoch: 1}}
	if err := errors.Join(makeDisk(p.disk, size, data), p.start(ctx)); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return p, nil
}

func (p *pair) start(ctx context.Context) error {
	if err := p.Start("controller", "drrun", "serve"); err != nil {
		return err
	}
	err := lab.Until(ctx, "the controller", func() (bool, string, error) {
		_, err := os.Stat(filepath.Join(p.Root, "controller/drrun.sock"))
		return err == nil, "", nil
	})
	if err != nil {
		return err
	}
	if _, err := p.Drrun(ctx, "apply", "empty.lua", "--yes"); err != nil {
		return err
	}
	for _, host := range []string{"par-1", "lyo-1"} {
		if err := errors.Join(p.Join(ctx, host), p.StartAgent(host)); err != nil {
			return err
		}
	}
	ca, err := pki.OpenCA(vfs.OS{}, filepath.Join(p.Root, "controller/ca"), clock.Real{})
	if err != nil {
		return err
	}
	id, err := ca.IssueRuntime("bench")
	if err != nil {
		return err
	}
	p.medium = quicnet.New(quicnet.Fixed(id), quicnet.Options{})
	hosts := func(name string) (string, bool) { a, ok := p.Agents[name]; return a, ok }
	p.agents = client.New(p.medium, "bench", hosts, rpc.Options{Info: rpc.Info{Program: "drrun-bench"}, Log: slog.New(slog.DiscardHandler)})
	return lab.Until(ctx, "both agents", func() (bool, string, error) {
		_, err := p.Drrun(ctx, "status")
		if err != nil {
			return false, err.Error(), nil
		}
		for host := range p.Agents {
			if _, err := command.Status.Call(ctx, p.agents, host, command.StatusRequest{}); err != nil {
				return false, err.Error(), nil
			}
		}
		return true, "", nil
	})
}

// Close ends everything.
func (p *pair) Close() error {
	return errors.Join(p.agents.Close(), p.medium.Close(), p.Lab.Close())
}

// measure runs work and returns what it took, with the CPU of both agents.
func (p *pair) measure(work func() error) (cost, error) {
	w0, err := loopback()
	if err != nil {
		return cost{}, err
	}
	c0, err := p.cpu()
	if err != nil {
		return cost{}, err
	}
	begin := time.Now()
	if err := work(); err != nil {
		return cost{}, err
	}
	c := cost{wall: time.Since(begin)}
	w1, err := loopback()
	if err != nil {
		return c, err
	}
	c1, err := p.cpu()
	c.wire, c.cpu = w1-w0, c1-c0
	return c, err
}

func (p *pair) cpu() (sum time.Duration, err error) {
	for host := range p.Agents {
		c, err := cpuOf(p.Process(host).Pid)
		if err != nil {
			return 0, err
		}
		sum += c
	}
	return sum, nil
}

// protect applies the machine and waits for its first point.
func (p *pair) protect(ctx context.Context) error {
	if _, err := p.Drrun(ctx, "apply", "estate.lua", "big.lua", "--yes"); err != nil {
		return err
	}
	return p.untilPoint(ctx)
}

func (p *pair) untilPoint(ctx context.Context) error {
	return lab.Until(ctx, "the first point", func() (bool, string, error) {
		st, err := command.Status.Call(ctx, p.agents, "lyo-1", command.StatusRequest{Machine: "big"})
		if err != nil {
			return false, err.Error(), nil
		}
		ok := len(st.Machines) == 1 && st.Machines[0].Tip != nil
		return ok, fmt.Sprintf("%+v", st.Machines), nil
	})
}

// protectKilled kills the source when the first copy has put that many bytes
// on the wire, and starts it again.
func (p *pair) protectKilled(ctx context.Context, at int64) error {
	w0, err := loopback()
	if err != nil {
		return err
	}
	if _, err := p.Drrun(ctx, "apply", "estate.lua", "big.lua", "--yes"); err != nil {
		return err
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for w := w0; w-w0 < at; <-tick.C {
		if w, err = loopback(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	before, err := cpuOf(p.Process("par-1").Pid)
	if err != nil {
		return err
	}
	p.Kill("par-1")
	fmt.Printf("source killed after %s of CPU; it starts again\n", quantity.FormatDuration(before))
	if err := p.StartAgent("par-1"); err != nil {
		return err
	}
	return p.untilPoint(ctx)
}

// drain runs one replication cycle and waits for its point.
func (p *pair) drain(ctx context.Context) error {
	_, err := command.Drain.Call(ctx, p.agents, "par-1", command.DrainRequest{Meta: p.meta})
	return err
}

// equal compares the disk with a file, and with the replica, by SHA-256.
func (p *pair) equal(other string) error {
	want, err := sum(p.disk)
	if err != nil {
		return err
	}
	got, err := sum(other)
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("%s is not equal to %s", other, p.disk)
	}
	return nil
}

func sum(path string) ([sha256.Size]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return [sha256.Size]byte(h.Sum(nil)), err
}

// testAndThin runs a test failover from the newest point, waits until
// retention has thinned the points, reads every point, and holds both agents to
// their memory.
func (p *pair) testAndThin(ctx context.Context) error {
	begin := time.Now()
	if _, err := p.Drrun(ctx, "big", "--test"); err != nil {
		return err
	}
	fmt.Printf("test failover: %s\n", quantity.FormatDuration(time.Since(begin)))
	out, err := p.Drrun(ctx, "runs", "-o", "json")
	if err != nil {
		return err
	}
	var runs []struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal([]byte(out), &runs); err != nil || len(runs) == 0 {
		return fmt.Errorf("cannot read the list of runs %q: %w", out, err)
	}
	if _, err := p.Drrun(ctx, "cleanup", runs[0].ID); err != nil {
		return err
	}
	points, err := p.thinned(ctx)
	if err != nil {
		return err
	}
	v, err := command.Verify.Call(ctx, p.agents, "lyo-1", command.VerifyRequest{Machine: "big"})
	if err != nil {
		return err
	}
	if len(v.Faults) > 0 {
		return fmt.Errorf("points do not verify: %v", v.Faults)
	}
	fmt.Printf("thinned from %d to %d points; all verify (%s read)\n", deltaCount+2, points, quantity.FormatSize(v.Bytes))
	if err := p.equal(filepath.Join(p.Root, "lyon/store/big/data/head.img")); err != nil {
		return err
	}
	return p.memory()
}

// thinned waits until fewer points are left than were made.
func (p *pair) thinned(ctx context.Context) (points int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	err = lab.Until(ctx, "thinning", func() (bool, string, error) {
		r, err := command.Points.Call(ctx, p.agents, "lyo-1", command.PointsRequest{Machine: "big"})
		points = len(r.Points)
		return err == nil && points < deltaCount, fmt.Sprint(points), err
	})
	return points, err
}

func (p *pair) memory() error {
	var errs []error
	for host := range p.Agents {
		n, err := peakMemory(p.Process(host).Pid)
		if err != nil {
			return err
		}
		fmt.Printf("peak memory of %s: %s (limit %s)\n", host, quantity.FormatSize(n), quantity.FormatSize(maxMemory))
		if n > maxMemory {
			errs = append(errs, fmt.Errorf("the agent of %s took %s of memory, the limit is %s", host, quantity.FormatSize(n), quantity.FormatSize(maxMemory)))
		}
	}
	return errors.Join(errs...)
}
