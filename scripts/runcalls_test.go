package scripts_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts"
)

// TestValuesBetweenActions: one function finds what another has kept, as JSON
// can hold it.
func TestValuesBetweenActions(t *testing.T) {
	t.Parallel()
	j := &journal{}
	if ok, detail, err := runAction(t, loader(), `
run:set("n", 12.5)
run.set("list", { "a", "b" })
run:set("ticket", { id = 7, open = true, by = { name = "ann" } })
run:set("gone", 1)
run:set("gone", nil)`, j); !ok || err != nil {
		t.Fatal(detail, err)
	}
	if ok, detail, err := runAction(t, loader(), `
local k = run:get("ticket")
run:note(run:get("n") .. " " .. table.concat(run:get("list"), ",") .. " " .. k.id .. " " .. tostring(k.open) .. " " .. k.by.name)
run:note(tostring(run:get("gone")) .. tostring(run.get("never")))`, j); !ok || err != nil {
		t.Fatal(detail, err)
	}
	if want := []string{"12.5 a,b 7 true ann", "nilnil"}; !slices.Equal(j.notes, want) {
		t.Errorf("got %q, want %q", j.notes, want)
	}
	for body, want := range map[string]string{
		`run:set("k", key)`:                      "a secret is not kept",
		`run:set("k", { "Bearer " .. key })`:     "a secret is not kept",
		`run:set("k", function() end)`:           "a function has no JSON",
		`run:set("k", 0/0)`:                      "has no JSON",
		`run:set("k", { 1, nil, 3 })`:            "a list with holes has no JSON",
		`run:set("k", ("x"):rep(70000))`:         "a value of 70002 bytes as JSON, the limit is 65536",
		`run:set("", 1)`:                         "the name of a value has 1 to 128 bytes",
		`run:set(("x"):rep(200), 1)`:             "the name of a value has 1 to 128 bytes",
		`run:set({}, 1)`:                         "string expected",
		`run:set("k")`:                           "value expected",
		`local t = {} t.t = t run:set("k", t)`:   "nested too deep",
		`run:get()`:                              "string expected",
		`run:gett("k")`:                          `run has no field "gett", did you mean "get"?`,
		`run:ask()`:                              "value expected",
		`run:ask("")`:                            "the question is missing",
		`run:ask({})`:                            "the question is missing",
		`run:ask("q", { rol = "x" })`:            `run:ask: unknown key "rol", did you mean "role"?`,
		`run:ask("q", { role = 5 })`:             "run:ask: role is the number 5, want a string",
		`run:ask("q", { within = "soon" })`:      `"soon" is not a duration`,
		`run:ask("q", { on_timeout = "stopp" })`: `on_timeout is "stopp", want "stop" or "continue", did you mean "stop"?`,
		`run:ask("q", { unattended = "no" })`:    `unattended is "no", want "go" or "stop"`,
	} {
		j := &journal{}
		ok, detail, err := runAction(t, loader(), unseen+body, j)
		if ok || err != nil || !strings.Contains(detail, want) || !strings.HasPrefix(detail, "p.lua:") || len(j.values)+len(j.asked) > 0 {
			t.Errorf("%s: %v %q %v, want %q", body, ok, detail, err, want)
		}
	}
}

// TestValueHidesSecrets: what was opened is not kept by another way.
func TestValueHidesSecrets(t *testing.T) {
	t.Parallel()
	j := &journal{}
	l := scripts.New(scripts.Options{PlanTime: 30 * time.Second, Secrets: func(context.Context, string) (string, error) { return "s3cr3t!", nil }})
	ok, detail, err := runAction(t, l, `
local r = exec.run { on = "db1", cmd = { "echo", key } }
run:set("said", { text = "it is s3cr3t!" })
run:ask("is s3cr3t! well, " .. key .. "?")`, j)
	if !ok || err != nil {
		t.Fatal(detail, err)
	}
	if got := string(j.values["said"]) + j.asked[0].Ask; strings.Contains(got, "s3cr3t!") || !strings.Contains(got, "***") {
		t.Errorf("kept and asked: %s", got)
	}
}

// TestAsk: a question has what a wait has, and what the person said comes back.
func TestAsk(t *testing.T) {
	t.Parallel()
	j := &journal{reply: plans.Reply{Go: true, By: "bob", Text: "checked"}}
	ok, detail, err := runAction(t, loader(), `
local yes, said, by = run:ask("is it " .. 1 .. "?", { role = "approver", within = "2h", on_timeout = "continue", unattended = "go" })
run:note(tostring(yes) .. " " .. said .. " " .. by)
run.ask("short?")`, j)
	if !ok || err != nil {
		t.Fatal(detail, err)
	}
	want := []plans.Question{
		{Within: 2 * time.Hour, WaitStep: plans.WaitStep{Ask: "is it 1?", Role: "approver", OnTimeout: "continue", Unattended: "go"}},
		{Within: plans.DefaultWithin, WaitStep: plans.WaitStep{Ask: "short?"}},
	}
	if !slices.Equal(j.asked, want) || !slices.Equal(j.notes, []string{"true checked bob"}) {
		t.Errorf("asked %+v, notes %q", j.asked, j.notes)
	}
}

// TestAskEndsTheFunction: no pcall goes on without the answer.
func TestAskEndsTheFunction(t *testing.T) {
	t.Parallel()
	waits := errors.New("waits")
	j := &journal{askErr: waits}
	_, _, err := runAction(t, loader(), `
while true do pcall(run.ask, "well?") pcall(function() run:note("after") end) break end
run:note("end")`, j)
	if !errors.Is(err, waits) || len(j.asked) != 1 || len(j.notes) > 0 {
		t.Errorf("err %v, asked %d times, notes %q", err, len(j.asked), j.notes)
	}
}
