package main

import (
	"context"
	"embed"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/scripts/reference"
)

//go:embed project
var project embed.FS

var initCommand = &command{
	name: "init", args: "[FOLDER]", short: "write a project: an estate, a plan, its test, and what editors need",
	long: `Writes into the folder (default: the working folder) an estate, a plan of three tiers and its test to begin with,
unless the folder has .lua files; the settings of lua-language-server, luacheck and stylua, unless it has those; and
the types of the language, .drrun/types, always: run it again after an update of drrun.`,
	examples: "drrun init dr && cd dr && drrun check erp.lua && drrun test",
	exits:    []int{fault.ExitFailed},
	make:     func() action { return &initOptions{} },
}

type initOptions struct{}

func (*initOptions) flags(*pflag.FlagSet) {}

// projectFile is a file of a project by its name there.
type projectFile struct {
	name, text string
	sample     bool // only in a folder without .lua files
	made       bool // written anew
}

func projectFiles() ([]projectFile, error) {
	entries, err := project.ReadDir("project")
	if err != nil {
		return nil, err
	}
	files := []projectFile{{name: ".luacheckrc", text: reference.Luacheck()}}
	for _, e := range entries {
		raw, err := project.ReadFile("project/" + e.Name())
		if err != nil {
			return nil, err
		}
		f := projectFile{name: e.Name(), text: string(raw), sample: path.Ext(e.Name()) == ".lua"}
		if f.name == "luarc.json" { // it would not be embedded with its dot
			f.name = "." + f.name
		}
		files = append(files, f)
	}
	types := reference.Types()
	for _, name := range slices.Sorted(maps.Keys(types)) {
		files = append(files, projectFile{name: ".drrun/types/" + name, text: types[name], made: true})
	}
	return files, nil
}

func (*initOptions) run(_ context.Context, c *cli, args []string) error {
	if err := c.wantArgs("init", args, 0, 1); err != nil {
		return err
	}
	folder, err := filepath.Abs(strings.Join(args, ""))
	if err != nil {
		return err
	}
	files, err := projectFiles()
	if err != nil {
		return err
	}
	own, err := filepath.Glob(filepath.Join(folder, "*.lua"))
	if err != nil {
		return err
	}
	written, kept := []string{}, []string{}
	for _, f := range files {
		file := filepath.Join(folder, filepath.FromSlash(f.name))
		_, err := os.Lstat(file)
		there := err == nil
		switch {
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return fault.Errorf(fault.Failed, "cannot write %s: %w", f.name, err)
		case f.sample && len(own) > 0:
			continue
		case there && !f.made:
			kept = append(kept, f.name)
			continue
		}
		err = vfs.OS{}.MkdirAll(filepath.Dir(file), 0o755)
		if err == nil {
			err = vfs.WriteFile(vfs.OS{}, file, []byte(f.text), 0o644)
		}
		if err != nil {
			return fault.Errorf(fault.Failed, "cannot write %s: %w", f.name, err)
		}
		written = append(written, f.name)
	}
	if c.output == "json" {
		return c.printJSON(map[string]any{"folder": folder, "written": written, "kept": kept})
	}
	for _, name := range written {
		if err := c.printf("wrote  %s\n", name); err != nil {
			return err
		}
	}
	for _, name := range kept {
		if err := c.printf("kept   %s\n", name); err != nil {
			return err
		}
	}
	if len(own) == 0 {
		c.errorf("next: drrun check erp.lua; drrun explain erp.lua --planned; drrun test\n")
	}
	return nil
}
