// Package http is the Lua module drrun.http: requests from the controller. A
// GET or HEAD may be done again; any other method carries an Idempotency-Key
// that is the same on every attempt, so that the server can know a repetition.
package http

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	lua "github.com/yuin/gopher-lua"

	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts/hostcall"
	"github.com/drrun/drrun/scripts/sandbox"
)

// Open returns the functions of the module.
func Open(e *hostcall.Env) map[string]lua.LGFunction {
	return map[string]lua.LGFunction{
		"get":  func(L *lua.LState) int { return do(e, L, http.MethodGet) },
		"post": func(L *lua.LState) int { return do(e, L, http.MethodPost) },
		"request": func(L *lua.LState) int {
			o := L.CheckTable(1)
			hostcall.Options(L, "http.request", o)
			method, _ := o.RawGetString("method").(lua.LString)
			target, _ := o.RawGetString("url").(lua.LString)
			if method == "" || target == "" {
				L.RaiseError("http.request: method and url are needed")
			}
			return send(e, L, strings.ToUpper(string(method)), string(target), o)
		},
	}
}

func do(e *hostcall.Env, L *lua.LState, method string) int {
	o := L.OptTable(2, L.NewTable())
	hostcall.Options(L, "http."+strings.ToLower(method), o)
	return send(e, L, method, L.CheckString(1), o)
}

// request is one request as the script gave it; values may be secrets.
type request struct {
	method, url string
	headers     map[string]lua.LValue
	body        lua.LValue
	json        lua.LValue
	within      time.Duration
}

type response struct {
	Status  int               `json:"status"`
	Body    string            `json:"body"`
	Headers map[string]string `json:"headers"`
	// Note says where an answer that nobody real gave is from, for the message
	// that refuses it.
	Note string `json:"note,omitempty"`
}

// KeyUse implements plans.KeyUser. A server that keeps answers by key would
// give a refusal again and again, so the next try after one is a request of its
// own. That a request is still being done (409, 408) or that something broke on
// the way or while it was done (5xx) says nothing of what was done: there a new
// key could do it twice.
func (r response) KeyUse() plans.KeyUse {
	switch {
	case r.Status >= 500, r.Status == http.StatusRequestTimeout, r.Status == http.StatusConflict:
		return plans.KeyOpen
	case r.Status >= 400:
		return plans.KeySpent
	}
	return plans.KeyDone
}

func send(e *hostcall.Env, L *lua.LState, method, target string, o *lua.LTable) int {
	r := request{method: method, url: resolve(e, L, target), headers: headers(L, o.RawGetString("headers")),
		body: o.RawGetString("body"), json: o.RawGetString("json"),
		within: hostcall.Within(L, o.RawGetString("within"), hostcall.DefaultWithin)}
	expect, wanted := expected(L, o.RawGetString("expect"))
	if r.body != lua.LNil && !hostcall.IsText(r.body) {
		L.RaiseError("http: body is a %s, want a string (json = for tables)", r.body.Type())
	}
	if r.body != lua.LNil && r.json != lua.LNil {
		L.RaiseError("http: only one of body and json can be said")
	}
	class := plans.OpIdempotent
	if method == http.MethodGet || method == http.MethodHead {
		class = plans.OpRead
	}
	shown, err := r.shown()
	if err != nil {
		L.RaiseError("http: %v", err)
	}
	var got response
	e.Op(L, "http."+strings.ToLower(method), class, shown, &got, func(ctx context.Context, key string) (any, error) {
		return r.send(ctx, e, key, class)
	})
	if !expect(got.Status) {
		note := ""
		if got.Note != "" {
			note = "; " + got.Note
		}
		e.Box.Raise(L, "http: %s %s answered %d%s%s", method, shown["url"], got.Status, wanted, note)
	}
	e.Box.Made(L, len(got.Body))
	answered := map[string]any{}
	for k, v := range got.Headers {
		answered[k] = v
	}
	L.Push(e.Answer(L, "http."+strings.ToLower(method), map[string]lua.LValue{
		"status": lua.LNumber(got.Status), "body": lua.LString(got.Body), "headers": hostcall.ToLua(L, answered),
	}))
	return 1
}

// headers reads a table from names to texts.
func headers(L *lua.LState, v lua.LValue) map[string]lua.LValue {
	out := map[string]lua.LValue{}
	if v == lua.LNil {
		return out
	}
	t, ok := v.(*lua.LTable)
	if !ok {
		L.RaiseError("http: headers is a %s, want a table from names to texts", v.Type())
	}
	sandbox.ForEach(t, func(k, v lua.LValue) {
		name, isName := k.(lua.LString)
		if !isName || !hostcall.IsText(v) {
			L.RaiseError("http: header %s is a %s, want a name with a text", k, v.Type())
		}
		out[string(name)] = v
	})
	return out
}

// resolve checks the URL; a host that is a machine's name becomes its address.
func resolve(e *hostcall.Env, L *lua.LState, target string) string {
	u, err := url.Parse(target)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		L.RaiseError("http: %q is no URL of a web server", target)
	}
	if m, ok := e.Info.Machines[u.Hostname()]; ok && m.IP != "" {
		port := u.Port()
		if port == "" {
			port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
		}
		u.Host = e.Address(u.Hostname() + ":" + port)
	}
	return u.String()
}

// shown is the request for the journal, without secrets.
func (r *request) shown() (map[string]any, error) {
	headers := make(map[string]string)
	for k, v := range r.headers {
		headers[k] = hostcall.Shown(v)
	}
	u, err := url.Parse(r.url)
	if err != nil {
		return nil, err
	}
	m := map[string]any{"method": r.method, "url": u.Redacted(), "headers": headers}
	if r.body != lua.LNil {
		m["body"] = hostcall.Shown(r.body)
	}
	if r.json != lua.LNil {
		v, err := hostcall.FromLua(r.json, func(v lua.LValue) (string, error) { return hostcall.Shown(v), nil })
		if err != nil {
			return nil, err
		}
		m["json"] = v
	}
	return m, nil
}

func (r *request) send(ctx context.Context, e *hostcall.Env, key string, class plans.OpClass) (any, error) {
	limited, cancel := context.WithTimeout(ctx, r.within)
	defer cancel()
	body, err := r.open(ctx, e)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(limited, r.method, r.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if r.json != lua.LNil {
		req.Header.Set("Content-Type", "application/json")
	}
	if class == plans.OpIdempotent {
		req.Header.Set("Idempotency-Key", key)
	}
	for k, v := range r.headers {
		text, err := e.Open(ctx, v)
		if err != nil {
			return nil, err
		}
		if strings.EqualFold(k, "Host") {
			req.Host = text // net/http takes it from nowhere else
			continue
		}
		req.Header.Set(k, text)
	}
	resp, err := e.HTTP.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end or limit
	text, err := io.ReadAll(io.LimitReader(resp.Body, hostcall.MaxBody+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the answer: %w", err)
	}
	if len(text) > hostcall.MaxBody {
		return nil, fmt.Errorf("the answer is longer than %d bytes", hostcall.MaxBody)
	}
	out := response{Status: resp.StatusCode, Body: string(text), Headers: map[string]string{}}
	for k := range resp.Header {
		out.Headers[strings.ToLower(k)] = resp.Header.Get(k)
	}
	return out, nil
}

func (r *request) open(ctx context.Context, e *hostcall.Env) ([]byte, error) {
	switch {
	case r.json != lua.LNil:
		v, err := hostcall.FromLua(r.json, func(v lua.LValue) (string, error) { return e.Open(ctx, v) })
		if err != nil {
			return nil, err
		}
		return json.Marshal(v)
	case r.body != lua.LNil:
		s, err := e.Open(ctx, r.body)
		return []byte(s), err
	}
	return nil, nil
}

// expected reads which statuses are good: a failure must not pass as success
// because nobody looked. wanted says it in a message: ", want 201".
func expected(L *lua.LState, v lua.LValue) (good func(status int) bool, wanted string) {
	switch want := v.(type) {
	case *lua.LNilType:
		return func(status int) bool { return status >= 200 && status < 400 }, ""
	case lua.LNumber:
		return func(status int) bool { return status == int(want) }, fmt.Sprintf(", want %d", int(want))
	case lua.LString:
		if want == "any" {
			return func(int) bool { return true }, ""
		}
	case *lua.LTable:
		var list []int
		for i := 1; i <= want.Len(); i++ {
			n, ok := want.RawGetInt(i).(lua.LNumber)
			if !ok {
				L.RaiseError("http: expect is a list of statuses, item %d is a %s", i, want.RawGetInt(i).Type())
			}
			list = append(list, int(n))
		}
		words := make([]string, len(list))
		for i, n := range list {
			words[i] = strconv.Itoa(n)
		}
		return func(status int) bool { return slices.Contains(list, status) }, ", want one of " + strings.Join(words, ", ")
	}
	L.RaiseError(`http: expect is a status, a list of them or "any"`)
	return nil, ""
}

// Client is the HTTP client of functions that were given none. It follows a
// redirection only to the same host and never out of TLS: headers and bodies
// hold secrets that are meant for one host.
func Client() *http.Client {
	return &http.Client{CheckRedirect: func(req *http.Request, via []*http.Request) error {
		first := via[0].URL
		switch {
		case len(via) >= 10:
			return errors.New("it redirects more than 10 times")
		case req.URL.Hostname() != first.Hostname() || first.Scheme == "https" && req.URL.Scheme != "https":
			return fmt.Errorf("it redirects to %s: ask there if that is what you mean", req.URL.Redacted())
		}
		return nil
	}}
}
