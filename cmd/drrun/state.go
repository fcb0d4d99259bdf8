package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/cmd/internal/compose"
	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/internal/vfs"
)

var stateCommand = &command{
	name: "state", args: "backup|restore FILE", short: "a backup of the runtime's state in one file, and the way back",
	long: `backup writes the state as it is at one moment (estate, plans, runs) and the estate's certificate authority,
whose key is sealed with a passphrase, into one file; a controller may go on serving meanwhile. restore
puts such a file into an empty state folder. What happened after the backup is only at the agents: no real
run starts before drrun recover has taken it from there. The passphrase is asked for on a terminal, or is
the first line of --passphrase-file, or DRRUN_PASSPHRASE.`,
	examples: "drrun state backup /mnt/usb/drrun.backup\ndrrun state restore drrun.backup --state /var/lib/drrun\ndrrun state restore drrun.backup --force --passphrase-file /run/secrets/drrun",
	exits:    []int{fault.ExitFailed, fault.ExitRefused, fault.ExitUnreachable, fault.ExitCorrupt},
	make:     func() action { return &stateOptions{} },
}

type stateOptions struct {
	passphraseFile string
	force          bool
}

func (o *stateOptions) flags(fs *pflag.FlagSet) {
	fs.StringVar(&o.passphraseFile, "passphrase-file", "", "file whose first line is the passphrase")
	fs.BoolVar(&o.force, "force", false, "restore over a state that is there: that one is moved aside (also: write over FILE)")
}

func (o *stateOptions) run(ctx context.Context, c *cli, args []string) error {
	if err := c.wantArgs("state", args, 2, 2); err != nil {
		return err
	}
	switch args[0] {
	case "backup":
		return o.backup(ctx, c, args[1])
	case "restore":
		return o.restore(ctx, c, args[1])
	}
	return usage("drrun state: %q is not backup or restore", args[0]).WithHint("drrun help state")
}

// passphrase finds it; twice asks for it twice.
func (o *stateOptions) passphrase(ctx context.Context, c *cli, twice bool) (string, error) {
	if o.passphraseFile != "" {
		b, err := vfs.ReadFile(vfs.OS{}, o.passphraseFile)
		if err != nil {
			return "", usage("cannot read the passphrase: %v", err)
		}
		line, _, _ := strings.Cut(string(b), "\n")
		return strings.TrimSuffix(line, "\r"), nil
	}
	if p := c.Getenv("DRRUN_PASSPHRASE"); p != "" {
		return p, nil
	}
	if !c.Asks {
		return "", usage("without a terminal the passphrase comes from --passphrase-file or DRRUN_PASSPHRASE")
	}
	p, err := c.asker.Secret(ctx, "Passphrase for the CA's key: ")
	if err != nil || !twice {
		return p, err
	}
	again, err := c.asker.Secret(ctx, "Once more: ")
	if err == nil && again != p {
		err = usage("the two passphrases differ")
	}
	return p, err
}

func (o *stateOptions) backup(ctx context.Context, c *cli, file string) error {
	if exists(file) && !o.force {
		return fault.Errorf(fault.Refused, "cannot write the backup: %s exists", file).WithHint("another name, or --force")
	}
	pass, err := o.passphrase(ctx, c, true)
	if err != nil {
		return err
	}
	return c.with(ctx, need{}, func(s *session) error {
		info, err := s.Info(ctx)
		if err != nil {
			return err
		}
		var state bytes.Buffer
		if err := s.State(ctx, &state); err != nil {
			return err
		}
		if err := compose.CheckState(state.Bytes()); err != nil {
			return err
		}
		b, err := compose.EncodeBackup(state.Bytes(), info.State, pass, versionLine(), time.Now())
		if err != nil {
			return openError(err)
		}
		name, err := filepath.Abs(file)
		if err == nil {
			err = vfs.WriteFile(vfs.OS{}, name, b, 0o600)
		}
		if err != nil {
			return fault.Errorf(fault.Failed, "cannot write the backup: %w", err)
		}
		if c.output == "json" {
			return c.printJSON(struct {
				File  string `json:"file"`
				State string `json:"state"`
				Bytes int    `json:"bytes"`
			}{name, info.State, len(b)})
		}
		return c.printf("state %s is in %s (%s); without its passphrase the CA's key in it is lost\n", info.State, name, quantity.FormatSize(int64(len(b))))
	})
}

func (o *stateOptions) restore(ctx context.Context, c *cli, file string) error {
	if c.controller != "" {
		return usage("restore puts a backup into a state folder: --controller is not for it")
	}
	b, err := vfs.ReadFile(vfs.OS{}, file)
	if errors.Is(err, fs.ErrNotExist) {
		return usage("cannot read %s: there is no such file", file)
	}
	if err != nil {
		return fault.Errorf(fault.Failed, "cannot read the backup: %w", err)
	}
	dir, err := c.stateFolder(c.state)
	if err != nil {
		return err
	}
	pass, err := o.passphrase(ctx, c, false)
	if err != nil {
		return err
	}
	res, err := compose.Restore(ctx, b, dir, pass, o.force, clock.Real{})
	if err != nil {
		return openError(err)
	}
	c.errorf("what happened after %s is only at the agents; next: drrun recover\n", stamp(res.At))
	if c.output == "json" {
		return c.printJSON(res)
	}
	text := ""
	if res.Replaced != "" {
		text = "; what was there before is in " + res.Replaced
	}
	return c.printf("estate %s, revision %d, with %s, as of %s, is in %s%s\n", res.Estate, res.Revision, quantity.Count(res.Runs, "run"), stamp(res.At), dir, text)
}
