package estate

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/diff"

	"github.com/drrun/drrun/plans"
)

// Line is a line of a plan's source that applying takes away or adds.
type Line struct {
	File  string `json:"file"`
	Line  int    `json:"line"` // as it is counted where the line stands: before, or after
	Added bool   `json:"added"`
	Text  string `json:"text"`
}

// diffSources lists what differs between two bundles, file by file.
func diffSources(old, next plans.Bundle) []Line {
	files := map[string]bool{}
	for _, b := range []plans.Bundle{old, next} {
		for name := range b.Files {
			files[name] = true
		}
	}
	var out []Line
	for _, name := range slices.Sorted(maps.Keys(files)) {
		out = append(out, diffLines(name, old.Files[name], next.Files[name])...)
	}
	return out
}

// diffLines lists the lines that turn a into b, as a unified diff has them. It
// makes nothing of an end without a newline.
func diffLines(file, a, b string) []Line {
	var out []Line
	was, is := 0, 0 // lines before the one that comes
	head := true
	for line := range strings.Lines(string(diff.Diff(file, ended(a), file, ended(b)))) {
		text := strings.TrimSuffix(line[1:], "\n")
		switch {
		case strings.HasPrefix(line, "@@ "):
			var wasCount, isCount int
			if _, err := fmt.Sscanf(line, "@@ -%d,%d +%d,%d @@", &was, &wasCount, &is, &isCount); err != nil {
				panic(fmt.Sprintf("internal error: cannot read the difference of %s: %v", file, err))
			}
			was, is = was-min(wasCount, 1), is-min(isCount, 1) // a part of no lines has the number of the one before it
			head = false
		case head: // the names of the files
		case line[0] == '-':
			was++
			out = append(out, Line{File: file, Line: was, Text: text})
		case line[0] == '+':
			is++
			out = append(out, Line{File: file, Line: is, Added: true, Text: text})
		default:
			was, is = was+1, is+1
		}
	}
	return out
}

func ended(text string) []byte {
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return []byte(text)
}
