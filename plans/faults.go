package plans

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/drrun/drrun/internal/fault"
)

// Fault is one mistake in a plan or estate file.
type Fault struct {
	Pos        Pos    `json:"pos"`
	Message    string `json:"message"`
	Suggestion string `json:"suggestion,omitempty"`  // the word that was probably meant
	SourceLine string `json:"source_line,omitempty"` // the line of the file, as it stands there
}

// String prints the fault as `erp.lua:12: exec: unknown key "onn", did you mean
// "on"?`, without the source line.
func (f Fault) String() string {
	var b strings.Builder
	if f.Pos.File != "" {
		fmt.Fprintf(&b, "%s:%d: ", f.Pos.File, f.Pos.Line)
	}
	b.WriteString(f.Message)
	if f.Suggestion != "" {
		fmt.Fprintf(&b, ", did you mean %q?", f.Suggestion)
	}
	return b.String()
}

// Faults is every mistake found, in the order of the files. It is an error of
// kind fault.Invalid; use Err where an error is returned.
type Faults []Fault

// Error prints every fault on a line of its own, each followed by its source
// line, indented.
func (fs Faults) Error() string {
	var b strings.Builder
	for i, f := range fs {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(f.String())
		if s := strings.TrimSpace(f.SourceLine); s != "" {
			b.WriteString("\n    " + s)
		}
	}
	return b.String()
}

// As lets errors.As see the kind of the faults: fault.Invalid.
func (fs Faults) As(target any) bool {
	fe, ok := target.(**fault.Error)
	if ok {
		*fe = fault.Errorf(fault.Invalid, "%s", fs.Error())
	}
	return ok
}

// Err returns fs as an error, nil when there is no fault.
func (fs Faults) Err() error {
	if len(fs) == 0 {
		return nil
	}
	return fs
}

// Sorted returns the faults by file and line, each once.
func (fs Faults) Sorted() Faults {
	out := slices.Clone(fs)
	slices.SortStableFunc(out, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Pos.File, b.Pos.File), cmp.Compare(a.Pos.Line, b.Pos.Line))
	})
	seen := make(map[string]bool, len(out))
	return slices.DeleteFunc(out, func(f Fault) bool {
		s := f.String()
		dup := seen[s]
		seen[s] = true
		return dup
	})
}

// WithSource returns the faults with their source lines, read from the files of
// a bundle.
func (fs Faults) WithSource(b Bundle) Faults {
	lines := make(map[string][]string, len(b.Files))
	out := slices.Clone(fs)
	for i, f := range out {
		src, ok := b.Files[f.Pos.File]
		if !ok || f.SourceLine != "" {
			continue
		}
		if lines[f.Pos.File] == nil {
			lines[f.Pos.File] = strings.Split(src, "\n")
		}
		if l := lines[f.Pos.File]; f.Pos.Line >= 1 && f.Pos.Line <= len(l) {
			out[i].SourceLine = strings.TrimSpace(l[f.Pos.Line-1])
		}
	}
	return out
}

// add appends a fault.
func (fs *Faults) add(p Pos, format string, args ...any) {
	*fs = append(*fs, Fault{Pos: p, Message: fmt.Sprintf(format, args...)})
}

// addNear appends a fault that suggests the nearest of known to name.
func (fs *Faults) addNear(p Pos, name string, known []string, format string, args ...any) {
	*fs = append(*fs, Fault{Pos: p, Message: fmt.Sprintf(format, args...), Suggestion: Nearest(name, known)})
}

// elsewhere are words of other tools, for what they are called here.
var elsewhere = map[string]string{
	"timeout": "within", "interval": "every", "period": "every", "depends_on": "needs", "depends": "needs", "requires": "needs", "retries": "retry",
	"command": "cmd", "shell": "sh", "script": "sh", "host": "on", "target": "on", "schedule": "cron", "timezone": "tz", "concurrency": "parallel",
	"approval": "wait", "message": "ask", "prompt": "ask", "url": "http", "status": "expect", "on_failure": "on_fail", "on_error": "on_fail", "source": "from", "destination": "to",
}

// Nearest returns the one of known that was probably meant by name, or "" when
// none is: at most a third of its letters differ, or another tool calls it so.
func Nearest(name string, known []string) string {
	if near := nearest(name, known); near != "" {
		return near
	}
	word := strings.ToLower(name)
	if elsewhere[word] == "" {
		word = nearest(word, slices.Sorted(maps.Keys(elsewhere)))
	}
	if meant := elsewhere[word]; meant != "" && slices.Contains(known, meant) {
		return meant
	}
	return ""
}

func nearest(name string, known []string) string {
	best, bestDist := "", max(1, len(name)/3)+1
	for _, k := range known {
		if k == name {
			continue
		}
		d := distance(strings.ToLower(name), strings.ToLower(k), bestDist)
		if d >= min(len(name), len(k)) { // nothing in common
			continue
		}
		if d < bestDist || d == bestDist && best != "" && k < best {
			best, bestDist = k, d
		}
	}
	return best
}

// distance is the optimal string alignment distance of a and b: insertions,
// deletions, replacements and swaps of neighbours. Lengths further apart than
// limit give limit+1 at once.
func distance(a, b string, limit int) int {
	if abs(len(a)-len(b)) > limit || len(a) > 256 || len(b) > 256 {
		return limit + 1
	}
	older, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], older[j-2]+1)
			}
		}
		older, prev, cur = prev, cur, older
	}
	return prev[len(b)]
}

func abs(n int) int {
	if n < 0 {
		return -n
	}
	return n
}
