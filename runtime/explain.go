package runtime

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime/program"
	"github.com/drrun/drrun/runtime/program/drawing"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/state"
)

// Explain compiles a request and shows it, with preflight's word on it in a dry
// run; nothing is stored or changed.
func (e *Engine) Explain(ctx context.Context, req Request) (*report.Explain, error) {
	p, err := e.prepare(ctx, &req)
	if err != nil {
		return nil, err
	}
	est, err := e.estimate(ctx, p)
	if err != nil {
		return nil, err
	}
	if est != nil {
		est.Aim = p.plan.RTO
	}
	x := p.program.Explain(est)
	if req.Drawing {
		x.Drawing = drawing.SVG(p.program, est)
	}
	if req.DryRun && len(x.Steps) > 0 && x.Steps[0].Kind == string(program.Preflight) {
		err = e.tryPreflight(ctx, &req, p, &x)
	}
	return &x, err
}

// tryPreflight adds what preflight would say now.
func (e *Engine) tryPreflight(ctx context.Context, req *Request, p *prepared, x *report.Explain) error {
	run := runOf(req, p)
	run.ID = cmp.Or(run.ID, "dry-run")
	st, err := state.New([]state.Record{{Seq: 1, Time: e.now(), Kind: state.Created, Run: run, Program: p.program}})
	if err != nil {
		return err
	}
	out := newDriver(e, st, nil, p.src).job(st.Steps["preflight"]).preflight(ctx)
	x.Overridden, x.Text = out.notes, x.Text+"as it stands now\n"
	for _, n := range out.notes {
		x.Text += "     " + n + "\n"
	}
	if out.err != nil {
		x.Refused = asFault(out.err)
		x.Text += "     refused: " + strings.TrimPrefix(out.err.Error(), "preflight: ") + "\n"
	} else {
		x.Text += "     " + out.detail + "\n"
	}
	return nil
}

// pastRuns is how many runs of a plan an estimate looks at, the newest first.
const pastRuns = 20

// past is what the steps of earlier runs have taken.
type past struct {
	steps map[recovery.Type]map[string][]time.Duration // type → step → how long, the newest first
	kinds map[program.Kind][]time.Duration
}

// estimate lays a run out by what its steps have taken in earlier runs of the
// plan in the same direction; nil: there are none.
func (e *Engine) estimate(ctx context.Context, p *prepared) (*program.Estimate, error) {
	heads, err := e.heads(ctx)
	if err != nil {
		return nil, err
	}
	h := past{steps: map[recovery.Type]map[string][]time.Duration{}, kinds: map[program.Kind][]time.Duration{}}
	runs := 0
	for _, head := range slices.Backward(heads) {
		if head.Plan != p.plan.Name || head.Kind != report.KindFailover || head.From != p.program.From || head.To != p.program.To || head.Status == report.RunRefused {
			continue
		}
		st, err := e.peek(ctx, head.ID)
		if err != nil {
			continue // of a newer drrun, or dropped meanwhile: the others tell
		}
		h.add(st.Type, st.Ordered())
		if runs++; runs == pastRuns {
			break
		}
	}
	if len(h.kinds) == 0 {
		return nil, nil
	}
	return p.program.Estimate(func(s *program.Step) program.Figure { return h.figure(p.program.Type, s) }), nil
}

func (h *past) add(typ recovery.Type, steps []*state.Step) {
	if h.steps[typ] == nil {
		h.steps[typ] = map[string][]time.Duration{}
	}
	for _, s := range steps {
		if s.Section != program.SectionFailover || s.Status != report.StepDone || s.Begun.IsZero() || s.Ended.Before(s.Begun) {
			continue
		}
		took := s.Ended.Sub(s.Begun)
		h.steps[typ][s.ID] = append(h.steps[typ][s.ID], took)
		h.kinds[s.Kind] = append(h.kinds[s.Kind], took)
	}
}

// figure is how long a step is expected to take: as in runs of the same type, or
// else of the others, or else as steps of its kind.
func (h *past) figure(typ recovery.Type, s *program.Step) program.Figure {
	switch s.Kind {
	case program.Wait: // how long a person took says nothing
		return program.Figure{}
	case program.Delay:
		return program.Figure{Took: s.Within, Source: "as the plan says"}
	}
	if took := h.steps[typ][s.ID]; len(took) > 0 {
		return program.Figure{Took: median(took), Source: count(len(took), string(typ)+" run")}
	}
	var others []time.Duration
	var types []string
	for _, t := range slices.Sorted(maps.Keys(h.steps)) {
		if took := h.steps[t][s.ID]; len(took) > 0 {
			others, types = append(others, took...), append(types, string(t))
		}
	}
	if len(others) > 0 {
		return program.Figure{Took: median(others), Source: count(len(others), strings.Join(types, " or ")+" run")}
	}
	switch s.Kind {
	case program.Exec, program.Check, program.Action: // each does something else
		return program.Figure{}
	}
	if took := h.kinds[s.Kind]; len(took) > 0 {
		return program.Figure{Took: median(took), Source: count(len(took), "other "+string(s.Kind))}
	}
	return program.Figure{}
}

// count says of how many figures one is the median.
func count(n int, what string) string {
	if n == 1 {
		return "one " + what
	}
	return fmt.Sprintf("median of %d %ss", n, what)
}

func median(d []time.Duration) time.Duration {
	s := slices.SortedFunc(slices.Values(d), func(a, b time.Duration) int { return cmp.Compare(a, b) })
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}
