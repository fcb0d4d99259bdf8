package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/agent/hrl"
	"github.com/drrun/drrun/cmd/internal/term"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/internal/vfs"
)

var hrlCommand = &command{
	name: "hrl", args: "info|verify FILE…", short: "look into replication logs, or read them whole",
	long: `info shows header and footer of replication logs (.hrl). verify reads them whole and checks every frame; a
log that does not verify ends the command with status 9, after the others were read.`,
	examples: "drrun hrl info /srv/drrun/db1/root/undo/0000000000000007.hrl\ndrrun hrl verify /srv/drrun/db1/root/undo/*.hrl",
	exits:    []int{9},
	make:     func() action { return hrlOptions{} },
}

type hrlOptions struct{}

func (hrlOptions) flags(*pflag.FlagSet) {}

func (hrlOptions) run(_ context.Context, c *cli, args []string) error {
	if err := c.wantArgs("hrl", args, 2, -1); err != nil {
		return err
	}
	read := hrl.Describe
	switch args[0] {
	case "info":
	case "verify":
		read = hrl.VerifyFile
	default:
		return usage("drrun hrl: %q is not info or verify", args[0]).WithHint("drrun help hrl")
	}
	var worst error
	for _, file := range args[1:] {
		d, err := read(vfs.OS{}, file)
		if errors.Is(err, fs.ErrNotExist) {
			err = usage("cannot read %s: there is no such file", file)
		}
		if err != nil {
			if worst != nil {
				c.printError(worst)
			}
			worst = err
			continue
		}
		if c.output == "json" {
			err = c.printLine(d)
		} else {
			err = c.printf("%s", logText(&d))
		}
		if err != nil {
			return err
		}
	}
	return worst
}

// logText shows one log.
func logText(d *hrl.Description) string {
	h, f := &d.Header, &d.Footer
	t := newTable()
	add := func(name, format string, args ...any) { t.row("  "+name, fmt.Sprintf(format, args...)) }
	add("kind", "%s, version %d, segment %d", h.Kind, h.Version, h.Segment)
	add("size", "%s", quantity.FormatSize(d.Size))
	add("disk", "%s, %s -> %s", h.Disk, quantity.FormatSize(h.SizeBefore), quantity.FormatSize(h.SizeAfter))
	add("log", "%s, file %s", h.Log, h.File)
	add("points", "%s -> %s, epoch %d", orDash(fmt.Sprint(h.From)), orDash(fmt.Sprint(h.To)), h.Epoch)
	add("instant", "%s %s", stamp(f.Instant), f.Consistency)
	add("content", "%d frames, %d extents, data %s, zeros %s, discarded %s", f.Frames, f.Extents,
		quantity.FormatSize(f.DataBytes), quantity.FormatSize(f.ZeroBytes), quantity.FormatSize(f.DiscardBytes))
	add("sum", "%016x (whole disk after it)", f.Sum)
	for _, codec := range slices.Sorted(maps.Keys(d.StoredBytes)) {
		add("stored "+codec, "%s", quantity.FormatSize(d.StoredBytes[codec]))
	}
	if d.Verified {
		add("sha256", "%s", d.SHA256)
		add("verified", "every frame")
	}
	return term.Escape(d.Path, false) + "\n" + t.String()
}
