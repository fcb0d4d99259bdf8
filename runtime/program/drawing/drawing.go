// Package drawing draws a program as SVG: what follows what from top to bottom,
// what goes on at once side by side, phases as bands, and what a filter leaves
// out in grey.
//
// It is pure and knows nothing of runs; one picture needs no other file. Colours
// say who acts: drrun at a machine, drrun at the records of authority, the plan,
// or a person.
package drawing

import (
	"cmp"
	"fmt"
	"html"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/runtime/program"
)

// Sizes of the picture, in pixels.
const (
	boxWidth  = 250
	boxHeight = 40
	gap       = 10 // between what follows each other
	side      = 14 // between what goes on at once
	margin    = 16
	band      = 24 // head of a phase
	perLine   = 36 // runes of a title in one line of a box

	// mostAtOnce is how many branches are drawn side by side; of more, those of
	// which the plan says something of its own, at most mostOwn, then the first,
	// and how many there are.
	mostAtOnce = 5
	mostOwn    = 20
)

// SVG draws a program. est, if it is known, says how long the steps take; nil:
// nothing is said.
func SVG(p *program.Program, est *program.Estimate) string {
	d := &drawing{steps: map[string]line{}}
	for i, s := range p.Steps() {
		l := line{number: i + 1}
		if est != nil {
			l.planned = &est.Steps[i]
		}
		d.steps[s.ID] = l
	}
	width, height := d.head(p, est), margin+3*band
	for _, ph := range phases(&p.Root) {
		w, h := d.measure(&ph.node)
		width = max(width, w)
		d.bands = append(d.bands, placed{phase: ph, y: height, height: band + h + gap})
		height += band + h + 2*gap
	}
	width += 2 * margin
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n%s", width, height, width, height, style)
	fmt.Fprintf(&b, `<text class="title" x="%d" y="%d">%s</text>`+"\n", margin, margin+band/2, text(d.title))
	fmt.Fprintf(&b, `<text class="sub" x="%d" y="%d">%s</text>`+"\n", margin, margin+band/2+20, text(d.sub))
	d.out = &b
	for _, pl := range d.bands {
		fmt.Fprintf(&b, `<rect class="band" x="%d" y="%d" width="%d" height="%d" rx="6"/><text class="phase" x="%d" y="%d">%s</text>`+"\n",
			margin/2, pl.y, width-margin, pl.height, margin, pl.y+16, text(pl.phase.name))
		d.node(&pl.phase.node, margin, pl.y+band, width-2*margin)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

const style = `<style>
.title{font-size:17px;font-weight:bold}.sub{fill:#555}.phase{fill:#555;font-weight:bold}
.band{fill:#f4f5f7}.way{stroke:#9aa3ad;fill:none}.at{fill:#777;font-size:10px}
.step rect{stroke-width:1;rx:4}.step .took{fill:#555;font-size:10px}
.machine rect{fill:#dbeafe;stroke:#60a5fa}.record rect{fill:#fee2e2;stroke:#f87171}
.plan rect{fill:#dcfce7;stroke:#4ade80}.person rect{fill:#fef3c7;stroke:#f59e0b}.look rect,.more rect{fill:#fff;stroke:#9aa3ad}
.skip rect{fill:#ececec;stroke:#bbb;stroke-dasharray:4 3}.skip text{fill:#999}.critical rect{stroke-width:3}
</style>
`

// line is what is known of a step beside itself.
type line struct {
	number  int
	planned *program.Planned
}

type drawing struct {
	steps      map[string]line
	title, sub string
	bands      []placed
	out        *strings.Builder
}

// phase is what of the program's sequence bears one name.
type phase struct {
	name string
	node program.Node
}

type placed struct {
	phase
	y, height int
}

// head sets the title, and returns the width that it needs.
func (d *drawing) head(p *program.Program, est *program.Estimate) int {
	what := p.Section
	if p.Section == program.SectionFailover {
		what = strings.TrimSpace(string(p.Type) + " " + cmp.Or(p.Direction, "failover"))
	}
	d.title = fmt.Sprintf("%s: %s %s → %s", p.Plan, what, p.From, p.To)
	d.sub = quantity.Count(len(p.Active()), "machine")
	if est != nil {
		d.sub += ", " + est.Sum() + "; the end waits for what has a thick line"
	}
	if p.Nothing != "" {
		d.sub = "nothing to do: " + p.Nothing
	}
	return max(10*utf8.RuneCountInString(d.title), 7*utf8.RuneCountInString(d.sub), boxWidth)
}

// phases cuts the program's sequence where the phase changes.
func phases(root *program.Node) []phase {
	var out []phase
	add := func(name string, n program.Node) {
		if i := len(out) - 1; i >= 0 && out[i].name == name {
			out[i].node.Seq = append(out[i].node.Seq, n)
			return
		}
		out = append(out, phase{name: name, node: program.Node{Seq: []program.Node{n}}})
	}
	if s := first(root); s != nil && len(root.Seq) == 0 {
		add(s.Phase, *root)
	}
	for i := range root.Seq {
		for _, inner := range phases(&root.Seq[i]) {
			for _, n := range inner.node.Seq {
				add(inner.name, n)
			}
		}
	}
	return out
}

func first(n *program.Node) *program.Step {
	if n.Step != nil {
		return n.Step
	}
	for _, list := range [][]program.Node{n.Seq, n.Par} {
		for i := range list {
			if s := first(&list[i]); s != nil {
				return s
			}
		}
	}
	return nil
}

// shown are the branches that are drawn, and how many are not.
func (d *drawing) shown(n *program.Node) ([]program.Node, int) {
	if len(n.Par) <= mostAtOnce+1 {
		return n.Par, 0
	}
	draw, count := make([]bool, len(n.Par)), 0
	take := func(most int, wanted func(*program.Node) bool) {
		for i := range n.Par {
			if !draw[i] && count < most && wanted(&n.Par[i]) {
				draw[i] = true
				count++
			}
		}
	}
	take(mostOwn, d.own)
	take(mostAtOnce, func(*program.Node) bool { return true })
	var out []program.Node
	for i, yes := range draw {
		if yes {
			out = append(out, n.Par[i])
		}
	}
	return out, len(n.Par) - count
}

// own reports whether a branch differs from the others beside it: the plan has
// steps, a delay or needs for it alone, or the end of the run waits for it.
func (d *drawing) own(n *program.Node) bool {
	if s := n.Step; s != nil {
		l := d.steps[s.ID].planned
		return s.Plan != nil || s.Kind == program.Delay || l != nil && l.Critical && l.Figure.Took > 0
	}
	return len(n.Needs) > 0 || slices.ContainsFunc(n.Seq, d.pointed) || slices.ContainsFunc(n.Par, d.pointed)
}

func (d *drawing) pointed(n program.Node) bool { return d.own(&n) }

// limited reports whether a line says how many branches are under way at once.
func limited(n *program.Node) bool { return n.Limit > 0 && n.Limit < len(n.Par) }

// measure is the width and the height of a node.
func (d *drawing) measure(n *program.Node) (w, h int) {
	switch {
	case n.Step != nil:
		return boxWidth, boxHeight
	case len(n.Par) == 1:
		return d.measure(&n.Par[0])
	case len(n.Par) > 0:
		list, more := d.shown(n)
		for i := range list {
			bw, bh := d.measure(&list[i])
			w, h = w+bw+side, max(h, bh)
		}
		if more > 0 {
			w, h = w+boxWidth/2+side, max(h, boxHeight)
		}
		if limited(n) {
			h += band
		}
		return w - side, h + 2*gap
	}
	for i := range n.Seq {
		bw, bh := d.measure(&n.Seq[i])
		w, h = max(w, bw), h+bh+gap
	}
	return w, max(h-gap, 0)
}

// node draws n below (x, y), in the middle of width.
func (d *drawing) node(n *program.Node, x, y, width int) {
	w, h := d.measure(n)
	x += (width - w) / 2
	switch {
	case n.Step != nil:
		d.box(n.Step, x, y)
	case len(n.Par) == 1:
		d.node(&n.Par[0], x, y, w)
	case len(n.Par) > 0:
		d.branches(n, x, y, w, h)
	default:
		for i := range n.Seq {
			_, bh := d.measure(&n.Seq[i])
			d.node(&n.Seq[i], x, y, w)
			if y += bh; i+1 < len(n.Seq) {
				d.way(x+w/2, y, x+w/2, y+gap)
			}
			y += gap
		}
	}
}

// branches draws what goes on at once, between two lines across.
func (d *drawing) branches(n *program.Node, x, y, w, h int) {
	list, more := d.shown(n)
	top, bottom := y, y+h
	if limited(n) {
		fmt.Fprintf(d.out, `<text class="at" x="%d" y="%d">%d at a time</text>`+"\n", x, y+band-8, n.Limit)
		top += band
	}
	d.way(x+w/2, y, x+w/2, top)
	left, right := -1, 0
	column := func(bw, bh int, draw func(x, y int)) {
		middle := x + bw/2
		d.way(middle, top, middle, top+gap)
		draw(x, top+gap)
		d.way(middle, top+gap+bh, middle, bottom)
		if left < 0 {
			left = middle
		}
		right = middle
		x += bw + side
	}
	for i := range list {
		bw, bh := d.measure(&list[i])
		column(bw, bh, func(x, y int) { d.node(&list[i], x, y, bw) })
	}
	if more > 0 {
		column(boxWidth/2, boxHeight, func(x, y int) {
			fmt.Fprintf(d.out, `<g class="step more"><rect x="%d" y="%d" width="%d" height="%d"/><text x="%d" y="%d">and %d more</text></g>`+"\n",
				x, y, boxWidth/2, boxHeight, x+8, y+boxHeight/2+4, more)
		})
	}
	d.way(left, top, right, top)
	d.way(left, bottom, right, bottom)
}

func (d *drawing) way(x1, y1, x2, y2 int) {
	fmt.Fprintf(d.out, `<path class="way" d="M%d %dL%d %d"/>`+"\n", x1, y1, x2, y2)
}

// box draws a step. Its whole title, and why it is left out, show when it is
// pointed at.
func (d *drawing) box(s *program.Step, x, y int) {
	l := d.steps[s.ID]
	class, whole := "step "+actor(s.Kind), s.Title
	took := ""
	switch p := l.planned; {
	case s.Skip != "":
		class, whole, took = "step skip", whole+"\nskipped: "+s.Skip, s.Skip
	case p == nil || p.Figure.Source == "":
	default:
		took = quantity.FormatDuration(p.Figure.Took)
		whole += "\n" + took + ", " + p.Figure.Source
		if p.Critical && p.Figure.Took > 0 {
			class += " critical"
		}
	}
	if s.Pos != nil {
		whole += fmt.Sprintf("\n%s:%d", s.Pos.File, s.Pos.Line)
	}
	fmt.Fprintf(d.out, `<g class="%s"><title>%s</title><rect x="%d" y="%d" width="%d" height="%d"/>`, class, text(whole), x, y, boxWidth, boxHeight)
	lines := wrap(fmt.Sprintf("%d  %s", l.number, s.Title))
	for i, part := range lines {
		fmt.Fprintf(d.out, `<text x="%d" y="%d">%s</text>`, x+8, y+16+15*i, text(part))
	}
	if took != "" {
		fmt.Fprintf(d.out, `<text class="took" x="%d" y="%d" text-anchor="end">%s</text>`, x+boxWidth-6, y+boxHeight-5, text(cut(took, perLine)))
	}
	d.out.WriteString("</g>\n")
}

// actor says who acts in a step.
func actor(k program.Kind) string {
	switch k {
	case program.Wait:
		return "person"
	case program.Exec, program.Check, program.Action, program.Delay:
		return "plan"
	case program.Claim, program.Right, program.Grant, program.GrantPeer, program.Learn, program.Return, program.ReturnPeer, program.Commit, program.CommitPeer:
		return "record"
	case program.Preflight, program.Points, program.Running:
		return "look"
	}
	return "machine"
}

// wrap breaks a title into at most two lines.
func wrap(s string) []string {
	if utf8.RuneCountInString(s) <= perLine {
		return []string{s}
	}
	words := strings.Fields(s)
	line := words[0] + " "
	for i, w := range words[1:] {
		if utf8.RuneCountInString(line)+utf8.RuneCountInString(w) > perLine {
			return []string{cut(strings.TrimSpace(line), perLine), cut(strings.Join(words[1+i:], " "), perLine-8)}
		}
		line += w + " "
	}
	return []string{cut(strings.TrimSpace(line), perLine)}
}

func cut(s string, most int) string {
	r := []rune(s)
	if len(r) <= most {
		return s
	}
	return string(r[:most-1]) + "…"
}

// text makes foreign text harmless in the picture.
func text(s string) string {
	return html.EscapeString(strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) {
			return r
		}
		return '�'
	}, s))
}
