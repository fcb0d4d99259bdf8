package sandbox

import "errors"

// The pattern matcher of Lua 5.1, with a budget of steps. It follows the C
// implementation, so that patterns mean what the manual says.

const (
	maxCaptures   = 32
	maxMatchDepth = 200
	capUnfinished = -1
	capPosition   = -2
)

var errPattern = errors.New("the pattern takes too many steps")

// patternError is a malformed pattern.
type patternError string

func (e patternError) Error() string { return string(e) }

type capture struct{ start, len int }

// matcher matches one pattern against one text.
type matcher struct {
	src, pat string
	level    int
	caps     [maxCaptures]capture
	depth    int
	steps    *int        // left
	poll     func() bool // false: give up
}

func (m *matcher) step() {
	*m.steps--
	if *m.steps < 0 || *m.steps&0xffff == 0 && !m.poll() {
		panic(errPattern)
	}
}

// find looks for the pattern from init on. ok false: no match.
func (m *matcher) find(init int) (start, end int, ok bool) {
	p := 0
	anchor := len(m.pat) > 0 && m.pat[0] == '^'
	if anchor {
		p = 1
	}
	for s := init; s <= len(m.src); s++ {
		m.level, m.depth = 0, 0
		if e := m.match(s, p); e >= 0 {
			return s, e, true
		}
		if anchor {
			break
		}
	}
	return 0, 0, false
}

// match returns the end of a match of pat[p:] at src[s:], or -1.
func (m *matcher) match(s, p int) int {
	m.depth++
	defer func() { m.depth-- }()
	if m.depth > maxMatchDepth {
		panic(patternError("pattern too complex"))
	}
	for {
		m.step()
		if p >= len(m.pat) {
			return s
		}
		switch m.pat[p] {
		case '(':
			if p+1 < len(m.pat) && m.pat[p+1] == ')' {
				return m.startCapture(s, p+2, capPosition)
			}
			return m.startCapture(s, p+1, capUnfinished)
		case ')':
			return m.endCapture(s, p+1)
		case '$':
			if p+1 == len(m.pat) {
				if s == len(m.src) {
					return s
				}
				return -1
			}
		case '%':
			if p+1 >= len(m.pat) {
				panic(patternError("malformed pattern (ends with '%')"))
			}
			switch c := m.pat[p+1]; {
			case c == 'b':
				if s = m.balance(s, p+2); s < 0 {
					return -1
				}
				p += 4
				continue
			case c == 'f':
				np, ok := m.frontier(s, p+2)
				if !ok {
					return -1
				}
				p = np
				continue
			case c >= '0' && c <= '9':
				if s = m.back(s, c); s < 0 {
					return -1
				}
				p += 2
				continue
			}
		}
		ep := m.classEnd(p)
		next := byte(0)
		if ep < len(m.pat) {
			next = m.pat[ep]
		}
		switch next {
		case '?':
			if m.single(s, p, ep) {
				if e := m.match(s+1, ep+1); e >= 0 {
					return e
				}
			}
			p = ep + 1
		case '*':
			return m.most(s, p, ep, 0)
		case '+':
			return m.most(s, p, ep, 1)
		case '-':
			return m.least(s, p, ep)
		default:
			if !m.single(s, p, ep) {
				return -1
			}
			s, p = s+1, ep
		}
	}
}

func (m *matcher) classEnd(p int) int {
	c := m.pat[p]
	p++
	if c == '%' {
		if p >= len(m.pat) {
			panic(patternError("malformed pattern (ends with '%')"))
		}
		return p + 1
	}
	if c != '[' {
		return p
	}
	if p < len(m.pat) && m.pat[p] == '^' {
		p++
	}
	for first := true; ; first = false {
		if p >= len(m.pat) {
			panic(patternError("malformed pattern (missing ']')"))
		}
		c := m.pat[p]
		if c == ']' && !first {
			return p + 1
		}
		p++
		if c == '%' {
			if p >= len(m.pat) {
				panic(patternError("malformed pattern (missing ']')"))
			}
			p++
		}
	}
}

func (m *matcher) single(s, p, ep int) bool {
	m.step()
	if s >= len(m.src) {
		return false
	}
	c := m.src[s]
	switch m.pat[p] {
	case '.':
		return true
	case '%':
		return class(c, m.pat[p+1])
	case '[':
		return set(c, m.pat[p:ep])
	}
	return m.pat[p] == c
}

// set reports whether c is in a set, "[…]" with its brackets.
func set(c byte, pat string) bool {
	p, end, want := 1, len(pat)-1, true
	if pat[p] == '^' {
		p, want = p+1, false
	}
	for ; p < end; p++ {
		switch {
		case pat[p] == '%':
			p++
			if class(c, pat[p]) {
				return want
			}
		case p+2 < end && pat[p+1] == '-':
			if pat[p] <= c && c <= pat[p+2] {
				return want
			}
			p += 2
		case pat[p] == c:
			return want
		}
	}
	return !want
}

func class(c, cl byte) bool {
	var in bool
	letter := c|0x20 >= 'a' && c|0x20 <= 'z'
	digit := c >= '0' && c <= '9'
	switch cl | 0x20 {
	case 'a':
		in = letter
	case 'c':
		in = c < 0x20 || c == 0x7f
	case 'd':
		in = digit
	case 'l':
		in = c >= 'a' && c <= 'z'
	case 'p':
		in = c > 0x20 && c < 0x7f && !letter && !digit
	case 's':
		in = c == ' ' || c >= '\t' && c <= '\r'
	case 'u':
		in = c >= 'A' && c <= 'Z'
	case 'w':
		in = letter || digit
	case 'x':
		in = digit || c|0x20 >= 'a' && c|0x20 <= 'f'
	case 'z':
		in = c == 0
	default:
		return cl == c
	}
	if cl|0x20 == cl {
		return in
	}
	return !in
}

func (m *matcher) most(s, p, ep, least int) int {
	n := 0
	for m.single(s+n, p, ep) {
		n++
	}
	for ; n >= least; n-- {
		if e := m.match(s+n, ep+1); e >= 0 {
			return e
		}
	}
	return -1
}

func (m *matcher) least(s, p, ep int) int {
	for {
		if e := m.match(s, ep+1); e >= 0 {
			return e
		}
		if !m.single(s, p, ep) {
			return -1
		}
		s++
	}
}

func (m *matcher) startCapture(s, p, what int) int {
	if m.level >= maxCaptures {
		panic(patternError("too many captures"))
	}
	m.caps[m.level] = capture{s, what}
	m.level++
	e := m.match(s, p)
	if e < 0 {
		m.level--
	}
	return e
}

func (m *matcher) endCapture(s, p int) int {
	for l := m.level - 1; l >= 0; l-- {
		if m.caps[l].len == capUnfinished {
			m.caps[l].len = s - m.caps[l].start
			e := m.match(s, p)
			if e < 0 {
				m.caps[l].len = capUnfinished
			}
			return e
		}
	}
	panic(patternError("invalid pattern capture"))
}

func (m *matcher) balance(s, p int) int {
	if p+1 >= len(m.pat) {
		panic(patternError("unbalanced pattern"))
	}
	if s >= len(m.src) || m.src[s] != m.pat[p] {
		return -1
	}
	open, closing, depth := m.pat[p], m.pat[p+1], 1
	for i := s + 1; i < len(m.src); i++ {
		m.step()
		switch m.src[i] {
		case closing:
			if depth--; depth == 0 {
				return i + 1
			}
		case open:
			depth++
		}
	}
	return -1
}

func (m *matcher) frontier(s, p int) (int, bool) {
	if p >= len(m.pat) || m.pat[p] != '[' {
		panic(patternError("missing '[' after '%f' in pattern"))
	}
	ep := m.classEnd(p)
	at := func(i int) byte {
		if i < 0 || i >= len(m.src) {
			return 0
		}
		return m.src[i]
	}
	return ep, !set(at(s-1), m.pat[p:ep]) && set(at(s), m.pat[p:ep])
}

func (m *matcher) back(s int, c byte) int {
	l := int(c) - '1'
	if l < 0 || l >= m.level || m.caps[l].len == capUnfinished {
		panic(patternError("invalid capture index"))
	}
	n := max(0, m.caps[l].len)
	if len(m.src)-s >= n && m.src[m.caps[l].start:m.caps[l].start+n] == m.src[s:s+n] {
		return s + n
	}
	return -1
}
