// Command ledger is the workload of the erp example: a small service that
// keeps numbered entries on one or two disks and acknowledges an entry only
// when it is durable. It stands for a database: what it acknowledged must be
// readable after a failover.
//
//	ledger init  --size 64MiB --data 16MiB DISK     make a disk image
//	ledger serve --listen IP:PORT [--log DISK] --ledger DISK
//	ledger freeze|thaw URL                          hold writes still, and go on
//
// With a folder in LEDGER_WITNESS each life of it writes down when it ran, and
// at which site. It is a program for demonstrations and tests, not part of drrun.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/internal/quantity"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "ledger:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("want a command: init, serve, freeze or thaw")
	}
	switch cmd, rest := args[0], args[1:]; cmd {
	case "init":
		return initDisk(rest)
	case "serve":
		return serve(rest)
	case "freeze", "thaw":
		if len(rest) != 1 {
			return fmt.Errorf("%s: want the URL of a running ledger", cmd)
		}
		return post(rest[0] + "/" + cmd)
	default:
		return fmt.Errorf("unknown command %q: want init, serve, freeze or thaw", cmd)
	}
}

// initDisk makes a sparse disk image whose first part holds data, as a
// machine's system files would.
func initDisk(args []string) error {
	fs := pflag.NewFlagSet("init", pflag.ContinueOnError)
	size := fs.String("size", "64MiB", "size of the disk")
	data := fs.String("data", "16MiB", "how much of it holds data before the first entry")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() != 1 {
		return errors.New("init: want the path of one disk")
	}
	n, err := quantity.ParseSize(*size)
	if err != nil {
		return err
	}
	d, err := quantity.ParseSize(*data)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(fs.Arg(0), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(fill(f, d), f.Truncate(n), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("cannot make disk %s: %w", fs.Arg(0), err)
	}
	return nil
}

// fill writes n bytes, half of each MiB noise and half text-like.
func fill(w io.Writer, n int64) error {
	rnd := rand.New(rand.NewPCG(uint64(n), 7)) //nolint:gosec // content of a demonstration disk
	chunk := make([]byte, 1<<20)
	for n > 0 {
		for i := range chunk[:1<<19] {
			chunk[i] = byte(rnd.Uint32())
		}
		for i := 1 << 19; i < len(chunk); i++ {
			chunk[i] = "the quick brown fox jumps over the lazy dog "[(i*7+int(n>>20))%44]
		}
		k := min(n, int64(len(chunk)))
		if _, err := w.Write(chunk[:k]); err != nil {
			return err
		}
		n -= k
	}
	return nil
}

func serve(args []string) error {
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	listen := fs.String("listen", "", "address to serve HTTP on")
	logDisk := fs.String("log", "", "disk that every entry is written to first (optional)")
	ledgerDisk := fs.String("ledger", "", "disk of the entries")
	lie := fs.Uint64("lie-at", 0, "acknowledge the entry with this id without writing it: plants a loss")
	if err := fs.Parse(args); err != nil {
		return err
	}
	seen, err := startWitness()
	if err != nil {
		return err
	}
	st, err := openStore(*logDisk, *ledgerDisk)
	if err != nil {
		return errors.Join(err, seen.stop())
	}
	st.lieAt = *lie
	srv := &http.Server{Addr: *listen, Handler: st.handler(), ReadHeaderTimeout: 5 * time.Second}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	failed := make(chan error, 1)
	go func() { failed <- srv.ListenAndServe() }()
	fmt.Printf("ledger: %d entries on disk, serving on %s\n", st.count(), *listen)
	select {
	case err := <-failed:
		return errors.Join(err, seen.stop())
	case <-ctx.Done():
	}
	st.thaw() // a held write must not hold the end
	end, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(srv.Shutdown(end), st.close(), seen.stop())
}

func post(url string) error {
	c := http.Client{Timeout: 5 * time.Second}
	resp, err := c.Post(url, "text/plain", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", url, resp.Status)
	}
	return nil
}
