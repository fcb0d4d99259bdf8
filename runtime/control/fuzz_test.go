package control

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/drrun/drrun/internal/fault"
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
