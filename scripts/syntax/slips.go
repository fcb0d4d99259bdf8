package syntax

import (
	"fmt"
	"regexp"
	"strings"
)

// slip is what people write who know another language, and Lua never takes.
type slip struct {
	at   int // index of the token that is wrong
	hint string
}

// written are two signs in a row that are something in other languages.
var written = map[string]string{
	"//":  "a comment begins with --",
	"!=":  "not equal is written ~=",
	"&&":  "write and",
	"||":  "write or",
	"++":  "write n = n + 1",
	"+=":  "write n = n + …",
	"-=":  "write n = n - …",
	"*=":  "write n = n * …",
	"/=":  "write n = n / …",
	"!==": "not equal is written ~=",
	"=>":  "a function is written function(run) … end",
	"=[":  "a list is written { … }",
	"([":  "a list is written { … }",
}

// declares are words that begin a declaration elsewhere.
var declares = map[string]string{
	"var": "a name is declared by local", "let": "a name is declared by local", "const": "a name is declared by local",
	"def": "a function is written function name(…) … end", "func": "a function is written function name(…) … end", "fn": "a function is written function name(…) … end",
	"import": `a module is loaded by require: local http = require "drrun.http"`,
}

// unit is a number with a unit, which the parser splits.
var unit = regexp.MustCompile(`^[0-9.]+(ms|s|m|h|d|w|[KMGTkmgt]i?[Bb]?(it/s)?|B)$`)

// firstSlip finds the first of them in the tokens up to the line in which the
// parser stopped.
func firstSlip(toks []token, line int) (slip, bool) {
	for i := 1; i < len(toks) && toks[i].line <= line; i++ {
		before, t := toks[i-1], toks[i]
		next := token{}
		if i+1 < len(toks) {
			next = toks[i+1]
		}
		pair := before.text + t.text
		signs := before.kind == tokOp && t.kind == tokOp && before.end == t.line
		if hint, ok := written[pair]; ok && signs {
			if t.text == "[" {
				return slip{i, hint}, true
			}
			return slip{i - 1, hint}, true
		}
		switch {
		case before.text == "!" && before.kind == tokOp:
			return slip{i - 1, "write not"}, true
		case strings.HasPrefix(before.text, "\xe2") && before.kind == tokOp && t.text == "\x80":
			return slip{i - 1, `a string stands in plain quotes: "…"`}, true
		case t.text == ":" && t.kind == tokOp && (before.kind == tokName && isValue(next) || before.kind == tokString):
			return slip{i, fmt.Sprintf("a key and its value are written %s = …", strings.Trim(before.text, `"'`))}, true
		case t.text == "=" && t.kind == tokOp && before.kind == tokString && i > 1 && toks[i-2].kind == tokName:
			return slip{i, fmt.Sprintf("between the name and the body stands nothing: %s %s { … }", toks[i-2].text, before.text)}, true
		case t.text == "=" && t.kind == tokOp && before.kind == tokString:
			return slip{i, fmt.Sprintf("a key stands without quotes: %s = …", strings.Trim(before.text, `"'`))}, true
		case t.kind == tokNumber && unit.MatchString(t.text):
			return slip{i, fmt.Sprintf("durations, sizes and rates are strings: %q", t.text)}, true
		case i > 2 && t.text == "=" && before.kind == tokName && toks[i-2].text == "-" && toks[i-3].kind == tokName:
			return slip{i - 2, fmt.Sprintf("names have _ and no -: %s_%s", toks[i-3].text, before.text)}, true
		case t.text == "{" && before.text == ")" && ofFunction(toks, i-1):
			return slip{i, "the body of a function has no braces: function(run) … end"}, true
		case before.kind == tokName && t.kind == tokName && before.end == t.line && declares[before.text] != "" && (i == 1 || !isSign(toks[i-2])):
			return slip{i - 1, declares[before.text]}, true
		}
	}
	return slip{}, false
}

func isSign(t token) bool { return t.kind == tokOp && !strings.Contains("})]", t.text) }

// isValue reports whether a value that is no name is written with t.
func isValue(t token) bool {
	switch t.kind {
	case tokString, tokNumber:
		return true
	case tokKeyword:
		return t.text == "true" || t.text == "false" || t.text == "nil" || t.text == "function"
	}
	return t.text == "{"
}

// ofFunction reports whether the parenthesis at i closes the parameters of a
// function.
func ofFunction(toks []token, i int) bool {
	for i--; i >= 0 && (toks[i].kind == tokName || toks[i].text == "," || toks[i].text == "..."); i-- {
	}
	for i--; i >= 0 && (toks[i].kind == tokName || toks[i].text == "." || toks[i].text == ":"); i-- {
	}
	return i >= 0 && toks[i].text == "function"
}

// missing is a hint where two items stand side by side without a comma.
func missing(toks []token, at int) string {
	before, t := toks[at-1], toks[at]
	if before.kind == tokName && t.kind == tokName && before.end == t.line {
		return fmt.Sprintf("; or is it a name? then write %s %q", before.text, t.text)
	}
	for i := at - 1; i > 0 && toks[i].line == before.line; i-- {
		if toks[i].text == "#" && (toks[i-1].text == "," || toks[i-1].text == "{" || toks[i-1].line < toks[i].line) {
			return "; a comment begins with --"
		}
	}
	return ""
}

// elseIf is a hint where a block has no end.
func elseIf(toks []token, open token) string {
	for i := 1; i < len(toks); i++ {
		if toks[i-1].text == "else" && toks[i].text == "if" && (toks[i].line == open.line || open.text == "function") {
			return " (elseif is one word)"
		}
	}
	return ""
}
