package runtime

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"testing"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/runtime/state"
)

// TestBodyIsTheJSONOfTheRecord: what is written without reflection is what
// encoding/json writes.
func TestBodyIsTheJSONOfTheRecord(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 3))
	text := func() string {
		if r.IntN(3) == 0 {
			return ""
		}
		alphabet := []rune("ab/:# \"\\<>&\u007f\u0001\n\u2028é→\ufffd")
		var b []rune
		for range r.IntN(8) {
			b = append(b, alphabet[r.IntN(len(alphabet))])
		}
		return string(b) + []string{"", "", "\xff"}[r.IntN(3)]
	}
	for range 4000 {
		rec := state.Record{Kind: state.Done, Step: text(), Attempt: r.IntN(4) - 1, Text: text()}
		switch r.IntN(8) {
		case 0:
			rec.Data = encode(map[string]any{"a<b": []any{1.5, text(), nil}})
		case 1:
			rec.Error = fault.Errorf(fault.Failed, "%s", text())
		case 2:
			rec.Word = text()
		case 3:
			rec.Unclear, rec.By = true, text()
		}
		got, err := bodyOf(&rec)
		want, werr := json.Marshal(rec)
		if err != nil || werr != nil || !bytes.Equal(got, want) {
			t.Fatalf("%+v is written as %s (%v), want %s (%v)", rec, got, err, want, werr)
		}
	}
}
