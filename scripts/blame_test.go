package scripts_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/plans"
)

// TestErrorsOfChecks: a mistake of the function ends a check at once; what the
// world or the function has said, and what may come of it, is asked again.
func TestErrorsOfChecks(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/busy" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = w.Write([]byte("starting")) // the test's own server
	}))
	t.Cleanup(srv.Close)
	const mistake = "p.lua:2: the function has an error: "
	for name, c := range map[string]struct {
		body, want string
		again      bool
	}{
		"nil index":           {`local x return x.vm`, mistake + `cannot read ".vm": the value is nil`, false},
		"call of nil":         {`local x x()`, mistake + "the value that is called is no function", false},
		"arithmetic":          {`return run.id + 1`, mistake + "cannot perform add operation", false},
		"bad argument":        {`return ("x"):rep({})`, mistake + "bad argument", false},
		"argument of a call":  {`http.get(nil)`, mistake + "bad argument #1", false},
		"key of options":      {`local o = { tiemout = "5s" } http.get("URL/", o)`, mistake + `http.get: unknown key "tiemout"`, false},
		"within":              {`local d = "soon" http.get("URL/", { within = d })`, mistake + `"soon" is not a duration`, false},
		"field of run":        {`local r = run return r.mode`, mistake + `run has no field "mode"`, false},
		"machine":             {`return run:machine("db2").ip`, mistake + `machine "db2" is not in this run`, false},
		"field of an answer":  {`return http.get("URL/").staus == 200`, mistake + `the answer of http.get has no field "staus", did you mean "status"?`, false},
		"in a pcall":          {`local ok, err = pcall(function() local x return x.y end) error(err)`, `cannot read ".y"`, true},
		"after a pcall":       {`pcall(error, "no luck") local x return x.y`, mistake + `cannot read ".y"`, false},
		"after an assert":     {`assert(true, "fine") local x return x.y`, mistake + `cannot read ".y"`, false},
		"returned false":      {`return false, "not yet"`, "not yet", true},
		"said by error":       {`error("not yet")`, "p.lua:2: not yet", true},
		"said by error, bare": {`error("not yet", 0)`, "not yet", true},
		"said by a table":     {`error({ message = "not yet" })`, "not yet", true},
		"said by assert":      {`assert(false, "not yet: 100% busy")`, "p.lua:2: not yet: 100% busy", true},
		"assert alone":        {`assert(nil)`, "p.lua:2: assertion failed!", true},
		"refused":             {`http.get("http://127.0.0.1:1/")`, "p.lua:2: http.get: ", true},
		"status":              {`http.get("URL/busy")`, "answered 503", true},
		"program":             {`exec.run { on = "db1", cmd = { "false" }, class = "read" }`, "p.lua:2: exec.run: false on db1 ended with 1: no", true},
		"no JSON":             {`return json.decode(http.get("URL/").body).up`, "p.lua:2: json.decode: invalid character", true},
		"of what was told":    {`return http.get("URL/").headers["x-role"]:find("primary")`, mistake + `cannot read ".find": the value is nil`, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := one("p.lua", `local http, json, exec = require "drrun.http", require "drrun.json", require "drrun.exec"
return plan "p" { from = "paris", to = "lyon", group "g" { machine "db1", after = check "c" { function(run) `+
				strings.ReplaceAll(c.body, "URL", srv.URL)+` end } } }`)
			ok, detail, err := loader().RunFunc(t.Context(), b, plans.FuncRef{}, testRun, &journal{})
			got := detail
			if err != nil {
				got = err.Error()
			}
			if ok || c.again != (err == nil) || !strings.Contains(got, c.want) || err != nil && !fault.Is(err, fault.Failed) {
				t.Errorf("got %v %q %v, want %q, again %v", ok, detail, err, c.want, c.again)
			}
		})
	}
}

// TestErrorsOfActions: an error is not what an action answers.
func TestErrorsOfActions(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`local x return x.y`:                             `p.lua:6: the function has an error: cannot read ".y": the value is nil`,
		`error("the ledger is open")`:                    "p.lua:6: the ledger is open",
		`exec.run { on = "db1", cmd = { "false" } }`:     "p.lua:6: exec.run: false on db1 ended with 1: no",
		`return false, "the ledger is open"`:             "",
		`return run:machine("db1").ipp`:                  `p.lua:6: the function has an error: machine db1 has no field "ipp", did you mean "ip"?`,
		`return exec.run{ on = "db1", cmd = {"x"} }.out`: `the answer of exec.run has no field "out", it has exit, output`,
	} {
		_, detail, err := loader().RunFunc(t.Context(), action(body), ref, testRun, &journal{})
		switch {
		case want == "":
			if err != nil || detail != "the ledger is open" {
				t.Errorf("%s: %q %v", body, detail, err)
			}
		case !fault.Is(err, fault.Failed) || !strings.Contains(err.Error(), want):
			t.Errorf("%s: %v, want %q", body, err, want)
		}
	}
}
