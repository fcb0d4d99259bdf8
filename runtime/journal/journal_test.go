package journal_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/runtime/journal"
	"github.com/drrun/drrun/runtime/store"
)

var update = flag.Bool("update", false, "write the golden files anew (never for an old version)")

var at = time.Date(2026, 3, 1, 12, 0, 0, 123, time.UTC)

func TestAppendAndLoad(t *testing.T) {
	t.Parallel()
	s := store.NewMemory()
	j := journal.New(s, "r1", 1)
	for i := range 12 {
		r, ok, err := j.Append(t.Context(), journal.Record{Time: at, Kind: "noted", Body: []byte(`{"n":1}`)}, nil)
		if err != nil || !ok || r.Seq != uint64(i+1) { //nolint:gosec // small
			t.Fatalf("append: %+v %v %v", r, ok, err)
		}
	}
	again, records, err := journal.Load(t.Context(), s, "r1")
	if err != nil || len(records) != 12 || again.Next() != 13 || records[11].Seq != 12 || !records[0].Time.Equal(at) {
		t.Fatalf("load: %d records, next %d, %v", len(records), again.Next(), err)
	}
	if _, other, err := journal.Load(t.Context(), s, "r"); err != nil || len(other) != 0 {
		t.Fatalf("another run has %d records (%v)", len(other), err)
	}
}

func TestTwoWritersCannotBothAppend(t *testing.T) {
	t.Parallel()
	s := store.NewMemory()
	a, b := journal.New(s, "r1", 1), journal.New(s, "r1", 1)
	rec := journal.Record{Time: at, Kind: "noted"}
	if _, ok, err := a.Append(t.Context(), rec, []store.Op{{Key: "x", Value: []byte("a")}}); err != nil || !ok {
		t.Fatalf("first: %v %v", ok, err)
	}
	if _, ok, err := b.Append(t.Context(), rec, []store.Op{{Key: "x", Value: []byte("b")}}); err != nil || ok {
		t.Fatalf("second: %v %v, want not ok", ok, err)
	}
	if kv, err := s.Get(t.Context(), "x"); err != nil || string(kv.Value) != "a" {
		t.Fatalf("x is %q (%v): the refused record changed it", kv.Value, err)
	}
	if _, ok, err := a.Append(t.Context(), rec, nil, store.Cmp{Key: "x", ModRev: 99}); err != nil || ok || a.Next() != 2 {
		t.Fatalf("comparison that does not hold: %v %v, next %d", ok, err, a.Next())
	}
}

func TestGapIsCorrupt(t *testing.T) {
	t.Parallel()
	s := store.NewMemory()
	j := journal.New(s, "r1", 1)
	for range 3 {
		if _, _, err := j.Append(t.Context(), journal.Record{Time: at, Kind: "noted"}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Delete(t.Context(), s, journal.Key("r1", 2)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := journal.Load(t.Context(), s, "r1"); !fault.Is(err, fault.Corrupt) || !strings.Contains(err.Error(), "record 2") {
		t.Fatalf("load: %v, want corrupt naming record 2", err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		raw  string
		kind fault.Kind
		want string
	}{
		"newer version": {`{"version":2,"new":[]}`, fault.Refused, "version 2"},
		"must":          {`{"version":1,"must":["signed"],"seq":1,"time":"2026-03-01T12:00:00Z","kind":"noted"}`, fault.Refused, "signed"},
		"no number":     {`{"version":1,"time":"2026-03-01T12:00:00Z","kind":"noted"}`, fault.Corrupt, "number"},
		"no json":       {`drrun`, fault.Corrupt, "cannot read"},
		"wrong type":    {`{"version":1,"seq":"x"}`, fault.Corrupt, "cannot read"},
	} {
		_, err := journal.Decode([]byte(c.raw))
		if !fault.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %v with %q", name, err, c.kind, c.want)
		}
		if c.kind == fault.Refused && !strings.Contains(fault.Hint(err), "resume the run with the drrun") {
			t.Errorf("%s: hint %q", name, fault.Hint(err))
		}
	}
	if _, err := journal.Decode([]byte(`{"version":1,"may":["timing"],"seq":1,"time":"2026-03-01T12:00:00Z","kind":"noted"}`)); err != nil {
		t.Errorf("a word of may: %v", err)
	}
}

// TestBodyIsWrittenAsItIs: a record is the JSON of its fields, its body that of the
// caller; what is no JSON is not written.
func TestBodyIsWrittenAsItIs(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"", `{}`, `{"step":"group:a/m \"1\"","list":[1,null]}`, `"text"`} {
		rec := journal.Record{Version: journal.Version, Seq: 7, Time: at.UTC(), Kind: "started", Drrun: "v1 <dev>", May: []string{"x"}, Body: []byte(body)}
		raw, err := journal.Encode(rec)
		want, werr := json.Marshal(rec)
		if err != nil || werr != nil || !bytes.Equal(raw, want) {
			t.Errorf("%q is written as %s (%v), want %s (%v)", body, raw, err, want, werr)
		}
	}
	if _, err := journal.Encode(journal.Record{Seq: 1, Time: at, Kind: "started", Body: []byte(`{"a":`)}); !fault.Is(err, fault.Internal) {
		t.Errorf("half a body: %v", err)
	}
}

// TestLargeBody: a large body is packed, and is read as it was written; a frame that
// is damaged, or unpacks to too much, is refused.
func TestLargeBody(t *testing.T) { // not beside others, who have the limit as it is
	const most = 4 << 20
	journal.MaxBody(t, most)
	body := []byte(`{"steps":["` + strings.Repeat("start m of group a on lyo-1 ", 40_000) + `"]}`)
	rec := journal.Record{Seq: 1, Time: at, Kind: "created", Body: body}
	raw, err := journal.Encode(rec)
	if err != nil || len(raw) > len(body)/10 || !bytes.Contains(raw, []byte(`"must":["packed"]`)) {
		t.Fatalf("%d bytes became %d, %v", len(body), len(raw), err)
	}
	back, err := journal.Decode(raw)
	if err != nil || !bytes.Equal(back.Body, body) || len(back.Must) > 0 {
		t.Fatalf("read back: %d bytes, must %q, %v", len(back.Body), back.Must, err)
	}
	again, err := journal.Encode(back)
	if err != nil || !bytes.Equal(again, raw) {
		t.Errorf("written again it differs: %v", err)
	}
	var many bytes.Buffer
	w := gzip.NewWriter(&many)
	if _, err := w.Write(make([]byte, most+1)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	bomb, err := json.Marshal(many.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string]string{"no string": `7`, "no base64": `"?"`, "no frame": `"aGVsbG8="`, "a bomb": string(bomb), "a word too many": `"" , "x": 1`} {
		raw := []byte(`{"version":1,"must":["packed"],"seq":1,"time":"2026-03-01T12:00:00Z","kind":"created","body":` + body + `}`)
		if _, err := journal.Decode(raw); !fault.Is(err, fault.Corrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := journal.Decode([]byte(`{"version":1,"must":["packed","signed"],"seq":1,"time":"2026-03-01T12:00:00Z","kind":"x"}`)); !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), "needs signed,") {
		t.Errorf("another word beside it: %v", err)
	}
	rec.Body = make([]byte, most+1)
	if _, err := journal.Encode(rec); !fault.Is(err, fault.Invalid) {
		t.Errorf("too much: %v", err)
	}
}

// TestGoldenV1 holds the stored form of version 1. It stays readable forever.
func TestGoldenV1(t *testing.T) {
	t.Parallel()
	file := filepath.Join("testdata", "record-v1.json")
	rec := journal.Record{Seq: 7, Time: at, Kind: "done", Body: json.RawMessage(`{"step":"shutdown/db1/stop","attempt":1,"data":{"power":"stopped"}}`)}
	raw, err := journal.Encode(rec)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(file, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(raw, want) {
		t.Errorf("encoded %s (%v), want %s", raw, err, want)
	}
	got, err := journal.Decode(want)
	if err != nil || got.Seq != 7 || got.Kind != "done" || !got.Time.Equal(at) || !bytes.Equal(got.Body, rec.Body) {
		t.Errorf("decoded %+v, %v", got, err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"version":1,"seq":1,"time":"2026-03-01T12:00:00Z","kind":"noted","body":{"text":"x"}}`))
	f.Add([]byte(`{"version":1,"must":["a"]}`))
	f.Add([]byte(`{"version":99}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := journal.Decode(raw)
		if err != nil {
			if k := fault.KindOf(err); k != fault.Corrupt && k != fault.Refused {
				t.Fatalf("kind %v: %v", k, err)
			}
			return
		}
		enc, err := journal.Encode(r)
		if err != nil {
			return // a time that JSON cannot hold
		}
		back, err := journal.Decode(enc)
		if err != nil || back.Seq != r.Seq || back.Kind != r.Kind || !back.Time.Equal(r.Time) {
			t.Fatalf("%+v became %+v (%v)", r, back, err)
		}
	})
}
