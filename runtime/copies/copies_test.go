package copies_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/copies"
	"github.com/drrun/drrun/runtime/estate"
	"github.com/drrun/drrun/runtime/journal"
	"github.com/drrun/drrun/runtime/store"
)

var began = time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC)

// agents keep items as real ones do: no older version, no lower fencing number.
type agents struct {
	mu    sync.Mutex
	down  map[string]bool
	items map[string]map[string]command.CatalogueItem // by host, by name
	data  map[string]map[string][]byte
	fence map[string]ident.Fence // of machines
}

func newAgents(hosts ...string) *agents {
	a := &agents{down: map[string]bool{}, items: map[string]map[string]command.CatalogueItem{}, data: map[string]map[string][]byte{}, fence: map[string]ident.Fence{}}
	for _, h := range hosts {
		a.items[h], a.data[h] = map[string]command.CatalogueItem{}, map[string][]byte{}
	}
	return a
}

func (a *agents) seen(host string) ident.Fence {
	return max(a.fence[host], ident.Fence(a.items[host]["fence"].Version))
}

func (a *agents) Call(_ context.Context, host, verb string, in, out any) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.down[host] || a.items[host] == nil {
		return fault.Errorf(fault.Unreachable, "host %s is down", host)
	}
	var res any = command.Empty{}
	switch in := in.(type) {
	case command.CatalogueListRequest:
		l := command.CatalogueListResult{Fence: a.seen(host)}
		for _, n := range slices.Sorted(maps.Keys(a.items[host])) {
			l.Items = append(l.Items, a.items[host][n])
		}
		res = l
	case command.CatalogueGetRequest:
		d := a.data[host][in.Name][in.Offset:]
		res = command.CatalogueGetResult{Item: a.items[host][in.Name], Data: d[:min(len(d), 100)]}
	case command.CatalogueDropRequest:
		for _, n := range in.Names {
			delete(a.items[host], n)
		}
	case command.CataloguePutRequest:
		have := a.items[host][in.Item.Name]
		replace := in.Replace && in.Item.Fence > have.Fence
		if in.Item.Fence < a.seen(host) || in.Item.Version < have.Version && !replace {
			return fault.Errorf(fault.Conflict, "host %s has a newer %s", host, in.Item.Name)
		}
		if in.Offset == 0 {
			a.data[host][in.Item.Name] = nil
		}
		a.data[host][in.Item.Name] = append(a.data[host][in.Item.Name], in.Data...)
		a.items[host][in.Item.Name] = in.Item
	case command.StatusRequest:
		res = command.AgentStatus{Host: host}
	}
	reflect.ValueOf(out).Elem().Set(reflect.ValueOf(res))
	return nil
}

// world is a state with two hosts.
type world struct {
	t      *testing.T
	store  store.Store
	agents *agents
	keeper *copies.Keeper
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, agents: newAgents("par-1", "lyo-1")}
	w.use(store.NewMemory())
	w.estate(1, "first")
	w.put("fencing", ident.Fence(5))
	return w
}

// use goes on with another store.
func (w *world) use(s store.Store) {
	w.store = s
	w.keeper = copies.NewKeeper(copies.Options{Store: s, Caller: w.agents,
		Hosts: func(context.Context) ([]string, error) { return []string{"par-1", "lyo-1"}, nil },
		CA:    func() ([]byte, uint64) { return []byte("the CA"), 9 }})
}

func (w *world) no(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("%v (hint: %s)", err, fault.Hint(err))
	}
}

func (w *world) put(key string, v any) {
	w.t.Helper()
	raw, err := json.Marshal(v)
	w.no(err)
	_, err = store.Put(context.Background(), w.store, key, raw)
	w.no(err)
}

func (w *world) estate(revision uint64, by string) {
	e := &plans.Estate{Name: "acme", Sites: []plans.Site{
		{Name: "paris", Clouds: []plans.Cloud{{Name: "prod", Hosts: []plans.Host{{Name: "par-1", Addr: "10.0.0.1:7830"}}}}},
		{Name: "lyon", Clouds: []plans.Cloud{{Name: "dr", Hosts: []plans.Host{{Name: "lyo-1", Addr: "10.0.0.2:7830"}}}}}}}
	w.put("estate/current", estate.Revision{Number: revision, Estate: e, By: by, At: began})
	w.put("estate/host/par-1", estate.HostRecord{Joined: began, Started: map[string]bool{"db1": true}, Acked: map[string]string{"db1": "x"}})
	w.put("estate/plan/erp", estate.Applied{Name: "erp"})
}

// run writes a run with that many records. way tells two histories apart.
func (w *world) run(id, status string, records int, way string, at time.Duration) {
	w.t.Helper()
	blob := []byte(`"` + id + ` source"`)
	hash := fmt.Sprintf("%x", sha256.Sum256(blob))
	w.no(errOf(store.Put(context.Background(), w.store, "blob/"+hash, blob)))
	for seq := range records {
		body := fmt.Sprintf(`{"text":%q}`, way)
		if seq == 0 {
			body = fmt.Sprintf(`{"run":{"id":%q,"bundle":%q}}`, id, hash)
		}
		raw, err := journal.Encode(journal.Record{Seq: uint64(seq + 1), Time: began.Add(at), Kind: "noted", Body: json.RawMessage(body)}) //nolint:gosec // small
		w.no(err)
		w.no(errOf(store.Put(context.Background(), w.store, journal.Key(id, uint64(seq+1)), raw))) //nolint:gosec // small
	}
	w.put("runs/"+id, map[string]any{"version": 1, "id": id, "type": "planned", "status": status, "created": began.Add(at), "machines": []string{"db1"}})
}

func errOf[T any](_ T, err error) error { return err }

// all is the content of a store under the prefixes that are copied.
func (w *world) all() map[string]string {
	w.t.Helper()
	out := map[string]string{}
	for _, prefix := range []string{"estate/", "runs/", "run/", "blob/", "claims"} {
		for kv, err := range w.store.List(context.Background(), prefix) {
			w.no(err)
			if !strings.HasPrefix(kv.Key, "estate/host/") {
				out[kv.Key] = string(kv.Value)
			}
		}
	}
	return out
}

func (w *world) recover(change func(*copies.RecoverOptions)) (*copies.Report, error) {
	w.t.Helper()
	o := copies.RecoverOptions{Store: w.store, Caller: w.agents, Clock: clock.Func(func() time.Time { return began.Add(time.Hour) }),
		Hosts: []string{"par-1", "lyo-1"}, Note: note}
	if change != nil {
		change(&o)
	}
	return copies.Recover(w.t.Context(), o)
}

// note appends a record that says so, as the engine does.
func note(ctx context.Context, s store.Store, id, text string, lost bool, now time.Time) error {
	j, _, err := journal.Load(ctx, s, id)
	if err != nil {
		return err
	}
	_, _, err = j.Append(ctx, journal.Record{Time: now, Kind: "noted", Body: json.RawMessage(fmt.Sprintf(`{"text":%q,"lost":%v}`, text, lost))}, nil)
	return err
}

func (w *world) has(host, name string) uint64 { return w.agents.items[host][name].Version }

// TestCopiesFollow: every change reaches both hosts, a host that was down gets
// it later, and the newest 200 of the ended runs are kept.
func TestCopiesFollow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run("erp-1", "uncommitted", 7, "a", 0)
	w.agents.down["lyo-1"] = true
	w.keeper.Round(t.Context())
	if w.has("par-1", "estate") != 1 || w.has("par-1", "run/erp-1") != 7 || w.has("par-1", "fence") != 5 || w.has("par-1", "ca") != 9 {
		t.Errorf("par-1 has %v", w.agents.items["par-1"])
	}
	w.agents.down["lyo-1"] = false
	w.use(w.store) // its pause is over
	for i := range 205 {
		w.run(fmt.Sprintf("old-%03d", i), "committed", 2, "a", time.Duration(i)*time.Minute-1000*time.Hour)
	}
	w.put("estate/ended", map[string]any{})
	w.keeper.Round(t.Context())
	for _, host := range []string{"par-1", "lyo-1"} {
		if w.has(host, "estate") != 2 || w.has(host, "run/erp-1") != 7 || w.has(host, "run/old-005") != 2 || w.has(host, "run/old-004") != 0 {
			t.Errorf("%s: estate %d, erp-1 %d, old-005 %d, old-004 %d", host, w.has(host, "estate"), w.has(host, "run/erp-1"), w.has(host, "run/old-005"), w.has(host, "run/old-004"))
		}
		if got := w.keeper.Behind(t.Context(), host); got != "" {
			t.Errorf("%s: %s", host, got)
		}
	}
	w.run("new-1", "committed", 3, "a", time.Hour)
	if got := w.keeper.Behind(t.Context(), "par-1"); !strings.Contains(got, "is behind: run/new-1") {
		t.Errorf("before the next round: %q", got)
	}
	w.keeper.Round(t.Context())
	if w.has("par-1", "run/new-1") != 3 || w.has("par-1", "run/old-005") != 0 || w.has("par-1", "run/old-006") != 2 {
		t.Errorf("the oldest of 201 did not make room")
	}
	w.no(w.keeper.Check(t.Context()))
}

// TestOldRunsThatGoOn: however many runs have ended since, one that has not is
// copied.
func TestOldRunsThatGoOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run("erp-1", "uncommitted", 7, "a", -2000*time.Hour)
	for i := range copies.KeepEnded + 5 {
		w.run(fmt.Sprintf("old-%03d", i), "committed", 2, "a", time.Duration(i)*time.Minute-1000*time.Hour)
	}
	w.keeper.Round(t.Context())
	if w.has("par-1", "run/erp-1") != 7 || w.has("par-1", "run/old-004") != 0 {
		t.Errorf("erp-1 has %d records at par-1, old-004 %d", w.has("par-1", "run/erp-1"), w.has("par-1", "run/old-004"))
	}
}

// TestDroppedRunIsNotMissed: a run at an agent that is not here was dropped here
// if its name is kept; else this state missed it, however many others it has.
func TestDroppedRunIsNotMissed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range copies.KeepEnded {
		w.run(fmt.Sprintf("old-%03d", i), "committed", 2, "a", time.Duration(i)*time.Minute-1000*time.Hour)
	}
	w.keeper.Round(t.Context())
	w.run("new-1", "committed", 2, "a", time.Hour)
	w.drop("old-000", 2)
	_, err := store.Put(t.Context(), w.store, journal.DroppedPrefix+"old-000", []byte(`{}`))
	w.no(err)
	w.no(w.keeper.Check(t.Context()))
	for i := range 10 {
		w.run(fmt.Sprintf("more-%d", i), "committed", 2, "a", time.Hour)
	}
	w.drop("old-001", 2)
	if err := w.keeper.Check(t.Context()); !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), "run old-001 is at") {
		t.Errorf("a run that is missing: %v", err)
	}
}

// drop removes a run with so many records.
func (w *world) drop(id string, records uint64) {
	w.t.Helper()
	ops := []store.Op{{Key: "runs/" + id, Delete: true}}
	for seq := range records {
		ops = append(ops, store.Op{Key: journal.Key(id, seq+1), Delete: true})
	}
	_, _, err := w.store.Txn(w.t.Context(), store.Txn{Then: ops})
	w.no(err)
}

// TestCopyThatLies: the copy of a run is what its item says, record by record.
func TestCopyThatLies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run("erp-1", "committed", 6, "a", 0)
	w.keeper.Round(t.Context())
	it, data := w.agents.items["par-1"]["run/erp-1"], w.agents.data["par-1"]["run/erp-1"]
	w.no(copies.DecodeRun(it, data))
	for name, lie := range map[string]func(*command.CatalogueItem){
		"fewer records": func(it *command.CatalogueItem) { it.Version-- },
		"more records":  func(it *command.CatalogueItem) { it.Version++ },
		"another mark":  func(it *command.CatalogueItem) { it.Mark = copies.MarkOf([]byte("x")) },
		"another run":   func(it *command.CatalogueItem) { it.Name = "run/erp-2" },
	} {
		other := it
		lie(&other)
		if err := copies.DecodeRun(other, data); !fault.Is(err, fault.Corrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRefusedRunLeavesNoCopy: a runtime whose run was refused has moved nothing;
// the one that has must not be told that it missed something.
func TestRefusedRunLeavesNoCopy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.keeper.Round(t.Context())
	for _, status := range []string{"preflight", "refused"} {
		w.run("no-1", status, 4, "a", 0)
		w.keeper.Round(t.Context())
		if w.has("par-1", "run/no-1") != 0 {
			t.Errorf("a run that is %s lies at par-1", status)
		}
	}
	w.run("no-1", "stopped", 5, "a", 0)
	w.keeper.Round(t.Context())
	if w.has("par-1", "run/no-1") != 5 {
		t.Error("a run that has begun does not lie at par-1")
	}
}

// TestOldStateIsRefused: whatever an agent holds that this state has not, or has
// otherwise, is a reason not to act.
func TestOldStateIsRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		after func(w *world) // what happens at the agents after the copy
		here  func(w *world) // what the old state does
		want  string
	}{
		"estate":        {func(w *world) { w.estate(2, "x") }, nil, "the estate has state 2 at"},
		"other estate":  {func(w *world) { w.estate(2, "x") }, func(w *world) { w.estate(2, "y"); w.estate(3, "y") }, "state 2 of the estate is another one"},
		"run went on":   {func(w *world) { w.run("erp-1", "committed", 9, "a", 0) }, nil, "run erp-1 has 9 records"},
		"another way":   {func(w *world) { w.run("erp-1", "committed", 8, "b", 0) }, func(w *world) { w.run("erp-1", "stopped", 12, "c", 0) }, "run erp-1 went another way"},
		"run":           {func(w *world) { w.run("erp-2", "committed", 3, "a", time.Hour) }, nil, "run erp-2 is at"},
		"fence":         {func(w *world) { w.put("fencing", ident.Fence(6)) }, nil, "fencing number 6 was seen at"},
		"machine fence": {func(w *world) { w.agents.fence["lyo-1"] = 8 }, nil, "fencing number 8 was seen at lyo-1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.run("erp-1", "uncommitted", 7, "a", 0)
			w.keeper.Round(t.Context())
			w.no(w.keeper.Check(t.Context()))
			newer, older := w.store, copyOf(w)
			tc.after(w)
			w.keeper.Round(t.Context())
			w.use(older)
			if tc.here != nil {
				w.agents.down = map[string]bool{"par-1": true, "lyo-1": true}
				tc.here(w)
				w.keeper.Round(t.Context())
				w.agents.down = map[string]bool{}
				w.use(older)
			}
			before := fmt.Sprint(w.agents.items)
			w.keeper.Round(t.Context())
			if got := fmt.Sprint(w.agents.items); got != before {
				t.Errorf("the old state wrote its copies:\n%s\nbefore:\n%s", got, before)
			}
			err := w.keeper.Check(t.Context())
			if !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), tc.want) || !strings.Contains(fault.Hint(err), "drrun recover") {
				t.Errorf("%v (hint: %s), want a refusal that says %q", err, fault.Hint(err), tc.want)
			}
			w.agents.down["lyo-1"], w.agents.down["par-1"] = true, true
			w.no(w.keeper.Check(t.Context())) // who does not answer cannot say no
			w.agents.down = map[string]bool{}
			if _, err := w.recover(nil); err != nil {
				t.Fatal(err)
			}
			if failed := w.keeper.Settle(t.Context(), []string{"par-1", "lyo-1"}); len(failed) > 0 {
				t.Error(failed)
			}
			w.no(w.keeper.Check(t.Context()))
			if name != "machine fence" {
				w.use(newer)
				if err := w.keeper.Check(t.Context()); !fault.Is(err, fault.Refused) {
					t.Errorf("the state that was recovered from may act still: %v", err)
				}
			}
		})
	}
}

// copyOf is a store with the same content.
func copyOf(w *world) store.Store {
	w.t.Helper()
	s := store.NewMemory()
	for kv, err := range w.store.List(context.Background(), "") {
		w.no(err)
		w.no(errOf(store.Put(context.Background(), s, kv.Key, kv.Value)))
	}
	return s
}

// TestRecoverNothing: from one host of two, into a store with nothing in it, all
// comes back as it was, and a second recovery has nothing to do.
func TestRecoverNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run("erp-1", "uncommitted", 300, "a", 0) // more than one transaction holds
	w.run("erp-0", "committed", 4, "a", -time.Hour)
	w.put("claims", map[string]string{"db1": "erp-1"})
	w.keeper.Round(t.Context())
	want := w.all()
	w.use(store.NewMemory())
	w.agents.down["par-1"] = true

	if _, err := w.recover(func(o *copies.RecoverOptions) { o.Estate = "umbrella" }); !fault.Is(err, fault.Refused) {
		t.Errorf("another estate: %v", err)
	}
	rep, err := w.recover(func(o *copies.RecoverOptions) { o.DryRun = true })
	if err != nil || !rep.Changed || len(w.all()) != 0 {
		t.Errorf("a dry run: changed %v, wrote %d values, %v", rep.Changed, len(w.all()), err)
	}
	rep, err = w.recover(func(o *copies.RecoverOptions) { o.NewCA = true })
	if err != nil || rep.Estate != "acme" || !rep.Changed {
		t.Fatalf("%+v, %v", rep, err)
	}
	if got := w.all(); !maps.Equal(got, want) {
		t.Errorf("recovered\n%v\nwant\n%v", got, want)
	}
	var fence ident.Fence
	kv, err := w.store.Get(t.Context(), "fencing")
	w.no(err)
	if w.no(json.Unmarshal(kv.Value, &fence)); fence != 6 {
		t.Errorf("the fencing number is %d, want one above 5", fence)
	}
	var par, lyo estate.HostRecord
	for key, into := range map[string]*estate.HostRecord{"par-1": &par, "lyo-1": &lyo} {
		kv, err := w.store.Get(t.Context(), "estate/host/"+key)
		w.no(err)
		w.no(json.Unmarshal(kv.Value, into))
	}
	if !par.Joined.IsZero() || !par.Started["db1"] || lyo.Joined.IsZero() {
		t.Errorf("hosts: %+v, %+v", par, lyo)
	}
	w.keeper.Settle(t.Context(), []string{"lyo-1"})
	rep, err = w.recover(func(o *copies.RecoverOptions) { o.NewCA = true })
	if err != nil || rep.Changed {
		t.Errorf("the second time: %+v, %v", rep, err)
	}
}

// TestRecoverIsCut kills a recovery at each of its transactions: the state acts
// not before the next one has come to its end, and is then the same.
func TestRecoverIsCut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	old := copyOf(w)
	w.run("erp-1", "uncommitted", 200, "a", 0)
	w.put("claims", map[string]string{"db1": "erp-1"})
	w.keeper.Round(t.Context())
	want := w.all()
	w.use(old)
	w.run("erp-1", "stopped", 250, "older", 0) // of another history
	for n := 0; ; n++ {
		w.use(old)
		w.use(copyOf(w))
		cut := &mortal{Store: w.store, left: n}
		_, err := w.recover(func(o *copies.RecoverOptions) { o.Store = cut })
		if err == nil {
			if n < 5 {
				t.Errorf("only %d transactions", n)
			}
			break
		}
		if !errors.Is(err, errCut) {
			t.Fatalf("cut at %d: %v", n, err)
		}
		if n > 0 {
			if err := w.keeper.Check(t.Context()); !fault.Is(err, fault.Refused) {
				t.Errorf("cut at %d, the state may act: %v", n, err)
			}
		}
		if _, err := w.recover(nil); err != nil {
			t.Fatalf("after the cut at %d: %v", n, err)
		}
		if got := w.all(); !maps.Equal(got, want) {
			t.Errorf("after the cut at %d: %d values, want %d", n, len(got), len(want))
		}
	}
}

var errCut = errors.New("the process was killed")

// mortal is a store that dies at its n-th transaction.
type mortal struct {
	store.Store
	left int
}

func (m *mortal) Txn(ctx context.Context, t store.Txn) (int64, bool, error) {
	if m.left--; m.left < 0 {
		return 0, false, errCut
	}
	return m.Store.Txn(ctx, t)
}

// TestRecoverFromDamage: a damaged copy is said and the other host's is taken;
// what a newer drrun wrote ends the recovery, before it takes an older one.
func TestRecoverFromDamage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run("erp-1", "committed", 6, "a", 0)
	w.keeper.Round(t.Context())
	want := w.all()
	w.agents.data["lyo-1"]["run/erp-1"][40] ^= 1
	w.use(store.NewMemory())
	rep, err := w.recover(nil)
	w.no(err)
	i := slices.IndexFunc(rep.Rows, func(r copies.Row) bool { return r.What == "run erp-1" })
	if i < 0 || !strings.Contains(rep.Rows[i].Remark, "that of lyo-1 cannot be used") || !strings.Contains(rep.Rows[i].Taken, "par-1") {
		t.Errorf("%+v", rep.Rows)
	}
	want["claims"] = "{}"
	if got := w.all(); !maps.Equal(got, want) {
		t.Errorf("recovered\n%v\nwant\n%v", got, want)
	}

	future := bytes.Replace(w.agents.data["par-1"]["estate"], []byte(`"must":[]`), []byte(`"must":["x"]`), 1)
	sum := sha256.Sum256(future)
	it := w.agents.items["par-1"]["estate"]
	it.Version, it.Size, it.SHA256 = 9, int64(len(future)), sum[:]
	w.agents.items["par-1"]["estate"], w.agents.data["par-1"]["estate"] = it, future
	if _, err := w.recover(nil); !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), `["x"]`) {
		t.Errorf("a copy of a newer drrun: %v", err)
	}
}

// TestRecoverMarks: a run that only the old state has stays, marked, and claims
// nothing that a run of the agents has; one that was copied while it was under
// way is marked as well.
func TestRecoverMarks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	older := copyOf(w)
	w.run("erp-1", "running", 5, "a", 0)
	w.keeper.Round(t.Context())
	w.use(older)
	w.run("stray-1", "stopped", 3, "a", time.Hour)
	if _, err := w.recover(nil); err != nil {
		t.Fatal(err)
	}
	all := w.all()
	if got := all[journal.Key("stray-1", 4)]; !strings.Contains(got, "no agent that answered knew this run") || !strings.Contains(got, `"lost":true`) {
		t.Errorf("stray-1 is marked with %q", got)
	}
	if got := all[journal.Key("erp-1", 6)]; !strings.Contains(got, "under way") || !strings.Contains(got, `"lost":true`) {
		t.Errorf("erp-1 is marked with %q", got)
	}
	if all["claims"] != `{"db1":"erp-1"}` {
		t.Errorf("claims are %s", all["claims"])
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"version":1,"must":[],"kvs":[{"key":"estate/current","value":"e30="}]}`), uint64(1))
	f.Add([]byte(`{"version":1,"kvs":[{"key":"runs/a","value":"eyJ2ZXJzaW9uIjoxLCJpZCI6ImEifQ=="},{"key":"run/a/j/0000000000000001","value":"e30="}]}`), uint64(1))
	f.Fuzz(func(t *testing.T, raw []byte, version uint64) {
		for _, err := range []error{copies.DecodeEstate(raw), copies.DecodeRun(command.CatalogueItem{Name: "run/a", Version: version, Mark: copies.MarkOf(nil)}, raw)} {
			if err != nil && !fault.Is(err, fault.Corrupt) && !fault.Is(err, fault.Refused) {
				t.Errorf("%q: kind %s of %v", raw, fault.KindOf(err), err)
			}
		}
	})
}
