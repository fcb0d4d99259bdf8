package main

import (
	"context"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/cmd/internal/evidence"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
)

var reportCommand = &command{
	name: "report", args: "RUN", short: "the record of a run as one HTML file, as JUnit or as JSON",
	long: `Writes what a run did into a file for people who were not there: how it ended, RTO and RPO against their
objectives, machines with their recovery points and proofs, a timeline, every step, who answered for what. The
HTML needs no other file and no network. JUnit has a case for each step and each objective; a step whose outcome is
not known counts as an error. -o json prints the run to stdout instead.

The exit status says whether the report was written, not how the run ended.`,
	examples: "drrun report erp-3f9a01\ndrrun report erp-3f9a01 --format junit --file build/drill.xml\ndrrun report erp-3f9a01 --file - | less",
	exits:    askExits,
	make:     func() action { return &reportOptions{} },
}

type reportOptions struct{ format, file string }

func (o *reportOptions) flags(fs *pflag.FlagSet) {
	fs.StringVar(&o.format, "format", "html", "html or junit")
	fs.StringVar(&o.file, "file", "", "where to; - is stdout (RUN.html, RUN.xml)")
}

func (o *reportOptions) run(ctx context.Context, c *cli, args []string) error {
	if err := c.wantArgs("report", args, 1, 1); err != nil {
		return err
	}
	if o.format != "html" && o.format != "junit" {
		return usage("--format %q is not html or junit", o.format)
	}
	return c.with(ctx, need{}, func(s *session) error {
		r, err := s.Run(ctx, args[0])
		if err != nil {
			return err
		}
		if c.output == "json" && o.file == "" {
			return c.printJSON(r)
		}
		var b []byte
		name := r.ID + ".html"
		if o.format == "junit" {
			name = r.ID + ".xml"
			b, err = evidence.JUnit(&r)
		} else {
			b, err = evidence.HTML(&r, time.Now(), versionLine())
		}
		if err != nil {
			return err
		}
		if o.file == "-" {
			return c.printf("%s", b)
		}
		if o.file != "" {
			name = o.file
		}
		if name, err = filepath.Abs(name); err == nil {
			err = vfs.WriteFile(vfs.OS{}, name, b, 0o644)
		}
		if err != nil {
			return fault.Errorf(fault.Failed, "cannot write the report: %w", err)
		}
		return c.printf("%s\n", name)
	})
}
