package syntax

import "strings"

// tokenKind is the sort of a token, as far as messages need it.
type tokenKind uint8

const (
	tokName tokenKind = iota
	tokKeyword
	tokNumber
	tokString
	tokOp
	tokBroken // an unfinished string or comment: the last token
)

// token is a word of the source.
type token struct {
	kind tokenKind
	text string
	line int // where it begins
	end  int // line where it ends
}

var keywords = map[string]bool{
	"and": true, "break": true, "do": true, "else": true, "elseif": true, "end": true, "false": true, "for": true,
	"function": true, "goto": true, "if": true, "in": true, "local": true, "nil": true, "not": true, "or": true,
	"repeat": true, "return": true, "then": true, "true": true, "until": true, "while": true,
}

// lexer splits Lua source into tokens. It never fails: what it cannot read is
// one tokBroken at the end.
type lexer struct {
	src  string
	pos  int
	line int
	toks []token
}

func tokenize(src string) []token {
	x := &lexer{src: src, line: 1}
	if strings.HasPrefix(src, "#") {
		x.skipLine()
	}
	for x.pos < len(src) && x.next() {
	}
	return x.toks
}

func (x *lexer) emit(k tokenKind, from, line int) {
	x.toks = append(x.toks, token{k, x.src[from:x.pos], line, x.line})
}

func (x *lexer) skipLine() {
	for x.pos < len(x.src) && x.src[x.pos] != '\n' {
		x.pos++
	}
}

// next reads one token or space; false when the source cannot be read further.
func (x *lexer) next() bool {
	c, from, line := x.src[x.pos], x.pos, x.line
	switch {
	case c == '\n':
		x.line++
		x.pos++
	case c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v':
		x.pos++
	case strings.HasPrefix(x.src[x.pos:], "--"):
		return x.comment()
	case isLetter(c):
		for x.pos < len(x.src) && (isLetter(x.src[x.pos]) || isDigit(x.src[x.pos])) {
			x.pos++
		}
		kind := tokName
		if keywords[x.src[from:x.pos]] {
			kind = tokKeyword
		}
		x.emit(kind, from, line)
	case isDigit(c) || c == '.' && x.pos+1 < len(x.src) && isDigit(x.src[x.pos+1]):
		x.number()
		x.emit(tokNumber, from, line)
	case c == '"' || c == '\'':
		return x.quoted(c, from, line)
	case c == '[' && x.longLevel() >= 0:
		ok := x.long()
		x.emit(map[bool]tokenKind{true: tokString, false: tokBroken}[ok], from, line)
		return ok
	default:
		x.operator()
		x.emit(tokOp, from, line)
	}
	return true
}

func isLetter(c byte) bool { return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
func isDigit(c byte) bool  { return c >= '0' && c <= '9' }

func (x *lexer) comment() bool {
	from, line := x.pos, x.line
	x.pos += 2
	if x.pos < len(x.src) && x.src[x.pos] == '[' && x.longLevel() >= 0 {
		if !x.long() {
			x.emit(tokBroken, from, line)
			return false
		}
		return true
	}
	x.skipLine()
	return true
}

func (x *lexer) number() {
	for x.pos < len(x.src) {
		c := x.src[x.pos]
		sign := (c == '+' || c == '-') && (x.src[x.pos-1] == 'e' || x.src[x.pos-1] == 'E')
		if !isLetter(c) && !isDigit(c) && c != '.' && !sign {
			return
		}
		if c == '.' && x.pos+1 < len(x.src) && x.src[x.pos+1] == '.' {
			return
		}
		x.pos++
	}
}

func (x *lexer) quoted(q byte, from, line int) bool {
	for x.pos++; x.pos < len(x.src); x.pos++ {
		switch x.src[x.pos] {
		case q:
			x.pos++
			x.emit(tokString, from, line)
			return true
		case '\\':
			x.pos++
			if x.pos < len(x.src) && x.src[x.pos] == '\n' {
				x.line++
			}
		case '\n':
			x.emit(tokBroken, from, line)
			return false
		}
	}
	x.pos = len(x.src)
	x.emit(tokBroken, from, line)
	return false
}

// longLevel is the number of = of a long bracket that opens here, or -1.
func (x *lexer) longLevel() int {
	n := 0
	for i := x.pos + 1; i < len(x.src); i++ {
		switch x.src[i] {
		case '=':
			n++
		case '[':
			return n
		default:
			return -1
		}
	}
	return -1
}

func (x *lexer) long() bool {
	closing := "]" + strings.Repeat("=", x.longLevel()) + "]"
	i := strings.Index(x.src[x.pos:], closing)
	if i < 0 {
		x.line += strings.Count(x.src[x.pos:], "\n")
		x.pos = len(x.src)
		return false
	}
	x.line += strings.Count(x.src[x.pos:x.pos+i], "\n")
	x.pos += i + len(closing)
	return true
}

func (x *lexer) operator() {
	for _, op := range []string{"...", "..", "==", "~=", "<=", ">=", "::"} {
		if strings.HasPrefix(x.src[x.pos:], op) {
			x.pos += len(op)
			return
		}
	}
	x.pos++
}

// braceEnds returns the line of the closing brace for every opening one, in
// the order in which they open.
func braceEnds(toks []token) []int {
	var ends, open []int
	for _, t := range toks {
		switch {
		case t.kind == tokOp && t.text == "{":
			open = append(open, len(ends))
			ends = append(ends, t.line)
		case t.kind == tokOp && t.text == "}" && len(open) > 0:
			ends[open[len(open)-1]] = t.line
			open = open[:len(open)-1]
		}
	}
	return ends
}
