package sandbox

import (
	"context"
	"time"
	"unsafe"

	lua "github.com/yuin/gopher-lua"
)

// The heap is that of the process: when it has grown, one of several states may
// have done it, or none. So a state that is suspected says itself what it holds,
// between two of its instructions.

// pausing is the context that the library asks for before each instruction.
type pausing struct {
	context.Context
	b *Box
}

// Done implements context.Context.
func (p pausing) Done() <-chan struct{} {
	if p.b.asked.Load() && p.b.asked.CompareAndSwap(true, false) {
		p.b.holds <- p.b.measure(p.b.limits.Heap / guilt)
	}
	return p.Context.Done()
}

// guilt is the part of the limit that a state must hold for what the heap of the
// process has grown by to be its doing.
const guilt = 4

// What values take, roughly; bytes.
const (
	sizeTable    = 100
	sizeSlot     = 24  // of the list part, with its number
	leastSlots   = 8   // of a list that is not empty
	sizeMaps     = 600 // of a table that has keys
	sizeEntry    = 100 // of each key
	sizeFunction = 200
	longText     = 64 // shorter ones are counted with what holds them
)

// measure is what the state holds, roughly: all that its code can reach, and
// what else belongs to it. It ends at most.
func (b *Box) measure(most uint64) uint64 {
	m := meter{seen: make(map[unsafe.Pointer]struct{}), most: most}
	m.add(b.L.G.Global)
	m.add(b.L.G.Registry)
	for level := 0; ; level++ {
		frame, ok := b.L.GetStack(level)
		if !ok {
			break
		}
		if fn, err := b.L.GetInfo("f", frame, lua.LNil); err == nil {
			m.add(fn)
		}
		for i := 1; ; i++ {
			name, v := b.L.GetLocal(frame, i)
			if name == "" {
				break
			}
			m.add(v)
		}
	}
	if b.Belongs != nil {
		b.Belongs(m.add)
	}
	m.run()
	return m.size
}

type meter struct {
	seen map[unsafe.Pointer]struct{}
	open []lua.LValue
	size uint64
	most uint64
}

func (m *meter) add(v lua.LValue) {
	switch v := v.(type) {
	case *lua.LTable, *lua.LFunction, *lua.LUserData:
		m.open = append(m.open, v)
	case lua.LString:
		if len(v) > longText && m.first(unsafe.Pointer(unsafe.StringData(string(v)))) {
			m.size += uint64(len(v))
		}
	}
}

func (m *meter) first(p unsafe.Pointer) bool {
	_, twice := m.seen[p]
	m.seen[p] = struct{}{}
	return !twice
}

func (m *meter) run() {
	for len(m.open) > 0 && m.size < m.most {
		v := m.open[len(m.open)-1]
		m.open = m.open[:len(m.open)-1]
		switch v := v.(type) {
		case *lua.LTable:
			m.table(v)
		case *lua.LFunction:
			if v == nil || !m.first(unsafe.Pointer(v)) {
				continue
			}
			m.size += sizeFunction
			for _, u := range v.Upvalues {
				m.add(u.Value())
			}
		case *lua.LUserData:
			if v != nil && m.first(unsafe.Pointer(v)) {
				m.add(v.Metatable)
			}
		}
	}
}

func (m *meter) table(t *lua.LTable) {
	if t == nil || !m.first(unsafe.Pointer(t)) {
		return
	}
	list := t.MaxN()
	m.size += sizeTable
	if list > 0 {
		m.size += uint64(max(list, leastSlots)) * sizeSlot
	}
	m.add(t.Metatable)
	entries := 0
	for k, v := t.Next(lua.LNil); k != lua.LNil && m.size < m.most; k, v = t.Next(k) {
		if n, number := k.(lua.LNumber); !number || int(n) > list {
			if entries++; entries == 1 {
				m.size += sizeMaps
			}
			m.size += sizeEntry
		}
		m.add(k)
		m.add(v)
	}
}

// own asks the code what it holds. false: it has not come to an instruction in
// time, or waits for the world.
func (b *Box) own() (held uint64, ok bool) {
	b.asked.Store(true)
	late := time.NewTimer(100 * watchEvery)
	defer late.Stop()
	select {
	case held = <-b.holds:
		return held, true
	case <-late.C:
	case <-b.ctx.Done():
	}
	if b.asked.CompareAndSwap(true, false) {
		return 0, false
	}
	return <-b.holds, true // it counts already, and stands still meanwhile
}
