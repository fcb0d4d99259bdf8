package sandbox

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	lua "github.com/yuin/gopher-lua"
)

// strings replaces what can run long or grow large in the string library.
func (b *Box) strings(str *lua.LTable) {
	for _, name := range []string{"dump", "gfind", "__index"} {
		str.RawSetString(name, lua.LNil)
	}
	set := func(name string, fn lua.LGFunction) { str.RawSetString(name, b.L.NewFunction(fn)) }
	set("rep", b.rep)
	set("find", func(L *lua.LState) int { return b.find(L, true) })
	set("match", func(L *lua.LState) int { return b.find(L, false) })
	set("gmatch", b.gmatch)
	set("gsub", b.gsub)
	set("format", b.format)
	for name, fn := range map[string]func(string) string{"lower": strings.ToLower, "upper": strings.ToUpper, "reverse": reverse} {
		set(name, func(L *lua.LState) int {
			s := L.CheckString(1)
			b.Made(L, len(s))
			L.Push(lua.LString(fn(s)))
			return 1
		})
	}
	for name, most := range map[string]int{"byte": 8000, "char": 8000} {
		orig, _ := str.RawGetString(name).(*lua.LFunction)
		set(name, func(L *lua.LState) int {
			if L.GetTop() > most || name == "byte" && L.GetTop() > 2 && len(L.CheckString(1)) > most {
				L.RaiseError("string.%s: more than %d values", name, most)
			}
			return orig.GFunction(L)
		})
	}
}

func reverse(s string) string {
	out := make([]byte, len(s))
	for i := range len(s) {
		out[len(s)-1-i] = s[i]
	}
	return string(out)
}

func (b *Box) rep(L *lua.LState) int {
	s, n := L.CheckString(1), L.CheckNumber(2)
	if n <= 0 || s == "" || n != n {
		L.Push(lua.LString(""))
		return 1
	}
	if float64(n)*float64(len(s)) > float64(b.limits.Text) {
		b.Made(L, b.limits.Text+1)
	}
	b.Made(L, int(n)*len(s))
	L.Push(lua.LString(strings.Repeat(s, int(n))))
	return 1
}

func (b *Box) matcher(src, pat string) *matcher {
	steps := b.limits.Steps
	return &matcher{src: src, pat: pat, steps: &steps, poll: func() bool { return b.ctx.Err() == nil }}
}

// try runs a match and raises its errors as errors of the script.
func (b *Box) try(L *lua.LState, f func()) {
	var err error
	func() {
		defer func() {
			if r := recover(); r != nil {
				var pe patternError
				e, ok := r.(error)
				if !ok || !errors.As(e, &pe) && !errors.Is(e, errPattern) {
					panic(r)
				}
				err = e
			}
		}()
		f()
	}()
	if err != nil {
		L.RaiseError("%v", err)
	}
}

// value is capture i of a match; the whole match when the pattern has none.
func (m *matcher) value(L *lua.LState, i, start, end int) lua.LValue {
	if i >= m.level {
		if i == 0 {
			return lua.LString(m.src[start:end])
		}
		L.RaiseError("invalid capture index")
	}
	c := m.caps[i]
	switch c.len {
	case capPosition:
		return lua.LNumber(c.start + 1)
	case capUnfinished:
		L.RaiseError("unfinished capture")
	}
	return lua.LString(m.src[c.start : c.start+c.len])
}

func (m *matcher) push(L *lua.LState, start, end int, whole bool) int {
	n := m.level
	if n == 0 && whole {
		n = 1
	}
	for i := range n {
		L.Push(m.value(L, i, start, end))
	}
	return n
}

func from(s string, i int) int {
	if i < 0 {
		i = max(0, len(s)+i)
	} else if i > 0 {
		i--
	}
	return i
}

func (b *Box) find(L *lua.LState, positions bool) int {
	s, pat := L.CheckString(1), L.CheckString(2)
	init := min(from(s, L.OptInt(3, 1)), len(s))
	if positions && (lua.LVAsBool(L.Get(4)) || !strings.ContainsAny(pat, "^$*+?.([%-")) {
		i := strings.Index(s[init:], pat)
		if i < 0 {
			L.Push(lua.LNil)
			return 1
		}
		L.Push(lua.LNumber(init + i + 1))
		L.Push(lua.LNumber(init + i + len(pat)))
		return 2
	}
	m := b.matcher(s, pat)
	var start, end int
	var ok bool
	b.try(L, func() { start, end, ok = m.find(init) })
	if !ok {
		L.Push(lua.LNil)
		return 1
	}
	if !positions {
		return m.push(L, start, end, true)
	}
	L.Push(lua.LNumber(start + 1))
	L.Push(lua.LNumber(end))
	return 2 + m.push(L, start, end, false)
}

func (b *Box) gmatch(L *lua.LState) int {
	m := b.matcher(L.CheckString(1), L.CheckString(2))
	pos := 0
	L.Push(b.Func(func(L *lua.LState) int {
		var start, end int
		var ok bool
		b.try(L, func() {
			for s := pos; s <= len(m.src) && !ok; s++ {
				m.level, m.depth = 0, 0
				if e := m.match(s, 0); e >= 0 {
					start, end, ok = s, e, true
				}
			}
		})
		if !ok {
			return 0
		}
		pos = end
		if end == start {
			pos++
		}
		return m.push(L, start, end, true)
	}))
	return 1
}

func (b *Box) gsub(L *lua.LState) int {
	src, pat := L.CheckString(1), L.CheckString(2)
	repl := L.Get(3)
	switch repl.Type() {
	case lua.LTString, lua.LTNumber, lua.LTTable, lua.LTFunction:
	default:
		L.ArgError(3, "string/function/table expected")
	}
	most := L.OptInt(4, len(src)+1)
	anchor := strings.HasPrefix(pat, "^")
	m := b.matcher(src, pat)
	p := 0
	if anchor {
		p = 1
	}
	var out strings.Builder
	n, s := 0, 0
	for n < most {
		m.level, m.depth = 0, 0
		e := -1
		b.try(L, func() { e = m.match(s, p) })
		if e >= 0 {
			n++
			out.WriteString(b.replacement(L, m, repl, s, e))
		}
		switch {
		case e > s:
			s = e
		case s < len(src):
			out.WriteByte(src[s])
			s++
		default:
			most = n
		}
		if out.Len() > b.limits.Text {
			b.Made(L, out.Len())
		}
		if anchor {
			break
		}
	}
	if s < len(src) {
		out.WriteString(src[s:])
	}
	b.Made(L, out.Len())
	L.Push(lua.LString(out.String()))
	L.Push(lua.LNumber(n))
	return 2
}

func (b *Box) replacement(L *lua.LState, m *matcher, repl lua.LValue, s, e int) string {
	var v lua.LValue
	switch r := repl.(type) {
	case *lua.LTable:
		v = L.GetTable(r, m.value(L, 0, s, e))
	case *lua.LFunction:
		level, caps := m.level, m.caps
		L.Push(r)
		n := m.push(L, s, e, true)
		L.Call(n, 1)
		v = L.Get(-1)
		L.Pop(1)
		m.level, m.caps = level, caps
	default:
		return b.expand(L, m, repl.String(), s, e)
	}
	if lua.LVIsFalse(v) {
		return m.src[s:e]
	}
	if !textual(v) {
		L.RaiseError("invalid replacement value (a %s)", v.Type())
	}
	return v.String()
}

// expand puts captures into a replacement text; its growth is limited as any
// string's.
func (b *Box) expand(L *lua.LState, m *matcher, text string, s, e int) string {
	if !strings.Contains(text, "%") {
		return text
	}
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '%' || i+1 == len(text) {
			out.WriteByte(text[i])
			continue
		}
		i++
		switch c := text[i]; {
		case c == '0':
			out.WriteString(m.src[s:e])
		case c >= '1' && c <= '9':
			out.WriteString(m.value(L, int(c-'1'), s, e).String())
		default:
			out.WriteByte(c)
		}
		if out.Len() > b.limits.Text {
			b.Made(L, out.Len())
		}
	}
	return out.String()
}

// format is string.format of Lua 5.1; a width or precision has two digits at
// most, as there.
func (b *Box) format(L *lua.LState) int {
	f := L.CheckString(1)
	var out strings.Builder
	arg := 1
	for i := 0; i < len(f); i++ {
		if f[i] != '%' {
			out.WriteByte(f[i])
			continue
		}
		i++
		if i < len(f) && f[i] == '%' {
			out.WriteByte('%')
			continue
		}
		spec, verb, next := spec(L, f, i)
		i = next
		arg++
		out.WriteString(b.formatOne(L, spec, verb, arg))
		if out.Len() > b.limits.Text {
			break // Made refuses it
		}
	}
	b.Made(L, out.Len())
	L.Push(lua.LString(out.String()))
	return 1
}

// spec reads flags, width and precision from i on; next is the verb's index.
func spec(L *lua.LState, f string, i int) (text string, verb byte, next int) {
	begin := i
	for i < len(f) && strings.IndexByte("-+ #0", f[i]) >= 0 {
		i++
	}
	flags := i - begin
	digits := func() int {
		n := 0
		for i < len(f) && isDigit(f[i]) {
			i, n = i+1, n+1
		}
		return n
	}
	width, precision := digits(), 0
	if i < len(f) && f[i] == '.' {
		i++
		precision = digits()
	}
	if flags > 5 || width > 2 || precision > 2 || i >= len(f) {
		L.RaiseError("invalid format (width or precision too long, or the verb is missing)")
	}
	return "%" + f[begin:i], f[i], i
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func (b *Box) formatOne(L *lua.LState, spec string, verb byte, arg int) string {
	switch verb {
	case 'd', 'i':
		return fmt.Sprintf(spec+"d", whole(L, arg))
	case 'u', 'o', 'x', 'X':
		v := uint64(whole(L, arg)) //nolint:gosec // two's complement, as in C
		return fmt.Sprintf(spec+strings.Replace(string(verb), "u", "d", 1), v)
	case 'c':
		return fmt.Sprintf(spec+"s", string([]byte{byte(whole(L, arg))}))
	case 'e', 'E', 'f', 'g', 'G':
		return fmt.Sprintf(spec+string(verb), float64(L.CheckNumber(arg)))
	case 's':
		return fmt.Sprintf(spec+"s", b.Text(L, L.CheckAny(arg)))
	case 'q':
		return strconv.Quote(L.CheckString(arg))
	}
	L.RaiseError("invalid option '%%%c' to 'format'", verb)
	return ""
}

func whole(L *lua.LState, arg int) int64 {
	f := float64(L.CheckNumber(arg))
	if math.IsNaN(f) || f > math.MaxInt64/2 || f < math.MinInt64/2 {
		L.ArgError(arg, "number has no integer representation")
	}
	return int64(f)
}
