package runtime_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/report"
)

// desk is a server outside that knows idempotency keys: it does a request once
// per key, and gives its answer again, a refusal too.
type desk struct {
	keys    []string // as they came
	did     []string // what was done
	answers map[string]plans.Outcome
	// said is what the server does of the n-th request, from 0: "lost" does it and
	// does not answer, "hang" neither until nobody listens any more; "refuse" and
	// "busy" (a 5xx) answer and do nothing.
	said []string
}

// post is a call of the module http: an error for the function, or nil.
func (d *desk) post(ctx context.Context, h plans.HostCalls, body string) error {
	raw, err := h.Op(ctx, "http.post", plans.OpIdempotent, mustJSON(body), func(ctx context.Context, key string) (json.RawMessage, error) {
		said := ""
		if n := len(d.keys); n < len(d.said) {
			said = d.said[n]
		}
		d.keys = append(d.keys, key)
		if said == "hang" {
			<-ctx.Done()
			d.did = append(d.did, body)
			d.answers[key] = plans.Outcome{}
			return nil, ctx.Err()
		}
		if said == "busy" {
			return json.Marshal(plans.Outcome{Value: json.RawMessage(`503`), Key: plans.KeyOpen})
		}
		answer, known := d.answers[key]
		switch {
		case known:
		case said == "refuse":
			answer = plans.Outcome{Value: json.RawMessage(`403`), Key: plans.KeySpent}
		default:
			d.did = append(d.did, body)
		}
		d.answers[key] = answer
		if said == "lost" {
			return json.Marshal(plans.Outcome{Failed: "connection reset", Key: plans.KeyOpen})
		}
		return json.Marshal(answer)
	})
	if err != nil {
		return err
	}
	var o plans.Outcome
	if err := json.Unmarshal(raw, &o); err != nil {
		return err
	}
	if o.Failed != "" || o.Value != nil {
		return fmt.Errorf("%s%s", o.Failed, o.Value)
	}
	return nil
}

// TestSameCallSameKey: whatever became of an attempt of an action, a server that
// knows keys does each of its calls once; a refusal is asked for anew.
func TestSameCallSameKey(t *testing.T) {
	type call = func(ctx context.Context, h plans.HostCalls) error
	flaky := errors.New("not yet")
	one := func(d *desk) call {
		return func(ctx context.Context, h plans.HostCalls) error { return d.post(ctx, h, "ticket") }
	}
	for name, c := range map[string]struct {
		said []string
		act  func(d *desk) call
		did  []string
		sent int // requests
		keys int // different ones
	}{
		"the answer was lost":   {said: []string{"lost"}, did: []string{"ticket"}, sent: 2, keys: 1, act: one},
		"lost in every attempt": {said: []string{"lost", "lost", "lost"}, did: []string{"ticket"}, sent: 4, keys: 1, act: one},
		"it was busy":           {said: []string{"busy", "busy"}, did: []string{"ticket"}, sent: 3, keys: 1, act: one},
		"it was refused":        {said: []string{"refuse"}, did: []string{"ticket"}, sent: 2, keys: 2, act: one},
		"lost, then refused":    {said: []string{"busy", "refuse"}, did: []string{"ticket"}, sent: 3, keys: 2, act: one},
		"what follows it failed": {did: []string{"one", "two"}, sent: 4, keys: 2,
			act: func(d *desk) call {
				n := 0
				return func(ctx context.Context, h plans.HostCalls) error {
					if err := errors.Join(d.post(ctx, h, "one"), d.post(ctx, h, "two")); err != nil {
						return err
					}
					if n++; n == 1 {
						return flaky
					}
					return nil
				}
			}},
		"the same twice": {said: []string{"", "lost"}, did: []string{"plus one", "plus one"}, sent: 4, keys: 2,
			act: func(d *desk) call {
				return func(ctx context.Context, h plans.HostCalls) error {
					if err := d.post(ctx, h, "plus one"); err != nil {
						return err
					}
					return d.post(ctx, h, "plus one")
				}
			}},
		"another way to it": {said: []string{"lost"}, did: []string{"ticket"}, sent: 2, keys: 1,
			act: func(d *desk) call {
				n := 0
				return func(ctx context.Context, h plans.HostCalls) error {
					for n++; n < 3; n++ { // the first attempt asks twice, the next one not at all
						if _, err := h.Now(ctx); err != nil {
							return err
						}
					}
					return d.post(ctx, h, "ticket")
				}
			}},
		"another call in its place": {said: []string{"lost"}, did: []string{"n 1", "n 2"}, sent: 2, keys: 2,
			act: func(d *desk) call {
				n := 0
				return func(ctx context.Context, h plans.HostCalls) error {
					n++
					return d.post(ctx, h, fmt.Sprintf("n %d", n))
				}
			}},
		"again in the function": {said: []string{"lost", "busy"}, did: []string{"ticket"}, sent: 3, keys: 1,
			act: func(d *desk) call {
				return func(ctx context.Context, h plans.HostCalls) (err error) {
					for range 3 {
						if err = d.post(ctx, h, "ticket"); err == nil {
							return nil
						}
					}
					return err
				}
			}},
		"the time of the step was up": {said: []string{"hang"}, did: []string{"ticket"}, sent: 2, keys: 1, act: one},
	} {
		for _, die := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/the runtime dies %v", name, die), func(t *testing.T) {
				bubble(t, func(t *testing.T, r *rig) {
					d := &desk{said: c.said, answers: map[string]plans.Outcome{}}
					r.lua.plan.Items[1].Wait.Skip = plans.AllTypes()
					act := c.act(d)
					r.lua.funcs[0] = func(ctx context.Context, _ plans.RunInfo, h plans.HostCalls) (bool, string, error) {
						err := act(ctx, h)
						return err == nil, "", err
					}
					id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
					for range 5 {
						run := r.settle(id)
						if run.Status == report.RunUncommitted {
							break
						}
						if run.Status != report.RunStopped || run.Errors[0].Step != asking {
							t.Fatalf("%s: %v", run.Status, failures(run))
						}
						if die {
							r.close()
							r.open()
						}
						r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"}))
					}
					r.expect(id, report.RunUncommitted)
					keys := slices.Compact(slices.Sorted(slices.Values(d.keys)))
					if !slices.Equal(d.did, c.did) || len(d.keys) != c.sent || len(keys) != c.keys {
						t.Errorf("%d requests under %d keys, done %q; want %d, %d, %q\n%s", len(d.keys), len(keys), d.did, c.sent, c.keys, c.did, strings.Join(d.keys, "\n"))
					}
				})
			})
		}
	}
}

// TestCallLostToDeathKeepsItsKey: the runtime dies between a request and its
// answer, before the answer is journaled, in a later attempt too.
func TestCallLostToDeathKeepsItsKey(t *testing.T) {
	for _, said := range [][]string{nil, {"lost"}} {
		t.Run(fmt.Sprint(said), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				d := &desk{said: said, answers: map[string]plans.Outcome{}}
				r.lua.plan.Items[1].Wait.Skip = plans.AllTypes()
				inner, cs := r.store, (*crashStore)(nil)
				deaths := 0
				r.lua.funcs[0] = func(ctx context.Context, _ plans.RunInfo, h plans.HostCalls) (bool, string, error) {
					if deaths == 0 && len(d.keys) == len(said) {
						cs.mu.Lock() // the second record from here on is the answer
						cs.left = 2
						cs.mu.Unlock()
					}
					err := d.post(ctx, h, "ticket")
					return err == nil, "", err
				}
				r.close()
				cs = &crashStore{Store: inner}
				r.store = cs
				r.open()
				id := r.start(runtime.Request{Plan: "erp", Type: recovery.Planned})
				for !cs.isDead() {
					if run, err := r.engine.Show(t.Context(), id); err == nil && run.Status == report.RunStopped {
						r.must(r.engine.Resume(t.Context(), id, runtime.ResumeOptions{By: "ann"}))
					}
					<-time.After(250 * time.Millisecond)
				}
				r.close()
				deaths++
				r.store = inner
				r.open()
				r.operator(id)
				if len(d.did) != 1 || len(d.keys) != len(said)+2 || len(slices.Compact(d.keys)) != 1 {
					t.Errorf("keys %q, done %q", d.keys, d.did)
				}
			})
		})
	}
}
