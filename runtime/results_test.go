package runtime_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/report"
)

// TestResultsOfAnActionAreLimited: each result is within the limit of its module,
// all of them together are within that of the action; a resumed one counts those
// that are recorded.
func TestResultsOfAnActionAreLimited(t *testing.T) {
	const each = 1 << 20
	most := runtime.MaxResults / each
	for _, c := range []struct{ before, after int }{{most, 0}, {most + 1, 0}, {most - 3, 3}, {most - 3, 4}} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.lua.plan.Items[1].Wait.Skip = plans.AllTypes()
				did, asks := 0, c.after > 0
				r.lua.funcs[0] = func(ctx context.Context, _ plans.RunInfo, h plans.HostCalls) (bool, string, error) {
					get := func(n int) error {
						_, err := h.Op(ctx, "http.get", plans.OpRead, mustJSON(n), func(context.Context, string) (json.RawMessage, error) {
							did++
							return json.RawMessage(`"` + strings.Repeat("x", each-2) + `"`), nil
						})
						return err
					}
					for n := range c.before + c.after {
						if n == c.before && asks {
							if _, err := h.Ask(ctx, plans.Question{Within: 1e12, WaitStep: plans.WaitStep{Ask: "well?"}}); err != nil {
								return false, "", err
							}
						}
						if err := get(n); err != nil {
							return true, "it looked fine", fmt.Errorf("erp.lua:77: %w", err) // as package scripts does
						}
					}
					return true, "", nil
				}
				id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
				if asks {
					r.expect(id, report.RunWaiting)
					r.close()
					r.open()
					r.must(r.engine.Answer(t.Context(), id, runtime.Answer{Word: "go", By: "bob"}))
				}
				if c.before+c.after <= most {
					r.expect(id, report.RunUncommitted)
					return
				}
				run := r.expect(id, report.RunStopped)
				got := run.Errors[0].Error
				if want := `erp.lua:26: action "point DNS": erp.lua:77: the results of its operations take more than 32 MiB`; got.Message != want || !strings.Contains(got.Hint, "several actions") {
					t.Errorf("got %q (%s), want %q", got.Message, got.Hint, want)
				}
				if got.Kind != fault.Failed || did != c.before+c.after {
					t.Errorf("%s after %d operations", got.Kind, did)
				}
			})
		})
	}
}

// TestTooManyOperations: a function that asks without end is stopped, at its line.
func TestTooManyOperations(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.lua.plan.Items[1].Wait.Skip = plans.AllTypes()
		n := 0
		r.lua.funcs[0] = func(ctx context.Context, _ plans.RunInfo, h plans.HostCalls) (bool, string, error) {
			for n = range runtime.MaxOps + 5 {
				if _, err := h.Now(ctx); err != nil {
					return true, "", fmt.Errorf("erp.lua:77: %w", err)
				}
			}
			return true, "", nil
		}
		id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
		run := r.expect(id, report.RunStopped)
		if got := run.Errors[0].Error; got.Message != `erp.lua:26: action "point DNS": erp.lua:77: more than 10000 operations` || got.Hint == "" || n != runtime.MaxOps {
			t.Errorf("after %d: %q (%s)", n, got.Message, got.Hint)
		}
	})
}
