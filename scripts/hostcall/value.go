package hostcall

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/drrun/drrun/scripts/sandbox"
	lua "github.com/yuin/gopher-lua"
)

const maxDepth = 64

// ToLua makes the Lua value of a decoded JSON value (the types of any).
func ToLua(L *lua.LState, v any) lua.LValue {
	switch v := v.(type) {
	case nil:
		return lua.LNil
	case bool:
		return lua.LBool(v)
	case float64:
		return lua.LNumber(v)
	case int:
		return lua.LNumber(v)
	case string:
		return lua.LString(v)
	case []any:
		t := L.NewTable()
		for i, item := range v {
			t.RawSetInt(i+1, ToLua(L, item))
		}
		return t
	case map[string]any:
		t := L.NewTable()
		for _, k := range slices.Sorted(maps.Keys(v)) {
			t.RawSetString(k, ToLua(L, v[k]))
		}
		return t
	}
	return lua.LString(fmt.Sprint(v))
}

// MaxValues is how many values FromLua takes: a table that holds one table many
// times, level by level, is small in Lua and without end as a text.
const MaxValues = 100_000

// FromLua makes the JSON value of a Lua value. A table is a list when its keys
// are 1 to n, an object when they are all strings; an empty table is an object.
// text says what a secret becomes.
func FromLua(v lua.LValue, text func(lua.LValue) (string, error)) (any, error) {
	c := converter{text: text, left: MaxValues}
	return c.value(v, 0)
}

type converter struct {
	text func(lua.LValue) (string, error)
	left int // values that may still come
}

func (c *converter) value(v lua.LValue, depth int) (any, error) {
	if c.left--; c.left < 0 {
		return nil, fmt.Errorf("more than %d values", MaxValues)
	}
	if depth > maxDepth {
		return nil, errors.New("tables are nested too deep, or in a circle")
	}
	switch v := v.(type) {
	case *lua.LNilType:
		return nil, nil
	case lua.LBool:
		return bool(v), nil
	case lua.LNumber:
		if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
			return nil, fmt.Errorf("%v has no JSON", v)
		}
		return float64(v), nil
	case lua.LString:
		return string(v), nil
	case *lua.LTable:
		return c.table(v, depth)
	}
	if _, ok := AsSecret(v); ok {
		return c.text(v)
	}
	return nil, fmt.Errorf("a %s has no JSON", v.Type())
}

func (c *converter) table(t *lua.LTable, depth int) (any, error) {
	list, object := []any{}, make(map[string]any)
	var err error
	sandbox.ForEach(t, func(k, v lua.LValue) {
		if err != nil {
			return
		}
		var item any
		if item, err = c.value(v, depth+1); err != nil {
			return
		}
		switch key := k.(type) {
		case lua.LString:
			object[string(key)] = item
		case lua.LNumber:
			if int(key) != len(list)+1 || float64(key) != math.Trunc(float64(key)) {
				err = errors.New("a list with holes has no JSON")
				return
			}
			list = append(list, item)
		default:
			err = fmt.Errorf("a table whose key is a %s has no JSON", k.Type())
		}
	})
	switch {
	case err != nil:
		return nil, err
	case len(list) > 0 && len(object) > 0:
		return nil, errors.New("a table with items and keys has no JSON")
	case len(list) > 0:
		return list, nil
	}
	return object, nil
}
