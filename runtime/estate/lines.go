package estate

import (
	"maps"
	"slices"
	"strings"

	"github.com/drrun/drrun/plans"
)

// Line is a line of a plan's source that applying takes away or adds.
type Line struct {
	File  string `json:"file"`
	Line  int    `json:"line"` // as it is counted where the line stands: before, or after
	Added bool   `json:"added"`
	Text  string `json:"text"`
}

// mostCells bounds the table of a comparison; parts of files that differ in
// more lines are shown as replaced whole.
const mostCells = 4_000_000

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
		out = append(out, diffLines(name, split(old.Files[name]), split(next.Files[name]))...)
	}
	return out
}

func split(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

// diffLines lists the lines that turn a into b, by their longest common
// subsequence.
func diffLines(file string, a, b []string) []Line {
	begin := 0
	for begin < len(a) && begin < len(b) && a[begin] == b[begin] {
		begin++
	}
	end := 0
	for end < len(a)-begin && end < len(b)-begin && a[len(a)-1-end] == b[len(b)-1-end] {
		end++
	}
	a, b = a[begin:len(a)-end], b[begin:len(b)-end]
	wide := len(b) + 1
	var common []int // [i*wide+j]: how many lines of a[i:] and b[j:] are the same
	if len(a)*len(b) <= mostCells {
		common = make([]int, (len(a)+1)*wide)
		for i := len(a) - 1; i >= 0; i-- {
			for j := len(b) - 1; j >= 0; j-- {
				if a[i] == b[j] {
					common[i*wide+j] = common[(i+1)*wide+j+1] + 1
				} else {
					common[i*wide+j] = max(common[(i+1)*wide+j], common[i*wide+j+1])
				}
			}
		}
	}
	var out []Line
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case common != nil && i < len(a) && j < len(b) && a[i] == b[j]:
			i, j = i+1, j+1
		case i < len(a) && (j == len(b) || common == nil || common[(i+1)*wide+j] >= common[i*wide+j+1]):
			out = append(out, Line{File: file, Line: begin + i + 1, Text: a[i]})
			i++
		default:
			out = append(out, Line{File: file, Line: begin + j + 1, Added: true, Text: b[j]})
			j++
		}
	}
	return out
}
