package control

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/runtime/estate"
	"github.com/drrun/drrun/runtime/store"
)

// What a runtime answers is data from outside: whatever it is, the client
// returns a value or an error with a kind.
func FuzzDecodeEvent(f *testing.F) {
	f.Add([]byte(`{"run":"r1","seq":3,"kind":"step","step":{"number":1,"id":"claim"}}`))
	f.Add([]byte(`{"error":{"kind":9,"message":"damaged"}}`))
	f.Add([]byte(`{"seq":-1}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if _, err := decodeEvent(line); err != nil && fault.KindOf(err).String() == "" {
			t.Fatalf("an error without a kind: %v", err)
		}
	})
}

// What a command line sends is data from outside too: whatever it is, the
// answer is one JSON object.
func FuzzRequest(f *testing.F) {
	verbs := []string{"start", "explain", "reverse", "apply", "status", "points", "answer", "verify", "resume", "run", "nosuch"}
	for n := range verbs {
		f.Add(uint8(n), []byte(`{"run":"r1","by":"ann"}`)) //nolint:gosec // small
	}
	f.Add(uint8(0), []byte(`{"type":"test"} {}`))
	f.Add(uint8(3), []byte(`{"bundles":[{"main":"a.lua","files":{"a.lua":"return plan"}}]}`))
	h := quietServer()
	f.Fuzz(func(t *testing.T, n uint8, body []byte) {
		if answer := post(h, verbs[int(n)%len(verbs)], bytes.NewReader(body), int64(len(body))); !json.Valid(answer.Body.Bytes()) {
			t.Fatalf("%d %s", answer.Code, answer.Body)
		}
	})
}

// quietServer has no engine: what gets past the decoder ends in a panic, which
// the server answers as an internal error.
func quietServer() http.Handler {
	log := slog.New(slog.DiscardHandler)
	cat := estate.New(estate.Options{Store: store.NewMemory(), Clock: clock.Real{}, Log: log})
	return NewServer(noEngine{}, cat, Info{Version: "1"}, log).handler
}

type noEngine struct{ Engine }

func post(h http.Handler, verb string, body io.Reader, size int64) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/v1/"+verb, body)
	r.ContentLength = size
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestRequestsAreLimited(t *testing.T) {
	t.Parallel()
	h := quietServer()
	for name, c := range map[string]struct {
		body string
		size int64
	}{"too large": {"{}", maxRequest + 1}, "two objects": {`{} {}`, -1}, "cut": {`{"run":`, -1}, "no object": {`[1]`, 3}} {
		w := post(h, "info", strings.NewReader(c.body), c.size)
		var f failure
		if err := json.Unmarshal(w.Body.Bytes(), &f); err != nil || w.Code != http.StatusBadRequest || !fault.Is(f.Error, fault.Invalid) {
			t.Errorf("%s: %d %s (%v)", name, w.Code, w.Body, err)
		}
	}
}

func TestAnswersThatAreNotDrruns(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status int
		body   string
	}{{500, "<html>"}, {404, `{}`}, {200, `[`}} {
		resp := &http.Response{StatusCode: c.status, Body: io.NopCloser(strings.NewReader(c.body))}
		var out Info
		if err := readReply(resp, &out); !fault.Is(err, fault.Unreachable) {
			t.Errorf("%d %s: %v (%v)", c.status, c.body, err, fault.KindOf(err))
		}
	}
}
