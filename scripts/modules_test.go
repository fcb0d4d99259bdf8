package scripts_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/scripts"
)

// pure runs a body that touches nothing and returns what it noted.
func pure(t *testing.T, body string) (notes []string, failed string) {
	t.Helper()
	j := &journal{}
	ok, detail, err := runAction(t, loader(), body, j)
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	if !ok && detail == "" {
		t.Fatalf("%s: not done, without a word", body)
	}
	return j.notes, detail
}

func TestRegularExpressions(t *testing.T) {
	t.Parallel()
	const re = `local re = require "drrun.re" `
	for body, want := range map[string]string{
		`local m = re.match([[v(?P<major>\d+)\.(\d+)(-rc)?]], "app v12.7 ok") run:note(m[0] .. "|" .. m[1] .. "|" .. m.major .. "|" .. m[2] .. "|" .. tostring(m[3]))`: "v12.7|12|12|7|nil",
		`run:note(tostring(re.match("x+", "abc")))`:                                                             "nil",
		`local a, b = re.find("b+", "abbbc") run:note(a .. "-" .. b)`:                                           "2-4",
		`run:note(re.replace([[(\w+)=(\w+)]], "a=1, b=2", "$2=${1}$$"))`:                                        "1=a$, 2=b$",
		`run:note(table.concat(re.split([[\s*,\s*]], "a , b,c"), "/"))`:                                         "a/b/c",
		`run:note(re.match("^" .. re.escape("1+1=2?") .. "$", "1+1=2?")[0])`:                                    "1+1=2?",
		`local ok, why = pcall(re.match, "(", "x") run:note(why)`:                                               "re.match: error parsing regexp: missing closing )",
		`local ok, why = pcall(re.match, "(a{500}){500}", "x") run:note(why)`:                                   "re.match: error parsing regexp",
		`local ok, why = pcall(re.find, "(x+x+)+y", ("x"):rep(200000)) run:note(tostring(ok) .. tostring(why))`: "truenil",
		`local ok, why = pcall(re.match, ("(a|b|c)"):rep(500), ("a"):rep(1000000)) run:note(why)`:               "the pattern is too large for a text of 1000000 bytes",
		`local ok, why = pcall(re.split, "", ("a"):rep(200000)) run:note(why)`:                                  "re.split: more than 100000 pieces",
		`local ok, why = pcall(re.replace, "a", ("a"):rep(200000), "b") run:note(why)`:                          "re.replace: more than 100000 matches",
	} {
		notes, failed := pure(t, re+body)
		if len(notes) != 1 || !strings.Contains(notes[0], want) || failed != "" {
			t.Errorf("%s\n got %q %s\nwant %q", body, notes, failed, want)
		}
	}
}

// TestReplacementThatGrows: what a replacement makes is counted as it grows.
func TestReplacementThatGrows(t *testing.T) {
	t.Parallel()
	_, failed := pure(t, `require("drrun.re").replace("a+", ("a"):rep(500000), ("$0"):rep(1000))`)
	if !strings.Contains(failed, "a string of more than") && !strings.Contains(failed, "too much memory") {
		t.Errorf("it ended with %q", failed)
	}
}

func TestTemplates(t *testing.T) {
	t.Parallel()
	const head = `local template = require "drrun.template" `
	for body, want := range map[string]string{
		`run:note(template.render("host={{ip}} port={{ db.port }};{{on}}", { ip = "10.0.0.1", db = { port = 5432 }, on = true }))`: "host=10.0.0.1 port=5432;true",
		`run:note(template.render("no places", {}))`:                                                           "no places",
		`run:note(template.render("", {}))`:                                                                    "",
		`run:note(tostring(template.render("user:{{pw}}@{{h}}:{{pw}}", { pw = key, h = "x" })))`:               "user:***@x:***",
		`run:note(tostring(template.render("{{pw}}", { pw = key })))`:                                          "***",
		`local ok, why = pcall(template.render, "a\n{{prot}}", { port = 1 }) run:note(why)`:                    `line 2: {{prot}}: there is no value "prot", did you mean "port"?`,
		`local ok, why = pcall(template.render, "{{a.b.c}}", { a = { b = 1 } }) run:note(why)`:                 `there is nothing called "c" in a number`,
		`local ok, why = pcall(template.render, "{{a}}", { a = {} }) run:note(why)`:                            "a table has no text",
		`local ok, why = pcall(template.render, "{{}}", {}) run:note(why)`:                                     "it names nothing",
		`local ok, why = pcall(template.render, "x {{a", {}) run:note(why)`:                                    `line 1: "{{" is not closed`,
		`local ok, why = pcall(template.render, ("{{pw}}"):rep(100), { pw = key }) run:note(why)`:              "too many secrets",
		`local ok, why = pcall(template.render, ("{{a}}"):rep(1000), { a = ("x"):rep(100000) }) run:note(why)`: "a string of more than",
	} {
		notes, failed := pure(t, head+body)
		if len(notes) != 1 || !strings.Contains(notes[0], want) || failed != "" {
			t.Errorf("%s\n got %q %s\nwant %q", body, notes, failed, want)
		}
	}
}

// knot starts a real name server with one zone that takes updates with a key,
// and returns where it listens.
func knot(t *testing.T, secret string) string {
	t.Helper()
	program := serverProgram(t, "knotd", "apt-get install knot")
	dir := t.TempDir()
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.LocalAddr().(*net.UDPAddr) //nolint:errcheck,forcetypeassert // it is
	_ = l.Close()                        // knot takes it
	conf := fmt.Sprintf(`
server:
    listen: 127.0.0.1@%d
    rundir: %[2]s
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
database:
    storage: %[2]s
log:
  - target: stderr
    any: info
key:
  - id: drrun.
    algorithm: hmac-sha256
    secret: %[3]s
acl:
  - id: up
    key: drrun.
    action: update
zone:
  - domain: example.com
    storage: %[2]s
    file: zone
    acl: up
`, addr.Port, dir, secret)
	zone := "@ 60 SOA ns.example.com. root.example.com. 1 3600 600 86400 60\n@ 60 NS ns.example.com.\nns 60 A 127.0.0.1\nerp 60 A 10.10.0.11\nerp 60 A 10.10.0.12\nerp 60 TXT \"paris\"\n"
	for name, text := range map[string]string{"knot.conf": conf, "zone": zone} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(program, "-c", filepath.Join(dir, "knot.conf"))
	out, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // because it was killed
		_ = out.Close()
		if log, err := os.ReadFile(out.Name()); err == nil && t.Failed() {
			t.Logf("knotd:\n%s", log)
		}
	})
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for giveUp := time.Now().Add(30 * time.Second); time.Now().Before(giveUp); <-tick.C {
		if c, err := net.Dial("tcp", addr.String()); err == nil {
			_ = c.Close()
			return addr.String()
		}
	}
	t.Fatal("knotd does not listen")
	return ""
}

// TestNames asks and updates a real name server, with a real key.
func TestNames(t *testing.T) {
	t.Parallel()
	const secret = "c2VjcmV0LW9mLXRoZS16b25lLTAxMjM0NTY3ODk="
	at := knot(t, secret)
	keys := map[string]string{"dns-key": "hmac-sha256:drrun:" + secret, "wrong": "hmac-sha256:drrun:AAAA" + secret[4:], "other": "hmac-sha256:nobody:" + secret, "bad": "hmac-md4:x:" + secret}
	l := scripts.New(scripts.Options{PlanTime: 30 * time.Second, Secrets: func(_ context.Context, name string) (string, error) { return keys[name], nil }})
	head := `local dns = require "drrun.dns"
local at = "` + at + `"
local function says(kind) return table.concat(dns.lookup("erp.example.com", { server = at, type = kind }), ",") end
`
	j := &journal{}
	ok, detail, err := runAction(t, l, head+`
run:note("before " .. says("A") .. " " .. says("TXT"))
dns.update { server = at, name = "erp.example.com.", a = "10.20.0.11", aaaa = { "2001:db8::2", "2001:db8::1" }, ttl = "30s", key = key }
run:note("after " .. says() .. " " .. says("TXT"))
dns.update { server = at, name = "erp.example.com", zone = "example.com", txt = false, key = key }
run:note("gone " .. #dns.lookup("erp.example.com", { server = at, type = "TXT" }))
dns.update { server = at, name = "new.sub.example.com", cname = "erp.example.com", key = key }
run:note("alias " .. dns.lookup("new.sub.example.com", { server = at, type = "CNAME" })[1])
run:note("nothing " .. #dns.lookup("no.example.com", { server = at }))
`, j)
	want := []string{"before 10.10.0.11,10.10.0.12 paris", "after 10.20.0.11,2001:db8::1,2001:db8::2 paris", "gone 0", "alias erp.example.com.", "nothing 0"}
	if !ok || err != nil || !slices.Equal(j.notes, want) {
		t.Fatalf("%v %q %v\n got %q\nwant %q", ok, detail, err, j.notes, want)
	}
	if all := fmt.Sprint(j.records, j.notes); strings.Contains(all, secret) {
		t.Error("the key is in the journal")
	}
	classes := map[string]string{}
	for _, r := range j.records {
		classes[r.name] = string(r.class)
	}
	if classes["dns.update"] != "idempotent" || classes["dns.lookup"] != "read" {
		t.Errorf("classes: %v", classes)
	}
	for body, want := range map[string]string{
		`dns.update { server = at, name = "erp.example.com", a = "1.2.3.4", key = secret "wrong" }`: "at", // an error, whatever its words
		`dns.update { server = at, name = "erp.example.com", a = "1.2.3.4", key = secret "other" }`: "at",
		`dns.update { server = at, name = "erp.example.com", a = "1.2.3.4", key = secret "bad" }`:   "the algorithm of the key is not one of",
		`dns.update { server = at, name = "erp.example.com", a = "1.2.3.4" }`:                       "refuses the update of erp.example.com. in zone example.com.: NOTAUTH",
		`dns.update { server = at, name = "erp.example.org", a = "1.2.3.4", key = key }`:            "knows no zone of erp.example.org.",
		`dns.lookup("erp.example.org", { server = at })`:                                            "REFUSED for erp.example.org",
		`dns.lookup("x", { server = "127.0.0.1:1", within = "1s" })`:                                "server 127.0.0.1:1",
	} {
		j := &journal{}
		ok, detail, err := runAction(t, l, head+body, j)
		if ok || err != nil || !strings.Contains(detail, want) || strings.Contains(detail, secret) {
			t.Errorf("%s: %v %q %v, want %q", body, ok, detail, err, want)
		}
	}
	j = &journal{}
	if ok, detail, err := runAction(t, l, head+`run:note(says("A"))`, j); !ok || err != nil || !slices.Equal(j.notes, []string{"10.20.0.11"}) {
		t.Errorf("what was refused was done: %v %q %v %q", ok, detail, err, j.notes)
	}
}

// TestNamesAreCheckedFirst: bad arguments are refused before anything is sent.
func TestNamesAreCheckedFirst(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`dns.lookup("a", { type = "MX" })`:                                    `type "MX" is not A, AAAA, CNAME or TXT`,
		`dns.lookup("a..b")`:                                                  `"a..b" is no name`,
		`dns.lookup("a", { typ = "A" })`:                                      `unknown key "typ", did you mean "type"?`,
		`dns.update { name = "a", a = "1.2.3.4" }`:                            "server and name are needed",
		`dns.update { server = "s", name = "a" }`:                             "a, aaaa, cname or txt",
		`dns.update { server = "s", name = "a", a = "1.2.3" }`:                `a: "1.2.3" is no address of this type`,
		`dns.update { server = "s", name = "a", a = "::1" }`:                  "no address of this type",
		`dns.update { server = "s", name = "a", aaaa = "1.2.3.4" }`:           "no address of this type",
		`dns.update { server = "s", name = "a", a = {} }`:                     "0 values: false removes the records",
		`dns.update { server = "s", name = "a", cname = { "b", "c" } }`:       "2 values",
		`dns.update { server = "s", name = "a", a = 5 }`:                      "want a string, a list of them, or false, got a number",
		`dns.update { server = "s", name = "a", a = { 5 } }`:                  "a list of strings has a number",
		`dns.update { server = "s", name = "a", a = "1.2.3.4", ttl = "30d" }`: "a ttl is from 1s to 7d",
		`dns.update { server = "s", name = "a", a = "1.2.3.4", key = {} }`:    "key is a table",
		`dns.update { server = {}, name = "a", a = "1.2.3.4" }`:               "server is a table, want a string",
		`dns.update { server = "s", name = "a", txt = ("x"):rep(2000) }`:      "the limit is 1024",
		`dns.update { server = "s", name = "a", cname = "" }`:                 `"" is no name`,
	} {
		j := &journal{}
		ok, detail, err := runAction(t, loader(), `local name = "drrun.dns" local dns = require(name) `+body, j)
		if ok || err != nil || !strings.Contains(detail, want) || len(j.records) > 0 {
			t.Errorf("%s: %v %q %v, want %q; %d operations", body, ok, detail, err, want, len(j.records))
		}
	}
}
