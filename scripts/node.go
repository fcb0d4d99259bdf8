package scripts

import (
	"fmt"

	lua "github.com/yuin/gopher-lua"

	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts/registry"
	"github.com/drrun/drrun/scripts/sandbox"
)

// node is an item that a constructor built: plan "erp" { … }.
type node struct {
	ctor   *registry.Constructor
	name   string
	body   *lua.LTable // nil: none yet
	pos    plans.Pos
	end    int // line where it ends, as far as it is known
	placed int // how often it stands in another item, or is returned
	broken bool
}

func (n *node) String() string {
	if n.name == "" {
		return n.ctor.Name
	}
	return fmt.Sprintf("%s %q", n.ctor.Name, n.name)
}

// construct is the function behind a constructor's name: kind "name" { body },
// kind("name", { body }), kind { body } for those without a name.
func (p *page) construct(L *lua.LState, ctor *registry.Constructor, pos plans.Pos) int {
	n := &node{ctor: ctor, pos: pos, end: pos.Line}
	p.nodes = append(p.nodes, n)
	if p.running {
		p.box.L.RaiseError("%s cannot be used while the plan runs", ctor.Name)
	}
	arg := L.Get(1)
	if ctor.Unnamed {
		p.setBody(n, arg)
	} else {
		p.setName(n, arg)
		if L.GetTop() > 1 {
			p.setBody(n, L.Get(2))
		}
	}
	ud := L.NewUserData()
	ud.Value = n
	L.SetMetatable(ud, p.nodeMeta)
	L.Push(ud)
	return 1
}

func (p *page) setName(n *node, v lua.LValue) {
	switch s, isString := v.(lua.LString); {
	case isString:
		n.name = string(s)
		n.broken = !p.text(n.ctor.Name, n.pos, n.name)
	case sandbox.IsUnknown(v):
		n.broken = true
	case v.Type() == lua.LTTable:
		n.broken = true
		p.fault(n.pos, "%s: its name is missing: write %s \"name\" { … }", n.ctor.Name, n.ctor.Name)
	default:
		n.broken = true
		p.fault(n.pos, "%s: its name is %s, want a string", n.ctor.Name, describe(v))
	}
}

func (p *page) setBody(n *node, v lua.LValue) {
	t, isTable := v.(*lua.LTable)
	switch {
	case isTable:
		n.body = t
		if info, ok := p.tables[t]; ok {
			n.end = info.End
		}
	case sandbox.IsUnknown(v):
		n.broken = true
	default:
		n.broken = true
		p.fault(n.pos, "%s: its body is %s, want a table { … }", n, describe(v))
	}
}

// callNode is what a call of an item means: its body, or one call too many.
func (p *page) callNode(L *lua.LState) int {
	n, _ := asNode(L.Get(1))
	v := L.Get(2)
	_, isTable := v.(*lua.LTable)
	switch {
	case n.body == nil && isTable && !n.ctor.Unnamed:
		p.setBody(n, v)
	case sandbox.IsUnknown(v):
		n.broken = true
	default:
		p.fault(plans.Pos{File: n.pos.File, Line: n.end}, "%s: one call too many: missing comma after the item that ends at line %d", n, n.end)
	}
	L.Push(L.Get(1))
	return 1
}

func asNode(v lua.LValue) (*node, bool) {
	ud, ok := v.(*lua.LUserData)
	if !ok {
		return nil, false
	}
	n, ok := ud.Value.(*node)
	return n, ok
}

// makeNodeMeta makes the metatable that all items of a page share.
func (p *page) makeNodeMeta() {
	L := p.box.L
	mt := L.NewTable()
	mt.RawSetString("__call", p.box.Func(p.callNode))
	mt.RawSetString("__tostring", p.box.Func(func(L *lua.LState) int {
		n, _ := asNode(L.Get(1))
		L.Push(lua.LString(n.String()))
		return 1
	}))
	mt.RawSetString("__index", p.box.Func(func(L *lua.LState) int {
		n, _ := asNode(L.Get(1))
		hint := "put the value into a local first"
		if p.running {
			hint = "in a function use run:machine(name)"
		}
		p.fault(p.here(L), "%s: an item cannot be read: %s", n, hint)
		L.Push(p.unknown)
		return 1
	}))
	mt.RawSetString("__newindex", p.box.Func(func(L *lua.LState) int {
		n, _ := asNode(L.Get(1))
		p.fault(p.here(L), "%s: an item cannot be changed: write it in its body", n)
		return 0
	}))
	mt.RawSetString("__metatable", lua.LString("protected"))
	p.nodeMeta = mt
}

// describe says what a value is, in a message.
func describe(v lua.LValue) string {
	switch v := v.(type) {
	case *lua.LNilType:
		return "nil"
	case lua.LString:
		s := string(v)
		if len(s) > 40 {
			s = s[:40] + "…"
		}
		return fmt.Sprintf("the string %q", s)
	case lua.LNumber:
		return "the number " + v.String()
	case lua.LBool:
		return v.String()
	case *lua.LTable:
		return "a table"
	case *lua.LFunction:
		return "a function"
	}
	if n, ok := asNode(v); ok {
		return "the item " + n.String()
	}
	if s, ok := asSecret(v); ok {
		return "the secret " + s.Name
	}
	return "a " + v.Type().String()
}
