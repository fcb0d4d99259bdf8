// Package re is the Lua module drrun.re: regular expressions of RE2, which take
// time in proportion to the text whatever the pattern is. It touches nothing
// outside of the state.
package re

import (
	"regexp"
	"regexp/syntax"

	lua "github.com/yuin/gopher-lua"

	"github.com/drrun/drrun/scripts/hostcall"
)

// Limits: a search cannot be interrupted, so its work is bounded beforehand.
const (
	maxPattern = 4 << 10   // bytes
	maxText    = 1 << 20   // bytes
	maxWork    = 500 << 20 // instructions of the pattern × bytes of the text: some seconds
	maxParts   = 100_000   // pieces of a split, matches of a replacement
)

// Open returns the functions of the module.
func Open(e *hostcall.Env) map[string]lua.LGFunction {
	return map[string]lua.LGFunction{
		"match":   func(L *lua.LState) int { return match(e, L) },
		"find":    find,
		"replace": func(L *lua.LState) int { return replace(e, L) },
		"split":   func(L *lua.LState) int { return split(e, L) },
		"escape": func(L *lua.LState) int {
			s := L.CheckString(1)
			e.Box.Made(L, 2*len(s))
			L.Push(lua.LString(regexp.QuoteMeta(s)))
			return 1
		},
	}
}

// compile reads the pattern, the first argument, and the text, the second.
func compile(L *lua.LState, what string) (*regexp.Regexp, string) {
	pattern, text := L.CheckString(1), L.CheckString(2)
	if len(pattern) > maxPattern || len(text) > maxText {
		L.RaiseError("re.%s: a pattern has at most %d bytes, a text %d", what, maxPattern, maxText)
	}
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		L.RaiseError("re.%s: %v", what, err)
	}
	prog, err := syntax.Compile(tree.Simplify())
	if err != nil {
		L.RaiseError("re.%s: %v", what, err)
	}
	if len(prog.Inst)*len(text) > maxWork {
		L.RaiseError("re.%s: the pattern is too large for a text of %d bytes", what, len(text))
	}
	r, err := regexp.Compile(pattern)
	if err != nil {
		L.RaiseError("re.%s: %v", what, err)
	}
	return r, text
}

// match pushes the captures of the first match: the whole under 0, the groups
// by number and by name; nil when there is none. A group that took no part is
// not there.
func match(e *hostcall.Env, L *lua.LState) int {
	r, text := compile(L, "match")
	m := r.FindStringSubmatchIndex(text)
	if m == nil {
		L.Push(lua.LNil)
		return 1
	}
	out := L.NewTable()
	for i, name := range r.SubexpNames() {
		if m[2*i] < 0 {
			continue
		}
		part := text[m[2*i]:m[2*i+1]]
		e.Box.Made(L, len(part))
		out.RawSetInt(i, lua.LString(part))
		if name != "" {
			out.RawSetString(name, lua.LString(part))
		}
	}
	L.Push(out)
	return 1
}

// find pushes where the first match begins and ends, counted from 1 as
// string.find does; nil when there is none.
func find(L *lua.LState) int {
	r, text := compile(L, "find")
	m := r.FindStringIndex(text)
	if m == nil {
		L.Push(lua.LNil)
		return 1
	}
	L.Push(lua.LNumber(m[0] + 1))
	L.Push(lua.LNumber(m[1]))
	return 2
}

// replace pushes the text with every match replaced; $1 and ${name} stand for
// groups, $$ for a dollar.
func replace(e *hostcall.Env, L *lua.LState) int {
	r, text := compile(L, "replace")
	with := L.CheckString(3)
	all := r.FindAllStringSubmatchIndex(text, maxParts+1)
	if len(all) > maxParts {
		L.RaiseError("re.replace: more than %d matches", maxParts)
	}
	var out []byte
	last := 0
	for _, m := range all {
		before := len(out)
		// A replacement names a group once in two of its bytes at the most.
		e.Box.Made(L, m[0]-last+len(with)/2*(m[1]-m[0]))
		out = append(out, text[last:m[0]]...)
		out = r.ExpandString(out, with, text, m)
		last = m[1]
		e.Box.Made(L, len(out)-before)
	}
	e.Box.Made(L, len(out)+len(text)-last)
	L.Push(lua.LString(string(out) + text[last:]))
	return 1
}

func split(e *hostcall.Env, L *lua.LState) int {
	r, text := compile(L, "split")
	parts := r.Split(text, maxParts+1)
	if len(parts) > maxParts {
		L.RaiseError("re.split: more than %d pieces", maxParts)
	}
	e.Box.Made(L, len(text)+16*len(parts))
	out := L.CreateTable(len(parts), 0)
	for _, p := range parts {
		out.Append(lua.LString(p))
	}
	L.Push(out)
	return 1
}
