package lab

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// witnessDir holds what machines write about their own lives, below Root.
const witnessDir = "witness"

// Life is one life of a machine as its own process wrote it down, outside of
// drrun: from its start, before it opened a disk, to its end, or to the last
// sign of life of one that was killed.
type Life struct {
	Machine string
	Site    string
	Type    string // production, test
	Epoch   string
	Run     string
	Begin   time.Time
	End     time.Time // last sign of life
	Stopped bool      // it ended in order
}

func (l Life) String() string {
	const clock = "15:04:05.000"
	return fmt.Sprintf("%s at %s (%s, epoch %s, run %s) %s–%s", l.Machine, l.Site, l.Type, l.Epoch, l.Run, l.Begin.Format(clock), l.End.Format(clock))
}

// Lives reads all lives of the lab's machines, in the order of their begin.
func (l *Lab) Lives() ([]Life, error) {
	names, err := filepath.Glob(filepath.Join(l.Root, witnessDir, "*.life"))
	if err != nil {
		return nil, err
	}
	lives := make([]Life, 0, len(names))
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		life, err := readLife(string(b))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		lives = append(lives, life)
	}
	slices.SortFunc(lives, func(a, b Life) int { return cmp.Or(a.Begin.Compare(b.Begin), cmp.Compare(a.Machine, b.Machine)) })
	return lives, nil
}

// readLife reads one file. Its last line may be in the middle of being written.
func readLife(text string) (Life, error) {
	var l Life
	whole := text[:strings.LastIndexByte(text, '\n')+1]
	for i, line := range strings.Split(strings.TrimSuffix(whole, "\n"), "\n") {
		if i == 0 {
			if n, err := fmt.Sscanf(line, "life %s %s %s %s %s", &l.Machine, &l.Site, &l.Type, &l.Epoch, &l.Run); n != 5 {
				return l, fmt.Errorf("line 1 is no life: %q (%w)", line, err)
			}
			continue
		}
		var at int64
		var what string
		if n, err := fmt.Sscanf(line, "%d %s", &at, &what); n != 2 {
			return l, fmt.Errorf("line %d: %q (%w)", i+1, line, err)
		}
		l.End = time.Unix(0, at)
		switch what {
		case "start":
			l.Begin = l.End
		case "stop":
			l.Stopped = true
		}
	}
	if l.Begin.IsZero() {
		return l, fmt.Errorf("no start in %q", text)
	}
	return l, nil
}

// Together returns the pairs of lives of one machine that overlap, outside of
// tests: it ran twice at a time, at two sites or at one.
func Together(lives []Life) [][2]Life {
	var out [][2]Life
	for i, a := range lives {
		for _, b := range lives[:i] {
			if a.Machine == b.Machine && a.Type != "test" && b.Type != "test" && a.Begin.Before(b.End) && b.Begin.Before(a.End) {
				out = append(out, [2]Life{b, a})
			}
		}
	}
	return out
}
