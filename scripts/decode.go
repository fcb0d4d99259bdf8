package scripts

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	lua "github.com/yuin/gopher-lua"

	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts/registry"
	"github.com/drrun/drrun/scripts/sandbox"
)

// body is a table of the page after its keys were checked: Go values by key.
// A key whose value has a fault is not in it, and its fault is reported.
type body struct {
	what   string // for messages: exec "drain"
	pos    plans.Pos
	vals   map[string]any
	keys   map[string]plans.Pos
	bad    map[string]bool // given, and faulty
	items  []*node
	fn     *lua.LFunction
	fnPos  plans.Pos
	absent bool
}

// get returns a value of the body, or the zero value.
func get[T any](b *body, key string) T {
	v, _ := b.vals[key].(T)
	return v
}

// has reports whether the page gives the key, faulty or not.
func (b *body) has(key string) bool { return b.vals[key] != nil || b.bad[key] }

// at is the place of a key, or of the whole body.
func (b *body) at(key string) plans.Pos {
	if p, ok := b.keys[key]; ok {
		return p
	}
	return b.pos
}

// body reads the body of an item.
func (p *page) body(n *node) *body {
	b := &body{what: n.String(), pos: n.pos, vals: map[string]any{}, keys: map[string]plans.Pos{}, bad: map[string]bool{}}
	if n.body == nil {
		b.absent = true
		if n.ctor.Body == registry.Needed && !n.broken {
			p.fault(n.pos, "%s: its body is missing: write %s { … }", n, n)
		}
		return b
	}
	p.fields(b, n.body, n.ctor.Fields, n)
	return b
}

// record reads a table that is the value of a key.
func (p *page) record(what string, pos plans.Pos, t *lua.LTable, fields []registry.Field) *body {
	b := &body{what: what, pos: pos, vals: map[string]any{}, keys: map[string]plans.Pos{}, bad: map[string]bool{}}
	p.fields(b, t, fields, nil)
	return b
}

// fields reads the keys and items of a table. n is nil for a record, which has
// no items.
func (p *page) fields(b *body, t *lua.LTable, fields []registry.Field, n *node) {
	info, written := p.tables[t]
	file := p.files[t]
	if !written {
		file = b.pos.File
	}
	line := func(key string) plans.Pos {
		if l, ok := info.Keys[key]; ok && l > 0 {
			return plans.Pos{File: file, Line: l}
		}
		if written && info.Line > 0 {
			return plans.Pos{File: file, Line: info.Line}
		}
		return b.pos
	}
	sandbox.ForEach(t, func(k, v lua.LValue) {
		switch key := k.(type) {
		case lua.LString:
			p.key(b, string(key), v, line(string(key)), fields)
		case lua.LNumber: // an item
			if f := float64(key); f != math.Trunc(f) || f < 1 {
				p.fault(b.pos, "%s: unknown key [%v]", b.what, key)
			}
		default:
			if !sandbox.IsUnknown(k) {
				p.fault(b.pos, "%s: a key is %s, want a name", b.what, describe(k))
			}
		}
	})
	// In the order of the registry, so that faults and functions come in one order.
	for _, f := range fields {
		if raw, ok := b.vals[f.Name].(lua.LValue); ok {
			delete(b.vals, f.Name)
			if v := p.value(b, f, raw); v != nil {
				b.vals[f.Name] = v
			} else {
				b.bad[f.Name] = true
			}
		}
	}
	p.items(b, t, n)
}

func (p *page) key(b *body, key string, v lua.LValue, pos plans.Pos, fields []registry.Field) {
	b.keys[key] = pos
	if !slices.ContainsFunc(fields, func(f registry.Field) bool { return f.Name == key }) {
		p.faultNear(pos, key, registry.Names(fields), "%s: unknown key %q", b.what, key)
		p.placeInside(v, 0)
		return
	}
	b.vals[key] = v
}

// placeInside marks the items under an unknown key as placed: one fault says it.
func (p *page) placeInside(v lua.LValue, depth int) {
	if n, ok := asNode(v); ok {
		n.placed++
		p.markInside(n, depth)
	} else if t, ok := v.(*lua.LTable); ok && depth < maxFlatten {
		sandbox.ForEach(t, func(_, v lua.LValue) {
			if p.visit(p.mainPos()) {
				p.placeInside(v, depth+1)
			}
		})
	}
}

// items reads the list part: items of the allowed kinds, lists flattened, and a
// function where one can stand.
func (p *page) items(b *body, t *lua.LTable, n *node) {
	p.each(b, t, 0, func(v lua.LValue, pos plans.Pos) {
		item, isNode := asNode(v)
		fn, isFunc := v.(*lua.LFunction)
		switch {
		case sandbox.IsUnknown(v):
		case isNode && n != nil && slices.Contains(n.ctor.Items, item.ctor.Name):
			item.placed++
			b.items = append(b.items, item)
		case isNode:
			p.placeInside(v, 0)
			p.fault(item.pos, "%s cannot stand in %s%s", item, b.what, itemsOf(n))
		case isFunc && n != nil && n.ctor.Function:
			if b.fn != nil {
				p.fault(pos, "%s: it has two functions", b.what)
			}
			b.fn, b.fnPos = fn, pos
		case isFunc:
			p.fault(pos, "%s: a function cannot stand here (functions are items of action and check)", b.what)
		default:
			p.fault(pos, "%s: %s cannot stand here%s", b.what, describe(v), itemsOf(n))
		}
	})
}

func itemsOf(n *node) string {
	switch {
	case n == nil:
		return ": it takes only keys"
	case n.ctor.Function:
		return ": its item is a function(run) … end"
	case len(n.ctor.Items) == 0:
		return ": it takes only keys"
	}
	return ": its items are " + strings.Join(n.ctor.Items, ", ")
}

const (
	maxFlatten = 20 // lists inside lists
	maxHoles   = 10 // of one list that are reported
)

// each calls f with every item of a list, lists inside it flattened, and
// reports holes.
func (p *page) each(b *body, t *lua.LTable, depth int, f func(v lua.LValue, pos plans.Pos)) {
	if depth > maxFlatten {
		p.fault(b.pos, "%s: lists are inside lists more than %d levels deep", b.what, maxFlatten)
		return
	}
	info, written := p.tables[t]
	pos := func(i int) plans.Pos {
		if written && i <= len(info.Items) && info.Items[i-1] > 0 {
			return plans.Pos{File: p.files[t], Line: info.Items[i-1]}
		}
		return b.pos
	}
	most := t.MaxN()
	if written {
		want := len(info.Items)
		if info.Open {
			want--
		}
		most = max(most, want)
	}
	holes := 0
	for i := 1; i <= most && p.visit(pos(i)); i++ {
		v := t.RawGetInt(i)
		if v == lua.LNil {
			if holes++; holes <= maxHoles {
				p.fault(pos(i), "%s: item %d is nil", b.what, i)
			}
			continue
		}
		inner, isTable := v.(*lua.LTable)
		if !isTable {
			f(v, pos(i))
			continue
		}
		if hasKeys(inner) {
			p.fault(pos(i), "%s: item %d is a table with keys, want an item or a list of items", b.what, i)
			continue
		}
		p.each(b, inner, depth+1, f)
	}
}

func hasKeys(t *lua.LTable) bool {
	found := false
	sandbox.ForEach(t, func(k, _ lua.LValue) { found = found || k.Type() == lua.LTString })
	return found
}

// value checks a value by its field's type; nil when it has a fault.
func (p *page) value(b *body, f registry.Field, v lua.LValue) any {
	if sandbox.IsUnknown(v) {
		return nil
	}
	pos := b.at(f.Name)
	if f.Later != "" {
		word, _ := v.(lua.LString)
		switch {
		case len(f.LaterWords) == 0 && v != lua.LFalse:
			p.fault(pos, "%s: %s is not in this version: %s", b.what, f.Name, f.Later)
			return nil
		case slices.Contains(f.LaterWords, string(word)):
			p.fault(pos, "%s: %s = %q is not in this version: %s", b.what, f.Name, string(word), f.Later)
			return nil
		}
	}
	wrong := func(want string) any {
		p.fault(pos, "%s: %s is %s, want %s", b.what, f.Name, describe(v), want)
		return nil
	}
	parsed := func(val any, err error) any {
		if err != nil {
			p.fault(pos, "%s: %s: %v", b.what, f.Name, err)
			return nil
		}
		return val
	}
	s, isString := v.(lua.LString)
	switch f.Type {
	case registry.String:
		if !isString {
			return wrong("a string")
		}
		if !p.text(b.what+": "+f.Name, pos, string(s)) {
			return nil
		}
		return string(s)
	case registry.Bool:
		if t, ok := v.(lua.LBool); ok {
			return bool(t)
		}
		return wrong("true or false")
	case registry.Integer:
		if n, ok := v.(lua.LNumber); ok && float64(n) == math.Trunc(float64(n)) && math.Abs(float64(n)) < 1<<31 {
			return int(n)
		}
		return wrong("a whole number")
	case registry.Duration:
		if !isString {
			return wrong(`a duration like "5m"`)
		}
		d, err := quantity.ParseDuration(string(s))
		if err == nil && d == 0 && !f.Zero {
			err = errors.New("it is nothing: give it a time, or leave it out")
		}
		return parsed(d, err)
	case registry.Rate:
		if !isString {
			return wrong(`a rate like "200Mbit/s"`)
		}
		n, err := quantity.ParseRate(string(s))
		return parsed(n, err)
	case registry.Word:
		if !isString {
			return wrong(oneOf(f.Words))
		}
		return p.word(b, f, pos, string(s))
	}
	return p.compound(b, f, v, pos)
}

// text reports what is no text: a string is stored as JSON and handed to
// programs, and neither takes every byte.
func (p *page) text(what string, pos plans.Pos, s string) bool {
	switch {
	case !utf8.ValidString(s):
		p.fault(pos, "%s: it is no UTF-8 text", what)
	case strings.ContainsRune(s, 0):
		p.fault(pos, "%s: it has a zero byte", what)
	default:
		return true
	}
	return false
}

func (p *page) word(b *body, f registry.Field, pos plans.Pos, s string) any {
	if slices.Contains(f.Words, s) {
		return s
	}
	p.faultNear(pos, s, f.Words, "%s: %s is %q, want %s", b.what, f.Name, s, oneOf(f.Words))
	return nil
}

func oneOf(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = fmt.Sprintf("%q", w)
	}
	if len(quoted) < 2 {
		return strings.Join(quoted, "")
	}
	return strings.Join(quoted[:len(quoted)-1], ", ") + " or " + quoted[len(quoted)-1]
}

// compound is value for the types that are more than one word.
func (p *page) compound(b *body, f registry.Field, v lua.LValue, pos plans.Pos) any {
	t, isTable := v.(*lua.LTable)
	what := b.what + ": " + f.Name
	switch f.Type {
	case registry.Strings:
		return p.strings(what, pos, v)
	case registry.Command:
		return p.command(what, pos, v)
	case registry.Types:
		return p.types(what, pos, f.Name, v)
	case registry.Steps:
		return p.steps(what, pos, v)
	case registry.Keep:
		return p.keep(what, pos, v)
	case registry.Map, registry.Address, registry.Params:
		if !isTable {
			p.fault(pos, "%s is %s, want a table", what, describe(v))
			return nil
		}
		return t
	case registry.Commit:
		if s, ok := v.(lua.LString); ok {
			return p.word(b, f, pos, string(s))
		}
		fallthrough
	case registry.Record:
		if !isTable {
			p.fault(pos, "%s is %s, want a table { … }", what, describe(v))
			return nil
		}
		return p.record(what, pos, t, f.Fields)
	case registry.Any:
		return v
	case registry.Elsewhere:
		p.fault(pos, "%s: this provider is not in this version (use exec)", what)
	}
	return nil
}

// strings reads a string or a list of strings.
func (p *page) strings(what string, pos plans.Pos, v lua.LValue) any {
	if s, ok := v.(lua.LString); ok {
		if !p.text(what, pos, string(s)) {
			return nil
		}
		return []string{string(s)}
	}
	t, ok := v.(*lua.LTable)
	if !ok {
		p.fault(pos, "%s is %s, want a string or a list of strings", what, describe(v))
		return nil
	}
	list, good := []string{}, true
	b := &body{what: what, pos: pos}
	if hasKeys(t) {
		p.fault(pos, "%s is a table with keys, want a list of strings", what)
		return nil
	}
	p.each(b, t, 0, func(v lua.LValue, pos plans.Pos) {
		switch s := v.(type) {
		case lua.LString:
			good = p.text(what, pos, string(s)) && good
			list = append(list, string(s))
		case lua.LNumber:
			list = append(list, s.String())
		default:
			good = false
			if !sandbox.IsUnknown(v) {
				p.fault(pos, "%s: %s stands in a list of strings", what, describe(v))
			}
		}
	})
	if !good {
		return nil
	}
	return list
}

// shellCharacters mean something to a shell and nothing to a program.
const shellCharacters = "|&;<>()$`\\\"'*?[]\n"

// command reads a program and its arguments: a list as it stands, or a string
// split at spaces.
func (p *page) command(what string, pos plans.Pos, v lua.LValue) any {
	s, ok := v.(lua.LString)
	if !ok {
		list := p.strings(what, pos, v)
		if words, _ := list.([]string); list != nil && (len(words) == 0 || words[0] == "") {
			p.fault(pos, "%s: the program is missing", what)
			return nil
		}
		return list
	}
	words := strings.Fields(string(s))
	if !p.text(what, pos, string(s)) {
		return nil
	}
	if i := strings.IndexAny(string(s), shellCharacters); i >= 0 {
		p.fault(pos, "%s: %q means something only to a shell: write the command as a list, %s", what, s[i:i+1], shellHint(what))
		return nil
	}
	for _, w := range words {
		if strings.HasPrefix(w, "~") || strings.HasPrefix(w, "#") {
			p.fault(pos, "%s: %q means something only to a shell: write the command as a list, %s", what, w[:1], shellHint(what))
			return nil
		}
	}
	if len(words) == 0 {
		p.fault(pos, "%s: the program is missing", what)
		return nil
	}
	return words
}

func shellHint(what string) string {
	if strings.HasSuffix(what, ": cmd") {
		return `or use sh = "…" for a shell line`
	}
	return `or say { "sh", "-c", "…" }`
}

// types reads types of failover; "any" is all of them.
func (p *page) types(what string, pos plans.Pos, key string, v lua.LValue) any {
	words, ok := p.strings(what, pos, v).([]string)
	if !ok {
		return nil
	}
	known := []string{string(recovery.Test), string(recovery.Planned), string(recovery.Unplanned)}
	if key == "only" {
		known = append(known, "any")
	}
	var out []recovery.Type
	for _, w := range words {
		switch {
		case !slices.Contains(known, w):
			p.faultNear(pos, w, known, "%s is %q, want %s", what, w, oneOf(known))
			return nil
		case w == "any" && len(words) > 1:
			p.fault(pos, `%s: "any" stands alone`, what)
			return nil
		case w == "any":
			return plans.AllTypes()
		case slices.Contains(out, recovery.Type(w)):
			p.fault(pos, "%s: %q is said twice", what, w)
		default:
			out = append(out, recovery.Type(w))
		}
	}
	if len(out) == 0 {
		p.fault(pos, "%s is empty, want %s", what, oneOf(known))
		return nil
	}
	return out
}

var stepKinds = []string{"exec", "check", "wait", "action"}

// steps reads a step or a list of steps.
func (p *page) steps(what string, pos plans.Pos, v lua.LValue) any {
	list := []*node{}
	add := func(v lua.LValue, pos plans.Pos) {
		n, ok := asNode(v)
		switch {
		case sandbox.IsUnknown(v):
		case ok && slices.Contains(stepKinds, n.ctor.Name):
			n.placed++
			list = append(list, n)
		case ok:
			p.placeInside(v, 0)
			p.fault(n.pos, "%s: %s is no step (steps are %s)", what, n, strings.Join(stepKinds, ", "))
		case v.Type() == lua.LTFunction:
			p.fault(pos, `%s is a function: put it into action "…" { function(run) … end }`, what)
		default:
			p.fault(pos, "%s is %s, want a step or a list of steps", what, describe(v))
		}
	}
	if t, ok := v.(*lua.LTable); ok {
		if hasKeys(t) {
			p.fault(pos, "%s is a table with keys, want a step or a list of steps", what)
			return nil
		}
		p.each(&body{what: what, pos: pos}, t, 0, add)
		return list
	}
	add(v, pos)
	return list
}

// keep reads the lines of a retention: "all for 1h", "5m for 1d", "last 24".
func (p *page) keep(what string, pos plans.Pos, v lua.LValue) any {
	lines, ok := p.strings(what, pos, v).([]string)
	if !ok {
		return nil
	}
	out := []recovery.Keep{}
	for _, l := range lines {
		k, err := parseKeep(l)
		if err != nil {
			p.fault(pos, "%s: %v", what, err)
			continue
		}
		out = append(out, k)
	}
	return out
}

func parseKeep(s string) (recovery.Keep, error) {
	words := strings.Fields(s)
	bad := fmt.Errorf(`%q is no line of a retention (write "all for 1h", "5m for 1d" or "last 24")`, s)
	if len(words) == 2 && words[0] == "last" {
		n, err := strconv.Atoi(words[1])
		if err != nil || n < 1 || n > plans.MaxKeepLast {
			return recovery.Keep{}, bad
		}
		return recovery.Keep{Last: n}, nil
	}
	if len(words) != 3 || words[1] != "for" {
		return recovery.Keep{}, bad
	}
	var every time.Duration
	if words[0] != "all" {
		d, err := quantity.ParseDuration(words[0])
		if err != nil || d == 0 {
			return recovery.Keep{}, bad
		}
		every = d
	}
	span, err := quantity.ParseDuration(words[2])
	if err != nil {
		return recovery.Keep{}, bad
	}
	return recovery.Keep{Every: every, For: span}, nil
}
