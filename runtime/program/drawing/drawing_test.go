package drawing_test

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/program/drawing"
)

// box is a step in a picture.
type box struct{ x, y, w, h int }

func (b box) overlaps(c box) bool {
	return b.x < c.x+c.w && c.x < b.x+b.w && b.y < c.y+c.h && c.y < b.y+b.h
}

// boxes reads a picture: where its steps are, by their whole titles.
func boxes(t *testing.T, svg string) (page box, steps map[string]box) {
	t.Helper()
	steps = map[string]box{}
	var title string
	var class []string
	for dec := xml.NewDecoder(strings.NewReader(svg)); ; {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return page, steps
		}
		if err != nil {
			t.Fatalf("not XML: %v\n%s", err, svg)
		}
		switch el := tok.(type) {
		case xml.StartElement:
			at := map[string]string{}
			for _, a := range el.Attr {
				at[a.Name.Local] = a.Value
			}
			number := func(name string) int { n, _ := strconv.Atoi(at[name]); return n }
			switch el.Name.Local {
			case "svg":
				page = box{w: number("width"), h: number("height")}
			case "g":
				class = strings.Fields(at["class"])
			case "title":
				if err := dec.DecodeElement(&title, &el); err != nil {
					t.Fatal(err)
				}
			case "rect":
				if len(class) > 1 && class[0] == "step" && class[1] != "more" {
					title, _, _ = strings.Cut(title, "\n")
					steps[title] = box{number("x"), number("y"), number("width"), number("height")}
				}
			}
		case xml.EndElement:
			if el.Name.Local == "g" {
				class = nil
			}
		}
	}
}

// tree is any program of some depth.
func tree(r *rand.Rand, depth int, steps *int) program.Node {
	kinds := []program.Kind{program.Start, program.Wait, program.Grant, program.Check, program.Points}
	list := func(most int) (out []program.Node) {
		for range 1 + r.IntN(most) {
			out = append(out, tree(r, depth-1, steps))
		}
		return out
	}
	switch {
	case depth == 0 || r.IntN(4) == 0:
		*steps++
		s := &program.Step{ID: strconv.Itoa(*steps), Kind: kinds[r.IntN(len(kinds))], Phase: fmt.Sprint("phase ", *steps/5), Title: fmt.Sprintf("step %d of <the> \"plan\" & its %s", *steps, strings.Repeat("words ", r.IntN(9)))}
		s.Title = strings.TrimSpace(s.Title)
		if r.IntN(4) == 0 {
			s.Skip = "only for a <failback>"
		}
		return program.Node{Step: s}
	case r.IntN(2) == 0:
		return program.Node{Par: list(9), Limit: r.IntN(4)}
	}
	return program.Node{Seq: list(4)}
}

// TestNothingLiesOnAnother: whatever a program looks like, its picture is XML, its
// boxes are inside and apart, and what follows in a sequence is below.
func TestNothingLiesOnAnother(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		n := 0
		p := &program.Program{Plan: "erp", Type: recovery.Planned, From: "paris", To: "lyon", Root: tree(rand.New(rand.NewPCG(seed, 0)), 4, &n)}
		page, steps := boxes(t, drawing.SVG(p, nil))
		var drawn []box
		for title, b := range steps {
			if b.x < 0 || b.y < 0 || b.x+b.w > page.w || b.y+b.h > page.h {
				t.Fatalf("seed %d: %q is outside: %+v of %+v", seed, title, b, page)
			}
			for _, other := range drawn {
				if b.overlaps(other) {
					t.Fatalf("seed %d: %q lies on another: %+v, %+v", seed, title, b, other)
				}
			}
			drawn = append(drawn, b)
		}
		below(t, seed, &p.Root, steps)
	}
}

// below checks the order of a node's steps, and returns how far down they are.
func below(t *testing.T, seed uint64, n *program.Node, steps map[string]box) (top, bottom int) {
	t.Helper()
	top, bottom = -1, -1
	if n.Step != nil {
		if b, ok := steps[n.Step.Title]; ok {
			return b.y, b.y + b.h
		}
	}
	for _, list := range [][]program.Node{n.Seq, n.Par} {
		for i := range list {
			a, b := below(t, seed, &list[i], steps)
			if a < 0 {
				continue // one of too many branches
			}
			if len(n.Seq) > 0 && a < bottom {
				t.Fatalf("seed %d: a step at %d follows one that ends at %d", seed, a, bottom)
			}
			if top < 0 {
				top = a
			}
			top, bottom = min(top, a), max(bottom, b)
		}
	}
	return top, bottom
}

// TestWhatAPictureSays: skipped steps, limits, branches left out, durations and the
// critical path are to be seen.
func TestWhatAPictureSays(t *testing.T) {
	t.Parallel()
	root := program.Node{Limit: 2}
	for i := range 9 {
		root.Par = append(root.Par, program.Node{Step: &program.Step{ID: strconv.Itoa(i), Kind: program.Start, Phase: "group a", Title: fmt.Sprint("start m", i)}})
	}
	root.Par[1].Step.Skip = "not in a \x1b[31mtest"
	p := &program.Program{Plan: "a<b", Section: program.SectionFailover, Type: recovery.Test, From: "paris", To: "lyon", Root: root}
	est := p.Estimate(func(s *program.Step) program.Figure {
		return program.Figure{Took: time.Duration(len(s.ID)) * 90 * time.Second, Source: "median of 3 runs"}
	})
	est.Aim, est.Ready, est.Ends = 5*time.Minute, 3*time.Minute, 3*time.Minute
	svg := drawing.SVG(p, est)
	_, steps := boxes(t, svg)
	if len(steps) != 5 {
		t.Errorf("%d steps are drawn", len(steps))
	}
	for _, part := range []string{"a&lt;b: test failover paris → lyon", "2 at a time", "and 4 more", `class="step skip"`, "skipped: not in a �[31mtest", `class="step machine critical"`, "1m30s, median of 3 runs", ">group a<", "the machines are ready after 3m00s (rto 5m00s), the last step ends after 3m00s"} {
		if !strings.Contains(svg, part) {
			t.Errorf("%q is not in\n%s", part, svg)
		}
	}
	if strings.Contains(svg, "\x1b") {
		t.Error("foreign text is drawn as it is")
	}
}

// TestOwnBranchesAreDrawn: of many machines those are drawn that the plan says
// something of, wherever they stand.
func TestOwnBranchesAreDrawn(t *testing.T) {
	t.Parallel()
	start := func(i int) *program.Step {
		return &program.Step{ID: fmt.Sprint(i), Kind: program.Start, Phase: "group a", Title: fmt.Sprint("start m", i)}
	}
	var root program.Node
	for i := range 30 {
		root.Par = append(root.Par, program.Node{Seq: []program.Node{{Step: start(i)}}})
	}
	after := func(i int, s *program.Step) {
		s.ID, s.Phase, s.Title = fmt.Sprint(i, "/", s.Kind), "group a", fmt.Sprint(s.Kind, " of m", i)
		root.Par[i].Seq = append(root.Par[i].Seq, program.Node{Step: s})
	}
	after(17, &program.Step{Kind: program.Action, Plan: &plans.Step{}})
	after(19, &program.Step{Kind: program.Delay})
	root.Par[28].Needs = []string{"3"}
	_, steps := boxes(t, drawing.SVG(&program.Program{Root: root}, nil))
	var got []string
	for title := range steps {
		got = append(got, title)
	}
	slices.Sort(got)
	if want := []string{"action of m17", "delay of m19", "start m0", "start m1", "start m17", "start m19", "start m28"}; !slices.Equal(got, want) {
		t.Errorf("drawn are %q, want %q", got, want)
	}
	for i := range root.Par { // many of them are cut, too
		root.Par[i].Needs = []string{"0"}
	}
	if svg := drawing.SVG(&program.Program{Root: root}, nil); !strings.Contains(svg, "and 10 more") {
		t.Error("30 machines with needs stand side by side")
	}
}

// TestPictureOfMany: a program of 10,000 machines is drawn.
func TestPictureOfMany(t *testing.T) {
	t.Parallel()
	var root program.Node
	for g := range 50 {
		group := program.Node{}
		for m := range 200 {
			id := fmt.Sprint(g, "/", m)
			group.Par = append(group.Par, program.Node{Step: &program.Step{ID: id, Kind: program.Start, Phase: fmt.Sprint("group ", g), Title: "start " + id}})
		}
		root.Seq = append(root.Seq, group)
	}
	if svg := drawing.SVG(&program.Program{Root: root}, nil); len(svg) > 200_000 || strings.Count(svg, "and 195 more") != 50 {
		t.Errorf("the picture has %d bytes", len(svg))
	}
}
