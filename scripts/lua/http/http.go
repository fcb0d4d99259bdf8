// Package http is the Lua module drrun.http: requests from the controller. A
// GET or HEAD may be done again; any other method carries an Idempotency-Key
// that is the same on every attempt, so that the server can know a repetition.
package http

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
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
	return send(e, L, method, L.CheckString(1), L.OptTable(2, L.NewTable()))
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
}

var keys = []string{"method", "url", "headers", "body", "json", "within", "expect"}

func send(e *hostcall.Env, L *lua.LState, method, target string, o *lua.LTable) int {
	hostcall.Keys(L, "http."+strings.ToLower(method), o, keys)
	r := request{method: method, url: resolve(e, L, target), headers: map[string]lua.LValue{},
		body: o.RawGetString("body"), json: o.RawGetString("json"),
		within: hostcall.Within(L, o.RawGetString("within"), hostcall.DefaultWithin)}
	if h, ok := o.RawGetString("headers").(*lua.LTable); ok {
		sandbox.ForEach(h, func(k, v lua.LValue) { r.headers[k.String()] = v })
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
	expected(L, method, r.url, got, o.RawGetString("expect"))
	e.Box.Made(L, len(got.Body))
	headers := map[string]any{}
	for k, v := range got.Headers {
		headers[k] = v
	}
	L.Push(hostcall.ToLua(L, map[string]any{"status": got.Status, "body": got.Body, "headers": headers}))
	return 1
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
	m := map[string]any{"method": r.method, "url": r.url, "headers": headers}
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

// expected raises an error for a status that is not expected: a failure must
// not pass as success because nobody looked.
func expected(L *lua.LState, method, target string, got response, v lua.LValue) {
	ok := got.Status >= 200 && got.Status < 400
	switch want := v.(type) {
	case lua.LNumber:
		ok = got.Status == int(want)
	case lua.LString:
		if want != "any" {
			L.RaiseError(`http: expect is a status, a list of them or "any"`)
		}
		ok = true
	case *lua.LTable:
		var list []int
		sandbox.ForEach(want, func(_, s lua.LValue) {
			if n, isNumber := s.(lua.LNumber); isNumber {
				list = append(list, int(n))
			}
		})
		ok = slices.Contains(list, got.Status)
	}
	if !ok {
		L.RaiseError("http: %s %s answered %d", method, target, got.Status)
	}
}
