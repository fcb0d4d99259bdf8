package estate

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/plans"
)

// What may become of an object in a Diff.
const (
	Added   = "add"
	Changed = "change"
	Gone    = "gone" // not in the files any more; what is protected stays protected
)

// Diff is what applying would change. It lists nothing that stays as it is.
type Diff struct {
	Estate  string   `json:"estate"`
	Base    uint64   `json:"base"`     // revision it was made against; 0: nothing is applied yet
	Next    uint64   `json:"revision"` // revision that applying makes; Base if nothing changes
	Changes []Change `json:"changes"`
	// Blocked says why it cannot be applied: moves that a protected machine
	// cannot follow. Empty: it can.
	Blocked []string `json:"blocked,omitempty"`
}

// Change is one object that is added, changed or gone.
type Change struct {
	Kind   string  `json:"kind"` // controller, policy, site, network, cloud, host, machine, disk, secret, plan
	Name   string  `json:"name"`
	Action string  `json:"action"`
	Fields []Field `json:"fields,omitempty"`
	Note   string  `json:"note,omitempty"` // what it means for the operator
	// Lines are what changes in the source of a plan and its modules.
	Lines []Line `json:"lines,omitempty"`
}

// Field is one changed field, as it is written in the file.
type Field struct {
	Name string `json:"name"`
	Old  string `json:"old,omitempty"`
	New  string `json:"new,omitempty"`
}

// Empty reports whether applying would change nothing.
func (d *Diff) Empty() bool { return len(d.Changes) == 0 }

var actionSigns = map[string]string{Added: "+", Changed: "~", Gone: "-"}

// Text is the difference for a person, one object a paragraph.
func (d *Diff) Text() string {
	var b strings.Builder
	switch {
	case d.Empty():
		fmt.Fprintf(&b, "estate %s: nothing changes (revision %d)\n", d.Estate, d.Base)
	case d.Base == d.Next:
		fmt.Fprintf(&b, "estate %s, revision %d: plans change\n", d.Estate, d.Base)
	case d.Base == 0:
		fmt.Fprintf(&b, "estate %s: new\n", d.Estate)
	default:
		fmt.Fprintf(&b, "estate %s: revision %d -> %d\n", d.Estate, d.Base, d.Next)
	}
	for _, c := range d.Changes {
		fmt.Fprintf(&b, "%s %s %s", actionSigns[c.Action], c.Kind, c.Name)
		if c.Note != "" {
			fmt.Fprintf(&b, "  (%s)", c.Note)
		}
		b.WriteByte('\n')
		for _, f := range c.Fields {
			if c.Action == Changed {
				fmt.Fprintf(&b, "    %s: %s -> %s\n", f.Name, orNone(f.Old), orNone(f.New))
			} else if c.Action == Added && f.New != "" {
				fmt.Fprintf(&b, "    %s: %s\n", f.Name, f.New)
			}
		}
		writeLines(&b, c.Lines)
	}
	for _, s := range d.Blocked {
		fmt.Fprintf(&b, "! %s\n", s)
	}
	return b.String()
}

// mostLines is how many changed lines of a plan are shown.
const mostLines = 60

func writeLines(b *strings.Builder, lines []Line) {
	for i, l := range lines {
		if i == mostLines {
			fmt.Fprintf(b, "    … and %d more lines\n", len(lines)-i)
			break
		}
		sign := '-'
		if l.Added {
			sign = '+'
		}
		fmt.Fprintf(b, "    %s:%d: %c %s\n", l.File, l.Line, sign, strings.ReplaceAll(l.Text, "\t", "  "))
	}
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// object is one thing of an estate with its fields as flat text.
type object struct {
	kind, name string
	fields     map[string]string
}

// objects flattens an estate, in order of kinds and names.
func objects(e *plans.Estate) []object {
	if e == nil {
		return nil
	}
	var all []object
	add := func(kind, name string, v any, without ...string) {
		all = append(all, object{kind, name, flatten(v, append(without, "pos", "name"))})
	}
	if len(e.Allow) > 0 {
		all = append(all, object{"controller", e.Name, map[string]string{"allow": strings.Join(e.Allow, ", ")}})
	}
	for _, p := range e.Policies {
		add("policy", p.Name, p)
	}
	for _, s := range e.Secrets {
		add("secret", s.Name, s)
	}
	for _, s := range e.Sites {
		add("site", s.Name, s, "networks", "clouds")
		for _, n := range s.Networks {
			add("network", s.Name+"/"+n.Name, n)
		}
		for _, c := range s.Clouds {
			add("cloud", s.Name+"/"+c.Name, c, "hosts")
			for _, h := range c.Hosts {
				add("host", h.Name, h)
			}
		}
	}
	for _, m := range e.Machines {
		add("machine", m.Name, m, "disks")
		for _, d := range m.Disks {
			add("disk", m.Name+"/"+d.Name, d)
		}
	}
	return all
}

// flatten turns a value's JSON form into "path.to.field" = text, leaving out
// some top-level fields and everything empty.
func flatten(v any, without []string) map[string]string {
	data, err := json.Marshal(v)
	if err != nil {
		panic("estate: data without a JSON form: " + err.Error())
	}
	var top map[string]any
	if err := json.Unmarshal(data, &top); err != nil {
		panic("estate: an object that is not a JSON object: " + err.Error())
	}
	out := map[string]string{}
	for k, x := range top {
		if !slices.Contains(without, k) {
			flattenInto(out, k, x)
		}
	}
	return out
}

func flattenInto(out map[string]string, path string, v any) {
	switch x := v.(type) {
	case map[string]any:
		for k, y := range x {
			if k != "pos" {
				flattenInto(out, path+"."+k, y)
			}
		}
	case []any:
		parts := make([]string, 0, len(x))
		for _, y := range x {
			parts = append(parts, scalar(path, y))
		}
		if s := strings.Join(parts, ", "); s != "" {
			out[path] = s
		}
	default:
		if s := scalar(path, v); s != "" {
			out[path] = s
		}
	}
}

// durationFields hold nanoseconds in JSON; a person reads "30s".
var durationFields = []string{"every", "app_every", "rpo", "lease", "force_after", "freeze_max", "within", "for"}

func scalar(path string, v any) string {
	last := path[strings.LastIndexByte(path, '.')+1:]
	switch x := v.(type) {
	case nil:
		return ""
	case string:
		return x
	case bool:
		return fmt.Sprint(x)
	case float64:
		switch {
		case x == 0:
			return ""
		case slices.Contains(durationFields, last):
			return quantity.FormatDuration(time.Duration(x))
		case last == "rate":
			return quantity.FormatSize(int64(x)) + "/s"
		}
		return fmt.Sprintf("%.0f", x)
	case map[string]any: // an element of a list
		if last == "keep" {
			return keepLine(x)
		}
		parts := []string{}
		for _, k := range slices.Sorted(maps.Keys(x)) {
			if s := scalar(path+"."+k, x[k]); s != "" && k != "pos" {
				parts = append(parts, k+" "+s)
			}
		}
		return strings.Join(parts, " ")
	}
	return fmt.Sprint(v)
}

// keepLine is a line of a retention as an estate has it.
func keepLine(x map[string]any) string {
	if n := scalar("last", x["last"]); n != "" {
		return "last " + n
	}
	return cmp.Or(scalar("every", x["every"]), "all") + " for " + scalar("for", x["for"])
}

// diffEstates lists what next adds to, changes in and no longer has of old.
func diffEstates(old, next *plans.Estate) []Change {
	was := map[string]object{}
	for _, o := range objects(old) {
		was[o.kind+" "+o.name] = o
	}
	var out []Change
	for _, o := range objects(next) {
		key := o.kind + " " + o.name
		before, known := was[key]
		delete(was, key)
		fields := diffFields(before.fields, o.fields)
		switch {
		case !known:
			out = append(out, Change{Kind: o.kind, Name: o.name, Action: Added, Fields: fields})
		case len(fields) > 0:
			out = append(out, Change{Kind: o.kind, Name: o.name, Action: Changed, Fields: fields})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(was)) {
		o := was[key]
		out = append(out, Change{Kind: o.kind, Name: o.name, Action: Gone})
	}
	return out
}

func diffFields(old, next map[string]string) []Field {
	var out []Field
	for k, v := range next {
		if old[k] != v {
			out = append(out, Field{Name: k, Old: old[k], New: v})
		}
	}
	for k, v := range old {
		if _, still := next[k]; !still {
			out = append(out, Field{Name: k, Old: v})
		}
	}
	slices.SortFunc(out, func(a, b Field) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
