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
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts/reference"
)

//go:embed project
var project embed.FS

var initCommand = &command{
	name: "init", args: "[FOLDER]", short: "write a project: an estate, a plan, its test, and what editors need",
	long: `Writes into the folder (default: the working folder) an estate, a plan of three tiers and its test to begin with,
unless the folder has .lua files; the settings of lua-language-server, luacheck and stylua, unless it has those; and
the types of the language, .drrun/types, always: run it again after an update of drrun. The flags name what is in them:
the plan (and its files, tags and DNS name), the two sites (and their hosts), the estate.`,
	examples: "drrun init dr && cd dr && drrun check erp.lua && drrun test\ndrrun init shop --plan shop --from berlin --to hamburg --estate acme",
	exits:    []int{fault.ExitFailed},
	make:     func() action { return &initOptions{} },
}

type initOptions struct{ sampleNames }

func (o *initOptions) flags(fs *pflag.FlagSet) {
	fs.StringVar(&o.plan, "plan", sample.plan, "name of the plan")
	fs.StringVar(&o.from, "from", sample.from, "site where its machines live")
	fs.StringVar(&o.to, "to", sample.to, "site to which they go")
	fs.StringVar(&o.estate, "estate", sample.estate, "name of the estate")
}

// sampleNames are the names in a project that its author chooses.
type sampleNames struct{ plan, from, to, estate string }

// sample is how the files of the project have them.
var sample = sampleNames{"erp", "paris", "lyon", "acme"}

// check refuses names that a plan or an estate cannot have.
func (n sampleNames) check() error {
	for _, f := range []struct{ flag, name string }{{"plan", n.plan}, {"from", n.from}, {"to", n.to}, {"estate", n.estate}} {
		if err := ident.CheckName(f.name); err != nil {
			return usage("--%s: %v", f.flag, err)
		}
	}
	if n.plan == "estate" || strings.HasSuffix(n.plan, "_test") || strings.HasSuffix(n.plan, "_world") {
		return usage("--plan: %s.lua would not be the file of a plan", n.plan)
	}
	if n.from == n.to {
		return usage("--from and --to are the same site %q", n.to)
	}
	return nil
}

// hosts are what the names of the hosts of both sites begin with.
func (n sampleNames) hosts() (from, to string) {
	from, to = n.from[:min(3, len(n.from))], n.to[:min(3, len(n.to))]
	if from == to {
		return n.from, n.to
	}
	return from, to
}

// zone is the time zone of the site where the machines live, if its city has one.
func (n sampleNames) zone() string {
	for _, area := range []string{"Europe", "America", "Asia", "Australia", "Africa"} {
		if zone := area + "/" + capital(n.from); zoneExists(zone) {
			return zone
		}
	}
	return "UTC"
}

func zoneExists(name string) bool {
	_, err := time.LoadLocation(name)
	return err == nil
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// named are the names of the sample in its files; all are replaced at once, as
// the new name of one may be the old of another.
var named = regexp.MustCompile(`Europe/Paris|\b(?:erp|ERP|paris|lyon|Lyon|acme)\b|\berp_|\b(?:par|lyo)-`)

// into writes a text or a file's name with the names that are chosen.
func (n sampleNames) into(text string) string {
	if n == sample {
		return text
	}
	from, to := n.hosts()
	names := map[string]string{"Europe/Paris": n.zone(), "erp": n.plan, "ERP": n.plan, "erp_": n.plan + "_", "paris": n.from, "lyon": n.to, "Lyon": capital(n.to),
		"acme": n.estate, "par-": from + "-", "lyo-": to + "-"}
	return named.ReplaceAllStringFunc(text, func(s string) string { return names[s] })
}

// checkSample loads the plan and the estate of a project: names may be taken in
// ways that only the whole shows.
func (n sampleNames) checkSample(files []projectFile) error {
	var bundles []plans.Bundle
	for _, f := range files {
		if f.name == "estate.lua" || f.name == n.plan+".lua" {
			bundles = append(bundles, plans.Bundle{Main: f.name, Files: map[string]string{f.name: f.text}})
		}
	}
	l := loadAll(bundles, nil)
	if err := l.check(); err != nil || len(bundles) != 2 {
		return usage("these names do not go together: %v", err)
	}
	return nil
}

// projectFile is a file of a project by its name there.
type projectFile struct {
	name, text string
	sample     bool // only in a folder without .lua files
	made       bool // written anew
}

func projectFiles(names sampleNames) ([]projectFile, error) {
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
		if f.sample {
			f.name, f.text = names.into(f.name), names.into(f.text)
		}
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

func (o *initOptions) run(_ context.Context, c *cli, args []string) error {
	if err := c.wantArgs("init", args, 0, 1); err != nil {
		return err
	}
	folder, err := filepath.Abs(strings.Join(args, ""))
	if err != nil {
		return err
	}
	if err := o.check(); err != nil {
		return err
	}
	files, err := projectFiles(o.sampleNames)
	if err != nil {
		return err
	}
	if err := o.checkSample(files); err != nil {
		return err
	}
	own, err := filepath.Glob(filepath.Join(folder, "*.lua"))
	if err != nil {
		return err
	}
	if len(own) > 0 && o.sampleNames != sample {
		return usage("names are for the files of a new project, and %s has .lua files", folder).WithHint("drrun init without them writes what editors need")
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
		c.errorf("next: drrun check %s.lua; drrun explain %[1]s.lua --planned; drrun test\n", o.plan)
	}
	return nil
}
