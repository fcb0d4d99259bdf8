package syntax

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/yuin/gopher-lua/parse"

	"github.com/drrun/drrun/plans"
)

var closers = map[string]string{"}": "{", ")": "(", "]": "["}

// explain turns a syntax error into words, with the line where what is still
// open began.
func explain(name string, toks []token, err error) plans.Fault {
	pos := plans.Pos{File: name, Line: 1}
	if n := len(toks); n > 0 {
		pos.Line = toks[n-1].end
	}
	var pe *parse.Error
	if !errors.As(err, &pe) {
		return plans.Fault{Pos: pos, Message: "syntax: " + err.Error()}
	}
	if n := len(toks); n > 0 && toks[n-1].kind == tokBroken {
		return broken(name, toks[n-1])
	}
	at := len(toks) // index of the token that does not fit
	if pe.Pos.Line > 0 {
		pos.Line = pe.Pos.Line
		at = find(toks, pe.Pos.Line, pe.Token)
	}
	if s, ok := firstSlip(toks, pos.Line); ok {
		pos.Line = toks[s.at].line
		return plans.Fault{Pos: pos, Message: fmt.Sprintf("syntax: unexpected %q%s: %s", text(toks, s.at), inside(openAt(toks, s.at)), s.hint)}
	}
	open := openAt(toks, at)
	if at >= len(toks) {
		return plans.Fault{Pos: pos, Message: "syntax: " + unclosed(toks, open)}
	}
	pos.Line = toks[at].line
	return plans.Fault{Pos: pos, Message: "syntax: " + misfit(toks, at, open, pe)}
}

func broken(name string, t token) plans.Fault {
	what := "the string that begins here has no closing quote"
	switch {
	case strings.HasPrefix(t.text, "--"):
		what = "the comment that begins here is never closed"
	case strings.HasPrefix(t.text, "["):
		what = "the long string that begins here is never closed"
	}
	return plans.Fault{Pos: plans.Pos{File: name, Line: t.line}, Message: "syntax: " + what}
}

// find returns the index of the token at which the parser stopped: on that
// line, the one with its text; the text of a string is what is in it.
func find(toks []token, line int, text string) int {
	best := len(toks)
	for i, t := range toks {
		if t.end < line || t.line > line {
			continue
		}
		best = i
		if t.text == text || t.kind == tokString && strings.Contains(t.text, text) {
			// The parser stops at the first misfit; the same text may stand
			// on the line before it, where it fits.
			if i > 0 && misfits(toks, i) {
				return i
			}
		}
	}
	for i := best; i >= 0 && best < len(toks) && toks[i].end >= line; i-- {
		if toks[i].text == text {
			return i
		}
	}
	return best
}

// misfits reports whether token i cannot follow the one before it as part of
// one expression.
func misfits(toks []token, i int) bool {
	return ends(toks[i-1]) && begins(toks[i]) || closers[toks[i].text] != ""
}

// ends reports whether an expression can end with t.
func ends(t token) bool {
	switch t.kind {
	case tokName, tokNumber, tokString:
		return true
	case tokKeyword:
		return t.text == "end" || t.text == "nil" || t.text == "true" || t.text == "false"
	}
	return t.text == "}" || t.text == ")" || t.text == "]" || t.text == "..."
}

// begins reports whether an expression can begin with t.
func begins(t token) bool {
	switch t.kind {
	case tokName, tokNumber, tokString:
		return true
	case tokKeyword:
		return t.text == "function" || t.text == "nil" || t.text == "true" || t.text == "false" || t.text == "not"
	}
	return t.text == "{"
}

// openAt returns the brackets and blocks that are open before token at.
func openAt(toks []token, at int) []token {
	var open []token
	pop := func(want ...string) {
		if n := len(open); n > 0 {
			for _, w := range want {
				if open[n-1].text == w {
					open = open[:n-1]
					return
				}
			}
		}
	}
	for _, t := range toks[:min(at, len(toks))] {
		if t.kind != tokOp && t.kind != tokKeyword {
			continue
		}
		switch t.text {
		case "{", "(", "[", "function", "if", "do", "repeat":
			open = append(open, t)
		case "for", "while": // their do is the one that counts
		case "}", ")", "]":
			pop(closers[t.text])
		case "end":
			pop("function", "if", "do")
		case "until":
			pop("repeat")
		}
	}
	return open
}

// text is the token at i; a letter that is no ASCII is many of them.
func text(toks []token, i int) string {
	s := toks[i].text
	for i++; s[0] >= utf8.RuneSelf && i < len(toks) && !utf8.ValidString(s); i++ {
		s += toks[i].text
	}
	return s
}

// inside names what is open.
func inside(open []token) string {
	if len(open) == 0 {
		return ""
	}
	t := open[len(open)-1]
	return fmt.Sprintf(" inside the %q of line %d", t.text, t.line)
}

func unclosed(toks, open []token) string {
	if len(open) == 0 {
		return "the file ends too early"
	}
	t := open[len(open)-1]
	if t.kind == tokKeyword {
		return fmt.Sprintf("%q in line %d has no end%s", t.text, t.line, elseIf(toks, t))
	}
	return fmt.Sprintf("the %q opened in line %d is never closed", t.text, t.line)
}

// misfit says why token at does not fit.
func misfit(toks []token, at int, open []token, pe *parse.Error) string {
	t := toks[at]
	if strings.Contains(pe.Message, "ambiguous") {
		return `a "(" at the start of a line goes on with the line before it; put a ; or a comma between them`
	}
	inner := token{}
	if len(open) > 0 {
		inner = open[len(open)-1]
	}
	if at > 0 && (inner.text == "{" || inner.text == "(") && ends(toks[at-1]) && begins(t) {
		return fmt.Sprintf("missing comma after the item that ends at line %d (the %q was opened in line %d)%s",
			toks[at-1].end, inner.text, inner.line, missing(toks, at))
	}
	if want := closers[t.text]; want != "" || t.text == "end" {
		if inner.text == "" {
			return fmt.Sprintf("%q closes nothing", t.text)
		}
		if inner.text != want {
			return fmt.Sprintf("%q comes while the %q of line %d is still open", t.text, inner.text, inner.line)
		}
	}
	if t.text == "=" && inner.text != "{" {
		return "unexpected \"=\" (to compare, write ==)"
	}
	return fmt.Sprintf("unexpected %q%s", text(toks, at), inside(open))
}
