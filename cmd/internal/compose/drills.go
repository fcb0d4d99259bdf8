package compose

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/control"
	"github.com/drrun/drrun/runtime/estate"
	"github.com/drrun/drrun/runtime/proving"
	"github.com/drrun/drrun/runtime/report"
	"github.com/drrun/drrun/runtime/store"
	"github.com/drrun/drrun/scheduler"
	"github.com/drrun/drrun/scheduler/cron"
)

// Keys of drills in the store.
const (
	keyDrillState = "drill/state/" // + plan: scheduler.State
	keyDrillAdded = "drill/added/" // + plan: plans.Drill, said by a person
)

// drills starts the drills of the applied plans, and answers for them.
type drills struct {
	store     store.Store
	catalogue *estate.Catalogue
	engine    *runtime.Engine
	contact   func(context.Context) error
	clock     clock.Clock
	loop      *scheduler.Loop
}

var (
	_ scheduler.Store = (*drills)(nil)
	_ scheduler.World = (*drills)(nil)
	_ control.Drills  = (*drills)(nil)
)

func newDrills(s store.Store, c *estate.Catalogue, e *engine, clk clock.Clock, log *slog.Logger) *drills {
	d := &drills{store: s, catalogue: c, engine: e.Engine, contact: e.contact, clock: clk}
	d.loop = scheduler.New(d, d, clk, log)
	return d
}

// run starts what is due until ctx ends. What is applied, added or paused is
// seen at once.
func (d *drills) run(ctx context.Context) {
	for _, prefix := range []string{estate.KeyPlans, keyDrillAdded} {
		go func() {
			for _, err := range d.store.Watch(ctx, prefix, 0) {
				if err != nil {
					return // ctx ended, or the watch fell behind: the loop looks by itself, too
				}
				d.loop.Kick()
			}
		}()
	}
	d.loop.Run(ctx)
}

// Load implements scheduler.Store.
func (d *drills) Load(ctx context.Context, plan string) (s scheduler.State, err error) {
	_, err = d.read(ctx, keyDrillState+plan, &s)
	return s, err
}

// Save implements scheduler.Store.
func (d *drills) Save(ctx context.Context, plan string, s scheduler.State) error {
	return d.write(ctx, keyDrillState+plan, s)
}

// read reads a key; false: there is none.
func (d *drills) read(ctx context.Context, key string, v any) (bool, error) {
	kv, err := d.store.Get(ctx, key)
	if fault.Is(err, fault.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(kv.Value, v); err != nil {
		return false, fault.Errorf(fault.Corrupt, "cannot read %s in the state: %w", key, err)
	}
	return true, nil
}

func (d *drills) write(ctx context.Context, key string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fault.Errorf(fault.Internal, "cannot write %s: %w", key, err)
	}
	_, err = store.Put(ctx, d.store, key, data)
	return err
}

// scheduled is a plan with the drill that is in force for it.
type scheduled struct {
	plan  *plans.Plan
	drill *plans.Drill
	added bool // by a person, not by the plan
}

// all returns the plans that have a drill, in order.
func (d *drills) all(ctx context.Context) ([]scheduled, error) {
	applied, err := d.catalogue.Plans(ctx)
	if err != nil {
		return nil, err
	}
	var out []scheduled
	for _, a := range applied {
		s := scheduled{plan: a.Plan, drill: a.Plan.Drill}
		var own plans.Drill
		if s.added, err = d.read(ctx, keyDrillAdded+a.Name, &own); err != nil {
			return nil, err
		}
		if s.added {
			s.drill = &own
		}
		if s.drill != nil {
			out = append(out, s)
		}
	}
	return out, nil
}

// Jobs implements scheduler.World.
func (d *drills) Jobs(ctx context.Context) (jobs []scheduler.Job, broken []scheduler.Broken, err error) {
	all, err := d.all(ctx)
	for _, s := range all {
		j, err := jobOf(s.plan.Name, s.drill)
		if err != nil {
			broken = append(broken, scheduler.Broken{Name: s.plan.Name, Err: err})
			continue
		}
		jobs = append(jobs, j)
	}
	return jobs, broken, err
}

// jobOf reads when a drill is due; every mistake of it is in the error.
func jobOf(plan string, d *plans.Drill) (scheduler.Job, error) {
	j := scheduler.Job{Name: plan, Missed: d.Missed, Overlap: d.Overlap, Deadline: d.Deadline, Jitter: d.Jitter}
	var err error
	if d.Cron != "" {
		j.Schedule, err = cron.Parse(d.Cron, d.TZ)
	} else {
		j.Schedule, err = cron.ParseOn(d.On, d.TZ)
	}
	errs := []error{err}
	for _, text := range d.Blackout {
		days, err := cron.ParseDays(text)
		j.Blackout = append(j.Blackout, days)
		errs = append(errs, err)
	}
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(errs) > 0 {
		texts := make([]string, len(errs))
		for i, err := range errs {
			texts[i] = err.Error()
		}
		return j, fault.Errorf(fault.Invalid, "drill of plan %s: %s", plan, strings.Join(texts, "; "))
	}
	return j, nil
}

// Busy implements scheduler.World.
func (d *drills) Busy(ctx context.Context, plan string) (string, error) {
	runs, err := d.engine.Runs(ctx)
	if err != nil {
		return "", err
	}
	for _, r := range runs {
		if scheduler.IsRunOf(plan, r.ID) && !r.Status.Ended() {
			return r.ID, nil
		}
	}
	return "", nil
}

// Exists implements scheduler.World.
func (d *drills) Exists(ctx context.Context, id string) (bool, error) {
	_, err := d.engine.Show(ctx, id)
	if fault.Is(err, fault.NotFound) {
		return false, nil
	}
	return err == nil, err
}

// Start implements scheduler.World.
func (d *drills) Start(ctx context.Context, plan, id string) error {
	all, err := d.all(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(s scheduled) bool { return s.plan.Name == plan })
	if i < 0 {
		return fault.Errorf(fault.NotFound, "plan %s has no drill any more", plan)
	}
	return d.start(ctx, all[i], id, "drill")
}

// start begins a drill: a test that nobody attends, which takes itself away.
func (d *drills) start(ctx context.Context, s scheduled, id, by string) error {
	if err := d.contact(ctx); err != nil {
		return err
	}
	_, err := d.engine.Start(ctx, runtime.Request{Plan: s.plan.Name, Type: recovery.Test, Point: s.drill.Point, TTL: drillTTL(s.drill),
		Unattended: true, Cleanup: true, By: by, ID: id})
	if fault.Is(err, fault.Conflict) {
		if there, lookErr := d.Exists(ctx, id); lookErr == nil && there {
			return nil // by the process before this one
		}
	}
	return err
}

func drillTTL(d *plans.Drill) time.Duration {
	if d.TTL > 0 {
		return d.TTL
	}
	return plans.DefaultDrillTTL
}

// Drills implements control.Drills.
func (d *drills) Drills(ctx context.Context) ([]report.Drill, error) {
	all, err := d.all(ctx)
	if err != nil {
		return nil, err
	}
	out := []report.Drill{}
	for _, s := range all {
		r, err := d.show(ctx, s)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// upcoming is how many of the next drills are shown.
const upcoming = 5

func (d *drills) show(ctx context.Context, s scheduled) (report.Drill, error) {
	r := report.Drill{Plan: s.plan.Name, When: s.drill.Cron + s.drill.On, TZ: s.drill.TZ, Added: s.added, Point: s.drill.Point, TTL: drillTTL(s.drill).Seconds()}
	if r.TZ == "" {
		r.TZ = "UTC"
	}
	st, err := d.Load(ctx, s.plan.Name)
	if err != nil {
		return r, err
	}
	j, err := jobOf(s.plan.Name, s.drill)
	if err != nil {
		r.Broken = err.Error()
	} else if st.Paused == nil {
		r.Next = j.Upcoming(d.clock.Now(), upcoming)
	}
	proven, err := d.Proven(ctx, s.plan.Name)
	if err != nil {
		return r, err
	}
	r.Proven = &proven
	if p := st.Paused; p != nil {
		r.Paused = &report.DrillPause{By: p.By, At: p.At, Text: p.Text}
	}
	for _, e := range st.Events {
		ev := report.DrillEvent{Due: e.Due, At: e.At, What: e.What, Why: e.Why, Run: e.Run, Also: e.Also}
		if e.Run != "" {
			run, err := d.engine.Show(ctx, e.Run)
			switch {
			case err == nil:
				ev.Status, ev.Reason = run.Status, run.Reason
				if why := proving.Faults(run); run.Status == report.RunDone && len(why) > 0 {
					ev.Missed, ev.Reason = true, strings.Join(why, "; ")
				}
			case !fault.Is(err, fault.NotFound): // dropped with the old runs
				return r, err
			}
		}
		r.Events = append(r.Events, ev)
	}
	return r, nil
}

// pastTests is how many tests of a plan the judgement looks at, and shows.
const pastTests = 20

// Proven implements control.Drills.
func (d *drills) Proven(ctx context.Context, plan string) (report.Proven, error) {
	a, err := d.catalogue.Plan(ctx, plan)
	if err != nil {
		return report.Proven{}, err
	}
	rev, err := d.catalogue.Current(ctx)
	if err != nil {
		return report.Proven{}, err
	}
	tests, err := d.engine.Tests(ctx, plan, pastTests)
	if err != nil {
		return report.Proven{}, err
	}
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(a.Bundle.Files)) {
		text.WriteString(a.Bundle.Files[name])
	}
	return proving.Judge(proving.Plan{Name: plan, Plan: a.Plan, Hash: a.Hash, Text: text.String(), Applied: a.At, Estate: rev.Estate, Changed: rev.At}, tests), nil
}

// one returns an applied plan and the drill that is in force for it, if any.
func (d *drills) one(ctx context.Context, plan string) (scheduled, error) {
	a, err := d.catalogue.Plan(ctx, plan)
	if err != nil {
		return scheduled{}, err
	}
	all, err := d.all(ctx)
	if err != nil {
		return scheduled{}, err
	}
	if i := slices.IndexFunc(all, func(s scheduled) bool { return s.plan.Name == plan }); i >= 0 {
		return all[i], nil
	}
	return scheduled{plan: a.Plan}, nil
}

func noDrill(plan string) error {
	return fault.Errorf(fault.Refused, "plan %s has no drill", plan).WithHint(`drrun drill add %s --cron "0 3 * * SUN", or write drill = { … } into the plan`, plan)
}

// AddDrill implements control.Drills.
func (d *drills) AddDrill(ctx context.Context, r control.DrillRequest) (report.Drill, error) {
	s, err := d.one(ctx, r.Plan)
	if err != nil {
		return report.Drill{}, err
	}
	if r.Drill == nil {
		return report.Drill{}, fault.Errorf(fault.Invalid, "say when the drill is due")
	}
	est, _, err := d.catalogue.AppliedEstate(ctx)
	if err != nil {
		return report.Drill{}, err
	}
	if _, err := jobOf(r.Plan, r.Drill); err != nil {
		return report.Drill{}, err
	}
	with := *s.plan
	with.Drill = r.Drill
	if err := plans.Check(&with, est); err != nil {
		return report.Drill{}, fault.Errorf(fault.Invalid, "plan %s cannot be drilled unattended: %w", r.Plan, err)
	}
	if err := d.write(ctx, keyDrillAdded+r.Plan, r.Drill); err != nil {
		return report.Drill{}, err
	}
	return d.show(ctx, scheduled{s.plan, r.Drill, true})
}

// RemoveDrill implements control.Drills.
func (d *drills) RemoveDrill(ctx context.Context, r control.DrillRequest) (report.Drill, error) {
	s, err := d.one(ctx, r.Plan)
	if err != nil {
		return report.Drill{}, err
	}
	if !s.added {
		e := noDrill(r.Plan)
		if s.drill != nil {
			e = fault.Errorf(fault.Refused, "the drill of plan %s is written in the plan", r.Plan).
				WithHint("take it out of the file and apply it, or: drrun drill pause %s", r.Plan)
		}
		return report.Drill{}, e
	}
	if err := store.Delete(ctx, d.store, keyDrillAdded+r.Plan); err != nil {
		return report.Drill{}, err
	}
	return report.Drill{Plan: r.Plan}, nil
}

// RunDrill implements control.Drills.
func (d *drills) RunDrill(ctx context.Context, r control.DrillRequest) (report.Run, error) {
	s, err := d.one(ctx, r.Plan)
	if err != nil {
		return report.Run{}, err
	}
	if s.drill == nil {
		return report.Run{}, noDrill(r.Plan)
	}
	if busy, err := d.Busy(ctx, r.Plan); err != nil || busy != "" {
		if err == nil {
			err = fault.Errorf(fault.Refused, "drill %s of plan %s has not ended", busy, r.Plan).WithHint("drrun watch %s, or: drrun cancel %[1]s", busy)
		}
		return report.Run{}, err
	}
	id := scheduler.RunID(r.Plan, d.clock.Now())
	if there, err := d.Exists(ctx, id); err != nil || there {
		if err == nil {
			err = fault.Errorf(fault.Refused, "a drill of plan %s began in this very minute: %s", r.Plan, id).WithHint("drrun show %s, or ask again in a minute", id)
		}
		return report.Run{}, err
	}
	if err := d.start(ctx, s, id, r.By); err != nil {
		return report.Run{}, err
	}
	err = d.loop.Change(ctx, r.Plan, func(st *scheduler.State) error {
		st.ByHand(id, d.clock.Now())
		return nil
	})
	if err != nil {
		return report.Run{}, err
	}
	run, err := d.engine.Show(ctx, id)
	if err != nil {
		return report.Run{}, err
	}
	return *run, nil
}

// PauseDrill implements control.Drills.
func (d *drills) PauseDrill(ctx context.Context, r control.DrillRequest) (report.Drill, error) {
	s, err := d.one(ctx, r.Plan)
	if err != nil {
		return report.Drill{}, err
	}
	if s.drill == nil {
		return report.Drill{}, noDrill(r.Plan)
	}
	err = d.loop.Change(ctx, r.Plan, func(st *scheduler.State) error {
		switch {
		case r.Resume && st.Paused == nil:
			return fault.Errorf(fault.Refused, "the drill of plan %s is not paused", r.Plan)
		case !r.Resume && st.Paused != nil:
			return fault.Errorf(fault.Refused, "the drill of plan %s is paused since %s by %s", r.Plan, st.Paused.At.UTC().Format(time.RFC3339), st.Paused.By)
		case r.Resume:
			st.Paused = nil
		default:
			st.Paused = &scheduler.Pause{By: r.By, At: d.clock.Now(), Text: r.Text}
		}
		return nil
	})
	if err != nil {
		return report.Drill{}, err
	}
	return d.show(ctx, s)
}
