// Package hostcall is what the functions of modules call the world through:
// journaled operations, secrets, limits, and values between Lua and JSON.
//
// It is no module itself and decides nothing: the runtime behind
// plans.HostCalls does. An Env belongs to one running function.
package hostcall

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	lua "github.com/yuin/gopher-lua"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts/registry"
	"github.com/drrun/drrun/scripts/sandbox"
)

// Limits of one operation.
const (
	DefaultWithin = 30 * time.Second
	MaxBody       = 1 << 20 // bytes of an answer that are read
)

// Env is the surroundings of one running function.
type Env struct {
	Box  *sandbox.Box
	Host plans.HostCalls
	Info plans.RunInfo
	// Secrets opens a secret of the estate.
	Secrets func(ctx context.Context, name string) (string, error)
	HTTP    interface {
		Do(*http.Request) (*http.Response, error)
	}
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Handle makes the value of Lua that a secret is.
	Handle func(Secret) lua.LValue

	opened []string // values of opened secrets, never shown
	notes  int
	told   bool
}

// Told reports whether the function was told anything from outside, which may
// be something else the next time.
func (e *Env) Told() bool { return e.told }

// MaxNotes is how many lines one function puts on the timeline: each of them is
// a record that is synced to the disk.
const MaxNotes = 1000

// Note puts a line on the run's timeline, without secrets; lines over MaxNotes
// are left out.
func (e *Env) Note(line string) {
	switch e.notes++; {
	case e.notes <= MaxNotes:
		e.Host.Note(e.Hide(line))
	case e.notes == MaxNotes+1:
		e.Host.Note(fmt.Sprintf("more than %d lines: the others are left out", MaxNotes))
	}
}

// Secret is the handle of a secret, the value behind secret "name", or a text
// with secrets in it: "Bearer " .. secret "token".
type Secret struct {
	Name  string // of the first secret, for messages
	parts []part
}

// part is a text as it stands, or the name of a secret.
type part struct{ text, name string }

const maxParts = 64

// NewSecret returns the handle of a secret of the estate.
func NewSecret(name string) Secret { return Secret{name, []part{{name: name}}} }

// Concat is a .. b, where at least one of them is a secret; false when the
// other is no text, or the text has too many parts.
func Concat(a, b lua.LValue) (Secret, bool) {
	var out Secret
	for _, v := range []lua.LValue{a, b} {
		switch s, ok := AsSecret(v); {
		case ok:
			if out.Name == "" {
				out.Name = s.Name
			}
			out.parts = append(out.parts, s.parts...)
		case IsText(v):
			out.parts = append(out.parts, part{text: v.String()})
		default:
			return Secret{}, false
		}
	}
	return out, len(out.parts) <= maxParts
}

// String is the text with *** for secrets.
func (s Secret) String() string {
	var b strings.Builder
	for _, p := range s.parts {
		if p.name != "" {
			b.WriteString(Hidden)
		}
		b.WriteString(p.text)
	}
	return b.String()
}

// Hidden is what stands for a secret wherever it is shown.
const Hidden = "***"

// AsSecret returns the handle that v is.
func AsSecret(v lua.LValue) (Secret, bool) {
	ud, ok := v.(*lua.LUserData)
	if !ok {
		return Secret{}, false
	}
	s, ok := ud.Value.(Secret)
	return s, ok
}

// spent is an error behind which the operation's key is of no use.
type spent struct{ error }

// Spent is err, behind which the next such call is to be done anew.
func Spent(err error) error { return spent{err} }

func (s spent) Unwrap() error { return s.error }

// KeyUse implements plans.KeyUser.
func (spent) KeyUse() plans.KeyUse { return plans.KeySpent }

// Op does an operation through the run's journal and decodes its result into
// out. An error of do becomes an error of Lua, which is journaled and comes
// again on resume; one whose outcome is unknown, a cancelled context, and every
// error of the journal end the function, and no pcall can swallow them.
func (e *Env) Op(L *lua.LState, name string, class plans.OpClass, args, out any, do func(ctx context.Context, key string) (any, error)) {
	rawArgs, err := json.Marshal(args)
	if err != nil {
		L.RaiseError("%s: %v", name, err)
	}
	var raw json.RawMessage
	e.Call(L, func() (err error) {
		raw, err = e.Host.Op(e.Box.Context(), name, class, rawArgs, func(ctx context.Context, key string) (json.RawMessage, error) {
			return e.outcome(ctx, key, do)
		})
		return err
	})
	var o plans.Outcome
	if err := json.Unmarshal(raw, &o); err != nil {
		err = fault.Errorf(fault.Corrupt, "cannot read the recorded result of %s: %w", name, err)
		e.Box.Fatal(err)
		L.RaiseError("%v", err)
	}
	if o.Failed != "" {
		e.Box.Raise(L, "%s: %s", name, o.Failed)
	}
	if out == nil || len(o.Value) == 0 {
		return
	}
	if err := json.Unmarshal(o.Value, out); err != nil {
		err = fault.Errorf(fault.Corrupt, "cannot read the recorded result of %s: %w", name, err)
		e.Box.Fatal(err)
		L.RaiseError("%v", err)
	}
}

// Call runs f outside of the code's limits; its error ends the function, and no
// pcall can swallow it.
func (e *Env) Call(L *lua.LState, f func() error) {
	var err error
	e.Box.Outside(func() { err = f() })
	e.told = true
	if err != nil {
		e.Box.Fatal(err)
		L.RaiseError("%v", err)
	}
}

func (e *Env) outcome(ctx context.Context, key string, do func(ctx context.Context, key string) (any, error)) (json.RawMessage, error) {
	v, err := do(ctx, key)
	switch {
	case err != nil && (ctx.Err() != nil || fault.Is(err, fault.Unknown)):
		if text := e.Hide(err.Error()); text != err.Error() { // it goes to the journal and to a screen
			hidden := error(fault.Errorf(fault.KindOf(err), "%s", text))
			if errors.As(err, new(spent)) {
				hidden = Spent(hidden)
			}
			err = hidden
		}
		return nil, err
	case err != nil:
		o := plans.Outcome{Failed: e.Hide(err.Error()), Key: plans.KeyOpen}
		if errors.As(err, new(spent)) {
			o.Key = plans.KeySpent
		}
		return json.Marshal(o)
	}
	raw, err := e.Shown(v)
	if err != nil {
		return nil, err
	}
	o := plans.Outcome{Value: raw}
	if u, ok := v.(plans.KeyUser); ok {
		o.Key = u.KeyUse()
	}
	return json.Marshal(o)
}

// Shown is v as JSON, without the values of opened secrets.
func (e *Env) Shown(v any) (json.RawMessage, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return e.hideIn(raw)
}

// hideIn replaces the values of opened secrets in the texts of a JSON value.
func (e *Env) hideIn(raw json.RawMessage) (json.RawMessage, error) {
	if len(e.opened) == 0 {
		return raw, nil
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var tree any
	if err := dec.Decode(&tree); err != nil {
		return nil, err
	}
	return json.Marshal(e.hideTree(tree))
}

func (e *Env) hideTree(v any) any {
	switch v := v.(type) {
	case string:
		return e.Hide(v)
	case []any:
		for i := range v {
			v[i] = e.hideTree(v[i])
		}
	case map[string]any:
		for k := range v { // the names of fields are no secrets
			v[k] = e.hideTree(v[k])
		}
	}
	return v
}

// Open returns the text that v is, which IsText: a secret is opened.
func (e *Env) Open(ctx context.Context, v lua.LValue) (string, error) {
	s, ok := AsSecret(v)
	if !ok {
		return v.String(), nil
	}
	if e.Secrets == nil {
		return "", fault.Errorf(fault.NotFound, "cannot open secret %q: there are no secrets here", s.Name)
	}
	var b strings.Builder
	for _, p := range s.parts {
		text := p.text
		if p.name != "" {
			var err error
			if text, err = e.Secrets(ctx, p.name); err != nil {
				return "", err
			}
			if len(text) >= 4 && !slices.Contains(e.opened, text) { // shorter ones would hide half of every text
				e.opened = append(e.opened, text)
				slices.SortFunc(e.opened, func(a, b string) int { return len(b) - len(a) }) // one may hold another
			}
		}
		b.WriteString(text)
	}
	return b.String(), nil
}

// IsText reports whether v has a text of its own: a string, a number or a
// secret. What other values print is different every time.
func IsText(v lua.LValue) bool {
	_, secret := AsSecret(v)
	return secret || v.Type() == lua.LTString || v.Type() == lua.LTNumber
}

// Shown returns the text of v for journals and messages: secrets are ***.
func Shown(v lua.LValue) string {
	if s, ok := AsSecret(v); ok {
		return s.String()
	}
	return v.String()
}

// Hide replaces the values of opened secrets in a text.
func (e *Env) Hide(s string) string {
	for _, o := range e.opened {
		s = strings.ReplaceAll(s, o, Hidden)
		if q, err := json.Marshal(o); err == nil {
			s = strings.ReplaceAll(s, strings.Trim(string(q), `"`), Hidden)
		}
	}
	return s
}

// Within reads a duration like "5s"; nil is the default.
func Within(L *lua.LState, v lua.LValue, def time.Duration) time.Duration {
	switch s := v.(type) {
	case *lua.LNilType:
		return def
	case lua.LString:
		d, err := quantity.ParseDuration(string(s))
		if err == nil && d > 0 {
			return d
		}
		if err == nil {
			err = errors.New("the duration is nothing")
		}
		L.RaiseError("%v", err)
	}
	L.RaiseError("want a duration like \"5s\", got a %s", v.Type())
	return 0
}

// Address replaces a machine's name in host:port by its address in this run.
func (e *Env) Address(hostport string) string {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return hostport
	}
	if m, ok := e.Info.Machines[host]; ok && m.IP != "" {
		return net.JoinHostPort(m.IP, port)
	}
	return hostport
}

// Answer makes the table that a function of a module returns. It has these
// fields and no others: a misspelt one is not nil.
func (e *Env) Answer(L *lua.LState, what string, fields map[string]lua.LValue) *lua.LTable {
	known := slices.Sorted(maps.Keys(fields))
	t, mt := L.NewTable(), L.NewTable()
	for _, k := range known {
		t.RawSetString(k, fields[k])
	}
	mt.RawSetString("__index", e.Box.Func(func(L *lua.LState) int {
		key := L.Get(2).String()
		e.Box.Wrong(L, "the answer of %s has no field %q%s", what, key, near(key, known))
		return 0
	}))
	mt.RawSetString("__metatable", lua.LString("protected"))
	L.SetMetatable(t, mt)
	return t
}

func near(name string, known []string) string {
	if s := plans.Nearest(name, known); s != "" {
		return fmt.Sprintf(", did you mean %q?", s)
	}
	return fmt.Sprintf(", it has %s", strings.Join(known, ", "))
}

// Options refuses keys of a table that are not options of the call: "http.get".
func Options(L *lua.LState, call string, t *lua.LTable) { Keys(L, call, t, registry.OptionsOf(call)) }

// Keys refuses keys of an options table that are not known.
func Keys(L *lua.LState, what string, t *lua.LTable, known []string) {
	sandbox.ForEach(t, func(k, _ lua.LValue) {
		s, ok := k.(lua.LString)
		if ok && slices.Contains(known, string(s)) {
			return
		}
		hint := ""
		if near := plans.Nearest(string(s), known); near != "" {
			hint = fmt.Sprintf(", did you mean %q?", near)
		}
		L.RaiseError("%s: unknown key %q%s", what, k, hint)
	})
}

// Outcome is the result of an operation that somebody else has done in the place
// of its module, as a simulated world does: a value, or an error that the
// function may handle.
func Outcome(v any, err error) (json.RawMessage, error) {
	if err != nil {
		return json.Marshal(plans.Outcome{Failed: err.Error(), Key: plans.KeyOpen})
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return json.Marshal(plans.Outcome{Value: raw})
}
