package scripts_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts"
	"github.com/drrun/drrun/scripts/hostcall"
)

// A value that is no text, or a key that is not known, is refused before
// anything is done: what it would print is different at every resume.
func TestArgumentsAreRefusedBeforeTheCall(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`exec.run { on = "db1", cmd = { "echo", run } }`:                    "argument 2 of cmd is a userdata",
		`exec.run { on = "db1", cmd = { "echo", {} } }`:                     "argument 2 of cmd is a table",
		`exec.run { on = "db1", cmd = { "echo" }, accept = "0" }`:           "accept is an exit code or a list of them",
		`http.get("http://db1/", { headers = { x = {} } })`:                 "header x is a table",
		`http.get("http://db1/", { headers = "x: y" })`:                     "headers is a string",
		`http.get("http://db1/", { headers = { "x" } })`:                    "header 1 is a string, want a name",
		`http.get("http://db1/", { method = "DELETE" })`:                    `http.get: unknown key "method"`,
		`http.post("http://db1/", { body = {} })`:                           "body is a table, want a string",
		`http.post("http://db1/", { body = "x", json = 1 })`:                "only one of body and json",
		`http.post("http://db1/", { expect = true })`:                       "expect is a status",
		`http.post("http://db1/", { expect = { "200" } })`:                  "item 1 is a string",
		`http.request { method = "PUT", url = "http://db1/", headrs = {} }`: `did you mean "headers"?`,
		`http.get("file:///etc/passwd")`:                                    "is no URL of a web server",
		`exec.run { "ls", on = "db1", cmd = { "ls" } }`:                     `exec.run: unknown key "1"`,
		`tcp.connect("db1:1", { timeout = "1s" })`:                          `tcp.connect: unknown key "timeout", did you mean "within"?`,
		`time.sleep(5)`:                    `want a duration like "5s"`,
		`json.encode({ run })`:             "a userdata has no JSON",
		`json.decode(("[],"):rep(500000))`: "longer than 1048576 bytes",
		`local t = { 1 } for i = 1, 40 do t = { t, t } end json.encode(t)`:                         "more than 100000 values",
		`local t = { 1 } for i = 1, 40 do t = { t, t } end http.post("http://db1/", { json = t })`: "more than 100000 values",
	} {
		j := &journal{}
		ok, detail, err := runAction(t, loader(), unseen+body, j)
		if ok || err != nil || !strings.Contains(detail, want) {
			t.Errorf("%s: got %v %q %v, want %q", body, ok, detail, err, want)
		}
		if len(j.records)+len(j.execs) > 0 {
			t.Errorf("%s: it was done: %v %v", body, j.records, j.execs)
		}
	}
}

// What would be a fault of the page is an error of a running function: nobody
// reads the page's faults any more, and no unknown value goes on in silence.
func TestNothingIsUnknownInAFunction(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`local m = require("hel" .. "per") m.go() return true`: `module "helper" is not beside the file`,
		`local m = require("drrun." .. "htp") return true`:     `there is no module "drrun.htp" in this version, did you mean "drrun.http"?`,
		`local m = db1.ip return true`:                         `machine "db1": an item cannot be read: in a function use run:machine(name)`,
		`db1.ip = 5 return true`:                               `machine "db1": an item cannot be changed`,
		`db1 {} db1 {} return true`:                            "one call too many",
		`local s = secret(nil) return true`:                    `want secret "name"`,
		`local s = secret "x" s {} return true`:                "it has no body here",
		`local m = require("bro" .. "ken") return true`:        "broken.lua:2: boom",
	} {
		b := action(body)
		b.Files["p.lua"] = "local db1 = machine \"db1\"\n" + strings.Replace(b.Files["p.lua"], `machine "db1", after`, `db1, after`, 1)
		b.Files["broken.lua"] = "local x = 1\nerror('boom')"
		ok, detail, err := said(loader().RunFunc(t.Context(), b, ref, testRun, &journal{}))
		if ok || err != nil || !strings.Contains(detail, want) {
			t.Errorf("%s: got %v %q %v, want %q", body, ok, detail, err, want)
		}
	}
}

func TestParametersInFunctions(t *testing.T) {
	t.Parallel()
	b := one("p.lua", `return plan "p" { from = "a", to = "b", params = { ttl = 60, zone = { type = "string" } },
  group "g" { machine "m", after = action "a" { only = "any", function(run) return run.params.zone == nil and run.params.ttl == 60, tostring(run.params.zon) end } } }`)
	ok, detail, err := said(loader().RunFunc(t.Context(), b, ref, testRun, &journal{}))
	if ok || err != nil || !strings.Contains(detail, `run.params has no field "zon", did you mean "zone"?`) {
		t.Errorf("%v %q %v", ok, detail, err)
	}
	b.Files["p.lua"] = strings.Replace(b.Files["p.lua"], ", tostring(run.params.zon)", "", 1)
	if ok, detail, err := loader().RunFunc(t.Context(), b, ref, testRun, &journal{}); !ok || err != nil {
		t.Errorf("%v %q %v", ok, detail, err)
	}
}

// A secret whose text is a word of JSON does not break the record of what was
// done.
func TestAnySecretIsHidden(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body) // an empty body echoes less
		fmt.Fprintf(w, "%s %s", r.Header.Get("X-Key"), raw)
	}))
	defer srv.Close()
	for _, secret := range []string{"status", `":"`, `a"b\c`, "true", "\x01\x02\x03\x04"} {
		l := scripts.New(scripts.Options{PlanTime: 30 * time.Second, Secrets: func(context.Context, string) (string, error) { return secret, nil }})
		j := &journal{}
		ok, detail, err := runAction(t, l, `local r = http.post("`+srv.URL+`", { json = key }) run:note(r.status .. " " .. r.body)`, j)
		if !ok || err != nil || len(j.notes) != 1 || !strings.HasPrefix(j.notes[0], "200 ") || strings.Contains(j.notes[0], secret) {
			t.Errorf("%q: %v %q %v, notes %q", secret, ok, detail, err, j.notes)
		}
	}
}

// A text that is joined with a secret is a secret: it is opened where it goes
// out, and *** everywhere else; in an error of the host, too.
func TestTextsWithSecrets(t *testing.T) {
	t.Parallel()
	var got []string
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = append(got, r.Header.Get("Authorization"))
	}))
	defer srv.Close()
	l := scripts.New(scripts.Options{PlanTime: 30 * time.Second, Secrets: func(_ context.Context, name string) (string, error) {
		return map[string]string{"dns-key": "hunter2", "long": "hunter2-and-more"}[name], nil
	}})
	j := &journal{execErr: fault.Errorf(fault.Unknown, "cannot run x --key=hunter2 --also=hunter2-and-more")}
	_, _, err := runAction(t, l, `local auth = "Bearer " .. key .. ":" .. 5
run:note("with " .. auth)
http.get("`+srv.URL+`", { headers = { Authorization = auth } })
local ok, why = pcall(function() return key .. {} end)
run:note(why)
local all = key for i = 1, 5 do all = all .. all end
run:note((select(2, pcall(function() return all .. all .. all end))))
exec.run { on = "db1", cmd = { "x", "--key=" .. key, "--also=" .. secret "long" } }`, j)
	if !fault.Is(err, fault.Unknown) || !strings.Contains(err.Error(), "cannot run x --key=*** --also=***") {
		t.Errorf("the end: %v", err)
	}
	if len(got) != 1 || got[0] != "Bearer hunter2:5" {
		t.Errorf("sent %q", got)
	}
	if len(j.notes) != 3 || j.notes[0] != "with Bearer ***:5" || !strings.Contains(j.notes[1], "a secret is joined only with strings") || !strings.Contains(j.notes[2], "joined only") {
		t.Errorf("notes %q", j.notes)
	}
	if all := fmt.Sprint(j.records, j.notes, err); strings.Contains(all, "hunter2") || !strings.Contains(j.records[0].args, "Bearer ***:5") {
		t.Errorf("the secret shows: %s", all)
	}
	if len(j.execs) != 1 || j.execs[0] != "key-1 db1: x --key=hunter2 --also=hunter2-and-more" {
		t.Errorf("programs %q", j.execs)
	}
}

// Redirections are followed at the same host only: headers and bodies hold
// secrets of one host.
func TestRedirections(t *testing.T) {
	t.Parallel()
	var other []string
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { other = append(other, r.URL.Path) }))
	defer elsewhere.Close()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/here":
			http.Redirect(w, r, "/there", http.StatusFound)
		case "/away":
			http.Redirect(w, r, strings.Replace(elsewhere.URL, "127.0.0.1", "localhost", 1)+"/secret", http.StatusTemporaryRedirect)
		case "/round":
			http.Redirect(w, r, "/round", http.StatusFound)
		default:
			fmt.Fprint(w, r.Host)
		}
	}))
	defer srv.Close()
	j := &journal{}
	ok, detail, err := runAction(t, loader(), `local at = "`+srv.URL+`"
run:note(http.get(at .. "/here", { headers = { host = "erp.example.com" } }).status)
run:note(http.get(at .. "/there", { headers = { host = "erp.example.com" } }).body)
for _, path in ipairs { "/away", "/round" } do
  local ok, why = pcall(http.post, at .. path, { body = "x", headers = { ["X-Key"] = "y" } })
  run:note(tostring(ok) .. " " .. why)
end`, j)
	if !ok || err != nil || len(j.notes) != 4 {
		t.Fatalf("%v %q %v %q", ok, detail, err, j.notes)
	}
	for i, want := range []string{"200", "erp.example.com", "it redirects to http://localhost", "it redirects more than 10 times"} {
		if !strings.Contains(j.notes[i], want) {
			t.Errorf("note %q, want %q", j.notes[i], want)
		}
	}
	if len(other) > 0 {
		t.Errorf("the other host was asked: %v", other)
	}
}

// A program that is under way when the time of its step ends is of unknown
// outcome; one that was refused is not.
func TestExecWhenTimeIsUp(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want fault.Kind
	}{
		{fault.Errorf(fault.Unreachable, "no answer"), fault.Unknown},
		{fault.Errorf(fault.Interrupted, "cut"), fault.Unknown},
		{context.DeadlineExceeded, fault.Unknown},
		{fault.Errorf(fault.Refused, "not allowed"), fault.Refused},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		j := &late{journal: journal{execErr: c.err}, end: cancel}
		_, _, err := loader().RunFunc(ctx, action(`while true do pcall(exec.run, { on = "db1", cmd = { "x" } }) end`), ref, testRun, j)
		if !fault.Is(err, c.want) || len(j.execs) != 1 {
			t.Errorf("%v: got %v after %d programs, want %v", c.err, err, len(j.execs), c.want)
		}
		cancel()
	}
}

// late ends the function's context while a program is under way.
type late struct {
	journal
	end context.CancelFunc
}

func (l *late) Exec(ctx context.Context, key, on string, cmd []string) (int, string, error) {
	l.end()
	return l.journal.Exec(ctx, key, on, cmd)
}

func TestNotesAreLimited(t *testing.T) {
	t.Parallel()
	j := &journal{}
	ok, detail, err := runAction(t, loader(), `for i = 1, 2000 do log.info(i) print(i) run.note(i) end`, j)
	if !ok || err != nil || len(j.notes) != hostcall.MaxNotes+1 || !strings.Contains(j.notes[hostcall.MaxNotes], "more than 1000 lines") {
		t.Errorf("%v %q %v, %d notes", ok, detail, err, len(j.notes))
	}
}

// Tables that a helper of the page makes while a function runs are not kept.
func TestHelpersKeepNoTables(t *testing.T) {
	l := scripts.New(scripts.Options{PlanTime: 30 * time.Second, Memory: 32 << 20})
	b := one("p.lua", `local function helper() local t = { 1, 2, 3 } return #t end
return plan "p" { from = "a", to = "b", group "g" { machine "m", after = action "a" { only = "any", function()
  local n = 0 for i = 1, 200000 do n = n + helper() end return n == 600000 end } } }`)
	if ok, detail, err := l.RunFunc(t.Context(), b, ref, testRun, &journal{}); !ok || err != nil {
		t.Errorf("%v %q %v", ok, detail, err)
	}
}

// Whatever a page does wrong a thousand times, its report has an end.
func TestFaultsAreLimited(t *testing.T) {
	t.Parallel()
	_, err := loader().LoadPlan(one("p.lua", `for i = 1, 5000 do local m = machine("m" .. i) end return plan "p" { from = "a", to = "b", group "g" { machine "m" } }`), nil)
	if n := strings.Count(fmt.Sprint(err), "p.lua:1: "); n != 1001 || !strings.Contains(err.Error(), "4000 more mistakes are not listed") {
		t.Errorf("%d faults: %.200v", n, err)
	}
}

func TestFilesThatAreNoText(t *testing.T) {
	t.Parallel()
	_, err := loader().LoadPlan(one("p.lua", "-- a plan\n-- caf\xe9\nreturn plan \"p\" {}"), nil)
	if err == nil || !strings.HasPrefix(err.Error(), "p.lua:2: this is no UTF-8 text") {
		t.Errorf("got %v", err)
	}
	_, err = loader().LoadPlan(plans.Bundle{Main: "p.lua", Files: map[string]string{
		"p.lua": "\ufeffreturn plan \"p\" { from = \"a\", to = \"b\", group \"g\" { machine \"m\" } }"}}, nil)
	if err != nil {
		t.Errorf("byte order mark: %v", err)
	}
	if _, err := loader().LoadPlan(one("p.lua", `return plan "p" { from = "a", to = "b", params = { x = "y" }, group "g" { machine "m" } }`),
		map[string]string{"x": "\xff"}); err == nil || !strings.Contains(err.Error(), "no UTF-8 text") {
		t.Errorf("--set: %v", err)
	}
}

// Every module that waits ends with the run, and at its own time limit.
func TestModulesEndWithTheRunAndInTime(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 16)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then the server sees that the client went away
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	defer srv.Close()
	l := scripts.New(scripts.Options{PlanTime: 30 * time.Second, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		asked <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	for call, limited := range map[string]string{
		`http.get("` + srv.URL + `", { within = "1h" })`:              `http.get("` + srv.URL + `", { within = "10ms" })`,
		`http.post("` + srv.URL + `", { body = "x", within = "1h" })`: `http.post("` + srv.URL + `", { within = "10ms" })`,
		`tcp.connect("db1:80", { within = "1h" })`:                    `assert(tcp.connect("db1:80", { within = "10ms" }))`,
		`exec.run { on = "db1", cmd = { "x" }, within = "1h" }`:       `exec.run { on = "db1", cmd = { "x" }, within = "10ms" }`,
		`time.sleep("1h")`: "",
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		over := errors.New("the run is over")
		j := &waits{asked: asked}
		if strings.HasPrefix(call, "time.sleep") {
			asked <- struct{}{}
		}
		go func() {
			<-asked
			cancel(over)
		}()
		ok, detail, err := l.RunFunc(ctx, action("while true do pcall(function() "+call+" end) end"), ref, testRun, j)
		if ok || err == nil || !errors.Is(err, over) && !fault.Is(err, fault.Unknown) {
			t.Errorf("%s: %v %q %v", call, ok, detail, err)
		}
		if limited == "" {
			continue
		}
		ok, detail, err = said(l.RunFunc(t.Context(), action(limited), ref, testRun, &waits{asked: asked}))
		if ok || err == nil && detail == "" || err != nil && !fault.Is(err, fault.Unknown) {
			t.Errorf("%s: %v %q %v", limited, ok, detail, err)
		}
		for len(asked) > 0 {
			<-asked
		}
	}
}

// What a plan says may be run again is no question to a person when its time is
// up: it is an error that the plan may handle.
func TestExecThatMayBeRunAgain(t *testing.T) {
	t.Parallel()
	for _, class := range []plans.OpClass{plans.OpRead, plans.OpIdempotent} {
		j := &waits{asked: make(chan struct{}, 1)}
		ok, detail, err := loader().RunFunc(t.Context(), action(`
local ok, why = pcall(exec.run, { on = "db1", cmd = { "sync" }, within = "10ms", class = "`+string(class)+`" }) return ok, why`), ref, testRun, j)
		if ok || err != nil || !strings.Contains(detail, "sync did not end in time") || len(j.records) != 1 || j.records[0].class != class {
			t.Errorf("%s: %v %q %v %+v", class, ok, detail, err, j.records)
		}
	}
}

// waits has programs that never end by themselves.
type waits struct {
	journal
	asked chan struct{}
}

func (w *waits) Exec(ctx context.Context, _, _ string, _ []string) (int, string, error) {
	w.asked <- struct{}{}
	<-ctx.Done()
	return 0, "", ctx.Err()
}
