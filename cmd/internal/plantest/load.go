package plantest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime"
	"github.com/drrun/drrun/runtime/simworld"
	"github.com/drrun/drrun/scripts"
	"github.com/drrun/drrun/scripts/hostcall"
)

// Subject is a plan with the estate it is tried in.
type Subject struct {
	Bundle plans.Bundle
	Plan   *plans.Plan
	Estate *plans.Estate
	World  *plans.Bundle // NAME_world.lua or world.lua beside the plan; nil: there is none
	lua    *scripts.Loader
}

// Load reads a plan, its estate (estate.lua beside the plan, unless named) and
// its world file. Errors are those of drrun check.
func Load(lua *scripts.Loader, plan, estate string, set map[string]string) (*Subject, error) {
	if estate == "" {
		estate = filepath.Join(filepath.Dir(plan), "estate.lua")
	}
	eb, err := readBundle(estate)
	if err != nil {
		return nil, fault.Errorf(fault.Invalid, "%s has no estate to run in: %w", plan, err).WithHint("--estate FILE, or estate.lua beside the plan")
	}
	e, err := lua.LoadEstate(eb)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	return LoadIn(lua, plan, e, set)
}

// LoadIn reads a plan and its world file for an estate that is loaded.
func LoadIn(lua *scripts.Loader, plan string, e *plans.Estate, set map[string]string) (*Subject, error) {
	b, err := readBundle(plan)
	if err != nil {
		return nil, err
	}
	s, err := loadPlan(lua, b, e, set)
	if err != nil {
		return nil, err
	}
	for _, world := range []string{strings.TrimSuffix(plan, ".lua") + "_world.lua", filepath.Join(filepath.Dir(plan), "world.lua")} {
		if _, err := os.Stat(world); err != nil {
			continue
		}
		wb, err := readBundle(world)
		if err != nil {
			return nil, err
		}
		s.World = &wb
		break
	}
	return s, nil
}

// LoadBundles loads a plan and its estate, as drrun check does.
func LoadBundles(lua *scripts.Loader, plan, estate plans.Bundle, set map[string]string) (*Subject, error) {
	e, err := lua.LoadEstate(estate)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	return loadPlan(lua, plan, e, set)
}

func loadPlan(lua *scripts.Loader, plan plans.Bundle, e *plans.Estate, set map[string]string) (*Subject, error) {
	s := &Subject{lua: lua, Bundle: plan, Estate: e}
	var err error
	if s.Plan, err = lua.LoadPlan(plan, set); err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	if err := plans.Check(s.Plan, s.Estate); err != nil {
		var fs plans.Faults
		if errors.As(err, &fs) {
			err = fs.WithSource(plan)
		}
		return nil, fault.Wrap(fault.Invalid, err)
	}
	return s, nil
}

func readBundle(file string) (plans.Bundle, error) {
	b, err := scripts.ReadBundle(os.ReadFile, filepath.Clean(file))
	if fault.Is(err, fault.NotFound) {
		if near := nearFile(file); near != "" {
			err = fmt.Errorf("%w, did you mean %q?", err, near)
		}
	}
	if err != nil {
		return b, fault.Wrap(fault.Invalid, err)
	}
	return b, nil
}

// nearFile is the plan or estate in the folder that was probably meant.
func nearFile(file string) string {
	found, err := filepath.Glob(filepath.Join(filepath.Dir(file), "*.lua"))
	if err != nil {
		return ""
	}
	var names []string
	for _, f := range found {
		name := filepath.Base(f)
		if name == filepath.Base(file)+".lua" {
			return name
		}
		if !strings.HasSuffix(name, "_test.lua") && !strings.HasSuffix(name, "_world.lua") {
			names = append(names, strings.TrimSuffix(name, ".lua"))
		}
	}
	if near := plans.Nearest(strings.TrimSuffix(filepath.Base(file), ".lua"), names); near != "" {
		return near + ".lua"
	}
	return ""
}

// engineScripts is the plan as it was loaded, with functions whose host calls the
// world answers.
type engineScripts struct {
	*Subject
	w *simworld.World
}

var _ runtime.Scripts = engineScripts{}

// Scripts is the plan for an engine in a world.
func (s *Subject) Scripts(w *simworld.World) runtime.Scripts { return engineScripts{s, w} }

// LoadPlan implements runtime.Scripts.
func (s engineScripts) LoadPlan(_ plans.Bundle, set map[string]string) (*plans.Plan, error) {
	if len(set) == 0 {
		return s.Plan, nil
	}
	return s.lua.LoadPlan(s.Bundle, set)
}

// RunFunc implements runtime.Scripts.
func (s engineScripts) RunFunc(ctx context.Context, b plans.Bundle, ref plans.FuncRef, info plans.RunInfo, host plans.HostCalls) (bool, string, error) {
	return s.lua.RunFunc(ctx, b, ref, info, &worldCalls{host, s.w})
}

// worldCalls does the operations of a function in the world.
type worldCalls struct {
	plans.HostCalls
	w *simworld.World
}

// pure are operations that ask nobody outside: the engine answers them.
var pure = []string{"now", "math.random", "time.sleep", "exec.run"}

// Op implements plans.HostCalls.
func (c *worldCalls) Op(ctx context.Context, name string, class plans.OpClass, args json.RawMessage,
	do func(ctx context.Context, key string) (json.RawMessage, error)) (json.RawMessage, error) {
	return c.HostCalls.Op(ctx, name, class, args, func(ctx context.Context, key string) (json.RawMessage, error) {
		if slices.Contains(pure, name) || strings.HasPrefix(name, "run.") {
			return do(c.w.Declare(ctx, key, class), key)
		}
		v, known, err := c.w.Operate(ctx, simworld.Operation{Name: name, Class: class, Args: args, Key: key})
		switch {
		case !known:
			return nil, fault.Errorf(fault.Failed, "the simulated world has no answer to %s", name)
		case err != nil && (ctx.Err() != nil || fault.Is(err, fault.Unknown)):
			return nil, err
		}
		return hostcall.Outcome(v, err)
	})
}

// errf is an error at a value of a test file.
func errf(format string, args ...any) error { return fmt.Errorf(format, args...) }
