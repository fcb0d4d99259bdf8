package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/drrun/drrun/internal/lab"
)

// rsync is the peer: a daemon on loopback, without encryption.
type rsync struct {
	daemon *exec.Cmd
	copied bool // the first copy was made
	url    string
}

func newRsync(root string) (*rsync, error) {
	if _, err := exec.LookPath("rsync"); err != nil {
		return nil, fmt.Errorf("the peer is rsync: install the package rsync: %w", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err := errors.Join(err, l.Close()); err != nil {
		return nil, err
	}
	dir, conf := filepath.Join(root, "rsync"), filepath.Join(root, "rsyncd.conf")
	text := fmt.Sprintf("use chroot = no\nmunge symlinks = no\n[copy]\npath = %s\nread only = no\nuid = %d\ngid = %d\n", dir, os.Getuid(), os.Getgid())
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(conf, []byte(text), 0o600)); err != nil {
		return nil, err
	}
	r := &rsync{url: "rsync://127.0.0.1:" + port + "/copy/"}
	r.daemon = exec.Command("rsync", "--daemon", "--no-detach", "--address=127.0.0.1", "--port="+port, "--config="+conf)
	if err := r.daemon.Start(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return r, lab.Until(ctx, "the rsync daemon", func() (bool, string, error) {
		return lab.Listening("127.0.0.1:" + port), "", nil
	})
}

func (r *rsync) stop() {
	_ = r.daemon.Process.Kill() // it may have ended
	_ = r.daemon.Wait()
}

// measure copies the disk: holes kept the first time, changed blocks only
// from then on.
func (r *rsync) measure(ctx context.Context, disk string) (cost, error) {
	args := []string{"-I", "--inplace", "--no-whole-file"}
	if !r.copied {
		args = []string{"-S", "-W"}
	}
	r.copied = true
	cmd := exec.CommandContext(ctx, "rsync", append(args, disk, r.url)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	w0, err := loopback()
	if err != nil {
		return cost{}, err
	}
	c0, err := cpuOf(r.daemon.Process.Pid)
	if err != nil {
		return cost{}, err
	}
	begin := time.Now()
	if err := cmd.Run(); err != nil {
		return cost{}, fmt.Errorf("rsync: %w: %s", err, out.String())
	}
	c := cost{wall: time.Since(begin)}
	w1, err := loopback()
	if err != nil {
		return c, err
	}
	c.wire = w1 - w0
	c1, err := cpuOf(r.daemon.Process.Pid)
	c.cpu = c1 - c0 + cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return c, err
}
