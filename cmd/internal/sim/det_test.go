package sim

import (
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// TestRuntimeRepeats holds the runtime of detrt to its promise.
func TestRuntimeRepeats(t *testing.T) {
	if !exact {
		t.Log("without the overlay of detrt only a run under one P is looked at")
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	one := func(seed uint64) (out string) {
		seedRuntime(seed)
		defer seedRuntime(0)
		synctest.Test(t, func(t *testing.T) {
			<-time.After(time.Nanosecond)
			a, b := make(chan int, 9), make(chan int, 9)
			for i := range 9 {
				a <- i
				b <- i + 10
			}
			m := map[int]bool{}
			for i := range 50 {
				m[i*7] = true
			}
			for k := range m {
				out += fmt.Sprint(k, " ")
			}
			for range 5 {
				select {
				case n := <-a:
					out += fmt.Sprint("a", n, " ")
				case n := <-b:
					out += fmt.Sprint("b", n, " ")
				}
			}
			c := make(chan int, 20)
			for i := range 20 {
				time.AfterFunc(time.Second, func() { c <- i })
			}
			<-time.After(2 * time.Second)
			for range 20 {
				out += fmt.Sprint(<-c, " ")
			}
		})
		return out
	}
	first, second, other := one(7), one(7), one(8)
	if exact && first != second {
		t.Errorf("one seed, two ways:\n%s\n%s", first, second)
	}
	if exact && first == other {
		t.Error("two seeds, one way")
	}
	t.Log(first)
}
