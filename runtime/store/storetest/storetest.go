// Package storetest is the behaviour that every engine of runtime/store must
// show. It is for tests only; each engine's test calls Run.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/runtime/store"
)

// Run checks an engine. open returns a fresh, empty store.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	t.Helper()
	cases := map[string]func(*testing.T, store.Store){
		"get and put": getAndPut, "compare and set": compareAndSet, "all or nothing": allOrNothing,
		"list": list, "limits": limits, "watch": watch, "watch too old": watchTooOld, "closed": closed,
		"parallel increments": parallelIncrements,
	}
	for name, f := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			f(t, s)
		})
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func getAndPut(t *testing.T, s store.Store) {
	ctx := t.Context()
	if _, err := s.Get(ctx, "a"); !fault.Is(err, fault.NotFound) {
		t.Fatalf("get of an absent key: %v, want not-found", err)
	}
	value := []byte("one")
	r1 := must[int64](t)(store.Put(ctx, s, "a", value))
	value[0] = 'X' // the store must have its own copy
	kv := must[store.KV](t)(s.Get(ctx, "a"))
	if string(kv.Value) != "one" || kv.CreateRev != r1 || kv.ModRev != r1 {
		t.Fatalf("got %+v, want one at %d", kv, r1)
	}
	kv.Value[0] = 'Y'
	r2 := must[int64](t)(store.Put(ctx, s, "a", []byte("")))
	kv = must[store.KV](t)(s.Get(ctx, "a"))
	if len(kv.Value) != 0 || kv.CreateRev != r1 || kv.ModRev != r2 || r2 <= r1 {
		t.Fatalf("got %+v after revisions %d, %d", kv, r1, r2)
	}
	if err := store.Delete(ctx, s, "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(ctx, "a"); !fault.Is(err, fault.NotFound) {
		t.Fatalf("get of a deleted key: %v, want not-found", err)
	}
	if rev := must[int64](t)(s.Rev(ctx)); rev <= r2 {
		t.Fatalf("revision %d after a delete, want more than %d", rev, r2)
	}
}

func compareAndSet(t *testing.T, s store.Store) {
	ctx := t.Context()
	absent := store.Txn{If: []store.Cmp{{Key: "k"}}, Then: []store.Op{{Key: "k", Value: []byte("1")}}}
	r1, ok, err := s.Txn(ctx, absent)
	if err != nil || !ok {
		t.Fatalf("create: %v %v", ok, err)
	}
	if r, ok, err := s.Txn(ctx, absent); err != nil || ok || r != r1 {
		t.Fatalf("second create: rev %d ok %v err %v, want %d false nil", r, ok, err, r1)
	}
	r2, ok, err := s.Txn(ctx, store.Txn{If: []store.Cmp{{Key: "k", ModRev: r1}}, Then: []store.Op{{Key: "k", Value: []byte("2")}}})
	if err != nil || !ok || r2 != r1+1 {
		t.Fatalf("update: rev %d ok %v err %v", r2, ok, err)
	}
	_, ok, err = s.Txn(ctx, store.Txn{If: []store.Cmp{{Key: "k", ModRev: r1}}, Then: []store.Op{{Key: "k", Delete: true}}})
	if err != nil || ok {
		t.Fatalf("stale delete: ok %v err %v", ok, err)
	}
	// Only comparisons: nothing is written, no revision spent.
	r, ok, err := s.Txn(ctx, store.Txn{If: []store.Cmp{{Key: "k", ModRev: r2}}})
	if err != nil || !ok || r != r2 {
		t.Fatalf("pure comparison: rev %d ok %v err %v", r, ok, err)
	}
}

func allOrNothing(t *testing.T, s store.Store) {
	ctx := t.Context()
	_, ok, err := s.Txn(ctx, store.Txn{
		If:   []store.Cmp{{Key: "x"}, {Key: "y", ModRev: 99}},
		Then: []store.Op{{Key: "x", Value: []byte("1")}, {Key: "y", Value: []byte("1")}},
	})
	if err != nil || ok {
		t.Fatalf("ok %v err %v", ok, err)
	}
	for kv := range s.List(ctx, "") {
		t.Errorf("left behind: %s", kv.Key)
	}
	rev, ok, err := s.Txn(ctx, store.Txn{Then: []store.Op{{Key: "x", Value: []byte("1")}, {Key: "y", Value: []byte("2")}}})
	if err != nil || !ok {
		t.Fatalf("ok %v err %v", ok, err)
	}
	for kv, err := range s.List(ctx, "") {
		if err != nil || kv.ModRev != rev {
			t.Errorf("%s at %d (%v), want one revision %d", kv.Key, kv.ModRev, err, rev)
		}
	}
}

func list(t *testing.T, s store.Store) {
	ctx := t.Context()
	for _, k := range []string{"run/b", "run/a/1", "run", "run/a", "rum", "runs", "s"} {
		must[int64](t)(store.Put(ctx, s, k, []byte(k)))
	}
	var got []string
	for kv, err := range s.List(ctx, "run/") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, kv.Key)
		must[int64](t)(store.Put(ctx, s, "run/zz", nil)) // a loop may write
	}
	if want := "[run/a run/a/1 run/b]"; fmt.Sprint(got) != want {
		t.Fatalf("got %v, want %v", got, want)
	}
	for range s.List(ctx, "") {
		break // leaving early is fine
	}
}

func limits(t *testing.T, s store.Store) {
	ctx := t.Context()
	ops := func(n int) (out []store.Op) {
		for i := range n {
			out = append(out, store.Op{Key: fmt.Sprintf("k%03d", i)})
		}
		return out
	}
	if _, ok, err := s.Txn(ctx, store.Txn{Then: ops(store.MaxOps)}); err != nil || !ok {
		t.Fatalf("at the limit: ok %v err %v", ok, err)
	}
	long := string(make([]byte, store.MaxKey+1))
	for name, txn := range map[string]store.Txn{
		"too many":  {Then: ops(store.MaxOps + 1)},
		"twice":     {Then: []store.Op{{Key: "a"}, {Key: "a", Delete: true}}},
		"no key":    {Then: []store.Op{{}}},
		"long key":  {Then: []store.Op{{Key: long}}},
		"long cmp":  {If: []store.Cmp{{Key: long}}},
		"big value": {Then: []store.Op{{Key: "a", Value: make([]byte, store.MaxValue+1)}}},
	} {
		if _, _, err := s.Txn(ctx, txn); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
}

func watch(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	r0 := must[int64](t)(s.Rev(ctx))
	must[int64](t)(store.Put(ctx, s, "w/a", []byte("1")))
	must[int64](t)(store.Put(ctx, s, "other", []byte("1")))
	seen := make(chan string, 16)
	var wg sync.WaitGroup
	stop := errors.New("stop watching")
	wg.Go(func() {
		for ev, err := range s.Watch(ctx, "w/", r0+1) {
			if err != nil {
				seen <- err.Error()
				return
			}
			seen <- fmt.Sprintf("%s=%s %v", ev.Key, ev.Value, ev.Deleted)
		}
	})
	expect := func(want string) {
		t.Helper()
		if got := <-seen; got != want {
			t.Errorf("watch saw %q, want %q", got, want)
		}
	}
	expect("w/a=1 false")
	must[int64](t)(store.Put(ctx, s, "w/a", []byte("2")))
	expect("w/a=2 false")
	if err := store.Delete(ctx, s, "w/a"); err != nil {
		t.Fatal(err)
	}
	expect("w/a= true")
	cancel(stop)
	expect(stop.Error())
	wg.Wait()
}

func watchTooOld(t *testing.T, s store.Store) {
	ctx := t.Context()
	for i := range 2 * store.HistoryEvents / (store.MaxOps - 8) {
		var ops []store.Op
		for j := range store.MaxOps - 8 {
			ops = append(ops, store.Op{Key: fmt.Sprintf("k%d", j), Value: []byte{byte(i)}})
		}
		if _, _, err := s.Txn(ctx, store.Txn{Then: ops}); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range s.Watch(ctx, "", 1) {
		if !errors.Is(err, store.ErrCompacted) {
			t.Fatalf("watch of an old revision: %v, want ErrCompacted", err)
		}
	}
	rev := must[int64](t)(s.Rev(ctx))
	n := 0
	for ev, err := range s.Watch(ctx, "", rev) {
		if err != nil || ev.Rev != rev {
			t.Fatalf("revision %d (%v), want %d", ev.Rev, err, rev)
		}
		if n++; n == store.MaxOps-8 {
			break
		}
	}
}

func closed(t *testing.T, s store.Store) {
	ctx := t.Context()
	must[int64](t)(store.Put(ctx, s, "a", nil))
	w := s.Watch(ctx, "", 0)
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	for _, err := range w {
		if !errors.Is(err, store.ErrClosed) {
			t.Errorf("watch: %v, want ErrClosed", err)
		}
	}
	if _, err := s.Get(ctx, "a"); !errors.Is(err, store.ErrClosed) {
		t.Errorf("get: %v, want ErrClosed", err)
	}
	if _, err := store.Put(ctx, s, "a", nil); !errors.Is(err, store.ErrClosed) {
		t.Errorf("put: %v, want ErrClosed", err)
	}
	for _, err := range s.List(ctx, "") {
		if !errors.Is(err, store.ErrClosed) {
			t.Errorf("list: %v, want ErrClosed", err)
		}
	}
}

func parallelIncrements(t *testing.T, s store.Store) {
	ctx := t.Context()
	const workers, each = 4, 10
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for done := 0; done < each; {
				kv, err := s.Get(ctx, "n")
				if err != nil && !fault.Is(err, fault.NotFound) {
					t.Error(err)
					return
				}
				next := append(kv.Value, 'x')
				_, ok, err := s.Txn(ctx, store.Txn{If: []store.Cmp{{Key: "n", ModRev: kv.ModRev}}, Then: []store.Op{{Key: "n", Value: next}}})
				if err != nil {
					t.Error(err)
					return
				}
				if ok {
					done++
				}
			}
		})
	}
	wg.Wait()
	if kv := must[store.KV](t)(s.Get(ctx, "n")); len(kv.Value) != workers*each {
		t.Fatalf("%d increments survived, want %d", len(kv.Value), workers*each)
	}
}
