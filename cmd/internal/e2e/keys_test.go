package e2e_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/lab"
)

const postingPlan = `
local http = require "drrun.http"
return plan "kill" {
  from = "paris", to = "lyon",
  group "databases" {
    machine "db1",
    after = action "open a ticket" { only = "any",
      function(run) http.post("DESK/tickets", { json = { site = run.to } }) end,
    },
  },
}`

// TestRequestIsDoneOnce: a real server that knows idempotency keys. Its answer is
// lost twice: the first time drrun is killed while it waits for it, the second
// time the connection is. The ticket is opened once.
func TestRequestIsDoneOnce(t *testing.T) {
	t.Parallel()
	ctx := within(t, 10*time.Minute)
	s := newSite(t, lab.Options{Every: "500ms", Small: true}, false)
	var mu sync.Mutex
	var keys []string
	tickets, first, killed := map[string]bool{}, make(chan struct{}), make(chan struct{})
	desk := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		keys = append(keys, r.Header.Get("Idempotency-Key"))
		n := len(keys)
		tickets[keys[n-1]] = true
		mu.Unlock()
		switch {
		case n == 1:
			close(first)
			<-killed
			panic(http.ErrAbortHandler)
		case n < 4: // the client of Go sends a request that has a key a second time by itself
			panic(http.ErrAbortHandler)
		}
	}))
	defer desk.Close()
	s.protect(ctx, strings.ReplaceAll(postingPlan, "DESK", desk.URL))

	run := s.follow(ctx, "kill", "--test", "--yes")
	<-first
	run.kill(t)
	close(killed)
	s.urge(ctx, "uncommitted", []string{"resume", s.newestRun(ctx).ID})
	s.urge(ctx, "done", []string{"cleanup", s.newestRun(ctx).ID})
	mu.Lock()
	defer mu.Unlock()
	if len(tickets) != 1 || len(keys) < 3 || keys[0] == "" {
		t.Errorf("%d tickets by %d requests: %q", len(tickets), len(keys), slices.Compact(keys))
	}
	t.Logf("%d requests under %q", len(keys), keys[0])
}
