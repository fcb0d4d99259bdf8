package runtime_test

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/runtime/journal"
	"github.com/drrun/drrun/runtime/state"
)

// What may have happened when a process died before it could record a result;
// beside the verbs of the agents.
const (
	gapController = "program on the controller"
	gapHost       = "program on a host"
	gapOperation  = "operation " // and its name
)

// gaps are the deaths between an effect and its result, by what had taken effect.
type gaps struct {
	mu   sync.Mutex
	seen map[string]int
}

// add notes what the record that was not written would have been the result of,
// if the world shows that it has happened.
func (g *gaps) add(t *testing.T, w *world, key string, raw []byte) {
	t.Helper()
	stored, err := journal.Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	var rec state.Record
	if err := json.Unmarshal(stored.Body, &rec); err != nil {
		t.Fatal(err)
	}
	run, _, _ := strings.Cut(strings.TrimPrefix(key, "run/"), "/j/")
	g.mu.Lock()
	defer g.mu.Unlock()
	switch state.Kind(stored.Kind) {
	case state.Done:
		for _, verb := range w.done(run + "/" + rec.Step) {
			g.seen[verb]++
			if verb == command.Exec.Name && !strings.Contains(rec.Step, "point DNS") {
				g.seen[gapHost]++
			}
		}
		if rec.Step == command.Claim.Name && w.claimed() {
			g.seen[command.Claim.Name]++
		}
		if rec.Step == "failover/before:tell the desk" && slices.Contains(w.effects(), "controller notify desk") {
			g.seen[gapController]++
		}
	case state.OpDone:
		effect := map[string]string{"dns.update": "dns.update", "exec": "exec systemctl reload", "http.post": "http.post ticket"}[rec.Op.Name]
		if effect != "" && strings.Contains(strings.Join(w.effects(), "\n"), effect) {
			g.seen[gapOperation+rec.Op.Name]++
		}
	}
}

// done returns the verbs that have taken effect under a step's operation ids.
func (w *world) done(step string) (verbs []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for effect := range w.ops {
		what := strings.SplitN(effect, " ", 4) // host, verb, machine, operation
		if len(what) < 4 {
			continue
		}
		if op, is := strings.CutPrefix(what[3], step); is && (op == "" || op[0] == '/') {
			verbs = append(verbs, what[1])
		}
	}
	return verbs
}

// claimed reports whether every machine has seen another fencing number than the
// one it began with.
func (w *world) claimed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range w.hosts {
		for _, m := range h.machines {
			if m.fence <= 3 {
				return false
			}
		}
	}
	return true
}

// want fails the test unless a process died in each of the gaps.
func (g *gaps) want(t *testing.T, names ...string) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, name := range names {
		if g.seen[name] == 0 {
			t.Errorf("no process died between the effect and the result of: %s (%v)", name, g.seen)
		}
	}
	t.Logf("deaths between effect and result: %v", g.seen)
}

// once fails the test if an effect is there twice: in a run of one direction,
// where each has words of its own.
func once(t *testing.T, effects []string) {
	t.Helper()
	sorted := slices.Sorted(slices.Values(effects))
	for i := 1; i < len(sorted); i++ {
		if sorted[i] == sorted[i-1] {
			t.Errorf("twice: %s", sorted[i])
		}
	}
}
