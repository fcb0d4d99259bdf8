package sandbox

import (
	"runtime"
	"strings"
	"testing"
	"time"

	lua "github.com/yuin/gopher-lua"
)

// TestMeasure: what a state says that it holds is near to what the heap has grown
// by. It is not parallel: the heap is that of the process.
func TestMeasure(t *testing.T) {
	for name, src := range map[string]string{
		"numbers":     `local t = {} for i = 1, 2e5 do t[i] = i + 0.5 end`,
		"lists":       `local t = {} for i = 1, 2e4 do t[i] = { i } end`,
		"records":     `local t = {} for i = 1, 1e4 do t[i] = { a = i, b = "x" } end`,
		"keys":        `local t = {} for i = 1, 5e4 do t["key" .. i] = i end`,
		"far indexes": `local t = {} for i = 1, 2e4 do t[5e6 + i] = i end`,
		"strings":     `local t = {} for i = 1, 2e2 do t[i] = ("x"):rep(1e5) .. i end`,
		"functions":   `local t = {} for i = 1, 5e4 do t[i] = function() return i end end`,
		"a chain":     `local t = {} for i = 1, 2e4 do t = { t } end`,
		"upvalues":    `local f, g for i = 1, 5e4 do local h = f f = function() return h end end`,
		"in a frame":  `local function f() local t = {} for i = 1, 2e4 do t[i] = { i } end coroutine(t) end f()`,
	} {
		var held, grown uint64
		func() {
			b := New(t.Context(), Limits{}, nil)
			defer b.Close()
			runtime.GC()
			before := heap()
			b.Set("coroutine", b.Func(func(L *lua.LState) int {
				runtime.GC()
				held, grown = b.measure(1<<40), heap()-before
				return 0
			}))
			if !strings.Contains(src, "coroutine") {
				src += ` coroutine()`
			}
			if _, err := run(t, b, src); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}()
		if held < grown/3 || held > 3*grown {
			t.Errorf("%s: it says %d KiB, the heap has grown by %d KiB", name, held>>10, grown>>10)
		}
	}
}

// TestOthersGoOn: a state that holds little lives on while another takes all that
// it can get, and that one is ended.
func TestOthersGoOn(t *testing.T) {
	limits := Limits{Heap: 32 << 20}
	runtime.GC() // growth counts from the heap with its garbage
	small, large := box(t, limits), box(t, limits)
	stop := make(chan struct{})
	small.Set("stopped", small.Func(func(L *lua.LState) int {
		select {
		case <-stop:
			return 1 // its argument, which is not nil
		default:
			return 0
		}
	}))
	ended := make(chan error, 1)
	go func() {
		fn, err := small.L.Load(strings.NewReader(`local t = {} for i = 1, 100 do t[i] = { i } end while not stopped(t) do for i = 1, 100 do t[i] = { t[i][1] } end end`), "t.lua")
		if err == nil {
			_, err = small.Call(fn)
		}
		ended <- err
	}()
	begun := time.Now()
	for range 2 {
		_, err := run(t, large, `local t while true do t = { t } end`)
		if err == nil || !strings.Contains(err.Error(), ErrMemory.Error()) {
			t.Errorf("the large one ended with %v after %s", err, time.Since(begun))
		}
		large = box(t, limits)
	}
	select {
	case err := <-ended:
		t.Fatalf("the small one ended: %v", err)
	default:
	}
	close(stop)
	if err := <-ended; err != nil {
		t.Errorf("the small one ended: %v", err)
	}
}
