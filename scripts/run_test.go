package scripts_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts"
	"github.com/drrun/drrun/scripts/registry"
)

// journal is a HostCalls that records, and answers from what it recorded.
type journal struct {
	mu      sync.Mutex
	records []record
	next    int
	notes   []string
	execs   []string
	execErr error
	values  map[string]json.RawMessage
	asked   []plans.Question
	reply   plans.Reply
	askErr  error
}

type record struct {
	name, args string
	class      plans.OpClass
	result     json.RawMessage
}

func (j *journal) Op(ctx context.Context, name string, class plans.OpClass, args json.RawMessage,
	do func(ctx context.Context, key string) (json.RawMessage, error)) (json.RawMessage, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if j.next < len(j.records) {
		r := j.records[j.next]
		j.next++
		if r.name != name || r.args != string(args) {
			return nil, fault.Errorf(fault.Unknown, "diverged: recorded %s %s, now %s %s", r.name, r.args, name, args)
		}
		return r.result, nil
	}
	res, err := do(ctx, fmt.Sprintf("key-%d", j.next))
	if err != nil {
		return nil, err
	}
	j.records = append(j.records, record{name, string(args), class, res})
	j.next++
	return res, nil
}

func (j *journal) Note(text string) { j.notes = append(j.notes, text) }

func (j *journal) Set(_ context.Context, name string, value json.RawMessage) error {
	if j.values == nil {
		j.values = map[string]json.RawMessage{}
	}
	j.values[name] = value
	return nil
}

func (j *journal) Get(_ context.Context, name string) (json.RawMessage, error) {
	if v, ok := j.values[name]; ok {
		return v, nil
	}
	return json.RawMessage("null"), nil
}

func (j *journal) Ask(_ context.Context, q plans.Question) (plans.Reply, error) {
	j.asked = append(j.asked, q)
	return j.reply, j.askErr
}

func (j *journal) Now(context.Context) (time.Time, error) { return time.Unix(1_800_000_000, 0), nil }

func (j *journal) Exec(_ context.Context, key, on string, cmd []string) (int, string, error) {
	j.execs = append(j.execs, key+" "+on+": "+strings.Join(cmd, " "))
	if cmd[0] == "false" {
		return 1, "no", nil
	}
	return 0, "done", j.execErr
}

var testRun = plans.RunInfo{
	ID: "r1", Type: recovery.Planned, Direction: "failover", From: "paris", To: "lyon", StartedBy: "ann", Point: "latest",
	Machines: map[string]plans.MachineInfo{"db1": {Name: "db1", IP: "127.0.0.1", Site: "lyon", State: "failing-over"}},
	Params:   map[string]any{"ttl": 60.0},
}

// action makes a plan whose only function has this body.
func action(body string) plans.Bundle {
	return one("p.lua", `local exec, http, json, log, tcp, time =
  require "drrun.exec", require "drrun.http", require "drrun.json", require "drrun.log", require "drrun.tcp", require "drrun.time"
local key = secret "dns-key"
return plan "p" { from = "paris", to = "lyon", params = { ttl = 60 },
  group "g" { machine "db1", after = action "a" { only = "any", function(run)
`+body+`
  end } } }
`)
}

// unseen goes before a body whose mistakes the loader would find, had it seen which
// module is called.
const unseen = "local exec, http, tcp, run = exec, http, tcp, run "

var ref = plans.FuncRef{Index: 0}

func runAction(t *testing.T, l *scripts.Loader, body string, j *journal) (bool, string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return said(l.RunFunc(ctx, action(body), ref, testRun, j))
}

// said is the result of a function with its error as what it says.
func said(ok bool, detail string, err error) (bool, string, error) {
	if fault.Is(err, fault.Failed) {
		return false, err.Error(), nil
	}
	return ok, detail, err
}

func TestRunObject(t *testing.T) {
	t.Parallel()
	j := &journal{}
	ok, detail, err := runAction(t, loader(), `
run:note(run.id .. " " .. run.type .. " " .. run.direction .. " " .. run.from .. " " .. run.to .. " " .. run.started_by .. " " .. run.point)
local m = run:machine("db1")
run.note(m.name .. " " .. m.ip .. " " .. m.site .. " " .. m.state .. " " .. run.params.ttl .. " " .. run.now() .. " " .. tostring(key))
print("a", 1, key)
log.warn("b", {}, true)
assert(math.random(6) <= 6)
return true, "fine"`, j)
	if err != nil || !ok || detail != "fine" {
		t.Fatalf("got %v %q %v", ok, detail, err)
	}
	want := []string{"r1 planned failover paris lyon ann latest", "db1 127.0.0.1 lyon failing-over 60 1800000000 ***", "a\t1\t***", "warning: b table true"}
	if !slices.Equal(j.notes, want) {
		t.Errorf("notes %q\nwant  %q", j.notes, want)
	}
	if len(j.records) != 1 || j.records[0].name != "math.random" {
		t.Errorf("random is not journaled: %v", j.records)
	}
}

// What help says about run is there.
func TestRunAsRegistered(t *testing.T) {
	t.Parallel()
	var body strings.Builder
	for _, f := range registry.RunFields {
		fmt.Fprintf(&body, "assert(run.%s ~= nil)\n", f.Name)
	}
	if ok, detail, err := runAction(t, loader(), body.String()+"return true", &journal{}); err != nil || !ok {
		t.Errorf("got %v %q %v", ok, detail, err)
	}
}

func TestScriptErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ body, want string }{
		"error":        {`error("no luck")`, "p.lua:6: no luck"},
		"error table":  {`error({ message = "no luck" })`, "no luck"},
		"error nil":    {`error(nil)`, "an error without a message"},
		"error text":   {`error("")`, "an error without a message"},
		"nil index":    {`local x; return x.vm`, `p.lua:6: the function has an error: cannot read ".vm": the value is nil`},
		"unknown name": {`local r = run; return r.mode`, `p.lua:6: the function has an error: run has no field "mode"`},
		"near name":    {`local r = run; return r.typ`, `did you mean "type"?`},
		"machine":      {`return run:machine("db2")`, `machine "db2" is not in this run, did you mean "db1"?`},
		"read only":    {`run.id = 5`, "run cannot be changed"},
		"function":     {`local h = http; return h.fetch("x")`, `drrun.http has no function "fetch"`},
		"module":       {`http.get = 1`, "drrun.http cannot be changed"},
		"exit code":    {`exec.run { on = "db1", cmd = { "false" } }`, "false on db1 ended with 1: no"},
		"key":          {`local o = { onn = "db1" }; exec.run(o)`, `exec.run: unknown key "onn", did you mean "on"?`},
		"false":        {`return false, "not today"`, "not today"},
		"nil message":  {`return nil, "not today"`, "not today"},
		"json":         {`return json.encode({ 1, 2, x = 3 })`, "json.encode: a table with items and keys has no JSON"},
		"circle":       {`local t = {}; t.t = t; return json.encode(t)`, "nested too deep"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, l := range []*scripts.Loader{loader(), scripts.New(scripts.Options{Branches: scripts.NewBranches()})} { // counting changes no error
				ok, detail, err := runAction(t, l, c.body, &journal{})
				if err != nil || ok || !strings.Contains(detail, c.want) {
					t.Errorf("got %v %q %v, want %q", ok, detail, err, c.want)
				}
			}
		})
	}
}

func TestHTTPJournaledOnceAndSecretsHidden(t *testing.T) {
	t.Parallel()
	var calls []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls = append(calls, r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization")+" "+r.Header.Get("Idempotency-Key"))
		if r.URL.Path == "/missing" {
			w.WriteHeader(http.StatusNotFound)
		}
		fmt.Fprint(w, `{"echo":"`+r.Header.Get("Authorization")+`","n":[1,2]}`)
	}))
	defer srv.Close()
	l := scripts.New(scripts.Options{PlanTime: 30 * time.Second, Secrets: func(_ context.Context, name string) (string, error) {
		return "hunter2-" + name, nil
	}})
	host := strings.Replace(srv.URL, "127.0.0.1", "db1", 1)
	body := `
local r = http.post("` + host + `/a", { json = { k = key, n = { 1 } }, headers = { Authorization = key } })
local v = json.decode(r.body)
run:note(r.status .. " " .. v.echo .. " " .. #v.n)
local ok, err = pcall(http.get, "` + host + `/missing")
run:note(tostring(ok) .. " " .. tostring(err))
run:note(http.get("` + host + `/missing", { expect = 404 }).status)
return true`
	j := &journal{}
	if ok, detail, err := runAction(t, l, body, j); !ok || err != nil {
		t.Fatalf("%v %q %v", ok, detail, err)
	}
	if len(calls) != 3 || calls[0] != "POST /a hunter2-dns-key key-0" || calls[1] != "GET /missing  " {
		t.Errorf("requests %q", calls)
	}
	all := fmt.Sprint(j.records, j.notes)
	if strings.Contains(all, "hunter2") || j.notes[0] != "200 *** 2" {
		t.Errorf("the secret shows: %s", all)
	}
	if !strings.Contains(j.notes[1], "false") || !strings.Contains(j.notes[1], "answered 404") || j.notes[2] != "404" {
		t.Errorf("notes %q", j.notes)
	}
	// A resumed run answers from the journal: nothing is sent again.
	j.next, j.notes = 0, nil
	if ok, detail, err := runAction(t, l, body, j); !ok || err != nil {
		t.Fatalf("replay: %v %q %v", ok, detail, err)
	}
	if len(calls) != 3 || j.next != 3 {
		t.Errorf("replay sent %d requests, used %d records", len(calls)-3, j.next)
	}
	classes := []plans.OpClass{j.records[0].class, j.records[1].class}
	if !slices.Equal(classes, []plans.OpClass{plans.OpIdempotent, plans.OpRead}) {
		t.Errorf("classes %v", classes)
	}
}

// TestKeyOfARequest: what the answer of a server means for the key of the next
// such request.
func TestKeyOfARequest(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var status int
		if _, err := fmt.Sscanf(r.URL.Path, "/%d", &status); err != nil || status == 0 {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(status)
	}))
	defer srv.Close()
	for status, want := range map[int]plans.KeyUse{
		0: plans.KeyOpen, 200: plans.KeyDone, 204: plans.KeyDone, 304: plans.KeyDone, 400: plans.KeySpent, 403: plans.KeySpent, 404: plans.KeySpent,
		408: plans.KeyOpen, 409: plans.KeyOpen, 429: plans.KeySpent, 500: plans.KeyOpen, 502: plans.KeyOpen, 503: plans.KeyOpen, 504: plans.KeyOpen,
	} {
		j := &journal{}
		if ok, detail, err := runAction(t, loader(), fmt.Sprintf(`pcall(http.post, "%s/%d")`, srv.URL, status), j); !ok || err != nil {
			t.Fatal(detail, err)
		}
		var o plans.Outcome
		if err := json.Unmarshal(j.records[0].result, &o); err != nil || o.Key != want {
			t.Errorf("%d: key %q, want %q (%v)", status, o.Key, want, err)
		}
	}
	// A program is to run again, whatever became of it: its agent would give the stored answer.
	for _, j := range []*journal{{}, {execErr: fault.Errorf(fault.Failed, "no such program")}} {
		if _, _, err := runAction(t, loader(), `pcall(exec.run, { on = "db1", cmd = { "x" }, class = "idempotent" })`, j); err != nil {
			t.Fatal(err)
		}
		var o plans.Outcome
		if err := json.Unmarshal(j.records[0].result, &o); err != nil || o.Key != plans.KeySpent {
			t.Errorf("exec: key %q (%v)", o.Key, err)
		}
	}
}

func TestExecAndTCP(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	addr := strings.TrimPrefix(srv.URL, "http://127.0.0.1")
	j := &journal{}
	ok, detail, err := runAction(t, loader(), `
local r = exec.run { on = "db1", cmd = { "systemctl", "start", 5 } }
assert(r.exit == 0 and r.output == "done")
exec.run { on = "db1", cmd = { "false" }, accept = { 0, 1 } }
assert(tcp.connect("db1`+addr+`"))
local up, why = tcp.connect("127.0.0.1:1")
assert(up == false and #why > 0)
time.sleep("1ms")
assert(time.duration("1m") == 60 and time.format(0) == "1970-01-01T00:00:00Z" and time.now() == 1800000000)`, j)
	if !ok || err != nil {
		t.Fatalf("%v %q %v", ok, detail, err)
	}
	if want := []string{"key-0 db1: systemctl start 5", "key-1 db1: false"}; !slices.Equal(j.execs, want) {
		t.Errorf("execs %q, want %q", j.execs, want)
	}
	if j.records[0].class != plans.OpUnsafe {
		t.Errorf("class %q", j.records[0].class)
	}
}

func TestFatalIsNotSwallowedByPcall(t *testing.T) {
	t.Parallel()
	unknown := &journal{execErr: fault.Errorf(fault.Unknown, "the answer was lost")}
	body := `while true do pcall(exec.run, { on = "db1", cmd = { "x" } }) end`
	if _, _, err := runAction(t, loader(), body, unknown); !fault.Is(err, fault.Unknown) {
		t.Errorf("unknown outcome: %v", err)
	}
	if len(unknown.execs) != 1 {
		t.Errorf("it was done %d times", len(unknown.execs))
	}
	diverged := &journal{records: []record{{name: "exec.run", args: `{"other":1}`}}}
	if _, _, err := runAction(t, loader(), body, diverged); !fault.Is(err, fault.Unknown) || !strings.Contains(err.Error(), "diverged") {
		t.Errorf("diverged: %v", err)
	}
}

func TestCheckFunctionAndOrder(t *testing.T) {
	t.Parallel()
	src := `local items = {}
for i = 1, 3 do
  items[i] = group("g" .. i) {
    before = action("b" .. i) { only = "any", function() return true, "before " .. i end },
    machine("m" .. i),
    after = check("c" .. i) { function(run) return i == 2, "check " .. i .. " " .. run.id end },
  }
end
return plan "p" { from = "a", to = "b", items }`
	b := one("p.lua", src)
	p, err := loader().LoadPlan(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	var refs []int
	p.Steps(func(_ string, s *plans.Step) {
		r := s.Action
		if r == nil {
			r = s.Check.Func
		}
		refs = append(refs, r.Index)
		_, detail, err := loader().RunFunc(t.Context(), b, *r, testRun, &journal{})
		want := map[string]string{"b": "before ", "c": "check "}[s.Name[:1]] + s.Name[1:]
		if err != nil || !strings.HasPrefix(detail, want) {
			t.Errorf("%s: %q %v, want %q", s.Name, detail, err, want)
		}
	})
	if want := []int{0, 1, 2, 3, 4, 5}; !slices.Equal(refs, want) {
		t.Errorf("functions %v, want %v", refs, want)
	}
	ok, _, err := loader().RunFunc(t.Context(), b, plans.FuncRef{Index: 3}, testRun, &journal{})
	if !ok || err != nil {
		t.Errorf("check of g2: %v %v", ok, err)
	}
	ok, _, err = loader().RunFunc(t.Context(), b, plans.FuncRef{Index: 5}, testRun, &journal{})
	if ok || err != nil {
		t.Errorf("check of g3: %v %v", ok, err)
	}
}

func TestCancelEndsFunction(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	_, _, err := loader().RunFunc(ctx, action(`while true do pcall(function() while true do end end) end`), ref, testRun, &journal{})
	if err == nil || ctx.Err() == nil {
		t.Errorf("got %v", err)
	}
}

// One loader serves the branches of a run at the same time.
func TestFunctionsAtTheSameTime(t *testing.T) {
	t.Parallel()
	l := loader()
	b := action(`local n = 0 for i = 1, 1000 do n = n + #(tostring(i) .. "x") end return true, run.id .. n`)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if ok, detail, err := l.RunFunc(t.Context(), b, ref, testRun, &journal{}); !ok || err != nil || detail != "r13893" {
				t.Errorf("%v %q %v", ok, detail, err)
			}
		})
	}
	wg.Wait()
}
